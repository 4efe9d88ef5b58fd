//! Certificates and revocation lists, parsed exactly as strictly as by BoringSSL. Their fields are parsed by
//! `x509-parser` where that is possible.

use std::time::SystemTime;

use x509_parser::asn1_rs::{BitString, FromDer};
use x509_parser::prelude::{AlgorithmIdentifier, SubjectPublicKeyInfo, X509Error};
use x509_parser::verify::verify_signature;

use super::der::{Der, Element, tag};
use super::key::KeyType;
use crate::validity::Validity;

const KEY_USAGE: &[u8] = &[0x55, 0x1d, 0x0f];
const AUTHORITY_KEY_ID: &[u8] = &[0x55, 0x1d, 0x23];
const REASON_CODE: &[u8] = &[0x55, 0x1d, 0x15];
const AUTHORITY_INFO_ACCESS: &[u8] = b"\x2b\x06\x01\x05\x05\x07\x01\x01";
/// The access method that leads to the issuer's certificate, as it is encoded.
const CA_ISSUERS: &[u8] = b"\x06\x08\x2b\x06\x01\x05\x05\x07\x30\x02";
const BASIC_CONSTRAINTS: &[u8] = &[0x55, 0x1d, 0x13];

/// Bits of the key usage.
pub(crate) const DIGITAL_SIGNATURE: u16 = 0x8000;
pub(crate) const KEY_CERT_SIGN: u16 = 0x0400;
pub(crate) const CRL_SIGN: u16 = 0x0200;

/// RFC 7633: what the server promises to do in each handshake.
const TLS_FEATURE: &[u8] = b"\x2b\x06\x01\x05\x05\x07\x01\x18";
/// `status_request` as one of the TLS features, an INTEGER: to send an OCSP staple ("must-staple").
const STATUS_REQUEST: [u8; 3] = [0x02, 0x01, 0x05];

/// An extension of a certificate or a revocation list.
pub(crate) struct Extension<'a> {
    /// Its object identifier, without tag and length.
    pub(crate) id: &'a [u8],
    pub(crate) critical: bool,
    pub(crate) value: &'a [u8],
}

/// The signed content, and its signature.
pub(crate) struct Signed<'a> {
    content: &'a [u8],
    algorithm: &'a [u8],
    /// The bits of the signature, after the byte with the number of unused bits.
    signature: &'a [u8],
}

/// A certificate.
pub(crate) struct X509<'a> {
    pub(crate) serial: &'a [u8],
    /// The issuer's distinguished name, as it is encoded.
    pub(crate) issuer: &'a [u8],
    pub(crate) not_before: SystemTime,
    pub(crate) not_after: SystemTime,
    /// The subject's distinguished name, as it is encoded.
    pub(crate) subject: &'a [u8],
    pub(crate) key: SubjectPublicKeyInfo<'a>,
    /// The whole public key with its algorithm, as it is encoded.
    pub(crate) key_der: &'a [u8],
    pub(crate) extensions: Vec<Extension<'a>>,
    pub(crate) signed: Signed<'a>,
    version: u8,
}

/// A revocation list.
pub(crate) struct List<'a> {
    /// The issuer's distinguished name, as it is encoded.
    pub(crate) issuer: &'a [u8],
    pub(crate) this_update: SystemTime,
    pub(crate) next_update: Option<SystemTime>,
    pub(crate) extensions: Vec<Extension<'a>>,
    /// Whether an entry has an extension that must not be skipped.
    pub(crate) has_critical_entry: bool,
    pub(crate) signed: Signed<'a>,
}

impl<'a> X509<'a> {
    /// The period in which it is valid.
    pub(crate) fn validity(&self) -> Validity {
        Validity {
            not_before: self.not_before,
            not_after: self.not_after,
        }
    }

