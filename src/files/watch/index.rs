//! The folders that owners depend on, by path and by place.

use std::collections::{BTreeMap, HashMap};
use std::ops::Bound;
use std::path::Path;
use std::sync::Arc;
use std::time::Instant;

use super::watched::{Audience, Folder, FolderId, OwnerId, Placement};
use crate::files::read::{Dir, FileId};

/// The folders that owners depend on.
#[derive(Default)]
pub(super) struct Index {
    folders: Vec<Option<Folder>>,
    free: Vec<FolderId>,
    /// In the order of paths, so that a folder and all below it stand together.
    paths: BTreeMap<Arc<Path>, FolderId>,
    /// The folders with a live watch of their own.
    live: HashMap<FileId, FolderId>,
}

impl Index {
    pub(super) fn folder(&self, id: FolderId) -> Option<&Folder> {
        self.folders.get(id as usize)?.as_ref()
    }

    pub(super) fn folder_mut(&mut self, id: FolderId) -> Option<&mut Folder> {
        self.folders.get_mut(id as usize)?.as_mut()
    }

    pub(super) fn folders(&self) -> impl Iterator<Item = (FolderId, &Folder)> {
        let ids = self.paths.values();
        ids.filter_map(|id| Some((*id, self.folder(*id)?)))
    }

    /// The folder at the path of `dir`, new if need be. Where another one stood there before, adds
    /// those who depended on that to `owners`.
    pub(super) fn enter(&mut self, dir: Dir<'_>, owners: &mut Vec<OwnerId>) -> FolderId {
        if let Some(id) = self.paths.get(dir.path).copied() {
            if self.folder(id).is_some_and(|folder| folder.id != dir.id) {
                self.kill(id, owners);
            }
            if let Some(folder) = self.folder_mut(id) {
                (folder.id, folder.remote) = (dir.id, dir.remote);
            }
            return id;
        }
        let folder = Folder::new(dir);
        let id = self.free.pop().unwrap_or_else(|| {
            self.folders.push(None);
            FolderId::try_from(self.folders.len() - 1).unwrap_or(FolderId::MAX)
        });
        self.paths.insert(Arc::clone(&folder.path), id);
        self.folders[id as usize] = Some(folder);
        id
    }

    /// Forgets the folder `id`, which nobody depends on.
    pub(super) fn remove(&mut self, id: FolderId) -> Option<Folder> {
        self.kill(id, &mut Vec::new());
        let folder = self.folders.get_mut(id as usize)?.take()?;
        self.paths.remove(&folder.path);
        self.free.push(id);
        Some(folder)
    }

    /// The folder `id` has a watch of its own from now on.
    pub(super) fn set_live(&mut self, id: FolderId, now: Instant) {
        if let Some(folder) = self.folder_mut(id) {
            folder.placement = Placement::Live(now);
            let file = folder.id;
            self.live.insert(file, id);
        }
    }

    /// Lets the watch on the same folder under another path, if there is one, tell of `id` too:
    /// the kernel has one watch for a folder, however many paths lead there (bind mounts), and
    /// `notify` one path for a watch.
    pub(super) fn share(&mut self, id: FolderId, now: Instant) -> bool {
        let carrier = self.folder(id).and_then(|folder| self.live.get(&folder.id));
        let Some(carrier) = carrier.copied().filter(|carrier| *carrier != id) else {
            return false;
        };
        if let Some(folder) = self.folder_mut(carrier) {
            folder.aliases.push(id);
        }
        if let Some(folder) = self.folder_mut(id) {
            folder.placement = Placement::Live(now);
            folder.carrier = Some(carrier);
        }
        true
    }

    /// The watch on the folder `id` tells nothing any more. Adds those who depended on it to `owners`.
    pub(super) fn kill(&mut self, id: FolderId, owners: &mut Vec<OwnerId>) {
        let Some(folder) = self.folder_mut(id) else {
            return;
        };
        folder.placement = Placement::Unplaced;
        folder.everyone(owners);
        let aliases = std::mem::take(&mut folder.aliases);
        let carrier = folder.carrier.take();
        let file = folder.id;
        if self.live.get(&file) == Some(&id) {
            self.live.remove(&file);
        }
        if let Some(carrier) = carrier.and_then(|carrier| self.folder_mut(carrier)) {
            carrier.aliases.retain(|alias| *alias != id);
        }
        for alias in aliases {
            self.kill(alias, owners);
        }
    }

    /// As [`Index::kill`], for the folder at `path` and all below it.
    pub(super) fn kill_below(&mut self, path: &Path, owners: &mut Vec<OwnerId>) {
        let range = (Bound::Included(path), Bound::Unbounded);
        let below = self.paths.range::<Path, _>(range);
        let below = below.take_while(|(other, _)| other.starts_with(path));
        let below: Vec<FolderId> = below.map(|(_, id)| *id).collect();
        for id in below {
            self.kill(id, owners);
        }
    }

