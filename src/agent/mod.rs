//! Wires everything together: changed folders are read, checked and published.
//!
//! One task owns all state. Reads run beside it, where they may block, and report back.

pub mod board;
mod catalog;
mod expiry;
mod folder;
mod log;
mod reading;
mod reads;
mod reload;
mod root;

use std::collections::{BTreeSet, HashMap};
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use tokio::sync::mpsc;
use tracing::error;

use self::board::Board;
use self::catalog::Catalog;
use self::expiry::Expiry;
use self::folder::{Event, Folder, Outcome};
use self::reading::{Found, Key, Look, Owner};
use self::reads::{Done, Reads};
use self::root::Root;
use crate::config::Config;
use crate::files::roots::Listing;
use crate::files::watch::{Settings, Watch};
use crate::metrics::Metrics;
use crate::store::Store;
use crate::systemd::Pulse;

/// How long the first read of all roots may take before the others are served without the rest.
const LOADING: Duration = Duration::from_secs(30);

/// Keeps the store in step with the files.
pub struct Agent {
    config: Config,
    watch: Watch<Owner>,
    catalog: Catalog,
    board: Arc<Board>,
    metrics: Arc<Metrics>,
    roots: Vec<Root>,
    folders: HashMap<Key, Folder>,
    /// When which folder has something to do though its files do not change.
    deadlines: BTreeSet<(Instant, Key)>,
    reads: Reads,
    problems: log::Once,
    expiry: Expiry,
}

/// What a running agent is told to do.
#[derive(Debug)]
pub enum Command {
    /// Go on with this configuration, and open every root anew.
    Reload(Box<Config>),
}

impl Agent {
    /// An agent that publishes to `store`. Nothing is read yet.
    pub fn new(config: Config, store: Arc<Store>, metrics: Arc<Metrics>) -> Self {
        let roots = config.roots.iter().cloned().map(Root::new).collect();
        let mut catalog = Catalog::new(store);
        catalog.configure(&config);
        let watch = Watch::start(Settings::default());
        Self {
            board: Arc::new(Board::new(watch.clone(), &config)),
            config,
            watch,
            catalog,
            metrics,
            roots,
            folders: HashMap::new(),
            deadlines: BTreeSet::new(),
            reads: Reads::default(),
            problems: log::Once::default(),
            expiry: Expiry::default(),
        }
    }

    /// Where the state of every root and folder can be looked up.
    pub fn board(&self) -> Arc<Board> {
        self.board.clone()
    }

    /// Reads all roots once. A client that is answered before would be told that its secrets do not
    /// exist.
    pub async fn load(&mut self) {
        self.look_at_roots();
        if tokio::time::timeout(LOADING, self.settle()).await.is_err() {
            let roots = self.reads.roots();
            error!(
                ?roots,
                "these folders can't be read in {} s, and what they hold is not served yet; is a \
                 network file system down?",
                LOADING.as_secs()
            );
        }
        // What is wrong at the start is no rotation in progress.
        let keys: Vec<_> = self.folders.keys().cloned().collect();
        for key in keys {
            let folder = self.folders.get_mut(&key);
            let deadline = folder.as_ref().and_then(|folder| folder.deadline());
            let event = folder.and_then(Folder::report_now);
            self.publish(&key, deadline, event.into_iter().collect(), Instant::now());
        }
    }

    /// Keeps the store in step until the sender of `commands` is dropped.
    pub async fn run(&mut self, mut commands: mpsc::Receiver<Command>, mut pulse: Pulse) {
        let watch = self.watch.clone();
        loop {
            let deadline = self.deadlines.first().map(|(at, _)| *at);
            tokio::select! {
                owners = watch.changed() => {
                    let now = Instant::now();
                    owners.into_iter().for_each(|owner| self.look(owner, now));
                }
                Some(done) = self.reads.next() => self.done(done),
                () = sleep_until(deadline) => self.tick(Instant::now()),
                () = sleep(self.expiry.wait(SystemTime::now())) => self.remind(),
                () = pulse.beat() => {}
                command = commands.recv() => match command {
                    Some(Command::Reload(config)) => self.reload(*config),
                    None => return,
                },
            }
        }
    }

    /// Waits until nothing is being read or written, and no folder that holds a bundle alone is in
    /// the balance.
    async fn settle(&mut self) {
        let watch = self.watch.clone();
        loop {
            if let Some(done) = self.reads.next().await {
                self.done(done);
                continue;
            }
            if self.reads.has_deferred() {
                let owners = watch.changed().await;
                let now = Instant::now();
                owners.into_iter().for_each(|owner| self.look(owner, now));
                continue;
            }
            let pending = self
                .folders
                .values()
                .filter_map(Folder::alone_deadline)
                .min();
            let Some(deadline) = pending else {
                return;
            };
            sleep_until(Some(deadline)).await;
            self.tick(Instant::now());
        }
    }

    fn look_at_roots(&mut self) {
        let now = Instant::now();
        for path in self.root_paths() {
            self.look(Owner::Root(path), now);
        }
    }

    /// Starts a read of `owner`, or has it read once more when one is under way. The change that
    /// makes it due was noticed at `noticed`.
    fn look(&mut self, owner: Owner, noticed: Instant) {
        let root = self
            .roots
            .iter_mut()
            .find(|root| root.path == *owner.root());
        let Some(root) = root else {
            return self.watch.forget(&owner);
        };
        if !self.reads.may_start(&owner, noticed) {
            return;
        }
        if root.settings.poll_interval.is_some() {
            self.watch.set_interval(&owner, root.settings.poll_interval);
        }
        root.under_way += 1;
        let look = Look {
            watch: self.watch.clone(),
            root: root.settings.clone(),
            limits: self.config.limits,
            warn_days: self.config.warn_days,
        };
        let (slots, metrics) = (root.slots.clone(), self.metrics.clone());
        self.reads.start(owner, noticed, look, slots, metrics);
    }

