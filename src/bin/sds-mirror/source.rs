//! The objects of one scope, as the API server reports them: one complete list, then changes.
//!
//! kube's `watcher` implements the protocol: pages, bookmarks, a watch that resumes where the last one ended,
//! and a new list when that is no longer possible (410 Gone). This module adds what it leaves out: pauses after
//! failures, a 410 in response to the watch request itself (kube would repeat the same request forever), and
//! distinguishing a complete list from a partial one.

use std::collections::BTreeMap;
use std::fmt::Debug;
use std::sync::Arc;
use std::time::Duration;

use futures::{StreamExt, TryStreamExt};
use k8s_openapi::api::core::v1::{ConfigMap, Secret};
use kube::core::DynamicObject;
use kube::runtime::watcher::{self, Event as WatcherEvent, watcher};
use kube::{Api, Client, Resource};
use serde::de::DeserializeOwned;
use tokio::sync::{Notify, mpsc};

use crate::access::{WATCH_TIMEOUT, client_error};
use crate::backoff::Backoff;
use crate::gateway::{Gateway, Grant, gateway_api, grant_api};
use crate::select::{Id, Kind, Rules, Scope, Selected, configmap, secret};
use crate::transport::AnotherCluster;

/// kube's reason for a response that is not from an API server, such as a proxy's error page.
const NOT_A_STATUS: &str = "Failed to parse error data";
/// What Go's HTTP server responds to a request without TLS.
const EXPECTS_TLS: &str = "HTTP request to an HTTPS server";

/// An object that the API server reported.
pub(crate) enum Item {
    Object(Selected),
    Gateway(Gateway),
    Grant(Grant),
}

impl Item {
    fn id(&self) -> &Id {
        match self {
            Self::Object(selected) => &selected.id,
            Self::Gateway(gateway) => &gateway.id,
            Self::Grant(grant) => &grant.id,
        }
    }
}

/// A report of the API server, or a failed request.
pub(crate) enum Event {
    /// A complete list.
    Listed(BTreeMap<Id, Item>),
    /// An object was created or changed.
    Applied(Item),
    /// An object was deleted, or is no longer selected.
    Deleted(Id),
    /// A request failed; the next one follows after this pause.
    Failed(Failure, Duration),
}

/// Why a request failed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Failure {
    pub(crate) kind: FailureKind,
    pub(crate) text: String,
}

/// The kind of a failure: a metric label.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum FailureKind {
    /// The credentials are invalid.
    Unauthorized,
    /// The account is not allowed to do this.
    Forbidden,
    /// The API server does not have this resource.
    NotFound,
    /// The watch can't be resumed; a new list follows.
    Gone,
    /// The API server is overloaded.
    Throttled,
    /// An internal error of the API server.
    Server,
    /// The API server refuses the request, for example because of an invalid selector.
    Refused,
    /// The API server expects TLS.
    Plaintext,
    /// The API server can't be reached, or the connection was lost.
    Network,
    /// The API server belongs to another cluster.
    AnotherCluster,
}

impl FailureKind {
    /// The kind as a metric label.
    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Self::Unauthorized => "unauthorized",
            Self::Forbidden => "forbidden",
            Self::NotFound => "not_found",
            Self::Gone => "gone",
            Self::Throttled => "throttled",
            Self::Server => "server",
            Self::Refused => "refused",
            Self::Plaintext => "plaintext",
            Self::Network => "network",
            Self::AnotherCluster => "another_cluster",
        }
    }

    /// What to do about it.
    pub(crate) fn remedy(self, scope: &Scope) -> String {
        let text = match self {
            Self::Forbidden => {
                return format!(
                    "give the account get, list and watch on {} in this namespace",
                    scope.kind.resource()
                );
            }
            Self::Unauthorized => {
                "token or certificate may have expired; renew it: it is read again for each attempt"
            }
            Self::NotFound => "is the API of this resource installed in the cluster?",
            Self::Plaintext => "write https:// instead of http:// in the API server's URL",
            Self::AnotherCluster => {
                "nothing is changed; give this cluster its own --output, or \
                 --allow-cluster-change to take over the folders"
            }
            Self::Gone => "a new list follows",
            Self::Throttled | Self::Server | Self::Network => {
                "the folders stay as they are until it succeeds"
            }
            Self::Refused => "check the selectors and --namespace",
        };
        text.to_owned()
    }
}

/// Lists and watches the selected objects of a scope.
pub(crate) struct Source {
    pub(crate) scope: Scope,
    pub(crate) selector: Option<String>,
    pub(crate) field_selector: Option<String>,
    pub(crate) rules: Arc<Rules>,
    pub(crate) wake: Arc<Wake>,
}

/// Makes a source list or retry immediately.
#[derive(Default)]
pub(crate) struct Wake {
    list: Notify,
    retry: Notify,
}

impl Wake {
    /// Lists everything again, once for any number of calls before that.
    pub(crate) fn list(&self) {
        self.list.notify_one();
    }

    /// Ends a pause after a failure.
    pub(crate) fn retry(&self) {
        self.retry.notify_waiters();
    }
}

type Events = mpsc::Sender<(Scope, Event)>;