    /// Adds to `owners` those that an event at `path` is for.
    pub(super) fn concerned(&self, path: &Path, audience: Audience, owners: &mut Vec<OwnerId>) {
        if let (Some(parent), Some(name)) = (path.parent(), path.file_name()) {
            for folder in self.at(parent) {
                folder.by_name(name, audience, owners);
            }
        }
    }

    /// Whether owners depend on something in a folder at `path`.
    pub(super) fn has_folder(&self, path: &Path) -> bool {
        self.paths.contains_key(path)
    }

    /// Adds to `owners` those that list the folder at `path`.
    pub(super) fn listers(&self, path: &Path, owners: &mut Vec<OwnerId>) {
        for folder in self.at(path) {
            folder.listers(owners);
        }
    }

    /// The folder at `path`, under all the paths that its watch tells of.
    fn at(&self, path: &Path) -> impl Iterator<Item = &Folder> {
        let folder = self.paths.get(path).and_then(|id| self.folder(*id));
        let aliases = folder.into_iter().flat_map(|folder| &folder.aliases);
        let aliases = aliases.filter_map(|alias| self.folder(*alias));
        folder.into_iter().chain(aliases)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::files::watch::watched::Need;

    /// A folder of whose name `name` the owner depends.
    fn enter(index: &mut Index, path: &str, inode: u64, owner: OwnerId) -> FolderId {
        let dir = Dir {
            path: Path::new(path),
            id: FileId { device: 1, inode },
            remote: false,
            complete: false,
        };
        let id = index.enter(dir, &mut Vec::new());
        let need = Need::Name(Box::from("name".as_ref()));
        index.folder_mut(id).unwrap().add(&need, owner);
        id
    }

    fn concerned(index: &Index, path: &str) -> Vec<OwnerId> {
        let mut owners = Vec::new();
        index.concerned(Path::new(path), Audience::Names, &mut owners);
        owners
    }

    #[test]
    fn a_folder_under_two_paths_has_one_watch_that_tells_of_both() {
        let mut index = Index::default();
        let now = Instant::now();
        let first = enter(&mut index, "/a", 5, 1);
        let second = enter(&mut index, "/b", 5, 2);
        let third = enter(&mut index, "/c", 6, 3);
        assert!(!index.share(first, now));
        index.set_live(first, now);
        assert!(!index.share(first, now) && index.share(second, now) && !index.share(third, now));
        assert_eq!(concerned(&index, "/a/name"), [1, 2]);
        assert!(concerned(&index, "/a/other").is_empty());

        // Without the watch both must be watched anew.
        let mut owners = Vec::new();
        index.kill_below(Path::new("/a"), &mut owners);
        assert_eq!(owners, [1, 2]);
        assert!(!index.folder(second).unwrap().placement.is_live());
        index.set_live(second, now);
        assert!(index.share(first, now));
        assert!(index.remove(first).is_some());
        assert_eq!(concerned(&index, "/b/name"), [2]);
    }

    #[test]
    fn a_folder_and_all_below_it_are_killed_and_no_other() {
        let mut index = Index::default();
        let now = Instant::now();
        for (owner, path) in ["/a", "/a/b", "/a/b/c", "/a!", "/a/bc", "/"]
            .into_iter()
            .enumerate()
        {
            let owner = OwnerId::try_from(owner).unwrap();
            let id = enter(&mut index, path, u64::from(owner), owner);
            index.set_live(id, now);
        }
        let mut owners = Vec::new();
        index.kill_below(Path::new("/a/b"), &mut owners);
        assert_eq!(owners, [1, 2]);
        index.kill_below(Path::new("/"), &mut owners);
        assert_eq!(owners.len(), 2 + 6);
    }

    #[test]
    fn another_folder_at_the_same_path_has_no_watch_yet() {
        let mut index = Index::default();
        let id = enter(&mut index, "/a", 5, 1);
        index.set_live(id, Instant::now());
        let mut owners = Vec::new();
        let dir = |inode| Dir {
            path: Path::new("/a"),
            id: FileId { device: 1, inode },
            remote: false,
            complete: false,
        };
        assert_eq!(index.enter(dir(5), &mut owners), id);
        assert!(owners.is_empty() && index.folder(id).unwrap().placement.is_live());
        assert_eq!(index.enter(dir(6), &mut owners), id);
        assert_eq!(owners, [1]);
        assert!(!index.folder(id).unwrap().placement.is_live());
    }
}
