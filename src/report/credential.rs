//! The inventory's credentials and roots → what is shown of them.

use std::collections::HashMap;
use std::path::Path;
use std::time::SystemTime;

use super::{
    Answer, Certificate, Credential, Problem, Report, Root, Secret, Staple, State, Subscriber,
};
use crate::credential::CertificateFacts;
use crate::inventory::{self, Rejection, Snapshot};
use crate::problem::{self, Reason};
use crate::secret::{self, Facts, Kind, Name};

/// The streams that are subscribed to a part of a credential.
pub type Subscribers = HashMap<(Name, Kind), Vec<Subscriber>>;

impl Report {
    /// What is known at `now` about the credentials in `snapshot` and about the streams that are subscribed to
    /// them.
    pub fn of(snapshot: &Snapshot, now: SystemTime, mut subscribers: Subscribers) -> Self {
        let of_folders = snapshot.credentials();
        let of_folders = of_folders.filter(|credential| !credential.is_empty());
        let of_folders = of_folders.map(|credential| {
            let mut of_part = |kind| {
                let id = (credential.name.clone(), kind);
                subscribers.remove(&id).unwrap_or_default()
            };
            match snapshot.winner(&credential.name) {
                Some(winner) if winner.root != credential.root && credential.serves() => {
                    hidden(credential, winner)
                }
                _ => shown(credential, now, &mut of_part),
            }
        });
        let unread = snapshot.roots().iter().flat_map(unread);
        let mut credentials: Vec<_> = of_folders.chain(unread).collect();
        credentials.sort_by_cached_key(|one| {
            let end = one.not_after();
            (one.state, end.is_none(), end, one.name.clone())
        });
        let mut report = Self {
            format: Self::FORMAT,
            now: now.into(),
            state: State::Ok,
            credentials,
            roots: snapshot.roots().iter().map(root).collect(),
        };
        report.state = report.worst();
        report
    }

    /// Adds a warning about `credential`.
    pub fn warn(&mut self, credential: &inventory::Credential, warning: &problem::Problem) {
        let (root, name) = (text(&credential.root), &*credential.name);
        let mut credentials = self.credentials.iter_mut();
        if let Some(shown) = credentials.find(|one| one.root == root && one.name == name) {
            shown.warnings.push(of_problem(warning, None));
        }
    }
}

fn shown(
    credential: &inventory::Credential,
    now: SystemTime,
    subscribers: &mut dyn FnMut(Kind) -> Vec<Subscriber>,
) -> Credential {
    let secrets = credential.secrets();
    let secrets = secrets.map(|(name, secret)| Secret {
        name: name.to_string(),
        ..of_secret(secret, credential, now, subscribers(secret.kind()))
    });
    let mut shown = Credential {
        secrets: secrets.collect(),
        skipped_files: credential.skipped().map(str::to_owned).collect(),
        problems: credential.rejections().iter().map(rejection).collect(),
        warnings: problems(&credential.warnings),
        ..bare(credential)
    };
    shown.state = of_credential(credential, &shown);
    shown
}

/// A credential that is not served because another root has one of the same name.
fn hidden(credential: &inventory::Credential, winner: &inventory::Credential) -> Credential {
    let problem = problem::Problem::new(
        Reason::Name,
        credential.path(),
        format!(
            "{} has the same name, and its root comes first",
            winner.path().display()
        ),
        "rename one of the two, or remove this one",
    );
    Credential {
        state: State::Skipped,
        problems: vec![of_problem(&problem, None)],
        ..bare(credential)
    }
}

fn bare(credential: &inventory::Credential) -> Credential {
    Credential {
        name: credential.name.to_string(),
        root: text(&credential.root),
        folder: text(&credential.path()),
        ..Credential::default()
    }
}

/// What could not be read as a credential in a root, and why.
fn unread(root: &inventory::Root) -> impl Iterator<Item = Credential> {
    let of_entries = root.problems.iter().filter(|one| one.path() != &*root.path);
    of_entries.map(|problem| Credential {
        name: problem
            .path()
            .file_name()
            .unwrap_or_default()
            .to_string_lossy()
            .into_owned(),
        state: of_rejections([problem]),
        root: text(&root.path),
        folder: text(problem.path()),
        problems: vec![of_problem(problem, None)],
        ..Credential::default()
    })
}

fn root(root: &inventory::Root) -> Root {
    let own = || root.problems.iter().filter(|one| one.path() == &*root.path);
    let is_warning = |problem: &&problem::Problem| match problem.reason() {
        Reason::Incomplete => true,
        Reason::Layout => root.folders() > 0,
        _ => false,
    };
    let shown = |problem| of_problem(problem, None);
    let problems: Vec<_> = own().filter(|one| !is_warning(one)).map(shown).collect();
    Root {
        path: text(&root.path),
        state: match problems.is_empty() {
            true => State::Ok,
            false => State::Rejected,
        },
        read: root.is_read(),
        present: root.present,
        listed: root.listed,
        readable: root.is_readable(),
        folders: root.folders(),
        problems,
        warnings: own().filter(is_warning).map(shown).collect(),
    }
}

