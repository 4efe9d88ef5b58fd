//! Watched folders → "changed".

use std::hash::Hash;
use std::marker::PhantomData;
use std::time::Duration;

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
    /// The kernel's limit on watches is reached.
    WatchLimit,
    /// A folder can't be watched for another reason, such as its permissions.
    Refused,
    /// The file system may change without a word to this machine's kernel.
    RemoteFileSystem,
    /// Nothing can be watched: inotify can't be had.
    NoInotify,
    /// Something could not be looked at for a passing reason, such as the limit on open files.
    PassingFailure,
}

/// What the watch is doing.
#[derive(Clone, Debug, Default)]
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

/// A cheap handle on the watch of all folders that owners (roots, credential folders) depend on.
pub struct Watch<K> {
    owner: PhantomData<K>,
}

impl<K> Clone for Watch<K> {
    fn clone(&self) -> Self {
        Self { owner: PhantomData }
    }
}

impl<K: Clone + Eq + Hash + Send + 'static> Watch<K> {
    /// Starts watching. What can't be watched is polled.
    pub fn start(settings: Settings) -> Self {
        let _ = settings;
        todo!()
    }

    /// Reads for `owner` by `read`, which names each folder to the `Arm` right before it looks
    /// something up there, and returns what it found with the stamps of all that it looked at.
    /// From then on, a change of any of it makes the owner due.
    ///
    /// `None` when what was read must not be used, because a file is being written right now: the
    /// owner is due again as soon as the file is whole (or 5 s later, whatever it is then).
    ///
    /// Blocks: call it on a thread made for that, for as many owners at a time as you like.
    pub fn read<T>(&self, owner: &K, read: impl FnMut(&mut dyn Arm) -> (T, Stamps)) -> Option<T> {
        let _ = (owner, read);
        todo!()
    }

    /// Nothing that `owner` depended on matters to it any more.
    pub fn forget(&self, owner: &K) {
        let _ = owner;
        todo!()
    }

    /// Waits until owners are due, and returns them, each once. Nothing is lost when the future
    /// is dropped. One caller at a time.
    pub async fn changed(&self) -> Vec<K> {
        todo!()
    }

    /// Makes `owner` due.
    pub fn mark(&self, owner: &K) {
        let _ = owner;
        todo!()
    }

    /// Begins all watching anew and makes every owner due.
    pub fn mark_all(&self) {
        todo!()
    }

    /// What the watch is doing.
    pub fn state(&self) -> State<K> {
        todo!()
    }
}
