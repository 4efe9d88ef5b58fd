//! The owners, found by their number or by their key.

use std::hash::{BuildHasher, RandomState};
use std::num::NonZero;
use std::path::PathBuf;
use std::time::Duration;

use hashbrown::HashTable;

use super::folders::Need;
use super::kernel::WatchId;
use super::pending::Pending;
use super::polled::Polled;
use super::{Key, Settings};
use crate::files::read::Stamps;

/// An owner, by its number. There may be a dozen of these for each credential.
pub(super) type OwnerId = NonZero<u32>;

/// A root or credential folder. There may be tens of thousands, so what few of them have is boxed.
#[derive(Default)]
pub(super) struct Owner {
    /// What it depends on, in order.
    pub(super) needs: Box<[Need]>,
    pub(super) stamps: Stamps,
    /// What has happened since it was read, if anything has.
    pub(super) pending: Option<Box<Pending>>,
    polling: Option<Box<Polling>>,
}

/// How an owner is checked by `stat` where that is not done as usual.
#[derive(Clone, Copy, Default, PartialEq)]
pub(super) struct Polling {
    /// Why it is polled, if it is.
    pub(super) why: Option<Polled>,
    /// How often it is checked.
    pub(super) interval: Option<Duration>,
    /// The device that may keep a check of it waiting; local files have none.
    pub(super) device: Option<u64>,
}

/// Owners that are checked together: those on this device, polled at this interval or not polled.
pub(super) type Round = (Option<u64>, Option<Duration>);

/// The round of all that is local and not polled. There is always this one.
pub(super) const FIRST_ROUND: Round = (None, None);

impl Polling {
    pub(super) fn round(&self, settings: &Settings) -> Round {
        let every = self.interval.or(self.why.map(|_| settings.poll_interval));
        (self.device, every)
    }
}

impl Owner {
    pub(super) fn polling(&self) -> Polling {
        self.polling.as_deref().copied().unwrap_or_default()
    }

    pub(super) fn set_polling(&mut self, polling: Polling) {
        self.polling = (polling != Polling::default()).then(|| Box::new(polling));
    }

    /// What of the folder it depends on.
    pub(super) fn needs_of(&self, watch: WatchId) -> &[Need] {
        let first = self.needs.partition_point(|need| need.0 < watch);
        let end = self.needs.partition_point(|need| need.0 <= watch);
        &self.needs[first..end]
    }
}

/// All owners.
pub(super) struct Owners<K> {
    /// By number.
    slots: Vec<Option<Box<(K, Owner)>>>,
    /// Numbers that nobody has.
    free: Vec<OwnerId>,
    /// By the hash of their keys, which are stored once.
    ids: HashTable<OwnerId>,
    hasher: RandomState,
}

impl<K: Key> Owners<K> {
    /// The owner of this key, new if need be.
    pub(super) fn enter(&mut self, key: &K) -> OwnerId {
        let hash = self.hasher.hash_one(key);
        if let Some(id) = self.ids.find(hash, |id| self.key(*id) == Some(key)) {
            return *id;
        }
        let id = self.free.pop().unwrap_or_else(|| {
            self.slots.push(None);
            number(self.slots.len() - 1)
        });
        self.slots[index(id)] = Some(Box::new((key.clone(), Owner::default())));
        let Self {
            slots, ids, hasher, ..
        } = self;
        let keys = |id: &OwnerId| slots[index(*id)].as_ref().map(|entry| &entry.0);
        ids.insert_unique(hash, id, |id| {
            keys(id).map_or(0, |key| hasher.hash_one(key))
        });
        id
    }

    /// Removes an owner. The number of one that is being read is given to no other before that read has
    /// ended, and [releases](Self::release) it.
    pub(super) fn remove(&mut self, key: &K) -> Option<(OwnerId, Owner)> {
        let hash = self.hasher.hash_one(key);
        let is_same = |id: &OwnerId| self.key(*id) == Some(key);
        let id = *self.ids.find(hash, is_same)?;
        self.ids
            .find_entry(hash, |other| *other == id)
            .ok()?
            .remove();
        let (_, owner) = *self.slots[index(id)].take()?;
        if !owner
            .pending
            .as_ref()
            .is_some_and(|pending| pending.is_reading())
        {
            self.release(id);
        }
        Some((id, owner))
    }

    /// Nothing refers to the number of a removed owner any more.
    pub(super) fn release(&mut self, id: OwnerId) {
        self.free.push(id);
    }

    pub(super) fn get(&self, id: OwnerId) -> Option<&Owner> {
        self.slots[index(id)].as_ref().map(|entry| &entry.1)
    }

    pub(super) fn get_mut(&mut self, id: OwnerId) -> Option<&mut Owner> {
        self.slots[index(id)].as_mut().map(|entry| &mut entry.1)
    }

    pub(super) fn key(&self, id: OwnerId) -> Option<&K> {
        self.slots[index(id)].as_ref().map(|entry| &entry.0)
    }

    /// The folder of an owner, and the stamps of its last read.
    pub(super) fn stamps(&self, id: OwnerId) -> Option<(PathBuf, Stamps)> {
        let (key, owner) = self.slots[index(id)].as_deref()?;
        Some((key.folder(), owner.stamps.clone()))
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = &(K, Owner)> {
        self.slots.iter().flatten().map(Box::as_ref)
    }

    /// The owners that are checked in such a way.
    pub(super) fn checked(&self, so: impl Fn(Polling) -> bool) -> Vec<OwnerId> {
        let slots = self.slots.iter().enumerate();
        let owners = slots.filter_map(|(at, entry)| Some((number(at), &entry.as_ref()?.1)));
        let owners = owners.filter(|(_, owner)| so(owner.polling()));
        owners.map(|(id, _)| id).collect()
    }
}

fn index(id: OwnerId) -> usize {
    id.get() as usize - 1
}

fn number(index: usize) -> OwnerId {
    u32::try_from(index).map_or(OwnerId::MAX, |index| OwnerId::MIN.saturating_add(index))
}

impl<K> Default for Owners<K> {
    fn default() -> Self {
        Self {
            slots: Vec::new(),
            free: Vec::new(),
            ids: HashTable::new(),
            hasher: RandomState::new(),
        }
    }
}
