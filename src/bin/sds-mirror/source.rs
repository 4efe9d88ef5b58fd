//! The Secrets of one namespace, as the API server tells of them: one whole list, then what changes.
//!
//! kube's `watcher` does the protocol: pages, bookmarks, a watch that goes on where the last one
//! ended, and a new list when that is no longer possible (410 Gone). What it leaves to its user is
//! done here: the pauses after failures, a 410 in answer to the watch request itself (it would ask
//! the same again for ever), and telling a whole list from half of one.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use futures::{StreamExt, TryStreamExt};
use k8s_openapi::api::core::v1::{Namespace, Secret};
use kube::runtime::watcher::{self, Event as WatcherEvent, watcher};
use kube::{Api, Client};
use tokio::sync::mpsc;

use crate::access::chain;
use crate::backoff::Backoff;
use crate::name::NameTemplate;
use crate::select::{Id, Selected, select};

/// Seconds after which the API server ends a watch, and it is begun anew where it ended. The mirror
/// hears from the API server at least this often, and finds a dead connection soon after.
pub(crate) const WATCH_TIMEOUT: u32 = 60;

/// What the API server told, or that it could not be asked.
pub(crate) enum Event {
    /// All Secrets that there are, and the cluster's uid, where the account may know it.
    Listed {
        secrets: BTreeMap<Id, Selected>,
        cluster_uid: Option<String>,
    },
    /// A Secret was made or changed.
    Applied(Selected),
    /// A Secret was deleted.
    Deleted(Id),
    /// A Secret, as it was asked for.
    Fetched(Selected),
    /// It is asked again after `pause`.
    Failed(Failure, Duration),
}

/// Why the API server could not be asked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Failure {
    pub(crate) kind: FailureKind,
    pub(crate) text: String,
}

/// The kind of a failure: a metric label.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum FailureKind {
    /// It does not know who asks.
    Unauthorized,
    /// Who asks has no right to.
    Forbidden,
    /// The watch can't go on where it ended; a new list follows.
    Gone,
    /// It has too much to do.
    Throttled,
    /// It failed by itself.
    Server,
    /// It refuses the request, a bad selector for example.
    Refused,
    /// It can't be reached, or the connection broke.
    Network,
}

impl FailureKind {
    /// The kind as a metric label.
    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Self::Unauthorized => "unauthorized",
            Self::Forbidden => "forbidden",
            Self::Gone => "gone",
            Self::Throttled => "throttled",
            Self::Server => "server",
            Self::Refused => "refused",
            Self::Network => "network",
        }
    }

    /// What to do about it.
    pub(crate) fn remedy(self) -> &'static str {
        match self {
            Self::Unauthorized => {
                "token or certificate may have expired: renew it, it is read again for each attempt"
            }
            Self::Forbidden => "give the account get, list and watch on secrets in this namespace",
            Self::Gone => "a new list follows",
            Self::Throttled | Self::Server | Self::Network => {
                "what is on disk stays until it works"
            }
            Self::Refused => "check --selector, --field-selector and --namespace",
        }
    }
}

/// A namespace, and which of its Secrets.
pub(crate) struct Source {
    pub(crate) namespace: Arc<str>,
    pub(crate) selector: Option<String>,
    pub(crate) field_selector: String,
    pub(crate) template: Arc<NameTemplate>,
}

impl Source {
    /// Tells of the namespace until the receiver is gone.
    pub(crate) async fn run(self, client: Client, events: mpsc::Sender<(Arc<str>, Event)>) {
        let mut pauses = Pauses {
            failures: Backoff::new(),
            lists: Backoff::new(),
        };
        loop {
            // It only comes back when the watch must begin anew.
            if self.watch(&client, &events, &mut pauses).await.is_err() {
                return;
            }
        }
    }

    /// Lists and watches until a watch can't be gone on with.
    async fn watch(
        &self,
        client: &Client,
        events: &mpsc::Sender<(Arc<str>, Event)>,
        pauses: &mut Pauses,
    ) -> Result<(), Closed> {
        let api: Api<Secret> = Api::namespaced(client.clone(), &self.namespace);
        let mut stream = watcher(api, self.config()).boxed();
        let mut listing = BTreeMap::new();
        loop {
            match stream.try_next().await {
                Ok(Some(event)) => {
                    if let Some(event) = self.event(event, &mut listing, client).await {
                        self.send(events, event).await?;
                    }
                }
                Ok(None) => return Ok(()),
                Err(error) => {
                    let failure = failure(&error);
                    let pause = pauses.after(failure.kind, asked_for(&error));
                    self.send(events, Event::Failed(failure, pause)).await?;
                    tokio::time::sleep(pause).await;
                    if is_gone_at_start(&error) {
                        return Ok(());
                    }
                }
            }
        }
    }

