//! Watched folders → "changed".
//!
//! Owners (roots, credential folders) read through [`Watch::read`], which puts a watch on each
//! folder right before something is looked up in it. An event is mapped to the owners that depend
//! on its path, and they come out of [`Watch::changed`], once each, when they are to be read again.
//!
//! Three threads beside the readers: that of `notify` takes the events, one places the watches, and
//! while something is looked at by `stat` alone, one does that. All they share is the [`Table`].

mod checks;
mod events;
mod index;
mod pending;
mod placer;
mod session;
mod table;
#[cfg(test)]
mod tests;

use std::hash::Hash;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use tokio::sync::Notify;

use self::events::Loss;
use self::index::{FolderId, OwnerId, Placement};
use self::pending::Excuse;
use self::session::Session;
use self::table::Table;
use super::read::{Arm, Stamps};

/// How often what is looked at.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Everything is looked at again this often, by `stat` alone.
    pub check_interval: Duration,
    /// What can't be watched is looked at again this often, by `stat` alone.
    pub poll_interval: Duration,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            check_interval: Duration::from_secs(60),
            poll_interval: Duration::from_secs(5),
        }
    }
}

/// Why an owner is polled.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Polled {
    /// Something could not be looked at for a passing reason, such as the limit on open files.
    PassingFailure,
    /// The file system may change without a word to this machine's kernel.
    RemoteFileSystem,
    /// A folder can't be watched for another reason, such as its permissions.
    Refused,
    /// The kernel's limit on watches is reached.
    WatchLimit,
    /// Nothing can be watched: inotify can't be had.
    NoInotify,
}

impl Polled {
    /// The reason as a metric label and JSON value, in snake case.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::PassingFailure => "passing_failure",
            Self::RemoteFileSystem => "remote_file_system",
            Self::Refused => "refused",
            Self::WatchLimit => "watch_limit",
            Self::NoInotify => "no_inotify",
        }
    }

    /// What to do about it.
    pub fn remedy(self) -> &'static str {
        match self {
            Self::PassingFailure => "raise the limit on open files, or look into the system's log",
            Self::RemoteFileSystem => {
                "keep them on a local file system to have changes seen at once"
            }
            Self::Refused => "let the agent's user read every folder on the way to them",
            Self::WatchLimit => "raise fs.inotify.max_user_watches (sysctl)",
            Self::NoInotify => "raise fs.inotify.max_user_instances (sysctl)",
        }
    }
}

/// What the watch is doing.
#[derive(Clone, Debug)]
pub struct State<K> {
    /// Directories with a live watch.
    pub directories: usize,
    /// Times that the kernel's event queue overflowed.
    pub overflows: u64,
    /// Times that the kernel refused a watch.
    pub refusals: u64,
    /// Times that watching began anew: after an overflow, an error, or on request.
    pub rebuilds: u64,
    /// Times that a look by `stat` found a change that no event had told of.
    pub missed: u64,
    /// The owners that are polled, and why.
    pub polled: Vec<(K, Polled)>,
}

/// A cheap handle on the watch of all folders that owners depend on. The last one ends it.
pub struct Watch<K: Clone + Eq + Hash + Send + 'static> {
    handle: Arc<Handle<K>>,
}

impl<K: Clone + Eq + Hash + Send + 'static> Clone for Watch<K> {
    fn clone(&self) -> Self {
        Self {
            handle: Arc::clone(&self.handle),
        }
    }
}

struct Handle<K: Clone + Eq + Hash + Send + 'static> {
    inner: Arc<Inner<K>>,
}

/// What the threads share.
struct Inner<K> {
    table: Mutex<Table<K>>,
    /// Tells the placer that there is work.
    work: Condvar,
    /// Tells readers that a watch was decided, or a fence passed, or a read ended.
    placed: Condvar,
    /// Tells [`Watch::changed`] to look again.
    wake: Notify,
}

/// A fence is passed in microseconds, but for a storm of events.
const FENCE: Duration = Duration::from_millis(100);

