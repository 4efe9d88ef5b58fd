//! Private keys and the public keys in certificates: their types, and whether two belong together.

use std::fmt;

use rustls::crypto::aws_lc_rs::sign::{any_ecdsa_type, any_supported_type};
use rustls_pki_types::{
    PrivateKeyDer, PrivatePkcs1KeyDer, PrivatePkcs8KeyDer, PrivateSec1KeyDer,
    SubjectPublicKeyInfoDer,
};
use x509_parser::asn1_rs::{Any, Class, FromDer, Integer, Oid, OptTaggedParser, Sequence, Tag};
use x509_parser::oid_registry as oid;
use x509_parser::prelude::SubjectPublicKeyInfo;
use x509_parser::public_key::PublicKey;

use super::der::{Der, tag};
use super::x509::X509;

/// The smallest RSA key that Envoy accepts, in bits.
const RSA_MIN: usize = 2048;

/// A key's algorithm with its size or curve.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum KeyType {
    /// RSA, with the bits of its modulus.
    Rsa(usize),
    /// The NIST curve P-256.
    P256,
    /// The NIST curve P-384.
    P384,
    /// The NIST curve P-521.
    P521,
    /// Ed25519.
    Ed25519,
    /// A type that Envoy does not support, by its usual name.
    Other(String),
}

impl KeyType {
    /// The type of the public key in a certificate.
    pub fn of_public(spki: &SubjectPublicKeyInfo<'_>) -> Self {
        let algorithm = &spki.algorithm.algorithm;
        let parameters = spki.algorithm.parameters.as_ref();
        if spki.subject_public_key.unused_bits != 0 {
            return Self::Other("not a whole number of bytes".into());
        }
        if *algorithm == oid::OID_PKCS1_RSAENCRYPTION {
            if !parameters.is_some_and(|any| is_universal(any, Tag::Null)) {
                return Self::Other("RSA without the parameters NULL".into());
            }
            return match spki.parsed() {
                Ok(PublicKey::RSA(key)) => Self::Rsa(bits(key.modulus)),
                _ => Self::Other("RSA that can't be parsed".into()),
            };
        }
        match Self::of_algorithm(algorithm, parameters) {
            Self::Ed25519 if parameters.is_some() => Self::Other("Ed25519 with parameters".into()),
            other => other,
        }
    }

    /// The type of a private key, as far as its encoding shows it.
    pub fn of_private(der: &PrivateKeyDer<'_>) -> Option<Self> {
        match der {
            PrivateKeyDer::Pkcs1(key) => rsa(key.secret_pkcs1_der()),
            PrivateKeyDer::Sec1(key) => sec1(key.secret_sec1_der()),
            PrivateKeyDer::Pkcs8(key) => pkcs8(key.secret_pkcs8_der()),
            _ => None,
        }
    }

    /// Whether Envoy serves certificates with such keys.
    pub fn is_taken(&self) -> bool {
        match self {
            Self::Rsa(bits) => *bits >= RSA_MIN,
            Self::P256 | Self::P384 | Self::P521 | Self::Ed25519 => true,
            Self::Other(_) => false,
        }
    }

    fn of_algorithm(algorithm: &Oid<'_>, parameters: Option<&Any<'_>>) -> Self {
        if *algorithm == oid::OID_KEY_TYPE_EC_PUBLIC_KEY {
            let curve = parameters.filter(|any| is_universal(any, Tag::Oid));
            return match curve.and_then(|any| any.as_oid().ok()) {
                Some(curve) => Self::of_curve(&curve),
                None => Self::Other("EC with explicit parameters".into()),
            };
        }
        match *algorithm {
            ref is if *is == oid::OID_SIG_ED25519 => Self::Ed25519,
            ref is if *is == oid::OID_SIG_ED448 => Self::Other("Ed448".into()),
            ref is if *is == oid::OID_PKCS1_RSASSAPSS => Self::Other("RSA-PSS".into()),
            ref is if *is == oid::OID_KEY_TYPE_DSA => Self::Other("DSA".into()),
            ref other => Self::Other(format!("the algorithm {other}")),
        }
    }

