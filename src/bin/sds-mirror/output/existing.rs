//! Reads an existing folder, and decides whether the mirror made it.

use std::io;
use std::os::fd::{AsFd, OwnedFd};

use rustix::fs::{Stat, fstat};
use rustix::io::Errno;
use zeroize::Zeroizing;

use super::sys;
use crate::config::Rights;
use crate::manifest::{self, Manifest};
use crate::select::Files;

/// The maximum size of a file that is read back: the agent reads no larger ones.
const MAX_FILE: usize = 1024 * 1024;

/// The link to the current generation.
pub(super) const DATA: &str = "..data";

/// What exists under a name.
pub(super) enum Existing {
    Ours(Box<Current>),
    Foreign,
    Absent,
}

/// The current state of a folder that the mirror made.
pub(super) struct Current {
    pub(super) manifest: Manifest,
    /// The folder.
    pub(super) dir: OwnedFd,
    /// The current generation's name, and its folder.
    pub(super) generation: String,
    pub(super) data: OwnedFd,
    /// The names of the links to files.
    pub(super) links: Vec<String>,
    /// Hidden entries except for the current generation, left by a crash.
    pub(super) leftovers: Vec<String>,
    /// Whether it has files that the mirror did not create.
    pub(super) has_foreign_files: bool,
}

/// Identifies the files of a folder without their content: it changes if a file is replaced, written or removed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Stamp {
    links: Vec<String>,
    /// Name, inode, size, and time of the last change of each file.
    files: Vec<(String, u64, i64, i64, i64)>,
}

impl Stamp {
    /// Whether this can be the stamp of `files`.
    pub(crate) fn is_of(&self, files: &Files) -> bool {
        let sizes = files.iter().map(|(name, bytes)| (name, bytes.len()));
        let there = self.files.iter();
        let there = there.map(|file| (&file.0, usize::try_from(file.2).unwrap_or(usize::MAX)));
        self.links.iter().eq(files.keys()) && there.eq(sizes)
    }
}

/// Reads the entry `name` of the output folder.
pub(super) fn current(output: impl AsFd, name: &str) -> io::Result<Existing> {
    let dir = match sys::open_folder(output, name) {
        Ok(dir) => dir,
        Err(Errno::NOENT) => return Ok(Existing::Absent),
        Err(Errno::NOTDIR | Errno::LOOP) => return Ok(Existing::Foreign),
        Err(errno) => return Err(errno.into()),
    };
    let Some(generation) = sys::link_target(&dir, DATA)?.filter(|to| sys::is_generation(to)) else {
        return Ok(Existing::Foreign);
    };
    let data = match sys::open_folder(&dir, &generation) {
        Ok(data) => data,
        Err(Errno::NOENT | Errno::NOTDIR | Errno::LOOP) => return Ok(Existing::Foreign),
        Err(errno) => return Err(errno.into()),
    };
    let bytes = sys::read_file(&data, manifest::FILE_NAME, manifest::MAX_BYTES)?;
    let Some(manifest) = bytes.and_then(|bytes| Manifest::from_bytes(&bytes)) else {
        return Ok(Existing::Foreign);
    };
    let mut current = Box::new(Current {
        manifest,
        dir,
        generation,
        data,
        links: Vec::new(),
        leftovers: Vec::new(),
        has_foreign_files: false,
    });
    current.sort_entries()?;
    Ok(Existing::Ours(current))
}

impl Current {
    fn sort_entries(&mut self) -> io::Result<()> {
        for name in sys::names(&self.dir)? {
            if name == DATA || name == self.generation {
                continue;
            }
            let target = sys::link_target(&self.dir, &name)?;
            if name.starts_with("..") {
                self.leftovers.push(name);
            } else if target.is_some_and(|target| target == link_target(&name)) {
                self.links.push(name);
            } else {
                self.has_foreign_files = true;
            }
        }
        Ok(())
    }

    /// Whether the current generation holds exactly `files`, with the right modes, owner and group.
    pub(super) fn holds(&self, files: &Files, rights: Rights) -> io::Result<bool> {
        let mut names = sys::names(&self.data)?;
        names.retain(|name| name != manifest::FILE_NAME);
        if names.len() != files.len()
            || !is_settled(&fstat(&self.data)?, rights, rights.dir_mode)
            || !is_settled(&fstat(&self.dir)?, rights, rights.dir_mode)
        {
            return Ok(false);
        }
        for (name, content) in files {
            let Some(stat) = sys::stat_file(&self.data, name)? else {
                return Ok(false);
            };
            let there = sys::read_file(&self.data, name, content.len())?;
            let there = there.map(Zeroizing::new);
            if !is_settled(&stat, rights, rights.file_mode)
                || there.is_none_or(|there| *there != **content)
            {
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// The files of the current generation.
    pub(super) fn files(&self) -> io::Result<Files> {
        let mut files = Files::new();
        for name in self.names()? {
            if let Some(bytes) = sys::read_file(&self.data, &name, MAX_FILE)? {
                files.insert(name, Zeroizing::new(bytes));
            }
        }
        Ok(files)
    }

    /// Corrects modes, owner and group. Returns the names of corrected entries.
    pub(super) fn mend(&self, rights: Rights) -> io::Result<Vec<String>> {
        let mut mended = Vec::new();
        for (dir, name) in [(&self.dir, "the folder"), (&self.data, DATA)] {
            if !is_settled(&fstat(dir)?, rights, rights.dir_mode) {
                sys::settle(dir, rights, rights.dir_mode)?;
                mended.push(name.to_owned());
            }
        }
        for name in sys::names(&self.data)? {
            let stat = sys::stat_file(&self.data, &name)?;
            if stat.is_some_and(|stat| !is_settled(&stat, rights, rights.file_mode)) {
                sys::settle_file(&self.data, &name, rights)?;
                mended.push(name);
            }
        }
        Ok(mended)
    }

    /// The stamp of the current files.
    pub(super) fn stamp(&self) -> io::Result<Stamp> {
        let mut files = Vec::new();
        for name in self.names()? {
            if let Some(stat) = sys::stat_file(&self.data, &name)? {
                let nanos = i64::try_from(stat.st_mtime_nsec).unwrap_or_default();
                files.push((name, stat.st_ino, stat.st_size, stat.st_mtime, nanos));
            }
        }
        let mut links = self.links.clone();
        links.sort();
        files.sort();
        Ok(Stamp { links, files })
    }

    /// The names of the files in the current generation, without the manifest and a partially written one left by
    /// a crash.
    fn names(&self) -> io::Result<Vec<String>> {
        let mut names = sys::names(&self.data)?;
        names.retain(|name| !name.starts_with(".."));
        Ok(names)
    }

    /// Whether there are links for exactly `files`.
    pub(super) fn links_are_of(&self, files: &Files) -> bool {
        self.links.len() == files.len() && self.links.iter().all(|link| files.contains_key(link))
    }
}

/// The target of the link to a file.
pub(super) fn link_target(name: &str) -> String {
    format!("{DATA}/{name}")
}

fn is_settled(stat: &Stat, rights: Rights, mode: u32) -> bool {
    stat.st_mode & 0o7777 == mode
        && rights.owner.is_none_or(|owner| stat.st_uid == owner)
        && rights.group.is_none_or(|group| stat.st_gid == group)
}
