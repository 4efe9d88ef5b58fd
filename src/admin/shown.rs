//! What is shown of one secret, folder or stream.

use std::path::Path;
use std::time::{Duration, SystemTime};

use super::state::{Answer, Condition, Folder, Problem, Secret, Subscriber, Time};
use crate::agent::board::Report;
use crate::credential::{Bundle, CertificateFacts, Pair};
use crate::problem;
use crate::sds::ledger::{self, Account, Delivery};
use crate::secret::{self, Kind};

/// When, and how long before its end a certificate is warned of.
#[derive(Clone, Copy)]
pub(super) struct Dates {
    pub(super) now: SystemTime,
    pub(super) warn: Duration,
}

/// The part of a folder that a secret was made of.
#[derive(Clone, Copy)]
enum Part<'a> {
    Pair(&'a Pair),
    Bundle(&'a Bundle),
}

impl<'a> Part<'a> {
    fn of(report: &'a Report, kind: Kind) -> Option<Self> {
        match kind {
            Kind::Certificate => report.pair.as_deref().map(Self::Pair),
            Kind::TrustBundle => report.bundle.as_deref().map(Self::Bundle),
        }
    }

    fn facts(self) -> &'a [CertificateFacts] {
        match self {
            Self::Pair(pair) => std::slice::from_ref(&pair.facts.leaf),
            Self::Bundle(bundle) => &bundle.facts.certificates,
        }
    }

    fn files(self) -> Vec<String> {
        let mut files = match self {
            Self::Pair(pair) => pair.facts.files.clone(),
            Self::Bundle(bundle) => bundle.facts.files.clone(),
        };
        files.dedup();
        files
    }

    /// The first end that is still to come, or the last one that was: a CA that has ended beside good
    /// ones is no reason to hurry.
    fn end(self, now: SystemTime) -> Option<SystemTime> {
        let ends = || self.facts().iter().map(|facts| facts.not_after);
        ends().filter(|end| *end >= now).min().or(ends().max())
    }

    fn start(self) -> Option<SystemTime> {
        self.facts().iter().map(|facts| facts.not_before).min()
    }
}

/// A secret, the folder that it comes from, and who waits for it.
pub(super) fn secret(
    secret: &secret::Secret,
    report: Option<&Report>,
    subscribers: Vec<Subscriber>,
    dates: Dates,
) -> Secret {
    let part = report.and_then(|report| Part::of(report, secret.kind()));
    let bare = Secret {
        name: secret.name().to_string(),
        kind: secret.kind().as_str().to_owned(),
        version: secret.version().to_string(),
        since: secret.since().into(),
        not_after: part
            .map_or(secret.not_after(), |part| part.end(dates.now))
            .map(Into::into),
        not_before: part.and_then(Part::start).map(Into::into),
        subscribers,
        ..Secret::default()
    };
    let mut shown = match report {
        Some(report) => from_folder(bare, report, part),
        None => bare,
    };
    shown.state = condition(&shown, dates);
    shown
}

/// Adds what the folder says.
fn from_folder(bare: Secret, report: &Report, part: Option<Part<'_>>) -> Secret {
    let pair = match part {
        Some(Part::Pair(pair)) => Some(pair),
        _ => None,
    };
    let leaf = pair.map(|pair| &pair.facts.leaf);
    let facts = part.map_or(&[][..], Part::facts);
    Secret {
        credential: Some(report.name.to_string()),
        root: Some(text(&report.root)),
        folder: Some(text(&report.root.join(&*report.name))),
        files: part.map(Part::files).unwrap_or_default(),
        names: leaf.map(|leaf| leaf.names.clone()).unwrap_or_default(),
        subjects: facts.iter().map(|facts| facts.subject.clone()).collect(),
        issuer: leaf.map(|leaf| leaf.issuer.clone()),
        serial: leaf.map(|leaf| leaf.serial.clone()),
        key_type: pair.map(|pair| pair.facts.key_type.clone()),
        problems: problems(&report.problems),
        warnings: problems(&report.warnings),
        ..bare
    }
}

/// The worst that is to be said of a secret, by the dates that hold now: a warning of the check is as
/// old as the last read.
fn condition(secret: &Secret, Dates { now, warn }: Dates) -> Condition {
    let end = secret.not_after.map(Time::get);
    let start = secret.not_before.map(Time::get);
    let nacked = |s: &Subscriber| s.answer == Answer::Nack;
    if !secret.problems.is_empty() {
        Condition::LastGood
    } else if secret.subscribers.iter().any(nacked) {
        Condition::Nacked
    } else if end.is_some_and(|end| end < now) {
        Condition::Expired
    } else if start.is_some_and(|start| start > now) {
        Condition::NotYetValid
    } else if end.is_some_and(|end| end.duration_since(now).is_ok_and(|left| left <= warn)) {
        Condition::ExpiresSoon
    } else if secret.warnings.iter().any(holds_still) {
        Condition::Warning
    } else {
        Condition::Ok
    }
}

/// Whether a warning of the last read is true still: what was not valid then may be by now.
fn holds_still(warning: &Problem) -> bool {
    warning.reason != problem::Reason::NotYetValid.as_str()
}

/// A folder of which nothing is served.
pub(super) fn folder(report: &Report) -> Folder {
    Folder {
        name: report.name.to_string(),
        state: if report.hidden {
            Condition::Hidden
        } else if report.problems.iter().all(on_purpose) {
            Condition::PassedOver
        } else {
            Condition::Rejected
        },
        root: text(&report.root),
        folder: text(&report.root.join(&*report.name)),
        problems: problems(&report.problems),
    }
}

/// Whether a problem is a rule that the folder falls under, rather than a fault.
fn on_purpose(problem: &problem::Problem) -> bool {
    problem.reason() == problem::Reason::Name
}

/// A stream that waits for a secret, and what it was sent last.
pub(super) fn subscriber(account: &Account, delivery: Delivery) -> Subscriber {
    let peer = account.peer();
    let (answer, answered, error) = match delivery.answer {
        ledger::Answer::None => (Answer::None, None, None),
        ledger::Answer::Ack(at) => (Answer::Ack, Some(at), None),
        ledger::Answer::Nack(at, words) => (Answer::Nack, Some(at), Some(words.to_string())),
    };
    Subscriber {
        protocol: account.protocol().as_str().to_owned(),
        node: account.node_id().to_owned(),
        cluster: account.cluster().to_owned(),
        uid: peer.uid,
        user: peer.user.as_deref().map(str::to_owned),
        pid: peer.pid,
        process: peer.process.as_deref().map(str::to_owned),
        since: account.since().into(),
        version: delivery.version.as_deref().map(str::to_owned),
        sent: delivery.sent.map(Into::into),
        answer,
        answered: answered.map(Into::into),
        error,
    }
}

/// What is wrong with files.
pub(super) fn problems(problems: &[problem::Problem]) -> Vec<Problem> {
    problems
        .iter()
        .map(|problem| Problem {
            reason: problem.reason().as_str().to_owned(),
            path: text(problem.path()),
            what: problem.what().to_owned(),
            remedy: problem.remedy().to_owned(),
        })
        .collect()
}

/// A path as it can be found from everywhere.
pub(super) fn text(path: &Path) -> String {
    let absolute = std::path::absolute(path);
    absolute.as_deref().unwrap_or(path).display().to_string()
}
