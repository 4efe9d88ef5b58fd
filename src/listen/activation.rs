//! Sockets that systemd made and hands over (`sds-agent.socket`), by the `LISTEN_FDS` protocol.

use std::ffi::OsStr;
use std::os::fd::AsFd;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};

use listenfd::ListenFd;
use rustix::net::{self, SocketAddrUnix};

/// Sockets that the agent was started with and that nothing has taken yet.
#[derive(Debug, Default)]
pub struct Activation {
    sockets: Vec<(PathBuf, UnixListener)>,
}

impl Activation {
    /// Takes what the environment announces, and the announcement out of the environment. Call it
    /// once, before there are threads.
    pub fn from_env() -> Self {
        let mut fds = ListenFd::from_env();
        let mut sockets = Vec::new();
        for index in 0..fds.len() {
            match fds.take_unix_listener(index) {
                Ok(Some(listener)) => sockets.push((local_path(&listener), listener)),
                Ok(None) => {}
                Err(error) => tracing::error!("a socket from systemd is of no use: {error}"),
            }
        }
        Self { sockets }
    }

    /// The socket with this path, if systemd made it.
    pub fn take(&mut self, path: &Path) -> Option<UnixListener> {
        let index = self.sockets.iter().position(|(p, _)| p == path)?;
        Some(self.sockets.swap_remove(index).1)
    }

    /// The paths of the sockets that nothing has taken: a socket unit and the configuration that
    /// don't agree.
    pub fn left(&self) -> impl Iterator<Item = &Path> {
        self.sockets.iter().map(|(path, _)| path.as_path())
    }
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
