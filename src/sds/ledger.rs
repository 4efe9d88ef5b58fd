//! The connected clients, their subscriptions, and what each was sent and answered: for the streams, `status`
//! and the log.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::SystemTime;

pub use super::session::{Answer, Delivery};
use super::session::{Named, Subscription, Subscriptions};
use crate::metrics::Metrics;
use crate::peer::Peer;
use crate::proto::core::Node;
use crate::secret::Name;

/// All open streams. There is one ledger for the whole agent.
#[derive(Default)]
pub struct Ledger {
    next_id: AtomicU64,
    streams: Mutex<HashMap<u64, Arc<Account>>>,
    /// The node that a client sent last. Nearly all streams are those of one client, and share it.
    node: Mutex<Arc<Node>>,
    metrics: Arc<Metrics>,
}

/// One open stream.
pub struct Account {
    protocol: Protocol,
    peer: Arc<Peer>,
    since: SystemTime,
    node: OnceLock<Arc<Node>>,
    subscriptions: Mutex<Subscriptions>,
    ledger: Arc<Ledger>,
}

/// The protocol of a stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Protocol {
    /// State of the world, `StreamSecrets`.
    Sotw,
    /// `DeltaSecrets`.
    Delta,
    /// `FetchSecrets`: a request and its answer.
    Fetch,
}

/// Keeps a stream in the ledger while it is open.
pub(crate) struct Entry {
    id: u64,
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

    /// The metrics that it updates.
    pub(crate) fn metrics(&self) -> &Metrics {
        &self.metrics
    }

    /// All open streams, oldest first.
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
            subscriptions: Mutex::default(),
            ledger: self.clone(),
        });
        lock(&self.streams).insert(id, account.clone());
        Entry { id, account }
    }
}

impl Account {
    /// The protocol of the stream.
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

    /// The client's node id, `-` if it sent none.
    pub fn node_id(&self) -> &str {
        self.node.get().map_or("-", |node| &node.id)
    }

    /// The client's cluster, `-` if it sent none.
    pub fn cluster(&self) -> &str {
        self.node.get().map_or("-", |node| &node.cluster)
    }

    /// The subscribed names, and what the stream was last sent for each.
    pub fn deliveries(&self) -> Vec<(Name, Delivery)> {
        let subscriptions = self.subscriptions();
        let deliveries = subscriptions.iter();
        let deliveries = deliveries.map(|(name, known)| (name.clone(), known.delivery()));
        deliveries.collect()
    }

    /// The subscriptions of the stream.
    pub(crate) fn subscriptions(&self) -> MutexGuard<'_, Subscriptions> {
        lock(&self.subscriptions)
    }

    /// Records the client's node; only the first one counts.
    pub(crate) fn introduce(&self, node: Node) {
        let mut last = lock(&self.ledger.node);
        if **last != node {
            *last = Arc::new(node);
        }
        let _ = self.node.set(last.clone());
    }

    /// Records that a secret is sent on the stream.
    pub(crate) fn sent(&self, Named { name, found }: &Named) {
        let secret = &found.secret;
        self.ledger
            .metrics
            .delivered(self.protocol.as_str(), secret.kind().as_str());
        self.note(name, |known| {
            // A secret that existed before the request was not waited for.
            if known.since < secret.noticed() {
                self.ledger.metrics.delayed(secret.noticed().elapsed());
            }
            known.sent = Some(SystemTime::now());
            known.answer = Answer::None;
        });
    }

    /// Records that the name is reported to the client as nonexistent.
    pub(crate) fn removed(&self, name: &Name) {
        self.note(name, |known| {
            known.sent = Some(SystemTime::now());
            known.answer = Answer::None;
        });
    }

    /// Records how the client answered the last response.
    pub(crate) fn answered(&self, name: &Name, answer: Answer) {
        match answer {
            Answer::None => {}
            Answer::Ack(_) => self.ledger.metrics.acked(self.protocol.as_str()),
            Answer::Nack(..) => self.ledger.metrics.nacked(self.protocol.as_str()),
        }
        self.note(name, |known| known.answer = answer);
    }

    fn note(&self, name: &Name, change: impl FnOnce(&mut Subscription)) {
        if let Some(known) = self.subscriptions().get_mut(name) {
            change(known);
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
        lock(&self.account.ledger.streams).remove(&self.id);
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // Each change under these locks is a single insert, remove or assignment.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
