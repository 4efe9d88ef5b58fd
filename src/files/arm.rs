//! What a read reports to the watch.

use std::ffi::OsStr;
use std::os::fd::BorrowedFd;
use std::path::Path;
use std::time::SystemTime;

use rustix::fs::Stat;

/// Identifies a file or folder, whatever its path.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct FileId {
    /// The device (`st_dev`).
    pub device: u64,
    /// The inode on that device.
    pub inode: u64,
}

/// Which folder a root is, as a read or a listing found it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum RootFolder {
    /// This one.
    Found(FileId),
    /// It does not exist.
    Absent,
    /// It is unknown, or does not matter.
    #[default]
    Unknown,
}

impl RootFolder {
    /// The state for the `folder` that a walk reached. Without one, something may be `present` that could not be
    /// reached.
    pub(super) fn of(folder: Option<FileId>, present: bool) -> Self {
        match (folder, present) {
            (Some(folder), _) => Self::Found(folder),
            (None, true) => Self::Unknown,
            (None, false) => Self::Absent,
        }
    }

    /// Whether it may be the same one.
    pub fn agrees(self, other: Self) -> bool {
        self == other || self == Self::Unknown || other == Self::Unknown
    }
}

/// A folder that a walk holds open.
#[derive(Clone, Copy, Debug)]
pub struct Dir<'a> {
    /// The folder itself.
    pub fd: BorrowedFd<'a>,
    /// Its path without links.
    pub path: &'a Path,
    /// Which folder it is, whatever its path.
    pub id: FileId,
    /// Whether its file system may change without this machine's kernel knowing (NFS and such).
    pub remote: bool,
    /// Whether its files were complete before it could be reached, like those behind `..data`.
    pub complete: bool,
}

/// What a walk looks up in a folder.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Interest<'a> {
    /// What this name refers to.
    Name(&'a OsStr),
    /// This name, and the content of the file that it refers to.
    Content(&'a OsStr),
    /// Which names exist, but not what they refer to.
    Names,
    /// Everything in it, except names that begin with `..`.
    All,
}

/// Called for every folder right before something is looked up in it, so that a watch is in place
/// before the read that depends on it.
pub trait Arm {
    /// `interest` in `dir` is about to be looked up.
    fn arm(&mut self, dir: Dir<'_>, interest: Interest<'_>);

    /// A file in `dir` was read.
    fn saw(&mut self, dir: Dir<'_>, file: Seen<'_>);
}

/// A regular file that was read.
#[derive(Clone, Copy, Debug)]
pub struct Seen<'a> {
    /// Its name.
    pub name: &'a OsStr,
    /// When its content last changed.
    pub modified: SystemTime,
    /// Whether it can be written under another name, without an event in the folder of this name: it has several
    /// hard links, or is mounted here.
    pub shared: bool,
}

/// For a single read, without a watch.
pub struct Unwatched;

impl Arm for Unwatched {
    fn arm(&mut self, _: Dir<'_>, _: Interest<'_>) {}
    fn saw(&mut self, _: Dir<'_>, _: Seen<'_>) {}
}

impl FileId {
    /// The file or folder that `stat` describes.
    #[allow(clippy::unnecessary_cast)] // The widths differ between architectures.
    pub(super) fn of(stat: &Stat) -> Self {
        Self {
            device: stat.st_dev as u64,
            inode: stat.st_ino as u64,
        }
    }
}
