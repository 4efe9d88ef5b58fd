//! The output folder: the folders in it, and which of them the mirror made.
//!
//! A folder of the mirror has the same structure as one of kubelet:
//!
//! ```text
//! NAME/tls.crt        -> ..data/tls.crt
//! NAME/..data         -> ..3f9a          replaced by a rename
//! NAME/..3f9a/tls.crt
//! NAME/..3f9a/..sds-mirror.json         the manifest, which marks it as the mirror's
//! ```
//!
//! Everything else whose name begins with `.sds-mirror` is the mirror's own; sds-agent skips names
//! that begin with a dot.

mod change;
mod existing;
mod sys;

use std::collections::BTreeMap;
use std::io;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};

pub(crate) use existing::Stamp;

use crate::config::Rights;
use crate::manifest::{Found, Manifest};
use crate::select::Files;

/// The prefix of the names of folders that are being created or removed.
const SCRATCH: &str = ".sds-mirror-tmp-";

/// The output folder, held by one mirror.
pub(crate) struct Output {
    path: PathBuf,
    /// Locked against a second mirror while it is open. The lock is on the folder itself, not on a file that
    /// another program could delete. `None` if there is no folder, and none is created.
    dir: Option<OwnedFd>,
    rights: Rights,
}

/// A folder as it was found by a check.
#[derive(Debug)]
pub(crate) struct Inspection {
    pub(crate) manifest: Manifest,
    pub(crate) stamp: Stamp,
    /// The entries whose mode, owner or group was corrected.
    pub(crate) mended: Vec<String>,
}

/// What a write did.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Outcome {
    /// The folder is new.
    Made,
    /// The folder has new content.
    Changed,
    /// The content was already there; at most the manifest changed.
    Same,
}

impl Outcome {
    /// The outcome as a metric label.
    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Self::Made => "made",
            Self::Changed => "changed",
            Self::Same => "same",
        }
    }
}

/// Why a folder could not be written.
#[derive(Debug, thiserror::Error)]
pub(crate) enum WriteError {
    /// The mirror did not make what has this name.
    #[error("sds-mirror did not make what has this name, and does not change it")]
    Foreign,
    /// A system call failed.
    #[error(transparent)]
    System(#[from] io::Error),
}

impl From<rustix::io::Errno> for WriteError {
    fn from(errno: rustix::io::Errno) -> Self {
        Self::System(errno.into())
    }
}

impl Output {
    /// Opens the output folder, creates it if it is missing, and removes what a crash left.
    ///
    /// # Errors
    /// The folder can't be used, or another mirror uses it.
    pub(crate) fn open(path: &Path, rights: Rights) -> Result<Self, String> {
        let failed = |error: io::Error| format!("can't use {}: {error}", path.display());
        let dir = sys::make_and_open(path, rights).map_err(failed)?;
        if !sys::lock(&dir).map_err(failed)? {
            return Err(format!(
                "another sds-mirror uses {}; give each one its own --output",
                path.display()
            ));
        }
        let output = Self {
            path: path.to_owned(),
            rights: sys::inherited(&dir, rights).map_err(failed)?,
            dir: Some(dir),
        };
        output.clear_scratch().map_err(failed)?;
        Ok(output)
    }

