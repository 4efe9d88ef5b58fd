//! What all streams share, and what one of them may see of it.

use std::sync::Arc;
use std::time::SystemTime;

use tokio_util::sync::CancellationToken;
use tonic::Status;
use tracing::info;

use super::audit::{Audit, Refused};
use super::hub::{Hub, Published};
use super::ledger::{Account, Ledger};
use super::session::{Named, View};
use super::throttle::Throttle;
use crate::config::Limits;
use crate::inventory::Lookup;
use crate::metrics::{Limit, Refusal};
use crate::name;

/// What all streams share.
pub(crate) struct Shared {
    pub(crate) hub: Arc<Hub>,
    pub(crate) ledger: Arc<Ledger>,
    pub(crate) audit: Audit,
    pub(crate) limits: Limits,
    pub(crate) stopping: CancellationToken,
    pub(crate) unknown_names: Throttle,
}

/// The present state, as one stream may see it.
pub(crate) struct Seen<'a> {
    published: Arc<Published>,
    account: &'a Account,
    now: SystemTime,
}

impl<'a> Seen<'a> {
    /// The state at this moment, to the client of `account`.
    pub(crate) fn new(shared: &Shared, account: &'a Account) -> Self {
        Self {
            published: shared.hub.current(),
            account,
            now: SystemTime::now(),
        }
    }

    /// Whether the client may not have what that name stands for, or would not if there were something.
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

    fn now(&self) -> SystemTime {
        self.now
    }
}

impl Shared {
    /// Logs that a client asks for a secret that it may not have.
    pub(crate) fn log_refusal(&self, view: &Seen<'_>, name: &str) {
        if view.is_refused(name) {
            let account = view.account;
            self.ledger.metrics().refused(Refusal::Name);
            self.audit
                .refused(account.peer(), account.node_id(), Refused::Name(name));
        }
    }

    /// Counts that a limit was reached, if that is what the status reports.
    pub(crate) fn count_limit(&self, status: &Status, limit: Limit) {
        if status.code() == tonic::Code::ResourceExhausted {
            self.ledger.metrics().limit_reached(limit);
        }
    }

    /// Logs that a secret goes to a stream's client. One line, for the audit where there is a key.
    pub(crate) fn log_delivery(&self, account: &Account, secret: &Named) {
        let Named { name, found } = secret;
        if found.secret.kind().is_confidential() {
            self.audit
                .delivered(account.peer(), account.node_id(), secret);
        } else {
            info!(
                secret = %name.escape_debug(),
                credential = &*found.credential,
                version = &**found.secret.version(),
                node = account.node_id(),
                peer = %account.peer(),
                "delivered"
            );
        }
    }
}