    /// Takes in what a read found.
    fn done(&mut self, done: Done) {
        let Done {
            owner,
            noticed,
            found,
        } = done;
        match (&owner, found) {
            (Owner::Root(path), Some(Found::Root(listing))) => self.listed(path, listing, noticed),
            (Owner::Folder(key), Some(Found::Folder(outcome))) => {
                self.observe(key, outcome, noticed);
            }
            _ => {}
        }
        self.came_back(owner.root());
        if let Some(noticed) = self.reads.again(&owner) {
            self.look(owner, noticed);
        }
    }

    /// Notes that a read of a root, or of one of its folders, has come back.
    fn came_back(&mut self, root: &Path) {
        let deferred = self.reads.has_deferred_in(root);
        if let Some(root) = self.roots.iter_mut().find(|other| *other.path == *root) {
            root.under_way = root.under_way.saturating_sub(1);
            if root.under_way == 0 && root.listed && !deferred {
                self.board.read(&root.path);
            }
        }
    }

    /// Takes in which folders a root holds: new ones are read, missing ones are gone.
    fn listed(&mut self, path: &Arc<Path>, listing: Listing, noticed: Instant) {
        let Some(rank) = self.rank(path) else {
            return;
        };
        let complete = listing.complete;
        self.problems.listed(path, &listing, &self.metrics);
        self.board.listed(path, &listing);
        let present: BTreeSet<Arc<str>> = listing
            .folders
            .into_iter()
            .map(|(name, _)| name.into())
            .collect();
        let root = &mut self.roots[rank];
        root.listed = true;
        let before = std::mem::take(&mut root.folders);
        // "Don't know" is not "no": a root that can't be read keeps its folders.
        let missing = before.difference(&present).cloned().collect::<Vec<_>>();
        let folders = &self.folders;
        let known = |name: &Arc<str>| {
            before.contains(name) && folders.contains_key(&Key::new(path, name.clone()))
        };
        let new: Vec<_> = present
            .iter()
            .filter(|name| !known(name))
            .cloned()
            .collect();
        root.folders = present;
        if complete {
            for name in missing {
                self.observe(&Key::new(path, name), Outcome::Gone, noticed);
            }
        } else {
            root.folders.extend(missing);
        }
        for name in new {
            self.look(Owner::Folder(Key::new(path, name)), noticed);
        }
    }

    /// Takes in what a read of a folder found, of which a change was noticed at `noticed`.
    fn observe(&mut self, key: &Key, outcome: Outcome, noticed: Instant) {
        if self.rank(&key.root).is_none() {
            return;
        }
        let delay = self.config.removal_delay;
        let folder = self
            .folders
            .entry(key.clone())
            .or_insert_with(|| Folder::new(key.path(), delay));
        let deadline = folder.deadline();
        let events = folder.observe(outcome, Instant::now());
        self.publish(key, deadline, events, noticed);
    }

    /// Takes in that time has passed.
    fn tick(&mut self, now: Instant) {
        while let Some((at, key)) = self.deadlines.first().cloned()
            && at <= now
        {
            self.deadlines.pop_first();
            let Some(folder) = self.folders.get_mut(&key) else {
                continue;
            };
            let events = folder.tick(now);
            self.publish(&key, None, events, now);
        }
    }

    /// Makes the store, the log and the timer follow a folder. `deadline` is what the timer has.
    fn publish(
        &mut self,
        key: &Key,
        deadline: Option<Instant>,
        events: Vec<Event>,
        noticed: Instant,
    ) {
        let (Some(rank), Some(folder)) = (self.rank(&key.root), self.folders.get(key)) else {
            return;
        };
        if let Some(at) = deadline {
            self.deadlines.remove(&(at, key.clone()));
        }
        if let Some(at) = folder.deadline() {
            self.deadlines.insert((at, key.clone()));
        }
        let changed = events.iter().any(Event::is_change);
        if changed {
            let parts = folder.parts().clone();
            let warned = events.iter().any(Event::warns_of_expiry);
            self.expiry.set(key, &parts, warned, SystemTime::now());
            self.catalog.set(&key.name, rank, parts, noticed);
        }
        let winner = self
            .catalog
            .winner(&key.name)
            .filter(|winner| *winner != rank);
        let winner = winner.map(|rank| &*self.roots[rank].path);
        for event in events {
            log::event(key, folder, &event, winner);
            log::count(&key.path(), &event, &self.metrics);
        }
        self.board.note(key, folder, changed);
        if folder.is_over() {
            self.board.strike(key);
            self.folders.remove(key);
            self.watch.forget(&Owner::Folder(key.clone()));
        }
    }

    /// Tells of the certificates that are about to end, or have ended.
    fn remind(&mut self) {
        let now = SystemTime::now();
        for reminder in self.expiry.remind(now) {
            let rank = self.rank(&reminder.key.root);
            if rank.is_some() && rank == self.catalog.winner(&reminder.key.name) {
                log::remind(&reminder, now);
            }
        }
    }

    fn rank(&self, path: &Path) -> Option<usize> {
        self.roots.iter().position(|root| *root.path == *path)
    }

    fn root_paths(&self) -> Vec<Arc<Path>> {
        self.roots.iter().map(|root| root.path.clone()).collect()
    }
}

async fn sleep(wait: Option<Duration>) {
    match wait {
        Some(wait) => tokio::time::sleep(wait).await,
        None => std::future::pending().await,
    }
}

async fn sleep_until(deadline: Option<Instant>) {
    match deadline {
        Some(deadline) => tokio::time::sleep_until(deadline.into()).await,
        None => std::future::pending().await,
    }
}
