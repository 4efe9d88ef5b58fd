//! The reads in progress, one per owner at a time, on threads where they may block.

use std::collections::{BTreeSet, HashMap, HashSet, VecDeque};
use std::path::Path;
use std::sync::Arc;
use std::time::Instant;

use tokio::task::{JoinError, JoinSet};

use super::reading::{Found, Owner, Reader};
use crate::files::watch::Watch;
use crate::metrics::{Metrics, Read};

/// Concurrent reads of one root. The limit is per root, so that a root that hangs only delays itself.
const READS_PER_ROOT: usize = 4;

/// The reads in progress.
#[derive(Default)]
pub(super) struct Reads {
    set: JoinSet<Done>,
    /// By root.
    queues: HashMap<Arc<Path>, Queue>,
    /// The owners that are being read, and for those that must be read again, since when.
    owners: HashMap<Owner, Option<Instant>>,
    /// Owners with a file that was being written when they were read: due again soon.
    deferred: HashSet<Owner>,
}

/// The reads of one root. There may be thousands, so waiting ones use little memory.
#[derive(Default)]
struct Queue {
    running: usize,
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
        queue.waiting.push_back(Waiting {
            owner,
            noticed,
            reader,
            watch,
            metrics,
        });
        self.launch(&root);
    }

    /// The next read that finishes; `None` if none is in progress.
    pub(super) async fn next(&mut self) -> Option<Done> {
        let joined = self.set.join_next().await?;
        self.took(joined)
    }

    /// Like [`Self::next`], if one has already finished.
    pub(super) fn try_next(&mut self) -> Option<Done> {
        let joined = self.set.try_join_next()?;
        self.took(joined)
    }

    fn took(&mut self, joined: Result<Done, JoinError>) -> Option<Done> {
        // These tasks only end early when the runtime stops.
        let mut done = joined.ok()?;
        done.again = self.owners.remove(&done.owner).flatten();
        if self.owners.is_empty() {
            // After a start with thousands of reads, this memory is no longer needed.
            self.owners.shrink_to_fit();
        }
        if done.found.is_none() {
            self.deferred.insert(done.owner.clone());
        } else {
            self.deferred.remove(&done.owner);
        }
        let root = done.owner.root();
        if let Some(queue) = self.queues.get_mut(root) {
            queue.running -= 1;
        }
        self.launch(root);
        Some(done)
    }

    /// Starts waiting reads of a root, up to the limit.
    fn launch(&mut self, root: &Arc<Path>) {
        let Some(queue) = self.queues.get_mut(root) else {
            return;
        };
        while queue.running < READS_PER_ROOT
            && let Some(read) = queue.waiting.pop_front()
        {
            queue.running += 1;
            self.set.spawn(read.run());
        }
        if queue.running == 0 {
            self.queues.remove(root);
        }
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

impl Waiting {
    async fn run(self) -> Done {
        let Self {
            owner,
            noticed,
            reader,
            watch,
            metrics,
        } = self;
        let (epoch, owner_read) = (reader.epoch, owner.clone());
        let read = move || measured(&metrics, &owner_read, || reader.at(&watch, &owner_read));
        let found = tokio::task::spawn_blocking(read).await;
        Done {
            owner,
            noticed,
            epoch,
            // A panic is a bug of the check: the folder keeps its previous state.
            found: found.unwrap_or_default(),
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
