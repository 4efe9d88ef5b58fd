//! Who got which private key, when, and who was refused what: log lines with the target `audit`.
//!
//! Names come from clients, and through them from anyone who can open a TLS connection. So refusals
//! are bounded per user: beyond a burst they are counted, and the count is logged.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use super::session::Named;
use crate::peer::Peer;
use crate::secret::Kind;

/// Refusals of one user that are logged in a row.
const BURST: u32 = 200;
/// After a burst, one more is logged each such while.
const REFILL: Duration = Duration::from_secs(1);
/// Users that are kept apart; beyond them the counts start anew.
const USERS: usize = 1024;

/// The log of deliveries and refusals.
#[derive(Debug, Default)]
pub struct Audit {
    users: Mutex<HashMap<u32, Budget>>,
}

#[derive(Debug)]
struct Budget {
    left: u32,
    since: Instant,
    unlogged: u64,
}

/// What was refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refused<'a> {
    /// The connection.
    Connection,
    /// A secret of that name.
    Name(&'a str),
}

impl Audit {
    /// A secret with a private key, or another one that is confidential, goes to the peer: one line
    /// each, always.
    pub(crate) fn delivered(&self, peer: &Peer, node: &str, Named { name, found }: &Named) {
        let what = match found.secret.kind() {
            Kind::Certificate => "the private key",
            _ => "the secret",
        };
        tracing::info!(
            target: "audit",
            event = "key_delivered",
            secret = %name.escape_debug(),
            credential = &*found.credential,
            kind = found.secret.kind().as_str(),
            version = &**found.secret.version(),
            node = %node.escape_debug(),
            uid = peer.uid,
            user = peer.user.as_deref(),
            pid = peer.pid,
            process = peer.process.as_deref(),
            "audit: {what} of `{}` goes to {peer}",
            name.escape_debug(),
        );
    }

    /// The peer may not have what it asked for.
    pub fn refused(&self, peer: &Peer, node: &str, what: Refused<'_>) {
        let Some(unlogged) = self.spend(peer.uid, Instant::now()) else {
            return;
        };
        let name = match what {
            Refused::Connection => None,
            Refused::Name(name) => Some(name.escape_debug().to_string()),
        };
        tracing::warn!(
            target: "audit",
            event = "refused",
            secret = name,
            node = %node.escape_debug(),
            uid = peer.uid,
            user = peer.user.as_deref(),
            pid = peer.pid,
            process = peer.process.as_deref(),
            unlogged,
            "audit: {peer} may not have {}",
            match &name {
                Some(name) => format!("`{name}`"),
                None => "a connection".to_owned(),
            },
        );
    }

    /// The refusals that went unlogged before this one, or `None` where this one does too.
    fn spend(&self, uid: u32, now: Instant) -> Option<u64> {
        let mut users = self.users.lock().unwrap_or_else(PoisonError::into_inner);
        if users.len() >= USERS && !users.contains_key(&uid) {
            users.clear();
        }
        users
            .entry(uid)
            .or_insert_with(|| Budget::new(now))
            .spend(now)
    }
}

impl Budget {
    fn new(now: Instant) -> Self {
        Self {
            left: BURST,
            since: now,
            unlogged: 0,
        }
    }

    fn spend(&mut self, now: Instant) -> Option<u64> {
        let earned = now.duration_since(self.since).as_secs() / REFILL.as_secs();
        if earned > 0 {
            let earned = u32::try_from(earned).unwrap_or(BURST);
            self.left = self.left.saturating_add(earned).min(BURST);
            self.since = now;
        }
        if self.left == 0 {
            self.unlogged += 1;
            return None;
        }
        self.left -= 1;
        Some(std::mem::take(&mut self.unlogged))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_flood_of_refusals_is_counted_and_does_not_hide_another_users() {
        let audit = Audit::default();
        let now = Instant::now();
        for _ in 0..BURST {
            assert_eq!(audit.spend(1, now), Some(0));
        }
        for _ in 0..50 {
            assert_eq!(audit.spend(1, now), None);
        }
        assert_eq!(audit.spend(2, now), Some(0));
        assert_eq!(audit.spend(1, now + REFILL), Some(50));
        assert_eq!(audit.spend(1, now + REFILL), None);
    }
}
