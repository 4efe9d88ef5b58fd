//! One consistent, bounded read of a folder, and the folders that it depended on.

use std::path::{Path, PathBuf};

use zeroize::Zeroizing;

use crate::config::Limits;
use crate::problem::Problem;

/// A regular file, read whole. Its bytes are wiped when dropped.
pub struct File {
    /// Its name in the folder.
    pub name: String,
    /// All of it.
    pub bytes: Zeroizing<Vec<u8>>,
    /// Its permission bits.
    pub mode: u32,
}

/// What a read found.
pub struct Reading {
    /// Whether the folder was there at all.
    pub present: bool,
    /// The regular files, by name; names that begin with `..` are passed over.
    pub files: Vec<File>,
    /// What could not be read, and why.
    pub problems: Vec<Problem>,
    /// Every file and folder that was looked at, as it was: equal stamps mean that nothing changed.
    pub stamps: Stamps,
}

/// Told of every folder right before something is looked up in it, so that a watch is in place
/// before the read that depends on it.
pub trait Arm {
    /// `dir` is a path without links; `name` is what is about to be looked up there, or `None`
    /// when everything in it matters.
    fn arm(&mut self, dir: &Path, name: Option<&std::ffi::OsStr>);
}

/// What a later look by `stat` alone is compared with.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Stamps(Vec<(PathBuf, Option<[u64; 6]>)>);

impl Stamps {
    /// Looks again at everything, by `lstat` alone: true when something is not as it was.
    pub fn changed(&self) -> bool {
        todo!()
    }
}

/// Reads the credential folder at `folder` once.
pub fn read(folder: &Path, limits: &Limits, arm: &mut dyn Arm) -> Reading {
    let _ = (folder, limits, arm);
    todo!()
}
