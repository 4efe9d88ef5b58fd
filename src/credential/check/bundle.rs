//! A trust bundle, and the revocation lists that go with it.

use x509_parser::prelude::{X509Certificate, X509Version};

use super::crl::{check_lists, lists};
use super::{Certificate, Findings};
use crate::credential::facts::{called, system_time};
use crate::credential::pem::{self, Block, Content};
use crate::credential::{Bundle, CertificateFacts};
use crate::files::read::File;
use crate::problem::Reason;

/// The trust bundle in the file `trust`, with the revocation lists in `crl`; `None` when there are
/// errors.
pub(crate) fn bundle(
    trust: &File,
    crl: Option<&File>,
    findings: &mut Findings<'_>,
) -> Option<Bundle> {
    let blocks = findings.blocks(Reason::BadPem, trust)?;
    let certificates = findings.certificates(trust, &blocks)?;
    let cas = cas(&certificates, &trust.name, findings)?;

    // Envoy reads revocation lists from the bundle too.
    let own_lists = lists(trust, &blocks, findings)?;
    let crl_blocks = match crl {
        Some(file) => Some(findings.blocks(Reason::BadCrl, file)?),
        None => None,
    };
    let more_lists = match (crl, &crl_blocks) {
        (Some(file), Some(blocks)) => {
            let lists = lists(file, blocks, findings)?;
            if lists.is_empty() {
                let convert = "openssl crl -inform DER -in FILE -out FILE";
                findings.nothing(Reason::BadCrl, file, blocks, "revocation list", convert);
                return None;
            }
            lists
        }
        _ => Vec::new(),
    };
    check_lists(
        &cas,
        own_lists.into_iter().chain(more_lists).collect(),
        findings,
    )?;

    Some(Bundle {
        trusted_ca: served(trust, &blocks, findings),
        crl: crl
            .zip(crl_blocks)
            .map(|(file, blocks)| served(file, &blocks, findings)),
        certificates: certificates
            .iter()
            .map(|ca| CertificateFacts::of(&ca.x509))
            .collect(),
        files: [trust]
            .into_iter()
            .chain(crl)
            .map(|file| file.name.clone())
            .collect(),
    })
}

/// The certificates that vouch for someone; `None`, and an error, when none does, since Envoy would
/// refuse everyone.
fn cas<'a, 'b>(
    certificates: &'a [Certificate<'b>],
    file: &str,
    findings: &mut Findings<'_>,
) -> Option<Vec<&'a X509Certificate<'b>>> {
    let mut useful = Vec::new();
    let mut useless = Vec::new();
    for Certificate { x509, .. } in certificates {
        match uselessness(x509, findings) {
            None => {
                findings.dates(file, x509);
                useful.push(x509);
            }
            Some((reason, why)) => useless.push((reason, format!("{} {why}", called(x509)))),
        }
    }
    if useful.is_empty() {
        let whys: Vec<&str> = useless
            .iter()
            .take(3)
            .map(|(_, why)| why.as_str())
            .collect();
        findings.error(
            Reason::BadTrustBundle,
            file,
            format!("every client would be refused: {}", whys.join("; ")),
            "put the certificates of the CAs there that issue the clients' certificates",
        );
        return None;
    }
    for (reason, what) in useless {
        findings.warn(
            reason,
            file,
            what,
            "replace it, or remove it from the bundle",
        );
    }
    Some(useful)
}

/// Why nothing that `certificate` signed is trusted.
fn uselessness(
    certificate: &X509Certificate<'_>,
    findings: &Findings<'_>,
) -> Option<(Reason, &'static str)> {
    let validity = certificate.validity();
    if !is_ca(certificate) {
        Some((Reason::BadTrustBundle, "is not a CA"))
    } else if system_time(validity.not_after) < findings.now {
        Some((Reason::Expired, "has expired"))
    } else if system_time(validity.not_before) > findings.now {
        Some((Reason::NotYetValid, "is not valid yet"))
    } else {
        None
    }
}

/// Whether BoringSSL takes a certificate for a CA's: it may sign certificates, and says that it is a CA
/// or is a self-signed one of version 1, which has no means to say so.
fn is_ca(certificate: &X509Certificate<'_>) -> bool {
    let may_sign = match certificate.key_usage() {
        Ok(usage) => usage.is_none_or(|usage| usage.value.key_cert_sign()),
        Err(_) => false,
    };
    let first_version = certificate.version() == X509Version::V1
        && certificate.subject().as_raw() == certificate.issuer().as_raw();
    may_sign && (certificate.is_ca() || first_version)
}

/// The file as it is served: without the private keys that someone put there.
fn served(file: &File, blocks: &[Block<'_>], findings: &mut Findings<'_>) -> Vec<u8> {
    if !pem::mentions_key(&file.bytes) {
        return file.bytes.to_vec();
    }
    findings.warn(
        Reason::Tidied,
        &file.name,
        "there is a private key in it, which is not sent",
        "remove it from this file",
    );
    let public = blocks
        .iter()
        .filter(|block| matches!(block.content, Content::Certificate(_) | Content::Crl(_)));
    pem::join(public.map(|block| block.text)).to_vec()
}
