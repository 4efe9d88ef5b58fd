//! The owners, found by their number or by their key.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::hash::BuildHasher;
use std::num::NonZero;

use hashbrown::HashTable;

use super::Key;
use super::folders::Need;
use super::pending::Pending;
use super::polling::Polling;
use crate::files::read::Stamps;

/// An owner, by its number. There may be several of these for each credential.
pub(super) type OwnerId = NonZero<u32>;

/// A root or credential folder. There may be tens of thousands, so what few of them have is boxed.
pub(super) struct Owner<K> {
    pub(super) key: K,
    /// What it depends on, in order.
    pub(super) needs: Box<[Need]>,
    pub(super) stamps: Stamps,
    /// What has happened since it was read, if anything has.
    pub(super) pending: Option<Box<Pending>>,
    pub(super) polling: Option<Box<Polling>>,
}

impl<K> Owner<K> {
    pub(super) fn polling(&self) -> Polling {
        self.polling.as_deref().copied().unwrap_or_default()
    }
}

/// All owners. Their keys are stored once, and the maps, which have room for more than are in them, contain numbers
/// and pointers.
pub(super) struct Owners<K> {
    owners: HashMap<OwnerId, Box<Owner<K>>>,
    /// By the hash of their keys.
    ids: HashTable<OwnerId>,
    /// The number to try next. They are reused as late as possible: a read of a forgotten owner may be under way.
    next: OwnerId,
}

impl<K: Key> Owners<K> {
    pub(super) fn new() -> Self {
        Self {
            owners: HashMap::new(),
            ids: HashTable::new(),
            next: OwnerId::MIN,
        }
    }

    /// The owner of this key, new if need be.
    pub(super) fn enter(&mut self, key: &K) -> OwnerId {
        let owners = &mut self.owners;
        let hash = |key: &K| owners.hasher().hash_one(key);
        let is_it = |id: &OwnerId| owners[id].key == *key;
        let entry = self.ids.entry(hash(key), is_it, |id| hash(&owners[id].key));
        let id = entry.or_insert_with(|| {
            loop {
                let id = self.next;
                self.next = id.checked_add(1).unwrap_or(OwnerId::MIN);
                if let Entry::Vacant(entry) = owners.entry(id) {
                    entry.insert(Box::new(Owner {
                        key: key.clone(),
                        needs: Box::default(),
                        stamps: Stamps::default(),
                        pending: None,
                        polling: None,
                    }));
                    break id;
                }
            }
        });
        *id.get()
    }

    pub(super) fn remove(&mut self, key: &K) -> Option<(OwnerId, Owner<K>)> {
        let is_it = |id: &OwnerId| self.owners[id].key == *key;
        let hash = self.owners.hasher().hash_one(key);
        let entry = self.ids.find_entry(hash, is_it);
        let (id, _) = entry.ok()?.remove();
        self.owners.remove(&id).map(|owner| (id, *owner))
    }

    pub(super) fn get(&self, id: OwnerId) -> Option<&Owner<K>> {
        self.owners.get(&id).map(Box::as_ref)
    }

    pub(super) fn get_mut(&mut self, id: OwnerId) -> Option<&mut Owner<K>> {
        self.owners.get_mut(&id).map(Box::as_mut)
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = (OwnerId, &Owner<K>)> {
        self.owners.iter().map(|(id, owner)| (*id, owner.as_ref()))
    }

    /// The owners that are polled, or checked, in such a way.
    pub(super) fn polled(&self, so: impl Fn(Polling) -> bool) -> Vec<OwnerId> {
        let owners = self.iter().filter(|(_, owner)| so(owner.polling()));
        owners.map(|(id, _)| id).collect()
    }
}
