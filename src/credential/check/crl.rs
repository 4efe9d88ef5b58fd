//! Revocation lists. Once Envoy has one, it refuses every client for whose issuers, up to the root, it
//! has no list that is good: each flaw here would lock clients out, or let revoked ones in.

use x509_parser::prelude::{CertificateRevocationList, FromDer, X509Certificate};

use super::{Findings, date, signed_by};
use crate::credential::facts::{called, distinguished, system_time};
use crate::credential::pem::{Block, Content};
use crate::files::read::File;
use crate::problem::Reason;

/// A revocation list of a file.
pub(super) struct List<'a> {
    file: String,
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
        let Ok(([], x509)) = CertificateRevocationList::from_der(der) else {
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
            x509,
        });
    }
    Some(lists)
}

/// `None`, and errors, unless there is no list at all or each of the CAs has exactly one, which is good.
pub(super) fn check_lists(
    cas: &[&X509Certificate<'_>],
    lists: Vec<List<'_>>,
    findings: &mut Findings<'_>,
) -> Option<()> {
    let Some(first) = lists.first() else {
        return Some(());
    };
    let before = findings.errors.len();
    for (at, list) in lists.iter().enumerate() {
        if let Some((what, remedy)) = flaw(list, cas, findings) {
            findings.error(
                Reason::BadCrl,
                &list.file,
                format!("the revocation list of {} {what}", list.issuer()),
                remedy,
            );
        } else if lists[..at]
            .iter()
            .any(|other| other.x509.issuer().as_raw() == list.x509.issuer().as_raw())
        {
            findings.error(
                Reason::BadCrl,
                &list.file,
                format!(
                    "there are two revocation lists of {}: Envoy heeds the first alone",
                    list.issuer()
                ),
                "leave the newer one",
            );
        }
    }
    for ca in cas {
        if !lists.iter().any(|list| list.is_of(ca)) {
            findings.error(
                Reason::BadCrl,
                &first.file,
                format!(
                    "there is no revocation list of {}: Envoy would refuse all its clients",
                    called(ca)
                ),
                "add its list, or remove that CA from the bundle, or all lists",
            );
        }
    }
    (findings.errors.len() == before).then_some(())
}

impl List<'_> {
    fn issuer(&self) -> String {
        distinguished(self.x509.issuer())
    }

    fn is_of(&self, ca: &X509Certificate<'_>) -> bool {
        self.x509.issuer().as_raw() == ca.subject().as_raw()
    }
}

/// Why Envoy would not go by `list`, and what to do.
fn flaw(
    list: &List<'_>,
    cas: &[&X509Certificate<'_>],
    findings: &Findings<'_>,
) -> Option<(String, &'static str)> {
    let from = list.x509.last_update();
    let until = list.x509.next_update();
    if let Some(until) = until.filter(|until| system_time(*until) < findings.now) {
        return Some((
            format!(
                "expired on {}: Envoy would refuse every client",
                date(until)
            ),
            "fetch the current one",
        ));
    }
    if system_time(from) > findings.now {
        return Some((
            format!(
                "is valid only from {}: Envoy would refuse every client",
                date(from)
            ),
            "check the clocks of this machine and of the CA",
        ));
    }
    if list
        .x509
        .extensions()
        .iter()
        .any(|extension| extension.critical)
    {
        return Some((
            "covers a part alone, or is a delta: Envoy would refuse every client".into(),
            "use a full list without critical extensions",
        ));
    }
    let mut issuers = cas.iter().filter(|ca| list.is_of(ca)).peekable();
    if issuers.peek().is_none() {
        return Some((
            "is of no CA of the bundle".into(),
            "use the list of the bundle's CA, or add its issuer to the bundle",
        ));
    }
    let good = |ca: &&&X509Certificate<'_>| {
        may_sign_lists(ca) && signed_by(ca, |key| list.x509.verify_signature(key)) != Some(false)
    };
    if !issuers.any(|ca| good(&ca)) {
        return Some((
            "is not signed by that CA's key, or the CA's key usage does not include cRLSign".into(),
            "fetch it again from that CA",
        ));
    }
    None
}

fn may_sign_lists(ca: &X509Certificate<'_>) -> bool {
    match ca.key_usage() {
        Ok(usage) => usage.is_none_or(|usage| usage.value.crl_sign()),
        Err(_) => false,
    }
}
