//! The owners, found by their number or by their key.

use std::hash::{BuildHasher, RandomState};
use std::path::PathBuf;
use std::time::Duration;

use hashbrown::HashTable;

use super::folders::{Need, What};
use super::kernel::WatchId;
use super::pending::Pending;
use super::polled::Polled;
use super::{Key, Settings};
use crate::files::read::Stamps;

/// An owner, by its number. There may be several of these for each credential.
pub(super) type OwnerId = u32;

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
    pub(super) fn needs_of(&self, watch: WatchId) -> impl Iterator<Item = What> + use<'_> {
        let first = self.needs.partition_point(|need| need.0 < watch);
        let needs = self.needs[first..].iter();
        let needs = needs.take_while(move |need| need.0 == watch);
        needs.map(|(_, what)| *what)
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
    pub(super) fn new() -> Self {
        Self {
            slots: Vec::new(),
            free: Vec::new(),
            ids: HashTable::new(),
            hasher: RandomState::new(),
        }
    }

    /// The owner of this key, new if need be.
    pub(super) fn enter(&mut self, key: &K) -> OwnerId {
        let hash = self.hasher.hash_one(key);
        if let Some(id) = self.ids.find(hash, |id| self.key(*id) == Some(key)) {
            return *id;
        }
        let id = self.free.pop().unwrap_or_else(|| {
            self.slots.push(None);
            self.slots.len() as OwnerId - 1
        });
        self.slots[id as usize] = Some(Box::new((key.clone(), Owner::default())));
        let (slots, hasher) = (&self.slots, &self.hasher);
        let key_of = |id: &OwnerId| slots[*id as usize].as_ref().map(|entry| &entry.0);
        let rehash = |id: &OwnerId| key_of(id).map_or(0, |key| hasher.hash_one(key));
        self.ids.insert_unique(hash, id, rehash);
        id
    }

    /// Removes an owner. If it is being read, its number stays taken until that read
    /// [releases](Self::release) it.
    pub(super) fn remove(&mut self, key: &K) -> Option<(OwnerId, Owner)> {
        let slots = &self.slots;
        let is_it = |id: &OwnerId| {
            slots[*id as usize]
                .as_ref()
                .is_some_and(|entry| entry.0 == *key)
        };
        let entry = self.ids.find_entry(self.hasher.hash_one(key), is_it);
        let (id, _) = entry.ok()?.remove();
        let (_, owner) = *self.slots[id as usize].take()?;
        let pending = owner.pending.as_ref();
        if !pending.is_some_and(|pending| pending.is_reading()) {
            self.release(id);
        }
        Some((id, owner))
    }

    /// The number of a removed owner may be given to another one.
    pub(super) fn release(&mut self, id: OwnerId) {
        self.free.push(id);
    }

    pub(super) fn get(&self, id: OwnerId) -> Option<&Owner> {
        self.slots[id as usize].as_ref().map(|entry| &entry.1)
    }

    pub(super) fn get_mut(&mut self, id: OwnerId) -> Option<&mut Owner> {
        self.slots[id as usize].as_mut().map(|entry| &mut entry.1)
    }

    pub(super) fn key(&self, id: OwnerId) -> Option<&K> {
        self.slots[id as usize].as_ref().map(|entry| &entry.0)
    }

    /// The folder of an owner, and the stamps of its last read.
    pub(super) fn stamps(&self, id: OwnerId) -> Option<(PathBuf, Stamps)> {
        let (key, owner) = self.slots[id as usize].as_deref()?;
        Some((key.folder(), owner.stamps.clone()))
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = (OwnerId, &K, &Owner)> {
        (0..).zip(&self.slots).filter_map(|(id, entry)| {
            let (key, owner) = entry.as_deref()?;
            Some((id, key, owner))
        })
    }

    /// The owners that are polled, or checked, in such a way.
    pub(super) fn polled(&self, so: impl Fn(Polling) -> bool) -> Vec<OwnerId> {
        let owners = self.iter().filter(|(.., owner)| so(owner.polling()));
        owners.map(|(id, ..)| id).collect()
    }
}
