//! The walk to a root, shared by consecutive reads: a later read only checks that no folder or link on
//! the way has changed.

use std::cell::Cell;
use std::ffi::{OsStr, OsString};
use std::path::{Path, PathBuf};
use std::rc::Rc;

use rustix::fs::{Stat, lstat};

use super::arm::{Arm, Interest};
use super::resolve::{Failure, Folder, Found, Walk};
use super::stamps::{Collector, Depth, fingerprint};

/// The walk to a root, shared by the consecutive reads of one thread.
///
/// It keeps the folders on the way open, and a file system with an open folder can't be unmounted: drop it
/// unless another read follows at once.
pub struct Route {
    root: PathBuf,
    walked: Cell<Option<Walked>>,
}

/// A walk that led to the root.
struct Walked {
    hops: Vec<Hop>,
    root: Rc<Folder>,
}

/// A lookup on the way, and what it found.
pub(super) struct Hop {
    folder: Rc<Folder>,
    name: OsString,
    path: PathBuf,
    depth: Depth,
    print: u64,
}

impl Hop {
    pub(super) fn new(
        (folder, name): (&Rc<Folder>, &OsStr),
        path: &Path,
        depth: Depth,
        stat: &Stat,
    ) -> Self {
        Self {
            folder: Rc::clone(folder),
            name: name.to_owned(),
            path: path.to_owned(),
            depth,
            print: fingerprint(depth, Ok(stat)),
        }
    }
}

impl Route {
    /// The walk to the root at `root`. Its first use walks.
    pub fn to(root: &Path) -> Self {
        Self {
            root: root.to_owned(),
            walked: Cell::default(),
        }
    }

    /// The path of the root.
    pub(super) fn root(&self) -> &Path {
        &self.root
    }

    /// Finds the root.
    pub(super) fn walk(&self, walk: &mut Walk<'_>) -> Result<Found, Failure> {
        if let Some(walked) = self.walked.take()
            && walked.still_leads_there(walk.arm, &mut walk.stamps)
        {
            let root = Rc::clone(&walked.root);
            walk.resume(&root);
            self.walked.set(Some(walked));
            return Ok(Found::Folder(root));
        }
        let (found, hops) = walk.find_with_hops(&self.root);
        if let Ok(Found::Folder(root)) = &found {
            let root = Rc::clone(root);
            self.walked.set(Some(Walked { hops, root }));
        }
        found
    }
}

impl Walked {
    /// Whether nothing on the way has changed. As in a walk, each folder is watched before a name is looked
    /// up in it.
    fn still_leads_there(&self, arm: &mut dyn Arm, stamps: &mut Collector) -> bool {
        let mut stats = Vec::with_capacity(self.hops.len());
        for hop in &self.hops {
            arm.arm(hop.folder.as_dir(), Interest::Name(&hop.name));
            match lstat(&hop.path) {
                Ok(stat) if fingerprint(hop.depth, Ok(&stat)) == hop.print => stats.push(stat),
                _ => return false,
            }
        }
        for (hop, stat) in self.hops.iter().zip(&stats) {
            stamps.add(hop.depth, &hop.path, Ok(stat));
        }
        true
    }
}
