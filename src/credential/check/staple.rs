//! An OCSP staple: sent with the pair if it is valid for the pair's leaf.

use std::time::Duration;

use aws_lc_rs::digest;
use x509_parser::asn1_rs::FromDer;
use x509_parser::prelude::SubjectPublicKeyInfo;

use super::findings::Findings;
use crate::credential::contents::Item;
use crate::credential::facts::{UNKNOWN, hex};
use crate::credential::ocsp::{Response, Status, Unusable};
use crate::credential::pem::Flaw;
use crate::credential::{CertificateFacts, Fingerprint, Staple, StapleFacts};
use crate::problem::Reason;
use crate::times::date;
use crate::validity::Validity;

const SHA1: &[u8] = b"\x2b\x0e\x03\x02\x1a";
const SHA256: &[u8] = b"\x60\x86\x48\x01\x65\x03\x04\x02\x01";

/// How far the responder's clock may be ahead.
const SKEW: Duration = Duration::from_secs(300);

const RENEW: &str = "fetch a new one from the CA's OCSP responder";

/// The certificate that a staple must be for.
pub(crate) struct Stapled<'a> {
    pub(crate) leaf: &'a CertificateFacts,
    /// The issuer's distinguished name, as it is encoded.
    pub(crate) issuer_name: &'a [u8],
    /// The issuer's public key with its algorithm, if it is known.
    pub(crate) issuer_key: Option<&'a [u8]>,
}

/// The staple in `file`; `None` if there are errors. Without a pair, only the staple itself is checked.
pub(crate) fn staple(
    file: &Item,
    of: Option<&Stapled<'_>>,
    findings: &mut Findings<'_>,
) -> Option<Staple> {
    findings.readable(file)?;
    let response = match Response::parse(&file.bytes) {
        Ok(response) => response,
        Err(unusable) => {
            findings.flaw(Reason::BadStaple, &file.name, unusable_flaw(unusable, file));
            return None;
        }
    };
    check_times(&response, file, findings)?;
    check_status(&response, file, findings)?;
    if let Some(of) = of {
        check_subject(&response, of, file, findings)?;
    }
    Some(Staple {
        response: file.bytes.to_vec(),
        facts: StapleFacts {
            issuer: of.map_or(UNKNOWN, |of| of.leaf.issuer()).to_owned(),
            serial: hex(response.serial),
            this_update: response.this_update,
            next_update: response.next_update,
            files: [&file.name].into_iter().collect(),
            fingerprint: Fingerprint::of(&file.bytes),
        },
    })
}

fn unusable_flaw(unusable: Unusable, file: &Item) -> Flaw {
    let is_pem = file.bytes.starts_with(b"-----BEGIN ");
    match unusable {
        Unusable::Broken if is_pem => Flaw::new(
            "it is PEM, and an OCSP staple must be DER",
            "fetch it from the CA's OCSP responder again, as DER",
        ),
        Unusable::Broken if file.bytes.is_empty() => Flaw::new("it is empty", RENEW),
        Unusable::Broken => Flaw::new("it is not a valid OCSP response", RENEW),
        Unusable::NoAnswer => Flaw::new("it contains an error of the OCSP responder", RENEW),
        Unusable::NotOne => Flaw::new(
            "it is not for exactly one certificate, so Envoy does not accept it",
            "request it for the leaf certificate only",
        ),
    }
}

fn check_times(response: &Response<'_>, file: &Item, findings: &mut Findings<'_>) -> Option<()> {
    let begin = response.this_update;
    if begin > findings.now + SKEW {
        let what = format!("the OCSP staple is valid only from {}", date(begin));
        let remedy = "check the clocks of this machine and of the CA";
        findings.error(Reason::NotYetValid, &file.name, what, remedy);
        return None;
    }
    let Some(end) = response.next_update else {
        return Some(());
    };
    if end < findings.now {
        let what = format!("the OCSP staple expired on {}", date(end));
        findings.error(Reason::Expired, &file.name, what, RENEW);
        return None;
    }
    let validity = Validity {
        not_before: begin,
        not_after: end,
    };
    if validity.is_expiring(findings.now, findings.warn_days) {
        let what = format!("the OCSP staple expires on {}", date(end));
        findings.warn(Reason::Expiring, &file.name, what, RENEW);
    }
    Some(())
}

fn check_status(response: &Response<'_>, file: &Item, findings: &mut Findings<'_>) -> Option<()> {
    let (reason, what, remedy) = match response.status {
        Status::Good => return Some(()),
        Status::Revoked(when) => (
            Reason::Revoked,
            format!(
                "the CA has REVOKED the certificate on {}: clients may refuse it at any time",
                date(when)
            ),
            "have a new certificate issued, with a new key if the old one may be known to others",
        ),
        Status::Unknown => (
            Reason::BadStaple,
            "the OCSP responder does not know the certificate".to_owned(),
            "ask the responder that the certificate names, or wait until the CA has published it",
        ),
    };
    findings.error(reason, &file.name, what, remedy);
    None
}

/// Checks that it is for that certificate, and from a responder that is authorized.
fn check_subject(
    response: &Response<'_>,
    of: &Stapled<'_>,
    file: &Item,
    findings: &mut Findings<'_>,
) -> Option<()> {
    let name_hash = match response.hash {
        SHA1 => Some(&digest::SHA1_FOR_LEGACY_USE_ONLY),
        SHA256 => Some(&digest::SHA256),
        _ => None,
    };
    let is_issuer = name_hash.is_none_or(|hash| {
        digest::digest(hash, of.issuer_name).as_ref() == response.issuer_name_hash
    });
    if !is_issuer || hex(response.serial) != of.leaf.serial() {
        findings.error(
            Reason::BadStaple,
            &file.name,
            format!(
                "the OCSP staple is not for {}, but for another certificate",
                of.leaf.subject()
            ),
            RENEW,
        );
        return None;
    }
    let issuer = of
        .issuer_key
        .and_then(|key| SubjectPublicKeyInfo::from_der(key).ok());
    if issuer.and_then(|(_, issuer)| response.is_by(&issuer)) == Some(false) {
        findings.error(
            Reason::BadStaple,
            &file.name,
            "the OCSP staple is not signed by the certificate's issuer",
            RENEW,
        );
        return None;
    }
    Some(())
}
