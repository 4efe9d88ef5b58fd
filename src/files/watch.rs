//! Watched folders → "changed".
//!
//! Owners (roots, credential folders) read through [`Watch::read`], which puts a watch on each
//! folder right before something is looked up in it. An event is mapped to the owners that depend
//! on its path, and they come out of [`Watch::changed`], once each, when they are to be read again.
//!
//! Three threads beside the readers: that of `notify` takes the events, one places the watches, and
//! while something is looked at by `stat` alone, one does that. All they share is one table.

mod checks;
mod events;
mod index;
mod inner;
mod notifier;
mod owner;
mod pending;
mod placer;
mod polled;
mod reads;
mod session;
mod table;
#[cfg(test)]
mod tests;
mod watched;

use std::hash::Hash;
use std::sync::Arc;
use std::time::{Duration, Instant};

use self::inner::{Inner, Reading};
pub use self::polled::Polled;
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

impl<K: Clone + Eq + Hash + Send + 'static> Watch<K> {
    /// Starts watching. What can't be watched is polled.
    pub fn start(settings: Settings) -> Self {
        let inner = Arc::new(Inner::new(settings));
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
        let mut reading = Reading::begin(inner, owner);
        let (found, stamps) = read(reading.arm());
        reading.end(stamps).then_some(found)
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
                .filter(|(_, folder)| folder.placement.is_live())
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
