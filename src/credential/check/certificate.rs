//! The certificates of a file: their parsing, dates and signatures.

use super::findings::Findings;
use crate::credential::CertificateFacts;
use crate::credential::contents::Item;
use crate::credential::facts::called;
use crate::credential::pem::{Block, Content, Flaw};
use crate::credential::x509::X509;
use crate::problem::Reason;
use crate::times::date;

/// Signature algorithms that are no longer trusted.
const WEAK: [(&[u8], &str); 3] = [
    (b"\x2a\x86\x48\x86\xf7\x0d\x01\x01\x04", "MD5"), // with RSA
    (b"\x2a\x86\x48\x86\xf7\x0d\x01\x01\x05", "SHA-1"), // with RSA
    (b"\x2a\x86\x48\xce\x3d\x04\x01", "SHA-1"),       // with ECDSA
];

/// A certificate of a file.
pub(super) struct Certificate<'a> {
    /// Its PEM block.
    pub(super) text: &'a [u8],
    pub(super) der: &'a [u8],
    pub(super) x509: X509<'a>,
    pub(super) facts: CertificateFacts,
    /// Whether the facts contain all of its names.
    names_known: bool,
}

/// The certificates of a file; `None`, and an error, if one of them is broken or there is none.
pub(super) fn certificates<'a>(
    file: &'a Item,
    findings: &mut Findings<'_>,
) -> Option<Vec<Certificate<'a>>> {
    let blocks = findings.blocks(Reason::BadPem, file)?;
    let parsed: Result<Vec<_>, Flaw> = blocks.iter().filter_map(parsed).collect();
    match parsed {
        Err(flaw) => findings.flaw(Reason::BadPem, &file.name, flaw),
        Ok(none) if none.is_empty() => {
            findings.nothing(Reason::BadPem, file, "certificate", "x509");
        }
        Ok(certificates) => {
            for certificate in &certificates {
                check_names(&file.name, certificate, findings);
            }
            return Some(certificates);
        }
    }
    None
}

fn parsed(block: &Block) -> Option<Result<Certificate<'_>, Flaw>> {
    let Content::Certificate(der) = &block.content else {
        return None;
    };
    let certificate = X509::parse(der).map(|x509| {
        let (facts, names_known) = CertificateFacts::read(&x509);
        Certificate {
            text: &block.text,
            der,
            x509,
            facts,
            names_known,
        }
    });
    Some(certificate.ok_or_else(|| {
        Flaw::new(
            format!(
                "the block in line {} is not a valid certificate",
                block.line
            ),
            "write it again; openssl x509 -in FILE -noout -text shows what it is",
        )
    }))
}

/// Warns of a certificate whose names can't be shown.
fn check_names(file: &str, certificate: &Certificate<'_>, findings: &mut Findings<'_>) {
    if !certificate.names_known {
        findings.warn(
            Reason::Unparsed,
            file,
            format!(
                "not all names in the certificate {} can be read: Envoy accepts it, but clients \
                 may not",
                called(&certificate.x509)
            ),
            "have it issued again if a client refuses it",
        );
    }
}

/// Warns of a certificate that is not valid now, or expires soon.
pub(super) fn check_dates(file: &str, certificate: &X509<'_>, findings: &mut Findings<'_>) {
    let (begin, end) = (certificate.not_before, certificate.not_after);
    let (reason, what, remedy) = if end < findings.now {
        let what = format!("expired on {}", date(end));
        (Reason::Expired, what, "renew it")
    } else if begin > findings.now {
        let what = format!("is not yet valid: it is valid only from {}", date(begin));
        let remedy = "check the clocks of this machine and of the CA";
        (Reason::NotYetValid, what, remedy)
    } else if certificate
        .validity()
        .is_expiring(findings.now, findings.warn_days)
    {
        let what = format!("expires on {}", date(end));
        (Reason::Expiring, what, "renew it")
    } else {
        return;
    };
    let what = format!("the certificate {} {what}", called(certificate));
    findings.warn(reason, file, what, remedy);
}

/// Warns of a certificate with a signature that clients no longer trust. The signature of a root does not matter.
pub(super) fn check_signature(file: &str, certificate: &X509<'_>, findings: &mut Findings<'_>) {
    let algorithm = certificate.signed.algorithm().unwrap_or_default();
    let weak = WEAK.iter().find(|(id, _)| *id == algorithm);
    if let Some((_, name)) = weak
        && !certificate.is_self_issued()
    {
        let what = format!(
            "the certificate {} is signed with {name}",
            called(certificate)
        );
        let remedy = "have it issued with SHA-256 or better";
        findings.warn(Reason::WeakSignature, file, what, remedy);
    }
}
