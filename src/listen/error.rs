//! Why the agent can't listen on a socket: what is in the way, and what to do about it.

use std::io;
use std::path::{Path, PathBuf};

use thiserror::Error;

use crate::config::Account;

/// Why the agent can't listen on a socket.
#[derive(Debug, Error)]
pub enum ListenError {
    /// A running process listens there.
    #[error(
        "another process listens on {}: stop that one first, or give this agent another socket",
        .0.display()
    )]
    Live(PathBuf),
    /// The path exists and is not a socket; it is left as it is.
    #[error("{} exists and is not a socket: move it away, or use another path", .0.display())]
    NotASocket(PathBuf),
    /// The folder of the path does not exist.
    #[error(
        "{} can't be created, because the folder {} does not exist: create it with `install -d -m 0755 {}`",
        path.display(), folder.display(), folder.display()
    )]
    NoFolder {
        /// The socket's path.
        path: PathBuf,
        /// The folder.
        folder: PathBuf,
    },
    /// The socket's group does not exist on this machine.
    #[error(
        "there is no group `{0}` for the socket: create it with `groupadd -r {0}`, or use another one"
    )]
    NoGroup(Account),
    /// The path can't be used for a socket.
    #[error("{} can't be a socket's path: {reason}", path.display())]
    Path {
        /// The path.
        path: PathBuf,
        /// What is wrong with it.
        reason: &'static str,
    },
    /// Another process of the agent's user holds the lock.
    #[error("another process keeps {} locked: find it with `fuser -v {}`", .0.display(), .0.display())]
    Locked(PathBuf),
    /// The lock file was not created by the agent.
    #[error(
        "{} is not a file of this user with mode 0600, so other users could keep it locked: find \
         out who created it (`ls -l {}`), then delete it",
        .0.display(), .0.display()
    )]
    ForeignLock(PathBuf),
    /// The system refused.
    #[error("can't {doing} {}: {error}{}", path.display(), hint(error))]
    System {
        /// What was being done, as a verb.
        doing: &'static str,
        /// The path that was accessed.
        path: PathBuf,
        /// The system's reason.
        error: io::Error,
    },
}

fn hint(error: &io::Error) -> &'static str {
    match error.kind() {
        io::ErrorKind::PermissionDenied => {
            "; the agent's user needs write access to the folder, and to give a socket to a group \
             it must be in that group"
        }
        _ => "",
    }
}

pub(super) fn system(doing: &'static str, path: &Path, error: impl Into<io::Error>) -> ListenError {
    ListenError::System {
        doing,
        path: path.to_owned(),
        error: error.into(),
    }
}
