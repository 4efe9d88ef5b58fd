//! Everything that the watch knows, behind one lock that is never held for long.

use std::collections::{BTreeSet, HashMap, HashSet, VecDeque};
use std::hash::Hash;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use super::Settings;
use super::index::Index;
use super::owner::Owner;
use super::pending::{Change, FileKey, Pending};
use super::placer::PlacerState;
use super::polled::Tally;
use super::watched::{FolderId, Need, OwnerId, Placement};

/// After an overflow everything is read again, but under a storm of them no more often than this.
const ANEW_INTERVAL: Duration = Duration::from_millis(200);

/// Paths that were renamed into place lately: enough for what one look at a root may find.
const MAX_ARRIVED: usize = 256;

/// How long a path counts as having been renamed into place lately.
const ARRIVED: Duration = Duration::from_secs(2);

/// Everything that the watch knows.
pub(super) struct Table<K> {
    pub(super) settings: Settings,
    keys: HashMap<K, OwnerId>,
    pub(super) owners: Vec<Option<Owner<K>>>,
    free: Vec<OwnerId>,
    pub(super) index: Index,
    /// The owners that may have a deadline.
    pub(super) pending: BTreeSet<OwnerId>,
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
    /// Counts the reads of all owners.
    pub(super) reads: u64,
    pub(super) counters: Counters,
    pub(super) tally: Tally,
    /// Whether the last handle is gone.
    pub(super) closed: bool,
}

/// Times that something happened.
#[derive(Clone, Copy, Default)]
pub(super) struct Counters {
    pub(super) overflows: u64,
    pub(super) refusals: u64,
    pub(super) rebuilds: u64,
    pub(super) missed: u64,
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
            placer: PlacerState::new(),
            arrived: VecDeque::new(),
            last_anew: None,
            reads: 0,
            counters: Counters::default(),
            tally: Tally::default(),
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

    /// Whether something that the owner depends on could not be looked at for want of a permission.
    pub(super) fn is_denied(&self, id: OwnerId) -> bool {
        self.owner(id).is_some_and(|owner| owner.stamps.denied())
    }

    pub(super) fn ids(&self) -> impl Iterator<Item = OwnerId> {
        self.keys.values().copied()
    }

    pub(super) fn owners(&self) -> impl Iterator<Item = &Owner<K>> {
        self.owners.iter().flatten()
    }

    /// The owner of this key, new if need be.
    pub(super) fn enter(&mut self, key: &K) -> OwnerId {
        if let Some(id) = self.find(key) {
            return id;
        }
        let id = self.free.pop().unwrap_or_else(|| {
            self.owners.push(None);
            OwnerId::try_from(self.owners.len() - 1).unwrap_or(OwnerId::MAX)
        });
        self.owners[id as usize] = Some(Owner::new(key.clone()));
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

    pub(super) fn remove(&mut self, id: OwnerId) {
        let Some(owner) = self.owners.get_mut(id as usize).and_then(Option::take) else {
            return;
        };
        self.keys.remove(owner.key());
        self.pending.remove(&id);
        if let Some(at) = owner.check_at {
            self.schedule.remove(&(at, id));
        }
        let every = self.settings.poll_interval;
        self.tally.change(owner.polled, None, every);
        for (folder, need) in owner.needs {
            self.drop_need(folder, &need, id);
        }
        self.free.push(id);
    }

    pub(super) fn drop_need(&mut self, id: FolderId, need: &Need, owner: OwnerId) {
        if let Some(folder) = self.index.folder_mut(id) {
            folder.drop_need(need, owner);
            if !folder.is_needed() {
                self.enqueue(id);
            }
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
    fn take_due(&mut self, now: Instant) -> (Vec<K>, Option<Instant>) {
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
                due.push(owner.key().clone());
            }
            let deadline = owner.pending.deadline();
            next = [next, deadline].into_iter().flatten().min();
            deadline.is_some()
        });
        (due, next)
    }

    /// The owners that are due, and when to look again.
    pub(super) fn look(&mut self, now: Instant) -> (Vec<K>, Option<Instant>) {
        let (due, next) = self.take_due(now);
        let check = self.schedule.first().map(|(at, _)| *at);
        (due, [next, check].into_iter().flatten().min())
    }

    /// Nothing that was watched can be relied on: all watching begins anew, and all is read again.
    pub(super) fn begin_anew(&mut self, now: Instant) {
        self.placer.generation += 1;
        self.placer.limited = false;
        let folders: Vec<FolderId> = self.index.folders().map(|(id, _)| id).collect();
        for id in folders {
            self.index.kill(id, &mut Vec::new());
            let Some(folder) = self.index.folder_mut(id) else {
                continue;
            };
            folder.known = false;
            // The watches are placed while the first owners are being read.
            if folder.is_needed() && !folder.remote {
                folder.placement = Placement::Queued;
                self.enqueue(id);
            }
        }
        let earliest = self.last_anew.map(|last| last + ANEW_INTERVAL);
        let when = earliest.map_or(now, |earliest| earliest.max(now));
        self.last_anew = Some(when);
        self.placer.rebuild_at = Some(when);
        let owners: Vec<OwnerId> = self.ids().collect();
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
}