fn of_secret(
    secret: &secret::Secret,
    credential: &inventory::Credential,
    now: SystemTime,
    subscribers: Vec<Subscriber>,
) -> Secret {
    let facts = secret.facts();
    let pair = match facts {
        Facts::Certificate(pair) => Some(pair),
        _ => None,
    };
    let staple = match secret.staple().map(|staple| staple.facts()) {
        Some(Facts::OcspStaple(staple)) => Some(staple),
        _ => None,
    };
    let files = facts.files().iter();
    let intermediates = pair.iter().flat_map(|pair| &*pair.intermediates);
    let certificates = facts.certificates().iter().chain(intermediates);
    let current = facts.current(now);
    let mut shown = Secret {
        kind: secret.kind().as_str().to_owned(),
        version: secret.version().to_string(),
        since: secret.since().into(),
        is_previous: is_previous(secret, credential),
        not_before: current.map(|one| one.not_before.into()),
        not_after: current.map(|one| one.not_after.into()),
        warn_days: credential.warn_days,
        files: files
            .chain(staple.iter().flat_map(|staple| staple.files.iter()))
            .map(str::to_owned)
            .collect(),
        key_type: pair.map(|pair| pair.key_type.to_string()),
        certificates: certificates.map(certificate).collect(),
        staple: staple.map(|staple| Staple {
            this_update: staple.this_update.into(),
            next_update: staple.next_update.map(Into::into),
        }),
        subscribers,
        ..Secret::default()
    };
    shown.state = state(secret, &shown, credential, now);
    shown
}

fn certificate(facts: &CertificateFacts) -> Certificate {
    Certificate {
        subject: facts.subject().to_owned(),
        issuer: facts.issuer().to_owned(),
        serial: facts.serial().to_owned(),
        names: facts.names().map(str::to_owned).collect(),
        not_before: facts.not_before.into(),
        not_after: facts.not_after.into(),
    }
}

/// Whether the current files of a secret, including its staple, were rejected.
fn is_previous(secret: &secret::Secret, credential: &inventory::Credential) -> bool {
    let has_staple = secret.kind() == Kind::Certificate;
    credential.rejections().iter().any(|rejection| {
        rejection
            .kind
            .is_none_or(|kind| kind == secret.kind() || (has_staple && kind == Kind::OcspStaple))
    })
}

/// The state of a secret. Dates are compared again, because a warning is as old as the last read.
fn state(
    secret: &secret::Secret,
    shown: &Secret,
    credential: &inventory::Credential,
    now: SystemTime,
) -> State {
    let start = shown.not_before.is_some_and(|start| start.get() > now);
    let end = shown.not_after.map(|end| end.get());
    let refused = |one: &Subscriber| one.answer == Answer::Nack;
    let is_warned = |reason, files: &[&str]| {
        let paths = || files.iter().map(|file| credential.path().join(file));
        let of_reason = |one: &&problem::Problem| one.reason() == reason;
        let mut warnings = credential.warnings.iter().filter(of_reason);
        warnings.any(|warning| paths().any(|path| path == warning.path()))
    };
    // An expired CA next to valid ones needs no action.
    let of_chain: Vec<_> = match secret.kind() {
        Kind::Certificate => secret.facts().files().iter().collect(),
        _ => Vec::new(),
    };
    let of_all: Vec<_> = shown.files.iter().map(String::as_str).collect();
    if shown.is_previous || start || shown.subscribers.iter().any(refused) {
        State::Rejected
    } else if end.is_some_and(|end| end < now) || is_warned(Reason::Expired, &of_chain) {
        State::Expired
    } else if secret.facts().is_expiring(now, credential.warn_days)
        || is_warned(Reason::Expiring, &of_all)
    {
        State::Expiring
    } else {
        State::Ok
    }
}

fn of_credential(credential: &inventory::Credential, shown: &Credential) -> State {
    let rejections = || credential.rejections().iter().map(|one| &one.problem);
    let of_files = match rejections().next() {
        None => State::Ok,
        Some(_) => of_rejections(rejections()),
    };
    let secrets = shown.secrets.iter().map(|secret| secret.state);
    secrets.min().map_or(of_files, |worst| worst.min(of_files))
}

/// The state of files that are not served because of these problems.
fn of_rejections<'a>(problems: impl IntoIterator<Item = &'a problem::Problem>) -> State {
    let on_purpose = |problem: &problem::Problem| problem.reason() == Reason::Name;
    match problems.into_iter().all(on_purpose) {
        true => State::Skipped,
        false => State::Rejected,
    }
}

fn rejection(rejection: &Rejection) -> Problem {
    of_problem(&rejection.problem, rejection.kind)
}

fn problems(problems: &[problem::Problem]) -> Vec<Problem> {
    let shown = problems.iter().map(|one| of_problem(one, None));
    shown.collect()
}

fn of_problem(problem: &problem::Problem, kind: Option<Kind>) -> Problem {
    Problem {
        kind: kind.map(|kind| kind.as_str().to_owned()),
        reason: problem.reason().as_str().to_owned(),
        path: text(problem.path()),
        what: problem.what().to_owned(),
        remedy: problem.remedy().into_owned(),
    }
}

/// A path as it can be found from everywhere.
pub(crate) fn text(path: &Path) -> String {
    let absolute = std::path::absolute(path);
    absolute.as_deref().unwrap_or(path).display().to_string()
}
