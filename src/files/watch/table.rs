//! Everything that the watch knows: the owners, when each is to be read, and the folders that they
//! depend on. It is behind one lock, which is never held while anything blocks.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::sync::Notify;

use super::folders::{Folders, Place};
use super::owners::{OwnerId, Owners};
use super::pending::Pending;
use super::polling::{FIRST_ROUND, Polled, Polling, Round};
use super::{Key, Settings};

/// After an overflow everything is read again, but under a storm of them no more often than this.
const REBUILD_INTERVAL: Duration = Duration::from_millis(200);

/// Everything that the watch knows.
pub(super) struct Table<K> {
    pub(super) settings: Settings,
    /// Wakes the task that waits for changes, when there is something to do sooner than before.
    pub(super) wake: Arc<Notify>,
    pub(super) owners: Owners<K>,
    pub(super) folders: Folders,
    /// When which owner is due.
    due: BTreeSet<(Instant, OwnerId)>,
    /// When which owners are next checked by `stat` alone: `None` while they are being checked.
    pub(super) rounds: BTreeMap<Round, Option<Instant>>,
    /// Paths at which something recently became complete, and when: a file was closed by its writer, or a file or
    /// folder was moved or linked into place.
    pub(super) completed: HashMap<Place, Instant>,
    /// How many owners are polled for which reason.
    pub(super) polled: BTreeMap<Polled, isize>,
    /// Everything is read again at this time at the earliest.
    next_rebuild: Instant,
    pub(super) overflows: u64,
    pub(super) rebuilds: u64,
    pub(super) missed: u64,
}

impl<K: Key> Table<K> {
    pub(super) fn new(settings: Settings) -> Self {
        let mut folders = Folders::default();
        if let Err(error) = folders.open() {
            let remedy = Polled::NoInotify.remedy();
            tracing::warn!(%error, "nothing can be watched, and everything is polled: {remedy}");
        }
        let now = Instant::now();
        Self {
            rounds: BTreeMap::from([(FIRST_ROUND, Some(now + settings.check_interval))]),
            settings,
            wake: Arc::default(),
            owners: Owners::new(),
            folders,
            due: BTreeSet::new(),
            completed: HashMap::new(),
            polled: BTreeMap::new(),
            next_rebuild: now,
            overflows: 0,
            rebuilds: 0,
            missed: 0,
        }
    }

    pub(super) fn forget(&mut self, key: &K) {
        let Some((id, owner)) = self.owners.remove(key) else {
            return;
        };
        self.tally(owner.polling().why, None);
        self.drop_needs(owner.needs, id);
        if let Some(at) = owner.pending.and_then(|pending| pending.planned) {
            self.due.remove(&(at, id));
        }
    }

    /// Makes owners due, but not before `when`.
    pub(super) fn mark(&mut self, owners: impl IntoIterator<Item = OwnerId>, when: Instant) {
        for id in owners {
            self.update(id, |pending| pending.mark(when));
        }
    }

    /// Changes what is pending for an owner, and plans its next read. `None` if it was forgotten.
    pub(super) fn update<T>(
        &mut self,
        id: OwnerId,
        change: impl FnOnce(&mut Pending) -> T,
    ) -> Option<T> {
        let owner = self.owners.get_mut(id)?;
        let pending = owner.pending.get_or_insert_default();
        let result = change(pending);
        let at = pending.deadline();
        let before = std::mem::replace(&mut pending.planned, at);
        if pending.is_over() {
            owner.pending = None;
        }
        if before != at {
            before.map(|before| self.due.remove(&(before, id)));
            self.due.extend(at.map(|at| (at, id)));
            if at.is_some() && self.due.first() == at.map(|at| (at, id)).as_ref() {
                self.wake.notify_one();
            }
        }
        Some(result)
    }

    /// The owners that are due, each once.
    pub(super) fn take_due(&mut self, now: Instant) -> Vec<K> {
        let mut due = Vec::new();
        while let Some((at, id)) = self.due.first().copied()
            && at <= now
        {
            self.due.pop_first();
            // A file that is still being written makes its owner due once more, later.
            self.update(id, |pending| pending.hand_over(now));
            due.extend(self.owners.get(id).map(|owner| owner.key.clone()));
        }
        due
    }

    /// When there is something to do next, if nothing changes.
    pub(super) fn next_deadline(&self) -> Option<Instant> {
        let due = self.due.first().map(|(at, _)| at);
        let checks = self.rounds.values().flatten();
        checks.chain(due).min().copied()
    }

    /// Nothing that was reported until now can be relied on: everything is read again, and the reads
    /// place all watches again.
    pub(super) fn rebuild(&mut self) {
        self.rebuilds += 1;
        self.completed.clear();
        // A failure is logged when it begins, and shown as the reason for polling.
        let _ = self.folders.open();
        let when = self.next_rebuild.max(Instant::now());
        self.next_rebuild = when + REBUILD_INTERVAL;
        self.mark(self.owners.polled(|_| true), when);
    }

    /// Tries again what was refused, by reads of the owners concerned: somebody may have raised a limit.
    pub(super) fn retry(&mut self, now: Instant) {
        use Polled::{NoInotify, Refused, WatchLimit};
        if self.folders.open().is_ok() {
            let refused =
                |polling: Polling| matches!(polling.why, Some(NoInotify | Refused | WatchLimit));
            self.mark(self.owners.polled(refused), now);
        }
    }
}
