//! Events of the kernel → the owners that they concern, and what happened to their files.

use std::collections::BTreeSet;
use std::ffi::{CStr, OsStr};
use std::future::pending as never;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::time::{Duration, Instant};

use rustix::fs::inotify::{Event, ReadFlags};

use super::folders::{Folder, Place, What, is_hidden};
use super::kernel::{Scope, WatchId};
use super::owners::OwnerId;
use super::pending::Change;
use super::table::Table;
use super::{Key, Watch};

/// How often events are taken if the task can't wait for them.
const UNREADY: Duration = Duration::from_secs(1);

/// How many paths of files that recently arrived complete are remembered: enough for all that one read of a root
/// may find. A file that is forgotten is read a moment later.
const MAX_COMPLETED: usize = 1024;

impl<K: Key> Watch<K> {
    /// Waits until the kernel has events, and takes them.
    pub(super) async fn take_events(&self) {
        let inotify = self.lock().folders.inotify.clone();
        let Some(inotify) = inotify else {
            return never().await;
        };
        let Ok(readiness) = inotify.readiness() else {
            // Such as at the limit on what can be waited for (fs.epoll.max_user_watches).
            tokio::time::sleep(UNREADY).await;
            self.lock().drain();
            return;
        };
        // Fails only when the runtime is shutting down.
        let Ok(mut guard) = readiness.readable().await else {
            return never().await;
        };
        if self.lock().drain() {
            guard.clear_ready();
        }
    }
}

impl<K: Key> Table<K> {
    /// Handles all events up to now. False if there may be more.
    pub(super) fn drain(&mut self) -> bool {
        let Some(inotify) = self.folders.inotify.clone() else {
            return true;
        };
        let now = Instant::now();
        inotify
            .drain(|event| self.handle(event, now))
            .unwrap_or_else(|error| {
                let error = std::io::Error::from(error);
                tracing::warn!(%error, "file events can't be read; everything is read again");
                self.rebuild();
                true
            })
    }

    fn handle(&mut self, event: &Event<'_>, now: Instant) {
        let (watch, flags) = (event.wd(), event.events());
        if flags.contains(ReadFlags::QUEUE_OVERFLOW) {
            self.overflows += 1;
            tracing::warn!(
                "the kernel's queue of file events overflowed, and everything is read again; \
                 raise fs.inotify.max_queued_events (sysctl) if this happens often"
            );
            return self.rebuild();
        }
        // Events of a removed watch may still be in the queue.
        let Some(folder) = self.folders.watched.get(&watch).copied() else {
            return;
        };
        match event.file_name().map(CStr::to_bytes) {
            Some(name) => self.entry_changed(event, folder, OsStr::from_bytes(name), now),
            None => self.folder_changed(event, now),
        }
        if flags.contains(ReadFlags::IGNORED) {
            self.folders.watched.remove(&watch);
        }
    }

    /// Something happened to the folder itself.
    fn folder_changed(&mut self, event: &Event<'_>, now: Instant) {
        // Its mode only matters to owners that list it, or were denied access. The others would have to read again
        // whenever somebody touches a root.
        let is_mode = event.events().contains(ReadFlags::ATTRIB);
        let needs = self.needs_of(event.wd(), What::ANY).filter(|(what, id)| {
            !is_mode || [What::ALL, What::NAMES].contains(what) || self.is_denied(*id)
        });
        let owners: BTreeSet<OwnerId> = needs.map(|(_, id)| id).collect();
        self.mark(owners, now);
    }

