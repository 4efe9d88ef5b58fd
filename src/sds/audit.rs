//! Who got which private key, when, and who was refused what: log lines with the target `audit`; and the
//! other log lines that clients cause.
//!
//! In every line the kernel's facts (user, process) come first, and what the client chooses itself comes
//! after them, in quotes. Only deliveries of private keys are logged each time: names come from clients, and
//! through them from anyone who can open a TLS connection, so that all other lines have a budget.

use tonic::{Code, Status};
use tracing::{debug, info, warn};

use super::ledger::Account;
use super::session::Named;
use super::throttle::{Line, Throttle};
use crate::metrics::Limit;
use crate::peer::Peer;
use crate::secret::{Kind, Name};

/// A log line about a peer: what goes before it, the facts about it, and then what the client chooses.
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

/// How many names of a list are logged.
const NAMES: usize = 8;

/// The log of what clients do.
#[derive(Debug, Default)]
pub struct Audit {
    throttle: Throttle,
}

/// What was refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refused<'a> {
    /// The connection.
    Connection,
    /// A connection to the admin socket.
    AdminConnection,
    /// A secret of that name, to a client that calls itself by the second one.
    Name(&'a str, &'a str),
}

impl Audit {
    /// A private key, or another secret that is confidential, goes to the stream's client: one line
    /// each, always.
    pub(crate) fn key_delivered(&self, account: &Account, Named { name, found }: &Named) {
        let peer = account.peer();
        line!(
            info, peer,
            { target: "audit", event = "key_delivered", }
            secret = &**name,
            credential = &*found.credential,
            version = &**found.secret.version(),
            node = account.node_id(),
            "audit: {} delivered",
            match found.secret.kind() {
                Kind::Certificate => "private key",
                _ => "confidential secret",
            },
        );
    }

    /// The peer may not have what it asked for.
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

    /// A client reached a limit, and what comes of it.
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

    /// A stream subscribed to a name, which stands for a secret of `credential` or for none.
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

    /// A secret without a private key goes to the stream's client.
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
            version = &**found.secret.version(),
            node = account.node_id(),
            left_out = some(left_out),
            "delivered"
        );
    }

    /// The client rejected the response that held these names, with this text.
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
            "rejected by the client, which keeps what it had; nothing more is sent until the files change"
        );
    }

    /// The stream ends with this status.
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

    /// Logs how many lines were left out, where no further line has reported it.
    pub(crate) fn tell_left_out(&self) {
        for left_out in self.throttle.overdue() {
            let (uid, lines) = (left_out.uid, left_out.lines);
            let kind = left_out.line.as_str();
            if left_out.line == Line::Refused {
                warn!(target: "audit", event = "unlogged", uid, unlogged = lines, "audit: {kind} not logged");
            } else {
                warn!(uid, left_out = lines, "{kind} not logged");
            }
        }
    }
}

/// About the bytes of a line that holds these texts.
fn length(texts: &[&str]) -> usize {
    const REST: usize = 200;
    REST + texts.iter().map(|text| text.len()).sum::<usize>()
}

fn some(count: u64) -> Option<u64> {
    (count > 0).then_some(count)
}
