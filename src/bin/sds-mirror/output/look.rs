//! What a folder holds, and whether the mirror made it.

use std::io;
use std::os::fd::{AsFd, OwnedFd};

use rustix::fs::{FileType, fstat};
use rustix::io::Errno;

use super::sys;
use crate::manifest::{self, Manifest};
use crate::select::Files;

/// The link to the current generation.
pub(super) const DATA: &str = "..data";

/// What stands under a name.
pub(super) enum Look {
    Ours(Box<Current>),
    Foreign,
    Absent,
}

/// A folder that the mirror made, as it is.
pub(super) struct Current {
    pub(super) manifest: Manifest,
    /// The folder.
    pub(super) dir: OwnedFd,
    /// The current generation's name, and its folder.
    pub(super) generation: String,
    pub(super) data: OwnedFd,
    /// The names of the links to files.
    pub(super) links: Vec<String>,
    /// Hidden names besides the current generation: what a crash left.
    pub(super) leftovers: Vec<String>,
    /// Whether there is anything else: somebody put it there.
    pub(super) has_strangers: bool,
}

/// Looks at what is under `name` in the output folder `output`.
pub(super) fn current(output: impl AsFd, name: &str) -> io::Result<Look> {
    match open(output, name) {
        // The mirror makes nothing that it can't read.
        Err(error) if error.kind() == io::ErrorKind::PermissionDenied => Ok(Look::Foreign),
        result => result,
    }
}

fn open(output: impl AsFd, name: &str) -> io::Result<Look> {
    let dir = match sys::open_folder(output, name) {
        Ok(dir) => dir,
        Err(Errno::NOENT) => return Ok(Look::Absent),
        Err(Errno::NOTDIR | Errno::LOOP) => return Ok(Look::Foreign),
        Err(errno) => return Err(errno.into()),
    };
    let Some(generation) = sys::link_target(&dir, DATA)?.filter(|to| sys::is_generation(to)) else {
        return Ok(Look::Foreign);
    };
    let data = match sys::open_folder(&dir, &generation) {
        Ok(data) => data,
        Err(Errno::NOENT | Errno::NOTDIR | Errno::LOOP) => return Ok(Look::Foreign),
        Err(errno) => return Err(errno.into()),
    };
    let bytes = sys::read_file(&data, manifest::FILE_NAME, manifest::MAX_BYTES)?;
    let Some(manifest) = bytes.and_then(|bytes| Manifest::from_bytes(&bytes)) else {
        return Ok(Look::Foreign);
    };
    let mut current = Box::new(Current {
        manifest,
        dir,
        generation,
        data,
        links: Vec::new(),
        leftovers: Vec::new(),
        has_strangers: false,
    });
    current.sort_entries()?;
    Ok(Look::Ours(current))
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
                self.has_strangers = true;
            }
        }
        Ok(())
    }

    /// Whether the current generation holds exactly `files`, with the right modes and group.
    pub(super) fn holds(&self, files: &Files, group: Option<u32>) -> io::Result<bool> {
        let names = sys::names(&self.data)?;
        let is_file = |name: &&String| name.as_str() != manifest::FILE_NAME;
        if names.iter().filter(is_file).count() != files.len()
            || !has_mode(&self.data, sys::FOLDER_MODE, group)?
            || !has_mode(&self.dir, sys::FOLDER_MODE, group)?
        {
            return Ok(false);
        }
        for (name, content) in files {
            let there = sys::read_file(&self.data, name, content.len())?;
            let there = there.map(zeroize::Zeroizing::new);
            if there.is_none_or(|there| *there != **content) {
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// Whether there is a link for each of `files`, and no other one.
    pub(super) fn links_are_of(&self, files: &Files) -> bool {
        self.links.len() == files.len() && self.links.iter().all(|link| files.contains_key(link))
    }
}

/// Where the link to a file leads.
pub(super) fn link_target(name: &str) -> String {
    format!("{DATA}/{name}")
}

fn has_mode(fd: impl AsFd, mode: u32, group: Option<u32>) -> io::Result<bool> {
    let stat = fstat(fd)?;
    let bits = stat.st_mode & 0o7777;
    Ok(FileType::from_raw_mode(stat.st_mode).is_dir()
        && bits == mode
        && group.is_none_or(|group| stat.st_gid == group))
}
