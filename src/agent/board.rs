//! What every root and credential folder is up to, for those who ask: `status`, metrics, health.

use std::collections::{BTreeMap, HashSet};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::SystemTime;

use super::folder::Folder;
use super::reading::{Key, Owner};
use crate::config::Config;
use crate::credential::{Bundle, Pair};
use crate::files::roots::Listing;
use crate::files::watch::{State, Watch};
use crate::problem::Problem;

/// The present state of all roots and folders. One for the whole agent.
pub struct Board {
    watch: Watch<Owner>,
    notes: Mutex<Notes>,
}

#[derive(Default)]
struct Notes {
    warn_days: u32,
    /// In the order of the configuration.
    roots: Vec<RootReport>,
    folders: BTreeMap<Key, Report>,
}

/// The present state of a root.
#[derive(Clone, Debug)]
pub struct RootReport {
    /// Its path.
    pub path: Arc<Path>,
    /// Whether it, and every folder in it, has been read at least once.
    pub read: bool,
    /// Whether it was there when it was last listed; none before the first time.
    pub present: Option<bool>,
    /// How many credential folders it held.
    pub folders: usize,
    /// What in it is not served, and why, besides what the folders' own reports say.
    pub problems: Vec<Problem>,
}

/// The present state of a credential folder.
#[derive(Clone, Debug)]
pub struct Report {
    /// The root that it is in.
    pub root: Arc<Path>,
    /// Its name.
    pub name: Arc<str>,
    /// The certificate pair that it serves.
    pub pair: Option<Arc<Pair>>,
    /// The trust bundle that it serves.
    pub bundle: Option<Arc<Bundle>>,
    /// Since when it serves these.
    pub since: SystemTime,
    /// Whether a folder of the same name in an earlier root is served in its place.
    pub hidden: bool,
    /// What is worth a warning in what it serves.
    pub warnings: Vec<Problem>,
    /// What keeps its present files from being served; what it serves then is the last good.
    pub problems: Vec<Problem>,
}

impl Board {
    pub(super) fn new(watch: Watch<Owner>, config: &Config) -> Self {
        let board = Self {
            watch,
            notes: Mutex::default(),
        };
        board.configure(config);
        board
    }

    /// How long before its end a certificate is warned of, in days.
    pub fn warn_days(&self) -> u32 {
        self.lock().warn_days
    }

    /// All roots, in the order of the configuration.
    pub fn roots(&self) -> Vec<RootReport> {
        self.lock().roots.clone()
    }

    /// All folders: those of the first root by name, then those of the next one.
    pub fn reports(&self) -> Vec<Report> {
        let notes = self.lock();
        let mut taken = HashSet::new();
        let mut reports = Vec::with_capacity(notes.folders.len());
        for root in &notes.roots {
            for report in notes.of_root(&root.path) {
                let serves = report.pair.is_some() || report.bundle.is_some();
                let hidden = taken.contains(&report.name);
                if serves {
                    taken.insert(report.name.clone());
                }
                reports.push(Report {
                    hidden,
                    ..report.clone()
                });
            }
        }
        reports
    }

    /// What the watch is doing, with the roots and folders that are polled by their paths.
    pub fn watch(&self) -> State<PathBuf> {
        let state = self.watch.state();
        let path = |owner| match owner {
            Owner::Root(path) => path.to_path_buf(),
            Owner::Folder(key) => key.path(),
        };
        State {
            directories: state.directories,
            overflows: state.overflows,
            refusals: state.refusals,
            rebuilds: state.rebuilds,
            missed: state.missed,
            polled: state
                .polled
                .into_iter()
                .map(|(owner, why)| (path(owner), why))
                .collect(),
        }
    }

    /// Notes which roots there are. Those that stay keep their state.
    pub(super) fn configure(&self, config: &Config) {
        let mut notes = self.lock();
        notes.warn_days = config.warn_days;
        let old = std::mem::take(&mut notes.roots);
        let roots = config.roots.iter().map(|root| {
            let known = old.iter().find(|old| *old.path == *root.path);
            known
                .cloned()
                .unwrap_or_else(|| RootReport::unread(&root.path))
        });
        notes.roots = roots.collect();
    }

    /// Notes what a listing of a root found.
    pub(super) fn listed(&self, root: &Path, listing: &Listing) {
        self.note_root(root, |report| {
            report.present = Some(listing.present);
            report.folders = listing.folders.len();
            report.problems.clone_from(&listing.problems);
        });
    }

    /// Notes that a root and all folders in it have been read.
    pub(crate) fn read(&self, root: &Path) {
        self.note_root(root, |report| report.read = true);
    }

    /// Notes the state of a folder; `changed` when what it serves is new.
    pub(super) fn note(&self, key: &Key, folder: &Folder, changed: bool) {
        let mut notes = self.lock();
        let since = notes
            .folders
            .get(key)
            .map(|report| report.since)
            .filter(|_| !changed);
        let parts = folder.parts();
        let report = Report {
            root: key.root.clone(),
            name: key.name.clone(),
            pair: parts.pair.clone(),
            bundle: parts.bundle.clone(),
            since: since.unwrap_or_else(SystemTime::now),
            hidden: false,
            warnings: folder.warnings().to_vec(),
            problems: folder.problems().to_vec(),
        };
        notes.folders.insert(key.clone(), report);
    }

    /// Drops a folder that is no more.
    pub(super) fn strike(&self, key: &Key) {
        self.lock().folders.remove(key);
    }

    fn note_root(&self, root: &Path, change: impl FnOnce(&mut RootReport)) {
        let mut notes = self.lock();
        if let Some(report) = notes.roots.iter_mut().find(|report| *report.path == *root) {
            change(report);
        }
    }

    fn lock(&self) -> MutexGuard<'_, Notes> {
        // Every change under the lock leaves it whole.
        self.notes.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Notes {
    fn of_root(&self, root: &Arc<Path>) -> impl Iterator<Item = &Report> {
        let first = Key {
            root: root.clone(),
            name: "".into(),
        };
        let reports = self.folders.range(first..);
        reports
            .take_while(|(key, _)| key.root == *root)
            .map(|(_, report)| report)
    }
}

impl RootReport {
    fn unread(path: &Path) -> Self {
        Self {
            path: path.into(),
            read: false,
            present: None,
            folders: 0,
            problems: Vec::new(),
        }
    }
}
