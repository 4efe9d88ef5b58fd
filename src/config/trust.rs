//! `[[trust]]`: further requirements for peers that are verified with a trust bundle.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::str::FromStr;
use std::sync::Arc;

use toml::Spanned;

use super::error::Wrong;
use super::forms;

/// The options of the trust bundles, by the names of their credentials.
pub type Trust = Arc<BTreeMap<String, Arc<TrustOptions>>>;

/// The options of a trust bundle, which Envoy gets together with it.
#[derive(Clone, Debug, Default, PartialEq, Eq, serde::Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TrustOptions {
    /// The name of the bundle's credential.
    #[serde(deserialize_with = "forms::name")]
    pub name: String,
    /// A peer's certificate must have one of these names. If empty, any name is accepted.
    #[serde(default)]
    pub subject_alt_names: Vec<SubjectAltName>,
    /// Whether revocation lists are applied only to the peer's own certificate.
    #[serde(default)]
    pub only_verify_leaf_cert_crl: bool,
    /// Whether a peer whose certificate has expired is accepted.
    #[serde(default)]
    pub allow_expired_certificate: bool,
    /// How many certificates there may be above the peer's, including the one in the bundle, as Envoy counts.
    #[serde(default, deserialize_with = "forms::number::<_, _, 0, 255>")]
    pub max_verify_depth: Option<u32>,
    /// The peer's public key must have one of these hashes.
    #[serde(default)]
    pub certificate_spki: Vec<KeyHash>,
    /// The peer's certificate must have one of these hashes.
    #[serde(default)]
    pub certificate_hash: Vec<CertificateHash>,
    /// How strictly the bundle is checked.
    #[serde(default)]
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
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Deserialize)]
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

/// The options of all bundles.
pub(super) fn trust(all: Vec<Spanned<TrustOptions>>) -> Result<Trust, Wrong> {
    let mut trust = BTreeMap::new();
    for one in all {
        let (span, options) = (one.span(), one.into_inner());
        let name = options.name.clone();
        if trust.insert(name, Arc::new(options)).is_some() {
            let message = "this bundle already has options; merge the two sections";
            return Err(Wrong::new(span, message));
        }
    }
    Ok(Arc::new(trust))
}

impl FromStr for SubjectAltName {
    type Err = String;

    /// `dns:NAME`, `uri:NAME`, `email:NAME` or `ip:ADDRESS`; a `*` at one end matches anything.
    fn from_str(text: &str) -> Result<Self, String> {
        let (kind, name) = text.split_once(':').unwrap_or_default();
        let kind = match kind {
            "dns" => SanKind::Dns,
            "uri" => SanKind::Uri,
            "email" => SanKind::Email,
            "ip" => SanKind::IpAddress,
            _ => {
                let expected = "`dns:NAME`, `uri:URI`, `email:ADDRESS` or `ip:ADDRESS`";
                return Err(format!("expected {expected}"));
            }
        };
        let matcher = match (name.strip_prefix('*'), name.strip_suffix('*')) {
            (Some(rest), None) => Matcher::Suffix(rest.to_owned()),
            (None, Some(rest)) => Matcher::Prefix(rest.to_owned()),
            _ => Matcher::Exact(name.to_owned()),
        };
        let (Matcher::Exact(text) | Matcher::Prefix(text) | Matcher::Suffix(text)) = &matcher;
        let problem = match text {
            text if text.is_empty() => "the name is empty; write one",
            text if kind == SanKind::IpAddress && text.parse::<IpAddr>().is_err() => {
                "expected an IP address after `ip:`"
            }
            text if text.contains('*') => "`*` is allowed once, at the start or at the end",
            _ => return Ok(Self { kind, matcher }),
        };
        Err(problem.to_owned())
    }
}

/// A SHA-256 hash of a public key, in base64.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KeyHash(pub String);

impl FromStr for KeyHash {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        use base64::Engine;
        let decoded = base64::engine::general_purpose::STANDARD.decode(text);
        let expected = "expected a SHA-256 hash in base64, 44 characters with a `=` at the end";
        let is_hash = decoded.is_ok_and(|hash| hash.len() == 32);
        is_hash
            .then(|| Self(text.to_owned()))
            .ok_or(expected.to_owned())
    }
}

/// A SHA-256 hash of a certificate, in hexadecimal, with or without colons between the bytes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CertificateHash(pub String);

impl FromStr for CertificateHash {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let digits: Vec<char> = text.chars().filter(|char| *char != ':').collect();
        let expected = "expected a SHA-256 hash, 64 hexadecimal digits";
        let is_hash = digits.len() == 64 && digits.iter().all(char::is_ascii_hexdigit);
        is_hash
            .then(|| Self(text.to_owned()))
            .ok_or(expected.to_owned())
    }
}
