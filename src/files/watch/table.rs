//! Everything that the watch knows: the owners, when each is to be read, and the folders that they
//! depend on. It is behind one lock, which is never held while anything blocks.

use std::collections::{BTreeSet, HashMap, HashSet};
use std::hash::Hash;
use std::os::fd::{BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use slab::Slab;
use tokio::io::unix::AsyncFd;

use super::folders::{FolderId, Folders, OwnerId, Placement, What};
use super::kernel::{Inotify, Scope};
use super::pending::Pending;
use super::polled::Tally;
use super::{Polled, Settings};
use crate::files::read::Stamps;

/// After an overflow everything is read again, but under a storm of them no more often than this.
const REBUILD_INTERVAL: Duration = Duration::from_millis(200);

/// Paths remembered as renamed into place lately: enough for what one read of a root may find.
const MAX_ARRIVED: usize = 256;

/// How long a path counts as having been renamed into place lately.
const ARRIVED: Duration = Duration::from_secs(2);

/// Everything that the watch knows.
pub(super) struct Table<K> {
    pub(super) settings: Settings,
    keys: HashMap<K, OwnerId>,
    /// Boxed, for a slab has room for more than are in it.
    owners: Slab<Box<Owner<K>>>,
    pub(super) folders: Folders,
    /// When which owner is due.
    due: BTreeSet<(Instant, OwnerId)>,
    /// When all owners that are not polled are next checked by `stat` alone.
    pub(super) check_all_at: Instant,
    /// When which polled owner is checked.
    pub(super) schedule: BTreeSet<(Instant, OwnerId)>,
    /// Owners whose time for a check has come, by the device that may keep it waiting.
    pub(super) to_check: HashMap<Option<u64>, BTreeSet<OwnerId>>,
    /// Devices that a check is under way on.
    pub(super) checking: HashSet<Option<u64>>,
    pub(super) inotify: Option<Inotify>,
    /// Whether the limit on watches is reached; no other is tried until the next check of all owners.
    pub(super) limited: bool,
    /// What was renamed into place, and when.
    arrived: HashMap<PathBuf, Instant>,
    last_rebuild: Option<Instant>,
    pub(super) counters: Counters,
    pub(super) tally: Tally,
}

/// Times that something happened.
#[derive(Clone, Copy, Default)]
pub(super) struct Counters {
    pub(super) overflows: u64,
    pub(super) refusals: u64,
    pub(super) rebuilds: u64,
    pub(super) missed: u64,
}

/// A root or credential folder.
pub(super) struct Owner<K> {
    key: K,
    /// In order.
    pub(super) needs: Box<[(FolderId, What)]>,
    pub(super) stamps: Stamps,
    pub(super) pending: Pending,
    /// When it is due, as [`Table::due`] has it.
    due_at: Option<Instant>,
    pub(super) reading: bool,
    /// Forgotten while it was being read.
    pub(super) forgotten: bool,
    /// When it is checked, if it is polled.
    pub(super) check_at: Option<Instant>,
    /// How often it is checked, when not as usual.
    pub(super) interval: Option<Duration>,
    pub(super) polled: Option<Polled>,
    /// The device that may keep a check of it waiting.
    pub(super) device: Option<u64>,
    /// Reads in a row during which something changed.
    pub(super) races: u32,
}

impl<K> Owner<K> {
    fn new(key: K) -> Self {
        Self {
            key,
            needs: Box::default(),
            stamps: Stamps::default(),
            pending: Pending::default(),
            due_at: None,
            reading: false,
            forgotten: false,
            check_at: None,
            interval: None,
            polled: None,
            device: None,
            races: 0,
        }
    }

    pub(super) fn key(&self) -> &K {
        &self.key
    }
}

impl<K: Clone + Eq + Hash> Table<K> {
    pub(super) fn new(settings: Settings) -> Self {
        let mut table = Self {
            check_all_at: Instant::now() + settings.check_interval,
            settings,
            keys: HashMap::new(),
            owners: Slab::new(),
            folders: Folders::default(),
            due: BTreeSet::new(),
            schedule: BTreeSet::new(),
            to_check: HashMap::new(),
            checking: HashSet::new(),
            inotify: None,
            limited: false,
            arrived: HashMap::new(),
            last_rebuild: None,
            counters: Counters::default(),
            tally: Tally::default(),
        };
        if let Err(error) = table.open_inotify() {
            let remedy = Polled::NoInotify.remedy();
            tracing::warn!(%error, "nothing can be watched, and everything is polled: {remedy}");
        }
        table
    }

    pub(super) fn owner(&self, id: OwnerId) -> Option<&Owner<K>> {
        self.owners.get(id as usize).map(|owner| &**owner)
    }

    pub(super) fn owner_mut(&mut self, id: OwnerId) -> Option<&mut Owner<K>> {
        self.owners.get_mut(id as usize).map(|owner| &mut **owner)
    }

    /// Whether a missing permission hid something that the owner depends on.
    pub(super) fn is_denied(&self, id: OwnerId) -> bool {
        self.owner(id).is_some_and(|owner| owner.stamps.denied())
    }

    pub(super) fn ids(&self) -> impl Iterator<Item = OwnerId> {
        self.keys.values().copied()
    }

    pub(super) fn owners(&self) -> impl Iterator<Item = &Owner<K>> {
        self.owners.iter().map(|(_, owner)| &**owner)
    }

    /// The owner of this key, new if need be.
    pub(super) fn enter(&mut self, key: &K) -> OwnerId {
        if let Some(id) = self.keys.get(key) {
            return *id;
        }
        let id = self.owners.insert(Box::new(Owner::new(key.clone()))) as OwnerId;
        self.keys.insert(key.clone(), id);
        id
    }

    pub(super) fn forget(&mut self, key: &K) {
        let Some(id) = self.keys.get(key).copied() else {
            return;
        };
        match self.owner_mut(id) {
            Some(owner) if owner.reading => owner.forgotten = true,
            _ => self.remove(id),
        }
    }

    pub(super) fn remove(&mut self, id: OwnerId) {
        let Some(owner) = self.owners.try_remove(id as usize) else {
            return;
        };
        self.keys.remove(&owner.key);
        if let Some(at) = owner.due_at {
            self.due.remove(&(at, id));
        }
        if let Some(at) = owner.check_at {
            self.schedule.remove(&(at, id));
        }
        let every = self.settings.poll_interval;
        self.tally.change(owner.polled, None, every);
        for (folder, what) in owner.needs {
            self.drop_need(folder, what, id);
        }
    }

    pub(super) fn drop_need(&mut self, id: FolderId, what: What, owner: OwnerId) {
        let watch = self.folders.drop_need(id, what, owner);
        if let (Some(watch), Some(inotify)) = (watch, &self.inotify) {
            inotify.remove(watch);
        }
    }

    /// Makes owners due, but not before `when`.
    pub(super) fn mark(&mut self, owners: &[OwnerId], when: Instant) {
        for id in owners {
            self.update(*id, |pending| pending.mark(when));
        }
    }

    /// Changes what is pending for an owner, and plans its next read.
    pub(super) fn update(&mut self, id: OwnerId, change: impl FnOnce(&mut Pending)) {
        let Some(owner) = self.owners.get_mut(id as usize) else {
            return;
        };
        change(&mut owner.pending);
        self.plan_read(id);
    }

    /// Plans the next read of an owner. One that is being read is due after that read at the earliest.
    pub(super) fn plan_read(&mut self, id: OwnerId) {
        let Some(owner) = self.owners.get_mut(id as usize) else {
            return;
        };
        let at = match owner.reading {
            true => None,
            false => owner.pending.deadline(),
        };
        let before = std::mem::replace(&mut owner.due_at, at);
        if before == at {
            return;
        }
        if let Some(before) = before {
            self.due.remove(&(before, id));
        }
        if let Some(at) = at {
            self.due.insert((at, id));
        }
    }

    /// The owners that are due, each once.
    pub(super) fn take_due(&mut self, now: Instant) -> Vec<K> {
        let mut due = Vec::new();
        let mut waiting = Vec::new();
        while let Some((at, id)) = self.due.first().copied()
            && at <= now
        {
            self.due.pop_first();
            if let Some(owner) = self.owners.get_mut(id as usize) {
                owner.due_at = None;
                owner.pending.hand_over(now);
                due.push(owner.key.clone());
                waiting.push(id);
            }
        }
        // A file that is still being written makes its owner due once more.
        for id in waiting {
            self.plan_read(id);
        }
        due
    }

    /// When there is something to do next, if nothing changes.
    pub(super) fn next_deadline(&self) -> Instant {
        let due = self.due.first().map(|(at, _)| *at);
        let check = self.schedule.first().map(|(at, _)| *at);
        let next = [due, check].into_iter().flatten();
        next.fold(self.check_all_at, Instant::min)
    }

    /// Nothing that was reported can be relied on: all watches are placed again by the reads that
    /// follow, and everything is read again.
    pub(super) fn rebuild(&mut self, now: Instant) {
        self.counters.rebuilds += 1;
        self.limited = false;
        self.folders.unplace_all();
        if self.inotify.is_none() {
            // A failure is logged when it begins, and shown as the reason for polling.
            let _ = self.open_inotify();
        }
        let earliest = self.last_rebuild.map(|last| last + REBUILD_INTERVAL);
        let when = earliest.map_or(now, |earliest| earliest.max(now));
        self.last_rebuild = Some(when);
        let owners: Vec<OwnerId> = self.ids().collect();
        self.mark(&owners, when);
    }

    /// What tells a task that the kernel has events.
    pub(super) fn readiness(&mut self) -> Option<Arc<AsyncFd<Arc<OwnedFd>>>> {
        match self.inotify.as_mut()?.readiness() {
            Ok(readiness) => Some(readiness),
            Err(error) => {
                tracing::warn!(%error, "file events can't be waited for, and everything is polled");
                self.inotify = None;
                self.rebuild(Instant::now());
                None
            }
        }
    }

    fn open_inotify(&mut self) -> std::io::Result<()> {
        self.inotify = Some(Inotify::open()?);
        Ok(())
    }

    /// Has the folder `id`, which `dir` holds open, watched for what `scope` asks for.
    pub(super) fn place(&mut self, id: FolderId, dir: BorrowedFd<'_>, scope: Scope, now: Instant) {
        let Some(folder) = self.folders.get(id) else {
            return;
        };
        if folder.is_live() && folder.scope >= scope {
            return;
        }
        let scope = scope.max(folder.scope);
        let placed = match &self.inotify {
            None => Err(Polled::NoInotify),
            Some(_) if self.limited && folder.watch.is_none() => Err(Polled::WatchLimit),
            Some(inotify) => inotify.place(dir, scope),
        };
        match placed {
            Ok(watch) => {
                if let Some(stale) = self.folders.set_live(id, watch, scope, now) {
                    let mut owners = Vec::new();
                    self.folders.everyone(stale, &mut owners);
                    self.mark(&owners, now);
                }
            }
            Err(why) => {
                self.limited |= why == Polled::WatchLimit;
                self.counters.refusals += 1;
                self.refuse(id, why);
            }
        }
    }

    /// The folder `id` can't be watched.
    pub(super) fn refuse(&mut self, id: FolderId, why: Polled) {
        if let Some(folder) = self.folders.get_mut(id) {
            folder.placement = Placement::Refused(why);
        }
    }

    /// Tries again what was refused, by reads of the owners concerned: somebody may have raised a limit.
    pub(super) fn retry(&mut self, now: Instant) {
        self.limited = false;
        if self.inotify.is_none() && self.open_inotify().is_ok() {
            return self.rebuild(now);
        }
        let is_refused = |why| matches!(why, Polled::Refused | Polled::WatchLimit);
        let ids = self.ids();
        let refused = ids.filter(|id| {
            let owner = self.owner(*id);
            owner.is_some_and(|owner| owner.polled.is_some_and(is_refused))
        });
        let refused: Vec<OwnerId> = refused.collect();
        self.mark(&refused, now);
    }

    /// `path` was renamed into place.
    pub(super) fn note_arrival(&mut self, path: PathBuf, now: Instant) {
        if self.arrived.len() >= MAX_ARRIVED {
            let oldest = self.arrived.iter().min_by_key(|(_, at)| **at);
            if let Some(oldest) = oldest.map(|(path, _)| path.clone()) {
                self.arrived.remove(&oldest);
            }
        }
        self.arrived.insert(path, now);
    }

    /// Whether the folder at `path` was renamed into place lately, with all that is in it.
    pub(super) fn has_arrived(&self, path: &Path, now: Instant) -> bool {
        let is_lately = |at: &Instant| *at + ARRIVED > now;
        let mut folders = path.ancestors();
        folders.any(|folder| self.arrived.get(folder).is_some_and(is_lately))
    }
}
