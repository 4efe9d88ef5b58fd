//! What the threads of a watch share, and how they wait for each other.

use std::hash::Hash;
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use tokio::sync::Notify;

use super::events::Loss;
use super::pending::Excuse;
use super::session::Session;
use super::table::Table;
use super::watched::{FolderId, OwnerId, Placement};
use super::{Polled, Settings};
use crate::files::read::{Arm, Stamps};

/// A fence is passed in microseconds, but for a storm of events.
const FENCE: Duration = Duration::from_millis(100);

/// What the threads share.
pub(super) struct Inner<K> {
    table: Mutex<Table<K>>,
    /// Tells the placer that there is work.
    pub(super) work: Condvar,
    /// Tells readers that a watch was decided, or a fence passed, or a read ended.
    pub(super) placed: Condvar,
    /// Tells whoever waits for owners that are due to look again.
    pub(super) wake: Notify,
}

impl<K: Clone + Eq + Hash> Inner<K> {
    pub(super) fn new(settings: Settings) -> Self {
        Self {
            table: Mutex::new(Table::new(settings)),
            work: Condvar::new(),
            placed: Condvar::new(),
            wake: Notify::new(),
        }
    }

    pub(super) fn lock(&self) -> MutexGuard<'_, Table<K>> {
        // No change of the table is left half done where something can panic.
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn wait_for_work<'a>(
        &self,
        table: MutexGuard<'a, Table<K>>,
        limit: Option<Duration>,
    ) -> MutexGuard<'a, Table<K>> {
        match limit {
            Some(limit) => match self.work.wait_timeout(table, limit) {
                Ok((table, _)) => table,
                Err(poisoned) => poisoned.into_inner().0,
            },
            None => self
                .work
                .wait(table)
                .unwrap_or_else(PoisonError::into_inner),
        }
    }

    /// Waits until `done`, or until `deadline`, and tells which.
    fn wait_placed<'a>(
        &self,
        mut table: MutexGuard<'a, Table<K>>,
        deadline: Instant,
        done: impl Fn(&Table<K>) -> bool,
    ) -> (MutexGuard<'a, Table<K>>, bool) {
        while !done(&table) {
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return (table, false);
            }
            table = match self.placed.wait_timeout(table, left) {
                Ok((table, _)) => table,
                Err(poisoned) => poisoned.into_inner().0,
            };
        }
        (table, true)
    }

    fn begin_read(&self, owner: &K, now: Instant) -> (OwnerId, Excuse) {
        let mut table = self.lock();
        loop {
            let id = table.enter(owner);
            if !table.owner(id).is_some_and(|owner| owner.reading) {
                return (id, table.begin_read(id, now));
            }
            table = self
                .placed
                .wait(table)
                .unwrap_or_else(PoisonError::into_inner);
        }
    }

    /// Has a watch placed on the folder `id`, and waits until it is decided.
    pub(super) fn place<'a>(
        &'a self,
        mut table: MutexGuard<'a, Table<K>>,
        id: FolderId,
        deadline: Instant,
    ) -> MutexGuard<'a, Table<K>> {
        let missing = table.placer.missing;
        if let Some(folder) = table.index.folder_mut(id) {
            match folder.placement {
                _ if missing => folder.placement = Placement::Refused(Polled::NoInotify),
                Placement::Unplaced => folder.placement = Placement::Queued,
                _ => {}
            }
        }
        table.enqueue(id);
        self.work.notify_one();
        let undecided = |table: &Table<K>| {
            let folder = table.index.folder(id);
            folder.is_some_and(|folder| folder.placement.is_undecided())
        };
        self.wait_placed(table, deadline, |table| !undecided(table))
            .0
    }

    /// Waits until every event so far has been heard of, and tells whether it has.
    pub(super) fn fence(&self) -> bool {
        let mut table = self.lock();
        if !table.placer.watching || table.placer.missing {
            return true;
        }
        table.placer.fence_wanted += 1;
        let fence = table.placer.fence_wanted;
        self.work.notify_one();
        let deadline = Instant::now() + FENCE;
        self.wait_placed(table, deadline, |table| table.placer.fence_passed >= fence)
            .1
    }

    /// Events of the watcher of this `generation` were lost.
    pub(super) fn lost(&self, generation: u64, loss: Loss<'_>) {
        let mut table = self.lock();
        if table.placer.generation != generation || table.closed {
            return;
        }
        match loss {
            Loss::Overflow => {
                table.counters.overflows += 1;
                tracing::warn!(
                    "the kernel's queue of file events overflowed, and everything is read again; \
                     raise fs.inotify.max_queued_events (sysctl) if this happens often"
                );
            }
            Loss::Error(error) => {
                tracing::warn!(%error, "file events can't be read; watching begins anew");
            }
            Loss::Ended => {
                tracing::warn!("the thread that reads file events died; watching begins anew")
            }
        }
        self.begin_anew(&mut table);
    }

    pub(super) fn begin_anew(&self, table: &mut Table<K>) {
        table.counters.rebuilds += 1;
        table.begin_anew(Instant::now());
        self.work.notify_one();
        self.wake.notify_one();
    }
}

/// A read under way. One that ends in a panic must not leave its owner as being read for ever.
pub(super) struct Reading<'a, K: Clone + Eq + Hash> {
    session: Session<'a, K>,
    inner: &'a Inner<K>,
    id: OwnerId,
    ended: bool,
}

impl<'a, K: Clone + Eq + Hash + Send + 'static> Reading<'a, K> {
    /// Begins a read for `owner`, after the one that is under way, if any.
    pub(super) fn begin(inner: &'a Inner<K>, owner: &K) -> Self {
        let now = Instant::now();
        let (id, excuse) = inner.begin_read(owner, now);
        Self {
            session: Session::new(inner, (id, excuse), now),
            inner,
            id,
            ended: false,
        }
    }

    pub(super) fn arm(&mut self) -> &mut dyn Arm {
        &mut self.session
    }

    /// Ends the read, and tells whether what it found is good for use.
    pub(super) fn end(mut self, stamps: Stamps) -> bool {
        // What was written before the files were opened must have been heard of.
        let heard_all = !self.session.may_lag() || self.inner.fence();
        self.ended = true;
        let ended = self.session.end(stamps, heard_all);
        let usable = self.inner.lock().end_read(self.id, ended, Instant::now());
        self.tell();
        usable
    }
}

impl<K: Clone + Eq + Hash> Reading<'_, K> {
    /// Tells those who wait for the end of the read.
    fn tell(&self) {
        self.inner.placed.notify_all();
        self.inner.work.notify_one();
        self.inner.wake.notify_one();
    }
}

impl<K: Clone + Eq + Hash> Drop for Reading<'_, K> {
    fn drop(&mut self) {
        if !self.ended {
            let needs = self.session.take_needs();
            self.inner.lock().abort_read(self.id, needs);
            self.tell();
        }
    }
}
