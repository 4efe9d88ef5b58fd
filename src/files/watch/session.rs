//! One read: places a watch before each lookup, keeps what the read depended on, and judges whether
//! what it found may be used.

use std::collections::{BTreeSet, HashMap};
use std::mem;
use std::sync::Arc;
use std::time::{Instant, SystemTime};

use super::events::file_key;
use super::folders::{Need, Place, What, is_hidden};
use super::kernel::{Inotify, Scope, WatchId};
use super::owners::{OwnerId, Polling};
use super::pending::{FileKey, QUIET};
use super::polled::Polled;
use super::{Key, Watch};
use crate::files::read::{Arm, Dir, FileId, Interest, Seen, Stamps};

/// One read for one owner.
pub(super) struct Session<'a, K> {
    watch: &'a Watch<K>,
    inotify: Option<Arc<Inotify>>,
    owner: OwnerId,
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

impl<'a, K: Key> Session<'a, K> {
    /// Begins a read for `owner`, unless one is under way.
    pub(super) fn begin(watch: &'a Watch<K>, owner: &K) -> Option<Self> {
        let mut table = watch.lock();
        let owner = table.owners.enter(owner);
        let begins = table.update(owner, |pending| pending.begin(Instant::now()))?;
        begins.then(|| Self {
            watch,
            inotify: table.folders.inotify.clone(),
            owner,
            armed: HashMap::new(),
            needs: BTreeSet::new(),
            suspects: Vec::new(),
            shared: false,
            device: None,
        })
    }

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

    /// Watches a folder, in which something is about to be looked up.
    fn place(&mut self, dir: Dir<'_>, what: What, scope: Scope) -> Result<WatchId, Polled> {
        if dir.remote {
            return Err(Polled::RemoteFileSystem);
        }
        let placed = self
            .inotify
            .as_ref()
            .map(|inotify| inotify.place(dir.fd, scope));
        let place = Place::of(dir.path);
        let mut table = self.watch.lock();
        let watch = match (&self.inotify, placed) {
            (Some(inotify), Some(placed)) => inotify.confirm(placed, dir.fd, scope),
            _ => Err(Polled::NoInotify),
        };
        let watch = watch.inspect_err(|_| table.folders.refusals += 1)?;
        table.folders.record(watch, place, scope);
        table.folders.add_need((watch, what), self.owner);
        self.needs.insert((watch, what));
        Ok(watch)
    }

    /// Why not all that it depends on can be watched, if so.
    fn polled(&self) -> Option<Polled> {
        let reasons = self.armed.values().filter_map(|armed| armed.watch.err());
        let shared = self.shared.then_some(Polled::SharedFile);
        reasons.chain(shared).max()
    }

    /// Ends the read, and returns whether what it found may be used. Without stamps it found nothing.
    pub(super) fn end(self, stamps: Option<Stamps>) -> bool {
        let mut guard = self.watch.lock();
        let table = &mut *guard;
        // What happened until the files were read must be known.
        table.drain();
        let now = Instant::now();
        // If the last change of a file was reported, it is known whether the file is complete.
        let suspects = self.suspects.iter().filter(|(armed, _, changed)| {
            let reported = |watch| table.folders.has_reported(watch, *changed);
            !armed.watch.is_ok_and(reported)
        });
        let suspects: Vec<_> = suspects.collect();
        let usable = table.update(self.owner, |pending| {
            for (_, file, changed) in suspects {
                pending.suspect(*file, *changed);
            }
            pending.end(stamps.is_some(), now)
        });
        let (Some(usable), Some(owner)) = (usable, table.owners.get_mut(self.owner)) else {
            // The owner was forgotten during the read.
            table.owners.release(self.owner);
            table.drop_needs(self.needs, self.owner);
            return false;
        };
        owner.stamps = stamps.unwrap_or_default();
        let passing = owner.stamps.unsure().then_some(Polled::PassingFailure);
        let before = owner.polling();
        let polling = Polling {
            why: self.polled().max(passing),
            device: self.device,
            ..before
        };
        owner.set_polling(polling);
        let needs = self.needs.iter().copied().collect();
        let needs_before = mem::replace(&mut owner.needs, needs);
        table.folders.settle(&owner.needs, self.owner);
        let dropped = needs_before.into_iter();
        let dropped = dropped.filter(|need| !self.needs.contains(need));
        table.drop_needs(dropped, self.owner);
        let every = table.settings.poll_interval;
        table.tally.change(before.why, polling.why, every);
        table.plan_check(self.owner);
        usable
    }
}

impl<K: Key> Arm for Session<'_, K> {
    fn arm(&mut self, dir: Dir<'_>, interest: Interest<'_>) {
        if self.armed(dir.id, interest).is_some() {
            return;
        }
        if dir.remote {
            self.device = Some(dir.id.device);
        }
        let (what, scope) = (interest.into(), interest.into());
        let watch = self.place(dir, what, scope);
        self.armed.insert((dir.id, what), Armed { watch, scope });
    }

    fn saw(&mut self, dir: Dir<'_>, file: Seen<'_>) {
        self.shared |= file.shared;
        // A time in the future is a clock's fault and tells nothing.
        let age = SystemTime::now().duration_since(file.modified).ok();
        let age = age.filter(|age| *age < QUIET);
        let changed = age.and_then(|age| Instant::now().checked_sub(age));
        let armed = self.armed(dir.id, Interest::Content(file.name));
        if let (Some(changed), Some(armed)) = (changed, armed.copied())
            && !dir.complete
            && !self.watch.lock().has_just_arrived(dir.path)
        {
            let key = file_key(armed.watch.map_err(|_| dir.id), file.name);
            self.suspects.push((armed, key, changed));
        }
    }
}
