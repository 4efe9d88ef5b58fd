//! The reads that are under way, one an owner at a time, on threads where they may block.

use std::collections::{BTreeSet, HashMap, HashSet, VecDeque};
use std::path::Path;
use std::sync::Arc;
use std::time::Instant;

use tokio::task::{JoinError, JoinSet};

use super::reading::{Found, Owner, Reader};
use crate::files::watch::Watch;
use crate::metrics::{Metrics, Read};

/// Reads of one root at once. Per root, so that one that hangs holds up nothing but itself.
const READS_PER_ROOT: usize = 4;

/// The reads that are under way.
#[derive(Default)]
pub(super) struct Reads {
    set: JoinSet<Done>,
    /// By root.
    queues: HashMap<Arc<Path>, Queue>,
    /// The owners that are being read, and since when they are due once more afterwards, if so.
    owners: HashMap<Owner, Option<Instant>>,
    /// Owners with a file that was being written when they were read: due again soon.
    deferred: HashSet<Owner>,
}

/// The reads of one root: there may be thousands, and those that wait are to take little memory.
#[derive(Default)]
struct Queue {
    running: usize,
    waiting: VecDeque<Waiting>,
}

/// A read that waits for its turn.
struct Waiting {
    owner: Owner,
    noticed: Instant,
    reader: Arc<Reader>,
    watch: Watch<Owner>,
    metrics: Arc<Metrics>,
}

/// A read that has come back.
pub(super) struct Done {
    pub(super) owner: Owner,
    /// When a change was noticed that made the read due.
    pub(super) noticed: Instant,
    /// Which configuration it was read under.
    pub(super) epoch: u64,
    /// None when a file is being written: the owner is due again soon.
    pub(super) found: Option<Found>,
    /// Since when the owner is due once more.
    pub(super) again: Option<Instant>,
}

impl Reads {
    /// Starts a read of `owner` as soon as there is a slot. While one is under way, it is due once more
    /// afterwards: what makes it due was noticed at `noticed`.
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

    /// The next read that comes back; `None` when none is under way.
    pub(super) async fn next(&mut self) -> Option<Done> {
        let joined = self.set.join_next().await?;
        self.took(joined)
    }

    /// As [`Self::next`], if one has come back already.
    pub(super) fn try_next(&mut self) -> Option<Done> {
        let joined = self.set.try_join_next()?;
        self.took(joined)
    }

    fn took(&mut self, joined: Result<Done, JoinError>) -> Option<Done> {
        // A task of these ends early only together with the runtime.
        let mut done = joined.ok()?;
        done.again = self.owners.remove(&done.owner).flatten();
        if self.owners.is_empty() {
            // After a start with thousands of them, the room for them is not needed any more.
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

    /// Starts reads of a root that wait, as many as there may be at once.
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

    /// The roots of which something has not come back.
    pub(super) fn roots(&self) -> BTreeSet<&Arc<Path>> {
        self.owners.keys().map(Owner::root).collect()
    }

    /// Whether some owner is due again soon, for a file of it was being written.
    pub(super) fn has_deferred(&self) -> bool {
        !self.deferred.is_empty()
    }

    /// Whether nothing is being read, and nothing is due again soon.
    pub(super) fn is_idle(&self) -> bool {
        self.owners.is_empty() && self.deferred.is_empty()
    }

    /// Drops what is known of an owner that is no more.
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
            // A panic in there would be a bug of the check: the folder keeps what it had.
            found: found.unwrap_or_default(),
            again: None,
        }
    }
}

/// Reads, and counts how long that took.
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