impl<K: Clone + Eq + Hash + Send + 'static> Watch<K> {
    /// Starts watching. What can't be watched is polled.
    pub fn start(settings: Settings) -> Self {
        let inner = Arc::new(Inner {
            table: Mutex::new(Table::new(settings)),
            work: Condvar::new(),
            placed: Condvar::new(),
            wake: Notify::new(),
        });
        let spawned = std::thread::Builder::new()
            .name("files-watch".into())
            .spawn({
                let inner = Arc::clone(&inner);
                move || placer::run(&inner)
            });
        if let Err(error) = spawned {
            tracing::warn!(%error, "nothing can be watched; raise the limit on threads");
            inner.lock().placer.missing = true;
        }
        Self {
            handle: Arc::new(Handle { inner }),
        }
    }

    /// Reads for `owner` by `read`, which names each folder to the [`Arm`] right before it looks
    /// something up there, and returns what it found with the stamps of all that it looked at.
    /// From then on, a change of any of it makes the owner due.
    ///
    /// `None` when what was read must not be used, because a file is being written: the owner is
    /// due again as soon as the file is whole (or some seconds later, whatever it is then).
    ///
    /// Blocks: call it on a thread made for that, for as many owners at a time as you like.
    pub fn read<T>(&self, owner: &K, read: impl FnOnce(&mut dyn Arm) -> (T, Stamps)) -> Option<T> {
        let inner = &self.handle.inner;
        let now = Instant::now();
        let (id, excuse) = inner.begin_read(owner, now);
        let mut reading = Reading {
            session: Session::new(inner, (id, excuse), now),
            inner,
            id,
            ended: false,
        };
        let (found, stamps) = read(&mut reading.session);
        let heard_all = !reading.session.may_lag() || inner.fence();
        reading.end(stamps, heard_all).then_some(found)
    }

    /// Nothing that `owner` depended on matters to it any more.
    pub fn forget(&self, owner: &K) {
        let inner = &self.handle.inner;
        inner.lock().forget(owner);
        inner.work.notify_one();
    }

    /// Has `owner` looked at by `stat` alone this often, whatever the settings say.
    pub fn set_interval(&self, owner: &K, interval: Option<Duration>) {
        let inner = &self.handle.inner;
        let mut table = inner.lock();
        let id = table.enter(owner);
        if let Some(owner) = table.owner_mut(id) {
            owner.interval = interval;
        }
        table.plan_check(id, Instant::now());
        inner.wake.notify_one();
    }

    /// Waits until owners are due, and returns them, each once. Nothing is lost when the future
    /// is dropped. One caller at a time. Looks by `stat` alone happen only while it is awaited.
    pub async fn changed(&self) -> Vec<K> {
        let inner = &self.handle.inner;
        loop {
            let now = Instant::now();
            checks::start(inner, now);
            let (due, next) = inner.lock().look(now);
            if !due.is_empty() {
                return due;
            }
            let wake = inner.wake.notified();
            match next {
                Some(at) => {
                    let _ = tokio::time::timeout_at(at.into(), wake).await;
                }
                None => wake.await,
            }
        }
    }

    /// Makes `owner` due.
    pub fn mark(&self, owner: &K) {
        let inner = &self.handle.inner;
        let mut table = inner.lock();
        let id = table.enter(owner);
        if table.mark(&[id], Instant::now()) {
            inner.wake.notify_one();
        }
    }

    /// Begins all watching anew and makes every owner due.
    pub fn mark_all(&self) {
        let inner = &self.handle.inner;
        inner.begin_anew(&mut inner.lock());
    }

    /// What the watch is doing.
    pub fn state(&self) -> State<K> {
        let table = self.handle.inner.lock();
        let folders = table.index.folders();
        State {
            directories: folders
                .filter(|(_, folder)| folder.placement == Placement::Live)
                .count(),
            overflows: table.counters.overflows,
            refusals: table.counters.refusals,
            rebuilds: table.counters.rebuilds,
            missed: table.counters.missed,
            polled: table
                .owners()
                .filter_map(|owner| Some((owner.key().clone(), owner.polled?)))
                .collect(),
        }
    }
}

impl<K: Clone + Eq + Hash + Send + 'static> Drop for Handle<K> {
    fn drop(&mut self) {
        self.inner.lock().closed = true;
        self.inner.work.notify_all();
    }
}

impl<K: Clone + Eq + Hash> Inner<K> {
    fn lock(&self) -> MutexGuard<'_, Table<K>> {
        // No change of the table is left half done where something can panic.
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn wait_for_work<'a>(
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
    fn place(&self, mut table: MutexGuard<'_, Table<K>>, id: FolderId, deadline: Instant) {
        if table.placer.missing {
            return table.index.refuse(id, Polled::NoInotify);
        }
        if let Some(folder) = table.index.folder_mut(id)
            && folder.placement == Placement::Unplaced
        {
            folder.placement = Placement::Queued;
        }
        table.enqueue(id);
        self.work.notify_one();
        let undecided = |table: &Table<K>| {
            let folder = table.index.folder(id);
            folder.is_some_and(|folder| folder.placement.is_undecided())
        };
        drop(self.wait_placed(table, deadline, |table| !undecided(table)));
    }

    /// Waits until every event so far has been heard of, and tells whether it has.
    fn fence(&self) -> bool {
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
    fn lost(&self, generation: u64, loss: Loss<'_>) {
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

    fn begin_anew(&self, table: &mut Table<K>) {
        table.counters.rebuilds += 1;
        table.begin_anew(Instant::now());
        self.work.notify_one();
        self.wake.notify_one();
    }
}

impl<K: Clone + Eq + Hash> Table<K> {
    /// The owners that are due, and when to look again.
    fn look(&mut self, now: Instant) -> (Vec<K>, Option<Instant>) {
        let (due, next) = self.take_due(now);
        let check = self.schedule.first().map(|(at, _)| *at);
        (due, [next, check].into_iter().flatten().min())
    }
}

/// A read under way. One that ends in a panic must not leave its owner as being read for ever.
struct Reading<'a, K: Clone + Eq + Hash> {
    session: Session<'a, K>,
    inner: &'a Inner<K>,
    id: OwnerId,
    ended: bool,
}

impl<K: Clone + Eq + Hash> Reading<'_, K> {
    fn end(mut self, stamps: Stamps, heard_all: bool) -> bool {
        self.ended = true;
        let ended = self.session.end(stamps, heard_all);
        let usable = self.inner.lock().end_read(self.id, ended, Instant::now());
        self.tell();
        usable
    }

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
