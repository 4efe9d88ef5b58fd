//! What every credential folder is up to, for those who ask: `status`, metrics, health.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::SystemTime;

use super::folder::Folder;
use super::reading::Key;
use crate::credential::{Bundle, Pair};
use crate::problem::Problem;

/// The present state of all folders. One for the whole agent.
#[derive(Default)]
pub struct Board {
    folders: Mutex<BTreeMap<Key, Report>>,
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
    /// All folders, by root and name.
    pub fn reports(&self) -> Vec<Report> {
        self.lock().values().cloned().collect()
    }

    /// Notes the state of a folder; `changed` when what it serves is new.
    pub(super) fn note(&self, key: &Key, folder: &Folder, hidden: bool, changed: bool) {
        let mut folders = self.lock();
        let since = folders
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
            hidden,
            warnings: folder.warnings().to_vec(),
            problems: folder.problems().to_vec(),
        };
        folders.insert(key.clone(), report);
    }

    /// Drops a folder that is no more.
    pub(super) fn strike(&self, key: &Key) {
        self.lock().remove(key);
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<Key, Report>> {
        // Every change under the lock is a single insert or remove.
        self.folders.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
