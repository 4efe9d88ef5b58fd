//! What systemd passes by the `LISTEN_FDS` protocol: sockets that it created (`sds-agent.socket`), and the content
//! of its file descriptor store.

use std::ffi::OsStr;
use std::fs::File;
use std::os::fd::AsFd;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};

use listenfd::ListenFd;
use rustix::net::{self, SocketAddrUnix};

use crate::fdstore::Keeper;

/// The descriptors that the agent was started with and that are not in use yet.
#[derive(Debug, Default)]
pub struct Activation {
    sockets: Vec<(PathBuf, UnixListener)>,
    stored: Vec<File>,
}

impl Activation {
    /// Takes the descriptors that the environment announces, and removes the announcement. Call it once, before any
    /// thread is started.
    pub fn from_env() -> Self {
        let names = std::env::var("LISTEN_FDNAMES").unwrap_or_default();
        let names: Vec<_> = names.split(':').collect();
        let mut fds = ListenFd::from_env();
        let mut activation = Self::default();
        for index in 0..fds.len() {
            if names.get(index).is_some_and(|name| Keeper::owns(name)) {
                activation.stored.extend(stored(&mut fds, index));
                continue;
            }
            match fds.take_unix_listener(index) {
                Ok(Some(listener)) => {
                    let path = local_path(&listener);
                    activation.sockets.push((path, listener));
                }
                Ok(None) => {}
                Err(error) => tracing::error!("a socket from systemd can't be used: {error}"),
            }
        }
        activation
    }

    /// The descriptors from the file descriptor store.
    pub fn take_stored(&mut self) -> Vec<File> {
        std::mem::take(&mut self.stored)
    }

    /// The socket with this path, if systemd created it.
    pub fn take(&mut self, path: &Path) -> Option<UnixListener> {
        let index = self.sockets.iter().position(|(p, _)| p == path)?;
        Some(self.sockets.swap_remove(index).1)
    }

    /// The paths of sockets that are not in use: the socket unit and the configuration don't agree.
    pub fn left(&self) -> impl Iterator<Item = &Path> {
        self.sockets.iter().map(|(path, _)| path.as_path())
    }
}

fn stored(fds: &mut ListenFd, index: usize) -> Option<File> {
    let fd = fds.take_raw_fd(index).ok()??;
    // A number from the environment is not an owned descriptor: the file is opened again by its path.
    let file = File::open(format!("/proc/self/fd/{fd}"));
    let closed = nix::unistd::close(fd);
    file.inspect_err(|error| tracing::warn!("a previous version can't be restored: {error}"))
        .ok()
        .filter(|_| closed.is_ok())
}

/// The path that a socket is bound to.
pub(super) fn local_path(listener: &UnixListener) -> PathBuf {
    let address = net::getsockname(listener.as_fd());
    let address = address.and_then(SocketAddrUnix::try_from);
    let path = address.ok().and_then(|a| {
        a.path()
            .map(|p| PathBuf::from(OsStr::from_bytes(p.to_bytes())))
    });
    path.unwrap_or_else(|| PathBuf::from("(unnamed)"))
}
