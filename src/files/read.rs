//! One consistent, bounded read of a folder, and the folders that it depended on.

use std::collections::BTreeSet;
use std::ffi::{OsStr, OsString};
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::rc::Rc;

use rustix::fs::{AtFlags, FileType, Stat, statat};
use rustix::io::Errno;
use zeroize::Zeroizing;

pub use super::arm::{Arm, Dir, FileId, Interest, RootFolder, Seen, Unwatched};
use super::flat;
use super::folder::{NoFolder, list, open_folder, problem};
use super::ownership::Owner;
use super::resolve::{Entry, Failure, Folder, Found, Leaf, Link, Walk};
pub use super::route::Route;
use super::slurp::{Slurped, slurp};
pub use super::stamps::Stamps;
use crate::config::Limits;
use crate::problem::{Problem, Reason};
use crate::rights::Rights;

/// The link that kubelet, and programs that write in the same way, switch when all files are in place.
const DATA: &str = "..data";

/// How often a read starts again when the files change under it. The kubelet changes them once a
/// minute; this many is for a writer that does nothing else.
const ATTEMPTS: u32 = 40;

/// Names that are listed in a folder. Tools that leave old files behind leave thousands; with more
/// than this, the folder is not one for credentials.
const MAX_NAMES: usize = 16_384;

/// The files of a credential.
#[derive(Clone, Copy)]
pub struct Source<'a> {
    /// The folder that they are reported to be in.
    pub folder: &'a Path,
    /// Which files they are.
    pub files: Files<'a>,
}

/// Which files are those of a credential.
#[derive(Clone, Copy)]
pub enum Files<'a> {
    /// All that are in the folder.
    All,
    /// Those of this credential in a flat root.
    Named {
        /// The path of the root.
        root: &'a Path,
        /// The name of the credential.
        credential: &'a str,
    },
    /// These, wherever they are, each with the name by which it is known in a credential folder.
    At(&'a [(&'static str, PathBuf)]),
}

impl<'a> From<&'a Path> for Source<'a> {
    /// A credential folder.
    fn from(folder: &'a Path) -> Self {
        let files = Files::All;
        Self { folder, files }
    }
}

impl Source<'_> {
    /// The path of the file that is known as `name` in a credential folder.
    pub fn path_of(&self, name: &str) -> PathBuf {
        match self.files {
            Files::All => self.folder.join(name),
            Files::Named { root, credential } => root.join(flat::name_of(credential, name)),
            Files::At(files) => {
                let mut files = files.iter();
                let file = files.find(|(known, _)| *known == name);
                file.map_or_else(|| self.folder.join(name), |(_, path)| path.clone())
            }
        }
    }
}

/// How a folder is read.
#[derive(Clone, Copy)]
pub struct Options<'a> {
    /// What a folder may cost.
    pub limits: &'a Limits,
    /// The root that the folder is in, where no link may lead out of it, and no file be read that
    /// the owner of the folder could not read himself.
    pub confine: Option<&'a Path>,
    /// The way to the root that the folder is in, where the listing of the root watches the folders above it.
    pub route: Option<&'a Route>,
    /// Which of these names, by their places, could be part of a credential. Where a folder holds
    /// more files than the limit, those alone count and are read.
    pub parts: fn(&[&str]) -> Vec<usize>,
}

/// A bit of [`File::mode`] that no mode has: an access control list lets others have the file.
pub const LISTED: u32 = 0o10_000;

/// A regular file, read whole. Its bytes are wiped when dropped.
pub struct File {
    /// Its name in the folder.
    pub name: String,
    /// All of it.
    pub bytes: Zeroizing<Vec<u8>>,
    /// Its permission bits, and [`LISTED`].
    pub mode: u32,
}

/// What a read found.
pub struct Reading {
    /// Whether the folder was there at all.
    pub present: bool,
    /// The regular files, by name; names that begin with `..` are skipped.
    pub files: Vec<File>,
    /// What could not be read, and why.
    pub problems: Vec<Problem>,
    /// The state of every file and folder that was examined: equal stamps mean that nothing changed.
    pub stamps: Stamps,
    /// The root that it was read in, if [`Options::route`] or [`Options::confine`] names one.
    pub root: RootFolder,
}

