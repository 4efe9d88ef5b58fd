//! A folder that owners depend on, and how it is watched.

use std::collections::HashMap;
use std::ffi::OsStr;
use std::path::Path;
use std::sync::Arc;
use std::time::Instant;

use super::Polled;
use crate::files::read::{Dir, FileId, Interest};

/// An owner, by its place in the table.
pub(super) type OwnerId = u32;

/// A folder, by its place in the index.
pub(super) type FolderId = u32;

/// Owners, in order.
type Owners = Vec<OwnerId>;

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
    /// What happens in it has been told since then.
    Live(Instant),
    /// It can't be.
    Refused(Polled),
}

impl Placement {
    /// Whether it will be decided without anyone's doing.
    pub(super) fn is_undecided(self) -> bool {
        matches!(self, Self::Queued | Self::Placing(_))
    }

    pub(super) fn is_live(self) -> bool {
        matches!(self, Self::Live(_))
    }
}

/// Which owners an event is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Audience {
    /// Those that depend on which names there are too.
    Names,
    /// Those alone that depend on the content.
    Content,
}

/// A folder that owners depend on.
pub(super) struct Folder {
    pub(super) path: Arc<Path>,
    pub(super) id: FileId,
    /// Whether placing a watch on it may hang, and would tell of this machine's changes alone.
    pub(super) remote: bool,
    pub(super) placement: Placement,
    /// Whether `notify` may know its path from an earlier watch.
    pub(super) known: bool,
    /// Whether it is in the queue.
    pub(super) queued: bool,
    /// Whether its watch was refused the last time.
    pub(super) was_refused: bool,
    /// The folder whose watch tells of this one too: the same one under another path.
    pub(super) carrier: Option<FolderId>,
    /// The folders whose carrier this one is.
    pub(super) aliases: Vec<FolderId>,
    all: Owners,
    entries: Owners,
    names: HashMap<Box<OsStr>, Owners>,
}

impl Folder {
    pub(super) fn new(dir: Dir<'_>) -> Self {
        Self {
            path: dir.path.into(),
            id: dir.id,
            remote: dir.remote,
            placement: Placement::Unplaced,
            known: false,
            queued: false,
            was_refused: false,
            carrier: None,
            aliases: Vec::new(),
            all: Owners::new(),
            entries: Owners::new(),
            names: HashMap::new(),
        }
    }

    /// Registers that `owner` depends on `need`.
    pub(super) fn add(&mut self, need: &Need, owner: OwnerId) {
        let owners = match need {
            Need::All => &mut self.all,
            Need::Names => &mut self.entries,
            Need::Name(name) => match self.names.get_mut(name) {
                Some(owners) => owners,
                None => self.names.entry(name.clone()).or_default(),
            },
        };
        if let Err(at) = owners.binary_search(&owner) {
            owners.insert(at, owner);
        }
    }

    /// `owner` no longer depends on `need`.
    pub(super) fn drop_need(&mut self, need: &Need, owner: OwnerId) {
        match need {
            Need::All => remove(&mut self.all, owner),
            Need::Names => remove(&mut self.entries, owner),
            Need::Name(name) => {
                if let Some(owners) = self.names.get_mut(name) {
                    remove(owners, owner);
                    if owners.is_empty() {
                        self.names.remove(name);
                    }
                }
            }
        }
    }

    /// Whether anyone depends on anything of it.
    pub(super) fn is_needed(&self) -> bool {
        !(self.all.is_empty() && self.entries.is_empty() && self.names.is_empty())
    }

    /// Whether its watch was refused, but may be had later.
    pub(super) fn is_refused_for_now(&self) -> bool {
        matches!(self.placement, Placement::Refused(_)) && !self.remote
    }

    /// Adds to `owners` those that an event on `name` is for.
    pub(super) fn by_name(&self, name: &OsStr, audience: Audience, owners: &mut Vec<OwnerId>) {
        owners.extend(&self.all);
        owners.extend(self.names.get(name).into_iter().flatten());
        if audience == Audience::Names {
            owners.extend(&self.entries);
        }
    }

    /// Adds to `owners` those that list it.
    pub(super) fn listers(&self, owners: &mut Vec<OwnerId>) {
        owners.extend(&self.all);
        owners.extend(&self.entries);
    }

    /// Adds to `owners` all that depend on anything of it.
    pub(super) fn everyone(&self, owners: &mut Vec<OwnerId>) {
        self.listers(owners);
        owners.extend(self.names.values().flatten());
    }
}

fn remove(owners: &mut Owners, owner: OwnerId) {
    if let Ok(at) = owners.binary_search(&owner) {
        owners.remove(at);
    }
}
