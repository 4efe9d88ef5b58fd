//! Owns all state of credentials: roots → credential folders → parts, and the lookup of secrets by name. A
//! state machine without I/O: listings, reads and the time go in, snapshots and changes come out.

mod expiry;
mod folder;
mod history;
mod hosts;
mod part;
mod snapshot;
mod sorted;
#[cfg(test)]
pub(crate) mod tests;

use std::collections::{BTreeSet, HashMap, HashSet};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use self::expiry::Clock;
pub use self::expiry::Reminder;
pub use self::folder::{Event, Found as Read, Judged};
use self::folder::{Folder, WhenGone};
pub use self::history::Replaced;
pub use self::part::Now;
pub use self::snapshot::{Credential, Doubt, Found, Lookup, Rejection, Root, Snapshot};
use self::snapshot::{Departed, Root as RootView, Rules};
use self::sorted::Sorted;
use crate::config::{self, Config};
use crate::files::roots::Listing;
use crate::name::Coverage;
use crate::problem::{Problem, Reason};
use crate::secret::{Kind, Name, Part};

/// How many removed names keep the `absent` of their root: the default limit on credentials. Without a
/// limit, folders that are created and removed again and again would accumulate.
const DEPARTED: usize = 20_000;
/// How long a change of the clock, or suspension of the machine, may go unnoticed.
const CLOCK_CHECK: Duration = Duration::from_secs(60);

/// Identifies a credential folder.
///
/// The name is compared first: most keys differ in it, and it costs less to compare than a path.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Key {
    /// Its name.
    pub name: Name,
    /// The path of its root.
    pub root: Arc<Path>,
}

impl Key {
    /// The folder `name` of a root.
    pub fn new(root: &Arc<Path>, name: Name) -> Self {
        Self {
            root: root.clone(),
            name,
        }
    }

    /// The path of the folder.
    pub fn path(&self) -> PathBuf {
        self.root.join(&*self.name)
    }
}

/// The state of all credentials.
pub struct Inventory {
    removal_delay: Duration,
    max_credentials: usize,
    roots: Vec<State>,
    snapshot: Snapshot,
    /// When each folder has something to do without a change of its files.
    deadlines: BTreeSet<(Instant, Key)>,
    /// The same, by the clock that dates certificates: no folder has anything to do before this.
    next_date: Option<SystemTime>,
    clock: Clock,
    /// The previous versions that are in service, by kind and version.
    kept: HashMap<Key, Vec<Arc<Part>>>,
    /// Whether folders were left out because of the limit on credentials.
    crowded: bool,
    changes: Changes,
}

/// The state of a root.
struct State {
    settings: config::Root,
    path: Arc<Path>,
    /// The folders that don't [rest](Folder::rests). Boxed, because a map allocates more entries than it uses.
    awake: HashMap<Name, Box<Folder>>,
    /// How many folders have not been read since the start.
    unobserved: usize,
}

/// What changed in the state since it was last requested.
#[derive(Debug, Default)]
pub struct Changes {
    /// The credentials whose own names may give another secret.
    pub credentials: Vec<Name>,
    /// The hosts that may have another best credential.
    pub hosts: Vec<Coverage>,
    /// Any name may give another secret.
    pub everything: bool,
    /// The snapshot differs, though lookups in it may give the same results.
    pub published: bool,
    /// What happened to each folder, for the log.
    pub events: Vec<(Key, Event)>,
    /// The folders that no longer exist.
    pub forgotten: Vec<Key>,
    /// There is room for folders that were left out: the roots must be listed again.
    pub relist: bool,
    /// Certificates that expire soon, or have expired.
    pub reminders: Vec<Reminder>,
    /// The previous versions in service, of each folder for which they changed. They are kept across a
    /// restart.
    pub kept: Vec<(Key, Vec<Arc<Part>>)>,
}

