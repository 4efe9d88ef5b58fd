//! What `notify` tells → who is concerned, and how.

use std::hash::Hash;
use std::panic::resume_unwind;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Weak};
use std::time::Instant;

use notify::event::{AccessKind, AccessMode, CreateKind, Event, EventKind, ModifyKind, RenameMode};

use super::Inner;
use super::pending::Change;
use super::session::file_key;
use super::watched::{Audience, OwnerId};

/// Takes what one watcher tells, on that watcher's thread.
pub(super) struct Handler<K: Clone + Eq + Hash + Send + 'static> {
    pub(super) inner: Weak<Inner<K>>,
    /// The watcher's number: what an earlier one says is void.
    pub(super) generation: u64,
    /// Set when the watcher could be had.
    pub(super) started: Arc<AtomicBool>,
    /// Set when nobody holds the watcher any more.
    pub(super) released: Arc<AtomicBool>,
    pub(super) owners: Vec<OwnerId>,
}

impl<K: Clone + Eq + Hash + Send + 'static> notify::EventHandler for Handler<K> {
    fn handle_event(&mut self, event: notify::Result<Event>) {
        if self.released.load(Ordering::Acquire) {
            // The thread looks for its order to end only when no event is left, which under a
            // storm of them, or of errors, is never. Unwinding ends it without a word.
            resume_unwind(Box::new("the watcher is not needed any more"));
        }
        let Some(inner) = self.inner.upgrade() else {
            return;
        };
        match event {
            Ok(event) if event.need_rescan() => inner.lost(self.generation, Loss::Overflow),
            Ok(event) => {
                for path in &event.paths {
                    self.handle(&inner, Word::of(event.kind), path);
                }
            }
            Err(error) => inner.lost(self.generation, Loss::Error(&error)),
        }
    }
}

impl<K: Clone + Eq + Hash + Send + 'static> Drop for Handler<K> {
    fn drop(&mut self) {
        // It is dropped with its thread: nothing is told any more.
        if self.started.load(Ordering::Acquire)
            && let Some(inner) = self.inner.upgrade()
        {
            inner.lost(self.generation, Loss::Ended);
        }
    }
}

/// Why events were lost.
pub(super) enum Loss<'a> {
    /// The kernel's queue was full.
    Overflow,
    /// They can't be read.
    Error(&'a notify::Error),
    /// The thread that reads them has ended.
    Ended,
}

/// What an event says of its path.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Word {
    /// Nothing of interest, such as our own reads.
    Nothing,
    /// Its content changes.
    Written,
    /// It was closed after that.
    Finished,
    /// Its mode, owner or times changed.
    Touched,
    /// Something that is no folder is there now, which was not.
    Made,
    /// Something else is there now, or nothing.
    Replaced { arrived: bool },
}

impl Word {
    fn of(kind: EventKind) -> Self {
        match kind {
            EventKind::Access(AccessKind::Close(AccessMode::Write)) => Self::Finished,
            EventKind::Access(_) => Self::Nothing,
            EventKind::Create(CreateKind::Folder) => Self::Replaced { arrived: false },
            EventKind::Create(_) => Self::Made,
            EventKind::Modify(ModifyKind::Data(_)) => Self::Written,
            EventKind::Modify(ModifyKind::Metadata(_)) => Self::Touched,
            // Comes after a From and a To of the same rename.
            EventKind::Modify(ModifyKind::Name(RenameMode::Both)) => Self::Nothing,
            EventKind::Modify(ModifyKind::Name(RenameMode::To)) => Self::Replaced { arrived: true },
            // What is not known may be anything.
            EventKind::Modify(_) | EventKind::Remove(_) | EventKind::Any | EventKind::Other => {
                Self::Replaced { arrived: false }
            }
        }
    }
}

impl<K: Clone + Eq + Hash + Send + 'static> Handler<K> {
    fn handle(&mut self, inner: &Inner<K>, word: Word, path: &Path) {
        let (change, audience) = match word {
            Word::Nothing => return,
            Word::Written => (Change::Written, Audience::Content),
            Word::Finished => (Change::Finished, Audience::Content),
            Word::Touched => (Change::Touched, Audience::Content),
            Word::Replaced { .. } => (Change::Replaced, Audience::Names),
            Word::Made if !self.concerns_anyone(inner, path) => return,
            Word::Made if comes_whole(path) => (Change::Replaced, Audience::Names),
            Word::Made => (Change::Written, Audience::Content),
        };
        let now = Instant::now();
        let mut table = inner.lock();
        if table.placer.generation != self.generation {
            return;
        }
        self.owners.clear();
        table.index.concerned(path, audience, &mut self.owners);
        match word {
            Word::Touched if table.index.has_folder(path) => {
                // The mode of a folder matters to those who list it, or were not let in. All the
                // others would have to read again whenever somebody touches a root.
                self.owners.retain(|id| table.is_denied(*id));
                table.index.listers(path, &mut self.owners);
            }
            Word::Replaced { arrived } => {
                if arrived && !self.owners.is_empty() {
                    table.note_arrival(path, now);
                }
                // Whatever was watched at this path and below is elsewhere now. `notify` takes some
                // of those watches away by their path, even those that were placed since.
                table.index.kill_below(path, &mut self.owners);
            }
            _ => {}
        }
        self.owners.sort_unstable();
        self.owners.dedup();
        if table.note(&self.owners, change, file_key(path), now) {
            inner.wake.notify_one();
        }
    }

    fn concerns_anyone(&mut self, inner: &Inner<K>, path: &Path) -> bool {
        self.owners.clear();
        let table = inner.lock();
        table
            .index
            .concerned(path, Audience::Names, &mut self.owners);
        !self.owners.is_empty()
    }
}

/// Whether what was made at `path` has all its content: a link, or one more name of a file.
fn comes_whole(path: &Path) -> bool {
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
    fn our_own_reads_say_nothing() {
        for kind in [
            AccessKind::Open(AccessMode::Any),
            AccessKind::Close(AccessMode::Read),
        ] {
            assert_eq!(Word::of(EventKind::Access(kind)), Word::Nothing);
        }
    }

    #[test]
    fn an_empty_new_file_may_be_written_and_a_link_comes_whole() {
        let dir = tempfile::tempdir().unwrap();
        let [file, hard, soft] = ["file", "hard", "soft"].map(|name| dir.path().join(name));
        std::fs::write(&file, "").unwrap();
        assert!(!comes_whole(&file));
        std::os::unix::fs::symlink("nowhere", &soft).unwrap();
        assert!(comes_whole(&soft));
        std::fs::hard_link(&file, &hard).unwrap();
        assert!(comes_whole(&hard) && comes_whole(&dir.path().join("gone")));
    }
}
