//! Who may read a file: its mode and its POSIX access control list (acl(5)).

use std::path::Path;

use rustix::fd::{AsFd, AsRawFd};
use rustix::fs::{Stat, fgetxattr, getxattr, stat};
use rustix::io::Errno;
use rustix::process::{getegid, geteuid, getgroups};

/// The right to read, as a bit of a mode.
pub const READ: u32 = 4;
/// The right to open what is in a folder.
pub const SEARCH: u32 = 1;

const ACL: &str = "system.posix_acl_access";
/// An access control list has few entries. A larger one can't be evaluated.
const ACL_BYTES: usize = 16 * 1024;

/// The rights to one file or folder.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rights {
    uid: u32,
    gid: u32,
    mode: u32,
    list: Vec<Entry>,
}

/// An entry of an access control list.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Entry {
    tag: u16,
    rights: u32,
    id: u32,
}

const USER: u16 = 0x02;
const GROUP_OBJ: u16 = 0x04;
const GROUP: u16 = 0x08;
const MASK: u16 = 0x10;

impl Rights {
    /// The rights to an open file or folder, which may have been opened with `O_PATH`.
    ///
    /// # Errors
    /// They can't be read.
    pub fn of(file: impl AsFd, stat: &Stat) -> Result<Self, Errno> {
        Self::new(stat, |buffer| match fgetxattr(&file, ACL, &mut *buffer) {
            // The kernel can't read attributes through such a descriptor, only through its link in /proc.
            Err(Errno::BADF) => {
                let link = format!("/proc/self/fd/{}", file.as_fd().as_raw_fd());
                getxattr(link, ACL, buffer)
            }
            result => result,
        })
    }

    /// The rights to the file or folder at `path`; links are followed.
    ///
    /// # Errors
    /// They can't be read.
    pub fn at(path: &Path) -> Result<Self, Errno> {
        Self::new(&stat(path)?, |buffer| getxattr(path, ACL, buffer))
    }

    fn new(
        stat: &Stat,
        read: impl FnOnce(&mut [u8]) -> Result<usize, Errno>,
    ) -> Result<Self, Errno> {
        let mut list = Vec::new();
        // The bits of the group limit what a list can give: without them, the kernel ignores the list.
        if stat.st_mode & 0o070 != 0 {
            let mut buffer = [0; ACL_BYTES];
            list = match read(&mut buffer) {
                Ok(length) => parse(&buffer[..length]).ok_or(Errno::INVAL)?,
                Err(Errno::NODATA | Errno::OPNOTSUPP) => Vec::new(),
                Err(error) => return Err(error),
            };
        }
        Ok(Self {
            uid: stat.st_uid,
            gid: stat.st_gid,
            mode: stat.st_mode,
            list,
        })
    }

    /// The user who owns it.
    pub fn owner(&self) -> u32 {
        self.uid
    }

    /// Whether a user has the rights `wanted`, by the kernel's rules. Root has all rights.
    ///
    /// `is_member` returns whether the user is in a group, or `None` if that is unknown. It is only called if a
    /// membership makes a difference. If one is unknown, no right is given: a membership may take a right away as
    /// well as give it.
    pub fn allow(
        &self,
        uid: u32,
        mut is_member: impl FnMut(u32) -> Option<bool>,
        wanted: u32,
    ) -> bool {
        if uid == 0 {
            return true;
        }
        if uid == self.uid {
            return self.mode >> 6 & wanted == wanted;
        }
        let user = self.list.iter().find(|e| e.tag == USER && e.id == uid);
        if let Some(user) = user {
            return user.rights & self.mask() & wanted == wanted;
        }
        let others = self.mode & wanted == wanted;
        let groups = self.groups();
        let grants = |rights: u32| rights & wanted == wanted;
        if groups.iter().all(|&(_, rights)| grants(rights) == others) {
            return others;
        }
        let mut is_in_any = false;
        for (gid, rights) in groups {
            match is_member(gid) {
                Some(true) if grants(rights) => return true,
                Some(true) => is_in_any = true,
                Some(false) => {}
                None => return false,
            }
        }
        !is_in_any && others
    }

    /// Each group that has its own rights, with these rights.
    fn groups(&self) -> Vec<(u32, u32)> {
        if self.list.is_empty() {
            return vec![(self.gid, self.mode >> 3)];
        }
        let entries = self.list.iter().filter_map(|entry| match entry.tag {
            GROUP_OBJ => Some((self.gid, entry.rights & self.mask())),
            GROUP => Some((entry.id, entry.rights & self.mask())),
            _ => None,
        });
        entries.collect()
    }

    /// Whether the access control list of an open file lets anyone read or write except for the owner, the owning
    /// group and this process, although the mode does not let everyone. A list that can't be read counts as none.
    pub fn list_admits_others(file: impl AsFd, stat: &Stat) -> bool {
        let of_list_alone = stat.st_mode >> 3 & !stat.st_mode & 6;
        of_list_alone != 0 && Self::of(file, stat).is_ok_and(|rights| rights.admits_others())
    }

    fn admits_others(&self) -> bool {
        if self.list.is_empty() {
            return false;
        }
        let mut groups = getgroups().unwrap_or_default();
        groups.push(getegid());
        let groups: Vec<u32> = groups.into_iter().map(|group| group.as_raw()).collect();
        self.list_admits_others_than(geteuid().as_raw(), &groups)
    }

    fn list_admits_others_than(&self, uid: u32, groups: &[u32]) -> bool {
        self.list.iter().any(|entry| {
            let known = match entry.tag {
                USER => entry.id == self.uid || entry.id == uid,
                GROUP => entry.id == self.gid || groups.contains(&entry.id),
                _ => true,
            };
            !known && entry.rights & self.mask() & 6 != 0
        })
    }

