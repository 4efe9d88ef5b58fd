//! Everything that the watch knows, behind one lock that is never held for long.

use std::collections::{BTreeSet, HashMap, HashSet, VecDeque};
use std::hash::Hash;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::index::{FolderId, Index, Need, OwnerId, Placement};
use super::pending::{Change, Excuse, FileKey, Pending};
use super::{Polled, Settings};
use crate::files::read::Stamps;

/// After an overflow everything is read again, but under a storm of them no more often than this.
const ANEW_INTERVAL: Duration = Duration::from_millis(200);

/// Paths that were renamed into place lately: enough for what one look at a root may find.
const MAX_ARRIVED: usize = 256;

/// How long a path counts as having been renamed into place lately.
const ARRIVED: Duration = Duration::from_secs(2);

/// Reads in a row that raced with a change of folders before the next one waits a little.
const RACES: u32 = 3;

/// Everything that the watch knows.
pub(super) struct Table<K> {
    pub(super) settings: Settings,
    keys: HashMap<K, OwnerId>,
    owners: Vec<Option<Owner<K>>>,
    free: Vec<OwnerId>,
    pub(super) index: Index,
    /// The owners that may have a deadline.
    pending: BTreeSet<OwnerId>,
    /// When which owner is looked at by `stat` alone.
    pub(super) schedule: BTreeSet<(Instant, OwnerId)>,
    /// Owners whose time for a look has come, by the device that may keep it waiting.
    pub(super) to_check: HashMap<Option<u64>, Vec<OwnerId>>,
    /// Devices that a look is under way on.
    pub(super) checking: HashSet<Option<u64>>,
    /// Folders whose watch is to be placed, or taken away.
    pub(super) queue: VecDeque<FolderId>,
    pub(super) placer: PlacerState,
    /// What was renamed into place, and when.
    arrived: VecDeque<(PathBuf, Instant)>,
    last_anew: Option<Instant>,
    pub(super) counters: Counters,
    polled: HashMap<Polled, usize>,
    /// Whether the last handle is gone.
    pub(super) closed: bool,
}

/// What the thread that places watches is told, and tells.
#[derive(Default)]
pub(super) struct PlacerState {
    /// Counts the watchers; what comes from an earlier one is void.
    pub(super) generation: u64,
    /// When a new watcher is to take over, if one is.
    pub(super) rebuild_at: Option<Instant>,
    /// Whether there is a watcher.
    pub(super) watching: bool,
    /// Whether there is no thread at all.
    pub(super) missing: bool,
    /// Fences asked for, and passed.
    pub(super) fence_wanted: u64,
    pub(super) fence_passed: u64,
    /// When refused watches are tried again.
    pub(super) retry_at: Option<Instant>,
    /// Whether the limit on watches is reached; no other is tried until then.
    pub(super) limited: bool,
    pub(super) tickets: u64,
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
    needs: Vec<(FolderId, Need)>,
    pub(super) stamps: Arc<Stamps>,
    pub(super) pending: Pending,
    pub(super) reading: bool,
    /// Forgotten while it was being read.
    forgotten: bool,
    /// Counts its reads.
    pub(super) serial: u64,
    /// When it is looked at by `stat` alone, if that is planned.
    check_at: Option<Instant>,
    /// How often, when not as usual.
    pub(super) interval: Option<Duration>,
    pub(super) polled: Option<Polled>,
    /// The device that may keep a look at it waiting.
    pub(super) device: Option<u64>,
    races: u32,
}

impl<K: Clone + Eq + Hash> Table<K> {
    pub(super) fn new(settings: Settings) -> Self {
        Self {
            settings,
            keys: HashMap::new(),
            owners: Vec::new(),
            free: Vec::new(),
            index: Index::default(),
            pending: BTreeSet::new(),
            schedule: BTreeSet::new(),
            to_check: HashMap::new(),
            checking: HashSet::new(),
            queue: VecDeque::new(),
            placer: PlacerState {
                rebuild_at: Some(Instant::now()),
                ..PlacerState::default()
            },
            arrived: VecDeque::new(),
            last_anew: None,
            counters: Counters::default(),
            polled: HashMap::new(),
            closed: false,
        }
    }

