//! Finds the parts of an object's content that sds-agent would reject. They replace nothing on disk.
//!
//! This is the only module that uses the agent's check.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::time::SystemTime;

use sds_agent::credential::{Credential, Verdict, from_files};
use sds_agent::files::read::File;

use crate::select::Files;

/// A part of a credential, which is checked separately.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Part {
    /// The certificate chain with its key.
    Pair,
    /// The OCSP response that goes with the pair.
    Staple,
    /// The CAs and revocation lists.
    Bundle,
    /// TLS session ticket keys.
    TicketKeys,
    /// A generic secret.
    Generic,
}

impl Part {
    /// The part that a file of this name belongs to.
    pub(crate) fn of(file: &str) -> Self {
        match file {
            "ca.crt" | "cacert" | "root-cert.pem" | "svid_bundle.pem" | "ca.pem" | "ca.crl"
            | "crl.pem" => Self::Bundle,
            "tls.ocsp-staple" | "ocsp.der" => Self::Staple,
            "secret" | "secret.bin" => Self::Generic,
            _ if file.ends_with(".ocsp") => Self::Staple,
            _ if file.ends_with(".ticketkey") => Self::TicketKeys,
            _ => Self::Pair,
        }
    }

    /// The part's name in messages.
    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Self::Pair => "certificate and key",
            Self::Staple => "OCSP staple",
            Self::Bundle => "CA bundle",
            Self::TicketKeys => "ticket keys",
            Self::Generic => "generic secret",
        }
    }

    /// Why sds-agent would not serve this part; `None` if it would.
    fn objection(self, credential: &Credential) -> Option<String> {
        match self {
            Self::Pair => objection(&credential.pair),
            Self::Staple => objection(&credential.staple),
            Self::Bundle => objection(&credential.bundle),
            Self::TicketKeys => objection(&credential.ticket_keys),
            Self::Generic => objection(&credential.generic),
        }
    }
}

fn objection<T>(verdict: &Verdict<T>) -> Option<String> {
    if verdict.part.is_some() {
        return None;
    }
    let reasons = verdict.problems.iter().chain(&verdict.warnings);
    let texts: Vec<String> = reasons.map(ToString::to_string).collect();
    Some(match texts.is_empty() {
        true => "its files do not make up a part of a credential".to_owned(),
        false => texts.join("; "),
    })
}

/// The parts that sds-agent would reject, each with the reason. `folder` is the path that the files will have.
pub(crate) fn rejected(folder: &Path, files: &Files) -> BTreeMap<Part, String> {
    let parts: BTreeSet<Part> = files.keys().map(|name| Part::of(name)).collect();
    let files = files.iter().map(|(name, bytes)| File {
        name: name.clone(),
        bytes: bytes.clone(),
        mode: 0o640,
    });
    let credential = from_files(folder, files.collect(), SystemTime::now(), 0);
    let objections = parts
        .into_iter()
        .filter_map(|part| Some((part, part.objection(&credential)?)));
    let mut rejected: BTreeMap<Part, String> = objections.collect();
    // A staple is for one certificate, so it can't be used with the previous one.
    if rejected.contains_key(&Part::Pair) {
        let why = || "its certificate is rejected".to_owned();
        rejected.entry(Part::Staple).or_insert_with(why);
    }
    rejected
}
