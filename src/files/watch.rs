//! Watched folders → "changed".
//!
//! Owners (roots, credential folders) read through [`Watch::read`], which puts a watch on each
//! folder right before something is looked up in it. An event is mapped to the owners that depend
//! on the folder and the name, and [`Watch::changed`] returns each of them once when it is to be
//! read again.
//!
//! There is one inotify instance and one lock. Events are taken from the kernel under that lock, by
//! whoever needs to know all that has happened so far: the task that waits for changes, and each
//! read when it ends.

mod checks;
mod events;
mod folders;
mod kernel;
mod pending;
mod polled;
mod session;
mod table;
#[cfg(test)]
mod tests;

use std::future::pending as never;
use std::hash::Hash;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use tokio::sync::Notify;

pub use self::polled::Polled;
use self::session::Session;
use self::table::Table;
use super::read::{Arm, Stamps};

/// How often files are checked by `stat` alone.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Everything is checked this often.
    pub check_interval: Duration,
    /// What can't be watched is checked this often.
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

/// What the watch is doing.
#[derive(Clone, Debug)]
pub struct State<K> {
    /// Directories with a live watch.
    pub directories: usize,
    /// Times that the kernel's event queue overflowed.
    pub overflows: u64,
    /// Times that the kernel refused a watch.
    pub refusals: u64,
    /// Times that all watches were placed again: after an overflow, an error, or on request.
    pub rebuilds: u64,
    /// Times that a check by `stat` found a change that no event had reported.
    pub missed: u64,
    /// The owners that are polled, and why.
    pub polled: Vec<(K, Polled)>,
}

/// A cheap handle on the watch of all folders that owners depend on. Dropping the last one ends it.
pub struct Watch<K: Clone + Eq + Hash + Send + 'static> {
    inner: Arc<Inner<K>>,
}

impl<K: Clone + Eq + Hash + Send + 'static> Clone for Watch<K> {
    fn clone(&self) -> Self {
        Self {
            inner: Arc::clone(&self.inner),
        }
    }
}

impl<K: Clone + Eq + Hash + Send + 'static> Watch<K> {
    /// Starts watching. What can't be watched is polled.
    pub fn start(settings: Settings) -> Self {
        Self {
            inner: Arc::new(Inner {
                table: Mutex::new(Table::new(settings)),
                wake: Notify::new(),
            }),
        }
    }

    /// Reads for `owner` by `read`, which names each folder to the [`Arm`] right before it looks
    /// something up there, and returns what it found with the stamps of all that it examined.
    /// From then on, a change of any of it makes the owner due.
    ///
    /// `None` when what was read must not be used, because a file is being written or another read
    /// of the same owner is under way. The owner is due again as soon as the file is complete (or
    /// after some seconds in any case), or the other read has ended.
    ///
    /// Blocks: call it on a thread made for that, for as many owners at a time as you like.
    pub fn read<T>(&self, owner: &K, read: impl FnOnce(&mut dyn Arm) -> (T, Stamps)) -> Option<T> {
        let mut session = Session::begin(&self.inner, owner)?;
        let (found, stamps) = read(&mut session);
        session.end(stamps).then_some(found)
    }

    /// Stops watching for `owner`.
    pub fn forget(&self, owner: &K) {
        self.inner.with(|table| table.forget(owner));
    }

    /// Has `owner` checked by `stat` alone this often, regardless of the settings.
    pub fn set_interval(&self, owner: &K, interval: Option<Duration>) {
        self.inner.with(|table| {
            let id = table.enter(owner);
            if let Some(owner) = table.owner_mut(id) {
                owner.interval = interval;
            }
            table.plan_check(id, Instant::now());
        });
    }

    /// Waits until owners are due, and returns them, each once. Nothing is lost when the future
    /// is dropped. One caller at a time, in a Tokio runtime with I/O and time enabled. Checks by
    /// `stat` alone happen only while it is awaited.
    pub async fn changed(&self) -> Vec<K> {
        loop {
            let now = Instant::now();
            checks::start(&self.inner, now);
            let (due, next) = {
                let mut table = self.inner.lock();
                table.drain();
                (table.take_due(now), table.next_deadline())
            };
            if !due.is_empty() {
                return due;
            }
            tokio::select! {
                () = self.inner.wake.notified() => {}
                () = self.inner.events() => {}
                () = tokio::time::sleep_until(next.into()) => {}
            }
        }
    }

    /// Makes `owner` due.
    pub fn mark(&self, owner: &K) {
        self.inner.with(|table| {
            let id = table.enter(owner);
            table.mark(&[id], Instant::now());
        });
    }

    /// Has all watches placed again, and makes every owner due.
    pub fn mark_all(&self) {
        self.inner.with(|table| table.rebuild(Instant::now()));
    }

    /// What the watch is doing.
    pub fn state(&self) -> State<K> {
        let table = self.inner.lock();
        State {
            directories: table.folders.live(),
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

/// What the handles of a watch share.
struct Inner<K> {
    table: Mutex<Table<K>>,
    /// Wakes the task that waits for changes.
    wake: Notify,
}

impl<K: Clone + Eq + Hash> Inner<K> {
    fn lock(&self) -> MutexGuard<'_, Table<K>> {
        // No change of the table is left half done where something can panic.
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Changes the table, and wakes the waiting task if there is something to do sooner than before.
    fn with<T>(&self, change: impl FnOnce(&mut Table<K>) -> T) -> T {
        let mut table = self.lock();
        let before = table.next_deadline();
        let result = change(&mut table);
        let after = table.next_deadline();
        drop(table);
        if after < before {
            self.wake.notify_one();
        }
        result
    }

    /// Waits until the kernel has events, and takes them.
    async fn events(&self) {
        let readiness = self.lock().readiness();
        let Some(readiness) = readiness else {
            return never().await;
        };
        // Fails only when the runtime is shutting down.
        let Ok(mut guard) = readiness.readable().await else {
            return never().await;
        };
        if self.lock().drain() {
            guard.clear_ready();
        }
    }
}