impl Changes {
    /// Whether nothing changed, not even what is shown.
    pub fn is_empty(&self) -> bool {
        !self.published
    }
}

impl Inventory {
    /// An inventory of the configured roots, before their first read.
    pub fn new(config: &Config) -> Self {
        let mut inventory = Self {
            removal_delay: config.removal_delay,
            max_credentials: config.limits.credentials,
            roots: Vec::new(),
            snapshot: Snapshot::default(),
            deadlines: BTreeSet::new(),
            next_date: None,
            clock: Clock::default(),
            kept: HashMap::new(),
            crowded: false,
            changes: Changes::default(),
        };
        inventory.configure(config, Now::read());
        inventory
    }

    /// Applies another configuration. Roots that are in both keep their state.
    pub fn configure(&mut self, config: &Config, now: Now) {
        self.removal_delay = config.removal_delay;
        self.max_credentials = config.limits.credentials;
        let mut old = std::mem::take(&mut self.roots);
        let mut views = std::mem::take(&mut self.snapshot.roots);
        for settings in &config.roots {
            let kept = old.iter().position(|root| {
                *root.path == *settings.path && root.settings.layout.is_like(&settings.layout)
            });
            let (root, view) = match kept {
                Some(at) => (old.swap_remove(at), views.swap_remove(at)),
                None => State::new(settings),
            };
            self.roots.push(State {
                settings: settings.clone(),
                ..root
            });
            self.snapshot.roots.push(view);
        }
        self.changes
            .forgotten
            .extend(views.iter().flat_map(RootView::keys));
        self.snapshot.rules = Arc::new(Rules {
            hosts: config.hosts,
            default_credential: config.default_credential.as_deref().map(Name::from),
            absent: config.absent,
            warn_days: config.warn_days,
        });
        self.rebuild(now);
    }

    /// The current state.
    pub fn snapshot(&self) -> &Snapshot {
        &self.snapshot
    }

    /// What changed since the last call.
    pub fn take_changes(&mut self) -> Changes {
        std::mem::take(&mut self.changes)
    }

    /// Serves a part from before the agent's restart until its files are valid or removed. Returns whether
    /// its root is still configured.
    pub fn restore(&mut self, key: &Key, part: Part, now: Now) -> bool {
        let Some(at) = self.position(&key.root) else {
            return false;
        };
        self.enter(at, &key.name, true).restore(part, now);
        self.publish(key, None, now);
        true
    }

    /// Handles a listing of a root, for a change that was noticed at `noticed`: missing folders are gone.
    /// Returns the new ones, which must be read.
    pub fn listed(
        &mut self,
        root: &Arc<Path>,
        listing: Listing,
        now: Now,
        noticed: Instant,
    ) -> Vec<Key> {
        let Some(at) = self.position(root) else {
            return Vec::new();
        };
        let mut problems = listing.problems;
        let mut room = self.max_credentials.saturating_sub(self.folders());
        self.changes.published = true;
        let view = &self.snapshot.roots[at];
        let since_start = !view.listed;
        let mut new = Vec::new();
        let mut present = HashSet::new();
        let mut left_out = 0;
        for name in listing.credentials {
            let name = Name::from(name);
            let known = view.credential(&name);
            if known.is_none() {
                if room == 0 {
                    left_out += 1;
                    continue;
                }
                room -= 1;
            }
            if known.is_none_or(|known| !known.observed) {
                new.push(Key::new(root, name.clone()));
            }
            present.insert(name);
        }
        let too_large = |problem: &Problem| problem.reason() == Reason::TooLarge;
        self.crowded |= left_out > 0 || problems.iter().any(too_large);
        if left_out > 0 {
            problems.push(too_many(root, self.max_credentials, left_out));
        }
        // A root that can't be listed completely keeps its folders.
        let missing: Vec<_> = view
            .keys()
            .filter(|key| listing.complete && !present.contains(&key.name))
            .collect();
        let view = &mut self.snapshot.roots[at];
        view.present = Some(listing.present);
        view.complete = listing.complete;
        view.problems = problems.into();
        // Whether a missing root had any content before the start is unknown.
        let newly_listed = !view.listed && listing.present && listing.complete && left_out == 0;
        view.listed |= newly_listed;
        self.changes.everything |= newly_listed;
        for key in missing {
            self.observe(&key, Read::Gone, now, noticed);
        }
        for key in &new {
            self.enter(at, &key.name, since_start);
            self.publish(key, None, now);
        }
        new
    }

