//! One read: places a watch before each lookup, keeps what the read depended on, and judges whether
//! what it found may be used.

use std::hash::Hash;
use std::time::{Duration, Instant, SystemTime};

use super::events::file_key;
use super::folders::{FolderId, OwnerId, Placement, What};
use super::kernel::Scope;
use super::pending::{Excuse, FileKey, QUIET};
use super::table::Table;
use super::{Inner, Polled};
use crate::files::read::{Arm, Dir, FileId, Interest, Seen, Stamps};

/// Reads in a row during which something changed, before the next one waits a little.
const RACES: u32 = 3;

/// One read for one owner. One that ends in a panic must not leave its owner as being read for ever.
pub(super) struct Session<'a, K: Clone + Eq + Hash> {
    inner: &'a Inner<K>,
    owner: OwnerId,
    read: Read,
    ended: bool,
}

/// What a read depends on, and what may be wrong with it.
struct Read {
    excuse: Excuse,
    began: Instant,
    folders: Vec<Armed>,
    /// Files that may be being written, and when they last changed.
    suspects: Vec<(FileKey, Instant)>,
    /// The device that may keep a check waiting.
    device: Option<u64>,
    /// Whether a file can be changed without an event in the folder that it is in.
    shared: bool,
}

/// A folder that the read depends on.
struct Armed {
    file: FileId,
    id: FolderId,
    scope: Scope,
    needs: Vec<What>,
    /// Since when everything in it is reported, if it is.
    reported_since: Option<Instant>,
    /// Whether its files were complete before it could be reached.
    complete: bool,
}

impl Armed {
    fn covers(&self, scope: Scope, what: What) -> bool {
        self.scope >= scope && (self.needs.contains(&what) || self.needs.contains(&What::ALL))
    }
}

impl Read {
    /// Everything it depends on, in order.
    fn needs(&self) -> Vec<(FolderId, What)> {
        let folders = self.folders.iter();
        let needs = folders.flat_map(|armed| armed.needs.iter().map(|what| (armed.id, *what)));
        let mut needs: Vec<_> = needs.collect();
        needs.sort_unstable();
        needs
    }
}

impl<'a, K: Clone + Eq + Hash> Session<'a, K> {
    /// Begins a read for `owner`, unless one is under way.
    pub(super) fn begin(inner: &'a Inner<K>, owner: &K) -> Option<Self> {
        let began = Instant::now();
        let (owner, excuse) = inner.with(|table| table.begin_read(owner, began))?;
        Some(Self {
            inner,
            owner,
            read: Read {
                excuse,
                began,
                folders: Vec::new(),
                suspects: Vec::new(),
                device: None,
                shared: false,
            },
            ended: false,
        })
    }

    /// Ends the read, and tells whether what it found may be used.
    pub(super) fn end(mut self, stamps: Stamps) -> bool {
        self.ended = true;
        self.inner.with(|table| {
            // What happened until the files were read must be known.
            table.drain();
            table.end_read(self.owner, &self.read, stamps, Instant::now())
        })
    }
}

impl<K: Clone + Eq + Hash> Drop for Session<'_, K> {
    fn drop(&mut self) {
        if !self.ended {
            let needs = self.read.needs();
            self.inner.with(|table| table.abort_read(self.owner, needs));
        }
    }
}

impl<K: Clone + Eq + Hash> Arm for Session<'_, K> {
    fn arm(&mut self, dir: Dir<'_>, interest: Interest<'_>) {
        let (scope, what) = (Scope::from(interest), What::from(interest));
        let known = self.read.folders.iter().position(|a| a.file == dir.id);
        if known.is_some_and(|at| self.read.folders[at].covers(scope, what)) {
            return;
        }
        if dir.remote {
            self.read.device = Some(dir.id.device);
        }
        // The folder that is known by this number may be gone, and this be another one whose files
        // are being written. Of names alone the end of the read finds out.
        let must_know = known.is_none() && scope == Scope::Content;
        let mut armed = match known {
            Some(at) => self.read.folders.swap_remove(at),
            None => Armed {
                file: dir.id,
                id: 0,
                scope,
                needs: Vec::new(),
                reported_since: None,
                complete: false,
            },
        };
        armed.scope = armed.scope.max(scope);
        if !armed.needs.contains(&what) {
            armed.needs.push(what);
        }
        self.inner.with(|table| {
            if must_know {
                table.drain();
            }
            table.arm(&mut armed, &dir, what, self.owner);
        });
        self.read.folders.push(armed);
    }

    fn saw(&mut self, dir: Dir<'_>, file: Seen<'_>) {
        self.read.shared |= file.shared;
        // A time in the future is a clock's fault and tells nothing.
        let age = SystemTime::now().duration_since(file.modified);
        let Some(age) = age.ok().filter(|age| *age < QUIET) else {
            return;
        };
        let Some(when) = Instant::now().checked_sub(age) else {
            return;
        };
        let armed = self.read.folders.iter().find(|a| a.file == dir.id);
        let unreported = armed.is_none_or(|armed| {
            !armed.complete && armed.reported_since.is_none_or(|since| when <= since)
        });
        if unreported {
            let suspect = (file_key(dir.id, file.name), when);
            self.read.suspects.push(suspect);
        }
    }
}

