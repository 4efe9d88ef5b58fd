//! Checks by `stat` alone: of everything from time to time though no event asks for them, and often of
//! what can't be watched.
//!
//! Each device has threads of its own while it is checked: one that hangs (a dead NFS server)
//! delays neither the others nor the end of the program.

use std::collections::BTreeSet;
use std::thread;
use std::time::{Duration, Instant};

use super::folders::What;
use super::owners::OwnerId;
use super::table::Table;
use super::{Key, Settings, Watch};
use crate::files::read::Stamps;

/// Rounds that are under way at a time. All but hanging ones are done in milliseconds.
const MAX_ROUNDS: usize = 32;

/// While there are so many, another one is tried again after this long.
const BUSY: Duration = Duration::from_secs(1);

/// Why an owner is polled.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Polled {
    /// Something could not be read for a temporary reason, such as the limit on open files.
    PassingFailure,
    /// A file has other names, and a change made under another name is not reported.
    SharedFile,
    /// The file system may change without a word to this machine's kernel.
    RemoteFileSystem,
    /// A folder can't be watched for another reason, such as its permissions.
    Refused,
    /// The kernel's limit on watches is reached.
    WatchLimit,
    /// Nothing can be watched: inotify can't be had.
    NoInotify,
}

impl Polled {
    /// Every reason, for whoever lists them.
    pub const ALL: [Self; 6] = [
        Self::PassingFailure,
        Self::SharedFile,
        Self::RemoteFileSystem,
        Self::Refused,
        Self::WatchLimit,
        Self::NoInotify,
    ];

    /// The reason as a metric label and JSON value, in snake case.
    pub fn as_str(self) -> &'static str {
        self.texts().0
    }

    /// What it means, and what to do about it.
    pub fn remedy(self) -> &'static str {
        self.texts().1
    }

    fn texts(self) -> (&'static str, &'static str) {
        match self {
            Self::PassingFailure => (
                "passing_failure",
                "files could not be read for a temporary reason; raise the limit on open files, \
                 or see the system's log",
            ),
            Self::SharedFile => (
                "shared_file",
                "files have several hard links or are mounted one by one; mount or link their \
                 folder to have changes seen at once",
            ),
            Self::RemoteFileSystem => (
                "remote_file_system",
                "their file system does not report changes; keep them on a local one to have \
                 changes seen at once",
            ),
            Self::Refused => (
                "refused",
                "folders can't be watched; let the agent's user read every folder on the way",
            ),
            Self::WatchLimit => (
                "watch_limit",
                "the kernel's limit on watches is reached; raise fs.inotify.max_user_watches \
                 (sysctl)",
            ),
            Self::NoInotify => (
                "no_inotify",
                "inotify can't be had; raise fs.inotify.max_user_instances (sysctl)",
            ),
        }
    }
}

/// How an owner is checked by `stat` where that is not done as usual.
#[derive(Clone, Copy, Default, PartialEq)]
pub(super) struct Polling {
    /// Why it is polled, if it is.
    pub(super) why: Option<Polled>,
    /// How often it is checked.
    pub(super) interval: Option<Duration>,
    /// The device that may keep a check of it waiting; local files have none.
    pub(super) device: Option<u64>,
}

/// Owners that are checked together: those on this device, polled at this interval or not polled.
pub(super) type Round = (Option<u64>, Option<Duration>);

/// The round of all that is local and not polled. There is always this one.
pub(super) const FIRST_ROUND: Round = (None, None);

impl Polling {
    pub(super) fn round(&self, settings: &Settings) -> Round {
        let every = self.interval.or(self.why.map(|_| settings.poll_interval));
        (self.device, every)
    }
}

impl<K: Key> Watch<K> {
    /// Starts the checks that are due.
    pub(super) fn start_checks(&self, now: Instant) {
        let next = || self.lock().take_round(now);
        while let Some((round, owners)) = next() {
            let watch = self.clone();
            let thread = thread::Builder::new().name("files-check".into());
            if let Err(error) = thread.spawn(move || watch.check(round, &owners)) {
                tracing::warn!(%error, "files could not be checked; raise the limit on threads");
                self.lock().end_round(round);
            }
        }
    }