    /// Handles the result of reading a folder, for a change that was noticed at `noticed`.
    pub fn observe(&mut self, key: &Key, read: Read, now: Now, noticed: Instant) {
        let delay = self.removal_delay;
        let Some(folder) = self.folder_mut(key) else {
            return;
        };
        let is_first = !folder.is_observed();
        let events = folder.observe(read, delay, now, noticed);
        if is_first && let Some(at) = self.position(&key.root) {
            self.roots[at].unobserved -= 1;
        }
        self.take_in(key, events, now);
    }

    /// Handles the passing of time.
    pub fn tick(&mut self, now: Now) {
        let delay = self.removal_delay;
        let mut due = BTreeSet::new();
        let was_set_back = self.clock.check(now.system);
        if was_set_back {
            // Dates that had passed are ahead again.
            due.extend(self.snapshot.roots.iter().flat_map(RootView::keys));
        }
        while let Some((at, key)) = self.deadlines.first().cloned()
            && at <= now.instant
        {
            self.deadlines.pop_first();
            due.insert(key);
        }
        for key in self.take_dates(now.system) {
            if let Some(winner) = self.snapshot.winner(&key.name)
                && let Some(pair) = winner.pair()
            {
                self.changes.hosts.extend(hosts::coverages(pair));
            }
            // Clients that kept an older version until this one becomes valid must get it now.
            self.changes.credentials.push(key.name.clone());
            due.insert(key);
        }
        for key in due {
            if let Some(folder) = self.folder_mut(&key) {
                if was_set_back {
                    folder.set_back(now.system);
                }
                let ends = folder.remind(now.system);
                let events = folder.tick(delay, now);
                self.take_in(&key, events, now);
                self.remind(key, ends);
            }
        }
    }

    /// Logs the ends of the credential that is served under its name.
    fn remind(&mut self, key: Key, ends: Vec<(Kind, SystemTime)>) {
        let winner = self.snapshot.winner(&key.name);
        if winner.is_some_and(|winner| winner.root == key.root) {
            let reminders = ends.into_iter().map(|(kind, end)| Reminder {
                key: key.clone(),
                kind,
                end,
            });
            self.changes.reminders.extend(reminders);
        }
    }

    /// How long until [`Self::tick`] may have something to do.
    pub fn wait(&self, now: Now) -> Option<Duration> {
        if self.clock.was_set_back(now.system) {
            return Some(Duration::ZERO);
        }
        let deadline = self.deadlines.first().map(|(at, _)| *at - now.instant);
        let date = self.next_date.map(|at| {
            let left = at.duration_since(now.system).unwrap_or_default();
            left.min(CLOCK_CHECK)
        });
        [deadline, date].into_iter().flatten().min()
    }

    /// When the name of a bundle without a pair is decided, if that is pending.
    pub fn settles_at(&self) -> Option<Instant> {
        let folders = self.roots.iter().flat_map(|root| root.awake.values());
        folders.filter_map(|folder| folder.settles_at()).min()
    }

    /// Reports every problem now: at the start, a problem is not caused by a rotation in progress.
    pub fn report_all(&mut self, now: Now) {
        let delay = self.removal_delay;
        // A folder whose problems are not reported yet has a deadline for that.
        let keys: Vec<_> = self.deadlines.iter().map(|(_, key)| key.clone()).collect();
        for key in keys {
            if let Some(folder) = self.folder_mut(&key) {
                folder.expedite_reports();
                let events = folder.tick(delay, now);
                self.take_in(&key, events, now);
            }
        }
    }