    /// Parses a certificate; `None` if BoringSSL would reject it.
    pub(crate) fn parse(der: &'a [u8]) -> Option<Self> {
        let (content, signed) = Signed::parse(der, Der::any_ber)?;
        let mut tbs = Der(content);
        let version = match tbs.take(0xa0) {
            Some(mut version) => {
                let number = version.integer()?;
                version.end()?;
                match number {
                    [number @ 0..=2] => *number,
                    _ => return None,
                }
            }
            None => 0,
        };
        let serial = tbs.integer()?;
        algorithm(&mut tbs)?;
        let issuer = name(&mut tbs)?;
        let mut validity = tbs.sequence()?;
        let (not_before, not_after) = (validity.time()?, validity.time()?);
        validity.end()?;
        let subject = name(&mut tbs)?;
        let key = tbs.whole(tag::SEQUENCE)?;
        public_key(Der(key.content))?;
        let key_der = key.all;
        let (_, key) = SubjectPublicKeyInfo::from_der(key_der).ok()?;
        for unique_id in [0x81, 0x82] {
            if let Some(bits) = tbs.take(unique_id) {
                is_bits(bits.0).then_some(())?;
                (version > 0).then_some(())?;
            }
        }
        let mut extensions = Vec::new();
        if let Some(all) = tbs.take(0xa3) {
            extensions = read_extensions(all)?;
            (version == 2).then_some(())?;
        }
        tbs.end()?;
        Some(Self {
            serial,
            issuer,
            not_before,
            not_after,
            subject,
            key,
            key_der,
            extensions,
            signed,
            version,
        })
    }

    /// Whether its issuer and its subject have the same name: a root, or another self-signed certificate.
    pub(crate) fn is_self_issued(&self) -> bool {
        self.subject == self.issuer
    }

    /// Whether its subject has the name of the issuer of `other`.
    pub(crate) fn is_issuer_of(&self, other: &X509<'_>) -> bool {
        self.subject == other.issuer
    }

    /// Whether it is marked as a CA certificate. A self-issued one of version 1 counts too.
    pub(crate) fn is_ca(&self) -> bool {
        match self.extension(BASIC_CONSTRAINTS) {
            Some(value) => {
                let mut constraints = Der(value);
                constraints
                    .sequence()
                    .and_then(|mut fields| fields.boolean())
                    .unwrap_or(false)
            }
            None => self.version == 0 && self.is_self_issued(),
        }
    }

    /// The bits of its key usage, the first one at the top; `None` if it has no key usage, and no bits if they
    /// can't be read.
    pub(crate) fn key_usage(&self) -> Option<u16> {
        let mut value = Der(self.extension(KEY_USAGE)?);
        let content = value.take(tag::BIT_STRING).map_or(&[][..], |bits| bits.0);
        let bits = match content {
            [_, bits @ ..] if value.is_empty() && is_bits(content) => bits,
            _ => &[],
        };
        let byte = |at: usize| u16::from(bits.get(at).copied().unwrap_or(0));
        Some(byte(0) << 8 | byte(1))
    }

    /// Whether it has to be served with an OCSP staple.
    pub(crate) fn must_staple(&self) -> bool {
        let features = self.extension(TLS_FEATURE).unwrap_or_default();
        let mut windows = features.windows(STATUS_REQUEST.len());
        windows.any(|feature| feature == STATUS_REQUEST)
    }

    /// Whether its key usage, if it has any, allows `usage`.
    pub(crate) fn allows(&self, usage: u16) -> bool {
        self.key_usage().is_none_or(|allowed| allowed & usage != 0)
    }

    /// Whether it indicates that its issuer is not a root: it has the address of the issuer's certificate, as the
    /// leaves of public CAs do, or the name of the issuer's own issuer.
    pub(crate) fn is_from_intermediate(&self) -> bool {
        let is_place = |value: &[u8]| value.windows(CA_ISSUERS.len()).any(|id| id == CA_ISSUERS);
        let issuer_of_issuer = || {
            let mut key_id = Der(self.extension(AUTHORITY_KEY_ID)?).sequence()?;
            key_id.take(0x80);
            let name = key_id.take(0xa1)?.take(0xa4)?;
            Some(name.0)
        };
        self.extension(AUTHORITY_INFO_ACCESS).is_some_and(is_place)
            || issuer_of_issuer().is_some_and(|name| name != self.issuer)
    }

    /// The value of the first extension of this kind.
    pub(crate) fn extension(&self, id: &[u8]) -> Option<&'a [u8]> {
        let mut all = self.extensions.iter();
        Some(all.find(|extension| extension.id == id)?.value)
    }
}

