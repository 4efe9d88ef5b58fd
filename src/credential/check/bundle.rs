//! A trust bundle, and the revocation lists that go with it.
//!
//! Envoy trusts every certificate of the bundle by itself (BoringSSL's partial chains), root or not.
//! Still it follows a client's chain as far as the bundle leads, by the first certificate of each
//! name: an expired root keeps its intermediate, or its own renewed certificate, from being of use.

use x509_parser::prelude::X509Certificate;

use super::certificate::{Certificate, certificates, check_dates, is_self_issued};
use super::crl::{check_lists, lists};
use super::findings::Findings;
use crate::credential::facts::{called, system_time};
use crate::credential::pem::{self, Block, Content};
use crate::credential::{Bundle, BundleFacts, CertificateFacts};
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
    let certificates = certificates(trust, &blocks, findings)?;
    let cas = cas(&certificates, &trust.name, findings)?;

    let crl_blocks = match crl {
        Some(file) => Some((file, findings.blocks(Reason::BadCrl, file)?)),
        None => None,
    };
    // Envoy reads revocation lists from the bundle's file too.
    let mut all_lists = lists(trust, &blocks, findings)?;
    if let Some((file, blocks)) = &crl_blocks {
        let own = lists(file, blocks, findings)?;
        if own.is_empty() {
            findings.nothing(Reason::BadCrl, file, blocks, "revocation list", "crl");
            return None;
        }
        all_lists.extend(own);
    }
    check_lists(&cas, &all_lists, findings)?;

    let hidden = hindrances(&certificates, &cas, &trust.name, findings);
    Some(Bundle {
        trusted_ca: served(trust, &blocks, &hidden, findings),
        crl: crl_blocks.map(|(file, blocks)| served(file, &blocks, &[], findings)),
        facts: BundleFacts {
            certificates: certificates
                .iter()
                .map(|ca| CertificateFacts::of(&ca.x509))
                .collect(),
            files: [Some(trust), crl]
                .iter()
                .flatten()
                .map(|file| file.name.clone())
                .collect(),
        },
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
            None => useful.push(x509),
            Some((reason, why)) => useless.push((reason, format!("{} {why}", called(x509)))),
        }
    }
    if useful.is_empty() {
        let whys: Vec<&str> = useless.iter().take(3).map(|(_, why)| &**why).collect();
        let what = format!("every client would be refused: {}", whys.join("; "));
        let remedy = "put the certificates of the CAs there that issue the clients' certificates";
        findings.error(Reason::BadTrustBundle, file, what, remedy);
        return None;
    }
    let remedy = "replace it, or remove it from the bundle";
    for (reason, what) in useless {
        findings.warn(reason, file, what, remedy);
    }
    for x509 in &useful {
        check_dates(file, x509, findings);
    }
    Some(useful)
}

/// Why nobody is trusted by virtue of `certificate`.
fn uselessness(
    certificate: &X509Certificate<'_>,
    findings: &Findings<'_>,
) -> Option<(Reason, &'static str)> {
    let validity = certificate.validity();
    if !is_anchor(certificate) {
        Some((
            Reason::BadTrustBundle,
            "is not a CA's certificate, but one that a CA issued",
        ))
    } else if system_time(validity.not_after) < findings.now {
        Some((Reason::Expired, "has expired"))
    } else if system_time(validity.not_before) > findings.now {
        Some((Reason::NotYetValid, "is not valid yet"))
    } else {
        None
    }
}

/// Whether Envoy lets anyone in for a certificate: a CA's that may sign certificates, or a self-signed
/// one of any kind, by which its own holder is known.
fn is_anchor(certificate: &X509Certificate<'_>) -> bool {
    let may_sign = match certificate.key_usage() {
        Ok(usage) => usage.is_none_or(|usage| usage.value.key_cert_sign()),
        Err(_) => false,
    };
    is_self_issued(certificate) || (certificate.is_ca() && may_sign)
}

/// The certificates by which Envoy would refuse what the good ones of `cas` vouch for: out of date, and
/// of the same name as one of them or as its issuer. Their blocks.
fn hindrances<'a>(
    certificates: &[Certificate<'a>],
    cas: &[&X509Certificate<'_>],
    file: &str,
    findings: &mut Findings<'_>,
) -> Vec<&'a [u8]> {
    let mut hidden = Vec::new();
    for Certificate { text, x509 } in certificates {
        let name = x509.subject().as_raw();
        let is_in_the_way = uselessness(x509, findings).is_some()
            && cas
                .iter()
                .any(|ca| ca.subject().as_raw() == name || ca.issuer().as_raw() == name);
        if is_in_the_way {
            findings.warn(
                Reason::Tidied,
                file,
                format!(
                    "{} is not sent: with it, Envoy would refuse clients of a good CA too",
                    called(x509)
                ),
                "remove it from the bundle",
            );
            hidden.push(*text);
        }
    }
    hidden
}

/// The file as it is served: without the `hidden` blocks, and without the private keys that someone
/// put there.
fn served(
    file: &File,
    blocks: &[Block<'_>],
    hidden: &[&[u8]],
    findings: &mut Findings<'_>,
) -> Vec<u8> {
    let secret = pem::mentions_key(&file.bytes);
    if secret {
        findings.warn(
            Reason::Tidied,
            &file.name,
            "there is a private key in it, which is not sent",
            "remove it from this file",
        );
    } else if hidden.is_empty() {
        return file.bytes.to_vec();
    }
    let shown = blocks.iter().filter(|block| {
        matches!(block.content, Content::Certificate(_) | Content::Crl(_))
            && !hidden.contains(&block.text)
    });
    pem::join(shown.map(|block| block.text)).to_vec()
}
