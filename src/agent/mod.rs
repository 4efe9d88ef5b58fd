//! Connects files, inventory and streams: changed folders are read, checked and published.
//!
//! One task drives the inventory. Reads run on other threads, where they may block, and report back.

mod log;
mod once;
mod reading;
mod reads;

use std::collections::HashMap;
use std::fs::File;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::sync::{mpsc, oneshot};
use tracing::error;

pub use self::once::read_once;
use self::reading::{Found, Owner, Reader};
use self::reads::{Done, Reads};
use crate::config::Config;
use crate::fdstore::{self, Keeper};
use crate::files::read::RootFolder;
use crate::files::watch::{Key as _, Settings, State, Watch};
use crate::inventory::{Changes, Inventory, Now};
use crate::metrics::Metrics;
use crate::sds::access::Rules;
use crate::sds::hub::{Hub, Published};
use crate::systemd::Heartbeat;

/// How long the first read of all roots may take before the agent serves without those that are not finished.
const LOADING: Duration = Duration::from_secs(30);

/// How many reads are published together at most, so that the first of many does not wait too long.
const AT_ONCE: usize = 32;

/// How long to gather results while many of the first reads are in progress: waking up for each has a cost. If this
/// is much longer, the queue of results fills up, and the threads that read have to wait.
const GATHERING: Duration = Duration::from_millis(4);

/// How often what the first reads have found is published. Each publication has a cost, and only `status`
/// shows the states before the last one.
const LOADING_SHOWN: Duration = Duration::from_secs(1);

/// Updates what streams see when files change.
pub struct Agent {
    config: Config,
    watch: Watch<Owner>,
    inventory: Inventory,
    hub: Arc<Hub>,
    rules: Arc<Rules>,
    metrics: Arc<Metrics>,
    reads: Reads,
    /// How each root is read with the current configuration, for the roots that were read.
    readers: HashMap<Arc<Path>, Arc<Reader>>,
    /// Which folder each root was when it was last listed. Unknown after a read that found another one.
    folders: HashMap<Arc<Path>, RootFolder>,
    problems: log::Once,
    /// None until the stored versions are restored.
    keeper: Option<Keeper>,
    /// Counts the configurations: folders that were read with an older one are read again.
    epoch: u64,
    /// The rules that take effect when the roots of their configuration have been read.
    pending: Option<Pending>,
}

struct Pending {
    rules: Arc<Rules>,
    in_force: oneshot::Sender<()>,
}

/// A request to a running agent.
#[derive(Debug)]
pub enum Command {
    /// Apply this configuration and these rules, and reopen every root. The sender is used when both are in
    /// effect.
    Reload(Box<Config>, Rules, oneshot::Sender<()>),
}

/// The state of the watch, for status and metrics.
#[derive(Clone)]
pub struct WatchState(Watch<Owner>);

impl WatchState {
    /// The current state, with the paths of roots and folders that are polled.
    pub fn read(&self) -> State<PathBuf> {
        let state = self.0.state();
        State {
            directories: state.directories,
            overflows: state.overflows,
            refusals: state.refusals,
            rebuilds: state.rebuilds,
            missed: state.missed,
            polled: state
                .polled
                .into_iter()
                .map(|(owner, why)| (owner.folder(), why))
                .collect(),
        }
    }
}

impl Agent {
    /// An agent that publishes to `hub`. Nothing is read yet.
    pub fn new(config: Config, rules: Rules, hub: Arc<Hub>, metrics: Arc<Metrics>) -> Self {
        let mut agent = Self {
            watch: Watch::start(Settings::default()),
            inventory: Inventory::new(&config),
            config,
            hub,
            rules: Arc::new(rules),
            metrics,
            reads: Reads::default(),
            readers: HashMap::new(),
            folders: HashMap::new(),
            problems: log::Once::default(),
            keeper: None,
            epoch: 0,
            pending: None,
        };
        agent.publish();
        agent
    }

    /// Serves the versions that the last process stored, until their files are valid or removed.
    pub fn restore(&mut self, stored: Vec<File>) {
        let stored = fdstore::restore(stored);
        let keeper = Keeper::start(&stored);
        for (key, part) in stored {
            if !self.inventory.restore(&key, part, Now::read()) {
                keeper.keep(&key, Vec::new());
            }
        }
        self.keeper = Some(keeper);
        self.publish();
    }

    /// The state of the watch.
    pub fn watch(&self) -> WatchState {
        WatchState(self.watch.clone())
    }

