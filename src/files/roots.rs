//! Roots → credential folders.

use std::path::{Path, PathBuf};

use super::read::{Arm, Stamps};
use crate::problem::Problem;

/// What a root holds.
pub struct Listing {
    /// Whether the root is there at all.
    pub present: bool,
    /// The credential folders in it (links to folders included), by name: name and path.
    pub folders: Vec<(String, PathBuf)>,
    /// Folders that are not served because of their name, and a root that can't be read.
    pub problems: Vec<Problem>,
    /// What a later look by `stat` alone is compared with.
    pub stamps: Stamps,
}

/// Lists the credential folders of the root at `root`.
pub fn list(root: &Path, max_folders: usize, arm: &mut dyn Arm) -> Listing {
    let _ = (root, max_folders, arm);
    todo!()
}