impl<'a> List<'a> {
    /// Parses a revocation list; `None` if BoringSSL would reject it.
    pub(crate) fn parse(der: &'a [u8]) -> Option<Self> {
        let (content, signed) = Signed::parse(der, Der::any)?;
        let mut tbs = Der(content);
        let version = match tbs.next_is(tag::INTEGER) {
            true => Some(tbs.integer()?),
            false => None,
        };
        if version.is_some_and(|version| version != [1]) {
            return None;
        }
        algorithm(&mut tbs)?;
        let issuer = name(&mut tbs)?;
        let this_update = tbs.time()?;
        let has_next = tbs.next_is(tag::UTC_TIME) || tbs.next_is(tag::GENERALIZED_TIME);
        let next_update = if has_next { Some(tbs.time()?) } else { None };
        let mut has_critical_entry = false;
        if let Some(mut entries) = tbs.sequence() {
            while !entries.is_empty() {
                let mut entry = entries.sequence()?;
                entry.integer()?;
                entry.time()?;
                if !entry.is_empty() {
                    let own = read_extensions(entry)?;
                    each_once(&own, REASON_CODE, reason_code)?;
                    has_critical_entry |= own.iter().any(|extension| extension.critical);
                }
            }
        }
        let mut extensions = Vec::new();
        if let Some(all) = tbs.take(0xa0) {
            extensions = read_extensions(all)?;
            each_once(&extensions, AUTHORITY_KEY_ID, authority_key_id)?;
            version?;
        }
        tbs.end()?;
        Some(Self {
            issuer,
            this_update,
            next_update,
            extensions,
            has_critical_entry,
            signed,
        })
    }

    /// The value of the first extension of this kind.
    pub(crate) fn extension(&self, id: &[u8]) -> Option<&'a [u8]> {
        let mut all = self.extensions.iter();
        Some(all.find(|extension| extension.id == id)?.value)
    }
}

impl<'a> Signed<'a> {
    /// Parses `der`: the signed content, and the signature with its algorithm. `read` reads the signature.
    fn parse(
        der: &'a [u8],
        read: fn(&mut Der<'a>) -> Option<Element<'a>>,
    ) -> Option<(&'a [u8], Self)> {
        // BoringSSL ignores bytes after it.
        let mut outer = Der(der).sequence()?;
        let content = outer.whole(tag::SEQUENCE)?;
        let algorithm = algorithm(&mut outer)?;
        let signature = read(&mut outer)?;
        outer.end()?;
        let valid = signature.tag == tag::BIT_STRING && is_bits(signature.content);
        let (_, bits) = signature.content.split_first()?;
        let signed = Self {
            content: content.all,
            algorithm,
            signature: bits,
        };
        valid.then_some((content.content, signed))
    }

    /// The object identifier of the algorithm of the signature, without tag and length.
    pub(crate) fn algorithm(&self) -> Option<&'a [u8]> {
        Der(self.algorithm).sequence()?.oid()
    }

    /// Whether it was signed with the key of `issuer`. `None` if that can't be verified here.
    pub(crate) fn is_by(&self, issuer: &SubjectPublicKeyInfo<'_>) -> Option<bool> {
        let (_, algorithm) = AlgorithmIdentifier::from_der(self.algorithm).ok()?;
        is_signed(self.content, &algorithm, self.signature, issuer)
    }
}

/// Whether `content` was signed with `key`. `None` if that can't be verified here.
pub(crate) fn is_signed(
    content: &[u8],
    algorithm: &AlgorithmIdentifier<'_>,
    signature: &[u8],
    key: &SubjectPublicKeyInfo<'_>,
) -> Option<bool> {
    // The verifier refuses smaller RSA keys, whatever they signed.
    if matches!(KeyType::of_public(key), KeyType::Rsa(bits) if bits < 2048) {
        return None;
    }
    let signature = BitString::new(0, signature);
    match verify_signature(key, algorithm, &signature, content) {
        Ok(()) => Some(true),
        Err(X509Error::SignatureVerificationError) => Some(false),
        Err(_) => None,
    }
}

