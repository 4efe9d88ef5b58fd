//! A trust bundle, and the revocation lists that go with it.
//!
//! Envoy trusts every certificate of the bundle by itself, whether it is a root or not (BoringSSL's partial
//! chains). But it extends a client's chain with the bundle as far as it can, and takes the first certificate of
//! each name: so an expired root makes its intermediate, or its own renewed certificate, useless.

use std::sync::Arc;

use super::certificate::{Certificate, certificates, check_dates};
use super::crl::{check_lists, lists};
use super::findings::Findings;
use crate::config::TrustOptions;
use crate::credential::contents::Item;
use crate::credential::facts::called;
use crate::credential::pem::{self, Content};
use crate::credential::x509::{self, X509};
use crate::credential::{Bundle, BundleFacts};
use crate::problem::Reason;

/// The trust bundle in the file `trust`, with the revocation lists in `crl`; `None` if there are errors.
pub(crate) fn bundle(
    trust: &Item,
    crl: Option<&Item>,
    options: Arc<TrustOptions>,
    findings: &mut Findings<'_>,
) -> Option<Bundle> {
    let certificates = certificates(trust, findings);
    if let Some(file) = crl {
        findings.blocks(Reason::BadCrl, file)?;
    }
    let certificates = certificates?;
    let cas = cas(&certificates, &trust.name, &options, findings)?;

    // Envoy reads revocation lists from the bundle's file too.
    let mut all_lists = lists(trust, findings)?;
    if let Some(file) = crl {
        let own = lists(file, findings)?;
        if own.is_empty() {
            findings.nothing(Reason::BadCrl, file, "revocation list", "crl");
            return None;
        }
        all_lists.extend(own);
    }
    check_lists(&cas, &all_lists, &options, findings)?;

    let hidden = match options.tolerates_expired() {
        true => Vec::new(),
        false => hindrances(&certificates, &cas, &trust.name, findings),
    };
    let trusted_ca = served(trust, &hidden, findings);
    Some(Bundle {
        trusted_ca,
        crl: crl.map(|file| served(file, &[], findings)),
        facts: BundleFacts {
            certificates: certificates.into_iter().map(|ca| ca.facts).collect(),
            files: [Some(trust), crl]
                .iter()
                .flatten()
                .map(|file| &file.name)
                .collect(),
        },
        options,
    })
}

/// The certificates that can verify a client; `None`, and an error, if there are none, since Envoy would refuse
/// every client.
fn cas<'a, 'b>(
    certificates: &'a [Certificate<'b>],
    file: &str,
    options: &TrustOptions,
    findings: &mut Findings<'_>,
) -> Option<Vec<&'a X509<'b>>> {
    let mut useful = Vec::new();
    let mut useless = Vec::new();
    for Certificate { x509, .. } in certificates {
        match uselessness(x509, options, findings) {
            None => useful.push(x509),
            Some((reason, why)) => useless.push((reason, format!("{} {why}", called(x509)))),
        }
    }
    if useful.is_empty() {
        let whys: Vec<&str> = useless.iter().take(3).map(|(_, why)| &**why).collect();
        let what = format!("every client would be refused: {}", whys.join("; "));
        let remedy = "add the certificates of the CAs that issue the clients' certificates";
        findings.error(Reason::BadTrustBundle, file, what, remedy);
        return None;
    }
    let remedy = "replace it, or remove it from the bundle";
    for (reason, what) in useless {
        findings.warn(reason, file, what, remedy);
    }
    for x509 in &useful {
        check_dates(file, x509, findings);
        warn_of_pin(file, x509, findings);
    }
    Some(useful)
}

/// Why `certificate` can't verify a client.
fn uselessness(
    certificate: &X509<'_>,
    options: &TrustOptions,
    findings: &Findings<'_>,
) -> Option<(Reason, &'static str)> {
    if !is_anchor(certificate) {
        Some((
            Reason::BadTrustBundle,
            "is a CA's certificate whose key usage lacks keyCertSign",
        ))
    } else if options.tolerates_expired() {
        None
    } else if certificate.not_after < findings.now {
        Some((Reason::Expired, "has expired"))
    } else if certificate.not_before > findings.now {
        Some((Reason::NotYetValid, "is not valid yet"))
    } else {
        None
    }
}

/// Whether Envoy admits clients because of a certificate: it belongs to a CA that may sign certificates, or it is
/// not a CA certificate, and then admits only its own holder.
fn is_anchor(certificate: &X509<'_>) -> bool {
    let is_own_witness = certificate.is_self_issued() || !certificate.is_ca();
    is_own_witness || certificate.allows(x509::KEY_CERT_SIGN)
}

fn warn_of_pin(file: &str, certificate: &X509<'_>, findings: &mut Findings<'_>) {
    if !certificate.is_ca() && !certificate.is_self_issued() {
        findings.warn(
            Reason::PinnedPeer,
            file,
            format!(
                "{} is not a CA certificate: it admits only the one peer that has it",
                called(certificate)
            ),
            "to admit all clients of its CA, write the certificate of that CA instead",
        );
    }
}

/// The blocks of certificates that would make Envoy refuse clients of the valid certificates in `cas`: they can't
/// verify clients, and have the same name as one of those or as its issuer.
fn hindrances<'a>(
    certificates: &[Certificate<'a>],
    cas: &[&X509<'_>],
    file: &str,
    findings: &mut Findings<'_>,
) -> Vec<&'a [u8]> {
    let mut hidden = Vec::new();
    for Certificate { text, x509, .. } in certificates {
        let name = x509.subject;
        let is_in_the_way = uselessness(x509, &TrustOptions::default(), findings).is_some()
            && cas.iter().any(|ca| ca.subject == name || ca.issuer == name);
        if is_in_the_way {
            findings.warn(
                Reason::Tidied,
                file,
                format!(
                    "{} is not sent: with it, Envoy would refuse clients of a valid CA too",
                    called(x509)
                ),
                "remove it from the bundle",
            );
            hidden.push(*text);
        }
    }
    hidden
}

/// The file as it is served: without the `hidden` blocks, and without private keys.
fn served(file: &Item, hidden: &[&[u8]], findings: &mut Findings<'_>) -> Vec<u8> {
    let secret = pem::mentions_key(&file.bytes);
    if secret {
        findings.warn(
            Reason::Tidied,
            &file.name,
            "there is a private key in it, which is not sent",
            "remove it from this file",
        );
    } else if hidden.is_empty() && !file.rewritten {
        return file.bytes.to_vec();
    }
    let shown = file.blocks.iter().flatten().filter(|block| {
        matches!(block.content, Content::Certificate(_) | Content::Crl(_))
            && !hidden.contains(&&block.text[..])
    });
    pem::join(shown.map(|block| &block.text[..])).to_vec()
}
