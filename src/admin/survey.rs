//! The agent's parts → the [`Status`] that is shown.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Instant, SystemTime};

use super::health::Health;
use super::status::{Agent, PolledPath, Status, Streams, Waiting, WaitingName, Watch};
use crate::agent::WatchState;
use crate::inventory::Snapshot;
use crate::report::{Report, Subscriber, Subscribers, text};
use crate::sds::hub::{Hub, Published};
use crate::sds::ledger::{Account, Ledger, Protocol};

/// The sources of everything that is shown.
#[derive(Clone)]
pub struct Sources {
    /// The credentials, and the access rules.
    pub hub: Arc<Hub>,
    /// The watch of the files.
    pub watch: WatchState,
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
    /// The state at this moment. Takes time in proportion to the number of credentials and streams.
    pub fn survey(&self) -> Status {
        let published = self.hub.current();
        let snapshot = &published.snapshot;
        let now = SystemTime::now();
        let accounts = self.ledger.accounts();
        let (subscribers, waiting) = subscriptions(&published, &accounts, now);
        Status {
            report: Report::of(snapshot, now, subscribers),
            agent: self.agent(snapshot, &accounts),
            waiting,
            watch: self.watch(),
        }
    }

    fn agent(&self, snapshot: &Snapshot, accounts: &[Arc<Account>]) -> Agent {
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
            host: host(),
            config: self.config.as_deref().map(text),
            config_error: self.health.config_error(),
            socket: text(&self.socket),
            warn_days: snapshot.warn_days(),
            ready: waiting_for.is_empty(),
            waiting_for,
            degraded: self.health.degraded(true),
            default_credential: snapshot.default_credential().map(ToString::to_string),
            streams: Streams {
                sotw: count(Protocol::Sotw),
                delta: count(Protocol::Delta),
                fetch: count(Protocol::Fetch),
            },
        }
    }

    fn watch(&self) -> Watch {
        let state = self.watch.read();
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

/// Which stream is subscribed to which secret, and which requested names do not exist.
fn subscriptions(
    Published { snapshot, rules }: &Published,
    accounts: &[Arc<Account>],
    now: SystemTime,
) -> (Subscribers, Waiting) {
    let mut subscribers = Subscribers::new();
    let mut absent = BTreeMap::<_, usize>::new();
    for account in accounts {
        let may = |name: &str| rules.allows(account.peer(), account.node_id(), name);
        for (name, delivery) in account.deliveries() {
            let Some(found) = snapshot.lookup(&name, now, &may).found() else {
                *absent.entry(name).or_default() += 1;
                continue;
            };
            let id = (found.credential, found.secret.kind());
            let subscriber = Subscriber::of(account, &name, delivery, &found.secret);
            subscribers.entry(id).or_default().push(subscriber);
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

fn host() -> String {
    let names = rustix::system::uname();
    names.nodename().to_string_lossy().into_owned()
}