/// A sequence of extensions, with nothing after it.
fn read_extensions(mut all: Der<'_>) -> Option<Vec<Extension<'_>>> {
    let mut list = all.sequence()?;
    all.end()?;
    let mut extensions = Vec::new();
    while !list.is_empty() {
        let mut extension = list.sequence()?;
        let id = extension.oid()?;
        let critical = match extension.next_is(tag::BOOLEAN) {
            true => extension.boolean()?,
            false => false,
        };
        let value = extension.take(tag::OCTET_STRING)?.0;
        extension.end()?;
        extensions.push(Extension {
            id,
            critical,
            value,
        });
    }
    Some(extensions)
}

/// `None` if there are several extensions of this kind, or one that `read` can't read.
fn each_once(
    extensions: &[Extension<'_>],
    id: &[u8],
    read: fn(Der<'_>) -> Option<()>,
) -> Option<()> {
    let mut of_kind = extensions.iter().filter(|extension| extension.id == id);
    match (of_kind.next(), of_kind.next()) {
        (None, _) => Some(()),
        (Some(only), None) => read(Der(only.value)),
        _ => None,
    }
}

fn reason_code(mut value: Der<'_>) -> Option<()> {
    value.number(tag::ENUMERATED)?;
    value.end()
}

fn authority_key_id(mut value: Der<'_>) -> Option<()> {
    let mut fields = value.sequence()?;
    value.end()?;
    fields.take(0x80);
    if let Some(mut issuer) = fields.take(0xa1) {
        while !issuer.is_empty() {
            issuer.any()?;
        }
    }
    if fields.next_is(0x82) {
        fields.number(0x82)?;
    }
    fields.end()
}

/// Returns the whole encoding of the algorithm.
fn algorithm<'a>(from: &mut Der<'a>) -> Option<&'a [u8]> {
    let element = from.whole(tag::SEQUENCE)?;
    let mut algorithm = Der(element.content);
    algorithm.oid()?;
    // Parameters: none, or one element of any kind.
    if !algorithm.is_empty() {
        value(&mut algorithm)?;
    }
    algorithm.end()?;
    Some(element.all)
}

/// Returns the whole encoding of the name.
fn name<'a>(from: &mut Der<'a>) -> Option<&'a [u8]> {
    let element = from.whole(tag::SEQUENCE)?;
    let mut parts = Der(element.content);
    while !parts.is_empty() {
        let mut set = parts.take(tag::SET)?;
        loop {
            let mut attribute = set.sequence()?;
            attribute.oid()?;
            value(&mut attribute)?;
            attribute.end()?;
            if set.is_empty() {
                break;
            }
        }
    }
    Some(element.all)
}

/// A value of any kind; a value of a known kind must be valid.
fn value(from: &mut Der<'_>) -> Option<()> {
    let whole = *from;
    let value = from.any()?;
    let content = value.content;
    let mut again = whole;
    let valid = match value.tag {
        tag::BOOLEAN => content.len() == 1,
        tag::INTEGER | tag::ENUMERATED => again.number(value.tag).is_some(),
        tag::BIT_STRING => is_bits(content),
        tag::NULL => content.is_empty(),
        tag::OID => again.oid().is_some(),
        tag::UTC_TIME | tag::GENERALIZED_TIME => again.time().is_some(),
        tag::UTF8_STRING => std::str::from_utf8(content).is_ok(),
        tag::BMP_STRING => content.chunks(2).all(|unit| match unit {
            [high, _] => !(0xd8..0xe0).contains(high),
            _ => false,
        }),
        tag::UNIVERSAL_STRING => content.chunks(4).all(|unit| {
            <[u8; 4]>::try_from(unit)
                .is_ok_and(|unit| char::from_u32(u32::from_be_bytes(unit)).is_some())
        }),
        // Made of elements: EXTERNAL, EMBEDDED PDV, SEQUENCE, SET and unrestricted character strings.
        0x08 | 0x0b | 0x10 | 0x11 | 0x1d => false,
        0x28 | 0x2b | tag::SEQUENCE | tag::SET | 0x3d => true,
        other => other & 0xe0 != 0x20,
    };
    valid.then_some(())
}

fn public_key(mut key: Der<'_>) -> Option<()> {
    algorithm(&mut key)?;
    is_bits(key.take(tag::BIT_STRING)?.0).then_some(())?;
    key.end()
}

/// Whether it is the content of a BIT STRING, whose unused bits are zero.
fn is_bits(content: &[u8]) -> bool {
    match content {
        [0] => true,
        [unused @ 0..=7, .., last] => last & ((1 << unused) - 1) == 0,
        _ => false,
    }
}