    /// Opens the output folder only for reading: it is neither created nor locked.
    ///
    /// # Errors
    /// What the system reports.
    pub(crate) fn peek(path: &Path, rights: Rights) -> Result<Self, String> {
        let failed = |error: io::Error| format!("can't read {}: {error}", path.display());
        let mut output = Self {
            path: path.to_owned(),
            dir: None,
            rights,
        };
        match sys::open_output(path) {
            Ok(dir) => {
                output.rights = sys::inherited(&dir, rights).map_err(failed)?;
                output.dir = Some(dir);
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(failed(error)),
        }
        Ok(output)
    }

    fn dir(&self) -> io::Result<&OwnedFd> {
        self.dir.as_ref().ok_or(io::ErrorKind::NotFound.into())
    }

    /// Its path.
    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// Whether its path still leads to this folder.
    pub(crate) fn is_in_place(&self) -> bool {
        self.dir().is_ok_and(|dir| sys::is_at(dir, &self.path))
    }

    /// The entries by name, except for names that begin with a dot.
    ///
    /// # Errors
    /// The folder can't be read.
    pub(crate) fn scan(&self) -> io::Result<BTreeMap<String, Found>> {
        let mut found = BTreeMap::new();
        let Some(dir) = &self.dir else {
            return Ok(found);
        };
        for name in sys::names(dir)? {
            if !name.starts_with('.')
                && let Some(what) = find(dir, &name)
            {
                found.insert(name, what);
            }
        }
        Ok(found)
    }

    /// Creates or changes the folder so that it has exactly `files`. At any time, even after a crash, it has either
    /// the old or the new content.
    ///
    /// # Errors
    /// The mirror did not make the folder, or a system call failed. The old content stays.
    pub(crate) fn write(
        &self,
        folder: &str,
        manifest: &Manifest,
        files: &Files,
    ) -> Result<Outcome, WriteError> {
        change::write(self, folder, manifest, files)
    }

    /// Removes a folder that the mirror made, in one step. Returns whether it existed.
    ///
    /// # Errors
    /// The mirror did not make the folder, or a system call failed.
    pub(crate) fn remove(&self, folder: &str) -> Result<bool, WriteError> {
        change::remove(self, folder)
    }

    /// What a write of these files would do.
    ///
    /// # Errors
    /// The mirror did not make the folder, or a system call failed.
    pub(crate) fn compare(&self, folder: &str, files: &Files) -> Result<Outcome, WriteError> {
        let Some(dir) = &self.dir else {
            return Ok(Outcome::Made);
        };
        match existing::current(dir, folder)? {
            existing::Existing::Foreign => Err(WriteError::Foreign),
            existing::Existing::Absent => Ok(Outcome::Made),
            existing::Existing::Ours(current) => {
                let same = current.links_are_of(files) && current.holds(files, self.rights)?;
                Ok(if same {
                    Outcome::Same
                } else {
                    Outcome::Changed
                })
            }
        }
    }

    /// The files of a folder, if the mirror made it for the object of `manifest`.
    ///
    /// # Errors
    /// A system call failed.
    pub(crate) fn files(&self, folder: &str, manifest: &Manifest) -> io::Result<Files> {
        let Some(dir) = &self.dir else {
            return Ok(Files::new());
        };
        match existing::current(dir, folder)? {
            existing::Existing::Ours(current) if current.manifest.id() == manifest.id() => {
                current.files()
            }
            _ => Ok(Files::new()),
        }
    }

    /// Replaces only the manifest of a folder that the mirror made.
    ///
    /// # Errors
    /// The mirror did not make the folder, or a system call failed.
    pub(crate) fn annotate(&self, folder: &str, manifest: &Manifest) -> Result<(), WriteError> {
        match existing::current(self.dir()?, folder)? {
            existing::Existing::Ours(current) => Ok(change::note(&current, manifest, self.rights)?),
            existing::Existing::Foreign | existing::Existing::Absent => Err(WriteError::Foreign),
        }
    }

    /// Checks a folder that the mirror made, and corrects modes, owner and group; `None` if there is no such folder.
    ///
    /// # Errors
    /// A system call failed.
    pub(crate) fn inspect(&self, folder: &str) -> io::Result<Option<Inspection>> {
        match existing::current(self.dir()?, folder)? {
            existing::Existing::Ours(current) => Ok(Some(Inspection {
                mended: current.mend(self.rights)?,
                stamp: current.stamp()?,
                manifest: current.manifest,
            })),
            existing::Existing::Foreign | existing::Existing::Absent => Ok(None),
        }
    }

    fn clear_scratch(&self) -> io::Result<()> {
        for name in sys::names(self.dir()?)? {
            if name.starts_with(SCRATCH) {
                sys::remove_tree(&self.path.join(name))?;
            }
        }
        Ok(())
    }
}

/// The entry with this name; `None` if it has just been removed.
fn find(dir: &OwnedFd, name: &str) -> Option<Found> {
    match existing::current(dir, name) {
        Ok(existing::Existing::Ours(current)) => Some(Found::Ours(current.manifest)),
        Ok(existing::Existing::Foreign) => Some(Found::Foreign),
        Ok(existing::Existing::Absent) => None,
        Err(error) => Some(Found::Unreadable(error.to_string())),
    }
}

#[cfg(test)]
mod crash_tests;
#[cfg(test)]
mod tests;
