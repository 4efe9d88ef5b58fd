//! Checks by `stat` alone, from time to time though no event asks for them.
//!
//! Each device has a thread of its own while it is checked: one that hangs (a dead NFS server)
//! delays neither the others nor the end of the program.

use std::hash::Hash;
use std::sync::Arc;
use std::thread;
use std::time::Instant;

use super::Inner;
use super::folders::{OwnerId, Placement};
use super::table::{Owner, Table};
use crate::files::read::Stamps;

/// Devices that are checked at a time. All but hanging ones are done in milliseconds.
const MAX_CHECKING: usize = 32;

/// An owner to check, and the stamps of its last read.
struct Check {
    owner: OwnerId,
    stamps: Stamps,
}

/// Starts what is due.
pub(super) fn start<K: Clone + Eq + Hash + Send + 'static>(inner: &Arc<Inner<K>>, now: Instant) {
    let batches = inner.lock().take_checks(now);
    for (device, checks) in batches {
        let shared = Arc::clone(inner);
        let thread = thread::Builder::new().name("files-check".into());
        if let Err(error) = thread.spawn(move || check(&shared, device, checks)) {
            tracing::warn!(%error, "files could not be checked; raise the limit on threads");
            inner.lock().abandon(device, now);
        }
    }
}

fn check<K: Clone + Eq + Hash>(inner: &Inner<K>, device: Option<u64>, checks: Vec<Check>) {
    for check in &checks {
        let changed = check.stamps.changed();
        inner.with(|table| {
            if changed {
                // The kernel may have reported it already.
                table.drain();
            }
            table.checked(check, changed);
        });
    }
    inner.lock().checking.remove(&device);
    inner.wake.notify_one();
}

impl<K: Clone + Eq + Hash> Table<K> {
    /// Plans the next check of `id`, if it is polled: the others are checked all at once.
    pub(super) fn plan_check(&mut self, id: OwnerId, now: Instant) {
        let usual = self.settings.poll_interval;
        let Some(owner) = self.owner_mut(id) else {
            return;
        };
        let every = owner.interval.or(owner.polled.map(|_| usual));
        let at = every.map(|every| now + every);
        let before = std::mem::replace(&mut owner.check_at, at);
        if let Some(before) = before {
            self.schedule.remove(&(before, id));
        }
        if let Some(at) = at {
            self.schedule.insert((at, id));
        }
    }

    /// The owners whose time has come and whose device is not being checked.
    fn take_checks(&mut self, now: Instant) -> Vec<(Option<u64>, Vec<Check>)> {
        let mut due = Vec::new();
        if self.check_all_at <= now {
            self.check_all_at = now + self.settings.check_interval;
            self.retry(now);
            let is_unplanned = |owner: &Owner<K>| owner.check_at.is_none();
            due.extend(
                self.ids()
                    .filter(|id| self.owner(*id).is_some_and(is_unplanned)),
            );
        }
        while let Some((at, id)) = self.schedule.first().copied()
            && at <= now
        {
            self.schedule.pop_first();
            due.push(id);
        }
        for id in due {
            if let Some(owner) = self.owner_mut(id) {
                owner.check_at.take_if(|at| *at <= now);
                let device = owner.device;
                self.to_check.entry(device).or_default().insert(id);
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
            stamps: owner.stamps.clone(),
        })
    }

    fn checked(&mut self, check: &Check, changed: bool) {
        let now = Instant::now();
        let Some(owner) = self.owner_mut(check.owner) else {
            return;
        };
        // One that is read meanwhile plans its own next check.
        if owner.reading || !owner.stamps.is_same_as(&check.stamps) {
            return;
        }
        let reported = owner.pending.deadline().is_some();
        let watched = owner.polled.is_none();
        if changed && !reported && watched {
            // An event is missing. Whatever swallowed it (a mount over a watched folder, say) may
            // swallow the next one.
            self.counters.missed += 1;
            self.distrust(check.owner, now);
        } else if changed {
            self.mark(&[check.owner], now);
        }
        self.plan_check(check.owner, now);
    }

    /// `device` can't be checked now.
    fn abandon(&mut self, device: Option<u64>, now: Instant) {
        self.checking.remove(&device);
        let owners: Vec<OwnerId> = self.ids().collect();
        for id in owners {
            let is_unplanned =
                |owner: &Owner<K>| owner.device == device && owner.check_at.is_none();
            if self.owner(id).is_some_and(is_unplanned) {
                self.plan_check(id, now);
            }
        }
    }

    /// The watches that an owner depends on can't be relied on: all who share them are due, and their
    /// reads place the watches again.
    fn distrust(&mut self, id: OwnerId, now: Instant) {
        let needs = self.owner(id).map(|owner| owner.needs.clone());
        let mut owners = vec![id];
        for (folder, _) in needs.unwrap_or_default() {
            if let Some(folder) = self.folders.get_mut(folder) {
                folder.placement = Placement::Unplaced;
            }
            self.folders.everyone(folder, &mut owners);
        }
        owners.sort_unstable();
        owners.dedup();
        self.mark(&owners, now);
    }
}
