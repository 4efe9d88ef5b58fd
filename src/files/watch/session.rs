//! One read: places a watch before each lookup, keeps what the read depended on, and judges whether
//! what it found may be used.

use std::collections::{BTreeSet, HashMap};
use std::hash::Hash;
use std::sync::Arc;
use std::time::{Instant, SystemTime};

use super::events::file_key;
use super::folders::{Need, OwnerId, What, is_hidden};
use super::kernel::{Inotify, Placed, Scope, WatchId};
use super::pending::{FileKey, QUIET};
use super::polled::Polled;
use super::table::{Shared, Table};
use crate::files::read::{Arm, Dir, FileId, Interest, Seen, Stamps};

/// One read for one owner.
pub(super) struct Session<'a, K> {
    inner: &'a Shared<K>,
    inotify: Option<Arc<Inotify>>,
    owner: OwnerId,
    read: Read,
}

/// What a read depends on, and what may be wrong with it.
#[derive(Default)]
struct Read {
    armed: HashMap<(FileId, What), Armed>,
    /// What the owner has been registered for.
    needs: BTreeSet<Need>,
    /// Files that may be being written, and when they last changed.
    suspects: Vec<(Armed, FileKey, Instant)>,
    /// Whether a file can be changed without an event in the folder that it is in.
    shared: bool,
    /// The device that may keep a check waiting.
    device: Option<u64>,
}

/// How a folder is watched for what a read depends on.
#[derive(Clone, Copy)]
struct Armed {
    watch: Result<WatchId, Polled>,
    scope: Scope,
}

impl Read {
    /// How the folder is watched for this already, if it is.
    fn armed(&self, folder: FileId, interest: Interest<'_>) -> Option<&Armed> {
        let is_hidden = match interest {
            Interest::Name(name) | Interest::Content(name) => is_hidden(name),
            Interest::Names | Interest::All => false,
        };
        let exact = self.armed.get(&(folder, interest.into()));
        let all = || self.armed.get(&(folder, What::ALL)).filter(|_| !is_hidden);
        exact
            .filter(|armed| armed.scope >= interest.into())
            .or_else(all)
    }

    /// Why not all that it depends on can be watched, if so.
    fn polled(&self) -> Option<Polled> {
        let reasons = self.armed.values().filter_map(|armed| armed.watch.err());
        reasons
            .chain(self.shared.then_some(Polled::SharedFile))
            .max()
    }
}

impl<'a, K: Clone + Eq + Hash> Session<'a, K> {
    /// Begins a read for `owner`, unless one is under way.
    pub(super) fn begin(inner: &'a Shared<K>, owner: &K) -> Option<Self> {
        let mut table = inner.lock();
        let owner = table.owners.enter(owner);
        let begins = table.update(owner, |pending| pending.begin(Instant::now()))?;
        begins.then(|| Self {
            inner,
            inotify: table.folders.inotify.clone(),
            owner,
            read: Read::default(),
        })
    }

    /// Ends the read, and returns whether what it found may be used. Without stamps it found nothing.
    pub(super) fn end(self, stamps: Option<Stamps>) -> bool {
        let mut table = self.inner.lock();
        // What happened until the files were read must be known.
        table.drain();
        table.end_read(self.owner, self.read, stamps)
    }
}

impl<K: Clone + Eq + Hash> Arm for Session<'_, K> {
    fn arm(&mut self, dir: Dir<'_>, interest: Interest<'_>) {
        if self.read.armed(dir.id, interest).is_some() {
            return;
        }
        if dir.remote {
            self.read.device = Some(dir.id.device);
        }
        let inotify = self.inotify.as_ref().filter(|_| !dir.remote);
        let placed = inotify.map(|inotify| inotify.place(dir.fd, interest.into()));
        let armed = self.inner.lock().arm(&dir, interest, self.owner, placed);
        let need = armed.watch.map(|watch| (watch, interest.into()));
        self.read.needs.extend(need);
        self.read.armed.insert((dir.id, interest.into()), armed);
    }

    fn saw(&mut self, dir: Dir<'_>, file: Seen<'_>) {
        self.read.shared |= file.shared;
        // A time in the future is a clock's fault and tells nothing.
        let age = SystemTime::now().duration_since(file.modified).ok();
        let age = age.filter(|age| *age < QUIET);
        let changed = age.and_then(|age| Instant::now().checked_sub(age));
        let armed = self.read.armed(dir.id, Interest::Content(file.name));
        if let (Some(changed), Some(armed)) = (changed, armed.copied())
            && !dir.complete
            && !self.inner.lock().has_just_arrived(dir.path)
        {
            let key = file_key(armed.watch.map_err(|_| dir.id), file.name);
            self.read.suspects.push((armed, key, changed));
        }
    }
}

impl<K: Clone + Eq + Hash> Table<K> {
    /// Watches a folder for the read of `owner`, which is about to look something up in it.
    fn arm(
        &mut self,
        dir: &Dir<'_>,
        interest: Interest<'_>,
        owner: OwnerId,
        placed: Option<Placed>,
    ) -> Armed {
        let scope = interest.into();
        let watch = self.folders.watch(dir, scope, placed);
        if let Ok(watch) = watch {
            self.folders.add_need((watch, interest.into()), owner);
        }
        Armed { watch, scope }
    }

    /// A read has ended. Returns whether what it found may be used.
    fn end_read(&mut self, id: OwnerId, read: Read, stamps: Option<Stamps>) -> bool {
        let now = Instant::now();
        // If the last change of a file was reported, it is known whether the file is complete.
        let suspects = read.suspects.iter().filter(|(armed, _, changed)| {
            let reported = |watch| self.folders.has_reported(watch, *changed);
            !armed.watch.is_ok_and(reported)
        });
        let suspects: Vec<_> = suspects.collect();
        let usable = self.update(id, |pending| {
            for (_, file, changed) in suspects {
                pending.suspect(*file, *changed);
            }
            pending.end(stamps.is_some(), now)
        });
        let (Some(usable), Some(owner)) = (usable, self.owners.get_mut(id)) else {
            // The owner was forgotten during the read.
            self.folders.drop_needs(read.needs, id);
            return false;
        };
        owner.device = read.device;
        owner.stamps = stamps.unwrap_or_default();
        let passing = owner.stamps.unsure().then_some(Polled::PassingFailure);
        let polled = read.polled().max(passing);
        let polled_before = std::mem::replace(&mut owner.polled, polled);
        let needs_before =
            std::mem::replace(&mut owner.needs, read.needs.iter().copied().collect());
        let dropped = needs_before
            .into_iter()
            .filter(|need| !read.needs.contains(need));
        self.folders.drop_needs(dropped, id);
        let every = self.settings.poll_interval;
        self.tally.change(polled_before, polled, every);
        self.plan_check(id);
        usable
    }
}
