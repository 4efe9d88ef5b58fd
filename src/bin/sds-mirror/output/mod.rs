//! The folder of credential folders: what is there, and whose it is.
//!
//! A folder of the mirror's looks like one of kubelet's:
//!
//! ```text
//! NAME/tls.crt        -> ..data/tls.crt
//! NAME/..data         -> ..3f9a          renamed over, in one step
//! NAME/..3f9a/tls.crt
//! NAME/..3f9a/..sds-mirror.json         the manifest: it is the mirror's, and from where it came
//! ```
//!
//! Everything else whose name begins with `.sds-mirror` is the mirror's own; sds-agent passes over
//! names that begin with a dot.

mod change;
mod look;
mod sys;

use std::collections::BTreeMap;
use std::io;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};

use crate::manifest::Manifest;
use crate::select::Files;

/// Holds off a second mirror.
const LOCK: &str = ".sds-mirror.lock";
/// How names begin of folders that are being made, or taken away.
const SCRATCH: &str = ".sds-mirror-tmp-";

/// The output folder, held by one mirror.
pub(crate) struct Output {
    path: PathBuf,
    dir: OwnedFd,
    group: Option<u32>,
    /// Locked as long as it is open.
    _lock: OwnedFd,
}

/// What stands in the output folder under some name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Found {
    /// A folder that the mirror made, with its manifest.
    Ours(Manifest),
    /// Anything else.
    Foreign,
}

/// What a write did.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Outcome {
    /// The folder is new.
    Made,
    /// The folder has new content.
    Changed,
    /// The content was there already; at most the manifest changed.
    Same,
}

/// Why a folder could not be written.
#[derive(Debug, thiserror::Error)]
pub(crate) enum WriteError {
    /// Something stands there that the mirror did not make.
    #[error("something that sds-mirror did not make stands there; it is left alone")]
    Foreign,
    /// The system refused.
    #[error(transparent)]
    System(#[from] io::Error),
}

impl From<rustix::io::Errno> for WriteError {
    fn from(errno: rustix::io::Errno) -> Self {
        Self::System(errno.into())
    }
}

impl Output {
    /// Opens the output folder, makes it where it is missing, and clears away what a crash left.
    ///
    /// # Errors
    /// What the system says, and that another mirror has the folder.
    pub(crate) fn open(path: &Path, group: Option<u32>) -> Result<Self, String> {
        let failed = |error: io::Error| format!("can't use {}: {error}", path.display());
        let dir = sys::make_and_open(path, group).map_err(failed)?;
        let lock = sys::lock(&dir, LOCK).map_err(failed)?.ok_or_else(|| {
            format!(
                "another sds-mirror works on {}; give each one an --output of its own",
                path.display()
            )
        })?;
        let output = Self {
            path: path.to_owned(),
            dir,
            group,
            _lock: lock,
        };
        output.clear_scratch().map_err(failed)?;
        Ok(output)
    }

    /// Where it is.
    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// Whether this is what its path leads to, still.
    pub(crate) fn is_in_place(&self) -> bool {
        sys::is_at(&self.dir, &self.path)
    }

    /// All that is there, by name; names that begin with a dot are passed over.
    ///
    /// # Errors
    /// Whatever keeps the folder from being read.
    pub(crate) fn scan(&self) -> io::Result<BTreeMap<String, Found>> {
        let mut found = BTreeMap::new();
        for name in sys::names(&self.dir)? {
            if !name.starts_with('.') {
                let what = self.look(&name)?;
                found.insert(name, what);
            }
        }
        Ok(found)
    }

    /// Makes the folder, or changes it, so that it holds exactly `files`. At every moment, and after
    /// a crash at any moment, it holds what it held or what it is to hold.
    ///
    /// # Errors
    /// A folder that the mirror did not make, and what the system says. The old content stays.
    pub(crate) fn write(
        &self,
        folder: &str,
        manifest: &Manifest,
        files: &Files,
    ) -> Result<Outcome, WriteError> {
        change::write(self, folder, manifest, files)
    }

    /// Takes away a folder that the mirror made, in one step. Returns whether it was there.
    ///
    /// # Errors
    /// A folder that the mirror did not make, and what the system says.
    pub(crate) fn remove(&self, folder: &str) -> Result<bool, WriteError> {
        change::remove(self, folder)
    }

    fn look(&self, name: &str) -> io::Result<Found> {
        Ok(match look::current(&self.dir, name)? {
            look::Look::Ours(current) => Found::Ours(current.manifest),
            look::Look::Foreign | look::Look::Absent => Found::Foreign,
        })
    }

    fn clear_scratch(&self) -> io::Result<()> {
        for name in sys::names(&self.dir)? {
            if name.starts_with(SCRATCH) {
                sys::remove_tree(&self.path.join(name))?;
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod crash_tests;
#[cfg(test)]
mod tests;
