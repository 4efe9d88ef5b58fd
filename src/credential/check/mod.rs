//! All that Envoy would reject, and all that it would accept to its users' harm.
//!
//! What is rejected here was measured with Envoy 1.40; the tests compare the two.

mod bundle;
mod chain;
mod crl;
mod order;

use std::path::Path;
use std::time::{Duration, SystemTime};

use x509_parser::prelude::{ASN1Time, FromDer, SubjectPublicKeyInfo, X509Certificate, X509Error};

pub(crate) use self::bundle::bundle;
pub(crate) use self::chain::pair;
use super::facts::{called, system_time};
use super::key::KeyType;
use super::pem::{self, Block, Content};
use super::strict;
use crate::files::read::File;
use crate::problem::{Problem, Reason};

/// What has been found wrong so far with the files of one folder, and what it is measured by.
pub(crate) struct Findings<'a> {
    /// The credential folder.
    pub(crate) folder: &'a Path,
    /// What decides what has expired.
    pub(crate) now: SystemTime,
    /// A certificate that ends within so many days is warned of.
    pub(crate) warn_days: u32,
    /// What keeps the credential from being served.
    pub(crate) errors: Vec<Problem>,
    /// What does not.
    pub(crate) warnings: Vec<Problem>,
}

/// A certificate of a file.
struct Certificate<'a> {
    /// Its block.
    text: &'a [u8],
    x509: X509Certificate<'a>,
}

impl Findings<'_> {
    /// A problem with a file; in the remedy, FILE stands for its path.
    fn problem(
        &self,
        reason: Reason,
        file: &str,
        what: impl Into<String>,
        remedy: impl Into<String>,
    ) -> Problem {
        let path = self.folder.join(file);
        let remedy = remedy.into().replace("FILE", &quoted(&path));
        Problem::new(reason, path, what, remedy)
    }

    fn error(
        &mut self,
        reason: Reason,
        file: &str,
        what: impl Into<String>,
        remedy: impl Into<String>,
    ) {
        self.errors.push(self.problem(reason, file, what, remedy));
    }

    pub(crate) fn warn(
        &mut self,
        reason: Reason,
        file: &str,
        what: impl Into<String>,
        remedy: impl Into<String>,
    ) {
        self.warnings.push(self.problem(reason, file, what, remedy));
    }

    /// The PEM blocks of a file; `None`, and an error, when Envoy would not read them all.
    fn blocks<'a>(&mut self, reason: Reason, file: &'a File) -> Option<Vec<Block<'a>>> {
        pem::blocks(&file.bytes)
            .map_err(|flaw| self.error(reason, &file.name, flaw.what, flaw.remedy))
            .ok()
    }

    /// The certificates among the blocks of a file; `None`, and an error, when one of them is broken
    /// or there is none.
    fn certificates<'a>(
        &mut self,
        file: &File,
        blocks: &'a [Block<'a>],
    ) -> Option<Vec<Certificate<'a>>> {
        let mut certificates = Vec::new();
        for block in blocks {
            match &block.content {
                Content::Certificate(der) => match X509Certificate::from_der(der) {
                    Ok(([], x509)) if strict::is_certificate(der) => {
                        certificates.push(Certificate {
                            text: block.text,
                            x509,
                        })
                    }
                    _ => {
                        self.error(
                            Reason::BadPem,
                            &file.name,
                            format!("the block in line {} is no valid certificate", block.line),
                            "write the certificate again; openssl x509 -in FILE -noout -text shows what it is",
                        );
                        return None;
                    }
                },
                Content::TrustedCertificate => {
                    self.error(
                        Reason::BadPem,
                        &file.name,
                        format!(
                            "the TRUSTED CERTIFICATE in line {} holds OpenSSL's own trust settings",
                            block.line
                        ),
                        "write it as a plain one: openssl x509 -in FILE -out FILE.new && mv FILE.new FILE",
                    );
                    return None;
                }
                _ => {}
            }
        }
        if certificates.is_empty() {
            self.nothing(
                Reason::BadPem,
                file,
                blocks,
                "certificate",
                "openssl x509 -inform DER -in FILE -out FILE.new && mv FILE.new FILE",
            );
            return None;
        }
        Some(certificates)
    }

    /// An error for a file that lacks what it is there for.
    fn nothing(
        &mut self,
        reason: Reason,
        file: &File,
        blocks: &[Block<'_>],
        wanted: &str,
        convert: &str,
    ) {
        if blocks.is_empty() {
            let (what, remedy) = pem::instead(&file.bytes, convert);
            self.error(reason, &file.name, what, remedy);
        } else {
            self.error(
                reason,
                &file.name,
                format!("there is no {wanted} among the PEM blocks in it"),
                format!("put the {wanted} there"),
            );
        }
    }

    /// Warns of a certificate that is not valid now, or not for much longer.
    fn dates(&mut self, file: &str, certificate: &X509Certificate<'_>) {
        let validity = certificate.validity();
        let name = called(certificate);
        let end = system_time(validity.not_after);
        if end < self.now {
            let what = format!(
                "the certificate {name} expired on {}",
                date(validity.not_after)
            );
            self.warn(Reason::Expired, file, what, "renew it");
        } else if system_time(validity.not_before) > self.now {
            let what = format!(
                "the certificate {name} is not yet valid: its time begins on {}",
                date(validity.not_before)
            );
            self.warn(
                Reason::NotYetValid,
                file,
                what,
                "check the clocks of this machine and of the CA",
            );
        } else if end
            .duration_since(self.now)
            .is_ok_and(|left| left <= self.soon())
        {
            let what = format!(
                "the certificate {name} expires on {}",
                date(validity.not_after)
            );
            self.warn(Reason::ExpiresSoon, file, what, "renew it");
        }
    }

    /// How long before its end a certificate is warned of.
    fn soon(&self) -> Duration {
        Duration::from_secs(u64::from(self.warn_days) * 86_400)
    }

    /// Warns of a certificate whose signature clients no longer believe. A root's does not matter.
    fn signature(&mut self, file: &str, certificate: &X509Certificate<'_>) {
        let algorithm = certificate.signature_algorithm.algorithm.to_id_string();
        let own = certificate.subject().as_raw() == certificate.issuer().as_raw();
        if let Some((_, name)) = WEAK.iter().find(|(oid, _)| *oid == algorithm && !own) {
            let what = format!(
                "the certificate {} is signed with {name}",
                called(certificate)
            );
            self.warn(
                Reason::WeakSignature,
                file,
                what,
                "have it issued with SHA-256 or better",
            );
        }
    }
}

/// A path as a shell takes it.
fn quoted(path: &Path) -> String {
    let path = path.display().to_string().escape_debug().to_string();
    let plain = |char: char| char.is_ascii_alphanumeric() || "/._-+:@%".contains(char);
    if path.chars().all(plain) {
        return path;
    }
    format!("'{}'", path.replace('\'', r"'\''"))
}

/// Signature algorithms that are no longer believed.
const WEAK: [(&str, &str); 3] = [
    ("1.2.840.113549.1.1.4", "MD5"),
    ("1.2.840.113549.1.1.5", "SHA-1"),
    ("1.2.840.10045.4.1", "SHA-1"),
];

/// A date and time as an operator reads it.
fn date(time: ASN1Time) -> String {
    let time = time.to_datetime();
    format!(
        "{} {:02}:{:02} UTC",
        time.date(),
        time.hour(),
        time.minute()
    )
}

/// Whether the holder of `issuer`'s key signed what `verify` checks. `None` when the algorithm is one
/// that can't be checked here.
fn signed_by(
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
