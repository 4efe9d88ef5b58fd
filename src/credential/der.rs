//! DER, element by element, exactly as strict as BoringSSL.

use std::time::{Duration, SystemTime};

use x509_parser::asn1_rs::{FromDer, GeneralizedTime, UtcTime};

/// Tags, as RFC 5280 uses them: with the bits for "constructed" and "context".
pub(crate) mod tag {
    pub(crate) const BOOLEAN: u8 = 0x01;
    pub(crate) const INTEGER: u8 = 0x02;
    pub(crate) const BIT_STRING: u8 = 0x03;
    pub(crate) const OCTET_STRING: u8 = 0x04;
    pub(crate) const NULL: u8 = 0x05;
    pub(crate) const OID: u8 = 0x06;
    pub(crate) const ENUMERATED: u8 = 0x0a;
    pub(crate) const UTF8_STRING: u8 = 0x0c;
    pub(crate) const UTC_TIME: u8 = 0x17;
    pub(crate) const GENERALIZED_TIME: u8 = 0x18;
    pub(crate) const UNIVERSAL_STRING: u8 = 0x1c;
    pub(crate) const BMP_STRING: u8 = 0x1e;
    pub(crate) const SEQUENCE: u8 = 0x30;
    pub(crate) const SET: u8 = 0x31;
}

/// The rest of an encoding that has not been read yet.
#[derive(Clone, Copy)]
pub(crate) struct Der<'a>(pub(crate) &'a [u8]);

/// An element: its tag, its content, and its whole encoding.
pub(crate) struct Element<'a> {
    pub(crate) tag: u8,
    pub(crate) content: &'a [u8],
    pub(crate) all: &'a [u8],
}

impl<'a> Der<'a> {
    /// The next element. Its length must have the shortest encoding.
    pub(crate) fn any(&mut self) -> Option<Element<'a>> {
        self.element(true)
    }

    /// The next element. Its length may have a longer encoding than necessary.
    pub(crate) fn any_ber(&mut self) -> Option<Element<'a>> {
        self.element(false)
    }

    fn element(&mut self, minimal: bool) -> Option<Element<'a>> {
        let before = self.0;
        let (&[tag, first], rest) = before.split_first_chunk()?;
        if tag & 0x1f == 0x1f {
            return None;
        }
        let (length, rest) = match first {
            0..=0x7f => (usize::from(first), rest),
            0x81..=0x84 => {
                let (bytes, rest) = rest.split_at_checked(usize::from(first & 0x7f))?;
                let length = bytes
                    .iter()
                    .fold(0, |all, byte| all << 8 | usize::from(*byte));
                let needed = bytes[0] != 0 && length >= 0x80;
                ((needed || !minimal).then_some(length)?, rest)
            }
            _ => return None,
        };
        let (content, rest) = rest.split_at_checked(length)?;
        self.0 = rest;
        let all = before.get(..before.len() - rest.len())?;
        Some(Element { tag, content, all })
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub(crate) fn next_is(&self, tag: u8) -> bool {
        self.0.first() == Some(&tag)
    }

    /// The content of the next element, if it has this tag.
    pub(crate) fn take(&mut self, tag: u8) -> Option<Self> {
        self.whole(tag).map(|element| Self(element.content))
    }

    /// The next element, if it has this tag.
    pub(crate) fn whole(&mut self, tag: u8) -> Option<Element<'a>> {
        self.next_is(tag).then_some(())?;
        self.any()
    }

    pub(crate) fn sequence(&mut self) -> Option<Self> {
        self.take(tag::SEQUENCE)
    }

    /// `None` unless nothing is left.
    pub(crate) fn end(&self) -> Option<()> {
        self.is_empty().then_some(())
    }

    /// An integer in its shortest encoding.
    pub(crate) fn integer(&mut self) -> Option<&'a [u8]> {
        self.number(tag::INTEGER)
    }

    /// An integer with another tag.
    pub(crate) fn number(&mut self, tag: u8) -> Option<&'a [u8]> {
        let number = self.take(tag)?.0;
        let padded = matches!(number, [] | [0, 0..=0x7f, ..] | [0xff, 0x80..=0xff, ..]);
        (!padded).then_some(number)
    }

    /// An object identifier: groups of seven bits, none with a leading zero, the last one ended.
    pub(crate) fn oid(&mut self) -> Option<&'a [u8]> {
        let groups = self.take(tag::OID)?.0;
        let ended = groups.last().is_some_and(|last| last & 0x80 == 0);
        let starts = |at: usize| at == 0 || groups[at - 1] & 0x80 == 0;
        let padded = (0..groups.len()).any(|at| starts(at) && groups[at] == 0x80);
        (ended && !padded).then_some(groups)
    }

    /// A boolean: false is zero, true anything else.
    pub(crate) fn boolean(&mut self) -> Option<bool> {
        match self.take(tag::BOOLEAN)?.0 {
            [value] => Some(*value != 0),
            _ => None,
        }
    }

    /// A time in whole seconds; UTCTime may have an offset. A time before 1970 becomes 1970.
    pub(crate) fn time(&mut self) -> Option<SystemTime> {
        let element = self.any()?;
        let zone = element.content.len().checked_sub(match element.tag {
            tag::UTC_TIME => 12,
            tag::GENERALIZED_TIME => 14,
            _ => return None,
        })?;
        let (digits, zone) = element.content.split_at(element.content.len() - zone);
        let has_zone = match zone {
            [b'Z'] => true,
            [b'+' | b'-', offset @ ..] if element.tag == tag::UTC_TIME => {
                offset.len() == 4
                    && offset.iter().all(u8::is_ascii_digit)
                    && offset[..2] <= b"23"[..]
                    && offset[2..] <= b"59"[..]
            }
            _ => false,
        };
        if !has_zone || !digits.iter().all(u8::is_ascii_digit) {
            return None;
        }
        let time = if element.tag == tag::UTC_TIME {
            let (_, time) = UtcTime::from_der(element.all).ok()?;
            time.utc_adjusted_datetime().ok()?
        } else {
            let (_, time) = GeneralizedTime::from_der(element.all).ok()?;
            time.utc_datetime().ok()?
        };
        let seconds = u64::try_from(time.unix_timestamp()).unwrap_or(0);
        Some(SystemTime::UNIX_EPOCH + Duration::from_secs(seconds))
    }
}