    /// Whether every root and every folder in it has been read since the start.
    pub fn is_read(&self) -> bool {
        self.snapshot.roots.iter().all(RootView::is_read)
    }

    /// The folders of a root.
    pub fn keys(&self, root: &Path) -> Vec<Key> {
        let root = self.snapshot.roots.iter().find(|one| *one.path == *root);
        root.into_iter().flat_map(RootView::keys).collect()
    }

    /// The settings of a root.
    pub fn settings(&self, root: &Path) -> Option<&config::Root> {
        Some(&self.roots[self.position(root)?].settings)
    }

    /// Updates everything that depends on a folder.
    fn take_in(&mut self, key: &Key, events: Vec<Event>, now: Now) {
        let changed = events.iter().any(Event::is_change);
        let warned = events.iter().any(Event::warns_of_expiry);
        self.changes
            .events
            .extend(events.into_iter().map(|event| (key.clone(), event)));
        let is_over = self.folder_mut(key).is_some_and(|folder| folder.is_over());
        self.publish(key, changed.then_some(warned), now);
        if is_over {
            self.forget(key);
        }
    }

    /// Publishes the state of a folder, after a change of what it serves if there is one; see [`Folder::publish`].
    fn publish(&mut self, key: &Key, changed: Option<bool>, now: Now) {
        let delay = self.removal_delay;
        let Some(at) = self.position(&key.root) else {
            return;
        };
        let warn_days = self.roots[at].settings.warn_days_of(&key.name);
        let Some(folder) = self.folder_mut(key) else {
            return;
        };
        let view = folder.publish(warn_days, changed, now.system);
        let kept: Vec<_> = folder.previous().cloned().collect();
        let timer = folder.deadline(delay);
        let timer_before = std::mem::replace(&mut folder.timer, timer);
        let rests = folder.rests();
        if rests {
            self.roots[at].awake.remove(&key.name);
        }
        if view.serves() {
            let departed = &mut self.snapshot.departed;
            departed.remove(|one| one.name.cmp(&key.name));
        } else if self
            .snapshot
            .credential(key)
            .is_some_and(|old| old.serves())
        {
            self.departs(at, &key.name);
        }
        self.set_deadline(timer_before, timer, key);
        self.next_date = self.next_date.into_iter().chain(view.next_date).min();
        self.keep(key, kept);
        self.replace(at, &key.name, Some(view));
    }

    fn set_deadline(&mut self, old: Option<Instant>, new: Option<Instant>, key: &Key) {
        if let Some(old) = old {
            self.deadlines.remove(&(old, key.clone()));
        }
        if let Some(new) = new {
            self.deadlines.insert((new, key.clone()));
        }
    }

    /// The folders whose date has come. Few have one in any minute, so that looking at each costs less than
    /// keeping them sorted.
    fn take_dates(&mut self, now: SystemTime) -> Vec<Key> {
        if self.next_date.is_none_or(|next| next > now) {
            return Vec::new();
        }
        let mut due = Vec::new();
        self.next_date = None;
        for root in &self.snapshot.roots {
            for credential in root.credentials.iter() {
                match credential.next_date {
                    Some(date) if date <= now => {
                        due.push(Key::new(&root.path, credential.name.clone()))
                    }
                    date => self.next_date = self.next_date.into_iter().chain(date).min(),
                }
            }
        }
        due
    }

    /// Drops a folder that no longer exists.
    fn forget(&mut self, key: &Key) {
        let Some(at) = self.position(&key.root) else {
            return;
        };
        if let Some(folder) = self.roots[at].awake.remove(&key.name) {
            self.roots[at].unobserved -= usize::from(!folder.is_observed());
            self.set_deadline(folder.timer, None, key);
        }
        self.keep(key, Vec::new());
        self.replace(at, &key.name, None);
        self.changes.forgotten.push(key.clone());
        self.changes.relist |= std::mem::take(&mut self.crowded);
    }