    /// Reads all roots once. Clients must not be served before, because the response would be that their secrets
    /// don't exist.
    pub async fn load(&mut self) {
        self.read_roots();
        if tokio::time::timeout(LOADING, self.settle()).await.is_err() {
            let roots = self.reads.roots();
            error!(
                ?roots,
                "these folders could not be read within {} s and are not served yet; check whether a \
                 network file system is down",
                LOADING.as_secs()
            );
        }
        // A problem at the start is not a rotation in progress.
        self.inventory.report_all(Now::read());
        // Also what `settle` has not published yet.
        let changes = self.inventory.take_changes();
        self.hub.publish(self.published(), &changes);
        self.follow_up(changes);
    }

    /// Runs until the sender of `commands` is dropped.
    pub async fn run(&mut self, mut commands: mpsc::Receiver<Command>, mut heartbeat: Heartbeat) {
        let watch = self.watch.clone();
        loop {
            tokio::select! {
                owners = watch.changed() => self.read_all(owners),
                Some(done) = self.reads.next() => {
                    self.take_in_all(done, AT_ONCE);
                    self.publish();
                }
                () = sleep(self.inventory.wait(Now::read())) => self.tick(),
                () = heartbeat.beat() => {}
                command = commands.recv() => match command {
                    Some(Command::Reload(config, rules, in_force)) => {
                        self.reload(*config, rules, in_force);
                    }
                    None => return,
                },
            }
            self.loosen();
        }
    }

    /// Waits until nothing is being read or written, and no folder is still waiting to see whether a
    /// pair will follow its bundle.
    async fn settle(&mut self) {
        let watch = self.watch.clone();
        let mut shown = Instant::now();
        loop {
            if let Some(done) = self.reads.next().await {
                self.take_in_all(done, reads::RESULTS);
                if shown.elapsed() < LOADING_SHOWN {
                    let changes = self.inventory.take_changes();
                    self.follow_up(changes);
                } else {
                    self.publish();
                    shown = Instant::now();
                }
                if self.reads.in_progress() > AT_ONCE {
                    tokio::time::sleep(GATHERING).await;
                }
                continue;
            }
            if self.reads.has_deferred() {
                let owners = watch.changed().await;
                self.read_all(owners);
                continue;
            }
            let Some(at) = self.inventory.settles_at() else {
                return;
            };
            tokio::time::sleep_until(at.into()).await;
            self.tick();
        }
    }

    /// Applies another configuration. A client never gets what neither the old nor the new one allows:
    /// until the new roots have been read, a secret must be allowed by both.
    fn reload(&mut self, config: Config, rules: Rules, in_force: oneshot::Sender<()>) {
        self.rules = Arc::new(Rules::narrowed(&rules, &self.rules));
        self.hub.enforce(self.rules.clone());
        self.pending = Some(Pending {
            rules: Arc::new(rules),
            in_force,
        });

        self.epoch += 1;
        for root in &self.config.roots {
            let new = config.roots.iter().find(|new| new.path == root.path);
            let interval = new.and_then(|new| new.poll_interval);
            if new.is_none() {
                let path: Arc<Path> = root.path.as_path().into();
                self.folders.remove(&path);
                let owner = Owner::Root(path);
                self.watch.forget(&owner);
                self.reads.forget(&owner);
            } else if interval != root.poll_interval {
                self.set_interval(&root.path, interval);
            }
        }
        self.inventory.configure(&config, Now::read());
        self.readers.clear();
        self.config = config;
        self.publish();
        self.watch.mark_all();
        self.read_roots();
    }

    /// Applies the rules of the last reload as soon as everything has been read.
    fn loosen(&mut self) {
        if !self.reads.is_idle() || !self.inventory.is_read() {
            return;
        }
        if let Some(Pending { rules, in_force }) = self.pending.take() {
            self.rules = rules;
            self.hub.enforce(self.rules.clone());
            // The receiver may have stopped waiting.
            let _ = in_force.send(());
        }
    }

    fn set_interval(&self, root: &Path, interval: Option<Duration>) {
        let root: Arc<Path> = root.into();
        let folders = self.inventory.keys(&root).into_iter().map(Owner::Folder);
        for owner in folders.chain([Owner::Root(root.clone())]) {
            self.watch.set_interval(&owner, interval);
        }
    }

    fn read_roots(&mut self) {
        let paths = self.config.roots.iter().map(|root| root.path.as_path());
        let owners = paths.map(|path| Owner::Root(path.into())).collect();
        self.read_all(owners);
    }

    /// Starts the reads that are due.
    fn read_all(&mut self, owners: Vec<Owner>) {
        let now = Instant::now();
        owners.into_iter().for_each(|owner| self.read(owner, now));
    }

