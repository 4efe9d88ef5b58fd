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
use super::owners::Round;
use super::table::{FIRST_ROUND, Shared, Table};
use crate::files::read::Stamps;

/// Rounds that are under way at a time. All but hanging ones are done in milliseconds.
const MAX_ROUNDS: usize = 32;

/// While there are so many, another one is tried again after this long.
const BUSY: Duration = Duration::from_secs(1);

/// Starts what is due.
pub(super) fn start<K: Clone + Eq + Hash + Send + 'static>(shared: &Arc<Shared<K>>, now: Instant) {
    let rounds = shared.lock().take_rounds(now);
    for (round, owners) in rounds {
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
            shared.with(|table| {
                // The kernel may have reported it already.
                table.drain();
                table.found_changed(*id, &stamps, Instant::now());
            });
        }
    }
    shared.with(|table| table.end_round(round));
}

impl<K: Clone + Eq + Hash> Table<K> {
    /// Has an owner checked from time to time.
    pub(super) fn plan_check(&mut self, id: OwnerId) {
        if let Some(owner) = self.owners.get(id) {
            let round = owner.round(self.settings.poll_interval);
            let at = Instant::now() + self.interval(round);
            self.rounds.entry(round).or_insert(Some(at));
        }
    }

    fn interval(&self, (_, polled_every): Round) -> Duration {
        polled_every.unwrap_or(self.settings.check_interval)
    }

    /// The rounds whose time has come, with their owners. They are under way from now on.
    fn take_rounds(&mut self, now: Instant) -> Vec<(Round, Vec<OwnerId>)> {
        let due = self
            .rounds
            .iter()
            .filter(|(_, at)| at.is_some_and(|at| at <= now));
        let due: Vec<Round> = due.map(|(round, _)| *round).collect();
        let taken = due
            .into_iter()
            .filter_map(|round| self.take_round(round, now));
        taken.collect()
    }

    fn take_round(&mut self, round: Round, now: Instant) -> Option<(Round, Vec<OwnerId>)> {
        let under_way = self.rounds.values().filter(|at| at.is_none()).count();
        // Local files are never kept waiting by the others.
        if under_way >= MAX_ROUNDS && round.0.is_some() {
            self.rounds.insert(round, Some(now + BUSY));
            return None;
        }
        if round == FIRST_ROUND {
            self.retry(now);
        }
        let usual = self.settings.poll_interval;
        let owners = self.owners.iter();
        let owners = owners.filter(|(.., owner)| owner.round(usual) == round);
        let owners: Vec<OwnerId> = owners.map(|(id, ..)| id).collect();
        if owners.is_empty() && round != FIRST_ROUND {
            self.rounds.remove(&round);
            return None;
        }
        self.rounds.insert(round, None);
        Some((round, owners))
    }

    /// A round is no longer under way.
    fn end_round(&mut self, round: Round) {
        let next = Instant::now() + self.interval(round);
        self.rounds.insert(round, Some(next));
    }

    /// A check found that something has changed since the read that these stamps are of.
    fn found_changed(&mut self, id: OwnerId, stamps: &Stamps, now: Instant) {
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
