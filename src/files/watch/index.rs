//! Which owners depend on which names in which folders, and how each folder is watched.

use std::collections::{BTreeMap, HashMap};
use std::ffi::OsStr;
use std::ops::Bound;
use std::path::Path;
use std::sync::Arc;

use super::Polled;
use crate::files::read::{Dir, FileId, Interest};

/// An owner, by its place in the table.
pub(super) type OwnerId = u32;

/// A folder, by its place in the index.
pub(super) type FolderId = u32;

/// What of a folder an owner depends on.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) enum Need {
    Name(Box<OsStr>),
    Names,
    All,
}

impl From<Interest<'_>> for Need {
    fn from(interest: Interest<'_>) -> Self {
        match interest {
            Interest::Name(name) => Self::Name(name.into()),
            Interest::Names => Self::Names,
            Interest::All => Self::All,
        }
    }
}

/// How a folder is watched.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Placement {
    /// It is not, or no longer.
    Unplaced,
    /// It is about to be.
    Queued,
    /// A watch is being placed, under this ticket.
    Placing(u64),
    /// What happens in it is told.
    Live,
    /// It can't be.
    Refused(Polled),
}

impl Placement {
    /// Whether it will be decided without anyone's doing.
    pub(super) fn is_undecided(self) -> bool {
        matches!(self, Self::Queued | Self::Placing(_))
    }
}

/// A folder that owners depend on.
pub(super) struct Folder {
    pub(super) path: Arc<Path>,
    pub(super) id: FileId,
    pub(super) placement: Placement,
    /// Whether `notify` may know its path from an earlier watch.
    pub(super) known: bool,
    /// Whether it is in the queue.
    pub(super) queued: bool,
    /// Whether its watch was refused the last time.
    pub(super) was_refused: bool,
    /// The folder whose watch tells of this one too: the same one under another path.
    carrier: Option<FolderId>,
    aliases: Vec<FolderId>,
    all: Owners,
    entries: Owners,
    names: HashMap<Box<OsStr>, Owners>,
}

/// Owners, in order.
type Owners = Vec<OwnerId>;

/// The folders that owners depend on, by path and by place.
#[derive(Default)]
pub(super) struct Index {
    folders: Vec<Option<Folder>>,
    free: Vec<FolderId>,
    /// In the order of paths, so that a folder and all below it stand together.
    paths: BTreeMap<Arc<Path>, FolderId>,
    /// The folders with a live watch of their own.
    live: HashMap<FileId, FolderId>,
}

/// Which owners an event is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Audience {
    /// Those that depend on which names there are too.
    Names,
    /// Those alone that depend on the content.
    Content,
}

impl Index {
    pub(super) fn folder(&self, id: FolderId) -> Option<&Folder> {
        self.folders.get(id as usize)?.as_ref()
    }

    pub(super) fn folder_mut(&mut self, id: FolderId) -> Option<&mut Folder> {
        self.folders.get_mut(id as usize)?.as_mut()
    }

    pub(super) fn folders(&self) -> impl Iterator<Item = (FolderId, &Folder)> {
        self.paths
            .values()
            .filter_map(|id| Some((*id, self.folder(*id)?)))
    }

    /// The folder at the path of `dir`, new if need be, and whether another one stood there before.
    pub(super) fn enter(&mut self, dir: Dir<'_>) -> (FolderId, bool) {
        if let Some(id) = self.paths.get(dir.path) {
            let id = *id;
            let same = self.folder(id).is_some_and(|folder| folder.id == dir.id);
            return (id, !same);
        }
        let path: Arc<Path> = dir.path.into();
        let folder = Folder {
            path: Arc::clone(&path),
            id: dir.id,
            placement: Placement::Unplaced,
            known: false,
            queued: false,
            was_refused: false,
            carrier: None,
            aliases: Vec::new(),
            all: Owners::new(),
            entries: Owners::new(),
            names: HashMap::new(),
        };
        let id = self.free.pop().unwrap_or_else(|| {
            self.folders.push(None);
            FolderId::try_from(self.folders.len() - 1).unwrap_or(FolderId::MAX)
        });
        self.folders[id as usize] = Some(folder);
        self.paths.insert(path, id);
        (id, false)
    }

    /// Forgets the folder `id`, which nobody depends on.
    pub(super) fn remove(&mut self, id: FolderId) -> Option<Folder> {
        let folder = self.folders.get_mut(id as usize)?.take()?;
        self.paths.remove(&folder.path);
        if self.live.get(&folder.id) == Some(&id) {
            self.live.remove(&folder.id);
        }
        if let Some(carrier) = folder.carrier.and_then(|carrier| self.folder_mut(carrier)) {
            carrier.aliases.retain(|alias| *alias != id);
        }
        self.free.push(id);
        Some(folder)
    }

