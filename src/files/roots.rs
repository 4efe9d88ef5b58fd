//! Roots → credential folders.

use std::collections::BTreeMap;
use std::ffi::{OsStr, OsString};
use std::path::{Path, PathBuf};
use std::rc::Rc;

use rustix::fs::FileType;
use rustix::io::Errno;

use super::folder::{NoFolder, list as entries, open_folder, problem};
use super::read::{Arm, Interest, Stamps};
use super::resolve::{Entry, Failure, Folder, Found, Walk};
use crate::name::{is_foreign, servable};
use crate::problem::{Problem, Reason};

/// Problems that a listing tells of: whoever has more has one problem, not many.
const MAX_PROBLEMS: usize = 64;

/// What a root holds.
pub struct Listing {
    /// Whether the root is there at all.
    pub present: bool,
    /// Whether all that is in it could be told. Otherwise a folder that is not named here may be
    /// there all the same.
    pub complete: bool,
    /// The credential folders in it (links to folders included), by name: name and path.
    pub folders: Vec<(String, PathBuf)>,
    /// Folders that are not served because of their name, and a root that can't be read.
    pub problems: Vec<Problem>,
    /// What a later look by `stat` alone is compared with.
    pub stamps: Stamps,
}

/// How a root is listed.
#[derive(Clone, Copy, Debug)]
pub struct Options {
    /// Of more folders than this, the first ones by name are listed.
    pub max_folders: usize,
    /// Whether folders that a link leads to outside of the root are left out.
    pub confine: bool,
    /// Whether names that Istio reserves are left out.
    pub reserved_names: bool,
}

/// Lists the credential folders of the root at `root`.
pub fn list(root: &Path, options: Options, arm: &mut dyn Arm) -> Listing {
    let bound = options.confine.then_some(root);
    let mut list = List {
        walk: Walk::new(arm),
        root,
        max_folders: options.max_folders,
        reserved_names: options.reserved_names,
        folders: BTreeMap::new(),
        problems: Vec::new(),
        complete: true,
    };
    let present = match open_folder(&mut list.walk, bound, root) {
        Ok(folder) => {
            if let Err(error) = list.entries(&folder) {
                list.complete = false;
                list.failed(root, Failure::System(error));
            }
            true
        }
        Err(NoFolder::Absent) => false,
        Err(NoFolder::Not(problem)) => {
            list.problems.push(problem);
            false
        }
        Err(NoFolder::Unknown(problem)) => {
            list.complete = false;
            list.problems.push(problem);
            true
        }
    };
    Listing {
        present,
        complete: list.complete,
        folders: list.folders.into_iter().collect(),
        problems: list.problems,
        stamps: list.walk.stamps.finish(),
    }
}

struct List<'a> {
    walk: Walk<'a>,
    root: &'a Path,
    max_folders: usize,
    reserved_names: bool,
    folders: BTreeMap<String, PathBuf>,
    problems: Vec<Problem>,
    complete: bool,
}

impl List<'_> {
    fn entries(&mut self, root: &Rc<Folder>) -> Result<(), Errno> {
        self.walk.arm.arm(root.as_dir(), Interest::Names);
        let mut too_many = false;
        for entry in entries(&mut self.walk, root)? {
            let (name, kind) = entry?;
            if is_foreign(&name) || !self.is_folder(root, &name, kind) {
                continue;
            }
            match servable(&name, self.reserved_names) {
                Ok(name) => {
                    self.folders.insert(name.to_owned(), self.root.join(name));
                }
                Err(what) => self.misnamed(&name, what),
            }
            if self.folders.len() > self.max_folders {
                too_many = true;
                // The choice must not depend on the order in which the file system lists them.
                self.folders.pop_last();
            }
        }
        if too_many {
            self.complete = false;
            self.problem(Problem::new(
                Reason::TooLarge,
                self.root,
                format!("it holds more than {} folders", self.max_folders),
                "raise `limits.credentials`, or spread them over several agents",
            ));
        }
        Ok(())
    }

    /// Whether `name` in `root` is a folder, or a link to one.
    fn is_folder(&mut self, root: &Rc<Folder>, name: &OsStr, kind: FileType) -> bool {
        // Most file systems tell the kind in the listing: a look at each folder is spared.
        match kind {
            FileType::Directory => return true,
            FileType::Symlink | FileType::Unknown => {}
            _ => return false,
        }
        let found = match self.walk.look(root, name) {
            Ok(Entry::Link(link)) => self.walk.follow(Rc::clone(root), &link.target, 1),
            Ok(Entry::Folder(_)) => return true,
            Ok(Entry::Other(_)) => return false,
            Err(Failure::Absent) => return false,
            Err(failure) => Err(failure),
        };
        match found {
            Ok(found) => matches!(found, Found::Folder(_)),
            Err(failure) => {
                // Where it can't be told, its own read will say why.
                let untold = matches!(failure, Failure::System(_));
                self.failed(&self.root.join(name), failure);
                untold
            }
        }
    }

    fn misnamed(&mut self, name: &OsString, what: String) {
        self.problem(Problem::new(
            Reason::Name,
            self.root.join(name),
            what,
            "rename the folder to have it served",
        ));
    }

    fn failed(&mut self, path: &Path, failure: Failure) {
        if let Failure::System(error) = failure {
            self.walk.stamps.failed(error);
        }
        self.problem(problem(path, failure));
    }

    fn problem(&mut self, problem: Problem) {
        if self.problems.len() < MAX_PROBLEMS {
            self.problems.push(problem);
        }
    }
}

#[cfg(test)]
mod tests;
