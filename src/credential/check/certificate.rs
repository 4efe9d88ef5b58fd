//! A single certificate: its parsing, dates and signatures.

use x509_parser::prelude::{ASN1Time, FromDer, SubjectPublicKeyInfo, X509Certificate, X509Error};

use super::findings::Findings;
use crate::credential::facts::{called, system_time};
use crate::credential::key::KeyType;
use crate::credential::pem::{self, Block, Content, Flaw};
use crate::credential::strict;
use crate::files::read::File;
use crate::problem::Reason;

/// Signature algorithms that are no longer believed.
const WEAK: [(&str, &str); 3] = [
    ("1.2.840.113549.1.1.4", "MD5"),
    ("1.2.840.113549.1.1.5", "SHA-1"),
    ("1.2.840.10045.4.1", "SHA-1"),
];

/// A certificate of a file.
pub(super) struct Certificate<'a> {
    /// Its block.
    pub(super) text: &'a [u8],
    pub(super) x509: X509Certificate<'a>,
}

/// The certificates among the blocks of a file; `None`, and an error, when one of them is broken or
/// there is none.
pub(super) fn certificates<'a>(
    file: &File,
    blocks: &'a [Block<'a>],
    findings: &mut Findings<'_>,
) -> Option<Vec<Certificate<'a>>> {
    let parsed: Result<Vec<_>, Flaw> = blocks.iter().filter_map(parsed).collect();
    match parsed {
        Err(flaw) => findings.flaw(Reason::BadPem, &file.name, flaw),
        Ok(none) if none.is_empty() => {
            findings.nothing(Reason::BadPem, file, blocks, "certificate", "x509");
        }
        Ok(certificates) => return Some(certificates),
    }
    None
}

fn parsed<'a>(block: &'a Block<'a>) -> Option<Result<Certificate<'a>, Flaw>> {
    let line = block.line;
    match &block.content {
        Content::Certificate(der) => Some(match X509Certificate::from_der(der) {
            Ok(([], x509)) if strict::is_certificate(der) => Ok(Certificate {
                text: block.text,
                x509,
            }),
            _ => Err(Flaw::new(
                format!("the block in line {line} is no valid certificate"),
                "write it again; openssl x509 -in FILE -noout -text shows what it is",
            )),
        }),
        Content::TrustedCertificate => Some(Err(Flaw::new(
            format!("the block in line {line} holds OpenSSL's own trust settings"),
            pem::rewrite("openssl x509"),
        ))),
        _ => None,
    }
}

/// Warns of a certificate that is not valid now, or not for much longer.
pub(super) fn check_dates(
    file: &str,
    certificate: &X509Certificate<'_>,
    findings: &mut Findings<'_>,
) {
    let validity = certificate.validity();
    let (begin, end) = (validity.not_before, validity.not_after);
    let left = system_time(end).duration_since(findings.now);
    let (reason, what, remedy) = if left.is_err() {
        let what = format!("expired on {}", date(end));
        (Reason::Expired, what, "renew it")
    } else if system_time(begin) > findings.now {
        let what = format!("is not yet valid: it is valid only from {}", date(begin));
        let remedy = "check the clocks of this machine and of the CA";
        (Reason::NotYetValid, what, remedy)
    } else if left.is_ok_and(|left| left <= findings.soon) {
        let what = format!("expires on {}", date(end));
        (Reason::ExpiresSoon, what, "renew it")
    } else {
        return;
    };
    let what = format!("the certificate {} {what}", called(certificate));
    findings.warn(reason, file, what, remedy);
}

/// Warns of a certificate whose signature clients no longer believe. A root's does not matter.
pub(super) fn check_signature(
    file: &str,
    certificate: &X509Certificate<'_>,
    findings: &mut Findings<'_>,
) {
    let algorithm = certificate.signature_algorithm.algorithm.to_id_string();
    let weak = WEAK.iter().find(|(id, _)| *id == algorithm);
    if let Some((_, name)) = weak
        && !is_self_issued(certificate)
    {
        let what = format!(
            "the certificate {} is signed with {name}",
            called(certificate)
        );
        let remedy = "have it issued with SHA-256 or better";
        findings.warn(Reason::WeakSignature, file, what, remedy);
    }
}

/// Whether a certificate bears its issuer's name: a root, or its own only witness.
pub(super) fn is_self_issued(certificate: &X509Certificate<'_>) -> bool {
    certificate.subject().as_raw() == certificate.issuer().as_raw()
}

/// Whether the holder of `issuer`'s key signed what `verify` checks. `None` when the algorithm is one
/// that can't be checked here.
pub(super) fn signed_by(
    issuer: &X509Certificate<'_>,
    verify: impl FnOnce(&SubjectPublicKeyInfo<'_>) -> Result<(), X509Error>,
) -> Option<bool> {
    // Smaller RSA keys are refused by the verifier whatever they signed.
    if matches!(KeyType::of_public(issuer.public_key()), KeyType::Rsa(bits) if bits < 2048) {
        return None;
    }
    match verify(issuer.public_key()) {
        Ok(()) => Some(true),
        Err(X509Error::SignatureVerificationError) => Some(false),
        Err(_) => None,
    }
}

/// A date and time as an operator reads it.
pub(super) fn date(time: ASN1Time) -> String {
    let time = time.to_datetime();
    let (date, hour, minute) = (time.date(), time.hour(), time.minute());
    format!("{date} {hour:02}:{minute:02} UTC")
}