    /// Replaces the published state of a folder, and the hosts of the credential that is served under its
    /// name.
    fn replace(&mut self, at: usize, name: &Name, view: Option<Arc<Credential>>) {
        self.changes.published = true;
        let before = self.snapshot.winner(name).cloned();
        let root = &mut self.snapshot.roots[at];
        let old = match view.clone() {
            Some(view) => root.credentials.insert(view),
            None => root.credentials.remove(|one| one.name.cmp(name)),
        };
        root.unobserved = self.roots[at].unobserved;
        // It may have covered hosts that no other certificate covers.
        if self.snapshot.is_unread(name) {
            self.snapshot.unread.insert(name.clone());
        } else {
            let was_unread = self.snapshot.unread.remove(|one| one.cmp(name));
            self.changes.everything |= was_unread.is_some();
        }
        let after = self.snapshot.winner(name).cloned();
        let answers = |one: &Option<Arc<Credential>>| one.as_ref().map(|one| one.answers());
        if answers(&before) != answers(&after) || answers(&old) != answers(&view) {
            self.changes.credentials.push(name.clone());
        }
        self.move_hosts(name, before.as_ref(), after.as_ref());
    }

    fn move_hosts(
        &mut self,
        name: &Name,
        before: Option<&Arc<Credential>>,
        after: Option<&Arc<Credential>>,
    ) {
        let version = |one: Option<&Arc<Credential>>| {
            let secret = one.and_then(|one| one.secret(Kind::Certificate));
            secret.map(|secret| secret.version())
        };
        let is_same = version(before) == version(after);
        let hosts = &mut self.snapshot.hosts;
        if let Some(before) = before.filter(|_| !is_same) {
            hosts.remove(before);
        }
        // The same certificate too: its credential was published again.
        if let Some(after) = after {
            hosts.insert(after);
        }
        if is_same {
            return;
        }
        self.remember(before, after);
        let pairs = before.into_iter().chain(after);
        let pairs = pairs.filter_map(|credential| credential.pair());
        self.changes.hosts.extend(pairs.flat_map(hosts::coverages));
        let default = self.snapshot.rules.default_credential.as_ref();
        self.changes.everything |= default == Some(name);
    }

    /// Adds the certificate that was served before to the history, if it was replaced.
    fn remember(&mut self, before: Option<&Arc<Credential>>, after: Option<&Arc<Credential>>) {
        let leaf = |credential: &Arc<Credential>| credential.pair()?.chain.first().copied();
        let Some((credential, old)) = before.and_then(|one| Some((one, leaf(one)?))) else {
            return;
        };
        let secret = credential.secret(Kind::Certificate);
        if let (Some(pair), Some(secret)) = (credential.pair(), secret)
            && after.and_then(leaf) != Some(old)
        {
            let replaced = Replaced {
                credential: credential.name.clone(),
                serial: pair.leaf.serial().to_owned(),
                version: secret.version(),
                until: SystemTime::now(),
            };
            let folders = self.folders();
            self.snapshot.history.push(old, replaced, folders);
        }
    }

    /// Rebuilds the published state, after roots were added, removed or reordered.
    fn rebuild(&mut self, now: Now) {
        let keys: HashSet<_> = (self.snapshot.roots.iter())
            .flat_map(RootView::keys)
            .collect();
        self.deadlines.retain(|(_, key)| keys.contains(key));
        self.kept.retain(|key, _| {
            let stays = keys.contains(key);
            if !stays {
                self.changes.kept.push((key.clone(), Vec::new()));
            }
            stays
        });
        let mut hosts = hosts::Hosts::default();
        let mut unread = Sorted::default();
        for credential in self.snapshot.credentials() {
            if credential.unread {
                unread.insert(credential.name.clone());
            }
        }
        self.snapshot.winners().for_each(|one| hosts.insert(one));
        self.snapshot.hosts = hosts;
        self.snapshot.unread = unread;
        for key in &keys {
            self.publish(key, Some(false), now);
        }
        self.changes.everything = true;
        self.changes.published = true;
    }

