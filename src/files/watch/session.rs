//! One read: places a watch before each lookup, keeps what the read depended on, and judges whether
//! what it found may be used.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Instant, SystemTime};

use super::folders::{Place, What, hash, is_hidden, wanted};
use super::kernel::{Inotify, Scope, WatchId};
use super::owners::OwnerId;
use super::pending::{FileKey, QUIET};
use super::polled::Polled;
use super::{Key, Watch};
use crate::files::read::{Arm, Dir, FileId, Interest, Seen, Stamps};

/// One read for one owner.
pub(super) struct Session<'a, K> {
    watch: &'a Watch<K>,
    inotify: Option<Arc<Inotify>>,
    owner: OwnerId,
    /// How each folder is watched for what the read depends on.
    armed: HashMap<(FileId, What, Scope), Watched>,
    /// Files that may be being written, and when they last changed.
    suspects: Vec<(FileKey, Instant)>,
    /// Whether a file can be changed without an event in the folder that it is in.
    shared: bool,
    /// The device that may keep a check waiting.
    device: Option<u64>,
}

/// The watch on a folder, or why there is none.
type Watched = Result<WatchId, Polled>;

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
            suspects: Vec::new(),
            shared: false,
            device: None,
        })
    }

    /// How the folder is watched for this already, if it is.
    fn armed(&self, folder: FileId, interest: Interest<'_>) -> Option<Watched> {
        let (what, scope) = wanted(interest);
        let is_of_all =
            !matches!(interest, Interest::Name(name) | Interest::Content(name) if is_hidden(name));
        let all = is_of_all.then_some((What::ALL, Scope::Content));
        let enough = [all, Some((what, scope)), Some((what, Scope::Content))];
        let mut enough = enough.into_iter().flatten();
        enough.find_map(|(what, scope)| self.armed.get(&(folder, what, scope)).copied())
    }

    /// Watches a folder, in which something is about to be looked up.
    fn place(&mut self, dir: Dir<'_>, what: What, scope: Scope) -> Watched {
        if dir.remote {
            self.device = Some(dir.id.device);
            return Err(Polled::RemoteFileSystem);
        }
        let place = Place::of(dir.path);
        let lock = || self.watch.lock();
        // One that this read has placed there for something else, if it reports enough and is still there.
        let mut armed = self.armed.iter();
        let armed = armed.find_map(|((folder, _, placed), watch)| {
            let watch = watch
                .ok()
                .filter(|_| *folder == dir.id && *placed >= scope)?;
            let table = lock();
            let is_there = table.folders.watched.contains_key(&watch);
            is_there.then_some((table, Ok(watch)))
        });
        let (mut table, watch) = armed.unwrap_or_else(|| match &self.inotify {
            Some(inotify) => inotify.place(dir.fd, scope, lock),
            None => (lock(), Err(Polled::NoInotify)),
        });
        let watch = watch.inspect_err(|_| table.folders.refusals += 1)?;
        table
            .folders
            .record((watch, what), self.owner, place, scope);
        Ok(watch)
    }

    /// Ends the read, and returns whether what it found may be used. Without stamps it found nothing.
    pub(super) fn end(self, stamps: Option<Stamps>) -> bool {
        let mut guard = self.watch.lock();
        let table = &mut *guard;
        // What happened until the files were read must be known.
        table.drain();
        let usable = table.update(self.owner, |pending| {
            for (file, changed) in &self.suspects {
                pending.suspect(*file, *changed);
            }
            pending.end(stamps.is_some(), Instant::now())
        });
        let needs = self.armed.iter();
        let needs = needs.filter_map(|((_, what, _), watch)| Some((watch.ok()?, *what)));
        table.set_needs(needs.collect(), self.owner);
        let (Some(usable), Some(owner)) = (usable, table.owners.get_mut(self.owner)) else {
            // The owner was forgotten during the read.
            return false;
        };
        owner.stamps = stamps.unwrap_or_default();
        let passing = owner.stamps.unsure().then_some(Polled::PassingFailure);
        let shared = self.shared.then_some(Polled::SharedFile);
        let reasons = self.armed.values().filter_map(|watch| watch.err());
        let why = reasons.chain(passing).chain(shared).max();
        let why_before = owner.polling().why;
        owner.change_polling(|polling| (polling.why, polling.device) = (why, self.device));
        let every = table.settings.poll_interval;
        table.tally.change(why_before, why, every);
        table.plan_check(self.owner);
        usable
    }
}

impl<K: Key> Arm for Session<'_, K> {
    fn arm(&mut self, dir: Dir<'_>, interest: Interest<'_>) {
        if self.armed(dir.id, interest).is_none() {
            let (what, scope) = wanted(interest);
            let watch = self.place(dir, what, scope);
            self.armed.insert((dir.id, what, scope), watch);
        }
    }

    fn saw(&mut self, dir: Dir<'_>, file: Seen<'_>) {
        self.shared |= file.shared;
        // A time in the future is a clock's fault and tells nothing.
        let age = SystemTime::now().duration_since(file.modified).ok();
        let age = age.filter(|age| *age < QUIET && !dir.complete);
        let changed = age.and_then(|age| Instant::now().checked_sub(age));
        let watch = self.armed(dir.id, Interest::Content(file.name));
        if let (Some(changed), Some(watch)) = (changed, watch)
            && !self.watch.lock().is_known(watch.ok(), dir.path, changed)
        {
            let key = watch.map_or_else(
                |_| hash((dir.id, file.name)),
                |watch| hash((watch, file.name)),
            );
            self.suspects.push((key, changed));
        }
    }
}
