//! The kernel's side of the watch: inotify, asked for exactly what matters.

use std::borrow::Cow;
use std::mem::MaybeUninit;
use std::os::fd::{AsRawFd, BorrowedFd, OwnedFd};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};

use nix::sched::{CloneFlags, unshare};
use rustix::fs::inotify::{self, CreateFlags, Event, ReadFlags, Reader, WatchFlags};
use rustix::io::Errno;
use rustix::process::{chdir, fchdir};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

use super::polling::Polled;

/// A watch, by the number that the kernel gave it. The kernel has one watch for each folder, so this
/// is the folder's identity too: unlike inode numbers, these are not reused (before 2^31 others).
pub(super) type WatchId = i32;

/// Bytes of events taken at a time.
const BUFFER: usize = 16 * 1024;

/// Events taken in one go: more than the queue holds unless its limit was raised a lot. Whoever
/// writes faster than they are taken must not keep the lock for ever.
const MAX_EVENTS: usize = 1 << 17;

thread_local! {
    /// Whether this thread has a working directory of its own. By default all threads share one, and some
    /// containers forbid to change that.
    static OWN_DIRECTORY: bool = unshare(CloneFlags::CLONE_FS).is_ok();
}

/// How much of what happens in a folder is reported.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Scope {
    /// Which names there are, and their permissions.
    Names,
    /// That the content of files changes, too.
    Content,
}

impl Scope {
    /// Never opens and reads: anybody causes those, at any rate.
    fn flags(self) -> WatchFlags {
        let names = WatchFlags::CREATE
            | WatchFlags::DELETE
            | WatchFlags::MOVE
            | WatchFlags::ATTRIB
            | WatchFlags::DELETE_SELF
            | WatchFlags::MOVE_SELF
            | WatchFlags::ONLYDIR
            | WatchFlags::EXCL_UNLINK
            // Other owners may depend on more of the folder.
            | WatchFlags::MASK_ADD;
        match self {
            Self::Names => names,
            Self::Content => names | WatchFlags::MODIFY | WatchFlags::CLOSE_WRITE,
        }
    }
}

/// An inotify instance.
pub(super) struct Inotify {
    pub(super) fd: Arc<OwnedFd>,
    readiness: OnceLock<AsyncFd<Arc<OwnedFd>>>,
    /// Watches that are gone: the events that say so, as far as they were taken.
    gone: AtomicU64,
}

impl Inotify {
    pub(super) fn open() -> Result<Self, Errno> {
        inotify::init(CreateFlags::NONBLOCK | CreateFlags::CLOEXEC).map(Self::of)
    }

    pub(super) fn of(fd: OwnedFd) -> Self {
        Self {
            fd: Arc::new(fd),
            readiness: OnceLock::new(),
            gone: AtomicU64::new(0),
        }
    }

    /// Places a watch on the open folder `dir`, or widens the one that it has, and locks the table, which is to
    /// record it. Placing takes longer than all that is done under that lock, and needs none.
    pub(super) fn place<T>(
        &self,
        dir: BorrowedFd<'_>,
        scope: Scope,
        lock: impl FnOnce() -> T,
    ) -> (T, Result<WatchId, Polled>) {
        let gone = self.gone.load(Ordering::SeqCst);
        let mut watch = self.add(dir, scope);
        let locked = lock();
        // Events are taken under the lock. If a watch has gone meanwhile, it may have been this one.
        if gone != self.gone.load(Ordering::SeqCst) {
            watch = self.add(dir, scope);
        }
        (locked, watch)
    }

    fn add(&self, dir: BorrowedFd<'_>, scope: Scope) -> Result<WatchId, Polled> {
        // inotify takes a path. `.` is the shortest one: the walk through /proc takes longer than all the rest.
        let is_here = OWN_DIRECTORY.with(|own| *own) && fchdir(dir).is_ok();
        let path = match is_here {
            true => Cow::from("."),
            false => Cow::from(format!("/proc/self/fd/{}", dir.as_raw_fd())),
        };
        let added = inotify::add_watch(&self.fd, &*path, scope.flags());
        if is_here {
            // A working directory keeps its file system from being unmounted.
            let _ = chdir("/");
        }
        added.map_err(|error| match error {
            Errno::NOSPC => Polled::WatchLimit,
            error => {
                tracing::debug!(error = %std::io::Error::from(error), "a folder can't be watched");
                Polled::Refused
            }
        })
    }

    pub(super) fn remove(&self, watch: WatchId) {
        // Fails when the folder has been deleted, and the watch with it.
        let _ = inotify::remove_watch(&self.fd, watch);
    }

    /// What tells a task that there are events. Must be called in a Tokio runtime.
    #[expect(
        deprecated,
        reason = "an `OwnedFd` meets all that its unsafe successor asks for"
    )]
    pub(super) fn readiness(&self) -> std::io::Result<&AsyncFd<Arc<OwnedFd>>> {
        if let Some(readiness) = self.readiness.get() {
            return Ok(readiness);
        }
        let readiness = AsyncFd::with_interest(Arc::clone(&self.fd), Interest::READABLE)?;
        Ok(self.readiness.get_or_init(|| readiness))
    }

    /// Gives `handle` all events up to now. False when some may be left.
    pub(super) fn drain(&self, mut handle: impl FnMut(&Event<'_>)) -> Result<bool, Errno> {
        let mut buffer = [MaybeUninit::uninit(); BUFFER];
        let mut reader = Reader::new(&*self.fd, &mut buffer);
        let mut taken = 0;
        // What is left in the buffer would be lost.
        while taken < MAX_EVENTS || !reader.is_buffer_empty() {
            taken += 1;
            match reader.next() {
                Ok(event) => {
                    let is_gone = event.events().contains(ReadFlags::IGNORED);
                    self.gone.fetch_add(is_gone.into(), Ordering::SeqCst);
                    handle(&event);
                }
                Err(Errno::AGAIN) => return Ok(true),
                Err(Errno::INTR) => {}
                Err(error) => return Err(error),
            }
        }
        Ok(false)
    }
}
