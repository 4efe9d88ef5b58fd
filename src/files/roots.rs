//! Roots → credentials.

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::OsStr;
use std::path::Path;
use std::rc::Rc;

use rustix::fs::FileType;
use rustix::io::Errno;

use super::flat::{self, Member};
use super::folder::{NoFolder, list as entries, open_folder, problem};
use super::read::{Arm, Interest, RootFolder, Stamps};
use super::resolve::{Entry, Failure, Folder, Found, Walk};
use crate::name::{is_foreign, servable};
use crate::problem::{Problem, Reason};
use crate::text;

/// The maximum number of problems that a listing reports.
const MAX_PROBLEMS: usize = 64;

/// How many names of files that the layout leaves out are shown.
const MAX_SHOWN: usize = 3;

/// Names of private keys that only occur in credential folders.
const KEYS_OF_FOLDERS: [&str; 5] = ["tls.key", "privkey.pem", "key.pem", "svid_key.pem", "key"];

/// The content of a root.
pub struct Listing {
    /// Whether the root exists.
    pub present: bool,
    /// Whether it could be listed completely. Otherwise, a folder that is not listed here may exist.
    pub complete: bool,
    /// The names of the credentials in it, sorted: the names of the folders (including links to folders), or in a
    /// flat root the names that its files share.
    pub credentials: Vec<String>,
    /// What is not served because of its name or place, or because the root can't be read.
    pub problems: Vec<Problem>,
    /// What later calls of `stat` are compared with.
    pub stamps: Stamps,
    /// The folder that was listed.
    pub folder: RootFolder,
}

/// How a root is listed.
#[derive(Clone, Copy, Debug)]
pub struct Options {
    /// Whether the files of the root itself make the credentials, not its folders.
    pub flat: bool,
    /// If there are more credentials, only the first ones by name are listed.
    pub max_credentials: usize,
    /// Whether links to folders outside of the root are left out.
    pub confine: bool,
    /// Whether names that Istio reserves are left out.
    pub reserved_names: bool,
}

/// Lists the credentials of the root at `root`.
pub fn list(root: &Path, options: Options, arm: &mut dyn Arm) -> Listing {
    let bound = options.confine.then_some(root);
    let mut list = List {
        walk: Walk::new(arm),
        root,
        options,
        credentials: BTreeSet::new(),
        issuers: BTreeMap::new(),
        others: Others::default(),
        problems: Vec::new(),
        complete: true,
    };
    let mut folder = None;
    let present = match open_folder(&mut list.walk, bound, None, root) {
        Ok(opened) => {
            folder = Some(opened.id());
            if let Err(error) = list.entries(&opened) {
                list.complete = false;
                list.failed(root, Failure::System(error));
            }
            true
        }
        Err(NoFolder::Absent) => {
            list.problems.push(Problem::new(
                Reason::Unreadable,
                root,
                "the root does not exist",
                "create it, or correct its path; it is served as soon as it exists",
            ));
            false
        }
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
        credentials: list.credentials.into_iter().collect(),
        problems: list.problems,
        folder: RootFolder::of(folder, present),
        stamps: list.walk.stamps.finish(root),
    }
}

/// Whether files with these names look like a flat root: several credentials, each with a private key. `ca` does
/// not count, because a CA's key may be next to a server's.
pub fn is_flat(names: &[String]) -> bool {
    let members = names.iter().filter_map(|name| flat::member(name));
    let (keys, others): (Vec<_>, Vec<_>) = members.partition(|member| member.is_key);
    let has_chain = |name: &str| {
        others
            .iter()
            .any(|other| other.counts && other.credential == name)
    };
    let keys: BTreeSet<&str> = keys.iter().map(|member| member.credential).collect();
    let pairs = keys
        .into_iter()
        .filter(|name| *name != "ca" && has_chain(name));
    pairs.count() > 1
}

struct List<'a> {
    walk: Walk<'a>,
    root: &'a Path,
    options: Options,
    credentials: BTreeSet<String>,
    /// In a flat root: possible certificates of issuers, and whether there is a private key.
    issuers: BTreeMap<String, bool>,
    others: Others,
    problems: Vec<Problem>,
    complete: bool,
}

/// The files that the layout of the root leaves out.
#[derive(Default)]
struct Others {
    folders: usize,
    /// The number of files that could be part of a credential.
    files: usize,
    /// The first ones by name.
    shown: BTreeSet<String>,
    /// A private key by a name that it has in a credential folder.
    key: Option<&'static str>,
}

