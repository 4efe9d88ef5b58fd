//! What tells an operator what became of the files: one line an event, and its count.

use std::collections::{HashMap, HashSet};
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use tracing::{info, warn};

use super::expiry::{Part, Reminder};
use super::folder::{Event, Folder, Parts};
use super::reading::Key;
use crate::files::roots::Listing;
use crate::metrics::{Limit, Metrics};
use crate::problem::{Problem, Reason};

/// What was already said of the roots, so that it is said once.
#[derive(Default)]
pub(crate) struct Once {
    said: HashMap<Arc<Path>, HashSet<String>>,
}

impl Once {
    /// Logs the problems of a listing that the last one did not have.
    pub(crate) fn listed(&mut self, root: &Arc<Path>, listing: &Listing, metrics: &Metrics) {
        let too_many = |problem: &Problem| problem.reason() == Reason::TooLarge;
        let absent = (!listing.present)
            .then(|| "the root does not exist; it is served as soon as it does".to_owned());
        let present: HashSet<String> = listing
            .problems
            .iter()
            .map(ToString::to_string)
            .chain(absent)
            .collect();
        let said = self.said.entry(root.clone()).or_default();
        if present != *said && listing.problems.iter().any(too_many) {
            metrics.limit_reached(Limit::Credentials);
        }
        for line in present.difference(said) {
            warn!(root = %shown(root), "not served: {line}");
        }
        *said = present;
    }
}

/// Logs what became of a folder. `winner` is the root whose folder of that name is served instead.
pub(crate) fn event(key: &Key, folder: &Folder, event: &Event, winner: Option<&Path>) {
    let path = key.path();
    match event {
        Event::Changed { first, warnings } => {
            changed(key, folder.parts(), *first, warnings);
            if let Some(winner) = winner {
                warn!(
                    credential = &*key.name,
                    folder = %shown(&path),
                    "not served: the root {} comes first and has a folder of this name",
                    shown(winner)
                );
            }
        }
        Event::Rejected { problems, keeps } => warn!(
            credential = &*key.name,
            folder = %shown(&path),
            reason = problems.first().map(|problem| problem.reason().as_str()),
            "rejected, {}: {}",
            if *keeps { "the last good one stays" } else { "nothing is served" },
            join(problems)
        ),
        Event::Recovered => info!(
            credential = &*key.name,
            folder = %shown(&path),
            "the folder is good again"
        ),
        Event::Removed => info!(
            credential = &*key.name,
            folder = %shown(&path),
            "removed: the folder is gone"
        ),
    }
}

/// Logs that a certificate is about to end, or has ended.
pub(crate) fn remind(reminder: &Reminder, now: SystemTime) {
    let Reminder { key, part, end } = reminder;
    let what = match part {
        Part::Certificate => "the certificate",
        Part::Authority => "a CA certificate",
    };
    let days = |time: Duration| time.as_secs() / (24 * 3600);
    let half_a_day = Duration::from_secs(12 * 3600);
    let when = match end.duration_since(now).map(|left| left + half_a_day) {
        Ok(left) if days(left) == 0 => "expires within a day".to_owned(),
        Ok(left) => format!("expires in {}", counted(days(left))),
        Err(past) if days(past.duration()) == 0 => "has expired".to_owned(),
        Err(past) => format!("expired {} ago", counted(days(past.duration()))),
    };
    warn!(
        credential = &*key.name,
        folder = %shown(&key.path()),
        not_after = time(*end),
        "{what} {when}: renew it"
    );
}

fn counted(days: u64) -> String {
    format!("{days} {}", if days == 1 { "day" } else { "days" })
}

/// Counts what became of a folder: each reason of a rejection once.
pub(crate) fn count(folder: &Path, event: &Event, metrics: &Metrics) {
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
        Event::Recovered => {}
        Event::Removed => metrics.removed(),
    }
}

fn changed(key: &Key, parts: &Parts, first: bool, warnings: &[Problem]) {
    let leaf = parts.pair.as_ref().map(|pair| &pair.facts.leaf);
    let bundle = parts.bundle.as_ref();
    info!(
        credential = &*key.name,
        folder = %shown(&key.path()),
        names = leaf.map(|leaf| leaf.names.join(" ")),
        serial = leaf.map(|leaf| leaf.serial.as_str()),
        not_after = leaf.map(|leaf| time(leaf.not_after)),
        cas = bundle.map(|bundle| bundle.facts.certificates.len()),
        "{}",
        if first { "loaded" } else { "rotated" }
    );
    for warning in warnings {
        warn!(
            credential = &*key.name,
            reason = warning.reason().as_str(),
            "served with a warning: {warning}"
        );
    }
}

fn join(problems: &[Problem]) -> String {
    problems
        .iter()
        .map(ToString::to_string)
        .collect::<Vec<_>>()
        .join("; ")
}

/// Paths come from outside: control characters must not forge a line.
fn shown(path: &Path) -> String {
    path.display().to_string().escape_debug().to_string()
}

fn time(time: SystemTime) -> String {
    humantime::format_rfc3339_seconds(time).to_string()
}
