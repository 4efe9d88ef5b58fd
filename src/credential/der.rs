//! Whether BoringSSL would parse a certificate, a revocation list or a PKCS #8 key at all: it insists
//! on DER where the library that reads them here lets much pass.
//!
//! Only the shape is looked at. What it says is read by `x509-parser`.

/// Tags, as RFC 5280 uses them: with the bits for "constructed" and "context".
mod tag {
    pub(super) const BOOLEAN: u8 = 0x01;
    pub(super) const INTEGER: u8 = 0x02;
    pub(super) const BIT_STRING: u8 = 0x03;
    pub(super) const OCTET_STRING: u8 = 0x04;
    pub(super) const NULL: u8 = 0x05;
    pub(super) const OID: u8 = 0x06;
    pub(super) const UTF8_STRING: u8 = 0x0c;
    pub(super) const UNIVERSAL_STRING: u8 = 0x1c;
    pub(super) const BMP_STRING: u8 = 0x1e;
    pub(super) const UTC_TIME: u8 = 0x17;
    pub(super) const GENERALIZED_TIME: u8 = 0x18;
    pub(super) const SEQUENCE: u8 = 0x30;
    pub(super) const SET: u8 = 0x31;
    /// Numeric, printable, Teletex, IA5 and visible strings: a byte a character.
    pub(super) const BYTE_STRINGS: [u8; 5] = [0x12, 0x13, 0x14, 0x16, 0x1a];
}

/// Whether `der` has the shape of a certificate.
pub(crate) fn is_certificate(der: &[u8]) -> bool {
    signed(der, to_be_signed_certificate).is_some()
}

/// Whether `der` has the shape of a revocation list.
pub(crate) fn is_list(der: &[u8]) -> bool {
    signed(der, to_be_signed_list).is_some()
}

/// Whether `der` has the shape of a PKCS #8 private key of version 1, the only one that BoringSSL reads.
pub(crate) fn is_pkcs8(der: &[u8]) -> bool {
    let shape = |mut all: Der<'_>| {
        let mut key = all.sequence()?;
        let version = key.take(tag::INTEGER)?;
        algorithm(&mut key)?;
        key.take(tag::OCTET_STRING)?;
        let _attributes = key.maybe(0xa0);
        key.end()?;
        all.end()?;
        (version.0 == [0]).then_some(())
    };
    shape(Der(der)).is_some()
}

/// Whether `der` is a PKCS #8 private key of version 2, which has the public key in it too (RFC 5958).
pub(crate) fn is_pkcs8_of_version_2(der: &[u8]) -> bool {
    let version = Der(der)
        .sequence()
        .and_then(|mut key| key.take(tag::INTEGER));
    version.is_some_and(|version| version.0 == [1])
}

fn signed<'a>(der: &'a [u8], content: impl Fn(Der<'a>) -> Option<&'a [u8]>) -> Option<()> {
    let mut all = Der(der);
    let mut outer = all.sequence()?;
    let inner_algorithm = content(outer.sequence()?)?;
    let outer_algorithm = algorithm(&mut outer)?;
    bits(&mut outer)?;
    outer.end()?;
    all.end()?;
    (inner_algorithm == outer_algorithm).then_some(())
}

/// Gives the algorithm that the certificate says it is signed with.
fn to_be_signed_certificate(mut tbs: Der<'_>) -> Option<&[u8]> {
    // Version 1 is the default, and so must not be written out.
    let version = match tbs.maybe(0xa0) {
        Some(mut version) => match version.take(tag::INTEGER)?.0 {
            [number @ (1 | 2)] if version.0.is_empty() => *number,
            _ => return None,
        },
        None => 0,
    };
    integer(&mut tbs)?;
    let signed_with = algorithm(&mut tbs)?;
    name(&mut tbs)?;
    let mut validity = tbs.sequence()?;
    time(&mut validity)?;
    time(&mut validity)?;
    validity.end()?;
    name(&mut tbs)?;
    let mut key = tbs.sequence()?;
    algorithm(&mut key)?;
    bits(&mut key)?;
    key.end()?;
    for unique_id in [0x81, 0x82] {
        if tbs.maybe(unique_id).is_some() && version == 0 {
            return None;
        }
    }
    if let Some(all) = tbs.maybe(0xa3) {
        extensions(all)?;
        (version == 2).then_some(())?;
    }
    tbs.end()?;
    Some(signed_with)
}

/// Gives the algorithm that the list says it is signed with.
fn to_be_signed_list(mut tbs: Der<'_>) -> Option<&[u8]> {
    let version = tbs.maybe(tag::INTEGER);
    if version.as_ref().is_some_and(|version| version.0 != [1]) {
        return None;
    }
    let signed_with = algorithm(&mut tbs)?;
    name(&mut tbs)?;
    time(&mut tbs)?;
    if tbs.next_is(tag::UTC_TIME) || tbs.next_is(tag::GENERALIZED_TIME) {
        time(&mut tbs)?;
    }
    if let Some(mut entries) = tbs.maybe(tag::SEQUENCE) {
        while !entries.0.is_empty() {
            let mut entry = entries.sequence()?;
            integer(&mut entry)?;
            time(&mut entry)?;
            if !entry.0.is_empty() {
                extensions(entry)?;
            }
        }
    }
    if let Some(all) = tbs.maybe(0xa0) {
        extensions(all)?;
        version?;
    }
    tbs.end()?;
    Some(signed_with)
}