    async fn event(
        &self,
        event: WatcherEvent<Secret>,
        listing: &mut BTreeMap<Id, Selected>,
        client: &Client,
    ) -> Option<Event> {
        match event {
            // What came of a list that was broken off is forgotten.
            WatcherEvent::Init => listing.clear(),
            WatcherEvent::InitApply(secret) => {
                let selected = select(secret, &self.template);
                listing.insert(selected.id.clone(), selected);
            }
            WatcherEvent::InitDone => {
                return Some(Event::Listed {
                    secrets: std::mem::take(listing),
                    cluster_uid: cluster_uid(client).await,
                });
            }
            WatcherEvent::Apply(secret) => {
                return Some(Event::Applied(select(secret, &self.template)));
            }
            WatcherEvent::Delete(secret) => {
                return Some(Event::Deleted(select(secret, &self.template).id));
            }
        }
        None
    }

    fn config(&self) -> watcher::Config {
        let config = watcher::Config::default()
            .timeout(WATCH_TIMEOUT)
            .fields(&self.field_selector);
        match &self.selector {
            Some(selector) => config.labels(selector),
            None => config,
        }
    }

    async fn send(
        &self,
        events: &mpsc::Sender<(Arc<str>, Event)>,
        event: Event,
    ) -> Result<(), Closed> {
        let message = (Arc::clone(&self.namespace), event);
        events.send(message).await.map_err(|_| Closed)
    }
}

/// A Secret as it is now; `None` where it can't be had.
pub(crate) async fn fetch(client: Client, id: Id, template: Arc<NameTemplate>) -> Option<Selected> {
    let api: Api<Secret> = Api::namespaced(client, &id.namespace);
    match api.get(&id.name).await {
        Ok(secret) => Some(select(secret, &template)),
        Err(error) => {
            tracing::warn!(secret = %id, "it can't be asked for: {}", chain(&error));
            None
        }
    }
}

/// What stands for the cluster by convention; most accounts have no right to know it.
async fn cluster_uid(client: &Client) -> Option<String> {
    let namespaces: Api<Namespace> = Api::all(client.clone());
    namespaces.get("kube-system").await.ok()?.metadata.uid
}

/// Nobody listens any more.
struct Closed;

/// The pauses before the API server is asked again.
struct Pauses {
    failures: Backoff,
    /// Those before a new list. A restarted server forgets its history, so that this is no failure
    /// on top of the ones that the restart made; but a list is not asked for again and again.
    lists: Backoff,
}

impl Pauses {
    fn after(&mut self, kind: FailureKind, asked_for: Option<Duration>) -> Duration {
        match kind {
            FailureKind::Gone => self.lists.after_failure(asked_for),
            _ => self.failures.after_failure(asked_for),
        }
    }
}

/// Whether the watch itself was refused for being too old.
fn is_gone_at_start(error: &watcher::Error) -> bool {
    matches!(error, watcher::Error::WatchStartFailed(kube::Error::Api(status)) if status.code == 410)
}

fn status(error: &watcher::Error) -> Option<&kube::core::Status> {
    match error {
        watcher::Error::InitialListFailed(kube::Error::Api(status))
        | watcher::Error::WatchStartFailed(kube::Error::Api(status))
        | watcher::Error::WatchFailed(kube::Error::Api(status))
        | watcher::Error::WatchError(status) => Some(status),
        _ => None,
    }
}

/// The pause that the API server asked for.
fn asked_for(error: &watcher::Error) -> Option<Duration> {
    let seconds = status(error)?.details.as_ref()?.retry_after_seconds;
    Some(Duration::from_secs(u64::from(seconds)))
}

fn failure(error: &watcher::Error) -> Failure {
    let Some(status) = status(error) else {
        return Failure {
            kind: FailureKind::Network,
            text: chain(error),
        };
    };
    let kind = match status.code {
        401 => FailureKind::Unauthorized,
        403 => FailureKind::Forbidden,
        410 => FailureKind::Gone,
        429 => FailureKind::Throttled,
        400..500 => FailureKind::Refused,
        _ => FailureKind::Server,
    };
    let text = format!("{} ({})", status.message.escape_debug(), status.code);
    Failure { kind, text }
}
