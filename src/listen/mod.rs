//! The Unix socket: bound here or taken over from systemd, and the peers that connect to it.
//!
//! Nothing that a peer does, and no temporary lack of resources, ends the listener.

use std::fmt;
use std::io;
use std::os::unix::net::UnixListener as StdListener;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use rustix::fs::Gid;
use tokio::net::unix::UCred;
use tokio::net::{UnixListener, UnixStream};

use crate::config::{Account, Admin, CLIENTS_GROUP, Listen};
use crate::peer;

mod activation;
mod bind;
mod error;

pub use activation::Activation;
pub use error::ListenError;

/// Pause after an `accept` that failed because no file descriptor or memory was left.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// Where to listen, and who may open the socket.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ListenConfig {
    /// The path of the socket. Its folder is created if only that is missing.
    pub path: PathBuf,
    /// The socket's mode: whoever may write to it may connect.
    pub mode: u32,
    /// The socket's group; `None` means the group that the agent runs as.
    pub group: Option<u32>,
}

impl ListenConfig {
    /// Resolves the configuration on this machine. Queries the user database, so it may block.
    ///
    /// # Errors
    /// The group does not exist on this machine.
    pub fn resolve(listen: &Listen) -> Result<Self, ListenError> {
        let group = match &listen.group {
            Some(group) => Some(group_for(&listen.socket, group)?),
            None => clients_group(),
        };
        Ok(Self {
            path: listen.socket.clone(),
            mode: listen.mode,
            group,
        })
    }

    /// Like [`resolve`](Self::resolve), for the admin socket at `path`.
    ///
    /// # Errors
    /// The group does not exist on this machine.
    pub fn admin(path: &Path, admin: &Admin) -> Result<Self, ListenError> {
        let group = admin.group.as_ref().map(|group| group_for(path, group));
        Ok(Self {
            path: path.to_owned(),
            mode: admin.mode,
            group: group.transpose()?,
        })
    }
}

fn group_for(socket: &Path, group: &Account) -> Result<u32, ListenError> {
    peer::group_id(group)
        .map_err(|e| error::system("look up the group for", socket, e))?
        .ok_or_else(|| ListenError::NoGroup(group.clone()))
}

/// The group that the packages create for users who may open the socket, if this process is a member of it. An
/// agent that is started by hand may not be a member.
fn clients_group() -> Option<u32> {
    let group = peer::group_id(&Account::Name(CLIENTS_GROUP.to_owned())).ok()??;
    let own = rustix::process::getgroups().ok()?;
    own.contains(&Gid::from_raw(group)).then_some(group)
}

/// A socket that accepts peers with known credentials.
pub struct Listener {
    listener: UnixListener,
    /// An `accept` failed, and none has succeeded since. The failure is logged once.
    starved: AtomicBool,
    bound: Option<bind::Bound>,
    path: PathBuf,
}

impl Listener {
    /// Binds the socket. Replaces a socket that a crash left behind, but never one that is in use. Must be called
    /// inside a tokio runtime. The error states what is in the way, and what to do about it.
    pub fn bind(config: &ListenConfig) -> Result<Self, ListenError> {
        let (socket, bound) = bind::bind(config)?;
        Self::new(socket.into(), config.path.clone(), Some(bound))
    }

    /// Takes over a socket that systemd holds. systemd determines its mode, owner and path, and keeps the path when
    /// the agent stops, so that clients wait instead of failing. Must be called inside a tokio runtime.
    pub fn adopt(listener: StdListener) -> Result<Self, ListenError> {
        let path = activation::local_path(&listener);
        Self::new(listener, path, None)
    }

    fn new(
        listener: StdListener,
        path: PathBuf,
        bound: Option<bind::Bound>,
    ) -> Result<Self, ListenError> {
        let listener = listener
            .set_nonblocking(true)
            .and_then(|()| UnixListener::from_std(listener))
            .map_err(|e| error::system("listen on", &path, e))?;
        Ok(Self {
            listener,
            starved: AtomicBool::new(false),
            bound,
            path,
        })
    }

    /// The path of the socket.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Whether systemd holds the socket too.
    pub fn is_adopted(&self) -> bool {
        self.bound.is_none()
    }

    /// The next connection, with the kernel's credentials of the peer. A peer without credentials is disconnected.
    /// If the system has no file descriptors left, this waits. Nothing here ends the agent, and nothing waits for
    /// anything except the kernel. If the future is dropped, at most the connection that it was about to return is
    /// closed.
    pub async fn accept(&self) -> (UnixStream, UCred) {
        loop {
            let stream = self.accept_any().await;
            match stream.peer_cred() {
                Ok(credentials) => return (stream, credentials),
                Err(error) => {
                    tracing::warn!("a connection without credentials is refused: {error}");
                }
            }
        }
    }

    async fn accept_any(&self) -> UnixStream {
        loop {
            match self.listener.accept().await {
                Ok((stream, _)) => {
                    if self.starved.swap(false, Ordering::Relaxed) {
                        tracing::info!("connections are accepted again");
                    }
                    return stream;
                }
                Err(error) if is_of_one_connection(&error) => {
                    tracing::debug!("a connection ended before it was accepted: {error}");
                }
                Err(error) => {
                    if !self.starved.swap(true, Ordering::Relaxed) {
                        tracing::error!(
                            "no connection can be accepted: {error}; open connections continue, \
                             new ones wait. Raise LimitNOFILE= if this is the limit of open files"
                        );
                    }
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                }
            }
        }
    }
}

impl fmt::Debug for Listener {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Listener")
            .field("path", &self.path)
            .field("adopted", &self.is_adopted())
            .finish_non_exhaustive()
    }
}

/// Whether an error concerns the connection to be accepted, not the listening socket.
fn is_of_one_connection(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::ConnectionAborted
            | io::ErrorKind::ConnectionReset
            | io::ErrorKind::Interrupted
            | io::ErrorKind::TimedOut
    )
}

#[cfg(test)]
mod tests;