    pub(super) fn find(&self, key: &K) -> Option<OwnerId> {
        self.keys.get(key).copied()
    }

    pub(super) fn owner(&self, id: OwnerId) -> Option<&Owner<K>> {
        self.owners.get(id as usize)?.as_ref()
    }

    pub(super) fn owner_mut(&mut self, id: OwnerId) -> Option<&mut Owner<K>> {
        self.owners.get_mut(id as usize)?.as_mut()
    }

    pub(super) fn owners(&self) -> impl Iterator<Item = &Owner<K>> {
        self.owners.iter().flatten()
    }

    /// The owner of this key, new if need be.
    pub(super) fn enter(&mut self, key: &K) -> OwnerId {
        if let Some(id) = self.find(key) {
            return id;
        }
        let owner = Owner {
            key: key.clone(),
            needs: Vec::new(),
            stamps: Arc::default(),
            pending: Pending::default(),
            reading: false,
            forgotten: false,
            serial: 0,
            check_at: None,
            interval: None,
            polled: None,
            device: None,
            races: 0,
        };
        let id = self.free.pop().unwrap_or_else(|| {
            self.owners.push(None);
            OwnerId::try_from(self.owners.len() - 1).unwrap_or(OwnerId::MAX)
        });
        self.owners[id as usize] = Some(owner);
        self.keys.insert(key.clone(), id);
        id
    }

    pub(super) fn forget(&mut self, key: &K) {
        let Some(id) = self.find(key) else {
            return;
        };
        match self.owner_mut(id) {
            Some(owner) if owner.reading => owner.forgotten = true,
            _ => self.remove(id),
        }
    }

    fn remove(&mut self, id: OwnerId) {
        let Some(owner) = self.owners.get_mut(id as usize).and_then(Option::take) else {
            return;
        };
        self.keys.remove(&owner.key);
        self.pending.remove(&id);
        if let Some(at) = owner.check_at {
            self.schedule.remove(&(at, id));
        }
        self.count_polled(owner.polled, None);
        for (folder, need) in owner.needs {
            self.drop_need(folder, &need, id);
        }
        self.free.push(id);
    }

    fn drop_need(&mut self, folder: FolderId, need: &Need, owner: OwnerId) {
        if !self.index.drop_need(folder, need, owner) {
            self.enqueue(folder);
        }
    }

    /// Has the watch on `folder` placed, or taken away when nobody depends on it.
    pub(super) fn enqueue(&mut self, id: FolderId) {
        if let Some(folder) = self.index.folder_mut(id)
            && !folder.queued
        {
            folder.queued = true;
            self.queue.push_back(id);
        }
    }

    // --- what has happened -----------------------------------------------------------------

    /// Notes a change of a file for those concerned. Tells whether one of them is to be read sooner
    /// than before.
    pub(super) fn note(
        &mut self,
        owners: &[OwnerId],
        change: Change,
        file: FileKey,
        now: Instant,
    ) -> bool {
        self.each_pending(owners, |pending| pending.note(change, file, now))
    }

    /// Makes owners due, but not before `when`.
    pub(super) fn mark(&mut self, owners: &[OwnerId], when: Instant) -> bool {
        self.each_pending(owners, |pending| pending.mark(when))
    }

    fn each_pending(&mut self, owners: &[OwnerId], change: impl Fn(&mut Pending)) -> bool {
        let mut sooner = false;
        for id in owners {
            if let Some(owner) = self.owners.get_mut(*id as usize).and_then(Option::as_mut) {
                let before = owner.pending.deadline();
                change(&mut owner.pending);
                let after = owner.pending.deadline();
                sooner |= before.is_none_or(|before| after.is_some_and(|after| after < before));
                self.pending.insert(*id);
            }
        }
        sooner
    }

    /// The owners that are due, and when the next one will be.
    pub(super) fn take_due(&mut self, now: Instant) -> (Vec<K>, Option<Instant>) {
        let mut due = Vec::new();
        let mut next: Option<Instant> = None;
        let owners = &mut self.owners;
        self.pending.retain(|id| {
            let Some(owner) = owners.get_mut(*id as usize).and_then(Option::as_mut) else {
                return false;
            };
            // One that is being read comes back when that read is done.
            if owner.reading {
                return true;
            }
            if owner.pending.deadline().is_some_and(|at| at <= now) {
                owner.pending.hand_over(now);
                due.push(owner.key.clone());
            }
            let deadline = owner.pending.deadline();
            next = [next, deadline].into_iter().flatten().min();
            deadline.is_some()
        });
        (due, next)
    }

