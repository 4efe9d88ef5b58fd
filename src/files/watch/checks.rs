//! Checks by `stat` alone, from time to time though no event asks for them.
//!
//! Each device has threads of its own while it is checked: one that hangs (a dead NFS server)
//! delays neither the others nor the end of the program.

use std::collections::BTreeSet;
use std::hash::Hash;
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use super::folders::OwnerId;
use super::owners::{FIRST_ROUND, Round};
use super::table::{Shared, Table};
use crate::files::read::Stamps;

/// Rounds that are under way at a time. All but hanging ones are done in milliseconds.
const MAX_ROUNDS: usize = 32;

/// While there are so many, another one is tried again after this long.
const BUSY: Duration = Duration::from_secs(1);

/// Starts what is due.
pub(super) fn start<K: Clone + Eq + Hash + Send + 'static>(shared: &Arc<Shared<K>>, now: Instant) {
    let next = || shared.lock().take_round(now);
    while let Some((round, owners)) = next() {
        let handle = Arc::clone(shared);
        let thread = thread::Builder::new().name("files-check".into());
        if let Err(error) = thread.spawn(move || check(&handle, round, &owners)) {
            tracing::warn!(%error, "files could not be checked; raise the limit on threads");
            shared.lock().end_round(round);
        }
    }
}

fn check<K: Clone + Eq + Hash>(shared: &Shared<K>, round: Round, owners: &[OwnerId]) {
    for id in owners {
        let stamps = shared.lock().owners.stamps(*id);
        if let Some(stamps) = stamps.filter(Stamps::changed) {
            shared.lock().found_changed(*id, &stamps);
        }
    }
    shared.lock().end_round(round);
}

impl<K: Clone + Eq + Hash> Table<K> {
    /// Has an owner checked from time to time.
    pub(super) fn plan_check(&mut self, id: OwnerId) {
        let owner = self.owners.get(id);
        let round = owner.map(|owner| owner.round(self.settings.poll_interval));
        if let Some(round) = round.filter(|round| !self.rounds.contains_key(round)) {
            self.end_round(round);
        }
    }

    /// The next round whose time has come, with its owners. It is under way from now on.
    fn take_round(&mut self, now: Instant) -> Option<(Round, Vec<OwnerId>)> {
        loop {
            let mut rounds = self.rounds.iter();
            let (round, _) = rounds.find(|(_, at)| at.is_some_and(|at| at <= now))?;
            let round = *round;
            let under_way = self.rounds.values().filter(|at| at.is_none()).count();
            let owners = self.owners.iter();
            let owners =
                owners.filter(|(.., owner)| owner.round(self.settings.poll_interval) == round);
            let owners: Vec<OwnerId> = owners.map(|(id, ..)| id).collect();
            if round == FIRST_ROUND {
                self.retry(now);
            } else if owners.is_empty() {
                self.rounds.remove(&round);
                continue;
            } else if under_way >= MAX_ROUNDS && round.0.is_some() {
                // Local files are never kept waiting by the others.
                self.rounds.insert(round, Some(now + BUSY));
                continue;
            }
            self.rounds.insert(round, None);
            return Some((round, owners));
        }
    }

    /// A round is no longer under way, or is new.
    fn end_round(&mut self, round: Round) {
        let every = round.1.unwrap_or(self.settings.check_interval);
        self.rounds.insert(round, Some(Instant::now() + every));
        self.wake.notify_one();
    }

    /// A check found that something has changed since the read that these stamps are of.
    fn found_changed(&mut self, id: OwnerId, stamps: &Stamps) {
        // The kernel may have reported it already.
        self.drain();
        let now = Instant::now();
        let Some(owner) = self.owners.get(id) else {
            return;
        };
        // What is read meanwhile, or about to be, finds that itself.
        if owner.pending.is_some() || !owner.stamps.is_same_as(stamps) {
            return;
        }
        if owner.polled.is_some() {
            return self.mark([id], now);
        }
        // An event is missing. Whatever swallowed it (a mount over a watched folder, say) may swallow the
        // next one: all who share a folder are due, and their reads place the watches again.
        self.missed += 1;
        self.folders.distrust(now);
        let mut owners = BTreeSet::from([id]);
        for (watch, _) in owner.needs.clone() {
            owners.extend(self.folders.needs_of(watch).map(|(_, id)| id));
        }
        self.mark(owners, now);
    }
}
