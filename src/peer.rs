//! Who is at the other end of a Unix socket: user, groups and process, as the kernel and the user
//! database tell. Lookups are cached for a short while and bounded, since a database may be remote.

use std::collections::HashMap;
use std::ffi::CString;
use std::fmt;
use std::io;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use nix::unistd::{Gid, Group, Uid, User, getgrouplist};
use tokio::net::unix::UCred;

use crate::config::Account;

/// How long an answer of the user database is good for: a changed membership shows within it.
const CACHE_FOR: Duration = Duration::from_secs(60);
/// How long a database that didn't answer is left alone.
const FAILURE_FOR: Duration = Duration::from_secs(5);
/// Users remembered at once; a machine has few that may open the socket.
const CACHED_USERS: usize = 256;
/// How long a user database on the network may keep a connection waiting.
const LOOKUP_LIMIT: Duration = Duration::from_secs(2);
/// Bytes of a process's name that are kept; the kernel's own limit is 15 today.
const PROCESS_NAME: usize = 64;

/// The process at the other end of a connection, as it was when it connected.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Peer {
    /// The effective user id.
    pub uid: u32,
    /// The effective group id.
    pub gid: u32,
    /// The process id, where the process can be seen from the agent's namespace.
    pub pid: Option<u32>,
    /// The user's name, where the user database has one.
    pub user: Option<Arc<str>>,
    /// The groups that the user database gives this user, its own and the peer's first group included.
    pub groups: Arc<[u32]>,
    /// The process's name (`/proc/PID/comm`). For people to read: a process chooses it itself.
    pub process: Option<Arc<str>>,
}

impl fmt::Display for Peer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.user {
            Some(user) => write!(f, "user {user}")?,
            None => write!(f, "user {}", self.uid)?,
        }
        match (&self.process, self.pid) {
            (Some(name), Some(pid)) => write!(f, ", process {} ({pid})", name.escape_debug()),
            (None, Some(pid)) => write!(f, ", process {pid}"),
            _ => Ok(()),
        }
    }
}

/// What the user database says about one user.
#[derive(Clone, Default)]
struct Entry {
    name: Option<Arc<str>>,
    groups: Arc<[u32]>,
}

/// The users of this machine, remembered for a minute.
#[derive(Default)]
pub(crate) struct Accounts {
    known: Mutex<HashMap<u32, (Instant, Entry)>>,
}

impl Accounts {
    /// The peer that the kernel's credentials of a connection speak of. A database that doesn't
    /// answer gives a peer without a name and with its own group alone: fewer rights, never more.
    pub(crate) async fn peer(&self, credentials: UCred) -> Peer {
        let (uid, gid) = (credentials.uid(), credentials.gid());
        let account = self.account(uid).await;
        let pid = credentials.pid().and_then(|pid| u32::try_from(pid).ok());
        let pid = pid.filter(|pid| *pid != 0);
        Peer {
            uid,
            gid,
            pid,
            user: account.name,
            groups: with_group(&account.groups, gid),
            process: pid.and_then(process_name),
        }
    }

    async fn account(&self, uid: u32) -> Entry {
        if let Some(account) = self.remembered(uid) {
            return account;
        }
        let looked_up = tokio::task::spawn_blocking(move || look_up(uid));
        match tokio::time::timeout(LOOKUP_LIMIT, looked_up).await {
            Ok(Ok(Ok(account))) => {
                self.remember(uid, account.clone(), CACHE_FOR);
                account
            }
            answer => {
                let reason = match answer {
                    Ok(Ok(Err(errno))) => errno.desc().to_owned(),
                    Ok(_) => "the lookup failed".to_owned(),
                    Err(_) => format!("no answer within {} s", LOOKUP_LIMIT.as_secs()),
                };
                tracing::warn!(uid, "the user database can't be asked: {reason}");
                self.remember(uid, Entry::default(), FAILURE_FOR);
                Entry::default()
            }
        }
    }

    fn remembered(&self, uid: u32) -> Option<Entry> {
        let known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        let (until, account) = known.get(&uid)?;
        (Instant::now() < *until).then(|| account.clone())
    }

    fn remember(&self, uid: u32, account: Entry, lasts: Duration) {
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        if known.len() >= CACHED_USERS {
            known.clear();
        }
        known.insert(uid, (Instant::now() + lasts, account));
    }
}

fn look_up(uid: u32) -> nix::Result<Entry> {
    let Some(user) = User::from_uid(Uid::from_raw(uid))? else {
        return Ok(Entry::default());
    };
    let name = CString::new(user.name.as_str()).map_err(|_| nix::Error::EINVAL)?;
    let groups = getgrouplist(&name, user.gid)?;
    Ok(Entry {
        name: Some(user.name.into()),
        groups: groups.into_iter().map(Gid::as_raw).collect(),
    })
}

fn with_group(groups: &Arc<[u32]>, gid: u32) -> Arc<[u32]> {
    if groups.contains(&gid) {
        return groups.clone();
    }
    groups.iter().copied().chain([gid]).collect()
}

fn process_name(pid: u32) -> Option<Arc<str>> {
    let bytes = std::fs::read(format!("/proc/{pid}/comm")).ok()?;
    let name = String::from_utf8_lossy(&bytes);
    let name: String = name
        .trim_end_matches('\n')
        .chars()
        .take(PROCESS_NAME)
        .collect();
    (!name.is_empty()).then(|| name.into())
}

/// The number of a user, if this machine has that one. Asks the user database: may block.
///
/// # Errors
/// The database can't be asked.
pub fn user_id(account: &Account) -> io::Result<Option<u32>> {
    match account {
        Account::Id(id) => Ok(Some(*id)),
        Account::Name(name) => Ok(User::from_name(name)?.map(|user| user.uid.as_raw())),
    }
}

/// The number of a group, if this machine has that one. Asks the user database: may block.
///
/// # Errors
/// The database can't be asked.
pub fn group_id(account: &Account) -> io::Result<Option<u32>> {
    match account {
        Account::Id(id) => Ok(Some(*id)),
        Account::Name(name) => Ok(Group::from_name(name)?.map(|group| group.gid.as_raw())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn the_peer_of_an_own_connection_is_this_process() {
        let (stream, _other) = tokio::net::UnixStream::pair().unwrap();
        let accounts = Accounts::default();
        let peer = accounts.peer(stream.peer_cred().unwrap()).await;

        assert_eq!(peer.uid, rustix::process::geteuid().as_raw());
        assert!(peer.groups.contains(&rustix::process::getegid().as_raw()));
        assert_eq!(peer.pid, Some(std::process::id()));
        assert!(peer.process.is_some());
        assert_eq!(accounts.peer(stream.peer_cred().unwrap()).await, peer);
    }

    #[test]
    fn a_user_without_an_entry_has_a_number_and_no_groups() {
        let account = look_up(4_000_000_001).unwrap();
        assert!(account.name.is_none());
        assert!(account.groups.is_empty());
    }

    #[test]
    fn a_process_cannot_forge_a_log_line_by_its_name() {
        let peer = Peer {
            uid: 7,
            gid: 7,
            pid: Some(12),
            user: None,
            groups: Arc::from([7]),
            process: Some("x\ny".into()),
        };
        assert_eq!(peer.to_string(), "user 7, process x\\ny (12)");
    }
}
