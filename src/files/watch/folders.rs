//! The folders that owners depend on, one entry for each inode, and what each owner depends on.

use std::collections::{BTreeSet, HashMap};
use std::ffi::OsStr;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::path::Path;
use std::sync::Arc;
use std::time::Instant;

use slab::Slab;

use super::Polled;
use super::kernel::{Scope, WatchId};
use crate::files::read::{Dir, FileId, Interest};

/// An owner, by its place in the table. There may be a dozen of these numbers for each credential, and
/// never 2^32 different ones.
pub(super) type OwnerId = u32;

/// A folder, by its place in [`Folders`].
pub(super) type FolderId = u32;

/// What of a folder an owner depends on. Names are distinguished by a hash: two with the same one cost
/// a read too many.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) struct What(u32);

impl What {
    /// Everything in it but names that begin with `..`.
    pub(super) const ALL: Self = Self(0);
    /// Which names there are.
    pub(super) const NAMES: Self = Self(1);

    pub(super) fn name(name: &OsStr) -> Self {
        let mut hasher = DefaultHasher::new();
        name.hash(&mut hasher);
        Self((hasher.finish() as u32).max(2))
    }
}

impl From<Interest<'_>> for What {
    fn from(interest: Interest<'_>) -> Self {
        match interest {
            Interest::Name(name) | Interest::Content(name) => Self::name(name),
            Interest::Names => Self::NAMES,
            Interest::All => Self::ALL,
        }
    }
}

impl From<Interest<'_>> for Scope {
    fn from(interest: Interest<'_>) -> Self {
        match interest {
            Interest::Name(_) | Interest::Names => Self::Names,
            Interest::Content(_) | Interest::All => Self::Content,
        }
    }
}

/// How a folder is watched.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Placement {
    /// Not, or its watch can't be relied on.
    Unplaced,
    /// What its scope asks for has been reported since then.
    Live(Instant),
    /// It can't be.
    Refused(Polled),
}

/// A folder that owners depend on.
pub(super) struct Folder {
    pub(super) file: FileId,
    /// Where it was last found.
    pub(super) path: Arc<Path>,
    pub(super) placement: Placement,
    pub(super) scope: Scope,
    pub(super) watch: Option<WatchId>,
}

impl Folder {
    pub(super) fn is_live(&self) -> bool {
        matches!(self.placement, Placement::Live(_))
    }
}

/// The folders that owners depend on.
#[derive(Default)]
pub(super) struct Folders {
    folders: Slab<Folder>,
    by_file: HashMap<FileId, FolderId>,
    by_watch: HashMap<WatchId, FolderId>,
    /// Folder, what of it, and who depends on that: a folder's entries stand together.
    needs: BTreeSet<(FolderId, What, OwnerId)>,
}

impl Folders {
    pub(super) fn get(&self, id: FolderId) -> Option<&Folder> {
        self.folders.get(id as usize)
    }

    pub(super) fn get_mut(&mut self, id: FolderId) -> Option<&mut Folder> {
        self.folders.get_mut(id as usize)
    }

    /// How many have a live watch.
    pub(super) fn live(&self) -> usize {
        let folders = self.folders.iter();
        folders.filter(|(_, folder)| folder.is_live()).count()
    }

    /// The folder that `watch` is on.
    pub(super) fn watched_by(&self, watch: WatchId) -> Option<FolderId> {
        self.by_watch.get(&watch).copied()
    }

    /// The entry of `dir`, new if need be.
    pub(super) fn enter(&mut self, dir: &Dir<'_>) -> FolderId {
        if let Some(id) = self.by_file.get(&dir.id).copied()
            && let Some(folder) = self.folders.get_mut(id as usize)
        {
            if *folder.path != *dir.path {
                folder.path = dir.path.into();
            }
            return id;
        }
        let id = self.folders.insert(Folder {
            file: dir.id,
            path: dir.path.into(),
            placement: Placement::Unplaced,
            scope: Scope::Names,
            watch: None,
        }) as FolderId;
        self.by_file.insert(dir.id, id);
        id
    }

    /// Registers that `owner` depends on `what` of the folder `id`.
    pub(super) fn add_need(&mut self, id: FolderId, what: What, owner: OwnerId) {
        self.needs.insert((id, what, owner));
    }

    /// `owner` no longer depends on `what` of the folder `id`. Returns the watch to remove when
    /// no owner depends on that folder any more.
    pub(super) fn drop_need(
        &mut self,
        id: FolderId,
        what: What,
        owner: OwnerId,
    ) -> Option<WatchId> {
        self.needs.remove(&(id, what, owner));
        let mut left = self.needs.range((id, What::ALL, 0)..);
        if left.next().is_some_and(|(folder, ..)| *folder == id) {
            return None;
        }
        let folder = self.folders.try_remove(id as usize)?;
        self.by_file.remove(&folder.file);
        self.by_watch.remove(&folder.watch?);
        folder.watch
    }

