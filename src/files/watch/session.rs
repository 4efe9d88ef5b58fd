//! One read: places a watch before each lookup, records what the read depends on, and decides whether its
//! result may be used.

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;
use std::time::{Instant, SystemTime};

use super::folders::{Need, Place, What, is_hidden, wanted};
use super::kernel::{Inotify, Scope, WatchId};
use super::owners::OwnerId;
use super::pending::QUIET;
use super::polling::Polled;
use super::{Key, Watch};
use crate::files::read::{Arm, Dir, FileId, Interest, Seen, Stamps};

/// One read for one owner.
pub(super) struct Session<'a, K> {
    watch: &'a Watch<K>,
    inotify: Option<Arc<Inotify>>,
    owner: OwnerId,
    /// The scope for which the read has watched each folder, and the watch, or why there is none.
    watches: HashMap<FileId, (Scope, Result<WatchId, Polled>)>,
    /// What the read depends on.
    needs: BTreeSet<Need>,
    /// Why the owner must be polled, if it must.
    why: Option<Polled>,
    /// The device that a check may have to wait for.
    device: Option<u64>,
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
            watches: HashMap::new(),
            needs: BTreeSet::new(),
            why: None,
            device: None,
        })
    }

    /// Whether the read depends on that already.
    fn needs(&self, watch: WatchId, interest: Interest<'_>) -> bool {
        let is_of_all =
            !matches!(interest, Interest::Name(name) | Interest::Content(name) if is_hidden(name));
        is_of_all && self.needs.contains(&(watch, What::ALL))
            || self.needs.contains(&(watch, wanted(interest).0))
    }

    /// The owner must be polled for this reason, among others.
    fn must_poll(&mut self, why: Polled) {
        self.why = self.why.max(Some(why));
    }

    /// Ends the read, and returns whether what it found may be used. Without stamps it found nothing.
    pub(super) fn end(self, stamps: Option<Stamps>) -> bool {
        let mut table = self.watch.lock();
        // What happened until the files were read must be known.
        table.drain();
        let found = stamps.is_some();
        let usable = table.update(self.owner, |pending| pending.end(found, Instant::now()));
        let stamps = stamps.unwrap_or_default();
        let passing = stamps.unsure().then_some(Polled::PassingFailure);
        let why = self.why.max(passing);
        table.set_needs(self.owner, self.needs, stamps);
        table.change_polling(self.owner, |polling| {
            (polling.why, polling.device) = (why, self.device);
        });
        // The owner may have been forgotten during the read.
        usable.unwrap_or(false)
    }
}

impl<K: Key> Arm for Session<'_, K> {
    fn arm(&mut self, dir: Dir<'_>, interest: Interest<'_>) {
        if dir.remote {
            self.device = Some(dir.id.device);
            return self.must_poll(Polled::RemoteFileSystem);
        }
        let (what, scope) = wanted(interest);
        let known = self.watches.get(&dir.id).copied();
        let known = known.and_then(|(placed, watch)| (placed >= scope).then_some(watch));
        if known.is_some_and(|watch| watch.map_or(true, |watch| self.needs(watch, interest))) {
            return;
        }
        let place = Place::of(dir.path);
        let lock = || self.watch.lock();
        let (mut table, watch) = match (known, &self.inotify) {
            (Some(watch), _) => (lock(), watch),
            (None, Some(inotify)) => inotify.place(dir.fd, scope, lock),
            (None, None) => (lock(), Err(Polled::NoInotify)),
        };
        if known.is_none() {
            self.watches.insert(dir.id, (scope, watch));
        }
        match watch {
            Ok(watch) => {
                self.needs.insert((watch, what));
                let owner = self.owner;
                table.folders.record((watch, what), owner, place, scope);
            }
            Err(why) => {
                table.folders.refusals += 1;
                self.must_poll(why);
            }
        }
    }

    fn saw(&mut self, dir: Dir<'_>, file: Seen<'_>) {
        if file.shared {
            self.must_poll(Polled::SharedFile);
        }
        // A time in the future is an error of a clock, and means nothing.
        let now = Instant::now();
        let age = SystemTime::now().duration_since(file.modified).ok();
        let age = age.filter(|age| *age < QUIET && !dir.complete);
        let Some(changed) = age.and_then(|age| now.checked_sub(age)) else {
            return;
        };
        let path = dir.path.join(file.name);
        let mut table = self.watch.lock();
        if !table.is_known_complete(&path, changed) {
            let file = Place::of(&path).0;
            table.update(self.owner, |pending| pending.suspect(file, changed));
        }
    }
}
