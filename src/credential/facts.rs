//! What a certificate says of itself.

use std::net::{Ipv4Addr, Ipv6Addr};
use std::time::{Duration, SystemTime};

use x509_parser::prelude::{ASN1Time, GeneralName, X509Certificate, X509Name};

use super::CertificateFacts;

impl CertificateFacts {
    /// The facts of a parsed certificate. Control characters in its names are escaped: they are shown.
    pub(crate) fn of(certificate: &X509Certificate<'_>) -> Self {
        let validity = certificate.validity();
        Self {
            subject: distinguished(certificate.subject()),
            issuer: distinguished(certificate.issuer()),
            serial: hex(certificate.raw_serial()),
            names: names(certificate),
            common_name: common_name(certificate).filter(|_| !has_alternative_names(certificate)),
            not_before: system_time(validity.not_before),
            not_after: system_time(validity.not_after),
        }
    }
}

/// The point in time that `time` means; one before 1970 is 1970.
pub(crate) fn system_time(time: ASN1Time) -> SystemTime {
    let seconds = u64::try_from(time.timestamp()).unwrap_or(0);
    SystemTime::UNIX_EPOCH + Duration::from_secs(seconds)
}

/// A distinguished name in one line, `CN=a, O=b`.
pub(crate) fn distinguished(name: &X509Name<'_>) -> String {
    printable(&name.to_string())
}

/// The name that `certificate` goes by in a message: its common name, a name that it covers, or all of
/// its subject.
pub(crate) fn called(certificate: &X509Certificate<'_>) -> String {
    common_name(certificate)
        .or_else(|| names(certificate).into_iter().next())
        .unwrap_or_else(|| distinguished(certificate.subject()))
}

fn common_name(certificate: &X509Certificate<'_>) -> Option<String> {
    let mut names = certificate.subject().iter_common_name();
    names.find_map(|name| name.as_str().ok().map(printable))
}

fn has_alternative_names(certificate: &X509Certificate<'_>) -> bool {
    // An extension that can't be parsed is there all the same.
    !matches!(certificate.subject_alternative_name(), Ok(None))
}

fn names(certificate: &X509Certificate<'_>) -> Vec<String> {
    let Ok(Some(san)) = certificate.subject_alternative_name() else {
        return Vec::new();
    };
    san.value.general_names.iter().filter_map(name).collect()
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
    text.chars()
        .flat_map(|char| {
            let shown = !char.is_control();
            let escaped = (!shown).then(|| char.escape_default());
            shown
                .then_some(char)
                .into_iter()
                .chain(escaped.into_iter().flatten())
        })
        .collect()
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}