impl<K: Clone + Eq + Hash> Table<K> {
    /// A read begins: what happens from now on calls for another one. `None` while another read of
    /// the same owner is under way; then the owner is due again after that.
    fn begin_read(&mut self, key: &K, now: Instant) -> Option<(OwnerId, Excuse)> {
        let id = self.enter(key);
        let owner = self.owner_mut(id)?;
        if owner.reading {
            owner.pending.mark(now);
            return None;
        }
        owner.reading = true;
        owner.forgotten = false;
        let excuse = owner.pending.begin(now);
        self.plan_read(id);
        Some((id, excuse))
    }

    /// Watches a folder for the read of `owner`, which is about to look up `what` in it.
    fn arm(&mut self, armed: &mut Armed, dir: &Dir<'_>, what: What, owner: OwnerId) {
        let now = Instant::now();
        armed.id = self.folders.enter(dir);
        self.folders.add_need(armed.id, what, owner);
        if dir.remote {
            self.refuse(armed.id, Polled::RemoteFileSystem);
        } else {
            self.place(armed.id, dir.fd, armed.scope, now);
        }
        armed.complete = dir.complete || self.has_arrived(dir.path, now);
        armed.reported_since = match self.folders.get(armed.id).map(|folder| folder.placement) {
            Some(Placement::Live(since)) => Some(since),
            _ => None,
        };
    }

    /// A read has ended. Tells whether what it found may be used.
    fn end_read(&mut self, id: OwnerId, read: &Read, stamps: Stamps, now: Instant) -> bool {
        let (raced, refused) = self.placements(read);
        let passing = stamps.unsure().then_some(Polled::PassingFailure);
        let shared = read.shared.then_some(Polled::SharedFile);
        let polled = [refused, passing, shared].into_iter().max().flatten();
        let needs = read.needs();
        let Some(owner) = self.owner_mut(id) else {
            return false;
        };
        for (file, when) in &read.suspects {
            owner.pending.suspect(*file, *when);
        }
        let usable = owner.pending.is_usable(read.excuse, now);
        if usable {
            owner.pending.settle(read.began);
        }
        if usable && !raced {
            owner.races = 0;
        } else {
            owner.races += 1;
            owner.pending.mark(now + back_off(owner.races));
        }
        let polled_before = std::mem::replace(&mut owner.polled, polled);
        owner.device = read.device;
        owner.stamps = stamps;
        owner.reading = false;
        let forgotten = owner.forgotten;
        let before = std::mem::replace(&mut owner.needs, needs.clone().into());
        let every = self.settings.poll_interval;
        self.tally.change(polled_before, polled, every);
        for (folder, what) in before {
            if needs.binary_search(&(folder, what)).is_err() {
                self.drop_need(folder, what, id);
            }
        }
        self.plan_read(id);
        self.plan_check(id, now);
        if forgotten {
            self.remove(id);
        }
        usable && !forgotten
    }

    /// A read ended in a panic: it is as if it had not been.
    fn abort_read(&mut self, id: OwnerId, mut needs: Vec<(FolderId, What)>) {
        let Some(owner) = self.owner_mut(id) else {
            return;
        };
        owner.reading = false;
        owner.pending.mark(Instant::now());
        needs.extend(&owner.needs);
        needs.sort_unstable();
        needs.dedup();
        owner.needs = needs.into();
        let forgotten = owner.forgotten;
        self.plan_read(id);
        if forgotten {
            self.remove(id);
        }
    }

    /// Whether the watch on one of the folders is gone again, and why one can't be had.
    fn placements(&self, read: &Read) -> (bool, Option<Polled>) {
        let mut raced = false;
        let mut refused = None;
        for armed in &read.folders {
            match self.folders.get(armed.id).map(|folder| folder.placement) {
                Some(Placement::Live(_)) => {}
                Some(Placement::Refused(why)) => refused = refused.max(Some(why)),
                _ => raced = true,
            }
        }
        (raced, refused)
    }
}

/// How long the next read waits after this many in a row during which something changed.
fn back_off(races: u32) -> Duration {
    match races.checked_sub(RACES + 1) {
        None => Duration::ZERO,
        Some(more) => Duration::from_millis(10 << more.min(4)),
    }
}
