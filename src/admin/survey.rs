//! The agent's parts → the [`State`] that is shown.

use std::collections::{BTreeMap, HashMap};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use super::health::Health;
use super::state::{
    Agent, Answer, Condition, Folder, PolledPath, Problem, Root, Secret, State, Streams,
    Subscriber, Waiting, WaitingName, Watch,
};
use crate::agent::board::{Board, Report};
use crate::credential::CertificateFacts;
use crate::problem;
use crate::sds::ledger::{self, Account, Delivery, Ledger, Protocol};
use crate::secret::{self, Kind};
use crate::store::Store;

const DAY: Duration = Duration::from_secs(24 * 3600);

/// What a trust bundle's name ends in where its folder's does not.
const CACERT: &str = "-cacert";

/// Where everything that is shown comes from.
#[derive(Clone)]
pub struct Sources {
    /// The files.
    pub board: Arc<Board>,
    /// The secrets.
    pub store: Arc<Store>,
    /// The streams.
    pub ledger: Arc<Ledger>,
    /// The health.
    pub health: Arc<Health>,
    /// When the agent was started.
    pub started: (SystemTime, Instant),
    /// Its configuration file, if any.
    pub config: Option<PathBuf>,
    /// The socket for Envoy.
    pub socket: PathBuf,
}

impl Sources {
    /// The state at this moment. Takes time in proportion to what there is.
    pub fn survey(&self) -> State {
        let now = SystemTime::now();
        let reports = self.board.reports();
        let accounts = self.ledger.accounts();
        let (mut subscribers, waiting) = self.subscriptions(&accounts);
        let folders = Folders::new(&reports);
        let warn = DAY * self.board.warn_days();
        let mut secrets: Vec<_> = self
            .store
            .secrets()
            .iter()
            .map(|secret| {
                let subscribers = subscribers.remove(secret.name()).unwrap_or_default();
                let mut shown = of_secret(secret, folders.of(secret), subscribers, now);
                shown.state = condition(&shown, now, warn);
                shown
            })
            .collect();
        secrets.sort_unstable_by(|a, b| (a.state, &a.name).cmp(&(b.state, &b.name)));
        State {
            agent: self.agent(now, &accounts),
            secrets,
            folders: reports
                .iter()
                .filter(|r| r.hidden || !serves(r))
                .map(unserved)
                .collect(),
            waiting,
            roots: self.roots(),
            watch: self.watch(),
        }
    }

    fn agent(&self, now: SystemTime, accounts: &[Arc<Account>]) -> Agent {
        let count = |protocol| {
            let streams = accounts.iter().filter(|a| a.protocol() == protocol);
            streams.count() as u64
        };
        let waiting_for = self.health.waits_for();
        Agent {
            version: crate::VERSION.to_owned(),
            pid: std::process::id(),
            started: self.started.0.into(),
            uptime_seconds: self.started.1.elapsed().as_secs(),
            now: now.into(),
            config: self.config.as_deref().map(text),
            socket: text(&self.socket),
            warn_days: self.board.warn_days(),
            ready: waiting_for.is_empty(),
            waiting_for,
            streams: Streams {
                sotw: count(Protocol::Sotw),
                delta: count(Protocol::Delta),
                fetch: count(Protocol::Fetch),
            },
        }
    }

    /// Who waits for which secret, and what is waited for that does not exist.
    fn subscriptions(
        &self,
        accounts: &[Arc<Account>],
    ) -> (HashMap<secret::Name, Vec<Subscriber>>, Waiting) {
        let mut subscribers = HashMap::<_, Vec<_>>::new();
        let mut absent = BTreeMap::<_, usize>::new();
        for account in accounts {
            for (name, delivery) in account.deliveries() {
                match self.store.get(&name) {
                    Some(secret) => subscribers
                        .entry(secret.name().clone())
                        .or_default()
                        .push(subscriber(account, delivery)),
                    None => *absent.entry(name).or_default() += 1,
                }
            }
        }
        let shown = absent.iter().take(Waiting::SHOWN);
        let names = shown.map(|(name, streams)| WaitingName {
            name: name.to_string(),
            streams: *streams,
        });
        let waiting = Waiting {
            total: absent.len(),
            names: names.collect(),
        };
        (subscribers, waiting)
    }

    fn roots(&self) -> Vec<Root> {
        let roots = self.board.roots().into_iter();
        roots
            .map(|root| Root {
                path: text(&root.path),
                read: root.read,
                present: root.present,
                folders: root.folders,
                problems: problems(&root.problems),
            })
            .collect()
    }

