//! The agent's parts → the [`State`] that is shown.

use std::collections::{BTreeMap, HashMap};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use super::health::Health;
use super::shown::{self, Dates, problems, text};
use super::state::{
    Agent, PolledPath, Root, State, Streams, Subscriber, Waiting, WaitingName, Watch,
};
use crate::agent::board::{Board, Report};
use crate::sds::ledger::{Account, Ledger, Protocol};
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
        let dates = Dates {
            now: SystemTime::now(),
            warn: DAY * self.board.warn_days(),
        };
        let reports = self.board.reports();
        let accounts = self.ledger.accounts();
        let (mut subscribers, waiting) = self.subscriptions(&accounts);
        let folders = Folders::new(&reports);
        let mut secrets: Vec<_> = self
            .store
            .secrets()
            .iter()
            .map(|secret| {
                let subscribers = subscribers.remove(secret.name()).unwrap_or_default();
                shown::secret(secret, folders.of(secret), subscribers, dates)
            })
            .collect();
        secrets.sort_unstable_by(|a, b| (a.state, &a.name).cmp(&(b.state, &b.name)));
        let unserved = reports.iter().filter(|r| r.hidden || !serves(r));
        State {
            agent: self.agent(dates.now, &accounts),
            secrets,
            folders: unserved.map(shown::folder).collect(),
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
                        .push(shown::subscriber(account, delivery)),
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
