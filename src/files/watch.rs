//! Watched folders → "changed".
//!
//! Owners (roots, credential folders) read through [`Watch::read`], which puts a watch on each
//! folder right before something is looked up in it. An event is mapped to the owners that depend
//! on the folder and the name, and [`Watch::changed`] returns each of them once when it is to be
//! read again.
//!
//! A folder is identified by the number of its watch. The kernel has one watch for each inode, returns
//! its number whenever the folder is watched again, and does not reuse numbers. So each read places all
//! its watches, and nothing else keeps track of which folder is at which path.
//!
//! There is one inotify instance and one lock. Events are taken from the kernel under that lock, by
//! whoever needs to know all that has happened so far: the task that waits for changes, and each
//! read when it has found a file that has just changed, and when it ends.

mod events;
mod folders;
mod kernel;
mod owners;
mod pending;
mod polling;
mod session;
mod table;
#[cfg(test)]
mod tests;

use std::hash::Hash;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use tokio::time::sleep_until;

pub use self::polling::Polled;
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

/// What identifies an owner.
pub trait Key: Clone + Eq + Hash + Send + 'static {
    /// The folder that it is: most of what its reads examine is in there.
    fn folder(&self) -> PathBuf;
}

/// A cheap handle on the watch of all folders that owners depend on. Dropping the last one ends it.
#[derive(Clone)]
pub struct Watch<K> {
    table: Arc<Mutex<Table<K>>>,
}

impl<K: Key> Watch<K> {
    /// Starts watching. What can't be watched is polled.
    pub fn start(settings: Settings) -> Self {
        Self {
            table: Arc::new(Mutex::new(Table::new(settings))),
        }
    }

    fn lock(&self) -> MutexGuard<'_, Table<K>> {
        // No change of the table is left half done where something can panic.
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
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
        let mut session = Session::begin(self, owner)?;
        match catch_unwind(AssertUnwindSafe(|| read(&mut session))) {
            Ok((found, stamps)) => session.end(Some(stamps)).then_some(found),
            Err(panic) => {
                // The owner must not count as being read for ever.
                session.end(None);
                resume_unwind(panic)
            }
        }
    }

    /// Stops watching for `owner`.
    pub fn forget(&self, owner: &K) {
        self.lock().forget(owner);
    }

    /// Has `owner` checked by `stat` alone this often, regardless of the settings.
    pub fn set_interval(&self, owner: &K, interval: Option<Duration>) {
        let mut table = self.lock();
        let id = table.owners.enter(owner);
        table.change_polling(id, |polling| polling.interval = interval);
    }

    /// Waits until owners are due, and returns them, each once. Nothing is lost when the future
    /// is dropped. One caller at a time, in a Tokio runtime with I/O and time enabled. Checks by
    /// `stat` alone happen only while it is awaited.
    pub async fn changed(&self) -> Vec<K> {
        loop {
            let now = Instant::now();
            self.start_checks(now);
            let (due, next, wake) = {
                let mut table = self.lock();
                let wake = Arc::clone(&table.wake);
                (table.take_due(now), table.next_deadline(), wake)
            };
            if !due.is_empty() {
                return due;
            }
            tokio::select! {
                () = wake.notified() => {}
                () = self.take_events() => {}
                () = sleep_until(next.unwrap_or(now).into()), if next.is_some() => {}
            }
        }
    }

    /// Makes `owner` due.
    pub fn mark(&self, owner: &K) {
        let mut table = self.lock();
        let id = table.owners.enter(owner);
        table.mark([id], Instant::now());
    }

    /// Has all watches placed again, and makes every owner due.
    pub fn mark_all(&self) {
        self.lock().rebuild();
    }

    /// What the watch is doing.
    pub fn state(&self) -> State<K> {
        let table = self.lock();
        let owners = table.owners.iter();
        State {
            directories: table.folders.watched.len(),
            overflows: table.overflows,
            refusals: table.folders.refusals,
            rebuilds: table.rebuilds,
            missed: table.missed,
            polled: owners
                .filter_map(|(_, owner)| Some((owner.key.clone(), owner.polling().why?)))
                .collect(),
        }
    }
}
