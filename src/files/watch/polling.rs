//! Checks by `stat`: of everything from time to time, even without an event, and frequently of what can't be
//! watched.
//!
//! While a device is checked, it has threads of its own: one that hangs (a dead NFS server) delays neither the
//! other devices nor the end of the program.

use std::collections::BTreeSet;
use std::thread;
use std::time::{Duration, Instant};

use super::folders::What;
use super::owners::OwnerId;
use super::table::Table;
use super::{Key, Settings, Watch};
use crate::files::read::Stamps;

/// The maximum number of concurrent rounds. Unless they hang, they take milliseconds.
const MAX_ROUNDS: usize = 32;

/// When the maximum is reached, another round is delayed by this long.
const BUSY: Duration = Duration::from_secs(1);

/// Why an owner is polled.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Polled {
    /// Something could not be read for a temporary reason, such as the limit on open files.
    PassingFailure,
    /// A file has other names, and a change made under another name is not reported.
    SharedFile,
    /// The file system may change without this machine's kernel noticing.
    RemoteFileSystem,
    /// A folder can't be watched for another reason, such as its permissions.
    Refused,
    /// The kernel's limit on watches is reached.
    WatchLimit,
    /// Nothing can be watched: inotify is not available.
    NoInotify,
}

impl Polled {
    /// Every reason.
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
                "files have several hard links, or are mounted individually; link or mount their \
                 folder instead, so that changes are noticed immediately",
            ),
            Self::RemoteFileSystem => (
                "remote_file_system",
                "their file system does not report changes; keep them on a local one, so that \
                 changes are noticed immediately",
            ),
            Self::Refused => (
                "refused",
                "folders can't be watched; let the agent's user read every folder of their paths",
            ),
            Self::WatchLimit => (
                "watch_limit",
                "the kernel's limit on watches is reached; raise fs.inotify.max_user_watches \
                 (sysctl)",
            ),
            Self::NoInotify => (
                "no_inotify",
                "inotify is not available; raise fs.inotify.max_user_instances (sysctl)",
            ),
        }
    }
}

/// How an owner is checked by `stat`, if not in the default way.
#[derive(Clone, Copy, Default, PartialEq)]
pub(super) struct Polling {
    /// Why it is polled, if it is.
    pub(super) why: Option<Polled>,
    /// How often it is checked.
    pub(super) interval: Option<Duration>,
    /// The device that a check may have to wait for; none for local files.
    pub(super) device: Option<u64>,
}

/// Owners that are checked together: those on the same device, and polled at the same interval or not polled.
pub(super) type Round = (Option<u64>, Option<Duration>);

/// The round of all owners that are local and not polled. It always exists.
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
                (-1, 0) => tracing::info!(reason, "polling for this reason ended"),
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
            // Local files never wait for others.
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

    /// Plans the next time of a round that has ended or is new.
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
        // A read that is under way or planned finds the change itself.
        if owner.pending.is_some() || owner.stamps != *stamps {
            return;
        }
        if owner.polling().why.is_some() {
            return self.mark([id], now);
        }
        // An event was lost, and so may the next one be, as with a mount over a watched folder: all owners that
        // share a folder are due, and their reads place the watches again.
        let mut owners = BTreeSet::from([id]);
        for (watch, _) in &owner.needs {
            owners.extend(self.needs_of(*watch, What::ANY).map(|(_, id)| id));
        }
        self.missed += 1;
        self.completed.clear();
        self.mark(owners, now);
    }
}
