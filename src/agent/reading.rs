//! One look at a root or a credential folder, on a thread where it may block.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::SystemTime;

use super::folder::Outcome;
use crate::config::{Limits, Root};
use crate::credential::{self, layout};
use crate::files::read::{self, Reading};
use crate::files::roots::{self, Listing};
use crate::files::watch::Watch;
use crate::problem::{Problem, Reason};

/// Istio passes over Secrets with this key: they are service account tokens.
const TOKEN: &str = "token";

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
            let mut listing = roots::list(root, self.limits.credentials, arm);
            let stamps = std::mem::take(&mut listing.stamps);
            (listing, stamps)
        })
    }

    fn read(&self, owner: &Owner, folder: &Path) -> Option<Reading> {
        self.watch.read(owner, |arm| {
            let mut reading = read::read(folder, &self.limits, arm);
            let stamps = std::mem::take(&mut reading.stamps);
            (reading, stamps)
        })
    }

    fn outcome(&self, folder: &Path, reading: Reading) -> Outcome {
        if !reading.present {
            return Outcome::Gone;
        }
        if self.root.skip_token_folders && reading.files.iter().any(|file| file.name == TOKEN) {
            return Outcome::Bad(vec![token(folder)]);
        }
        let problems = reading.problems.into_iter();
        let names: Vec<_> = reading
            .files
            .iter()
            .map(|file| file.name.as_str())
            .collect();
        let problems: Vec<_> = problems
            .filter(|problem| matters(folder, problem, &names))
            .collect();
        if !problems.is_empty() {
            return Outcome::Bad(problems);
        }
        let now = SystemTime::now();
        match credential::from_files(folder, reading.files, now, self.warn_days) {
            Ok(credential) => Outcome::Good(Box::new(credential)),
            Err(problems) => Outcome::Bad(problems),
        }
    }
}

/// Whether a problem of a read is one of the credential that the files `names` make, not one of
/// some other file beside them.
fn matters(folder: &Path, problem: &Problem, names: &[&str]) -> bool {
    let name = problem.path().file_name().and_then(|name| name.to_str());
    problem.path() == folder || name.is_some_and(|name| layout::needs(name, names))
}

fn token(folder: &Path) -> Problem {
    Problem::new(
        Reason::Name,
        folder.join(TOKEN),
        "a folder with this file is passed over, as Istio does with such Secrets",
        "remove the file, or set skip_token_folders = false",
    )
}
