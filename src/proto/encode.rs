//! Protobuf fields, written directly into one buffer of the exact size.
//!
//! A private key passes through here: because there is no intermediate message and no growing buffer, no copy of
//! the key stays behind in freed memory.

use prost::encoding::{WireType, encode_key, encode_varint, encoded_len_varint, key_len};

/// A field: its number, and what it holds.
pub(crate) struct Field<'a>(pub(crate) u32, pub(crate) Value<'a>);

/// What a field can hold.
pub(crate) enum Value<'a> {
    /// A boolean, an enumerator or an unsigned integer.
    Number(u64),
    Bytes(&'a [u8]),
    Message(Vec<Field<'a>>),
}

impl Field<'_> {
    /// The bytes that [`Self::write`] adds.
    pub(crate) fn len(&self) -> usize {
        let content = self.1.len();
        match self.1 {
            Value::Number(_) => key_len(self.0) + content,
            _ => head_len(self.0, content) + content,
        }
    }

    /// Appends the field to `buffer`.
    pub(crate) fn write(&self, buffer: &mut Vec<u8>) {
        if let Value::Number(number) = self.1 {
            encode_key(self.0, WireType::Varint, buffer);
            return encode_varint(number, buffer);
        }
        write_head(self.0, self.1.len(), buffer);
        match &self.1 {
            Value::Number(_) => {}
            Value::Bytes(bytes) => buffer.extend_from_slice(bytes),
            Value::Message(fields) => fields.iter().for_each(|field| field.write(buffer)),
        }
    }
}

impl Value<'_> {
    fn len(&self) -> usize {
        match self {
            Self::Number(number) => encoded_len_varint(*number),
            Self::Bytes(bytes) => bytes.len(),
            Self::Message(fields) => message_len(fields),
        }
    }
}

/// The length in bytes of a message with these fields.
pub(crate) fn message_len(fields: &[Field<'_>]) -> usize {
    fields.iter().map(Field::len).sum()
}

/// Appends what comes before the content of a length-delimited field: its key and `content` bytes of length.
pub(crate) fn write_head(number: u32, content: usize, buffer: &mut Vec<u8>) {
    encode_key(number, WireType::LengthDelimited, buffer);
    encode_varint(content as u64, buffer);
}

/// The bytes that [`write_head`] adds.
pub(crate) fn head_len(number: u32, content: usize) -> usize {
    key_len(number) + encoded_len_varint(content as u64)
}
