//! PEM files → their blocks, cut where Envoy's BoringSSL cuts them.
//!
//! The only module that uses `rustls-pemfile`, which decodes the blocks. The library returns no positions and
//! accepts more than BoringSSL does (a block cut short by the next one, empty lines, missing padding), so the lines
//! are parsed here. No content of a block is ever part of an error.

mod foreign;
mod lines;
mod tidy;

use std::borrow::Cow;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use rustls_pemfile::Item;
use rustls_pki_types::PrivateKeyDer;
use zeroize::Zeroizing;

pub use self::foreign::{foreign, join, keystore, mentions_key, replace, rewrite};
use self::lines::{BEGIN, DASHES, END, Line, Lines};
pub use self::tidy::{Tidied, tidy};

/// One PEM block.
pub struct Block {
    /// The whole block, from its BEGIN line to its END line, including the line break after it if there is one.
    pub text: Zeroizing<Vec<u8>>,
    /// Its content.
    pub content: Content,
    /// The number of its BEGIN line, from 1.
    pub line: usize,
}

/// The content of a block, as far as it matters for a credential.
pub enum Content {
    /// A certificate, in DER.
    Certificate(Vec<u8>),
    /// A private key that is not encrypted.
    Key(Zeroizing<PrivateKeyDer<'static>>),
    /// An encrypted private key: PKCS#8 in DER, or `None` for OpenSSL's old form.
    EncryptedKey(Option<Vec<u8>>),
    /// A private key in a format that Envoy does not read, such as OpenSSH's.
    ForeignKey,
    /// A revocation list, in DER.
    Crl(Vec<u8>),
    /// Anything else, such as EC parameters.
    Other,
}

impl Content {
    /// Whether only Envoy may receive it: a private key of any kind.
    pub fn is_secret(&self) -> bool {
        matches!(
            self,
            Self::Key(_) | Self::EncryptedKey(_) | Self::ForeignKey
        )
    }
}

/// What is wrong with a part of a file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Flaw {
    /// Which part of it is wrong, and in what way, as a clause.
    pub what: String,
    /// What to do about it, with FILE for the file's path.
    pub remedy: Cow<'static, str>,
}

impl Flaw {
    pub(crate) fn new(what: impl Into<String>, remedy: impl Into<Cow<'static, str>>) -> Self {
        Self {
            what: what.into(),
            remedy: remedy.into(),
        }
    }
}

/// The blocks of `bytes`, each complete and decodable. One bad block makes the whole file invalid.
///
/// # Errors
/// The first block that BoringSSL would not read.
pub fn blocks(bytes: &[u8]) -> Result<Vec<Block>, Flaw> {
    let mut blocks = Vec::new();
    let mut lines = Lines::new(bytes);
    while let Some(line) = lines.next() {
        if let Some(label) = line.label() {
            blocks.push(block(bytes, line, label, &mut lines)?);
        }
    }
    Ok(blocks)
}

/// The labels of all BEGIN lines, whether their blocks are valid or not.
pub(crate) fn labels(bytes: &[u8]) -> impl Iterator<Item = &[u8]> {
    Lines::new(bytes).filter_map(|line| line.label())
}

/// Reads the rest of the block whose BEGIN line is `begin`.
fn block<'a>(
    bytes: &'a [u8],
    begin: Line<'a>,
    label: &'a [u8],
    lines: &mut Lines<'a>,
) -> Result<Block, Flaw> {
    let flaw = |(what, remedy): (&str, _)| {
        let number = begin.number;
        Flaw::new(
            format!("the PEM block that begins in line {number} {what}"),
            remedy,
        )
    };
    let (mut body, end) = Body::read(label, lines).map_err(flaw)?;
    body.untrimmed |= !begin.is_plain();
    let text = &bytes[begin.start..end.end];
    Ok(Block {
        text: Zeroizing::new(text.to_vec()),
        content: body.content(label, text).map_err(flaw)?,
        line: begin.number,
    })
}

const WRITE_WHOLE: &str =
    "write the whole file again, first under another name, and then rename it";

const END_LINE: &str =
    "repeat the BEGIN line's label in the END line, and end the line after its five dashes";

/// What was seen between the BEGIN and the END line of a block.
#[derive(Default)]
struct Body {
    /// There is text before the first empty line: BoringSSL reads it as headers.
    headers: bool,
    /// The first header is `Proc-Type: 4,ENCRYPTED`.
    encrypted: bool,
    /// The first empty line was seen.
    split: bool,
    digits: usize,
    padding: usize,
    /// It has a character that is not base64.
    stray: bool,
    /// A line ends in more than a line feed, or without one.
    untrimmed: bool,
}