/// A sequence of one extension or more, and nothing behind it.
fn extensions(mut all: Der<'_>) -> Option<()> {
    let mut list = all.sequence()?;
    all.end()?;
    (!list.0.is_empty()).then_some(())?;
    while !list.0.is_empty() {
        let mut extension = list.sequence()?;
        oid(&mut extension)?;
        if let Some(critical) = extension.maybe(tag::BOOLEAN) {
            matches!(critical.0, [0xff]).then_some(())?;
        }
        extension.take(tag::OCTET_STRING)?;
        extension.end()?;
    }
    Some(())
}

/// Gives all of the algorithm's encoding.
fn algorithm<'a>(from: &mut Der<'a>) -> Option<&'a [u8]> {
    let before = from.0;
    let mut algorithm = from.sequence()?;
    oid(&mut algorithm)?;
    // Parameters: none, NULL, a curve, or a structure.
    if algorithm.next_is(tag::OID) {
        oid(&mut algorithm)?;
    } else if algorithm.maybe(tag::SEQUENCE).is_none()
        && let Some(null) = algorithm.maybe(tag::NULL)
    {
        null.end()?;
    }
    algorithm.end()?;
    before.get(..before.len() - from.0.len())
}

fn name(from: &mut Der<'_>) -> Option<()> {
    let mut parts = from.sequence()?;
    while !parts.0.is_empty() {
        let mut set = parts.take(tag::SET)?;
        loop {
            let mut attribute = set.sequence()?;
            oid(&mut attribute)?;
            string(&mut attribute)?;
            attribute.end()?;
            if set.0.is_empty() {
                break;
            }
        }
    }
    Some(())
}

fn string(from: &mut Der<'_>) -> Option<()> {
    let (tag, text) = from.any()?;
    let valid = match tag {
        tag::UTF8_STRING => std::str::from_utf8(text).is_ok(),
        tag::BMP_STRING => text.chunks(2).all(|unit| match unit {
            [high, _] => !(0xd8..0xe0).contains(high),
            _ => false,
        }),
        tag::UNIVERSAL_STRING => text.chunks(4).all(|unit| {
            <[u8; 4]>::try_from(unit)
                .is_ok_and(|unit| char::from_u32(u32::from_be_bytes(unit)).is_some())
        }),
        _ => tag::BYTE_STRINGS.contains(&tag),
    };
    valid.then_some(())
}

/// A time in UTC, to the second.
fn time(from: &mut Der<'_>) -> Option<()> {
    let (tag, text) = from.any()?;
    let digits = match tag {
        tag::UTC_TIME => 12,
        tag::GENERALIZED_TIME => 14,
        _ => return None,
    };
    let (zone, time) = text.split_last()?;
    let valid = *zone == b'Z' && time.len() == digits && time.iter().all(u8::is_ascii_digit);
    valid.then_some(())
}

/// An integer, with no byte more than it needs.
fn integer(from: &mut Der<'_>) -> Option<()> {
    let number = from.take(tag::INTEGER)?.0;
    let padded = matches!(number, [] | [0, 0..=0x7f, ..] | [0xff, 0x80..=0xff, ..]);
    (!padded).then_some(())
}

/// Whole bytes of bits.
fn bits(from: &mut Der<'_>) -> Option<()> {
    matches!(from.take(tag::BIT_STRING)?.0, [0, ..]).then_some(())
}

/// An object identifier: groups of seven bits, none with a leading zero, the last one ended.
fn oid(from: &mut Der<'_>) -> Option<()> {
    let groups = from.take(tag::OID)?.0;
    let ended = groups.last().is_some_and(|last| last & 0x80 == 0);
    let starts = |at: usize| at == 0 || groups[at - 1] & 0x80 == 0;
    let padded = (0..groups.len()).any(|at| starts(at) && groups[at] == 0x80);
    (ended && !padded).then_some(())
}

/// What is left to read of an encoding.
#[derive(Clone)]
struct Der<'a>(&'a [u8]);

impl<'a> Der<'a> {
    /// The next element: its tag and content. Lengths are as short as can be.
    fn any(&mut self) -> Option<(u8, &'a [u8])> {
        let (&[tag, first], rest) = self.0.split_first_chunk()?;
        if tag & 0x1f == 0x1f {
            return None;
        }
        let (length, rest) = match first {
            0..=0x7f => (usize::from(first), rest),
            0x81..=0x83 => {
                let (bytes, rest) = rest.split_at_checked(usize::from(first & 0x7f))?;
                let length = bytes
                    .iter()
                    .fold(0, |all, byte| all << 8 | usize::from(*byte));
                let needed = bytes[0] != 0 && length >= 0x80;
                (needed.then_some(length)?, rest)
            }
            _ => return None,
        };
        let (content, rest) = rest.split_at_checked(length)?;
        self.0 = rest;
        Some((tag, content))
    }

    fn next_is(&self, tag: u8) -> bool {
        self.0.first() == Some(&tag)
    }

    /// The content of the next element, which must have this tag.
    fn take(&mut self, tag: u8) -> Option<Self> {
        self.next_is(tag).then_some(())?;
        self.any().map(|(_, content)| Self(content))
    }

    /// The content of the next element, if it has this tag.
    fn maybe(&mut self, tag: u8) -> Option<Self> {
        self.take(tag)
    }

    fn sequence(&mut self) -> Option<Self> {
        self.take(tag::SEQUENCE)
    }

    fn end(&self) -> Option<()> {
        self.0.is_empty().then_some(())
    }
}
