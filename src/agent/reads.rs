//! The reads in progress, one per owner at a time, on threads where they may block.

use std::collections::{BTreeSet, HashMap, HashSet, VecDeque};
use std::num::NonZero;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::available_parallelism;
use std::time::Instant;

use tokio::sync::mpsc;

use super::reading::{Found, Owner, Reader};
use crate::files::read::Route;
use crate::files::watch::Watch;
use crate::metrics::{Metrics, Read};

/// Concurrent reads of one root at most. The limit is per root, so that a root that hangs only delays itself.
const READS_PER_ROOT: usize = 4;

/// Finished reads that wait to be taken in. When there are more, the threads that read wait.
pub(super) const RESULTS: usize = 256;

/// The reads in progress.
pub(super) struct Reads {
    send: mpsc::Sender<Done>,
    done: mpsc::Receiver<Done>,
    /// By root.
    queues: HashMap<Arc<Path>, Arc<Queue>>,
    /// The owners that are being read, and for those that must be read again, since when.
    owners: HashMap<Owner, Option<Instant>>,
    /// Owners with a file that was being written when they were read: due again soon.
    deferred: HashSet<Owner>,
    /// Concurrent reads of one root: one more than there are processors to do them, for while one of them waits. More
    /// would only wait for each other.
    per_root: usize,
}

/// The reads of one root. There may be thousands, so waiting ones use little memory.
#[derive(Default)]
struct Queue(Mutex<Reading>);

#[derive(Default)]
struct Reading {
    /// Threads that take reads from the queue until it is empty.
    threads: usize,
    waiting: VecDeque<Waiting>,
}

/// A read that waits for a slot.
struct Waiting {
    owner: Owner,
    noticed: Instant,
    reader: Arc<Reader>,
    watch: Watch<Owner>,
    metrics: Arc<Metrics>,
}

/// A finished read.
pub(super) struct Done {
    pub(super) owner: Owner,
    /// When the change that caused the read was noticed.
    pub(super) noticed: Instant,
    /// The configuration that it was read with.
    pub(super) epoch: u64,
    /// None if a file is being written: the owner is due again soon.
    pub(super) found: Option<Found>,
    /// Since when the owner must be read again, if it must.
    pub(super) again: Option<Instant>,
}

impl Default for Reads {
    fn default() -> Self {
        let (send, done) = mpsc::channel(RESULTS);
        let processors = available_parallelism().map_or(1, NonZero::get);
        Self {
            send,
            done,
            queues: HashMap::new(),
            owners: HashMap::new(),
            deferred: HashSet::new(),
            per_root: READS_PER_ROOT.min(processors + 1),
        }
    }
}

impl Reads {
    /// Starts a read of `owner` as soon as there is a slot. If one is in progress, another one follows it.
    /// The change that causes it was noticed at `noticed`.
    pub(super) fn start(
        &mut self,
        owner: Owner,
        noticed: Instant,
        reader: Arc<Reader>,
        watch: Watch<Owner>,
        metrics: Arc<Metrics>,
    ) {
        if let Some(again) = self.owners.get_mut(&owner) {
            again.get_or_insert(noticed);
            return;
        }
        self.owners.insert(owner.clone(), None);
        let root = owner.root().clone();
        let queue = self.queues.entry(root.clone()).or_default();
        let mut reading = queue.lock();
        reading.waiting.push_back(Waiting {
            owner,
            noticed,
            reader,
            watch,
            metrics,
        });
        if reading.threads < self.per_root {
            reading.threads += 1;
            let (queue, send) = (Arc::clone(queue), self.send.clone());
            tokio::task::spawn_blocking(move || queue.work(&root, &send));
        }
    }

    /// The next read that finishes; `None` if none is in progress.
    pub(super) async fn next(&mut self) -> Option<Done> {
        if self.owners.is_empty() {
            return None;
        }
        let done = self.done.recv().await?;
        Some(self.took(done))
    }

    /// How many reads have not finished.
    pub(super) fn in_progress(&self) -> usize {
        self.owners.len()
    }

    /// Like [`Self::next`], if one has already finished.
    pub(super) fn try_next(&mut self) -> Option<Done> {
        let done = self.done.try_recv().ok()?;
        Some(self.took(done))
    }

    fn took(&mut self, mut done: Done) -> Done {
        done.again = self.owners.remove(&done.owner).flatten();
        if is_sparse(self.owners.len(), self.owners.capacity()) {
            self.owners.shrink_to(2 * self.owners.len());
        }
        if self.owners.is_empty() {
            self.queues.retain(|_, queue| queue.lock().threads > 0);
        }
        if done.found.is_none() {
            self.deferred.insert(done.owner.clone());
        } else {
            self.deferred.remove(&done.owner);
        }
        done
    }

    /// The roots with unfinished reads.
    pub(super) fn roots(&self) -> BTreeSet<&Arc<Path>> {
        self.owners.keys().map(Owner::root).collect()
    }

    /// Whether an owner is due again soon because one of its files was being written.
    pub(super) fn has_deferred(&self) -> bool {
        !self.deferred.is_empty()
    }

    /// Whether nothing is being read, and nothing is due again soon.
    pub(super) fn is_idle(&self) -> bool {
        self.owners.is_empty() && self.deferred.is_empty()
    }

    /// Drops the state of an owner that no longer exists.
    pub(super) fn forget(&mut self, owner: &Owner) {
        self.deferred.remove(owner);
        if let Owner::Root(path) = owner {
            self.deferred.retain(|other| other.root() != path);
        }
    }
}

impl Queue {
    fn lock(&self) -> MutexGuard<'_, Reading> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Reads until the queue is empty or the receiver of the results is gone. Consecutive reads share the
    /// walk to the root, and one thread for many reads costs less than waking one for each.
    fn work(&self, root: &Path, results: &mpsc::Sender<Done>) {
        let route = Route::to(root);
        while let Some(read) = self.next()
            && results.blocking_send(read.run(&route)).is_ok()
        {}
    }

    /// The next read. `None` if there is none: the calling thread no longer counts then, and must end.
    fn next(&self) -> Option<Waiting> {
        let mut reading = self.lock();
        let waiting = &mut reading.waiting;
        let next = waiting.pop_front();
        if is_sparse(waiting.len(), waiting.capacity()) {
            waiting.shrink_to(2 * waiting.len());
        }
        if next.is_none() {
            reading.threads -= 1;
        }
        next
    }
}

/// Whether so few entries are left that most of the room should be given back. At a start, the memory is then used
/// for what is read.
fn is_sparse(len: usize, capacity: usize) -> bool {
    4 * len < capacity
}

impl Waiting {
    fn run(self, route: &Route) -> Done {
        let Self {
            owner,
            noticed,
            reader,
            watch,
            metrics,
        } = self;
        let read = || measured(&metrics, &owner, || reader.at(&watch, &owner, route));
        let found = catch_unwind(AssertUnwindSafe(read));
        Done {
            // A panic is a bug of the check: the folder keeps its previous state.
            found: found.unwrap_or_default(),
            epoch: reader.epoch,
            owner,
            noticed,
            again: None,
        }
    }
}

/// Reads, and records the duration.
fn measured<T>(metrics: &Metrics, owner: &Owner, read: impl FnOnce() -> T) -> T {
    let start = Instant::now();
    let found = read();
    let what = match owner {
        Owner::Root(_) => Read::Root,
        Owner::Folder(_) => Read::Folder,
    };
    metrics.read(what, start.elapsed());
    found
}
