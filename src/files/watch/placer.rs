//! The thread that places watches and takes them away: the only one that touches `notify`, whose
//! calls wait for its own thread without end and panic when that has died.

use std::hash::Hash;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use notify::{Config, ErrorKind, INotifyWatcher, RecursiveMode, Watcher};

use super::events::Handler;
use super::index::{FolderId, Placement};
use super::table::Table;
use super::{Inner, Polled};
use crate::files::read::FileId;

/// Refused watches are tried again this often: somebody may have raised the limit.
const RETRY: Duration = Duration::from_secs(30);

/// A path that is never watched. Taking its watch away is a question that `notify` answers when it
/// has told of every event before.
const FENCE: &str = "/dev/null/fence";

/// A watcher, and whether its handler may end its thread.
struct Notify {
    /// `None` once its thread is known to have died: then nothing of it can be called.
    watcher: Option<INotifyWatcher>,
    released: Arc<AtomicBool>,
}

/// What there is to do.
enum Job {
    Rebuild(u64),
    Fence(u64),
    Place {
        id: FolderId,
        path: Arc<Path>,
        file: FileId,
        known: bool,
        limited: bool,
        ticket: u64,
    },
    Remove(Arc<Path>),
    End,
}

/// Does what the table asks for, until the last handle is gone.
pub(super) fn run<K: Clone + Eq + Hash + Send + 'static>(inner: &Arc<Inner<K>>) {
    let mut notify: Option<Notify> = None;
    loop {
        match next_job(inner) {
            Job::Rebuild(generation) => {
                drop(notify.take());
                notify = rebuild(inner, generation);
            }
            Job::Fence(fence) => {
                if let Some(notify) = &mut notify {
                    notify.call(|watcher| watcher.unwatch(Path::new(FENCE)));
                }
                inner.lock().placer.fence_passed = fence;
                inner.placed.notify_all();
            }
            Job::Place {
                id,
                path,
                file,
                known,
                limited,
                ticket,
            } => {
                let placement = match &mut notify {
                    None => Placement::Refused(Polled::NoInotify),
                    Some(_) if limited => Placement::Refused(Polled::WatchLimit),
                    Some(notify) => notify.place(&path, file, known),
                };
                placed(inner, id, ticket, placement);
            }
            Job::Remove(path) => {
                if let Some(notify) = &mut notify {
                    notify.call(|watcher| watcher.unwatch(&path));
                }
            }
            Job::End => return,
        }
    }
}

fn next_job<K: Clone + Eq + Hash + Send + 'static>(inner: &Inner<K>) -> Job {
    let mut table = inner.lock();
    loop {
        let now = Instant::now();
        if table.placer.retry_at.is_some_and(|at| at <= now) {
            retry(&mut table, now);
        }
        if let Some(job) = table.next_job(now) {
            return job;
        }
        // Shared watches were decided on the way.
        inner.placed.notify_all();
        let times = [table.placer.retry_at, table.placer.rebuild_at];
        let until = times.into_iter().flatten().min();
        table = inner.wait_for_work(table, until.map(|at| at.saturating_duration_since(now)));
    }
}

/// Tries again what was refused.
fn retry<K: Clone + Eq + Hash>(table: &mut Table<K>, now: Instant) {
    table.placer.retry_at = None;
    table.placer.limited = false;
    if !table.placer.watching {
        table.placer.rebuild_at.get_or_insert(now);
    }
    let refused: Vec<FolderId> = table
        .index
        .folders()
        .filter(|(_, folder)| folder.is_refused_for_now())
        .map(|(id, _)| id)
        .collect();
    for id in refused {
        table.enqueue(id);
    }
}

impl<K: Clone + Eq + Hash> Table<K> {
    fn next_job(&mut self, now: Instant) -> Option<Job> {
        if self.closed {
            return Some(Job::End);
        }
        if let Some(at) = self.placer.rebuild_at {
            // Nothing is placed with a watcher that is to go.
            return (at <= now).then(|| {
                self.placer.rebuild_at = None;
                Job::Rebuild(self.placer.generation)
            });
        }
        if self.placer.fence_passed < self.placer.fence_wanted {
            return Some(Job::Fence(self.placer.fence_wanted));
        }
        while let Some(id) = self.queue.pop_front() {
            let Some(folder) = self.index.folder_mut(id) else {
                continue;
            };
            folder.queued = false;
            let (needed, live) = (folder.is_needed(), folder.placement == Placement::Live);
            let job = match (needed, live) {
                (true, true) => None,
                (true, false) => self.placing(id),
                (false, _) => self.removal(id, now),
            };
            if job.is_some() {
                return job;
            }
        }
        None
    }