    fn watch(&self) -> Watch {
        let state = self.board.watch();
        let mut polled = BTreeMap::<_, u64>::new();
        for (_, why) in &state.polled {
            *polled.entry(why.as_str().to_owned()).or_default() += 1;
        }
        let shown = state.polled.iter().take(Watch::SHOWN);
        let polled_paths = shown.map(|(path, why)| PolledPath {
            path: text(path),
            reason: why.as_str().to_owned(),
            remedy: why.remedy().to_owned(),
        });
        Watch {
            directories: state.directories,
            overflows: state.overflows,
            refusals: state.refusals,
            rebuilds: state.rebuilds,
            missed: state.missed,
            polled,
            polled_paths: polled_paths.collect(),
        }
    }
}

/// The folders that serve something, by name.
struct Folders<'a>(HashMap<&'a str, &'a Report>);

impl<'a> Folders<'a> {
    fn new(reports: &'a [Report]) -> Self {
        let serving = reports.iter().filter(|r| serves(r) && !r.hidden);
        Self(serving.map(|report| (&*report.name, report)).collect())
    }

    /// The folder that a secret comes from. None in the moment in which it changes.
    fn of(&self, secret: &secret::Secret) -> Option<&'a Report> {
        let own = self.0.get(&**secret.name()).copied();
        match secret.kind() {
            Kind::Certificate => own.filter(|report| report.pair.is_some()),
            Kind::TrustBundle => own
                .filter(|report| report.bundle.is_some())
                .or_else(|| self.0.get(secret.name().strip_suffix(CACERT)?).copied()),
        }
    }
}

fn serves(report: &Report) -> bool {
    report.pair.is_some() || report.bundle.is_some()
}

fn of_secret(
    secret: &secret::Secret,
    report: Option<&Report>,
    subscribers: Vec<Subscriber>,
    now: SystemTime,
) -> Secret {
    let is_pair = secret.kind() == Kind::Certificate;
    let pair = report.and_then(|r| r.pair.as_ref()).filter(|_| is_pair);
    let bundle = report.and_then(|r| r.bundle.as_ref()).filter(|_| !is_pair);
    let facts: Vec<&CertificateFacts> = match (pair, bundle) {
        (Some(pair), _) => vec![&pair.leaf],
        (_, Some(bundle)) => bundle.certificates.iter().collect(),
        _ => Vec::new(),
    };
    let leaf = pair.map(|pair| &pair.leaf);
    let mut files: Vec<_> = match (pair, bundle) {
        (Some(pair), _) => pair.files.to_vec(),
        (_, Some(bundle)) => bundle.files.clone(),
        _ => Vec::new(),
    };
    files.dedup();
    Secret {
        name: secret.name().to_string(),
        kind: secret.kind().as_str().to_owned(),
        state: Condition::Ok,
        version: secret.version().to_string(),
        since: secret.since().into(),
        not_after: end(&facts, now).or(secret.not_after()).map(Into::into),
        not_before: facts.iter().map(|f| f.not_before).min().map(Into::into),
        credential: report.map(|report| report.name.to_string()),
        root: report.map(|report| text(&report.root)),
        folder: report.map(|report| text(&report.root.join(&*report.name))),
        files,
        names: leaf.map(|leaf| leaf.names.clone()).unwrap_or_default(),
        subjects: facts.iter().map(|f| f.subject.clone()).collect(),
        issuer: leaf.map(|leaf| leaf.issuer.clone()),
        serial: leaf.map(|leaf| leaf.serial.clone()),
        key_type: pair.map(|pair| pair.key_type.clone()),
        problems: report.map(|r| problems(&r.problems)).unwrap_or_default(),
        warnings: report.map(|r| problems(&r.warnings)).unwrap_or_default(),
        subscribers,
    }
}

/// The first end that is still to come, or the last one that was: a CA that has ended beside good ones
/// is no reason to hurry.
fn end(facts: &[&CertificateFacts], now: SystemTime) -> Option<SystemTime> {
    let ends = || facts.iter().map(|facts| facts.not_after);
    ends().filter(|end| *end >= now).min().or(ends().max())
}

/// The worst that is to be said of a secret, by the dates that hold now: a warning of the check is as
/// old as the last read.
fn condition(secret: &Secret, now: SystemTime, warn: Duration) -> Condition {
    let end = secret.not_after.map(super::state::Time::get);
    let start = secret.not_before.map(super::state::Time::get);
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
    } else if secret.warnings.iter().any(|w| !is_of_time(w)) {
        Condition::Warning
    } else {
        Condition::Ok
    }
}

fn is_of_time(warning: &Problem) -> bool {
    [
        problem::Reason::Expired,
        problem::Reason::NotYetValid,
        problem::Reason::ExpiresSoon,
    ]
    .iter()
    .any(|reason| reason.as_str() == warning.reason)
}

fn unserved(report: &Report) -> Folder {
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

fn subscriber(account: &Account, delivery: Delivery) -> Subscriber {
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

fn problems(problems: &[problem::Problem]) -> Vec<Problem> {
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
fn text(path: &Path) -> String {
    let absolute = std::path::absolute(path);
    absolute.as_deref().unwrap_or(path).display().to_string()
}
