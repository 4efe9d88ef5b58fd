//! Revocation lists. Once Envoy has one, it refuses every client unless it has a good list for each
//! issuer on the way to a self-signed one: a flaw here locks clients out, or lets revoked ones in.

use x509_parser::der_parser::{Oid, oid};
use x509_parser::prelude::{CertificateRevocationList, FromDer, X509Certificate};

use super::certificate::{date, is_self_issued, signed_by};
use super::findings::Findings;
use crate::credential::facts::{called, distinguished, system_time};
use crate::credential::pem::{Block, Content, Flaw};
use crate::credential::strict;
use crate::files::read::File;
use crate::problem::Reason;

/// The extension of a list that covers a part of the certificates alone.
const DISTRIBUTION_POINT: Oid<'static> = oid!(2.5.29.28);
const AUTHORITY_KEY: Oid<'static> = oid!(2.5.29.35);

/// A revocation list of a file.
pub(super) struct List<'a> {
    file: String,
    der: &'a [u8],
    x509: CertificateRevocationList<'a>,
}

/// The revocation lists among the blocks of a file; `None`, and an error, when one is broken.
pub(super) fn lists<'a>(
    file: &File,
    blocks: &'a [Block<'a>],
    findings: &mut Findings<'_>,
) -> Option<Vec<List<'a>>> {
    let mut lists = Vec::new();
    for block in blocks {
        let Content::Crl(der) = &block.content else {
            continue;
        };
        let parsed = CertificateRevocationList::from_der(der);
        let Some(([], x509)) = parsed.ok().filter(|_| strict::is_list(der)) else {
            findings.error(
                Reason::BadCrl,
                &file.name,
                format!(
                    "the block in line {} is no valid revocation list",
                    block.line
                ),
                "fetch it again; openssl crl -in FILE -noout -text shows what it is",
            );
            return None;
        };
        lists.push(List {
            file: file.name.clone(),
            der,
            x509,
        });
    }
    Some(lists)
}

/// `None`, and errors, unless there is no list at all, or each of the CAs has exactly one good list.
pub(super) fn check_lists(
    cas: &[&X509Certificate<'_>],
    lists: &[List<'_>],
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
            findings.flaw(Reason::BadCrl, &list.file, flaw);
        }
    }
    if findings.errors.len() > before {
        return None;
    }
    for ca in cas {
        if let Some(flaw) = uncovered(ca, cas, lists) {
            findings.flaw(Reason::BadCrl, &first.file, flaw);
        }
    }
    for list in lists {
        list.warn_of_end(findings);
    }
    (findings.errors.len() == before).then_some(())
}

impl List<'_> {
    fn issuer(&self) -> String {
        distinguished(self.x509.issuer())
    }

    /// Whether it bears the name of `ca`.
    fn names(&self, ca: &X509Certificate<'_>) -> bool {
        self.x509.issuer().as_raw() == ca.subject().as_raw()
    }

    /// Whether `ca` signed it, and may.
    fn is_of(&self, ca: &X509Certificate<'_>) -> bool {
        let may_sign = match ca.key_usage() {
            Ok(usage) => usage.is_none_or(|usage| usage.value.crl_sign()),
            Err(_) => false,
        };
        let signed = || signed_by(ca, |key| self.x509.verify_signature(key));
        self.names(ca) && may_sign && signed() != Some(false)
    }

    /// Why Envoy would refuse clients because of it, and what to do. The issuer of a list may be missing
    /// from the bundle: clients send the certificates of intermediate CAs themselves.
    fn flaw(&self, cas: &[&X509Certificate<'_>], findings: &Findings<'_>) -> Option<Flaw> {
        let (from, until) = (self.x509.last_update(), self.x509.next_update());
        if let Some(until) = until.filter(|until| system_time(*until) < findings.now) {
            let what = format!("ended on {}: Envoy would refuse its clients", date(until));
            return Some(Flaw::new(what, "fetch the current one"));
        }
        if system_time(from) > findings.now {
            let what = format!("begins on {}: Envoy would refuse its clients", date(from));
            return Some(Flaw::new(
                what,
                "check the clocks of this machine and of the CA",
            ));
        }
        if self.is_partial() {
            let what = "is a delta, or covers a part of the certificates alone: Envoy would refuse its clients";
            return Some(Flaw::new(what, "use the CA's full list"));
        }
        let named = cas.iter().any(|ca| self.names(ca));
        (named && !cas.iter().any(|ca| self.is_of(ca))).then(|| {
            let what =
                "is not signed with that CA's key, or its key usage does not include cRLSign";
            Flaw::new(what, "fetch it again from that CA")
        })
    }

    /// Whether it has an extension for which BoringSSL refuses the certificates of its issuer.
    fn is_partial(&self) -> bool {
        let mut own = self.x509.extensions().iter();
        let mut entries = self.x509.iter_revoked_certificates();
        own.any(|extension| extension.critical || extension.oid == DISTRIBUTION_POINT)
            || entries.any(|entry| {
                entry
                    .extensions()
                    .iter()
                    .any(|extension| extension.critical)
            })
    }

    /// Whether one of `others`, which come before it, is heeded in its place.
    fn rival(&self, others: &[List<'_>]) -> Option<Flaw> {
        let mut rivals = others.iter().filter(|other| {
            other.x509.issuer().as_raw() == self.x509.issuer().as_raw()
                && other.key_id() == self.key_id()
                && other.der != self.der
        });
        rivals.next().map(|_| {
            let what = "is the second one: Envoy heeds the first alone, and would let in whom this one revokes";
            Flaw::new(what, "leave the newer one alone")
        })
    }

    /// Warns of a list that should have been replaced by now: less than a quarter of its time is left,
    /// and less than that at which certificates are warned of.
    fn warn_of_end(&self, findings: &mut Findings<'_>) {
        let Some(until) = self.x509.next_update() else {
            return;
        };
        let end = system_time(until);
        let (Ok(left), Ok(whole)) = (
            end.duration_since(findings.now),
            end.duration_since(system_time(self.x509.last_update())),
        ) else {
            return;
        };
        if left < whole / 4 && left <= findings.soon {
            let what = format!(
                "the revocation list of {} ends on {}: Envoy refuses its clients from then on",
                self.issuer(),
                date(until)
            );
            findings.warn(Reason::ExpiresSoon, &self.file, what, "fetch the next one");
        }
    }

    /// By which key it was signed, in the issuer's words: two CAs may have the same name.
    fn key_id(&self) -> Option<&[u8]> {
        self.x509
            .extensions()
            .iter()
            .find(|extension| extension.oid == AUTHORITY_KEY)
            .map(|extension| extension.value)
    }
}

/// Why the clients of `ca` would be refused for want of a list, and what to do.
fn uncovered(
    ca: &X509Certificate<'_>,
    cas: &[&X509Certificate<'_>],
    lists: &[List<'_>],
) -> Option<Flaw> {
    let name = called(ca);
    if !lists.iter().any(|list| list.is_of(ca)) {
        let what = format!("there is no revocation list of {name}: Envoy would refuse its clients");
        let remedy = "add that CA's list, or remove the CA from the bundle, or all lists";
        return Some(Flaw::new(what, remedy));
    }
    let ends = is_self_issued(ca)
        || cas
            .iter()
            .any(|other| other.subject().as_raw() == ca.issuer().as_raw());
    (!ends).then(|| {
        let what = format!(
            "{name} is no root, and its issuer is not in the bundle: with a revocation list, Envoy \
             would refuse its clients"
        );
        let remedy = "add the root's certificate to the bundle, and the root's revocation list";
        Flaw::new(what, remedy)
    })
}
