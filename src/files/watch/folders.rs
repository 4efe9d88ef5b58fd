//! The watched folders, and what of each an owner depends on.

use std::collections::{BTreeSet, HashMap};
use std::ffi::OsStr;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::sync::Arc;
use std::time::Instant;

use super::kernel::{Inotify, Placed, Scope, WatchId};
use super::polled::Polled;
use crate::files::read::{Dir, Interest};

/// An owner, by its number. There may be a dozen of these for each credential.
pub(super) type OwnerId = u32;

/// What an owner depends on in a watched folder.
pub(super) type Need = (WatchId, What);

/// What of a folder an owner depends on. Names are distinguished by a hash: two with the same one cost
/// a read too many.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) struct What(u32);

impl What {
    /// Everything in it but [hidden](is_hidden) names.
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

/// Whether this is one of the names that whoever depends on all of a folder does not depend on.
pub(super) fn is_hidden(name: &OsStr) -> bool {
    name.as_bytes().starts_with(b"..")
}

/// A watched folder.
pub(super) struct Folder {
    /// Where it was last found.
    pub(super) path: Box<Path>,
    pub(super) scope: Scope,
    /// All that its scope asks for has been reported since then.
    pub(super) since: Instant,
}

/// The watched folders.
#[derive(Default)]
pub(super) struct Folders {
    /// The instance that all watches are of: another one would count them from 1 again.
    pub(super) inotify: Option<Arc<Inotify>>,
    pub(super) watched: HashMap<WatchId, Folder>,
    /// Who depends on what: a folder's entries stand together. Those of a folder whose watch the kernel has
    /// removed are here until the owner is read again.
    needs: BTreeSet<(WatchId, What, OwnerId)>,
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

    /// Records the watch that was placed on the folder `dir` for at least what `scope` asks for.
    pub(super) fn watch(
        &mut self,
        dir: &Dir<'_>,
        scope: Scope,
        placed: Option<Placed>,
    ) -> Result<WatchId, Polled> {
        if dir.remote {
            return Err(Polled::RemoteFileSystem);
        }
        let placed = match (&self.inotify, placed) {
            (Some(inotify), Some(placed)) => inotify.confirm(placed, dir.fd, scope),
            _ => Err(Polled::NoInotify),
        };
        let watch = placed.inspect_err(|_| self.refusals += 1)?;
        // What happened before the watch was placed is not reported.
        let since = Instant::now();
        let folder = self.watched.entry(watch).or_insert_with(|| Folder {
            path: dir.path.into(),
            scope,
            since,
        });
        if folder.scope < scope {
            (folder.scope, folder.since) = (scope, since);
        }
        if *folder.path != *dir.path {
            folder.path = dir.path.into();
        }
        Ok(watch)
    }

    /// Whether what happened at `when` in the folder has been reported.
    pub(super) fn has_reported(&self, watch: WatchId, when: Instant) -> bool {
        let folder = self.watched.get(&watch);
        folder.is_some_and(|folder| folder.since < when)
    }

    /// What was reported up to `now` can't be relied on.
    pub(super) fn distrust(&mut self, now: Instant) {
        for folder in self.watched.values_mut() {
            folder.since = now;
        }
    }

    /// Registers that `owner` depends on `what` of a folder.
    pub(super) fn add_need(&mut self, (watch, what): Need, owner: OwnerId) {
        self.needs.insert((watch, what, owner));
    }

    /// `owner` no longer depends on these. A folder that nobody depends on any more is no longer watched.
    pub(super) fn drop_needs(&mut self, needs: impl IntoIterator<Item = Need>, owner: OwnerId) {
        for (watch, what) in needs {
            self.needs.remove(&(watch, what, owner));
            if self.needs_of(watch).next().is_none()
                && self.watched.remove(&watch).is_some()
                && let Some(inotify) = &self.inotify
            {
                inotify.remove(watch);
            }
        }
    }

    /// Who depends on `what` of the folder.
    pub(super) fn who_needs(
        &self,
        watch: WatchId,
        what: What,
    ) -> impl Iterator<Item = OwnerId> + use<'_> {
        let needs = self
            .needs
            .range((watch, what, 0)..=(watch, what, OwnerId::MAX));
        needs.map(|(.., owner)| *owner)
    }

    /// What is needed of the folder, and by whom.
    pub(super) fn needs_of(
        &self,
        watch: WatchId,
    ) -> impl Iterator<Item = (What, OwnerId)> + use<'_> {
        let needs = self.needs.range((watch, What::ALL, 0)..);
        let needs = needs.take_while(move |(other, ..)| *other == watch);
        needs.map(|(_, what, owner)| (*what, *owner))
    }
}
