//! Whether a chain leads from its leaf to a CA without a gap.

use x509_parser::prelude::X509Certificate;

use super::certificate::{Certificate, signed_by};
use super::findings::Findings;
use crate::credential::Bundle;
use crate::credential::facts::{called, distinguished};
use crate::problem::Reason;

/// Warns of a chain that clients may not be able to follow. Its leaf was at `place` in `file`, and comes
/// first in `chain`.
pub(super) fn check_order(
    chain: &[Certificate<'_>],
    place: usize,
    bundle: Option<&Bundle>,
    file: &str,
    findings: &mut Findings<'_>,
) {
    let leaf = &chain[0].x509;
    if place > 0 {
        findings.warn(
            Reason::ChainOrder,
            file,
            format!(
                "the key's certificate, {}, is not the first: it is sent first all the same",
                called(leaf)
            ),
            "write the key's certificate first, each one followed by its issuer's",
        );
        return;
    }
    let gap = chain
        .windows(2)
        .find_map(|two| gap(&two[0].x509, &two[1].x509, chain))
        .or_else(|| open_end(chain, bundle));
    if let Some(what) = gap {
        findings.warn(
            Reason::ChainOrder,
            file,
            what,
            "write the whole chain: the key's certificate, and each one followed by its issuer's",
        );
    }
}

/// What is wrong with `next` after `one`.
fn gap(
    one: &X509Certificate<'_>,
    next: &X509Certificate<'_>,
    chain: &[Certificate<'_>],
) -> Option<String> {
    if is_issuer(next, one) {
        let forged = signed_by(next, |key| one.verify_signature(Some(key))) == Some(false);
        return forged.then(|| {
            format!(
                "{} has the name of {}'s issuer, but not its key",
                called(next),
                called(one)
            )
        });
    }
    let elsewhere = chain.iter().any(|other| is_issuer(&other.x509, one));
    Some(if is_issuer(one, one) {
        format!(
            "{} follows {}, which is self-signed and ends the chain",
            called(next),
            called(one)
        )
    } else if elsewhere {
        format!(
            "the chain is out of order: {} is not followed by its issuer",
            called(one)
        )
    } else {
        format!(
            "the issuer of {}, {}, is missing from the chain",
            called(one),
            distinguished(one.issuer())
        )
    })
}

/// What is wrong with a chain of one certificate, unless its issuer may well be a root: with a longer
/// chain, clients are taken to have the issuer of the last one.
fn open_end(chain: &[Certificate<'_>], bundle: Option<&Bundle>) -> Option<String> {
    let [Certificate { x509: leaf, .. }] = chain else {
        return None;
    };
    let issuer = distinguished(leaf.issuer());
    let known = bundle.is_some_and(|bundle| {
        bundle
            .facts
            .certificates
            .iter()
            .any(|ca| ca.subject == issuer)
    });
    (!known && !is_issuer(leaf, leaf)).then(|| {
        format!("the issuer of {}, {issuer}, is missing from the chain, which clients need unless they trust it itself", called(leaf))
    })
}

fn is_issuer(issuer: &X509Certificate<'_>, of: &X509Certificate<'_>) -> bool {
    issuer.subject().as_raw() == of.issuer().as_raw()
}
