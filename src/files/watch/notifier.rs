//! `notify`'s watcher, whose calls wait for its own thread without end and panic when that has died.

use std::hash::Hash;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use notify::{Config, ErrorKind, INotifyWatcher, RecursiveMode, Watcher};

use super::events::Handler;
use super::{Inner, Polled};
use crate::files::arm::FileId;

/// A path that is never watched. Taking its watch away is a question that is answered once every
/// event before it has been told.
const FENCE: &str = "/dev/null/fence";

/// A watcher.
pub(super) struct Notifier {
    /// `None` once its thread is known to have died: then nothing of it can be called.
    watcher: Option<INotifyWatcher>,
    /// Tells its handler that it may end the thread.
    released: Arc<AtomicBool>,
}

/// What came of placing a watch.
pub(super) enum Placed {
    Watched,
    /// Another folder has that path now, or none.
    Raced,
    Refused(Polled),
}

impl Notifier {
    pub(super) fn start<K: Clone + Eq + Hash + Send + 'static>(
        inner: &Arc<Inner<K>>,
        generation: u64,
    ) -> notify::Result<Self> {
        let started = Arc::new(AtomicBool::new(false));
        let released = Arc::new(AtomicBool::new(false));
        let handler = Handler {
            inner: Arc::downgrade(inner),
            generation,
            started: Arc::clone(&started),
            released: Arc::clone(&released),
            owners: Vec::new(),
        };
        let watcher = INotifyWatcher::new(handler, Config::default())?;
        let mut notifier = Self {
            watcher: Some(watcher),
            released,
        };
        started.store(true, Ordering::Release);
        // It does not say when it could not have a thread.
        if notifier.fence() {
            Ok(notifier)
        } else {
            Err(notify::Error::generic("its thread can't be had"))
        }
    }

    /// Waits until every event so far has been told. False when the thread has died.
    pub(super) fn fence(&mut self) -> bool {
        self.call(|watcher| watcher.unwatch(Path::new(FENCE)))
            .is_some()
    }

    /// Watches the folder at `path`, if that is `file`. It is `known` when it was watched before.
    pub(super) fn place(&mut self, path: &Path, file: FileId, known: bool) -> Placed {
        if known {
            // There may still be a watch on another folder that had this path.
            self.remove(path);
        }
        match self.call(|watcher| watcher.watch(path, RecursiveMode::NonRecursive)) {
            // The path may have led elsewhere by then.
            Some(Ok(())) => match rustix::fs::stat(path) {
                Ok(stat) if FileId::of(&stat) == file => Placed::Watched,
                _ => Placed::Raced,
            },
            Some(Err(error)) => why_refused(path, &error),
            None => Placed::Raced,
        }
    }

    /// Watches the folder at `path` no longer.
    pub(super) fn remove(&mut self, path: &Path) {
        // An error says that it was not watched.
        let _ = self.call(|watcher| watcher.unwatch(path));
    }

    fn call(
        &mut self,
        method: impl FnOnce(&mut INotifyWatcher) -> notify::Result<()>,
    ) -> Option<notify::Result<()>> {
        let mut watcher = self.watcher.take()?;
        match catch_unwind(AssertUnwindSafe(|| method(&mut watcher))) {
            Ok(result) => {
                self.watcher = Some(watcher);
                Some(result)
            }
            Err(_) => {
                end(watcher);
                None
            }
        }
    }
}

impl Drop for Notifier {
    fn drop(&mut self) {
        if let Some(watcher) = self.watcher.take() {
            end(watcher);
        }
        self.released.store(true, Ordering::Release);
    }
}

/// Sends the order to end, which panics when the thread has died already.
fn end(watcher: INotifyWatcher) {
    let _ = catch_unwind(AssertUnwindSafe(|| drop(watcher)));
}

fn why_refused(path: &Path, error: &notify::Error) -> Placed {
    let why = match &error.kind {
        ErrorKind::PathNotFound => return Placed::Raced,
        ErrorKind::Io(error) if is_gone(error.kind()) => return Placed::Raced,
        ErrorKind::MaxFilesWatch => Polled::WatchLimit,
        _ => Polled::Refused,
    };
    let path = path.display().to_string();
    tracing::debug!(path = %path.escape_debug(), %error, "a folder can't be watched");
    Placed::Refused(why)
}

fn is_gone(kind: std::io::ErrorKind) -> bool {
    use std::io::ErrorKind::{NotADirectory, NotFound};
    matches!(kind, NotFound | NotADirectory)
}