    /// The folder `id` is watched by `watch` from `now` on. Returns another folder that the kernel
    /// takes for the same one, and whose entry is therefore out of date.
    pub(super) fn set_live(
        &mut self,
        id: FolderId,
        watch: WatchId,
        scope: Scope,
        now: Instant,
    ) -> Option<FolderId> {
        let folder = self.folders.get_mut(id as usize)?;
        folder.placement = Placement::Live(now);
        folder.scope = scope;
        let before = folder.watch.replace(watch);
        if let Some(before) = before.filter(|before| *before != watch) {
            self.by_watch.remove(&before);
        }
        let other = self.by_watch.insert(watch, id);
        let other = other.filter(|other| *other != id)?;
        let stale = self.folders.get_mut(other as usize)?;
        (stale.placement, stale.watch) = (Placement::Unplaced, None);
        Some(other)
    }

    /// The kernel has removed the watch on the folder `id`.
    pub(super) fn watch_removed(&mut self, id: FolderId) {
        if let Some(folder) = self.folders.get_mut(id as usize) {
            folder.placement = Placement::Unplaced;
            if let Some(watch) = folder.watch.take() {
                self.by_watch.remove(&watch);
            }
        }
    }

    /// No watch can be relied on any more.
    pub(super) fn unplace_all(&mut self) {
        for (_, folder) in &mut self.folders {
            folder.placement = Placement::Unplaced;
        }
    }

    /// Adds to `owners` those that depend on `what` of the folder `id`.
    pub(super) fn who_needs(&self, id: FolderId, what: What, owners: &mut Vec<OwnerId>) {
        let needs = self.needs.range((id, what, 0)..=(id, what, OwnerId::MAX));
        owners.extend(needs.map(|(_, _, owner)| *owner));
    }

    /// Adds to `owners` all that depend on anything of the folder `id`.
    pub(super) fn everyone(&self, id: FolderId, owners: &mut Vec<OwnerId>) {
        let needs = self.needs.range((id, What::ALL, 0)..);
        let needs = needs.take_while(|(folder, ..)| *folder == id);
        owners.extend(needs.map(|(_, _, owner)| *owner));
    }
}

#[cfg(test)]
mod tests {
    use std::os::fd::AsFd;

    use super::*;

    fn enter(folders: &mut Folders, path: &str, inode: u64) -> FolderId {
        let file = std::fs::File::open("/").unwrap();
        folders.enter(&Dir {
            fd: file.as_fd(),
            path: Path::new(path),
            id: FileId { device: 1, inode },
            remote: false,
            complete: false,
        })
    }

    fn everyone(folders: &Folders, id: FolderId) -> Vec<OwnerId> {
        let mut owners = Vec::new();
        folders.everyone(id, &mut owners);
        owners
    }

    #[test]
    fn a_folder_under_two_paths_is_one() {
        let mut folders = Folders::default();
        let first = enter(&mut folders, "/a", 5);
        assert_eq!(enter(&mut folders, "/b", 5), first);
        assert_eq!(&*folders.get(first).unwrap().path, Path::new("/b"));
        assert_ne!(enter(&mut folders, "/b", 6), first);
    }

    #[test]
    fn needs_are_told_apart_by_folder_and_name() {
        let mut folders = Folders::default();
        let (a, b) = (enter(&mut folders, "/a", 5), enter(&mut folders, "/b", 6));
        let [x, y] = ["x", "y"].map(|name| What::name(name.as_ref()));
        for (folder, what, owner) in [(a, x, 1), (a, x, 2), (a, y, 3), (b, What::ALL, 4)] {
            folders.add_need(folder, what, owner);
        }
        let mut owners = Vec::new();
        folders.who_needs(a, x, &mut owners);
        assert_eq!(owners, [1, 2]);
        let mut all = everyone(&folders, a);
        all.sort_unstable();
        assert_eq!((all, everyone(&folders, b)), (vec![1, 2, 3], vec![4]));
    }

    #[test]
    fn a_folder_without_owners_is_dropped_with_its_watch() {
        let mut folders = Folders::default();
        let id = enter(&mut folders, "/a", 5);
        folders.add_need(id, What::ALL, 1);
        folders.add_need(id, What::NAMES, 2);
        assert_eq!(
            folders.set_live(id, 7, Scope::Content, Instant::now()),
            None
        );
        assert_eq!(folders.drop_need(id, What::ALL, 1), None);
        assert_eq!((folders.live(), folders.watched_by(7)), (1, Some(id)));
        assert_eq!(folders.drop_need(id, What::NAMES, 2), Some(7));
        assert_eq!((folders.live(), folders.watched_by(7)), (0, None));
    }

    #[test]
    fn a_watch_that_the_kernel_gives_to_another_folder_is_no_longer_the_first_ones() {
        let mut folders = Folders::default();
        let (a, b) = (enter(&mut folders, "/a", 5), enter(&mut folders, "/b", 6));
        let now = Instant::now();
        assert_eq!(folders.set_live(a, 7, Scope::Names, now), None);
        assert_eq!(folders.set_live(b, 7, Scope::Names, now), Some(a));
        assert!(!folders.get(a).unwrap().is_live());
        assert_eq!(folders.watched_by(7), Some(b));
    }
}