    fn of_curve(curve: &Oid<'_>) -> Self {
        match *curve {
            ref is if *is == oid::OID_EC_P256 => Self::P256,
            ref is if *is == oid::OID_NIST_EC_P384 => Self::P384,
            ref is if *is == oid::OID_NIST_EC_P521 => Self::P521,
            ref other => match other.to_id_string().as_str() {
                "1.3.132.0.33" => Self::Other("P-224".into()),
                "1.3.132.0.10" => Self::Other("secp256k1".into()),
                other => Self::Other(format!("the curve {other}")),
            },
        }
    }
}

impl fmt::Display for KeyType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Rsa(bits) => write!(f, "RSA {bits}"),
            Self::P256 => f.write_str("P-256"),
            Self::P384 => f.write_str("P-384"),
            Self::P521 => f.write_str("P-521"),
            Self::Ed25519 => f.write_str("Ed25519"),
            Self::Other(name) => f.write_str(name),
        }
    }
}

/// A private key that was found to be consistent: its public half, with its algorithm, as certificates encode it;
/// `None` if that is unknown.
pub struct Loaded(Option<SubjectPublicKeyInfoDer<'static>>);

impl Loaded {
    /// Loads a private key with AWS-LC, which is derived from BoringSSL. `None` if either of them would reject it.
    pub fn new(der: &PrivateKeyDer<'_>) -> Option<Self> {
        let der = as_boringssl_reads_it(der)?;
        let loaded = match KeyType::of_private(&der) {
            // The function for all types tries RSA first, which costs a full check of a point on a curve.
            Some(KeyType::P256 | KeyType::P384 | KeyType::P521) => any_ecdsa_type(&der),
            _ => any_supported_type(&der),
        };
        let public = loaded.ok()?.public_key().map(|public| public.into_owned());
        Some(Self(public))
    }

    /// Whether the public key in `certificate` is this key's public half. `None` when the two can't be
    /// compared.
    pub(crate) fn belongs_to(&self, certificate: &X509<'_>) -> Option<bool> {
        let public = self.0.as_deref()?;
        if public == certificate.key_der {
            return Some(true);
        }
        let certified = &certificate.key;
        let (_, mine) = SubjectPublicKeyInfo::from_der(public).ok()?;
        let types = [KeyType::of_public(&mine), KeyType::of_public(certified)];
        if types[0] != types[1] {
            return Some(false);
        }
        let (mine, theirs) = (
            &*mine.subject_public_key.data,
            &*certified.subject_public_key.data,
        );
        match theirs {
            _ if mine == theirs => Some(true),
            // A compressed point: the x coordinate, and whether y is odd.
            [sign @ (2 | 3), x @ ..] if 2 * x.len() + 1 == mine.len() => {
                Some(mine.get(1..=x.len())? == x && mine.last()? & 1 == sign & 1)
            }
            _ => Some(false),
        }
    }
}

/// Whether the element has this tag as a universal one of ASN.1, rather than a context-specific one.
fn is_universal(any: &Any<'_>, tag: Tag) -> bool {
    let header = &any.header;
    header.class() == Class::Universal && header.is_primitive() && header.tag() == tag
}

/// The key in the format that its label names, without what BoringSSL ignores; `None` if BoringSSL would reject it.
fn as_boringssl_reads_it<'a>(der: &'a PrivateKeyDer<'_>) -> Option<PrivateKeyDer<'a>> {
    // Bytes after it don't matter.
    let key = Der(der.secret_der()).whole(tag::SEQUENCE)?.all;
    if has_hybrid_point(key) {
        return None;
    }
    if matches!(der, PrivateKeyDer::Pkcs8(_)) {
        return is_pkcs8(key).then(|| PrivatePkcs8KeyDer::from(key).into());
    }
    if is_pkcs8(key) {
        let kind = pkcs8(key)?;
        let is_rsa = matches!(der, PrivateKeyDer::Pkcs1(_));
        let fits = match kind {
            KeyType::Rsa(_) => is_rsa,
            KeyType::P256 | KeyType::P384 | KeyType::P521 => !is_rsa,
            _ => false,
        };
        return fits.then(|| PrivatePkcs8KeyDer::from(key).into());
    }
    match der {
        PrivateKeyDer::Pkcs1(_) => Some(PrivatePkcs1KeyDer::from(key).into()),
        _ if lacks_curve(der) => None,
        _ => Some(PrivateSec1KeyDer::from(key).into()),
    }
}

/// Whether it is a SEC 1 key that does not name its curve, which some libraries guess.
pub(crate) fn lacks_curve(der: &PrivateKeyDer<'_>) -> bool {
    let read = || {
        let mut key = Der(der.secret_der()).sequence()?;
        key.integer()?;
        key.take(tag::OCTET_STRING)?;
        Some(!key.next_is(0xa0))
    };
    matches!(der, PrivateKeyDer::Sec1(_)) && read() == Some(true)
}

/// Whether `der` has the shape of a PKCS #8 private key of version 1, the only one that BoringSSL reads.
fn is_pkcs8(der: &[u8]) -> bool {
    let shape = |mut all: Der<'_>| {
        let mut key = all.sequence()?;
        let version = key.integer()?;
        let mut algorithm = key.sequence()?;
        algorithm.oid()?;
        key.take(tag::OCTET_STRING)?;
        let _attributes = key.take(0xa0);
        key.end()?;
        all.end()?;
        (version == [0]).then_some(())
    };
    shape(Der(der)).is_some()
}

