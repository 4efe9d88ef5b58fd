//! Whether the owner of a credential folder could read a file himself: in a confined root, where
//! several users own folders, the agent must not read for one of them what is another's.

use nix::unistd::{Gid, Uid, User, getgrouplist};
use rustix::fs::{Stat, fstat};
use rustix::io::Errno;

use super::arm::FileId;
use super::resolve::{Folder, Leaf};

/// The owner of a credential folder.
pub(super) struct Owner {
    uid: u32,
    /// The folder, where it is his.
    folder: Option<FileId>,
}

/// What a user may do with a file or folder, as the bits of the last digit of a mode.
#[derive(Clone, Copy)]
enum Right {
    Read = 0o4,
    Search = 0o1,
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
        })
    }

    /// The user's id.
    pub(super) fn uid(&self) -> u32 {
        self.uid
    }

    /// Whether he could read the file at `leaf`, whose state is `stat`, or root has put it into his
    /// folder for the agent.
    pub(super) fn may_have(&self, leaf: &Leaf, stat: &Stat) -> Result<bool, Errno> {
        if self.uid == 0 || stat.st_uid == self.uid {
            return Ok(true);
        }
        let mut above = Vec::new();
        let way = std::iter::successors(Some(&*leaf.folder), |folder| folder.above.as_deref());
        for folder in way {
            let state = fstat(&folder.fd)?;
            if Some(FileId::of(&state)) == self.folder {
                // A file with more names may be one of root's that he has given a name here.
                let put_by_root = stat.st_uid == 0 && stat.st_nlink == 1;
                return Ok(put_by_root || self.has(Right::Read, stat));
            }
            above.push(state);
        }
        let search = |folder: &Stat| self.has(Right::Search, folder);
        Ok(self.has(Right::Read, stat) && above.iter().all(search))
    }

    /// Whether he has this right to a file or folder, by its mode.
    fn has(&self, right: Right, stat: &Stat) -> bool {
        let right = right as u32;
        let (user, group, other) = (right << 6, right << 3, right);
        if stat.st_uid == self.uid {
            return stat.st_mode & user != 0;
        }
        if stat.st_mode & (group | other) == group | other {
            return true;
        }
        // A membership that can't be looked up may take a right as well as give it.
        stat.st_mode & (group | other) != 0
            && match self.is_member(stat.st_gid) {
                Some(true) => stat.st_mode & group != 0,
                Some(false) => stat.st_mode & other != 0,
                None => false,
            }
    }

    /// Whether he is in a group, as far as the user database can tell.
    fn is_member(&self, gid: u32) -> Option<bool> {
        let user = User::from_uid(Uid::from_raw(self.uid)).ok()??;
        let name = std::ffi::CString::new(user.name).ok()?;
        let groups = getgrouplist(&name, user.gid).ok()?;
        Some(groups.contains(&Gid::from_raw(gid)))
    }
}
