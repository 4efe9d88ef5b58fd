//! One consistent, bounded read of a folder, and the folders that it depended on.

use std::path::Path;

use zeroize::Zeroizing;

pub use super::resolve::{Arm, Dir, FileId, Interest};
pub use super::stamps::Stamps;
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

/// Reads the credential folder at `folder` once.
pub fn read(folder: &Path, limits: &Limits, arm: &mut dyn Arm) -> Reading {
    let _ = (folder, limits, arm);
    todo!()
}
