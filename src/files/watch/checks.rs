//! Checks by `stat` alone, from time to time though no event asks for them.
//!
//! Each device has threads of its own while it is checked: one that hangs (a dead NFS server)
//! delays neither the others nor the end of the program.

use std::collections::BTreeSet;
use std::thread;
use std::time::{Duration, Instant};

use super::folders::What;
use super::owners::{FIRST_ROUND, OwnerId, Polling, Round};
use super::table::Table;
use super::{Key, Watch};
use crate::files::read::Stamps;

/// Rounds that are under way at a time. All but hanging ones are done in milliseconds.
const MAX_ROUNDS: usize = 32;

/// While there are so many, another one is tried again after this long.
const BUSY: Duration = Duration::from_secs(1);

impl<K: Key> Watch<K> {
    /// Starts the checks that are due.
    pub(super) fn start_checks(&self, now: Instant) {
        let next = || self.lock().take_round(now);
        while let Some((round, owners)) = next() {
            let watch = self.clone();
            let thread = thread::Builder::new().name("files-check".into());
            if let Err(error) = thread.spawn(move || watch.check(round, &owners)) {
                tracing::warn!(%error, "files could not be checked; raise the limit on threads");
                self.lock().end_round(round);
            }
        }
    }

    fn check(&self, round: Round, owners: &[OwnerId]) {
        for id in owners {
            let table = self.lock();
            let owner = table.owners.get(*id);
            let read = owner.map(|owner| (owner.key.folder(), owner.stamps.clone()));
            drop(table);
            if let Some((folder, stamps)) = read
                && stamps.changed(&folder)
            {
                self.lock().found_changed(*id, &stamps);
            }
        }
        self.lock().end_round(round);
    }
}

impl<K: Key> Table<K> {
    /// Has an owner checked from time to time.
    pub(super) fn plan_check(&mut self, id: OwnerId) {
        let owner = self.owners.get(id);
        let round = owner.map(|owner| owner.polling().round(&self.settings));
        if let Some(round) = round.filter(|round| !self.rounds.contains_key(round)) {
            self.end_round(round);
        }
    }

    /// The next round whose time has come, with its owners. It is under way from now on.
    fn take_round(&mut self, now: Instant) -> Option<(Round, Vec<OwnerId>)> {
        loop {
            let under_way = self.rounds.values().filter(|at| at.is_none()).count();
            let mut rounds = self.rounds.iter_mut();
            let (round, at) = rounds.find(|(_, at)| at.is_some_and(|at| at <= now))?;
            let round = *round;
            // Local files are never kept waiting by the others.
            if under_way >= MAX_ROUNDS && round.0.is_some() {
                *at = Some(now + BUSY);
                continue;
            }
            *at = None;
            let is_in = |polling: Polling| polling.round(&self.settings) == round;
            let owners = self.owners.polled(is_in);
            if round == FIRST_ROUND {
                self.retry(now);
            } else if owners.is_empty() {
                self.rounds.remove(&round);
                continue;
            }
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
        if owner.pending.is_some() || owner.stamps != *stamps {
            return;
        }
        if owner.polling().why.is_some() {
            return self.mark([id], now);
        }
        // An event is missing. Whatever swallowed it (a mount over a watched folder, say) may swallow the
        // next one: all who share a folder are due, and their reads place the watches again.
        let mut owners = BTreeSet::from([id]);
        for (watch, _) in &owner.needs {
            owners.extend(self.needs_of(*watch, What::ANY).map(|(_, id)| id));
        }
        self.missed += 1;
        self.whole.clear();
        self.mark(owners, now);
    }
}
