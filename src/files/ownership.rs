//! Whether the owner of a credential folder could read a file without the agent: in a confined root, where several
//! users own folders, the agent must not read another user's file for one of them.

use std::cell::OnceCell;
use std::os::fd::OwnedFd;

use nix::unistd::{Gid, Uid, User, getgrouplist};
use rustix::fs::{Stat, fstat};
use rustix::io::Errno;

use super::arm::FileId;
use super::resolve::{Folder, Leaf};
use crate::rights::{READ, Rights, SEARCH};

/// The owner of a credential folder.
pub(super) struct Owner {
    uid: u32,
    /// The folder, if the owner owns it.
    folder: Option<FileId>,
    /// The owner's groups, looked up when they matter; `None` if that fails.
    groups: OnceCell<Option<Vec<Gid>>>,
}

impl Owner {
    /// The owner of `folder`. If a link led there, `linked_by` is the user who made it: a user who links to another
    /// user's folder does not own it.
    pub(super) fn of(folder: &Folder, linked_by: Option<u32>) -> Result<Self, Errno> {
        let stat = fstat(&folder.fd)?;
        let uid = linked_by.filter(|uid| *uid != 0).unwrap_or(stat.st_uid);
        Ok(Self {
            uid,
            folder: (uid == stat.st_uid).then(|| FileId::of(&stat)),
            groups: OnceCell::new(),
        })
    }

    /// The user's id.
    pub(super) fn uid(&self) -> u32 {
        self.uid
    }

    /// Whether the owner could read the open `file` at `leaf`, whose state is `stat`, or root has put it into the
    /// owner's folder for the agent. Rights that can't be read count as none.
    pub(super) fn may_have(&self, leaf: &Leaf, file: &OwnedFd, stat: &Stat) -> Result<bool, Errno> {
        if self.uid == 0 || stat.st_uid == self.uid {
            return Ok(true);
        }
        let readable = || Rights::of(file, stat).is_ok_and(|rights| self.has(READ, &rights));
        let mut above = Vec::new();
        let way = std::iter::successors(Some(&*leaf.folder), |folder| folder.above.as_deref());
        for folder in way {
            let state = fstat(&folder.fd)?;
            if Some(FileId::of(&state)) == self.folder {
                // A file with several names may be a file of root that the owner has linked here.
                let put_by_root = stat.st_uid == 0 && stat.st_nlink == 1;
                return Ok(put_by_root || readable());
            }
            above.push((folder, state));
        }
        let searchable = |(folder, state): &(&Folder, Stat)| {
            Rights::of(&folder.fd, state).is_ok_and(|rights| self.has(SEARCH, &rights))
        };
        Ok(readable() && above.iter().all(searchable))
    }

    fn has(&self, right: u32, rights: &Rights) -> bool {
        rights.allow(self.uid, |gid| self.is_member(gid), right)
    }

    /// Whether the owner is in a group, as far as the user database knows.
    fn is_member(&self, gid: u32) -> Option<bool> {
        let groups = self.groups.get_or_init(|| {
            let user = User::from_uid(Uid::from_raw(self.uid)).ok()??;
            let name = std::ffi::CString::new(user.name).ok()?;
            getgrouplist(&name, user.gid).ok()
        });
        Some(groups.as_ref()?.contains(&Gid::from_raw(gid)))
    }
}
