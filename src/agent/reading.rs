//! One look at a root or a credential folder, on a thread where it may block.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::SystemTime;

use super::folder::{Outcome, Whole};
use crate::config::{Limits, Root};
use crate::credential;
use crate::files::read::{self, Reading};
use crate::files::roots::{self, Listing};
use crate::files::watch::Watch;

/// Whom a watch is kept for.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) enum Owner {
    /// The root at this path.
    Root(Arc<Path>),
    /// A credential folder.
    Folder(Key),
}

/// Which credential folder.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) struct Key {
    pub(crate) root: Arc<Path>,
    pub(crate) name: Arc<str>,
}

/// What a look found.
pub(crate) enum Found {
    Root(Listing),
    Folder(Outcome),
}

/// What a look needs to know.
#[derive(Clone)]
pub(crate) struct Look {
    pub(crate) watch: Watch<Owner>,
    pub(crate) root: Root,
    pub(crate) limits: Limits,
    pub(crate) warn_days: u32,
}

impl Owner {
    /// The path of the root that it is, or is in.
    pub(crate) fn root(&self) -> &Arc<Path> {
        match self {
            Self::Root(path) => path,
            Self::Folder(key) => &key.root,
        }
    }
}

impl Key {
    /// The folder `name` of a root.
    pub(crate) fn new(root: &Arc<Path>, name: Arc<str>) -> Self {
        Self {
            root: root.clone(),
            name,
        }
    }

    /// The path of the folder.
    pub(crate) fn path(&self) -> PathBuf {
        self.root.join(&*self.name)
    }
}

impl Look {
    /// Looks at `owner`. `None` when a file is being written right now: it is due again soon.
    pub(crate) fn at(&self, owner: &Owner) -> Option<Found> {
        match owner {
            Owner::Root(path) => self.list(owner, path).map(Found::Root),
            Owner::Folder(key) => {
                let folder = key.path();
                let reading = self.read(owner, &folder)?;
                Some(Found::Folder(self.outcome(&folder, reading)))
            }
        }
    }

    fn list(&self, owner: &Owner, root: &Path) -> Option<Listing> {
        self.watch.read(owner, |arm| {
            let options = roots::Options {
                max_folders: self.limits.credentials,
                confine: self.root.confine,
            };
            let mut listing = roots::list(root, options, arm);
            let stamps = std::mem::take(&mut listing.stamps);
            (listing, stamps)
        })
    }

    fn read(&self, owner: &Owner, folder: &Path) -> Option<Reading> {
        self.watch.read(owner, |arm| {
            let options = read::Options {
                limits: &self.limits,
                confine: self.root.confine.then_some(&*self.root.path),
                parts: credential::parts_among,
            };
            let mut reading = read::read(folder, options, arm);
            let stamps = std::mem::take(&mut reading.stamps);
            (reading, stamps)
        })
    }

    fn outcome(&self, folder: &Path, reading: Reading) -> Outcome {
        if !reading.present {
            return Outcome::Gone;
        }
        let now = SystemTime::now();
        match credential::from_reading(&self.root, folder, reading, now, self.warn_days) {
            Ok(credential) => whole(credential),
            Err(problems) => Outcome::Bad(problems),
        }
    }
}

fn whole(credential: credential::Credential) -> Outcome {
    let (pair, bundle) = (credential.pair, credential.bundle);
    let problems = [pair.problems, bundle.problems].concat();
    if !problems.is_empty() {
        return Outcome::Bad(problems);
    }
    Outcome::Good(Box::new(Whole {
        pair: pair.part,
        bundle: bundle.part,
        warnings: [pair.warnings, bundle.warnings].concat(),
    }))
}
