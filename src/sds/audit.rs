//! The audit log of delivered private keys and refusals (target `audit`), and the other log lines that clients
//! cause.
//!
//! In every line, facts from the kernel (user, process) come first, and values that the client chooses follow
//! in quotes. Only deliveries of private keys are always logged. Names come from clients, and through Envoy from
//! anyone who can open a TLS connection to it, so all other lines have a budget.

use tonic::{Code, Status};
use tracing::{debug, info, warn};

use super::ledger::Account;
use super::session::Named;
use super::throttle::{LeftOut, Line, Throttle};
use crate::metrics::Limit;
use crate::peer::Peer;
use crate::secret::{Kind, Name};

/// A log line about a peer: leading fields, facts about the peer, and then values that the client chooses.
macro_rules! line {
    ($level:ident, $peer:expr, { $($before:tt)* } $($after:tt)*) => {
        $level!(
            $($before)*
            uid = $peer.uid,
            user = $peer.user.as_deref(),
            pid = $peer.pid,
            process = $peer.process.as_deref(),
            $($after)*
        )
    };
}

/// The maximum number of names of a list that are logged.
const NAMES: usize = 8;

/// Logs the actions of clients.
#[derive(Debug, Default)]
pub struct Audit {
    throttle: Throttle,
}

/// A refused request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refused<'a> {
    /// The connection.
    Connection,
    /// A connection to the admin socket.
    AdminConnection,
    /// A secret of that name, requested by a client with this node id.
    Name(&'a str, &'a str),
}

impl Audit {
    /// A private key, or another confidential secret, is sent to the stream's client. Each delivery is
    /// logged.
    pub(crate) fn key_delivered(&self, account: &Account, Named { name, found }: &Named) {
        let peer = account.peer();
        line!(
            info, peer,
            { target: "audit", event = "key_delivered", }
            secret = &**name,
            credential = &*found.credential,
            version = &*found.secret.version().digits(),
            node = account.node_id(),
            "audit: {} delivered",
            match found.secret.kind() {
                Kind::Certificate => "private key",
                _ => "confidential secret",
            },
        );
    }

    /// The peer is not allowed to read what it requested.
    pub fn refused(&self, peer: &Peer, what: Refused<'_>) {
        let (name, node) = match what {
            Refused::Connection | Refused::AdminConnection => (None, None),
            Refused::Name(name, node) => (Some(name), Some(node)),
        };
        let length = length(&[name.unwrap_or(""), node.unwrap_or("")]);
        let Some(unlogged) = self.throttle.allow(Line::Refused, peer.uid, length) else {
            return;
        };
        line!(
            warn, peer,
            { target: "audit", event = "refused", }
            secret = name,
            node,
            unlogged,
            "audit: {}",
            match what {
                Refused::Connection => "connection refused",
                Refused::AdminConnection => "connection to the admin socket refused",
                Refused::Name(..) => "secret refused",
            },
        );
    }

    /// A client reached a limit, with this outcome.
    pub(crate) fn limited(&self, uid: u32, pid: Option<u32>, limit: Limit, outcome: &str) {
        if let Some(left_out) = self.throttle.allow(Line::Limited, uid, length(&[outcome])) {
            warn!(
                uid,
                pid,
                left_out = some(left_out),
                "{outcome}; see limits.{}",
                limit.as_str()
            );
        }
    }

    /// A stream subscribed to a name, which is a secret of `credential` or of none.
    pub(crate) fn subscribed(&self, account: &Account, name: &str, credential: Option<&str>) {
        let peer = account.peer();
        let length = length(&[name, account.node_id()]);
        let Some(left_out) = self.throttle.allow(Line::Subscribed, peer.uid, length) else {
            return;
        };
        line!(
            info, peer,
            {  }
            secret = name,
            known = credential.is_some(),
            credential,
            protocol = account.protocol().as_str(),
            node = account.node_id(),
            left_out = some(left_out),
            "subscribed"
        );
    }

    /// A secret without a private key is sent to the stream's client.
    pub(crate) fn delivered(&self, account: &Account, Named { name, found }: &Named) {
        let peer = account.peer();
        let length = length(&[name, account.node_id()]);
        let Some(left_out) = self.throttle.allow(Line::Delivered, peer.uid, length) else {
            return;
        };
        line!(
            info, peer,
            {  }
            secret = &**name,
            credential = &*found.credential,
            version = &*found.secret.version().digits(),
            node = account.node_id(),
            left_out = some(left_out),
            "delivered"
        );
    }

    /// The client rejected the response with these names, for this reason.
    pub(crate) fn rejected(&self, account: &Account, names: &[Name], reason: &str) {
        let peer = account.peer();
        let shown: Vec<&str> = names.iter().take(NAMES).map(|name| &**name).collect();
        let length = length(&[reason, account.node_id()]) + length(&shown);
        let Some(left_out) = self.throttle.allow(Line::Rejected, peer.uid, length) else {
            return;
        };
        let more = names.len() - shown.len();
        line!(
            warn, peer,
            {  }
            secrets = ?shown,
            more = some(more as u64),
            reason,
            node = account.node_id(),
            left_out = some(left_out),
            "rejected by the client, which keeps its previous version; nothing more is sent until the files change"
        );
    }

    /// The stream ended with this status.
    pub(crate) fn ended(&self, account: &Account, status: &Status) {
        let peer = account.peer();
        let reason = status.message();
        if matches!(status.code(), Code::Ok | Code::Unavailable) {
            debug!(
                pid = peer.pid,
                node = account.node_id(),
                reason,
                "stream ended"
            );
            return;
        }
        let length = length(&[reason, account.node_id()]);
        let Some(left_out) = self.throttle.allow(Line::Ended, peer.uid, length) else {
            return;
        };
        line!(
            warn, peer,
            {  }
            code = ?status.code(),
            reason,
            node = account.node_id(),
            left_out = some(left_out),
            "stream ended: the client's request can't be served"
        );
    }

    /// Logs how many lines were suppressed, where no later line has reported it. Never returns.
    pub(crate) async fn log_suppressed(&self) {
        loop {
            for LeftOut { line, uid, lines } in self.throttle.overdue().await {
                let kind = line.as_str();
                if line == Line::Refused {
                    warn!(target: "audit", event = "unlogged", uid, unlogged = lines, "audit: {kind} not logged");
                } else {
                    warn!(uid, left_out = lines, "{kind} not logged");
                }
            }
        }
    }
}

/// The approximate number of bytes of a line with these texts.
fn length(texts: &[&str]) -> usize {
    const REST: usize = 200;
    REST + texts.iter().map(|text| text.len()).sum::<usize>()
}

fn some(count: u64) -> Option<u64> {
    (count > 0).then_some(count)
}