/// Reads the files of a credential once. Where their folder has a link `..data`, that is what leads to
/// the files: all of one generation, even when the link is switched meanwhile.
///
/// Never blocks on what it finds there, and is bounded by the limits, whatever it finds.
pub fn read<'a>(source: impl Into<Source<'a>>, options: Options<'_>, arm: &mut dyn Arm) -> Reading {
    let source = source.into();
    for _ in 0..ATTEMPTS {
        let mut read = Read::new(source, options, &mut *arm);
        let present = read.run();
        if !read.raced {
            return read.finish(present);
        }
    }
    let mut read = Read::new(source, options, arm);
    read.walk.stamps.unsure();
    read.problem(
        Reason::Unreadable,
        source.folder,
        "it changes faster than it can be read",
        "write new files beside it and switch a link, or rename them into place",
    );
    read.finish(true)
}

/// A name in a listing, and what kind of thing it is there.
type Listed = (OsString, FileType);

/// One attempt at a read.
struct Read<'a> {
    walk: Walk<'a>,
    folder: &'a Path,
    which: Files<'a>,
    options: Options<'a>,
    /// The owner of the folder, where the read is confined.
    owner: Option<Owner>,
    files: Vec<File>,
    problems: Vec<Problem>,
    /// Whether something changed on the way, so that what was found may never have been there.
    raced: bool,
}

impl<'a> Read<'a> {
    fn new(source: Source<'a>, options: Options<'a>, arm: &'a mut dyn Arm) -> Self {
        Self {
            walk: Walk::new(arm),
            folder: source.folder,
            which: source.files,
            options,
            owner: None,
            files: Vec::new(),
            problems: Vec::new(),
            raced: false,
        }
    }

    fn finish(self, present: bool) -> Reading {
        Reading {
            present,
            files: self.files,
            problems: self.problems,
            root: RootFolder::of(self.walk.root, present),
            stamps: self.walk.stamps.finish(self.folder),
        }
    }

    /// Reads all there is, and tells whether the credential is there.
    fn run(&mut self) -> bool {
        let folder = match self.which {
            Files::All => self.folder,
            Files::Named { root, .. } => root,
            Files::At(files) => {
                self.files_at(files);
                return !files.is_empty();
            }
        };
        let Options { confine, route, .. } = self.options;
        match open_folder(&mut self.walk, confine, route, folder) {
            Ok(folder) => match self.owner_of(&folder) {
                Ok(owner) => {
                    self.owner = owner;
                    self.files_of(&folder)
                }
                Err(error) => {
                    self.failed(self.folder, Failure::System(error));
                    true
                }
            },
            Err(NoFolder::Absent) => false,
            Err(NoFolder::Not(problem)) => {
                self.problems.push(problem);
                false
            }
            Err(NoFolder::Unknown(problem)) => {
                self.problems.push(problem);
                true
            }
        }
    }

    /// The owner of the folder, where that matters.
    fn owner_of(&self, folder: &Folder) -> Result<Option<Owner>, Errno> {
        let confined = self.options.confine.is_some();
        let owner = confined.then(|| Owner::of(folder, self.walk.linked_by));
        owner.transpose()
    }

    fn files_of(&mut self, folder: &Rc<Folder>) -> bool {
        match self.walk.lookup_link(folder, OsStr::new(DATA)) {
            Ok(Entry::Link(link)) => self.generation(folder, &link),
            // A thing of that name that is no link is one more name that begins with `..`.
            Ok(_) | Err(Failure::Absent) => self.files_in(folder),
            Err(failure) => {
                self.failed(self.folder, failure);
                true
            }
        }
    }

    /// Reads the credential's files in `folder`, and tells whether there is one that counts.
    fn files_in(&mut self, folder: &Rc<Folder>) -> bool {
        match self.which {
            Files::Named { credential, .. } => self.named(folder, credential),
            _ => {
                self.every_file(folder);
                true
            }
        }
    }

    /// Reads the files of a credential in a flat root.
    fn named(&mut self, folder: &Rc<Folder>, credential: &str) -> bool {
        let mut counts = false;
        for (name, known_as) in flat::names(credential) {
            let (files, problems) = (self.files.len(), self.problems.len());
            let found = self.walk.follow(Rc::clone(folder), Path::new(&name), 0);
            self.entry(found, &known_as);
            let found = self.files.len() > files || self.problems.len() > problems || self.raced;
            counts |= found && flat::member(&name).is_some_and(|member| member.counts);
        }
        counts
    }