    /// Nothing that was watched can be relied on: all watching begins anew, and all is read again.
    pub(super) fn begin_anew(&mut self, now: Instant) {
        self.placer.generation += 1;
        self.placer.limited = false;
        let folders: Vec<FolderId> = self.index.folders().map(|(id, _)| id).collect();
        let mut ignored = Vec::new();
        for id in folders {
            self.index.kill(id, &mut ignored);
            ignored.clear();
            if let Some(folder) = self.index.folder_mut(id) {
                folder.known = false;
            }
        }
        let earliest = self.last_anew.map(|last| last + ANEW_INTERVAL);
        let when = earliest.map_or(now, |earliest| earliest.max(now));
        self.last_anew = Some(when);
        self.placer.rebuild_at = Some(when);
        let owners: Vec<OwnerId> = self.keys.values().copied().collect();
        self.mark(&owners, when);
    }

    /// `path` was renamed into place.
    pub(super) fn note_arrival(&mut self, path: &Path, now: Instant) {
        self.arrived.retain(|(_, at)| *at + ARRIVED > now);
        if self.arrived.len() >= MAX_ARRIVED {
            self.arrived.pop_front();
        }
        self.arrived.push_back((path.to_owned(), now));
    }

    /// Whether the folder at `path` was renamed into place lately, with all that is in it.
    pub(super) fn has_arrived(&self, path: &Path, now: Instant) -> bool {
        let mut lately = self.arrived.iter().filter(|(_, at)| *at + ARRIVED > now);
        lately.any(|(arrived, _)| path.starts_with(arrived))
    }

    // --- reads -----------------------------------------------------------------------------

    /// Owners whose watches can't be relied on are due, with all who share them.
    pub(super) fn distrust(&mut self, id: OwnerId, now: Instant) {
        let folders: Vec<FolderId> = self
            .owner(id)
            .map(|owner| owner.needs.iter().map(|(folder, _)| *folder).collect())
            .unwrap_or_default();
        let mut owners = vec![id];
        for folder in folders {
            self.index.kill(folder, &mut owners);
        }
        owners.sort_unstable();
        owners.dedup();
        self.mark(&owners, now);
    }

    /// A read of `id` begins: what happens from now on calls for another one. Tells what it is good
    /// for use in spite of.
    pub(super) fn begin_read(&mut self, id: OwnerId, now: Instant) -> Excuse {
        let Some(owner) = self.owner_mut(id) else {
            return Excuse::Nothing;
        };
        owner.reading = true;
        owner.forgotten = false;
        owner.serial += 1;
        owner.pending.begin(now)
    }

    /// A read of `id` has ended. Tells whether what it found is good for use.
    pub(super) fn end_read(&mut self, id: OwnerId, read: Ended, now: Instant) -> bool {
        let Some(mut owner) = self.owners.get_mut(id as usize).and_then(Option::take) else {
            return false;
        };
        for (file, when) in read.suspects {
            owner.pending.suspect(file, when);
        }
        let usable = read.heard_all && owner.pending.is_usable(read.excuse, now);
        if usable {
            owner.pending.settle(read.began);
        } else {
            owner.pending.mark(now);
        }
        let placements = self.placements(&read.needs);
        owner.races = if placements.raced { owner.races + 1 } else { 0 };
        if placements.raced {
            owner.pending.mark(now + back_off(owner.races));
        }
        let passing = read.stamps.unsure().then_some(Polled::PassingFailure);
        let polled = placements.refused.or(passing);
        self.count_polled(owner.polled, polled);
        owner.polled = polled;
        owner.device = read.device;
        owner.stamps = Arc::new(read.stamps);
        owner.reading = false;
        let forgotten = owner.forgotten;
        let before = std::mem::take(&mut owner.needs);
        for (folder, need) in before {
            if !read.needs.contains(&(folder, need.clone())) {
                self.drop_need(folder, &need, id);
            }
        }
        owner.needs = read.needs.into_iter().collect();
        self.owners[id as usize] = Some(owner);
        self.pending.insert(id);
        self.plan_check(id, now);
        if forgotten {
            self.remove(id);
        }
        usable && !forgotten
    }

