//! The reads that are under way, one an owner at a time, on threads where they may block.

use std::collections::{BTreeSet, HashMap, HashSet};
use std::path::Path;
use std::sync::Arc;
use std::time::Instant;

use tokio::sync::Semaphore;
use tokio::task::JoinSet;

use super::reading::{Found, Look, Owner};
use crate::metrics::{Metrics, Read};

/// The reads that are under way.
#[derive(Default)]
pub(super) struct Reads {
    set: JoinSet<Done>,
    owners: HashSet<Owner>,
    /// Owners that are due once more after the read that is under way, and since when.
    again: HashMap<Owner, Instant>,
    /// Owners with a file that was being written when they were read: due again soon.
    deferred: HashSet<Owner>,
}

/// A read that has come back.
pub(super) struct Done {
    pub(super) owner: Owner,
    /// When a change was noticed that made the read due.
    pub(super) noticed: Instant,
    pub(super) found: Option<Found>,
}

impl Reads {
    /// Whether a read of `owner` can start. While one is under way, another one is noted: what
    /// makes it due was noticed at `noticed`.
    pub(super) fn may_start(&mut self, owner: &Owner, noticed: Instant) -> bool {
        let free = self.owners.insert(owner.clone());
        if !free {
            self.again.entry(owner.clone()).or_insert(noticed);
        }
        free
    }

    /// Starts a read of `owner` as soon as there is a slot.
    pub(super) fn start(
        &mut self,
        owner: Owner,
        noticed: Instant,
        look: Look,
        slots: Arc<Semaphore>,
        metrics: Arc<Metrics>,
    ) {
        self.set.spawn(async move {
            let _slot = slots.acquire_owned().await;
            let owner_read = owner.clone();
            let read = move || measured(&metrics, &owner_read, || look.at(&owner_read));
            let found = tokio::task::spawn_blocking(read).await;
            Done {
                owner,
                noticed,
                // A panic in there would be a bug of the check: the folder keeps what it had.
                found: found.unwrap_or_default(),
            }
        });
    }

    /// The next read that comes back; `None` when none is under way.
    pub(super) async fn next(&mut self) -> Option<Done> {
        // A task of these ends early only together with the runtime.
        let done = self.set.join_next().await?.ok()?;
        self.owners.remove(&done.owner);
        if done.found.is_none() {
            self.deferred.insert(done.owner.clone());
        } else {
            self.deferred.remove(&done.owner);
        }
        Some(done)
    }

    /// Whether `owner` is due once more, and since when.
    pub(super) fn again(&mut self, owner: &Owner) -> Option<Instant> {
        self.again.remove(owner)
    }

    /// The roots of which something has not come back.
    pub(super) fn roots(&self) -> BTreeSet<&Arc<Path>> {
        self.owners.iter().map(Owner::root).collect()
    }

    /// Whether some owner is due again soon, for a file of it was being written.
    pub(super) fn has_deferred(&self) -> bool {
        !self.deferred.is_empty()
    }

    /// The same of the owners in a root.
    pub(super) fn has_deferred_in(&self, root: &Path) -> bool {
        self.deferred.iter().any(|owner| **owner.root() == *root)
    }

    /// Drops what is known of a root that is no longer configured.
    pub(super) fn forget(&mut self, root: &Arc<Path>) {
        self.deferred.retain(|owner| owner.root() != root);
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
