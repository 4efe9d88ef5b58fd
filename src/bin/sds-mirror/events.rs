//! Reports refused objects as Kubernetes Events on the objects.

use k8s_openapi::api::core::v1::ObjectReference;
use kube::Client;
use kube::runtime::events::{Event, EventType, Recorder, Reporter};
use tokio::sync::mpsc;

use crate::access::client_error;
use crate::problems::Kind;
use crate::select::{self, Id};

/// The maximum number of pending reports. If the API server accepts no more, further ones are dropped: the log
/// has them all.
const QUEUE: usize = 64;
/// The maximum size of a note in bytes.
const MAX_NOTE: usize = 1000;

/// A pending report.
pub(crate) struct Refusal {
    pub(crate) id: Id,
    pub(crate) uid: String,
    pub(crate) kind: Kind,
    pub(crate) text: String,
}

/// Queues reports, and sends them when possible.
pub(crate) struct Reports(mpsc::Sender<Refusal>);

impl Reports {
    /// Starts the task that sends reports. It ends when this is dropped.
    pub(crate) fn start(client: Client) -> Self {
        let (sender, refusals) = mpsc::channel(QUEUE);
        tokio::spawn(send(client, refusals));
        Self(sender)
    }

    /// Queues a report, or drops it if too many are pending.
    pub(crate) fn report(&self, refusal: Refusal) {
        if self.0.try_send(refusal).is_err() {
            tracing::debug!("too many Events are pending: one was dropped");
        }
    }
}

async fn send(client: Client, mut refusals: mpsc::Receiver<Refusal>) {
    let recorder = Recorder::new(
        client,
        Reporter {
            controller: "sds-mirror".into(),
            instance: None,
        },
    );
    let mut failed = false;
    while let Some(refusal) = refusals.recv().await {
        let sent = recorder
            .publish(&event(&refusal), &reference(&refusal))
            .await;
        if let Err(error) = &sent
            && !failed
        {
            tracing::warn!(
                "Events can't be reported: {}; give the account create and patch on events in \
                 events.k8s.io, or leave out --events",
                client_error(error)
            );
        }
        failed = sent.is_err();
    }
}

fn event(refusal: &Refusal) -> Event {
    let reason = match refusal.kind {
        Kind::Content => "Rejected",
        Kind::Clash | Kind::Foreign | Kind::Unreadable => "FolderTaken",
        Kind::Refused | Kind::HeldBack | Kind::Kept | Kind::Write => "Refused",
    };
    let note: String = refusal.text.chars().take(MAX_NOTE / 4).collect();
    Event {
        type_: EventType::Warning,
        reason: reason.into(),
        note: Some(note),
        action: "Mirror".into(),
        secondary: None,
    }
}

fn reference(refusal: &Refusal) -> ObjectReference {
    let kind = match refusal.id.kind {
        select::Kind::ConfigMap => "ConfigMap",
        _ => "Secret",
    };
    ObjectReference {
        api_version: Some("v1".into()),
        kind: Some(kind.into()),
        namespace: Some(refusal.id.namespace.clone()),
        name: Some(refusal.id.name.clone()),
        uid: Some(refusal.uid.clone()),
        ..ObjectReference::default()
    }
}