/// Whether the public half in a key on a curve (SEC 1, or inside PKCS #8) is a point in the hybrid form, which
/// AWS-LC reads and BoringSSL does not.
fn has_hybrid_point(key: &[u8]) -> bool {
    let sec1 = |mut key: Der<'_>| {
        let mut key = key.sequence()?;
        key.integer()?;
        key.take(tag::OCTET_STRING)?;
        key.take(0xa0);
        let point = key.take(0xa1)?.take(tag::BIT_STRING)?.0;
        Some(matches!(point, [_, 6 | 7, ..]))
    };
    let within_pkcs8 = || {
        let mut key = Der(key).sequence()?;
        key.integer()?;
        key.sequence()?;
        key.take(tag::OCTET_STRING)
    };
    within_pkcs8().map_or_else(|| sec1(Der(key)), sec1) == Some(true)
}

/// Whether it is a PKCS #8 private key of version 2, which also contains the public key (RFC 5958).
pub(crate) fn is_of_version_2(der: &PrivateKeyDer<'_>) -> bool {
    let version = || Der(der.secret_der()).sequence()?.integer();
    matches!(der, PrivateKeyDer::Pkcs8(_)) && version() == Some(&[1])
}

fn bits(modulus: &[u8]) -> usize {
    let zeros = modulus.iter().take_while(|byte| **byte == 0).count();
    modulus.get(zeros).map_or(0, |top| {
        (modulus.len() - zeros) * 8 - top.leading_zeros() as usize
    })
}

/// PKCS #1: version, modulus, …
fn rsa(der: &[u8]) -> Option<KeyType> {
    let (_, sequence) = Sequence::from_der(der).ok()?;
    let (rest, _) = Integer::from_der(&sequence.content).ok()?;
    let (_, modulus) = Integer::from_der(rest).ok()?;
    Some(KeyType::Rsa(bits(modulus.as_ref())))
}

/// SEC 1: version, key, `[0]` curve, …
fn sec1(der: &[u8]) -> Option<KeyType> {
    let (_, sequence) = Sequence::from_der(der).ok()?;
    let (rest, _) = Integer::from_der(&sequence.content).ok()?;
    let (rest, _) = Any::from_der(rest).ok()?;
    let (_, curve) = OptTaggedParser::from(Tag(0))
        .parse_der(rest, |_, inner| Oid::from_der(inner))
        .ok()?;
    Some(KeyType::of_curve(&curve?))
}

/// PKCS #8: version, algorithm, key, …
fn pkcs8(der: &[u8]) -> Option<KeyType> {
    let (_, sequence) = Sequence::from_der(der).ok()?;
    let (rest, _) = Integer::from_der(&sequence.content).ok()?;
    let (rest, algorithm) = Sequence::from_der(rest).ok()?;
    let (parameters, id) = Oid::from_der(&algorithm.content).ok()?;
    if id == oid::OID_PKCS1_RSAENCRYPTION {
        let (_, key) = Any::from_der(rest).ok()?;
        return rsa(key.data);
    }
    let parameters = Any::from_der(parameters).ok().map(|(_, any)| any);
    Some(KeyType::of_algorithm(&id, parameters.as_ref()))
}