    /// Registers that `owner` depends on `need` of the folder `id`.
    pub(super) fn add(&mut self, id: FolderId, need: &Need, owner: OwnerId) {
        let Some(folder) = self.folder_mut(id) else {
            return;
        };
        let owners = match need {
            Need::All => &mut folder.all,
            Need::Names => &mut folder.entries,
            Need::Name(name) => match folder.names.get_mut(name) {
                Some(owners) => owners,
                None => folder.names.entry(name.clone()).or_default(),
            },
        };
        if let Err(at) = owners.binary_search(&owner) {
            owners.insert(at, owner);
        }
    }

    /// `owner` no longer depends on `need` of the folder `id`. Tells whether anyone still depends
    /// on anything of it.
    pub(super) fn drop_need(&mut self, id: FolderId, need: &Need, owner: OwnerId) -> bool {
        let Some(folder) = self.folder_mut(id) else {
            return true;
        };
        match need {
            Need::All => remove(&mut folder.all, owner),
            Need::Names => remove(&mut folder.entries, owner),
            Need::Name(name) => {
                if let Some(owners) = folder.names.get_mut(name) {
                    remove(owners, owner);
                    if owners.is_empty() {
                        folder.names.remove(name);
                    }
                }
            }
        }
        folder.is_needed()
    }

    /// Another folder, `file`, has the path of the folder `id`. Adds those who depended on that one
    /// to `owners`.
    pub(super) fn replace(&mut self, id: FolderId, file: FileId, owners: &mut Vec<OwnerId>) {
        self.kill(id, owners);
        if let Some(folder) = self.folder_mut(id) {
            folder.id = file;
        }
    }

    /// The folder `id` is not to be watched.
    pub(super) fn refuse(&mut self, id: FolderId, why: Polled) {
        if let Some(folder) = self.folder_mut(id) {
            folder.placement = Placement::Refused(why);
        }
    }

    /// The folder `id` has a watch of its own from now on.
    pub(super) fn set_live(&mut self, id: FolderId) {
        let Some(folder) = self.folder_mut(id) else {
            return;
        };
        folder.placement = Placement::Live;
        let file = folder.id;
        self.live.insert(file, id);
    }

    /// Lets the watch on the same folder under another path, if there is one, tell of `id` too:
    /// the kernel has one watch for a folder, however many paths lead there (bind mounts).
    pub(super) fn share(&mut self, id: FolderId) -> bool {
        let Some(file) = self.folder(id).map(|folder| folder.id) else {
            return false;
        };
        let Some(carrier) = self.live.get(&file).copied().filter(|other| *other != id) else {
            return false;
        };
        if let Some(folder) = self.folder_mut(id) {
            folder.placement = Placement::Live;
            folder.carrier = Some(carrier);
        }
        if let Some(folder) = self.folder_mut(carrier) {
            folder.aliases.push(id);
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
        let below: Vec<FolderId> = self
            .paths
            .range::<Path, _>(range)
            .take_while(|(other, _)| other.starts_with(path))
            .map(|(_, id)| *id)
            .collect();
        for id in below {
            self.kill(id, owners);
        }
    }

    /// Adds to `owners` those that an event at `path` is for.
    pub(super) fn concerned(&self, path: &Path, audience: Audience, owners: &mut Vec<OwnerId>) {
        if let (Some(parent), Some(name)) = (path.parent(), path.file_name()) {
            self.concerned_with(parent, |folder| folder.by_name(name, audience, owners));
        }
    }

    /// Adds to `owners` those that an event on the folder at `path` itself is for.
    pub(super) fn concerned_as_folder(&self, path: &Path, owners: &mut Vec<OwnerId>) {
        self.concerned_with(path, |folder| folder.everyone(owners));
    }

    fn concerned_with(&self, path: &Path, mut visit: impl FnMut(&Folder)) {
        let Some(folder) = self.paths.get(path).and_then(|id| self.folder(*id)) else {
            return;
        };
        visit(folder);
        for alias in folder
            .aliases
            .iter()
            .filter_map(|alias| self.folder(*alias))
        {
            visit(alias);
        }
    }
}

impl Folder {
    pub(super) fn is_needed(&self) -> bool {
        !(self.all.is_empty() && self.entries.is_empty() && self.names.is_empty())
    }

    fn by_name(&self, name: &OsStr, audience: Audience, owners: &mut Vec<OwnerId>) {
        owners.extend(&self.all);
        owners.extend(self.names.get(name).into_iter().flatten());
        if audience == Audience::Names {
            owners.extend(&self.entries);
        }
    }

    /// Whether its watch was refused, but may be had later.
    pub(super) fn is_refused_for_now(&self) -> bool {
        match self.placement {
            Placement::Refused(why) => why != Polled::RemoteFileSystem,
            _ => false,
        }
    }

    /// Adds all who depend on anything of it to `owners`.
    pub(super) fn everyone(&self, owners: &mut Vec<OwnerId>) {
        owners.extend(&self.all);
        owners.extend(&self.entries);
        owners.extend(self.names.values().flatten());
    }
}

fn remove(owners: &mut Owners, owner: OwnerId) {
    if let Ok(at) = owners.binary_search(&owner) {
        owners.remove(at);
    }
}
