//! A path walk in user space: every folder is announced right before a name is looked up in it.

use std::ffi::OsStr;
use std::path::Path;
use std::time::SystemTime;

/// A file or folder whatever its path is now.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct FileId {
    /// The device, as `st_dev` has it.
    pub device: u64,
    /// The inode on it.
    pub inode: u64,
}

/// A folder that a walk holds open.
#[derive(Clone, Copy, Debug)]
pub struct Dir<'a> {
    /// Its path without links.
    pub path: &'a Path,
    /// Which folder it is, so that a watch on another one that has taken its path is noticed.
    pub id: FileId,
    /// Whether its file system may change without a word to this machine's kernel (NFS and such).
    pub remote: bool,
    /// Whether its files were complete before it could be reached: what `..data` leads to.
    pub complete: bool,
}

/// What in a folder matters to a walk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Interest<'a> {
    /// This one name.
    Name(&'a OsStr),
    /// Which names there are, and what stands behind them is of no matter.
    Names,
    /// Everything in it.
    All,
}

/// Told of every folder right before something is looked up in it, so that a watch is in place
/// before the read that depends on it.
pub trait Arm {
    /// `interest` in `dir` is about to be looked up.
    fn arm(&mut self, dir: Dir<'_>, interest: Interest<'_>);

    /// The file `name` in `dir` was read; its content last changed at `modified`.
    fn saw(&mut self, dir: Dir<'_>, name: &OsStr, modified: SystemTime);
}

/// For a single look at the files, when nothing is to be watched.
pub struct Unwatched;

impl Arm for Unwatched {
    fn arm(&mut self, _: Dir<'_>, _: Interest<'_>) {}
    fn saw(&mut self, _: Dir<'_>, _: &OsStr, _: SystemTime) {}
}