    /// Starts a read of `owner`, or another one after the read in progress. The change that causes it was
    /// noticed at `noticed`.
    fn read(&mut self, owner: Owner, noticed: Instant) {
        let Some(reader) = self.reader_of(owner.root()) else {
            self.watch.forget(&owner);
            return self.reads.forget(&owner);
        };
        if reader.root.poll_interval.is_some() {
            self.watch.set_interval(&owner, reader.root.poll_interval);
        }
        let (watch, metrics) = (self.watch.clone(), self.metrics.clone());
        self.reads.start(owner, noticed, reader, watch, metrics);
    }

    /// How that root is read; none if it is not configured.
    fn reader_of(&mut self, root: &Arc<Path>) -> Option<Arc<Reader>> {
        if let Some(reader) = self.readers.get(root) {
            return Some(reader.clone());
        }
        let reader = Arc::new(Reader {
            root: self.inventory.settings(root)?.clone(),
            limits: self.config.limits,
            epoch: self.epoch,
        });
        self.readers.insert(root.clone(), reader.clone());
        Some(reader)
    }

    /// Handles the result of a read and of others that have finished meanwhile, up to `at_once`.
    fn take_in_all(&mut self, done: Done, at_once: usize) {
        let mut due = self.take_in(done);
        for _ in 1..at_once {
            let Some(done) = self.reads.try_next() else {
                break;
            };
            due.extend(self.take_in(done));
        }
        for (owner, noticed) in due {
            self.read(owner, noticed);
        }
    }

    /// Handles the result of a read. Returns what must be read next.
    fn take_in(&mut self, done: Done) -> Vec<(Owner, Instant)> {
        let now = Now::read();
        let Done {
            owner,
            noticed,
            epoch,
            found,
            again,
        } = done;
        let mut due = Vec::new();
        match (&owner, found) {
            // It was read with the settings of an older configuration.
            _ if epoch != self.epoch => due.push((owner.clone(), noticed)),
            (Owner::Root(path), Some(Found::Root(listing))) => {
                self.problems.listed(path, &listing, &self.metrics);
                let is_replaced = self.note_folder(path, listing.folder);
                let mut read = self.inventory.listed(path, listing, now, noticed);
                if is_replaced {
                    read = self.inventory.keys(path);
                }
                due.extend(read.into_iter().map(|key| (Owner::Folder(key), noticed)));
            }
            (Owner::Folder(key), Some(Found::Folder(read, root))) => {
                let listed = self.folders.get_mut(&key.root);
                match listed.filter(|listed| !listed.agrees(root)) {
                    None => self.inventory.observe(key, read, now, noticed),
                    Some(listed) => {
                        // After the next listing, all of its credentials are read again.
                        *listed = RootFolder::Unknown;
                        due.push((Owner::Root(key.root.clone()), noticed));
                    }
                }
            }
            _ => {}
        }
        due.extend(again.map(|noticed| (owner, noticed)));
        due
    }

    /// Records which folder the root at `path` was when it was listed. Returns whether credentials may have been
    /// read in another one.
    fn note_folder(&mut self, path: &Arc<Path>, folder: RootFolder) -> bool {
        if folder == RootFolder::Unknown {
            return false;
        }
        let before = self.folders.insert(path.clone(), folder);
        before.is_some_and(|before| before != folder)
    }

    fn tick(&mut self) {
        self.inventory.tick(Now::read());
        self.publish();
    }

    /// Updates streams, log and metrics from the inventory.
    fn publish(&mut self) {
        let changes = self.inventory.take_changes();
        if !changes.is_empty() {
            self.hub.publish(self.published(), &changes);
        }
        self.follow_up(changes);
    }

    fn published(&self) -> Published {
        Published {
            snapshot: self.inventory.snapshot().clone(),
            rules: self.rules.clone(),
        }
    }

    /// Updates all but the streams.
    fn follow_up(&mut self, changes: Changes) {
        let Changes {
            events,
            forgotten,
            reminders,
            kept,
            relist,
            ..
        } = changes;
        let snapshot = self.inventory.snapshot();
        for (key, event) in &events {
            log::event(key, event, snapshot);
            log::count(&snapshot.folder_of(key), event, &self.metrics);
        }
        for key in forgotten {
            let owner = Owner::Folder(key);
            self.watch.forget(&owner);
            self.reads.forget(&owner);
        }
        if let Some(keeper) = &self.keeper {
            for (key, parts) in kept {
                keeper.keep(&key, parts);
            }
        }
        let now = Now::read().system;
        reminders
            .iter()
            .for_each(|one| log::remind(one, snapshot, now));
        if relist {
            self.read_roots();
        }
    }
}

async fn sleep(wait: Option<Duration>) {
    match wait {
        Some(wait) => tokio::time::sleep(wait).await,
        None => std::future::pending().await,
    }
}
