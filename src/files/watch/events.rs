//! What the kernel reports → who is concerned, and how.

use std::ffi::OsStr;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::time::Instant;

use rustix::fs::inotify::{Event, ReadFlags};

use super::folders::{FolderId, OwnerId, What};
use super::kernel::Scope;
use super::pending::{Change, FileKey};
use super::table::Table;
use crate::files::read::FileId;

impl<K: Clone + Eq + Hash> Table<K> {
    /// Takes in everything that the kernel has reported up to now. False when more may be waiting.
    pub(super) fn drain(&mut self) -> bool {
        let Some(queue) = self.inotify.as_ref().map(|inotify| inotify.queue()) else {
            return true;
        };
        let now = Instant::now();
        match queue.drain(|event| self.handle(event, now)) {
            Ok(all) => all,
            Err(error) => {
                let error = std::io::Error::from(error);
                tracing::warn!(%error, "file events can't be read; everything is read again");
                self.rebuild(now);
                true
            }
        }
    }

    fn handle(&mut self, event: &Event<'_>, now: Instant) {
        let flags = event.events();
        if flags.contains(ReadFlags::QUEUE_OVERFLOW) {
            self.counters.overflows += 1;
            tracing::warn!(
                "the kernel's queue of file events overflowed, and everything is read again; \
                 raise fs.inotify.max_queued_events (sysctl) if this happens often"
            );
            return self.rebuild(now);
        }
        // Events of a watch that was removed may still be on the way.
        let Some(id) = self.folders.watched_by(event.wd()) else {
            return;
        };
        if flags.contains(ReadFlags::IGNORED) {
            self.folders.watch_removed(id);
        }
        match event.file_name() {
            Some(name) => self.entry_changed(id, OsStr::from_bytes(name.to_bytes()), flags, now),
            None => self.folder_changed(id, flags, now),
        }
    }

    /// Something happened to the folder itself.
    fn folder_changed(&mut self, id: FolderId, flags: ReadFlags, now: Instant) {
        let mut owners = Vec::new();
        self.folders.everyone(id, &mut owners);
        if flags.contains(ReadFlags::ATTRIB) {
            // Its mode matters to those who list it, or were not let in. All the others would have
            // to read again whenever somebody touches a root.
            owners.retain(|id| self.is_denied(*id));
            self.folders.who_needs(id, What::ALL, &mut owners);
            self.folders.who_needs(id, What::NAMES, &mut owners);
        }
        self.note(owners, Change::Touched, 0, now);
    }

    /// Something happened to `name` in the folder.
    fn entry_changed(&mut self, id: FolderId, name: &OsStr, flags: ReadFlags, now: Instant) {
        let of_folder = flags.contains(ReadFlags::ISDIR);
        let content = ReadFlags::MODIFY | ReadFlags::CLOSE_WRITE | ReadFlags::ATTRIB;
        let mut owners = self.concerned(id, name, !flags.intersects(content));
        if of_folder && flags.contains(ReadFlags::ATTRIB) {
            owners.retain(|id| self.is_denied(*id));
        }
        let Some(folder) = self.folders.get(id).filter(|_| !owners.is_empty()) else {
            return;
        };
        let (file, path) = (file_key(folder.file, name), folder.path.join(name));
        let change = if flags.contains(ReadFlags::MODIFY) {
            Change::Written
        } else if flags.contains(ReadFlags::CLOSE_WRITE) {
            Change::Finished
        } else if flags.contains(ReadFlags::ATTRIB) {
            Change::Touched
        } else if flags.contains(ReadFlags::CREATE)
            && !of_folder
            // Otherwise nothing would report that it is complete.
            && folder.scope == Scope::Content
            && !is_complete(&path)
        {
            Change::Written
        } else {
            Change::Replaced
        };
        if flags.contains(ReadFlags::MOVED_TO) {
            self.note_arrival(path, now);
        }
        self.note(owners, change, file, now);
    }

    /// The owners that a change of `name` in the folder is for: `names` when it is one of the names
    /// themselves.
    fn concerned(&self, id: FolderId, name: &OsStr, names: bool) -> Vec<OwnerId> {
        let mut owners = Vec::new();
        self.folders.who_needs(id, What::name(name), &mut owners);
        if !name.as_bytes().starts_with(b"..") {
            self.folders.who_needs(id, What::ALL, &mut owners);
        }
        if names {
            self.folders.who_needs(id, What::NAMES, &mut owners);
        }
        owners
    }

    /// Notes a change of a file for those concerned.
    fn note(&mut self, mut owners: Vec<OwnerId>, change: Change, file: FileKey, now: Instant) {
        owners.sort_unstable();
        owners.dedup();
        for id in owners {
            self.update(id, |pending| pending.note(change, file, now));
        }
    }
}

/// Tells the file `name` in `folder` apart from others.
pub(super) fn file_key(folder: FileId, name: &OsStr) -> FileKey {
    let mut hasher = DefaultHasher::new();
    (folder, name).hash(&mut hasher);
    hasher.finish()
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
