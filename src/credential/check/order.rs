//! Whether a chain leads from its leaf to a CA without a gap.

use super::certificate::Certificate;
use super::findings::Findings;
use crate::credential::Bundle;
use crate::credential::facts::{called, distinguished};
use crate::credential::x509::X509;
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
                "the key's certificate, {}, is not the first in the file: it is sent first anyway",
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
fn gap(one: &X509<'_>, next: &X509<'_>, chain: &[Certificate<'_>]) -> Option<String> {
    if next.is_issuer_of(one) {
        let forged = one.signed.is_by(&next.key) == Some(false);
        return forged.then(|| {
            format!(
                "{} has the name of {}'s issuer, but not its key",
                called(next),
                called(one)
            )
        });
    }
    let elsewhere = chain.iter().any(|other| other.x509.is_issuer_of(one));
    Some(if one.is_self_issued() {
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
            distinguished(one.issuer)
        )
    })
}

/// What is wrong with a chain of one certificate: clients must already have the certificate of its issuer. That is
/// assumed if the issuer is the CA of the bundle in the same folder, which is probably a root. For a longer chain,
/// clients are assumed to have the issuer of the last certificate.
///
/// If nothing indicates an intermediate, the issuer is assumed to be a private root.
fn open_end(chain: &[Certificate<'_>], bundle: Option<&Bundle>) -> Option<String> {
    let [Certificate { x509: leaf, .. }] = chain else {
        return None;
    };
    if !leaf.is_from_intermediate() || leaf.is_self_issued() {
        return None;
    }
    let issuer = distinguished(leaf.issuer);
    let mut cas = bundle
        .into_iter()
        .flat_map(|bundle| bundle.facts.certificates.iter());
    let is_missed = !cas.any(|ca| ca.subject() == issuer);
    is_missed.then(|| {
        format!(
            "the issuer of {}, {issuer}, is missing from the chain, and clients need it unless \
                 they trust it directly",
            called(leaf)
        )
    })
}
