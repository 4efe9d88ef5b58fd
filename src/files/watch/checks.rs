//! Looks by `stat` alone, for what no event tells of.
//!
//! Each device has a thread of its own while it is looked at: one that hangs (a dead NFS server)
//! keeps nobody else waiting, and not the end of the program either.

use std::hash::Hash;
use std::sync::Arc;
use std::thread;
use std::time::Instant;

use super::Inner;
use super::index::OwnerId;
use super::table::Table;
use crate::files::read::Stamps;

/// Devices that are looked at at a time. All but hanging ones are done in milliseconds.
const MAX_CHECKING: usize = 32;

/// An owner to look at: its stamps, and the number of the read that they are of.
struct Check {
    owner: OwnerId,
    serial: u64,
    stamps: Arc<Stamps>,
}

/// Starts the looks whose time has come.
pub(super) fn start<K: Clone + Eq + Hash + Send + 'static>(inner: &Arc<Inner<K>>, now: Instant) {
    let batches = inner.lock().take_checks(now);
    for (device, checks) in batches {
        let inner = Arc::clone(inner);
        let thread = thread::Builder::new().name("files-check".into());
        let spawned = thread.spawn({
            let inner = Arc::clone(&inner);
            move || check(&inner, device, checks)
        });
        if let Err(error) = spawned {
            tracing::warn!(%error, "files could not be looked at again; raise the limit on threads");
            inner.lock().abandon(device, now);
        }
    }
}

fn check<K: Clone + Eq + Hash + Send + 'static>(
    inner: &Inner<K>,
    device: Option<u64>,
    checks: Vec<Check>,
) {
    for check in checks {
        let changed = check.stamps.changed();
        inner.lock().checked(&check, changed);
    }
    inner.lock().checking.remove(&device);
    inner.wake.notify_one();
}

impl<K: Clone + Eq + Hash> Table<K> {
    /// The owners whose time has come and whose device nobody is looking at.
    fn take_checks(&mut self, now: Instant) -> Vec<(Option<u64>, Vec<Check>)> {
        while let Some((at, id)) = self.schedule.first().copied()
            && at <= now
        {
            self.schedule.pop_first();
            if let Some(owner) = self.owner_mut(id) {
                owner.unplan();
                let device = owner.device;
                self.to_check.entry(device).or_default().push(id);
            }
        }
        let room = MAX_CHECKING.saturating_sub(self.checking.len());
        let mut ready: Vec<Option<u64>> = self.to_check.keys().copied().collect();
        ready.retain(|device| !self.checking.contains(device));
        // Local files are never kept waiting by the others.
        ready.sort_unstable();
        ready.truncate(room.max(1));
        ready
            .into_iter()
            .map(|device| {
                self.checking.insert(device);
                let owners = self.to_check.remove(&device).unwrap_or_default();
                let checks = owners.into_iter().filter_map(|id| self.check_of(id));
                (device, checks.collect())
            })
            .collect()
    }

    fn check_of(&self, id: OwnerId) -> Option<Check> {
        self.owner(id).map(|owner| Check {
            owner: id,
            serial: owner.serial,
            stamps: Arc::clone(&owner.stamps),
        })
    }

    fn checked(&mut self, check: &Check, changed: bool) {
        let now = Instant::now();
        let Some(owner) = self.owner_mut(check.owner) else {
            return;
        };
        // One that is read meanwhile plans its own next look.
        if owner.reading || owner.serial != check.serial {
            return;
        }
        let told = owner.pending.deadline().is_some();
        let watched = owner.polled.is_none();
        if changed && !told && watched {
            // An event is missing. Whatever swallowed it (a mount over a watched folder, say) may
            // swallow the next one.
            self.counters.missed += 1;
            self.distrust(check.owner, now);
        } else if changed {
            self.mark(&[check.owner], now);
        }
        self.plan_check(check.owner, now);
    }

    /// The look at `device` can't be had now.
    fn abandon(&mut self, device: Option<u64>, now: Instant) {
        self.checking.remove(&device);
        let owners: Vec<OwnerId> = self.unplanned(device);
        for id in owners {
            self.plan_check(id, now);
        }
    }
}
