//! Revocation lists. Once Envoy has one, it refuses every client unless it has a valid list for each issuer up to a
//! self-signed one: an invalid list locks clients out, or admits revoked ones.

use super::findings::Findings;
use crate::config::TrustOptions;
use crate::credential::contents::Item;
use crate::credential::facts::{called, distinguished};
use crate::credential::pem::{Content, Flaw};
use crate::credential::x509::{self, List as Parsed, X509};
use crate::problem::Reason;
use crate::times::date;
use crate::validity::Validity;

/// The extension of a list that covers only some of the certificates.
const DISTRIBUTION_POINT: &[u8] = &[0x55, 0x1d, 0x1c];
const AUTHORITY_KEY: &[u8] = &[0x55, 0x1d, 0x23];

/// A revocation list of a file.
pub(super) struct List<'a> {
    file: &'a str,
    der: &'a [u8],
    parsed: Parsed<'a>,
}

/// The revocation lists of a file; `None`, and an error, if one is broken.
pub(super) fn lists<'a>(file: &'a Item, findings: &mut Findings<'_>) -> Option<Vec<List<'a>>> {
    let mut lists = Vec::new();
    for block in file.blocks.iter().flatten() {
        let Content::Crl(der) = &block.content else {
            continue;
        };
        let Some(parsed) = Parsed::parse(der) else {
            findings.error(
                Reason::BadCrl,
                &file.name,
                format!(
                    "the block in line {} is not a valid revocation list",
                    block.line
                ),
                "fetch it again; openssl crl -in FILE -noout -text shows what it is",
            );
            return None;
        };
        lists.push(List {
            file: &file.name,
            der,
            parsed,
        });
    }
    Some(lists)
}

/// Returns `None`, and adds errors, unless there is no list at all, or exactly one valid list for each of the CAs.
pub(super) fn check_lists(
    cas: &[&X509<'_>],
    lists: &[List<'_>],
    options: &TrustOptions,
    findings: &mut Findings<'_>,
) -> Option<()> {
    let Some(first) = lists.first() else {
        return Some(());
    };
    let before = findings.errors.len();
    for (at, list) in lists.iter().enumerate() {
        let flaw = list
            .flaw(cas, findings)
            .or_else(|| list.rival(&lists[..at]));
        if let Some(mut flaw) = flaw {
            flaw.what = format!("the revocation list of {} {}", list.issuer(), flaw.what);
            findings.flaw(Reason::BadCrl, list.file, flaw);
        }
    }
    if findings.errors.len() > before {
        return None;
    }
    for ca in cas {
        if let Some(flaw) = uncovered(ca, cas, lists, options) {
            findings.flaw(Reason::BadCrl, first.file, flaw);
        }
    }
    for list in lists {
        list.warn_of_end(findings);
    }
    (findings.errors.len() == before).then_some(())
}

impl List<'_> {
    fn issuer(&self) -> String {
        distinguished(self.parsed.issuer)
    }

    /// Whether its issuer has the name of `ca`.
    fn names(&self, ca: &X509<'_>) -> bool {
        self.parsed.issuer == ca.subject
    }

    /// Whether `ca` signed it, and is allowed to.
    fn is_of(&self, ca: &X509<'_>) -> bool {
        let signed = || self.parsed.signed.is_by(&ca.key);
        self.names(ca) && ca.allows(x509::CRL_SIGN) && signed() != Some(false)
    }

    /// Why Envoy would refuse clients because of it, and what to do about it. The issuer of a list may be missing
    /// from the bundle: clients send the certificates of intermediate CAs themselves.
    fn flaw(&self, cas: &[&X509<'_>], findings: &Findings<'_>) -> Option<Flaw> {
        let (from, until) = (self.parsed.this_update, self.parsed.next_update);
        if let Some(until) = until.filter(|until| *until < findings.now) {
            let what = format!(
                "expired on {}: Envoy would refuse that CA's clients",
                date(until)
            );
            return Some(Flaw::new(what, "fetch the current one"));
        }
        if from > findings.now {
            let what = format!(
                "is not valid before {}: Envoy would refuse that CA's clients",
                date(from)
            );
            return Some(Flaw::new(
                what,
                "check the clocks of this machine and of the CA",
            ));
        }
        if self.is_partial() {
            let what = "is a delta list, or covers only some certificates: Envoy would refuse that \
                        CA's clients";
            return Some(Flaw::new(what, "use the CA's full list"));
        }
        let named = cas.iter().any(|ca| self.names(ca));
        (named && !cas.iter().any(|ca| self.is_of(ca))).then(|| {
            let what =
                "is not signed with that CA's key, or its key usage does not include cRLSign";
            Flaw::new(what, "fetch it again from that CA")
        })
    }

    /// Whether it has an extension that makes BoringSSL reject the certificates of its issuer.
    fn is_partial(&self) -> bool {
        let mut own = self.parsed.extensions.iter();
        self.parsed.has_critical_entry
            || own.any(|extension| extension.critical || extension.id == DISTRIBUTION_POINT)
    }

    /// Whether one of `others`, which come before it, is used instead.
    fn rival(&self, others: &[List<'_>]) -> Option<Flaw> {
        let mut rivals = others.iter().filter(|other| {
            other.parsed.issuer == self.parsed.issuer
                && other.key_id() == self.key_id()
                && other.der != self.der
        });
        rivals.next().map(|_| {
            let what = "is the second one: Envoy only uses the first, and would admit clients that this one revokes";
            Flaw::new(what, "keep only the newer one")
        })
    }

    /// Warns of a list that should have been replaced by now.
    fn warn_of_end(&self, findings: &mut Findings<'_>) {
        let Some(until) = self.parsed.next_update else {
            return;
        };
        let validity = Validity {
            not_before: self.parsed.this_update,
            not_after: until,
        };
        if validity.is_expiring(findings.now, findings.warn_days) {
            let what = format!(
                "the revocation list of {} expires on {}: from then on, Envoy refuses that CA's \
                 clients",
                self.issuer(),
                date(until)
            );
            findings.warn(Reason::Expiring, self.file, what, "fetch the next one");
        }
    }

    /// The identifier of the key that signed it, as the issuer wrote it: two CAs may have the same name.
    fn key_id(&self) -> Option<&[u8]> {
        self.parsed.extension(AUTHORITY_KEY)
    }
}

/// Why the clients of `ca` would be refused because a list is missing, and what to do about it.
fn uncovered(
    ca: &X509<'_>,
    cas: &[&X509<'_>],
    lists: &[List<'_>],
    options: &TrustOptions,
) -> Option<Flaw> {
    let name = called(ca);
    let is_issuer = || {
        cas.iter()
            .any(|other| !other.is_self_issued() && ca.is_issuer_of(other))
    };
    // Then the list of the CA that issued the client's certificate is enough.
    let is_exempt = options.checks_leaf_alone() && is_issuer();
    if !is_exempt && !lists.iter().any(|list| list.is_of(ca)) {
        let what = format!(
            "there is no revocation list of {name}: Envoy would refuse that CA's \
                            clients"
        );
        let remedy = "add that CA's list, remove the CA from the bundle, or remove all lists";
        return Some(Flaw::new(what, remedy));
    }
    let ends = options.checks_leaf_alone()
        || ca.is_self_issued()
        || cas.iter().any(|other| other.is_issuer_of(ca));
    (!ends).then(|| {
        let what = format!(
            "{name} is not a root certificate, and its issuer is not in the bundle: with a \
             revocation list, Envoy would refuse its clients"
        );
        let remedy = "add the root's certificate to the bundle, and the root's revocation list";
        Flaw::new(what, remedy)
    })
}
