//! Whether the owner of a credential folder could read a file himself: in a confined root, where
//! several users own folders, the agent must not read for one of them what is another's.

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
    /// The folder, where it is his.
    folder: Option<FileId>,
    /// His groups, looked up when they matter; `None` where they can't be.
    groups: OnceCell<Option<Vec<Gid>>>,
}

impl Owner {
    /// The owner of `folder`, to which a link of the user `linked_by` has led, if any: whoever makes
    /// a link to another one's folder does not own that.
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

    /// Whether he could read the open `file` at `leaf`, whose state is `stat`, or root has put it into his
    /// folder for the agent. Rights that can't be read count as none.
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
                // A file with more names may be one of root's that he has given a name here.
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

    /// Whether he is in a group, as far as the user database can tell.
    fn is_member(&self, gid: u32) -> Option<bool> {
        let groups = self.groups.get_or_init(|| {
            let user = User::from_uid(Uid::from_raw(self.uid)).ok()??;
            let name = std::ffi::CString::new(user.name).ok()?;
            getgrouplist(&name, user.gid).ok()
        });
        Some(groups.as_ref()?.contains(&Gid::from_raw(gid)))
    }
}