    fn placing(&mut self, id: FolderId) -> Option<Job> {
        if self.index.share(id) {
            return None;
        }
        self.placer.tickets += 1;
        let ticket = self.placer.tickets;
        let limited = self.placer.limited;
        let folder = self.index.folder_mut(id)?;
        folder.placement = Placement::Placing(ticket);
        Some(Job::Place {
            id,
            path: Arc::clone(&folder.path),
            file: folder.id,
            known: std::mem::replace(&mut folder.known, true),
            limited,
            ticket,
        })
    }

    /// Forgets the folder `id`, which nobody depends on.
    fn removal(&mut self, id: FolderId, now: Instant) -> Option<Job> {
        // Those who had their word from its watch need one of their own.
        let mut owners = Vec::new();
        self.index.kill(id, &mut owners);
        self.mark(&owners, now);
        let folder = self.index.remove(id)?;
        folder.known.then_some(Job::Remove(folder.path))
    }
}

fn rebuild<K: Clone + Eq + Hash + Send + 'static>(
    inner: &Arc<Inner<K>>,
    generation: u64,
) -> Option<Notify> {
    let notify = Notify::start(inner, generation);
    let mut table = inner.lock();
    let before = std::mem::replace(&mut table.placer.watching, notify.is_ok());
    match notify {
        Ok(notify) => Some(notify),
        Err(error) => {
            if before || generation == 0 {
                tracing::warn!(%error, "nothing can be watched; raise fs.inotify.max_user_instances");
            }
            table.placer.retry_at = Some(Instant::now() + RETRY);
            None
        }
    }
}

/// Enters what came of placing the watch on folder `id`.
fn placed<K: Clone + Eq + Hash + Send + 'static>(
    inner: &Inner<K>,
    id: FolderId,
    ticket: u64,
    placement: Placement,
) {
    let now = Instant::now();
    let mut table = inner.lock();
    if let Placement::Refused(why) = placement {
        table.counters.refusals += 1;
        table.placer.limited |= why == Polled::WatchLimit;
        table.placer.retry_at.get_or_insert(now + RETRY);
    }
    let Some(folder) = table.index.folder_mut(id) else {
        return;
    };
    // An event may have told meanwhile that the path leads elsewhere now.
    if folder.placement == Placement::Placing(ticket) {
        folder.placement = placement;
        if matches!(placement, Placement::Refused(_)) {
            folder.was_refused = true;
        } else if placement == Placement::Live {
            let mut owners = Vec::new();
            // What happened until now was not told.
            if std::mem::take(&mut folder.was_refused) {
                folder.everyone(&mut owners);
            }
            table.index.set_live(id);
            if table.mark(&owners, now) {
                inner.wake.notify_one();
            }
        }
    }
    drop(table);
    inner.placed.notify_all();
}

impl Notify {
    fn start<K: Clone + Eq + Hash + Send + 'static>(
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
        let mut notify = Self {
            watcher: Some(watcher),
            released,
        };
        started.store(true, Ordering::Release);
        // It does not say when it has no thread.
        match notify.call(|watcher| watcher.unwatch(Path::new(FENCE))) {
            Some(_) => Ok(notify),
            None => Err(notify::Error::generic("its thread can't be had")),
        }
    }

    /// Watches the folder at `path`, if that is `file`.
    fn place(&mut self, path: &Path, file: FileId, known: bool) -> Placement {
        if known {
            // It may still have a watch on another folder that had this path.
            self.call(|watcher| watcher.unwatch(path));
        }
        match self.call(|watcher| watcher.watch(path, RecursiveMode::NonRecursive)) {
            // The path may have led elsewhere by then.
            Some(Ok(())) => match rustix::fs::stat(path) {
                Ok(stat) if FileId::of(&stat) == file => Placement::Live,
                _ => Placement::Unplaced,
            },
            Some(Err(error)) => why_refused(path, &error),
            None => Placement::Unplaced,
        }
    }

    /// Calls a method of the watcher, which panics when its thread has died.
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
                // Its `drop` would panic too.
                std::mem::forget(watcher);
                None
            }
        }
    }
}

impl Drop for Notify {
    fn drop(&mut self) {
        if let Some(watcher) = self.watcher.take() {
            // Sends the order to end, which panics when the thread has just died.
            let _ = catch_unwind(AssertUnwindSafe(|| drop(watcher)));
        }
        self.released.store(true, Ordering::Release);
    }
}

fn why_refused(path: &Path, error: &notify::Error) -> Placement {
    let why = match &error.kind {
        ErrorKind::PathNotFound => return Placement::Unplaced,
        ErrorKind::Io(error) if is_gone(error.kind()) => return Placement::Unplaced,
        ErrorKind::MaxFilesWatch => Polled::WatchLimit,
        _ => Polled::Refused,
    };
    tracing::debug!(path = %path.display().to_string().escape_debug(), %error, "not watched");
    Placement::Refused(why)
}

fn is_gone(kind: std::io::ErrorKind) -> bool {
    use std::io::ErrorKind::{NotADirectory, NotFound};
    matches!(kind, NotFound | NotADirectory)
}
