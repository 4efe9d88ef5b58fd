//! The watched folders, and what of each an owner depends on.

use std::collections::{BTreeSet, HashMap};
use std::ffi::OsStr;
use std::hash::{BuildHasher, Hash, RandomState};
use std::mem::replace;
use std::ops::RangeInclusive;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::sync::{Arc, LazyLock};

use super::Key;
use super::kernel::{Inotify, Scope, WatchId};
use super::owners::OwnerId;
use super::pending::FileKey;
use super::table::Table;
use crate::files::read::{Interest, Stamps};

/// What an owner depends on in a watched folder.
pub(super) type Need = (WatchId, What);

/// What of a folder an owner depends on. Names are distinguished by a hash: two with the same one cost
/// a read too many.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct What(u32);

impl What {
    /// Everything in it but [hidden](is_hidden) names.
    pub(super) const ALL: Self = Self(0);
    /// Which names there are.
    pub(super) const NAMES: Self = Self(1);
    /// Each of these, and each name.
    pub(super) const ANY: RangeInclusive<Self> = Self::ALL..=Self(u32::MAX);

    pub(super) fn name(name: &OsStr) -> Self {
        Self((hash(name) as u32).max(2))
    }
}

/// What of a folder an interest depends on, and how much of what happens to it.
pub(super) fn wanted(interest: Interest<'_>) -> (What, Scope) {
    match interest {
        Interest::Name(name) => (What::name(name), Scope::Names),
        Interest::Content(name) => (What::name(name), Scope::Content),
        Interest::Names => (What::NAMES, Scope::Names),
        Interest::All => (What::ALL, Scope::Content),
    }
}

/// Whether a dependency on all of a folder leaves this name out.
pub(super) fn is_hidden(name: &OsStr) -> bool {
    name.as_bytes().starts_with(b"..")
}

/// A path, as a hash: paths would take more memory than all the rest. If two have the same one, a file may be
/// read before it is complete, and then again.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) struct Place(pub(super) FileKey);

impl Place {
    pub(super) fn of(path: &Path) -> Self {
        Self::all_on(path).last().unwrap_or(Self(0))
    }

    /// Those of all folders on `path`, and its own.
    pub(super) fn all_on(path: &Path) -> impl Iterator<Item = Self> {
        path.components().scan(Self(0), |place, name| {
            *place = place.join(name.as_os_str());
            Some(*place)
        })
    }

    /// That of `name` in this folder.
    pub(super) fn join(self, name: &OsStr) -> Self {
        Self(hash((self, name)) as FileKey)
    }
}

/// With random keys, so that nobody can choose names that have the same hash.
fn hash(what: impl Hash) -> u64 {
    static KEYS: LazyLock<RandomState> = LazyLock::new(RandomState::new);
    KEYS.hash_one(what)
}

/// A watched folder. There may be several for each of tens of thousands of owners.
#[derive(Clone, Copy)]
pub(super) struct Folder {
    /// Where it was last found.
    pub(super) place: Place,
    pub(super) scope: Scope,
    /// The first owner, which [`Folders::shared`] leaves out once it has been read, since its own needs list what it
    /// depends on. Few folders have a second one.
    first: OwnerId,
}

/// The watched folders.
#[derive(Default)]
pub(super) struct Folders {
    /// The instance that all watches are of: another one would count them from 1 again.
    pub(super) inotify: Option<Arc<Inotify>>,
    pub(super) watched: HashMap<WatchId, Folder>,
    /// What all other owners depend on, and those that are being read: a folder's entries stand together. Those of
    /// a folder whose watch the kernel has removed are here until the owner is read again.
    shared: BTreeSet<(WatchId, What, OwnerId)>,
    /// Times that the kernel refused a watch.
    pub(super) refusals: u64,
}

impl Folders {
    /// Opens the inotify instance, if there is none.
    pub(super) fn open(&mut self) -> std::io::Result<()> {
        if self.inotify.is_none() {
            self.inotify = Some(Arc::new(Inotify::open()?));
        }
        Ok(())
    }

    /// Records a watch that was placed on the folder at `place` for at least what `scope` asks for, because an
    /// owner, which is being read, depends on `what` of it.
    pub(super) fn record(&mut self, need: Need, owner: OwnerId, place: Place, scope: Scope) {
        let (watch, what) = need;
        self.shared.insert((watch, what, owner));
        let new = Folder {
            place,
            scope,
            first: owner,
        };
        let folder = self.watched.entry(watch).or_insert(new);
        folder.place = place;
        folder.scope = folder.scope.max(scope);
    }
}

impl<K: Key> Table<K> {
    /// A read of the owner has ended: it depends on these, and on nothing else, and has examined what the
    /// stamps are of.
    pub(super) fn set_needs(&mut self, id: OwnerId, needs: BTreeSet<Need>, stamps: Stamps) {
        let Some(owner) = self.owners.get_mut(id) else {
            return self.drop_needs(needs, id);
        };
        owner.stamps = stamps;
        let before = replace(&mut owner.needs, needs.iter().copied().collect());
        for (watch, what) in &needs {
            let folder = self.folders.watched.get(watch);
            if folder.is_some_and(|folder| folder.first == id) {
                self.folders.shared.remove(&(*watch, *what, id));
            }
        }
        let dropped = before.into_iter().filter(|need| !needs.contains(need));
        self.drop_needs(dropped, id);
    }

    /// The owner no longer depends on these. A folder that nobody depends on any more is no longer watched.
    pub(super) fn drop_needs(&mut self, needs: impl IntoIterator<Item = Need>, id: OwnerId) {
        for (watch, what) in needs {
            self.folders.shared.remove(&(watch, what, id));
            if self.needs_of(watch, What::ANY).next().is_none()
                && self.folders.watched.remove(&watch).is_some()
                && let Some(inotify) = &self.folders.inotify
            {
                inotify.remove(watch);
            }
        }
    }

    /// Who depends on these of the folder, and on which of them.
    pub(super) fn needs_of(
        &self,
        watch: WatchId,
        whats: RangeInclusive<What>,
    ) -> impl Iterator<Item = (What, OwnerId)> + use<'_, K> {
        let (from, to) = whats.into_inner();
        let first = self.folders.watched.get(&watch);
        let first = first.and_then(|folder| Some((folder.first, self.owners.get(folder.first)?)));
        let needs = first.into_iter().flat_map(move |(id, owner)| {
            let before = owner.needs.partition_point(|need| *need < (watch, from));
            let needs = owner.needs[before..].iter();
            let needs = needs.take_while(move |need| **need <= (watch, to));
            needs.map(move |(_, what)| (*what, id))
        });
        let range = (watch, from, OwnerId::MIN)..=(watch, to, OwnerId::MAX);
        let others = self.folders.shared.range(range);
        needs.chain(others.map(|(_, what, id)| (*what, *id)))
    }
}
