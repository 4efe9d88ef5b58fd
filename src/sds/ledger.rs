//! Who is connected, what each was sent, and what they said to it: for `status` and the log.

use std::collections::btree_map::Entry as Slot;
use std::collections::{BTreeMap, HashMap};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::{Instant, SystemTime};

use crate::metrics::Metrics;
use crate::peer::Peer;
use crate::proto::core::Node;
use crate::secret::{Name, Secret};

/// All open streams. One for the whole agent.
#[derive(Default)]
pub struct Ledger {
    next_id: AtomicU64,
    streams: Mutex<HashMap<u64, Arc<Account>>>,
    metrics: Arc<Metrics>,
}

/// One open stream.
pub struct Account {
    protocol: Protocol,
    peer: Arc<Peer>,
    since: SystemTime,
    node: OnceLock<Node>,
    deliveries: Mutex<BTreeMap<Name, Waiting>>,
    metrics: Arc<Metrics>,
}

/// A name that a stream waits for.
struct Waiting {
    since: Instant,
    delivery: Delivery,
}

/// How a stream speaks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Protocol {
    /// State of the world, `StreamSecrets`.
    Sotw,
    /// `DeltaSecrets`.
    Delta,
    /// `FetchSecrets`: a request and its answer.
    Fetch,
}

/// What a stream was last sent under a name that it waits for.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Delivery {
    /// The version sent last; none when nothing was, or when the name was said not to exist.
    pub version: Option<Arc<str>>,
    /// When that was.
    pub sent: Option<SystemTime>,
    /// What the client said to it.
    pub answer: Answer,
}

/// What a client said to a response.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Answer {
    /// Nothing yet.
    #[default]
    None,
    /// It took it.
    Ack(SystemTime),
    /// It refused it, in these words of its own.
    Nack(SystemTime, Arc<str>),
}

/// Keeps a stream in the ledger while it is open.
pub(crate) struct Entry {
    id: u64,
    ledger: Arc<Ledger>,
    account: Arc<Account>,
}

impl Ledger {
    /// A ledger that counts what is entered.
    pub fn new(metrics: Arc<Metrics>) -> Self {
        Self {
            metrics,
            ..Self::default()
        }
    }

    /// Where it counts.
    pub(crate) fn metrics(&self) -> &Metrics {
        &self.metrics
    }

    /// All open streams, in the order in which they came.
    pub fn accounts(&self) -> Vec<Arc<Account>> {
        let mut accounts: Vec<_> = lock(&self.streams)
            .iter()
            .map(|(id, a)| (*id, a.clone()))
            .collect();
        accounts.sort_unstable_by_key(|(id, _)| *id);
        accounts.into_iter().map(|(_, account)| account).collect()
    }

    /// Enters a stream.
    pub(crate) fn open(self: &Arc<Self>, protocol: Protocol, peer: Arc<Peer>) -> Entry {
        let id = self.next_id.fetch_add(1, Ordering::Relaxed);
        self.metrics.opened(protocol.as_str());
        let account = Arc::new(Account {
            protocol,
            peer,
            since: SystemTime::now(),
            node: OnceLock::new(),
            deliveries: Mutex::default(),
            metrics: self.metrics.clone(),
        });
        lock(&self.streams).insert(id, account.clone());
        Entry {
            id,
            ledger: self.clone(),
            account,
        }
    }
}

impl Account {
    /// How the stream speaks.
    pub fn protocol(&self) -> Protocol {
        self.protocol
    }

    /// The process at its other end.
    pub fn peer(&self) -> &Peer {
        &self.peer
    }

    /// When it was opened.
    pub fn since(&self) -> SystemTime {
        self.since
    }

    /// The id that the client gives itself, `-` where it gave none.
    pub fn node_id(&self) -> &str {
        self.node.get().map_or("-", |node| &node.id)
    }

    /// The cluster that the client counts itself to, `-` where it named none.
    pub fn cluster(&self) -> &str {
        self.node.get().map_or("-", |node| &node.cluster)
    }

    /// The names that the stream waits for, and what it was last sent under each.
    pub fn deliveries(&self) -> BTreeMap<Name, Delivery> {
        let deliveries = lock(&self.deliveries);
        deliveries
            .iter()
            .map(|(name, waiting)| (name.clone(), waiting.delivery.clone()))
            .collect()
    }

    /// Notes who the client is; the first word counts.
    pub(crate) fn introduce(&self, node: Node) {
        let _ = self.node.set(node);
    }

    /// Notes that the stream waits for a name. Returns false where it did so before.
    pub(crate) fn subscribed(&self, name: &Name) -> bool {
        match lock(&self.deliveries).entry(name.clone()) {
            Slot::Occupied(_) => false,
            Slot::Vacant(slot) => {
                slot.insert(Waiting {
                    since: Instant::now(),
                    delivery: Delivery::default(),
                });
                true
            }
        }
    }

    /// Notes that the stream no longer waits for a name. Returns false where it did not.
    pub(crate) fn unsubscribed(&self, name: &Name) -> bool {
        lock(&self.deliveries).remove(name).is_some()
    }

    /// The names that the stream waits for.
    pub(crate) fn names(&self) -> Vec<Name> {
        lock(&self.deliveries).keys().cloned().collect()
    }

    /// Notes that a secret is handed to the stream.
    pub(crate) fn sent(&self, secret: &Secret) {
        self.metrics
            .delivered(self.protocol.as_str(), secret.kind().as_str());
        self.note(secret.name(), |waiting| {
            let news = waiting.delivery.version.as_ref() != Some(secret.version());
            // What was there before the stream asked for it was not waited for.
            if news && waiting.since < secret.noticed_at() {
                self.metrics.delayed(secret.noticed_at().elapsed());
            }
            waiting.delivery = Delivery {
                version: Some(secret.version().clone()),
                sent: Some(SystemTime::now()),
                answer: Answer::None,
            };
        });
    }

    /// Notes that the client was told that there is no such name.
    pub(crate) fn removed(&self, name: &Name) {
        self.note(name, |waiting| {
            waiting.delivery = Delivery {
                sent: Some(SystemTime::now()),
                ..Delivery::default()
            };
        });
    }

    /// Notes what the client said to what it was sent last.
    pub(crate) fn answered(&self, name: &Name, answer: Answer) {
        match answer {
            Answer::None => {}
            Answer::Ack(_) => self.metrics.acked(self.protocol.as_str()),
            Answer::Nack(..) => self.metrics.nacked(self.protocol.as_str()),
        }
        self.note(name, |waiting| waiting.delivery.answer = answer);
    }

    fn note(&self, name: &Name, change: impl FnOnce(&mut Waiting)) {
        if let Some(waiting) = lock(&self.deliveries).get_mut(name) {
            change(waiting);
        }
    }
}

impl Protocol {
    /// The protocol as a metric label and JSON value.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Sotw => "sotw",
            Self::Delta => "delta",
            Self::Fetch => "fetch",
        }
    }
}

impl std::ops::Deref for Entry {
    type Target = Account;

    fn deref(&self) -> &Account {
        &self.account
    }
}

impl Drop for Entry {
    fn drop(&mut self) {
        lock(&self.ledger.streams).remove(&self.id);
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // Every change under these locks is a single insert, remove or assignment.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