    fn departs(&mut self, at: usize, name: &Name) {
        if self.snapshot.departed.len() >= DEPARTED {
            self.snapshot.departed = Sorted::default();
        }
        self.snapshot.departed.insert(Departed {
            name: name.clone(),
            absent: self.roots[at].settings.absent,
        });
    }

    fn keep(&mut self, key: &Key, kept: Vec<Arc<Part>>) {
        let versions =
            |parts: &[Arc<Part>]| -> Vec<_> { parts.iter().map(|part| part.version()).collect() };
        let old = self.kept.get(key).map(Vec::as_slice).unwrap_or_default();
        if versions(old) == versions(&kept) {
            return;
        }
        self.changes.kept.push((key.clone(), kept.clone()));
        if kept.is_empty() {
            self.kept.remove(key);
        } else {
            self.kept.insert(key.clone(), kept);
        }
    }

    /// The folder of that key, awake until its state is published.
    fn folder_mut(&mut self, key: &Key) -> Option<&mut Folder> {
        let at = self.position(&key.root)?;
        let state = &mut self.roots[at];
        if !state.awake.contains_key(&key.name) {
            let published = self.snapshot.roots[at].credential(&key.name)?;
            state.wake(published.clone());
        }
        state.awake.get_mut(&key.name).map(Box::as_mut)
    }

    /// The same, made if need be. `since_start`: it may have been there before the start.
    fn enter(&mut self, at: usize, name: &Name, since_start: bool) -> &mut Folder {
        let (view, state) = (&self.snapshot.roots[at], &mut self.roots[at]);
        let published = view.credential(name).cloned();
        let published = published.unwrap_or_else(|| {
            state.unobserved += 1;
            let new = Credential::new(state.path.clone(), name.clone(), view.is_flat);
            Arc::new(Credential { since_start, ..new })
        });
        state.wake(published)
    }

    /// How many folders there are.
    fn folders(&self) -> usize {
        self.snapshot.roots.iter().map(RootView::folders).sum()
    }

    fn position(&self, root: &Path) -> Option<usize> {
        self.roots.iter().position(|one| *one.path == *root)
    }
}

impl State {
    fn new(settings: &config::Root) -> (Self, RootView) {
        let path: Arc<Path> = settings.path.as_path().into();
        let view = RootView {
            path: path.clone(),
            is_flat: settings.layout == config::Layout::Flat,
            present: None,
            listed: false,
            complete: false,
            problems: Arc::new([]),
            credentials: Default::default(),
            unobserved: 0,
        };
        let state = Self {
            settings: settings.clone(),
            path,
            awake: HashMap::new(),
            unobserved: 0,
        };
        (state, view)
    }

    /// The folder with this published state, awake.
    fn wake(&mut self, published: Arc<Credential>) -> &mut Folder {
        let gone = match self.settings.layout {
            config::Layout::Folders => WhenGone::KeepFolder,
            config::Layout::Flat => WhenGone::KeepFiles,
            config::Layout::Named(_) => WhenGone::TakeOut,
        };
        let entry = self.awake.entry(published.name.clone());
        entry.or_insert_with(|| Box::new(Folder::woken(published, gone)))
    }
}

fn too_many(root: &Path, limit: usize, left_out: usize) -> Problem {
    Problem::new(
        Reason::TooLarge,
        root,
        format!(
            "{left_out} of its credentials are beyond the limit of {limit} credentials in all roots"
        ),
        "raise `limits.credentials`, or spread them over several agents",
    )
}
