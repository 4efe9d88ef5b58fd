//! The reads that are under way, one an owner at a time, on threads where they may block.

use std::collections::{BTreeSet, HashMap, HashSet};
use std::path::Path;
use std::sync::Arc;
use std::time::Instant;

use tokio::sync::Semaphore;
use tokio::task::JoinSet;

use super::reading::{Found, Look, Owner};
use crate::files::watch::Watch;
use crate::metrics::{Metrics, Read};

/// Reads of one root at once. Per root, so that one that hangs holds up nothing but itself.
const READS_PER_ROOT: usize = 4;

/// The reads that are under way.
#[derive(Default)]
pub(super) struct Reads {
    set: JoinSet<Done>,
    slots: HashMap<Arc<Path>, Arc<Semaphore>>,
    /// The owners that are being read, and since when they are due once more afterwards, if so.
    owners: HashMap<Owner, Option<Instant>>,
    /// Owners with a file that was being written when they were read: due again soon.
    deferred: HashSet<Owner>,
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
        look: Look,
        watch: Watch<Owner>,
        metrics: Arc<Metrics>,
    ) {
        if let Some(again) = self.owners.get_mut(&owner) {
            again.get_or_insert(noticed);
            return;
        }
        self.owners.insert(owner.clone(), None);
        let slots = self.slots.entry(owner.root().clone());
        let slots = slots
            .or_insert_with(|| Arc::new(Semaphore::new(READS_PER_ROOT)))
            .clone();
        self.set.spawn(async move {
            let _slot = slots.acquire_owned().await;
            let (epoch, owner_read) = (look.epoch, owner.clone());
            let read = move || measured(&metrics, &owner_read, || look.at(&watch, &owner_read));
            let found = tokio::task::spawn_blocking(read).await;
            Done {
                owner,
                noticed,
                epoch,
                // A panic in there would be a bug of the check: the folder keeps what it had.
                found: found.unwrap_or_default(),
                again: None,
            }
        });
    }

    /// The next read that comes back; `None` when none is under way.
    pub(super) async fn next(&mut self) -> Option<Done> {
        // A task of these ends early only together with the runtime.
        let mut done = self.set.join_next().await?.ok()?;
        done.again = self.owners.remove(&done.owner).flatten();
        if done.found.is_none() {
            self.deferred.insert(done.owner.clone());
        } else {
            self.deferred.remove(&done.owner);
        }
        Some(done)
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
            self.slots.remove(path);
            self.deferred.retain(|other| other.root() != path);
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
