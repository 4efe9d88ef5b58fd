//! One read of a root or a credential folder, on a thread where it may block.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::SystemTime;

use crate::config::{Layout, Limits, Root};
use crate::credential::{self, Credential};
use crate::files::read::{self, Arm, Files, Reading, RootFolder, Route, Source, Stamps};
use crate::files::roots::{self, Listing};
use crate::files::watch::{self, Watch};
use crate::inventory::{self, Key};
use crate::problem::Problem;

/// What is watched, and read as a whole.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) enum Owner {
    /// The root at this path.
    Root(Arc<Path>),
    /// A credential.
    Folder(Key),
}

/// What a read found.
pub(crate) enum Found {
    Root(Listing),
    /// A credential in this root.
    Folder(inventory::Read, RootFolder),
}

/// What a read needs to know.
#[derive(Clone)]
pub(crate) struct Reader {
    pub(crate) root: Root,
    pub(crate) limits: Limits,
    /// The configuration that these settings are from.
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

impl watch::Key for Owner {
    fn folder(&self) -> PathBuf {
        match self {
            Self::Root(path) => path.to_path_buf(),
            Self::Folder(key) => key.path(),
        }
    }
}

impl Reader {
    /// Reads `owner`, which is watched from then on. `None` if a file is being written at the moment: it is
    /// due again soon. Consecutive reads may share a `route`.
    pub(crate) fn at(&self, watch: &Watch<Owner>, owner: &Owner, route: &Route) -> Option<Found> {
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
                let reading = watch.read(owner, |arm| {
                    let mut reading = self.read(key, route, arm);
                    let stamps = std::mem::take(&mut reading.stamps);
                    (reading, stamps)
                })?;
                let root = reading.root;
                Some(Found::Folder(self.judge(key, reading), root))
            }
        }
    }

    /// Lists the root.
    pub(super) fn list(&self, arm: &mut dyn Arm) -> Listing {
        if let Layout::Named(credentials) = &self.root.layout {
            let names = credentials.iter().map(|one| one.name.clone());
            return Listing {
                present: true,
                complete: true,
                credentials: names.collect(),
                problems: Vec::new(),
                stamps: Stamps::default(),
                folder: RootFolder::Unknown,
            };
        }
        let options = roots::Options {
            flat: self.root.layout == Layout::Flat,
            max_credentials: self.limits.credentials,
            confine: self.root.confine,
            reserved_names: self.root.reserved_names,
        };
        roots::list(&self.root.path, options, arm)
    }

    /// Reads the files of a credential in the root.
    pub(super) fn read(&self, key: &Key, route: &Route, arm: &mut dyn Arm) -> Reading {
        let options = read::Options {
            limits: &self.limits,
            confine: self.root.confine.then_some(&*self.root.path),
            route: Some(route),
            parts: credential::parts_among,
        };
        read::read(self.source(key, &key.path()), options, arm)
    }

    /// Checks the files of a credential.
    pub(super) fn judge(&self, key: &Key, reading: Reading) -> inventory::Read {
        if !reading.present {
            return inventory::Read::Gone;
        }
        let folder = key.path();
        let source = self.source(key, &folder);
        let now = SystemTime::now();
        match credential::from_reading(&self.root, &folder, reading, now) {
            Ok(mut credential) => {
                if !matches!(source.files, Files::All) {
                    relocate(&mut credential, &source);
                }
                inventory::Read::Judged(Box::new(credential.into()))
            }
            Err(mut problems) => {
                relocate_all(&mut problems, &source);
                inventory::Read::Rejected(problems)
            }
        }
    }

    /// Where the files of a credential are. They are checked as if they were in the folder at `folder`.
    fn source<'a>(&'a self, key: &'a Key, folder: &'a Path) -> Source<'a> {
        let files = match &self.root.layout {
            Layout::Folders => Files::All,
            Layout::Flat => Files::Named {
                root: &self.root.path,
                credential: &key.name,
            },
            Layout::Named(credentials) => {
                let named = credentials.iter().find(|one| *one.name == *key.name);
                Files::At(named.map_or(&[], |one| &one.files))
            }
        };
        Source { folder, files }
    }
}

/// Replaces the file names in a credential and its problems with the actual paths.
fn relocate(credential: &mut Credential, source: &Source<'_>) {
    let Credential {
        pair,
        bundle,
        staple,
        ticket_keys,
        generic,
        skipped,
    } = credential;
    for problems in [
        &mut pair.problems,
        &mut pair.warnings,
        &mut bundle.problems,
        &mut bundle.warnings,
        &mut staple.problems,
        &mut staple.warnings,
        &mut ticket_keys.problems,
        &mut ticket_keys.warnings,
        &mut generic.problems,
        &mut generic.warnings,
    ] {
        relocate_all(problems, source);
    }
    let pair = pair.part.as_mut().map(|part| &mut part.facts.files);
    let bundle = bundle.part.as_mut().map(|part| &mut part.facts.files);
    let staple = staple.part.as_mut().map(|part| &mut part.facts.files);
    let ticket_keys = ticket_keys.part.as_mut().map(|part| &mut part.files);
    let generic = generic.part.as_mut().map(|part| &mut part.files);
    let files = [pair, bundle, staple, ticket_keys, generic];
    for names in files.into_iter().flatten().chain([skipped]) {
        *names = names.iter().map(|name| shown_name(name, source)).collect();
    }
}

/// The name of a file: in its root, or else its path.
fn shown_name(name: &str, source: &Source<'_>) -> String {
    let path = source.path_of(name);
    let in_root = match source.files {
        Files::Named { root, .. } => path.strip_prefix(root).ok(),
        _ => None,
    };
    in_root.unwrap_or(&path).to_string_lossy().into_owned()
}

fn relocate_all(problems: &mut [Problem], source: &Source<'_>) {
    for problem in problems {
        let place = place(problem.path(), source);
        *problem = problem.at(place);
    }
}

/// The actual path of a file, or of the folder, that is reported as `path`.
fn place(path: &Path, source: &Source<'_>) -> PathBuf {
    match (path.strip_prefix(source.folder), source.files) {
        (Ok(name), Files::Named { root, .. }) if name.as_os_str().is_empty() => root.to_owned(),
        (Ok(name), _) if !name.as_os_str().is_empty() => source.path_of(&name.to_string_lossy()),
        _ => path.to_owned(),
    }
}
