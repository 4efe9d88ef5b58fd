//! What clients have to fulfil beside a certificate of a trust bundle: `[[trust]]` in the file.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;

use serde::Deserialize;
use toml::Spanned;

use super::error::Wrong;

/// The options of the trust bundles, by the names of their credentials.
pub type Trust = Arc<BTreeMap<String, Arc<TrustOptions>>>;

/// The options of a trust bundle, which Envoy gets together with it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct TrustOptions {
    /// The names of which a peer's certificate must have one. None: any name will do.
    pub subject_alt_names: Vec<SubjectAltName>,
    /// Revocation lists are applied to the peer's own certificate alone.
    pub only_verify_leaf_cert_crl: bool,
    /// A peer whose certificate has expired is let in all the same.
    pub allow_expired_certificate: bool,
    /// How many certificates there may be above the peer's, the bundle's own included, as Envoy counts.
    pub max_verify_depth: Option<u32>,
    /// SHA-256 hashes of public keys, in base64, of which the peer's must be one.
    pub certificate_spki: Vec<String>,
    /// SHA-256 hashes of certificates, in hexadecimal, of which the peer's must be one.
    pub certificate_hash: Vec<String>,
    /// How strictly the bundle is checked.
    pub check: Strictness,
}

/// A name that a certificate must have.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SubjectAltName {
    /// The kind of the name.
    pub kind: SanKind,
    /// How it must match.
    pub matcher: Matcher,
}

/// The kind of a name in a certificate.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs)]
pub enum SanKind {
    Dns,
    Uri,
    Email,
    IpAddress,
}

/// How a name must match.
#[derive(Clone, Debug, PartialEq, Eq)]
#[allow(missing_docs)]
pub enum Matcher {
    Exact(String),
    Prefix(String),
    Suffix(String),
}

/// How strictly a bundle is checked.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Strictness {
    /// As Envoy verifies clients with these options.
    #[default]
    Strict,
    /// As Envoy would verify them with `only_verify_leaf_cert_crl` and `allow_expired_certificate`,
    /// which are set in Envoy's own configuration.
    Lenient,
}

impl TrustOptions {
    /// Whether clients are accepted although a CA or a certificate has expired.
    pub fn tolerates_expired(&self) -> bool {
        self.allow_expired_certificate || self.check == Strictness::Lenient
    }

    /// Whether a revocation list of the CA that issued the peer's certificate is enough.
    pub fn checks_leaf_alone(&self) -> bool {
        self.only_verify_leaf_cert_crl || self.check == Strictness::Lenient
    }
}

/// `[[trust]]` as it is written.
#[derive(Deserialize)]
pub(super) struct FileTrust {
    name: Spanned<String>,
    #[serde(default)]
    subject_alt_names: Vec<Spanned<String>>,
    #[serde(default)]
    only_verify_leaf_cert_crl: bool,
    #[serde(default)]
    allow_expired_certificate: bool,
    max_verify_depth: Option<u8>,
    #[serde(default)]
    certificate_spki: Vec<Spanned<String>>,
    #[serde(default)]
    certificate_hash: Vec<Spanned<String>>,
    #[serde(default)]
    check: Strictness,
}

/// The options of all bundles.
pub(super) fn trust(all: Vec<FileTrust>) -> Result<Trust, Wrong> {
    let mut trust = BTreeMap::new();
    for one in all {
        let (span, name) = (one.name.span(), one.name.get_ref().clone());
        if name.is_empty() {
            return Err(Wrong::new(span, "the name is empty; name a credential"));
        }
        if trust.insert(name, Arc::new(one.options()?)).is_some() {
            let message = "this bundle already has options; merge the two sections";
            return Err(Wrong::new(span, message));
        }
    }
    Ok(Arc::new(trust))
}

impl FileTrust {
    fn options(self) -> Result<TrustOptions, Wrong> {
        let names = self.subject_alt_names.iter().map(subject_alt_name);
        Ok(TrustOptions {
            subject_alt_names: names.collect::<Result<_, _>>()?,
            only_verify_leaf_cert_crl: self.only_verify_leaf_cert_crl,
            allow_expired_certificate: self.allow_expired_certificate,
            max_verify_depth: self.max_verify_depth.map(u32::from),
            certificate_spki: hashes(
                self.certificate_spki,
                is_spki,
                "a SHA-256 hash in base64, 44 characters with a `=` at the end",
            )?,
            certificate_hash: hashes(
                self.certificate_hash,
                is_hash,
                "a SHA-256 hash, 64 hexadecimal digits",
            )?,
            check: self.check,
        })
    }
}

/// `dns:NAME`, `uri:NAME`, `email:NAME` or `ip:ADDRESS`; a `*` at one end matches anything.
fn subject_alt_name(text: &Spanned<String>) -> Result<SubjectAltName, Wrong> {
    let wrong = |message: &str| Wrong::new(text.span(), message);
    let (kind, name) = text.get_ref().split_once(':').unwrap_or_default();
    let kind = match kind {
        "dns" => SanKind::Dns,
        "uri" => SanKind::Uri,
        "email" => SanKind::Email,
        "ip" => SanKind::IpAddress,
        _ => {
            let message = "expected `dns:NAME`, `uri:URI`, `email:ADDRESS` or `ip:ADDRESS`";
            return Err(wrong(message));
        }
    };
    let matcher = match (name.strip_prefix('*'), name.strip_suffix('*')) {
        (Some(rest), None) => Matcher::Suffix(rest.to_owned()),
        (None, Some(rest)) => Matcher::Prefix(rest.to_owned()),
        _ => Matcher::Exact(name.to_owned()),
    };
    let (Matcher::Exact(text) | Matcher::Prefix(text) | Matcher::Suffix(text)) = &matcher;
    match text {
        text if text.is_empty() => Err(wrong("the name is empty; write one")),
        text if kind == SanKind::IpAddress && text.parse::<IpAddr>().is_err() => {
            Err(wrong("expected an IP address after `ip:`"))
        }
        text if text.contains('*') => Err(wrong("`*` is allowed once, at the start or at the end")),
        _ => Ok(SubjectAltName { kind, matcher }),
    }
}

fn hashes(
    all: Vec<Spanned<String>>,
    is_one: fn(&str) -> bool,
    expected: &str,
) -> Result<Vec<String>, Wrong> {
    let check = |hash: Spanned<String>| match is_one(hash.get_ref()) {
        true => Ok(hash.into_inner()),
        false => Err(Wrong::new(hash.span(), format!("expected {expected}"))),
    };
    all.into_iter().map(check).collect()
}

fn is_spki(text: &str) -> bool {
    use base64::Engine;
    let decoded = base64::engine::general_purpose::STANDARD.decode(text);
    decoded.is_ok_and(|hash| hash.len() == 32)
}

/// With colons between the bytes, as OpenSSL prints it, or without.
fn is_hash(text: &str) -> bool {
    let digits: Vec<char> = text.chars().filter(|char| *char != ':').collect();
    digits.len() == 64 && digits.iter().all(char::is_ascii_hexdigit)
}
