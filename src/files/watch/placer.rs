//! The thread that places watches and takes them away: the only one that touches `notify`, so that
//! no reader waits for that without end.

use std::hash::Hash;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::notifier::{Notifier, Placed};
use super::table::Table;
use super::watched::{FolderId, Placement};
use super::{Inner, Polled};
use crate::files::read::FileId;

/// Refused watches are tried again this often: somebody may have raised the limit.
const RETRY: Duration = Duration::from_secs(30);

/// What the thread that places watches is told, and tells.
#[derive(Default)]
pub(super) struct PlacerState {
    /// Counts the watchers; what comes from an earlier one is void.
    pub(super) generation: u64,
    /// When a new watcher is to take over, if one is.
    pub(super) rebuild_at: Option<Instant>,
    /// Whether there is a watcher.
    pub(super) watching: bool,
    /// Whether there is no thread at all.
    pub(super) missing: bool,
    /// Fences asked for, and passed.
    pub(super) fence_wanted: u64,
    pub(super) fence_passed: u64,
    /// When refused watches are tried again.
    pub(super) retry_at: Option<Instant>,
    /// Whether the limit on watches is reached; no other is tried until then.
    pub(super) limited: bool,
    pub(super) tickets: u64,
}

impl PlacerState {
    pub(super) fn new() -> Self {
        Self {
            rebuild_at: Some(Instant::now()),
            ..Self::default()
        }
    }
}

/// What there is to do.
enum Job {
    /// A watcher of this generation takes over.
    Rebuild(u64),
    /// Every event so far is to be told first.
    Fence(u64),
    Place(Place),
    Remove(Arc<Path>),
    End,
}

/// A watch to place.
struct Place {
    id: FolderId,
    path: Arc<Path>,
    file: FileId,
    /// Whether its path was watched before.
    known: bool,
    /// Whether the limit on watches is known to be reached.
    limited: bool,
    ticket: u64,
}

/// Does what the table asks for, until the last handle is gone.
pub(super) fn run<K: Clone + Eq + Hash + Send + 'static>(inner: &Arc<Inner<K>>) {
    let mut notifier: Option<Notifier> = None;
    loop {
        match next_job(inner) {
            Job::Rebuild(generation) => {
                drop(notifier.take());
                notifier = rebuild(inner, generation);
            }
            Job::Fence(fence) => {
                if let Some(notifier) = &mut notifier {
                    notifier.fence();
                }
                inner.lock().placer.fence_passed = fence;
                inner.placed.notify_all();
            }
            Job::Place(place) => {
                let placed = match &mut notifier {
                    None => Placed::Refused(Polled::NoInotify),
                    Some(_) if place.limited => Placed::Refused(Polled::WatchLimit),
                    Some(notifier) => notifier.place(&place.path, place.file, place.known),
                };
                let wake = inner.lock().placed(&place, placed, Instant::now());
                inner.placed.notify_all();
                if wake {
                    inner.wake.notify_one();
                }
            }
            Job::Remove(path) => {
                if let Some(notifier) = &mut notifier {
                    notifier.remove(&path);
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
            table.retry(now);
        }
        if let Some(job) = table.next_job(now) {
            return job;
        }
        // Watches that are shared were decided on the way.
        inner.placed.notify_all();
        let times = [table.placer.retry_at, table.placer.rebuild_at];
        let until = times.into_iter().flatten().min();
        table = inner.wait_for_work(table, until.map(|at| at.saturating_duration_since(now)));
    }
}

fn rebuild<K: Clone + Eq + Hash + Send + 'static>(
    inner: &Arc<Inner<K>>,
    generation: u64,
) -> Option<Notifier> {
    let notifier = Notifier::start(inner, generation);
    let mut table = inner.lock();
    let before = std::mem::replace(&mut table.placer.watching, notifier.is_ok());
    match notifier {
        Ok(notifier) => Some(notifier),
        Err(error) => {
            if before || generation == 0 {
                let remedy = Polled::NoInotify.remedy();
                tracing::warn!(%error, "nothing can be watched, and all is polled: {remedy}");
            }
            table.placer.retry_at = Some(Instant::now() + RETRY);
            None
        }
    }
}

impl<K: Clone + Eq + Hash> Table<K> {
    /// Tries again what was refused.
    fn retry(&mut self, now: Instant) {
        self.placer.retry_at = None;
        self.placer.limited = false;
        if !self.placer.watching {
            self.placer.rebuild_at.get_or_insert(now);
        }
        let refused = self.index.folders();
        let refused = refused.filter(|(_, folder)| folder.is_refused_for_now());
        let refused: Vec<FolderId> = refused.map(|(id, _)| id).collect();
        for id in refused {
            self.enqueue(id);
        }
    }

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
            let job = match (folder.is_needed(), folder.placement.is_live()) {
                (true, true) => None,
                (true, false) => self.placing(id, now),
                (false, _) => self.removal(id, now),
            };
            if job.is_some() {
                return job;
            }
        }
        None
    }

    fn placing(&mut self, id: FolderId, now: Instant) -> Option<Job> {
        if self.index.share(id, now) {
            return None;
        }
        self.placer.tickets += 1;
        let ticket = self.placer.tickets;
        let limited = self.placer.limited;
        let folder = self.index.folder_mut(id)?;
        if folder.remote {
            folder.placement = Placement::Refused(Polled::RemoteFileSystem);
            return None;
        }
        folder.placement = Placement::Placing(ticket);
        Some(Job::Place(Place {
            id,
            path: Arc::clone(&folder.path),
            file: folder.id,
            known: std::mem::replace(&mut folder.known, true),
            limited,
            ticket,
        }))
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

    /// Enters what came of placing a watch. Tells whether an owner is due sooner than before.
    fn placed(&mut self, place: &Place, placed: Placed, now: Instant) -> bool {
        if let Placed::Refused(why) = placed {
            self.counters.refusals += 1;
            self.placer.limited |= why == Polled::WatchLimit;
            self.placer.retry_at.get_or_insert(now + RETRY);
        }
        let Some(folder) = self.index.folder_mut(place.id) else {
            return false;
        };
        // An event may have told meanwhile that the path leads elsewhere.
        if folder.placement != Placement::Placing(place.ticket) {
            return false;
        }
        match placed {
            Placed::Raced => folder.placement = Placement::Unplaced,
            Placed::Refused(why) => {
                folder.placement = Placement::Refused(why);
                folder.was_refused = true;
            }
            Placed::Watched => {
                let mut owners = Vec::new();
                // What happened until now was not told.
                if std::mem::take(&mut folder.was_refused) {
                    folder.everyone(&mut owners);
                }
                self.index.set_live(place.id, now);
                return self.mark(&owners, now);
            }
        }
        false
    }
}
