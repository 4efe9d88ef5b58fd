//! Connections of other users.

use std::io;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};

use rustix::fs::{Gid, Uid};

use super::tools::Tool;

/// Changes to other users, which only root can do.
pub(crate) const ROOT: Tool = Tool {
    name: "root's rights",
    how: "run the tests as root",
    find: |_| {
        if rustix::process::geteuid().is_root() {
            Ok(PathBuf::new())
        } else {
            Err("this user is another one".into())
        }
    },
};

/// Connects as a user and group without any other group. A connection has the credentials of the thread that makes
/// it.
pub(crate) fn connect_as(socket: &Path, uid: u32, gid: u32) -> io::Result<UnixStream> {
    std::thread::scope(|scope| {
        let connected = scope.spawn(|| {
            let (user, group) = (Uid::from_raw(uid), Gid::from_raw(gid));
            rustix::thread::set_thread_groups(&[])?;
            rustix::thread::set_thread_res_gid(group, group, group)?;
            rustix::thread::set_thread_res_uid(user, user, user)?;
            UnixStream::connect(socket)
        });
        connected.join().unwrap()
    })
}

/// A folder that every user can enter, unlike perhaps the folder of build products.
pub(crate) fn folder_for_all() -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    let mode = std::os::unix::fs::PermissionsExt::from_mode(0o755);
    std::fs::set_permissions(folder.path(), mode).unwrap();
    folder
}
