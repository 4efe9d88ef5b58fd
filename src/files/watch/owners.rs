//! The owners, found by their number or by their key.

use std::collections::HashMap;
use std::hash::{BuildHasher, Hash, RandomState};
use std::time::Duration;

use hashbrown::HashTable;

use super::folders::{Need, OwnerId};
use super::pending::Pending;
use super::polled::Polled;
use crate::files::read::Stamps;

/// A root or credential folder.
#[derive(Default)]
pub(super) struct Owner {
    /// What it depends on, in order.
    pub(super) needs: Box<[Need]>,
    pub(super) stamps: Stamps,
    /// What has happened since it was read, if anything has. Boxed: few of many thousand owners have it.
    pub(super) pending: Option<Box<Pending>>,
    pub(super) polled: Option<Polled>,
    /// How often it is checked, when not as usual.
    pub(super) interval: Option<Duration>,
    /// The device that may keep a check of it waiting; local files have none.
    pub(super) device: Option<u64>,
}

impl Owner {
    /// The round that it is checked in, when polling is usual at this interval.
    pub(super) fn round(&self, usual: Duration) -> Round {
        let every = self.interval.or(self.polled.map(|_| usual));
        (self.device, every)
    }
}

/// Owners that are checked together: those on this device, polled at this interval or not polled.
pub(super) type Round = (Option<u64>, Option<Duration>);

/// The round of all that is local and not polled. There is always this one.
pub(super) const FIRST_ROUND: Round = (None, None);

/// All owners. There may be tens of thousands, so their keys are stored once, and the maps, which have
/// room for more than are in them, contain numbers and pointers.
pub(super) struct Owners<K> {
    owners: HashMap<OwnerId, Box<(K, Owner)>>,
    /// By the hash of their keys.
    ids: HashTable<OwnerId>,
    hasher: RandomState,
    /// The number given last. Numbers are reused as late as possible: a read of a forgotten owner may be under way.
    last: OwnerId,
}

impl<K: Clone + Eq + Hash> Owners<K> {
    /// The owner of this key, new if need be.
    pub(super) fn enter(&mut self, key: &K) -> OwnerId {
        let Self {
            owners,
            ids,
            hasher,
            last,
        } = self;
        let entry = ids.entry(
            hasher.hash_one(key),
            |id| owners[id].0 == *key,
            |id| hasher.hash_one(&owners[id].0),
        );
        let id = entry.or_insert_with(|| {
            *last = last.wrapping_add(1);
            while owners.contains_key(last) {
                *last = last.wrapping_add(1);
            }
            owners.insert(*last, Box::new((key.clone(), Owner::default())));
            *last
        });
        *id.get()
    }

    pub(super) fn remove(&mut self, key: &K) -> Option<(OwnerId, Owner)> {
        let is_same = |id: &OwnerId| self.owners[id].0 == *key;
        let entry = self.ids.find_entry(self.hasher.hash_one(key), is_same);
        let (id, _) = entry.ok()?.remove();
        self.owners.remove(&id).map(|owner| (id, owner.1))
    }

    pub(super) fn get(&self, id: OwnerId) -> Option<&Owner> {
        self.owners.get(&id).map(|owner| &owner.1)
    }

    pub(super) fn get_mut(&mut self, id: OwnerId) -> Option<&mut Owner> {
        self.owners.get_mut(&id).map(|owner| &mut owner.1)
    }

    pub(super) fn stamps(&self, id: OwnerId) -> Option<Stamps> {
        self.get(id).map(|owner| owner.stamps.clone())
    }

    pub(super) fn key(&self, id: OwnerId) -> Option<&K> {
        self.owners.get(&id).map(|owner| &owner.0)
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = (OwnerId, &K, &Owner)> {
        let owners = self.owners.iter();
        owners.map(|(id, owner)| (*id, &owner.0, &owner.1))
    }
}

impl<K> Default for Owners<K> {
    fn default() -> Self {
        Self {
            owners: HashMap::new(),
            ids: HashTable::new(),
            hasher: RandomState::new(),
            last: 0,
        }
    }
}