impl List<'_> {
    fn entries(&mut self, root: &Rc<Folder>) -> Result<(), Errno> {
        self.walk.arm.arm(root.as_dir(), Interest::Names);
        for entry in entries(&mut self.walk, root)? {
            let (name, kind) = entry?;
            if is_foreign(&name) {
                continue;
            }
            match (self.is_folder(root, &name, kind), self.options.flat) {
                (true, false) => self.credential(&name),
                (false, true) => self.member(&name),
                (true, true) => self.others.folders += 1,
                (false, false) => self.others.file(&name),
            }
        }
        self.add_issuers();
        if self.complete {
            self.report_layout();
        }
        Ok(())
    }

    /// Adds a credential.
    fn credential(&mut self, name: &OsStr) {
        match servable(name, self.options.reserved_names) {
            Ok(name) => {
                self.credentials.insert(name.to_owned());
            }
            Err(what) => self.misnamed(name, what),
        }
        let max = self.options.max_credentials;
        if self.credentials.len() > max {
            // The choice must not depend on the order in which the file system lists them.
            self.credentials.pop_last();
            if std::mem::take(&mut self.complete) {
                self.problem(Problem::new(
                    Reason::TooLarge,
                    self.root,
                    format!("it contains more than {max} credentials"),
                    "raise `limits.credentials`, or spread them over several agents",
                ));
            }
        }
    }

    /// Adds a file of a flat root.
    fn member(&mut self, name: &OsStr) {
        let Some(member) = name.to_str().and_then(flat::member) else {
            return;
        };
        let Member {
            credential,
            counts,
            is_key,
        } = member;
        if flat::issued(credential).is_some() && self.issuers.len() < self.options.max_credentials {
            *self.issuers.entry(credential.to_owned()).or_default() |= is_key;
        } else if counts && !self.credentials.contains(credential) {
            self.credential(OsStr::new(credential));
        }
    }

    /// Adds what is named like an issuer's certificate, but is a credential.
    fn add_issuers(&mut self) {
        for (name, has_key) in std::mem::take(&mut self.issuers) {
            let issued = flat::issued(&name).is_some_and(|name| self.credentials.contains(name));
            if has_key || !issued {
                self.credential(OsStr::new(&name));
            }
        }
    }

    /// Reports files that the layout of the root leaves out, or that the root has no credential.
    fn report_layout(&mut self) {
        let flat = self.options.flat;
        if self.others.files > 0 {
            let (what, remedy) = self
                .others
                .described(self.root, self.credentials.is_empty());
            self.problem(Problem::new(Reason::Layout, self.root, what, remedy));
        } else if self.credentials.is_empty() && flat && self.others.folders > 0 {
            self.problem(Problem::new(
                Reason::Layout,
                self.root,
                "it contains only folders, but in a flat root the files themselves are credentials",
                "remove `layout = \"flat\"` to have the folders served, or put NAME.crt and NAME.key \
                 into the root",
            ));
        } else if self.credentials.is_empty() && self.problems.is_empty() {
            let remedy = match flat {
                true => "put NAME.crt and NAME.key for each credential there",
                false => "put a folder for each credential there, with tls.crt and tls.key in it",
            };
            let what = "it contains no credential";
            self.problem(Problem::new(Reason::Incomplete, self.root, what, remedy));
        }
    }

    /// Whether `name` in `root` is a folder, or a link to one.
    fn is_folder(&mut self, root: &Rc<Folder>, name: &OsStr, kind: FileType) -> bool {
        // Most file systems report the type in the listing, which saves a call of `stat` for each folder.
        match kind {
            FileType::Directory => return true,
            FileType::Symlink | FileType::Unknown => {}
            _ => return false,
        }
        let found = match self.walk.lookup(root, name) {
            Ok(Entry::Link(link)) => self.walk.follow(Rc::clone(root), &link.target, 1),
            Ok(Entry::Folder(_)) => return true,
            Ok(Entry::Other(_)) => return false,
            Err(Failure::Absent) => return false,
            Err(failure) => Err(failure),
        };
        match found {
            Ok(found) => matches!(found, Found::Folder(_)),
            // Reading the credential that it belongs to will report why.
            Err(failure) if self.options.flat => {
                if let Failure::System(error) = failure {
                    self.walk.stamps.failed(error);
                }
                false
            }
            Err(failure) => {
                // If the type is unknown, reading it will report why.
                let untold = matches!(failure, Failure::System(_));
                self.failed(&self.root.join(name), failure);
                untold
            }
        }
    }

    fn misnamed(&mut self, name: &OsStr, what: String) {
        let remedy = match self.options.flat {
            true => "rename its files to have it served",
            false => "rename the folder to have it served",
        };
        let path = self.root.join(name);
        self.problem(Problem::new(Reason::Name, path, what, remedy));
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

impl Others {
    /// Handles a file in a root of folders.
    fn file(&mut self, name: &OsStr) {
        let Some(name) = name.to_str() else {
            return;
        };
        let key = KEYS_OF_FOLDERS.iter().find(|key| **key == name);
        self.key = self.key.or(key.copied());
        if key.is_none() && !flat::member(name).is_some_and(|member| member.counts) {
            return;
        }
        self.files += 1;
        self.shown.insert(name.to_owned());
        if self.shown.len() > MAX_SHOWN {
            self.shown.pop_last();
        }
    }

    /// What is wrong if files of credentials are directly in the root of folders at `root`, and what to do about
    /// it. `is_alone` is set if the root has no credential folders besides them.
    fn described(&self, root: &Path, is_alone: bool) -> (String, String) {
        let above = std::path::absolute(root).ok();
        let above = above.as_deref().and_then(Path::parent);
        if let (Some(key), Some(above), true) = (self.key, above, is_alone) {
            return (
                format!(
                    "{key} is directly in it: it seems to be the folder of one credential, not a \
                     root, which has a folder for each credential"
                ),
                format!(
                    "use the folder above it, {}, as the root; or name its files in a [[secret]] of \
                     the configuration",
                    text::path(above)
                ),
            );
        }
        let shown: Vec<&str> = self.shown.iter().map(String::as_str).collect();
        let more = match self.files - shown.len() {
            0 => String::new(),
            more => format!(" and {more} more"),
        };
        let names = text::escape(&shown.join(", ")).to_string();
        (
            format!(
                "files of credentials are directly in it ({names}{more}), but only its folders are \
                 credentials"
            ),
            "set `layout = \"flat\"` for this root in a [[root]] of the configuration, or move the \
             files of each credential into a folder of its own"
                .to_owned(),
        )
    }
}

#[cfg(test)]
mod tests;