    fn mask(&self) -> u32 {
        let mask = self.list.iter().find(|entry| entry.tag == MASK);
        mask.map_or(7, |mask| mask.rights)
    }
}

/// The entries of a list in the form of the extended attribute: a version, then tag, rights and id of
/// each entry, little-endian.
fn parse(bytes: &[u8]) -> Option<Vec<Entry>> {
    const VERSION: u32 = 2;
    let (version, entries) = bytes.split_first_chunk::<4>()?;
    let (entries, rest) = entries.as_chunks::<8>();
    if u32::from_le_bytes(*version) != VERSION || !rest.is_empty() {
        return None;
    }
    let entries = entries
        .iter()
        .map(|&[t0, t1, r0, r1, i0, i1, i2, i3]| Entry {
            tag: u16::from_le_bytes([t0, t1]),
            rights: u16::from_le_bytes([r0, r1]).into(),
            id: u32::from_le_bytes([i0, i1, i2, i3]),
        });
    Some(entries.collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOBODY: u32 = u32::MAX;

    fn rights(mode: u32, list: &[(u16, u32, u32)]) -> Rights {
        let list = list
            .iter()
            .map(|&(tag, rights, id)| Entry { tag, rights, id });
        Rights {
            uid: 10,
            gid: 20,
            mode,
            list: list.collect(),
        }
    }

    #[test]
    fn the_first_class_that_a_user_belongs_to_decides() {
        for (mode, uid, groups, may) in [
            (0o640, 10, &[1][..], true),
            (0o640, 11, &[20], true),
            (0o640, 11, &[1, 20], true),
            (0o640, 11, &[1], false),
            (0o644, 11, &[1], true),
            (0o604, 11, &[20], false),
            (0o044, 10, &[20], false),
            (0o000, 0, &[], true),
        ] {
            let is_member = |gid| Some(groups.contains(&gid));
            let allowed = rights(mode, &[]).allow(uid, is_member, READ);
            assert_eq!(allowed, may, "{mode:o} {uid} {groups:?}");
        }
    }

    #[test]
    fn unknown_memberships_give_no_right_and_are_looked_up_only_if_they_matter() {
        let unknown = |_| None;
        let never = |_| -> Option<bool> { panic!("no membership makes a difference") };
        for (mode, may) in [(0o644, true), (0o600, false)] {
            assert_eq!(rights(mode, &[]).allow(11, never, READ), may, "{mode:o}");
        }
        assert!(rights(0o400, &[]).allow(10, never, READ));
        for mode in [0o640, 0o604] {
            assert!(!rights(mode, &[]).allow(11, unknown, READ), "{mode:o}");
        }
    }

    #[test]
    fn an_access_control_list_is_bounded_by_its_mask() {
        let list = |mask: u32| {
            rights(
                0o600 | mask << 3,
                &[
                    (0x01, 6, NOBODY),
                    (USER, 4, 30),
                    (GROUP_OBJ, 0, NOBODY),
                    (GROUP, 4, 40),
                    (MASK, mask, NOBODY),
                    (0x20, 0, NOBODY),
                ],
            )
        };
        for (uid, groups, may) in [
            (30, &[1][..], true),
            (31, &[40], true),
            (31, &[20, 40], true),
            (31, &[20], false),
            (31, &[1], false),
        ] {
            let is_member = |gid| Some(groups.contains(&gid));
            assert_eq!(list(4).allow(uid, is_member, READ), may, "{uid} {groups:?}");
            assert!(!list(0).allow(uid, is_member, READ), "{uid} {groups:?}");
        }
        assert!(list(4).list_admits_others_than(30, &[]), "the group 40");
        assert!(!list(4).list_admits_others_than(30, &[40]));
        assert!(!list(0).list_admits_others_than(5, &[]));
        assert!(!rights(0o644, &[]).list_admits_others_than(5, &[]));
    }

    #[test]
    fn what_is_not_a_list_counts_as_none() {
        assert_eq!(parse(&[]), None);
        assert_eq!(parse(&[1, 0, 0, 0]), None);
        assert_eq!(parse(&[2, 0, 0, 0, 1]), None);
        assert_eq!(parse(&[2, 0, 0, 0]), Some(vec![]));
    }

    #[test]
    fn the_kernels_lists_are_read() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let mut list = 2_u32.to_le_bytes().to_vec();
        for (tag, rights, id) in [
            (1_u16, 6_u16, NOBODY),
            (USER, 4, 4242),
            (GROUP_OBJ, 0, NOBODY),
            (MASK, 4, NOBODY),
            (0x20, 0, NOBODY),
        ] {
            list.extend(tag.to_le_bytes());
            list.extend(rights.to_le_bytes());
            list.extend(id.to_le_bytes());
        }
        let set = rustix::fs::setxattr(file.path(), ACL, &list, rustix::fs::XattrFlags::empty());
        if set == Err(Errno::OPNOTSUPP) {
            eprintln!(
                "left out: the file system of {:?} has no lists",
                file.path()
            );
            return;
        }
        set.unwrap();
        let rights = Rights::at(file.path()).unwrap();
        let in_no_group = |_| Some(false);
        assert!(rights.allow(4242, in_no_group, READ));
        assert!(!rights.allow(4243, in_no_group, READ));
        assert!(rights.list_admits_others_than(5, &[]));
        assert!(!rights.list_admits_others_than(4242, &[]));
        let stat = stat(file.path()).unwrap();
        assert_eq!(Rights::of(file.as_file(), &stat).unwrap(), rights);
        let path_only = rustix::fs::open(
            file.path(),
            rustix::fs::OFlags::PATH,
            rustix::fs::Mode::empty(),
        );
        assert_eq!(Rights::of(path_only.unwrap(), &stat).unwrap(), rights);
    }
}
