//! Keeps key bytes inside this process: no core dumps, no access to its memory by other processes of the same user,
//! and no swap, if that is configured.

use std::io;

use rustix::mm::MlockAllFlags;
use rustix::process::{DumpableBehavior, Resource, Rlimit};

/// Why the agent's memory can't be locked.
#[derive(Debug, thiserror::Error)]
pub enum LockError {
    /// A limit prevents it, and would make a later allocation end the agent.
    #[error(
        "`lock_memory` needs an unlimited RLIMIT_MEMLOCK, and it is {0} bytes: set \
         `LimitMEMLOCK=infinity` in the unit, or `ulimit -l unlimited`"
    )]
    Limited(u64),
    /// The system refused it.
    #[error(
        "`lock_memory` is refused: {0}; allow it (CAP_IPC_LOCK or LimitMEMLOCK=), or switch it off"
    )]
    Refused(io::Error),
}

/// Switches off core dumps and keeps other processes of the same user out of this one's memory
/// (`ptrace`, `/proc/PID/mem`). Call it before the first key is read.
pub fn no_dumps() {
    let none = Rlimit {
        current: Some(0),
        maximum: Some(0),
    };
    let done = rustix::process::setrlimit(Resource::Core, none)
        .and_then(|()| rustix::process::set_dumpable_behavior(DumpableBehavior::NotDumpable));
    if let Err(error) = done {
        tracing::warn!("core dumps can't be switched off: {error}");
    }
}

/// Locks the whole memory of the agent, now and later, so that it is not swapped out.
///
/// # Errors
/// The limits or rights of the process don't allow it.
pub fn lock_memory() -> Result<(), LockError> {
    // Within a limit, current memory may fit, but memory that is needed later may not.
    let unlimited = Rlimit {
        current: None,
        maximum: None,
    };
    if rustix::process::setrlimit(Resource::Memlock, unlimited).is_err() {
        let limit = rustix::process::getrlimit(Resource::Memlock).current;
        return Err(LockError::Limited(limit.unwrap_or(0)));
    }
    // Pages are locked when they are first used: stacks of threads are large and mostly empty.
    let all = MlockAllFlags::CURRENT | MlockAllFlags::FUTURE | MlockAllFlags::ONFAULT;
    rustix::mm::mlockall(all).map_err(|errno| LockError::Refused(errno.into()))
}
