//! What is shown of one secret, folder or stream.

use std::path::Path;
use std::time::SystemTime;

use super::state::{Answer, Condition, Folder, Problem, Secret, Subscriber, Time};
use crate::inventory::{Credential, Rejection};
use crate::problem;
use crate::sds::ledger::{self, Account, Delivery};
use crate::secret::{self, Facts, Kind};

/// A secret, the credential that it comes from, and who waits for it.
pub(super) fn secret(
    name: &str,
    secret: &secret::Secret,
    credential: &Credential,
    subscribers: Vec<Subscriber>,
    now: SystemTime,
) -> Secret {
    let facts = secret.facts();
    let certificates = facts.certificates();
    let pair = match facts {
        Facts::Certificate(pair) => Some(pair),
        _ => None,
    };
    let staple = secret.staple().map(|staple| staple.facts());
    let files = facts
        .files()
        .iter()
        .chain(staple.iter().flat_map(|s| s.files()));
    let next_update = match staple {
        Some(Facts::OcspStaple(staple)) => staple.next_update,
        _ => None,
    };
    let current = facts.current(now);
    let leaf = pair.map(|pair| &pair.leaf);
    let kinds = [Some(secret.kind()), None];
    let concerns = |rejection: &&Rejection| {
        kinds.contains(&rejection.kind)
            || (pair.is_some() && rejection.kind == Some(Kind::OcspStaple))
    };
    let rejections = credential.rejections.iter().filter(concerns);
    let mut shown = Secret {
        name: name.to_owned(),
        kind: secret.kind().as_str().to_owned(),
        state: Condition::Ok,
        version: secret.version().to_string(),
        since: secret.since().into(),
        not_after: current.map(|one| one.not_after.into()),
        not_before: current.map(|one| one.not_before.into()),
        warn_days: credential.warn_days,
        staple_next_update: next_update.map(Into::into),
        credential: credential.name.to_string(),
        root: text(&credential.root),
        folder: text(&credential.path()),
        files: files.cloned().collect(),
        names: leaf.map(|leaf| leaf.names.clone()).unwrap_or_default(),
        subjects: certificates.iter().map(|one| one.subject.clone()).collect(),
        issuer: leaf.map(|leaf| leaf.issuer.clone()),
        serial: leaf.map(|leaf| leaf.serial.clone()),
        key_type: pair.map(|pair| pair.key_type.clone()),
        problems: rejections.map(|one| problem(&one.problem)).collect(),
        warnings: problems(&credential.warnings),
        subscribers,
    };
    let is_expiring = facts.is_expiring(now, credential.warn_days);
    shown.state = condition(&shown, now, is_expiring);
    shown
}

/// What of a credential is not served: all of it, or the parts that are rejected and have no previous
/// version.
pub(super) fn unserved(credential: &Credential, wins: bool) -> Vec<Folder> {
    let folder = |state, kind: Option<Kind>, problems| Folder {
        name: credential.name.to_string(),
        kind: kind.map(|kind| kind.as_str().to_owned()),
        state,
        root: text(&credential.root),
        folder: text(&credential.path()),
        problems,
    };
    let of = |kind: Option<Kind>| -> Vec<Problem> {
        let rejections = credential.rejections.iter();
        let of_kind = rejections.filter(|one| kind.is_none() || one.kind == kind);
        of_kind.map(|one| problem(&one.problem)).collect()
    };
    if credential.serves() && !wins {
        return vec![folder(Condition::Hidden, None, of(None))];
    }
    if credential.serves() {
        let missing = Kind::ALL
            .into_iter()
            .filter(|kind| *kind != Kind::OcspStaple && credential.secret(*kind).is_none());
        return missing
            .map(|kind| folder(Condition::Rejected, Some(kind), of(Some(kind))))
            .filter(|folder| !folder.problems.is_empty())
            .collect();
    }
    let on_purpose = |one: &Rejection| one.problem.reason() == problem::Reason::Name;
    let state = match credential.rejections.iter().all(on_purpose) {
        true => Condition::PassedOver,
        false => Condition::Rejected,
    };
    match credential.is_empty() {
        true => Vec::new(),
        false => vec![folder(state, None, of(None))],
    }
}

/// The worst that is to be said of a secret, by the dates that hold now: a warning of the check is as
/// old as the last read.
fn condition(secret: &Secret, now: SystemTime, is_expiring: bool) -> Condition {
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
    } else if is_expiring {
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

/// A stream that waits for a secret, and what it was sent last.
pub(super) fn subscriber(
    account: &Account,
    name: &str,
    delivery: Delivery,
    secret: &secret::Secret,
) -> Subscriber {
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
        requested: name.to_owned(),
        current: delivery.version.as_ref() == Some(secret.version()),
        version: delivery.version.as_deref().map(str::to_owned),
        sent: delivery.sent.map(Into::into),
        answer,
        answered: answered.map(Into::into),
        error,
    }
}

/// What is wrong with files.
pub(super) fn problems(problems: &[problem::Problem]) -> Vec<Problem> {
    problems.iter().map(problem).collect()
}

fn problem(problem: &problem::Problem) -> Problem {
    Problem {
        reason: problem.reason().as_str().to_owned(),
        path: text(problem.path()),
        what: problem.what().to_owned(),
        remedy: problem.remedy().to_owned(),
    }
}

/// A path as it can be found from everywhere.
pub(super) fn text(path: &Path) -> String {
    let absolute = std::path::absolute(path);
    absolute.as_deref().unwrap_or(path).display().to_string()
}
