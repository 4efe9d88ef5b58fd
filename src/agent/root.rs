//! What the agent keeps of a root.

use std::collections::BTreeSet;
use std::path::Path;
use std::sync::Arc;

use tokio::sync::Semaphore;

use super::reading::{Key, Owner};
use crate::config;
use crate::files::watch::Watch;

/// Reads of one root at once. Per root, so that one that hangs holds up nothing but itself.
const READS_PER_ROOT: usize = 4;

/// A root, and the folders it was last seen to hold.
pub(super) struct Root {
    pub(super) path: Arc<Path>,
    pub(super) settings: config::Root,
    pub(super) folders: BTreeSet<Arc<str>>,
    pub(super) listed: bool,
    /// How many reads of it and its folders have not come back.
    pub(super) under_way: usize,
    pub(super) slots: Arc<Semaphore>,
}

impl Root {
    /// A root of which nothing is known yet.
    pub(super) fn new(settings: config::Root) -> Self {
        Self {
            path: settings.path.as_path().into(),
            settings,
            folders: BTreeSet::new(),
            listed: false,
            under_way: 0,
            slots: Arc::new(Semaphore::new(READS_PER_ROOT)),
        }
    }

    /// The same root with other settings.
    pub(super) fn with(self, settings: config::Root, watch: &Watch<Owner>) -> Self {
        if settings.poll_interval != self.settings.poll_interval {
            let folders = self.folders.iter();
            let folders = folders.map(|name| Owner::Folder(Key::new(&self.path, name.clone())));
            for owner in folders.chain([Owner::Root(self.path.clone())]) {
                watch.set_interval(&owner, settings.poll_interval);
            }
        }
        Self { settings, ..self }
    }
}