    /// Something happened to `name` in the folder.
    fn entry_changed(&mut self, event: &Event<'_>, folder: Folder, name: &OsStr, now: Instant) {
        let flags = event.events();
        let is_folder = flags.contains(ReadFlags::ISDIR);
        let content = ReadFlags::MODIFY | ReadFlags::CLOSE_WRITE | ReadFlags::ATTRIB;
        let mut owners = self.concerned(event.wd(), name, !flags.intersects(content));
        if is_folder && flags.contains(ReadFlags::ATTRIB) {
            owners.retain(|id| self.is_denied(*id));
        }
        // In other folders, no event would report that it is complete.
        let is_new_file =
            flags.contains(ReadFlags::CREATE) && !is_folder && folder.scope == Scope::Content;
        let change = if flags.contains(ReadFlags::MODIFY) {
            Change::Written
        } else if flags.contains(ReadFlags::CLOSE_WRITE) {
            Change::Finished
        } else if flags.contains(ReadFlags::ATTRIB) {
            Change::Touched
        } else if is_new_file && !self.is_complete(folder.place, name, &owners) {
            Change::Written
        } else {
            Change::Replaced
        };
        let place = folder.place.join(name);
        let completes = change == Change::Finished
            || change == Change::Replaced && (is_new_file || flags.contains(ReadFlags::MOVED_TO));
        if completes {
            if self.completed.len() == MAX_COMPLETED {
                self.completed.clear();
            }
            self.completed.insert(place, Instant::now());
        } else if change != Change::Touched {
            self.completed.remove(&place);
        }
        for id in owners {
            self.update(id, |pending| pending.note(change, place.0, now));
        }
    }

    /// The owners that a change of `name` in the folder is for: `names` when it is one of the names
    /// themselves.
    fn concerned(&self, watch: WatchId, name: &OsStr, names: bool) -> BTreeSet<OwnerId> {
        let all = (!is_hidden(name)).then_some(What::ALL);
        let names = names.then_some(What::NAMES);
        let whats = [Some(What::name(name)), all, names].into_iter().flatten();
        let needs = whats.flat_map(|what| self.needs_of(watch, what..=what));
        needs.map(|(_, id)| id).collect()
    }

    /// Whether a missing permission hid something that the owner depends on.
    fn is_denied(&self, id: OwnerId) -> bool {
        let owner = self.owners.get(id);
        owner.is_some_and(|owner| owner.stamps.denied())
    }

    /// Whether what was just made in a folder that these owners depend on has all its content. False when none
    /// of them has been read yet, for then the path of the folder is unknown.
    fn is_complete(&self, folder: Place, name: &OsStr, owners: &BTreeSet<OwnerId>) -> bool {
        let owners = owners.iter().filter_map(|id| self.owners.get(*id));
        let mut paths = owners.flat_map(|owner| owner.stamps.paths(&owner.key.folder()));
        // Each one is that of the folder, or of something that was looked up in it.
        let made = paths.find_map(|path| {
            let mut folders = path.ancestors().take(2);
            Some(folders.find(|path| Place::of(path) == folder)?.join(name))
        });
        made.is_some_and(|path| is_complete(&path))
    }

    /// Whether the file at `path`, which changed recently, at `when`, is known to be complete: it, or a folder of its
    /// path, became complete after that.
    pub(super) fn is_known_complete(&mut self, path: &Path, when: Instant) -> bool {
        self.drain();
        let completed = |place| self.completed.get(&place).is_some_and(|at| *at >= when);
        Place::all_on(path).any(completed)
    }
}

/// Whether what was just made at `path` has all its content: a link, or one more name of a file.
fn is_complete(path: &Path) -> bool {
    use std::os::unix::fs::MetadataExt;
    match path.symlink_metadata() {
        Ok(made) => !made.is_file() || made.nlink() > 1,
        // It is gone again: there is nothing to wait for.
        Err(_) => true,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_new_empty_file_may_be_written_and_a_new_link_is_complete() {
        let dir = tempfile::tempdir().unwrap();
        let [file, hard, soft] = ["file", "hard", "soft"].map(|name| dir.path().join(name));
        std::fs::write(&file, "").unwrap();
        assert!(!is_complete(&file));
        std::os::unix::fs::symlink("nowhere", &soft).unwrap();
        assert!(is_complete(&soft));
        std::fs::hard_link(&file, &hard).unwrap();
        assert!(is_complete(&hard) && is_complete(&dir.path().join("gone")));
    }
}