impl Body {
    /// Reads up to the END line, which is returned too.
    fn read<'a>(
        label: &[u8],
        lines: &mut Lines<'a>,
    ) -> Result<(Self, Line<'a>), (&'static str, &'static str)> {
        let mut body = Self::default();
        for line in lines {
            body.untrimmed |= !line.is_plain();
            if let Some(end) = line.text.strip_prefix(END) {
                return match end.strip_suffix(DASHES) == Some(label) {
                    true => Ok((body, line)),
                    false => Err((
                        "has an END line that does not match its BEGIN line, or has other text in \
                         it",
                        END_LINE,
                    )),
                };
            }
            if line.text.starts_with(DASHES) {
                return Err((
                    "is cut short: another begins before its END line",
                    WRITE_WHOLE,
                ));
            }
            body.add(line.text);
        }
        Err(("has no END line, so the file is cut short", WRITE_WHOLE))
    }

    fn add(&mut self, line: &[u8]) {
        if line.is_empty() && !self.split {
            self.split = true;
            self.headers = self.digits > 0 || self.stray;
        }
        if line.starts_with(b"Proc-Type: 4,ENCRYPTED") {
            self.encrypted = true;
        }
        let digits = line.iter().filter(|byte| is_digit(**byte)).count();
        if digits == line.len() && self.padding == 0 {
            self.digits += digits;
            return;
        }
        for byte in line {
            match byte {
                b' ' | b'\t' | b'\r' => {}
                b'=' => self.padding += 1,
                _ if self.padding > 0 => self.stray = true,
                digit if is_digit(*digit) => self.digits += 1,
                _ => self.stray = true,
            }
        }
    }

    fn content(&self, label: &[u8], text: &[u8]) -> Result<Content, (&'static str, &'static str)> {
        let is_key = label.ends_with(b"PRIVATE KEY");
        if is_key && self.encrypted {
            return Ok(Content::EncryptedKey(None));
        }
        if self.headers {
            return Err((
                "has an empty line in it: Envoy reads what is before it as headers",
                "remove the empty line",
            ));
        }
        let whole = (self.digits + self.padding).is_multiple_of(4) && self.padding <= 2;
        if self.stray || self.digits == 0 || !whole {
            return Err(("is not valid base64", WRITE_WHOLE));
        }
        match label {
            // An old label, which BoringSSL accepts and the library does not.
            b"X509 CERTIFICATE" | b"TRUSTED CERTIFICATE" => decode(&plain(b"CERTIFICATE", text)),
            b"ENCRYPTED PRIVATE KEY" => match decoded(text) {
                Some(der) => Ok(Content::EncryptedKey(Some(der.to_vec()))),
                None => Err(("is not valid base64", WRITE_WHOLE)),
            },
            b"CERTIFICATE" | b"X509 CRL" | b"PRIVATE KEY" | b"RSA PRIVATE KEY"
            | b"EC PRIVATE KEY" => match self.untrimmed {
                true => decode(&plain(label, text)),
                false => decode(text),
            },
            _ if is_key => Ok(Content::ForeignKey),
            _ => Ok(Content::Other),
        }
    }
}

/// Whether it is a digit of base64.
fn is_digit(byte: u8) -> bool {
    matches!(byte, b'A'..=b'Z' | b'a'..=b'z' | b'0'..=b'9' | b'+' | b'/')
}

/// Decodes the block `text`, which is [`plain`].
fn decode(text: &[u8]) -> Result<Content, (&'static str, &'static str)> {
    let key = |der: PrivateKeyDer<'static>| Content::Key(Zeroizing::new(der));
    match rustls_pemfile::read_one_from_slice(text) {
        Ok(Some((item, _))) => Ok(match item {
            Item::X509Certificate(der) => Content::Certificate(der.to_vec()),
            Item::Crl(der) => Content::Crl(der.to_vec()),
            Item::Pkcs1Key(der) => key(der.into()),
            Item::Pkcs8Key(der) => key(der.into()),
            Item::Sec1Key(der) => key(der.into()),
            _ => Content::Other,
        }),
        _ => Err(("is not valid base64", WRITE_WHOLE)),
    }
}

/// What the block `text` encodes, whatever its label is.
fn decoded(text: &[u8]) -> Option<Zeroizing<Vec<u8>>> {
    match decode(&plain(b"PRIVATE KEY", text)) {
        Ok(Content::Key(der)) => Some(Zeroizing::new(der.secret_der().to_vec())),
        _ => None,
    }
}

/// The PEM block of `der` with this label.
pub(super) fn base64_text(label: &[u8], der: &[u8]) -> Zeroizing<Vec<u8>> {
    let body = Zeroizing::new(STANDARD.encode(der));
    let mut text = Zeroizing::new(Vec::with_capacity(
        body.len() * 66 / 64 + 2 * label.len() + 40,
    ));
    text.extend([BEGIN, label, DASHES, b"\n"].iter().copied().flatten());
    for line in body.as_bytes().chunks(64) {
        text.extend_from_slice(line);
        text.push(b'\n');
    }
    text.extend([END, label, DASHES, b"\n"].iter().copied().flatten());
    text
}

/// The block in a form that every parser accepts: without what BoringSSL trims from the ends of lines.
fn plain(label: &[u8], text: &[u8]) -> Zeroizing<Vec<u8>> {
    let mut plain = Zeroizing::new(Vec::with_capacity(2 * text.len() + 2 * label.len()));
    for line in Lines::new(text) {
        let edge = [BEGIN, END]
            .into_iter()
            .find(|edge| line.text.starts_with(edge));
        match edge {
            Some(edge) => plain.extend([edge, label, DASHES].iter().copied().flatten()),
            None => plain.extend_from_slice(line.text),
        }
        plain.push(b'\n');
    }
    plain
}

/// Whether the file ends within a BEGIN or END line: then it is still being written.
pub(super) fn ends_in_a_marker(bytes: &[u8]) -> bool {
    let line = bytes
        .rsplit(|byte| *byte == b'\n')
        .next()
        .unwrap_or_default();
    let is_marker = line.starts_with(b"-----BEGIN ") || line.starts_with(b"-----END ");
    line.starts_with(b"-") && !(is_marker && line.trim_ascii_end().ends_with(b"-----"))
}

#[cfg(test)]
mod tests;
