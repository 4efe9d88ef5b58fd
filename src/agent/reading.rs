//! One read of a root or a credential folder, on a thread where it may block.

use std::path::Path;
use std::sync::Arc;
use std::time::SystemTime;

use crate::config::{Limits, Root};
use crate::credential;
use crate::files::read::{self, Arm, Reading};
use crate::files::roots::{self, Listing};
use crate::files::watch::Watch;
use crate::inventory::{self, Key};

/// What is watched, and read as a whole.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) enum Owner {
    /// The root at this path.
    Root(Arc<Path>),
    /// A credential folder.
    Folder(Key),
}

/// What a read found.
pub(crate) enum Found {
    Root(Listing),
    Folder(inventory::Read),
}

/// What a read needs to know.
#[derive(Clone)]
pub(crate) struct Look {
    pub(crate) root: Root,
    pub(crate) limits: Limits,
    pub(crate) warn_days: u32,
    /// Which configuration these settings are of.
    pub(crate) epoch: u64,
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

impl Look {
    /// Reads `owner`, which is watched from then on. `None` when a file is being written right now: it
    /// is due again soon.
    pub(crate) fn at(&self, watch: &Watch<Owner>, owner: &Owner) -> Option<Found> {
        match owner {
            Owner::Root(_) => {
                let listing = watch.read(owner, |arm| {
                    let mut listing = self.list(arm);
                    let stamps = std::mem::take(&mut listing.stamps);
                    (listing, stamps)
                });
                listing.map(Found::Root)
            }
            Owner::Folder(key) => {
                let folder = key.path();
                let reading = watch.read(owner, |arm| {
                    let mut reading = self.read(&folder, arm);
                    let stamps = std::mem::take(&mut reading.stamps);
                    (reading, stamps)
                })?;
                Some(Found::Folder(self.judge(&folder, reading)))
            }
        }
    }

    /// Lists the root.
    pub(super) fn list(&self, arm: &mut dyn Arm) -> Listing {
        let options = roots::Options {
            max_folders: self.limits.credentials,
            confine: self.root.confine,
            reserved_names: self.root.reserved_names,
        };
        roots::list(&self.root.path, options, arm)
    }

    /// Reads a folder in the root.
    pub(super) fn read(&self, folder: &Path, arm: &mut dyn Arm) -> Reading {
        let options = read::Options {
            limits: &self.limits,
            confine: self.root.confine.then_some(&*self.root.path),
            parts: credential::parts_among,
        };
        read::read(folder, options, arm)
    }

    /// Judges what a read of a folder found.
    pub(super) fn judge(&self, folder: &Path, reading: Reading) -> inventory::Read {
        if !reading.present {
            return inventory::Read::Gone;
        }
        let now = SystemTime::now();
        match credential::from_reading(&self.root, folder, reading, now, self.warn_days) {
            Ok(credential) => inventory::Read::Judged(Box::new(credential.into())),
            Err(problems) => inventory::Read::Rejected(problems),
        }
    }
}