    fn check(&self, round: Round, owners: &[OwnerId]) {
        for id in owners {
            let table = self.lock();
            let owner = table.owners.get(*id);
            let read = owner.map(|owner| (owner.key.folder(), owner.stamps.clone()));
            drop(table);
            if let Some((folder, stamps)) = read
                && stamps.changed(&folder)
            {
                self.lock().found_changed(*id, &stamps);
            }
        }
        self.lock().end_round(round);
    }
}

impl<K: Key> Table<K> {
    /// Changes how an owner is checked.
    pub(super) fn change_polling(&mut self, id: OwnerId, change: impl FnOnce(&mut Polling)) {
        let Some(owner) = self.owners.get_mut(id) else {
            return;
        };
        let before = owner.polling();
        let mut polling = before;
        change(&mut polling);
        owner.polling = (polling != Polling::default()).then(|| Box::new(polling));
        let round = polling.round(&self.settings);
        if !self.rounds.contains_key(&round) {
            self.end_round(round);
        }
        self.tally(before.why, polling.why);
    }

    /// Counts an owner that was polled for the reason `before` and is polled for the reason `after` now. The
    /// first of a kind and the last one gone are logged: there may be thousands.
    pub(super) fn tally(&mut self, before: Option<Polled>, after: Option<Polled>) {
        if before == after {
            return;
        }
        let every = self.settings.poll_interval;
        for (why, change) in [(before, -1), (after, 1)] {
            let Some(why) = why else { continue };
            let count = self.polled.entry(why).or_default();
            *count += change;
            let (reason, remedy) = (why.as_str(), why.remedy());
            match (change, *count) {
                (1, 1) => tracing::warn!(reason, ?every, "folders are polled: {remedy}"),
                (-1, 0) => tracing::info!(
                    reason,
                    "polling ended: no folder is polled for this reason any more"
                ),
                _ => {}
            }
        }
    }

    /// The next round whose time has come, with its owners. It is under way from now on.
    fn take_round(&mut self, now: Instant) -> Option<(Round, Vec<OwnerId>)> {
        loop {
            let under_way = self.rounds.values().filter(|at| at.is_none()).count();
            let mut rounds = self.rounds.iter_mut();
            let (round, at) = rounds.find(|(_, at)| at.is_some_and(|at| at <= now))?;
            let round = *round;
            // Local files are never kept waiting by the others.
            if under_way >= MAX_ROUNDS && round.0.is_some() {
                *at = Some(now + BUSY);
                continue;
            }
            *at = None;
            let is_in = |polling: Polling| polling.round(&self.settings) == round;
            let owners = self.owners.polled(is_in);
            if round == FIRST_ROUND {
                self.retry(now);
            } else if owners.is_empty() {
                self.rounds.remove(&round);
                continue;
            }
            return Some((round, owners));
        }
    }

    /// A round is no longer under way, or is new.
    fn end_round(&mut self, round: Round) {
        let every = round.1.unwrap_or(self.settings.check_interval);
        self.rounds.insert(round, Some(Instant::now() + every));
        self.wake.notify_one();
    }

    /// A check found that something has changed since the read that these stamps are of.
    fn found_changed(&mut self, id: OwnerId, stamps: &Stamps) {
        // The kernel may have reported it already.
        self.drain();
        let now = Instant::now();
        let Some(owner) = self.owners.get(id) else {
            return;
        };
        // What is read meanwhile, or about to be, finds that itself.
        if owner.pending.is_some() || owner.stamps != *stamps {
            return;
        }
        if owner.polling().why.is_some() {
            return self.mark([id], now);
        }
        // An event is missing. Whatever swallowed it (a mount over a watched folder, say) may swallow the
        // next one: all who share a folder are due, and their reads place the watches again.
        let mut owners = BTreeSet::from([id]);
        for (watch, _) in &owner.needs {
            owners.extend(self.needs_of(*watch, What::ANY).map(|(_, id)| id));
        }
        self.missed += 1;
        self.whole.clear();
        self.mark(owners, now);
    }
}
