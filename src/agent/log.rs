//! Logs and counts what happens to files: one line per event.

use std::borrow::Borrow;
use std::collections::{HashMap, HashSet};
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use tracing::{info, warn};

use crate::files::roots::Listing;
use crate::inventory::{Credential, Event, Key, Reminder, Snapshot};
use crate::metrics::{Limit, Metrics};
use crate::problem::{Problem, Reason};
use crate::secret::Kind;
use crate::text;
use crate::times;

/// How many names of a certificate a line shows.
const NAMES_SHOWN: usize = 10;
/// An expiry less than this ago is logged as one that happened just now.
const JUST_NOW: Duration = Duration::from_secs(60);

/// The problems of roots that were already logged, so that each is logged once.
#[derive(Default)]
pub(super) struct Once {
    logged: HashMap<Arc<Path>, HashSet<String>>,
}

impl Once {
    /// Logs the problems of a listing that are new since the last one.
    pub(super) fn listed(&mut self, root: &Arc<Path>, listing: &Listing, metrics: &Metrics) {
        let too_many = |problem: &Problem| problem.reason() == Reason::TooLarge;
        let present: HashSet<String> = listing.problems.iter().map(ToString::to_string).collect();
        let logged = self.logged.entry(root.clone()).or_default();
        if present != *logged && listing.problems.iter().any(too_many) {
            metrics.limit_reached(Limit::Credentials);
        }
        for line in present.difference(logged) {
            warn!(root = %text::path(root), "not served: {line}");
        }
        *logged = present;
    }
}

/// Logs what happened to a folder.
pub(super) fn event(key: &Key, event: &Event, snapshot: &Snapshot) {
    let path = snapshot.folder_of(key);
    match event {
        Event::Changed { first, warnings } => {
            let Some(credential) = snapshot.credential(key) else {
                return;
            };
            changed(credential, *first, warnings);
            let winner = snapshot.winner(&key.name);
            if let Some(winner) = winner.filter(|winner| winner.root != key.root) {
                warn!(
                    credential = &*key.name,
                    folder = %text::path(&path),
                    "not served: the root {} comes first and has a folder of this name",
                    text::path(&winner.root)
                );
            }
        }
        Event::Rejected {
            kind,
            problems,
            keeps,
        } => warn!(
            credential = &*key.name,
            folder = %text::path(&path),
            kind = kind.map(Kind::as_str),
            reason = problems.first().map(|problem| problem.reason().as_str()),
            "rejected; {}: {}",
            if *keeps { "still serving the previous version" } else { "nothing is served" },
            join(problems)
        ),
        Event::Recovered { kind } => info!(
            credential = &*key.name,
            folder = %text::path(&path),
            kind = kind.map(Kind::as_str),
            "the files are valid again"
        ),
        Event::Removed => info!(
            credential = &*key.name,
            folder = %text::path(&path),
            "removed: it is gone"
        ),
    }
}

/// Logs that a certificate or a staple is expiring, or has expired.
pub(super) fn remind(reminder: &Reminder, snapshot: &Snapshot, now: SystemTime) {
    let Reminder { key, kind, end } = reminder;
    let what = match kind {
        Kind::TrustBundle => "a CA certificate",
        Kind::OcspStaple => "the OCSP staple",
        _ => "the certificate",
    };
    let when = match now.duration_since(*end) {
        Err(_) => format!("expires {}", times::when(*end, now)),
        Ok(past) if past < JUST_NOW => "has expired".to_owned(),
        Ok(_) => format!("expired {}", times::when(*end, now)),
    };
    let secret = snapshot.credential(key).and_then(|one| one.secret(*kind));
    let certificates = secret.map_or(&[][..], |secret| secret.facts().certificates());
    let ending = certificates.iter().filter(|facts| facts.not_after == *end);
    let subjects: Vec<_> = ending.map(|facts| facts.subject()).collect();
    warn!(
        credential = &*key.name,
        folder = %text::path(&snapshot.folder_of(key)),
        subject = (!subjects.is_empty()).then(|| some_of(&subjects, "; ")),
        not_after = times::rfc3339(*end),
        "{what} {when}: renew it"
    );
}

/// Counts what happened to a folder: each reason of a rejection once.
pub(super) fn count(folder: &Path, event: &Event, metrics: &Metrics) {
    match event {
        Event::Changed { .. } => metrics.loaded(),
        Event::Rejected { problems, .. } => {
            let reasons: HashSet<_> = problems.iter().map(Problem::reason).collect();
            reasons
                .into_iter()
                .for_each(|reason| metrics.rejected(reason));
            for problem in problems.iter().filter(|p| p.reason() == Reason::TooLarge) {
                let of_folder = problem.path() == folder;
                metrics.limit_reached(if of_folder {
                    Limit::Files
                } else {
                    Limit::FileBytes
                });
            }
        }
        Event::Recovered { .. } => {}
        Event::Removed => metrics.removed(),
    }
}

fn changed(credential: &Credential, first: bool, warnings: &[Problem]) {
    let facts = |kind| Some(credential.secret(kind)?.facts());
    let leaf = facts(Kind::Certificate).and_then(|facts| facts.certificates().first());
    let bundle = facts(Kind::TrustBundle);
    let kinds: Vec<_> = credential.kinds().map(Kind::as_str).collect();
    info!(
        credential = &*credential.name,
        folder = %text::path(&credential.path()),
        kinds = kinds.join(" "),
        names = leaf.map(|leaf| some_of(&leaf.names().collect::<Vec<_>>(), " ")),
        serial = leaf.map(|leaf| leaf.serial()),
        not_after = leaf.map(|leaf| times::rfc3339(leaf.not_after)),
        cas = bundle.map(|bundle| bundle.certificates().len()),
        "{}",
        if first { "loaded" } else { "rotated" }
    );
    for warning in warnings {
        warn!(
            credential = &*credential.name,
            reason = warning.reason().as_str(),
            "served with a warning: {warning}"
        );
    }
}

/// The first names: a certificate may have thousands of them, and a bundle thousands of certificates.
fn some_of<T: Borrow<str>>(names: &[T], separator: &str) -> String {
    let shown = names[..names.len().min(NAMES_SHOWN)].join(separator);
    match names.len().saturating_sub(NAMES_SHOWN) {
        0 => shown,
        more => format!("{shown} and {more} more"),
    }
}

fn join(problems: &[Problem]) -> String {
    problems
        .iter()
        .map(ToString::to_string)
        .collect::<Vec<_>>()
        .join("; ")
}
