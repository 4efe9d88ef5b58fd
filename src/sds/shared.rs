//! The state that all streams share, and the view of it that one stream has.

use std::sync::Arc;
use std::time::SystemTime;

use tokio_util::sync::CancellationToken;
use tonic::Status;

use super::audit::{Audit, Refused};
use super::budget::{Budget, Grant, Holder};
use super::grpc::{Bounds, Broken};
use super::hub::{Hub, Published};
use super::ledger::{Account, Ledger};
use super::session::{Named, View};
use crate::config::Limits;
use crate::inventory::Lookup;
use crate::metrics::{Limit, Refusal};
use crate::name;
use crate::peer::Peer;

/// The state that all streams share.
pub(crate) struct Shared {
    pub(crate) hub: Arc<Hub>,
    pub(crate) ledger: Arc<Ledger>,
    pub(crate) audit: Audit,
    pub(crate) limits: Limits,
    pub(crate) stopping: CancellationToken,
    /// The budget for data kept for clients.
    pub(crate) client_bytes: Arc<Budget>,
    /// The budget for streams on all connections.
    pub(crate) streams: Arc<Budget>,
}

/// The current state as one stream may see it.
pub(crate) struct Seen<'a> {
    published: Arc<Published>,
    account: &'a Account,
    now: SystemTime,
}

impl<'a> Seen<'a> {
    /// The state at this moment for the client of `account`.
    pub(crate) fn new(shared: &Shared, account: &'a Account) -> Self {
        Self {
            published: shared.hub.current(),
            account,
            now: SystemTime::now(),
        }
    }

    /// Whether the client is not allowed to read what has that name, or would not be if it existed.
    fn is_refused(&self, name: &str) -> bool {
        if self.lookup(name).found().is_some() {
            return false;
        }
        let snapshot = &self.published.snapshot;
        !self.may(name::plain(name)) || snapshot.lookup(name, self.now, &|_| true).found().is_some()
    }

    fn may(&self, credential: &str) -> bool {
        let (peer, node) = (self.account.peer(), self.account.node_id());
        self.published.rules.allows(peer, node, credential)
    }
}

impl View for Seen<'_> {
    fn lookup(&self, name: &str) -> Lookup {
        let snapshot = &self.published.snapshot;
        snapshot.lookup(name, self.now, &|credential| self.may(credential))
    }

    fn is_unread(&self, credential: &str) -> bool {
        self.may(credential) && self.published.snapshot.is_unread(credential)
    }

    fn now(&self) -> SystemTime {
        self.now
    }
}

impl Shared {
    /// The holder of a stream's grants.
    pub(crate) fn holder(&self, peer: &Peer) -> Holder {
        Holder {
            uid: peer.uid,
            reserve: self.hub.current().rules.has_reserve(peer),
        }
    }

    /// An empty grant for the data that is kept for a stream's client.
    pub(crate) fn grant(&self, account: &Account) -> Grant {
        self.client_bytes.open(self.holder(account.peer()))
    }

    /// The limits on a stream's requests.
    pub(crate) fn bounds(&self, account: &Account) -> Bounds {
        Bounds {
            bytes: self.limits.request_bytes,
            names: self.limits.names_per_stream,
            grant: self.grant(account),
        }
    }

    /// The status that ends a stream when the data kept for its user has reached the limit.
    pub(crate) fn too_much_kept(&self) -> Status {
        self.ledger.metrics().limit_reached(Limit::ClientBytes);
        Status::resource_exhausted(
            "this user's streams are subscribed to too many names, or to too long ones",
        )
    }

    /// Counts that a limit was reached, if that ends the stream.
    pub(crate) fn broken(&self, broken: Broken) -> Status {
        if let Some(limit) = broken.limit {
            self.ledger.metrics().limit_reached(limit);
        }
        broken.status
    }

    /// Counts that a limit was reached, if that is what the status reports.
    pub(crate) fn count_limit(&self, status: &Status, limit: Limit) {
        if status.code() == tonic::Code::ResourceExhausted {
            self.ledger.metrics().limit_reached(limit);
        }
    }

    /// Logs that a client requests a secret that it is not allowed to read.
    pub(crate) fn log_refusal(&self, view: &Seen<'_>, name: &str) {
        if view.is_refused(name) {
            let account = view.account;
            self.ledger.metrics().refused(Refusal::Name);
            self.audit
                .refused(account.peer(), Refused::Name(name, account.node_id()));
        }
    }

    /// Logs that a secret is sent to a stream's client: in the audit log if it is confidential.
    pub(crate) fn log_delivery(&self, account: &Account, secret: &Named) {
        if secret.found.secret.kind().is_confidential() {
            self.audit.key_delivered(account, secret);
        } else {
            self.audit.delivered(account, secret);
        }
    }
}