impl Source {
    /// Reports events until the receiver is dropped.
    pub(crate) async fn run(self, client: Client, events: Events) {
        let namespace = self.scope.namespace.clone();
        let rules = Arc::clone(&self.rules);
        let dynamic = |api| Api::<DynamicObject>::namespaced_with(client.clone(), &namespace, &api);
        match self.scope.kind {
            Kind::Secret => {
                let api: Api<Secret> = Api::namespaced(client, &namespace);
                self.repeat(api, events, move |object| {
                    Item::Object(secret(object, &rules))
                })
                .await;
            }
            Kind::ConfigMap => {
                let api: Api<ConfigMap> = Api::namespaced(client, &namespace);
                self.repeat(api, events, move |object| {
                    Item::Object(configmap(object, &rules))
                })
                .await;
            }
            Kind::Gateway => {
                let api = dynamic(gateway_api());
                self.repeat(api, events, |object| Item::Gateway(Gateway::of(&object)))
                    .await;
            }
            Kind::ReferenceGrant => {
                let api = dynamic(grant_api());
                self.repeat(api, events, |object| Item::Grant(Grant::of(&object)))
                    .await;
            }
        }
    }

    async fn repeat<K>(&self, api: Api<K>, events: Events, item: impl Fn(K) -> Item)
    where
        K: Resource + Clone + DeserializeOwned + Debug + Send + 'static,
    {
        let mut pauses = Pauses {
            failures: Backoff::new(),
            lists: Backoff::new(),
        };
        // `Ok` means that the next watch must begin with a list.
        while self.watch(&api, &events, &item, &mut pauses).await.is_ok() {}
    }

    /// Lists and watches until a watch can't be resumed.
    async fn watch<K>(
        &self,
        api: &Api<K>,
        events: &Events,
        item: &impl Fn(K) -> Item,
        pauses: &mut Pauses,
    ) -> Result<(), Closed>
    where
        K: Resource + Clone + DeserializeOwned + Debug + Send + 'static,
    {
        let mut stream = watcher(api.clone(), self.config()).boxed();
        let mut listing = BTreeMap::new();
        loop {
            let next = tokio::select! {
                biased;
                () = self.wake.list.notified() => return Ok(()),
                next = stream.try_next() => next,
            };
            match next {
                Ok(Some(event)) => {
                    if let Some(event) = take(event, &mut listing, item) {
                        self.send(events, event).await?;
                    }
                }
                Ok(None) => return Ok(()),
                Err(error) => {
                    let failure = failure(&error);
                    let pause = pauses.after(failure.kind, asked_for(&error));
                    self.send(events, Event::Failed(failure, pause)).await?;
                    tokio::select! {
                        () = tokio::time::sleep(pause) => {}
                        () = self.wake.retry.notified() => {}
                    }
                    if is_gone_at_start(&error) {
                        return Ok(());
                    }
                }
            }
        }
    }

    fn config(&self) -> watcher::Config {
        let mut config = watcher::Config::default().timeout(WATCH_TIMEOUT);
        if let Some(fields) = &self.field_selector {
            config = config.fields(fields);
        }
        if let Some(labels) = &self.selector {
            config = config.labels(labels);
        }
        config
    }

    async fn send(&self, events: &Events, event: Event) -> Result<(), Closed> {
        let message = (self.scope.clone(), event);
        events.send(message).await.map_err(|_| Closed)
    }
}

fn take<K>(
    event: WatcherEvent<K>,
    listing: &mut BTreeMap<Id, Item>,
    item: impl Fn(K) -> Item,
) -> Option<Event> {
    match event {
        // A new list begins: an interrupted one is discarded.
        WatcherEvent::Init => listing.clear(),
        WatcherEvent::InitApply(object) => {
            let item = item(object);
            listing.insert(item.id().clone(), item);
        }
        WatcherEvent::InitDone => return Some(Event::Listed(std::mem::take(listing))),
        WatcherEvent::Apply(object) => return Some(Event::Applied(item(object))),
        WatcherEvent::Delete(object) => return Some(Event::Deleted(item(object).id().clone())),
    }
    None
}

/// The receiver was dropped.
struct Closed;

/// The pauses before the next request.
struct Pauses {
    failures: Backoff,
    /// Before a new list. It has its own pauses: a restarted server has lost its history, which does not add to
    /// the failures during the restart. Repeated lists are still slowed down.
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

/// Whether the request for the watch was refused because its version is too old.
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

/// The pause that the API server requested.
fn asked_for(error: &watcher::Error) -> Option<Duration> {
    let seconds = status(error)?.details.as_ref()?.retry_after_seconds;
    Some(Duration::from_secs(u64::from(seconds)))
}

fn client_failure(error: &watcher::Error) -> Option<&kube::Error> {
    match error {
        watcher::Error::InitialListFailed(error)
        | watcher::Error::WatchStartFailed(error)
        | watcher::Error::WatchFailed(error) => Some(error),
        _ => None,
    }
}

fn failure(error: &watcher::Error) -> Failure {
    if let Some(kube::Error::Service(error)) = client_failure(error)
        && let Some(another) = error.downcast_ref::<AnotherCluster>()
    {
        return Failure {
            kind: FailureKind::AnotherCluster,
            text: another.to_string(),
        };
    }
    let Some(status) = status(error) else {
        return Failure {
            kind: FailureKind::Network,
            text: client_failure(error).map_or_else(|| error.to_string(), client_error),
        };
    };
    let kind = match status.code {
        400 if status.message.contains(EXPECTS_TLS) => FailureKind::Plaintext,
        401 => FailureKind::Unauthorized,
        403 => FailureKind::Forbidden,
        404 => FailureKind::NotFound,
        410 => FailureKind::Gone,
        429 => FailureKind::Throttled,
        400..500 => FailureKind::Refused,
        _ => FailureKind::Server,
    };
    let text = match (kind, status.reason.as_str()) {
        (FailureKind::Plaintext, _) => {
            "the API server requires TLS, but its URL begins with http://".to_owned()
        }
        // The message may be anything, even a response with keys.
        (_, NOT_A_STATUS) => format!("the response is not from Kubernetes ({})", status.code),
        _ => format!("{} ({})", status.message, status.code),
    };
    Failure { kind, text }
}
