//! Kinds of file systems, by whether the kernel notices their changes.

use std::os::fd::AsFd;

use rustix::fs::fstatfs;
use rustix::io::Errno;

/// The kind of a file system.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Kind(u64);

impl Kind {
    /// The kind of the file system that `file` is on.
    #[allow(clippy::unnecessary_cast)] // The width differs between architectures.
    pub(super) fn of(file: impl AsFd) -> Result<Self, Errno> {
        Ok(Self((fstatfs(file)?.f_type as u64) & 0xffff_ffff))
    }

    /// Whether its files may change without this machine's kernel noticing.
    pub(super) fn is_remote(self) -> bool {
        REMOTE.contains(&self.0)
    }

    /// Whether its folders are file systems that are mounted when they are opened.
    pub(super) fn is_automount(self) -> bool {
        const AUTOFS: u64 = 0x0187;
        self.0 == AUTOFS
    }
}

/// `f_type` (statfs(2)) of file systems whose files other machines, or a process that serves them, can change
/// without this kernel noticing; and of those whose content is generated.
const REMOTE: [u64; 17] = [
    0x6969,      // NFS
    0x517b,      // SMB
    0xff53_4d42, // CIFS
    0xfe53_4d42, // SMB2
    0x6573_5546, // FUSE, virtiofs
    0x0102_1997, // 9p
    0x00c3_6400, // Ceph
    0x5346_414f, // AFS
    0x7375_7245, // Coda
    0x7461_636f, // OCFS2
    0x0116_1970, // GFS2
    0x0bd0_0bd0, // Lustre
    0x4750_4653, // GPFS
    0x786f_4256, // VirtualBox shared folders
    0xbacb_acbc, // VMware shared folders
    0x9fa0,      // proc
    0x6265_6572, // sysfs
];