    /// A read of `id` ended in a panic: it is as if it had not been.
    pub(super) fn abort_read(&mut self, id: OwnerId, needs: HashSet<(FolderId, Need)>) {
        let Some(owner) = self.owner_mut(id) else {
            return;
        };
        owner.reading = false;
        owner.pending.mark(Instant::now());
        let kept: HashSet<(FolderId, Need)> = owner.needs.drain(..).chain(needs).collect();
        owner.needs = kept.into_iter().collect();
        if owner.forgotten {
            self.remove(id);
        } else {
            self.pending.insert(id);
        }
    }

    fn placements(&self, needs: &HashSet<(FolderId, Need)>) -> Placements {
        let mut found = Placements::default();
        for (id, _) in needs {
            match self.index.folder(*id).map(|folder| folder.placement) {
                Some(Placement::Live) => {}
                Some(Placement::Refused(why)) => found.refused = found.refused.max(Some(why)),
                _ => found.raced = true,
            }
        }
        found
    }

    // --- looks by stat alone ---------------------------------------------------------------

    /// Plans the next look at `id`.
    pub(super) fn plan_check(&mut self, id: OwnerId, now: Instant) {
        let Settings {
            check_interval,
            poll_interval,
        } = self.settings;
        let Some(owner) = self.owner_mut(id) else {
            return;
        };
        let usual = match owner.polled {
            Some(_) => poll_interval,
            None => check_interval,
        };
        let at = now + owner.interval.unwrap_or(usual);
        let before = owner.check_at.replace(at);
        if let Some(before) = before {
            self.schedule.remove(&(before, id));
        }
        self.schedule.insert((at, id));
    }

    /// The owners on `device` that no look is planned for.
    pub(super) fn unplanned(&self, device: Option<u64>) -> Vec<OwnerId> {
        let owners = self.keys.values().copied();
        owners
            .filter(|id| {
                self.owner(*id)
                    .is_some_and(|owner| owner.device == device && owner.check_at.is_none())
            })
            .collect()
    }

    fn count_polled(&mut self, before: Option<Polled>, after: Option<Polled>) {
        if before == after {
            return;
        }
        if let Some(why) = before {
            let count = self.polled.entry(why).or_default();
            *count = count.saturating_sub(1);
            if *count == 0 {
                tracing::info!(
                    reason = why.as_str(),
                    "no folder is polled for this reason any more"
                );
            }
        }
        if let Some(why) = after {
            let count = self.polled.entry(why).or_default();
            *count += 1;
            if *count == 1 {
                let every = self.settings.poll_interval;
                tracing::warn!(
                    reason = why.as_str(),
                    ?every,
                    "folders are polled; {}",
                    why.remedy()
                );
            }
        }
    }
}

impl<K> Owner<K> {
    pub(super) fn key(&self) -> &K {
        &self.key
    }

    /// Its time for a look has come; it is planned no more.
    pub(super) fn unplan(&mut self) {
        self.check_at = None;
    }
}

/// What a read has come to.
pub(super) struct Ended {
    pub(super) began: Instant,
    pub(super) needs: HashSet<(FolderId, Need)>,
    pub(super) stamps: Stamps,
    /// Files that may be being written, and when they last changed.
    pub(super) suspects: Vec<(FileKey, Instant)>,
    /// What it is good for use in spite of.
    pub(super) excuse: Excuse,
    /// Whether what had happened to its files until they were read has been heard of.
    pub(super) heard_all: bool,
    pub(super) device: Option<u64>,
}

#[derive(Default)]
struct Placements {
    raced: bool,
    refused: Option<Polled>,
}

/// How long the next read waits after this many in a row that raced with a change of folders.
fn back_off(races: u32) -> Duration {
    match races.checked_sub(RACES + 1) {
        None => Duration::ZERO,
        Some(more) => Duration::from_millis(10 << more.min(7)),
    }
}