    /// Reads files at paths of their own.
    fn files_at(&mut self, files: &[(&'static str, PathBuf)]) {
        let mut leaves = Vec::new();
        for (known_as, path) in files {
            let shown = self.folder.join(known_as);
            match self.walk.find(path) {
                Ok(Found::Other(mut leaf)) => {
                    self.file(known_as, &shown, &mut leaf);
                    leaves.push((path, leaf));
                }
                Ok(Found::Folder(_)) => self.not_a_file(&shown, FileType::Directory),
                Err(failure) => self.failed(&shown, failure),
            }
        }
        // Links on the way may have been switched between one file and the next.
        for (path, leaf) in leaves {
            let found = self.walk.find(path);
            let still = matches!(found, Ok(Found::Other(now)) if same(&now.stat, &leaf.stat));
            self.raced |= !still;
        }
    }

    /// Reads the generation that `link`, the folder's `..data`, leads to.
    fn generation(&mut self, folder: &Rc<Folder>, link: &Link) -> bool {
        let mut there = true;
        self.walk.for_listing = matches!(self.which, Files::All);
        let found = self.walk.follow(Rc::clone(folder), &link.target, 1);
        self.walk.for_listing = false;
        match found {
            Ok(Found::Folder(generation)) => {
                self.walk.set_complete(&generation);
                there = self.files_in(&generation);
            }
            Ok(Found::Other(_)) => self.problem(
                Reason::NotAFile,
                self.folder,
                "its link `..data` does not lead to a folder",
                "let it lead to the folder with the files",
            ),
            // All of the folder is behind that link.
            Err(failure) => self.failed(self.folder, failure),
        }
        // A generation is taken away once the link has been switched, perhaps while it was read.
        // A link's target can't change: another target is another inode.
        let now = statat(&folder.fd, DATA, AtFlags::SYMLINK_NOFOLLOW);
        self.raced |= !now.is_ok_and(|now| same(&now, &link.stat));
        there
    }

    /// Reads every file that is directly in `folder`.
    fn every_file(&mut self, folder: &Rc<Folder>) {
        let dir = self.walk.dir(folder);
        self.walk.arm.arm(dir, Interest::All);
        let names = match self.names(folder) {
            Ok(Ok(names)) => names,
            Ok(Err(limit)) => {
                let what = format!("it holds more than {limit} files");
                let remedy = "keep one credential in a folder, and nothing else";
                return self.problem(Reason::TooLarge, self.folder, what, remedy);
            }
            Err(error) => return self.failed(self.folder, Failure::System(error)),
        };
        for (name, kind) in names {
            let Some(utf8) = name.to_str() else {
                let path = self.folder.join(&name);
                let what = "its name is not UTF-8";
                self.problem(Reason::Name, &path, what, "rename it, or delete it");
                continue;
            };
            let found = self.walk.find_listed(folder, &name, kind);
            self.entry(found, utf8);
        }
    }

    /// Reads what a walk has found as the file `known_as`, if it is there.
    fn entry(&mut self, found: Result<Found, Failure>, known_as: &str) {
        let path = self.folder.join(known_as);
        match found {
            Ok(Found::Other(mut leaf)) => self.file(known_as, &path, &mut leaf),
            Ok(Found::Folder(_)) => self.not_a_file(&path, FileType::Directory),
            // Gone since it was listed: certbot unlinks a link and creates it again.
            Err(Failure::Absent) => {}
            Err(failure) => self.failed(&path, failure),
        }
    }

    /// The names in `folder` that matter, in order, or the limit that they exceed.
    fn names(&mut self, folder: &Folder) -> Result<Result<Vec<Listed>, usize>, Errno> {
        let mut names = Vec::new();
        for (count, entry) in list(&mut self.walk, folder)?.enumerate() {
            let (name, kind) = entry?;
            if count == MAX_NAMES {
                return Ok(Err(MAX_NAMES));
            }
            if !name.as_encoded_bytes().starts_with(b"..") {
                names.push((name, kind));
            }
        }
        names.sort_unstable_by(|(a, _), (b, _)| a.cmp(b));
        let limit = self.options.limits.files;
        if names.len() > limit {
            names = self.parts(names);
        }
        Ok(if names.len() > limit {
            Err(limit)
        } else {
            Ok(names)
        })
    }

    /// Those of the names that could be part of a credential.
    fn parts(&self, mut names: Vec<Listed>) -> Vec<Listed> {
        names.retain(|(name, _)| name.to_str().is_some());
        let texts: Vec<&str> = names.iter().filter_map(|(name, _)| name.to_str()).collect();
        let parts: BTreeSet<usize> = (self.options.parts)(&texts).into_iter().collect();
        let places = 0..names.len();
        let mut places = places.map(|place| parts.contains(&place));
        names.retain(|_| places.next() == Some(true));
        names
    }

    fn file(&mut self, name: &str, path: &Path, leaf: &mut Leaf) {
        let kind = FileType::from_raw_mode(leaf.stat.st_mode);
        if kind != FileType::RegularFile {
            return self.not_a_file(path, kind);
        }
        let dir = self.walk.dir(&leaf.folder);
        self.walk.arm.arm(dir, Interest::Content(&leaf.name));
        match slurp(leaf, self.options.limits.file_bytes) {
            Ok(Slurped::Whole {
                bytes,
                stat,
                shared,
                file,
            }) => {
                let seen = Seen {
                    name: &leaf.name,
                    modified: modified(&stat),
                    shared,
                };
                self.walk.arm.saw(self.walk.dir(&leaf.folder), seen);
                if let Some(problem) = self.not_his(path, leaf, &file, &stat) {
                    return self.problems.push(problem);
                }
                let listed = Rights::list_admits_others(&file, &stat);
                self.files.push(File {
                    name: name.to_owned(),
                    bytes,
                    mode: stat.st_mode & 0o7777 | if listed { LISTED } else { 0 },
                });
            }
            Ok(Slurped::TooLarge) => {
                let limit = self.options.limits.file_bytes;
                let what = format!("it is larger than {limit} bytes");
                let remedy = "put nothing but the credential's files here";
                self.problem(Reason::TooLarge, path, what, remedy);
            }
            Ok(Slurped::Raced) => self.raced = true,
            Err(Errno::STALE) => self.raced = true,
            Err(error) => self.failed(path, Failure::System(error)),
        }
    }

    /// What is wrong with a file that the owner of the folder must not have by way of the agent.
    fn not_his(&self, path: &Path, leaf: &Leaf, file: &OwnedFd, stat: &Stat) -> Option<Problem> {
        let owner = self.owner.as_ref()?;
        match owner.may_have(leaf, file, stat) {
            Ok(true) => None,
            Ok(false) => Some(Problem::new(
                Reason::Unreadable,
                path,
                format!(
                    "it is not read in a confined root: it belongs to the user {}, and the owner of \
                     the folder, the user {}, could not read it",
                    stat.st_uid,
                    owner.uid()
                ),
                "put a file of the folder's owner or of root there, and no link, or switch \
                 `confine` off",
            )),
            Err(error) => Some(problem(path, Failure::System(error))),
        }
    }

    fn not_a_file(&mut self, path: &Path, kind: FileType) {
        let what = match kind {
            FileType::Directory => "it is a folder, not a file",
            FileType::Fifo => "it is a pipe, not a file",
            FileType::Socket => "it is a socket, not a file",
            _ => "it is a device, not a file",
        };
        let remedy = "put a regular file there, or delete it";
        self.problem(Reason::NotAFile, path, what, remedy);
    }

    fn failed(&mut self, path: &Path, failure: Failure) {
        if let Failure::System(error) = failure {
            self.walk.stamps.failed(error);
        }
        self.problems.push(problem(path, failure));
    }

    fn problem(
        &mut self,
        reason: Reason,
        path: &Path,
        what: impl Into<String>,
        remedy: &'static str,
    ) {
        self.problems.push(Problem::new(reason, path, what, remedy));
    }
}

/// Whether a file is unchanged between two calls of `stat`.
pub(super) fn same(a: &Stat, b: &Stat) -> bool {
    FileId::of(a) == FileId::of(b)
        && (a.st_size, a.st_mtime, a.st_mtime_nsec) == (b.st_size, b.st_mtime, b.st_mtime_nsec)
        && (a.st_ctime, a.st_ctime_nsec) == (b.st_ctime, b.st_ctime_nsec)
}

/// When the content last changed. An unknown time counts as long ago.
#[allow(clippy::unnecessary_cast)] // The widths differ between architectures.
fn modified(stat: &Stat) -> std::time::SystemTime {
    let (Ok(seconds), nanos) = (u64::try_from(stat.st_mtime), stat.st_mtime_nsec as u32) else {
        return std::time::UNIX_EPOCH;
    };
    std::time::UNIX_EPOCH
        .checked_add(std::time::Duration::new(seconds, nanos.min(999_999_999)))
        .unwrap_or(std::time::UNIX_EPOCH)
}

#[cfg(test)]
mod tests;
