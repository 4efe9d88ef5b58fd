//! The folder of a root, found once for consecutive reads.

use std::cell::RefCell;
use std::path::{Path, PathBuf};
use std::rc::Rc;

use rustix::fs::stat;

use super::arm::{FileId, Unwatched};
use super::resolve::{Folder, Found, Walk};

/// The way to a root, for the consecutive reads of one thread.
///
/// If it leads to a folder, these reads do not watch the folders on the way; the listing of the root does. Each
/// read returns [which folder](super::read::Reading::root) the root was, so that it can be repeated if the listing
/// found another one.
///
/// It keeps the root open, and a file system with an open folder can't be unmounted: drop it unless another read
/// follows immediately.
pub struct Route {
    root: PathBuf,
    found: RefCell<Option<Rc<Folder>>>,
}

impl Route {
    /// The way to the root at `root`. The first use walks the path.
    pub fn to(root: &Path) -> Self {
        Self {
            root: root.to_owned(),
            found: RefCell::default(),
        }
    }

    /// The path of the root.
    pub(super) fn root(&self) -> &Path {
        &self.root
    }

    /// The folder of the root, if the way leads to one.
    pub(super) fn folder(&self) -> Option<Rc<Folder>> {
        let mut known = self.found.borrow_mut();
        let is_there =
            |root: &Rc<Folder>| stat(&self.root).is_ok_and(|stat| FileId::of(&stat) == root.id());
        if !known.as_ref().is_some_and(is_there) {
            *known = match Walk::new(&mut Unwatched).find(&self.root) {
                Ok(Found::Folder(root)) => Some(root),
                _ => None,
            };
        }
        known.clone()
    }
}
