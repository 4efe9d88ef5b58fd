//! The facts that are shown about a certificate.

use std::net::{Ipv4Addr, Ipv6Addr};
use std::time::SystemTime;

use x509_parser::prelude::{FromDer, GeneralName, SubjectAlternativeName, X509Name};

use super::der::Der;
use super::x509::{Extension, X509};
use crate::text::{self, Texts};
use crate::validity::Validity;

/// Shown in place of what can't be read.
pub(crate) const UNKNOWN: &str = "unknown";

const SUBJECT_ALT_NAME: &[u8] = &[0x55, 0x1d, 0x11];

/// Tags of subject alternative names.
const DNS_NAME: u8 = 0x82;
const URI: u8 = 0x86;
const IP_ADDRESS: u8 = 0x87;

/// The facts in a certificate. Compact, because there may be thousands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CertificateFacts {
    /// Subject, issuer, serial number, common name, and then the names.
    texts: Texts,
    /// Valid from.
    pub not_before: SystemTime,
    /// Valid until.
    pub not_after: SystemTime,
}

impl CertificateFacts {
    /// The facts of a certificate in DER; `None` if it can't be parsed.
    pub fn from_der(der: &[u8]) -> Option<Self> {
        X509::parse(der).map(|certificate| Self::of(&certificate))
    }

    /// The facts of a certificate. Control characters in its names are escaped, because the names are shown.
    pub(crate) fn of(certificate: &X509<'_>) -> Self {
        Self::read(certificate).0
    }

    /// The facts of a certificate, and whether all of its names could be read.
    pub(crate) fn read(certificate: &X509<'_>) -> (Self, bool) {
        let [subject, issuer] = [certificate.subject, certificate.issuer].map(readable);
        let names = names(certificate);
        let is_whole = subject.is_some() && issuer.is_some() && names.is_some();
        let common_name = match certificate.extension(SUBJECT_ALT_NAME) {
            Some(_) => None,
            None => common_name(certificate),
        };
        let texts = [
            subject.unwrap_or_else(unknown),
            issuer.unwrap_or_else(unknown),
            hex(certificate.serial),
            common_name.unwrap_or_default(),
        ];
        let validity = certificate.validity();
        (
            Self::new(texts, names.unwrap_or_default(), validity),
            is_whole,
        )
    }

    /// The facts with these texts: subject, issuer, serial number and common name. An empty text means that there
    /// is none.
    pub(crate) fn new(
        texts: [String; 4],
        names: impl IntoIterator<Item = String>,
        validity: Validity,
    ) -> Self {
        Self {
            texts: texts.into_iter().chain(names).collect(),
            not_before: validity.not_before,
            not_after: validity.not_after,
        }
    }

    /// The subject's distinguished name.
    pub fn subject(&self) -> &str {
        self.text(0)
    }

    /// The issuer's distinguished name.
    pub fn issuer(&self) -> &str {
        self.text(1)
    }

    /// The serial number, in lower-case hexadecimal.
    pub fn serial(&self) -> &str {
        self.text(2)
    }

    /// The subject's common name, if there are no subject alternative names: the certificate may then be intended
    /// for that name.
    pub fn common_name(&self) -> Option<&str> {
        Some(self.text(3)).filter(|name| !name.is_empty())
    }

    /// The DNS names and IP addresses among its subject alternative names.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.texts.iter().skip(4)
    }

    /// The period in which it is valid.
    pub fn validity(&self) -> Validity {
        Validity {
            not_before: self.not_before,
            not_after: self.not_after,
        }
    }

    fn text(&self, at: usize) -> &str {
        self.texts.iter().nth(at).unwrap_or_default()
    }
}

fn unknown() -> String {
    UNKNOWN.to_owned()
}

/// An encoded distinguished name in one line, `CN=a, O=b`.
pub(crate) fn distinguished(name: &[u8]) -> String {
    readable(name).unwrap_or_else(unknown)
}

fn readable(name: &[u8]) -> Option<String> {
    let (_, name) = X509Name::from_der(name).ok()?;
    Some(printable(&name.to_string()))
}

/// How a message names `certificate`: by its common name, a name that it covers, or its whole subject.
pub(crate) fn called(certificate: &X509<'_>) -> String {
    common_name(certificate)
        .or_else(|| names(certificate)?.into_iter().next())
        .unwrap_or_else(|| distinguished(certificate.subject))
}

fn common_name(certificate: &X509<'_>) -> Option<String> {
    let (_, subject) = X509Name::from_der(certificate.subject).ok()?;
    let mut names = subject.iter_common_name();
    names.find_map(|name| name.as_str().ok().map(printable))
}

/// Whether the certificate has a name that Envoy can select it by: the first common name, which must not be empty
/// if there is one, or else a subject alternative name that is a DNS name, a URI or an IP address.
pub(crate) fn has_name(certificate: &X509<'_>) -> bool {
    let common = match X509Name::from_der(certificate.subject) {
        Ok((_, subject)) => subject
            .iter_common_name()
            .next()
            .map(|name| !name.as_slice().is_empty()),
        Err(_) => None,
    };
    common.unwrap_or_else(|| has_alternative_name(certificate) == Some(true))
}

/// `None` if BoringSSL would not read the names: there are none, there are two lists of them, or they are not valid
/// DER.
fn has_alternative_name(certificate: &X509<'_>) -> Option<bool> {
    let is_list = |extension: &&Extension<'_>| extension.id == SUBJECT_ALT_NAME;
    let mut lists = certificate.extensions.iter().filter(is_list);
    let (value, None) = (lists.next()?.value, lists.next()) else {
        return None;
    };
    SubjectAlternativeName::from_der(value).ok()?;
    let mut all = Der(value);
    let mut names = all.sequence()?;
    all.end()?;
    let mut found = false;
    while !names.is_empty() {
        found |= matches!(names.any()?.tag, DNS_NAME | URI | IP_ADDRESS);
    }
    Some(found)
}

/// The DNS names and IP addresses; `None` if they can't be read.
fn names(certificate: &X509<'_>) -> Option<Vec<String>> {
    let Some(value) = certificate.extension(SUBJECT_ALT_NAME) else {
        return Some(Vec::new());
    };
    let (_, san) = SubjectAlternativeName::from_der(value).ok()?;
    let mut names = Vec::with_capacity(san.general_names.len());
    names.extend(san.general_names.iter().filter_map(name));
    Some(names)
}

fn name(name: &GeneralName<'_>) -> Option<String> {
    match name {
        GeneralName::DNSName(host) => Some(printable(host)),
        GeneralName::IPAddress(bytes) => match bytes.len() {
            4 => Some(Ipv4Addr::from(<[u8; 4]>::try_from(*bytes).ok()?).to_string()),
            16 => Some(Ipv6Addr::from(<[u8; 16]>::try_from(*bytes).ok()?).to_string()),
            _ => None,
        },
        _ => None,
    }
}

fn printable(text: &str) -> String {
    text::escape(text).to_string()
}

/// Bytes in lower-case hexadecimal.
pub(crate) fn hex(bytes: &[u8]) -> String {
    let digits = bytes.iter().flat_map(|byte| hex_digits(*byte));
    digits.map(char::from).collect()
}

/// The two digits of a byte, as in [`hex`].
pub(crate) fn hex_digits(byte: u8) -> [u8; 2] {
    [byte >> 4, byte & 15].map(|half| b"0123456789abcdef"[usize::from(half)])
}
