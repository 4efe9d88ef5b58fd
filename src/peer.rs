//! Identifies the process at the other end of a Unix socket: user and process by the kernel, groups by the user
//! database.
//!
//! A user database may be remote, or hang. So it is queried on separate threads with a time limit, and its answers
//! are cached for a short time. The groups of users with open connections are looked up periodically, so that a
//! user who leaves a group also loses the rights of that group.

use std::collections::HashMap;
use std::ffi::CString;
use std::fmt;
use std::io;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock};
use std::time::{Duration, Instant};

use nix::unistd::{Gid, Group, Uid, User, getgrouplist};
use tokio::net::unix::UCred;

use crate::config::Account;
use crate::pool::Pool;
use crate::text::{cut, quote};

/// How often the groups of connected users are looked up again.
pub const REFRESH: Duration = Duration::from_secs(30);
/// How long an answer of the user database is used for new connections.
const CACHE_FOR: Duration = Duration::from_secs(30);
/// How long a database that did not answer is not queried.
const FAILURE_FOR: Duration = Duration::from_secs(5);
/// Users in the cache, besides those who are connected. Few users of a machine may open the socket.
const CACHED_USERS: usize = 256;
/// How long a user database on the network may keep a connection waiting.
const LOOKUP_LIMIT: Duration = Duration::from_secs(2);
/// Concurrent lookups.
const LOOKUP_THREADS: usize = 4;
/// Bytes of a process's name that are kept; the kernel's own limit is 15 today.
const PROCESS_NAME: usize = 64;

/// The process at the other end of a connection, as it was when it connected.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Peer {
    /// The effective user id.
    pub uid: u32,
    /// The effective group id.
    pub gid: u32,
    /// The process id, if the process is visible in the agent's namespace.
    pub pid: Option<u32>,
    /// The user's name, if the user database has one.
    pub user: Option<Arc<str>>,
    /// The user's current groups in the user database.
    pub groups: Groups,
    /// The process's name (`/proc/PID/comm`). For people to read: a process chooses it itself.
    pub process: Option<Arc<str>>,
}

impl Peer {
    fn new(credentials: UCred, (user, groups): (Option<Arc<str>>, Groups)) -> Self {
        let pid = credentials.pid().and_then(|pid| u32::try_from(pid).ok());
        let pid = pid.filter(|pid| *pid != 0);
        Self {
            uid: credentials.uid(),
            gid: credentials.gid(),
            pid,
            user,
            groups,
            process: pid.and_then(process_name),
        }
    }

    /// Whether it is in that group, according to the kernel or to the user database.
    pub fn is_in(&self, group: u32) -> bool {
        self.gid == group || self.groups.current().contains(&group)
    }
}

impl fmt::Display for Peer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.user {
            Some(user) => write!(f, "user {user}")?,
            None => write!(f, "user {}", self.uid)?,
        }
        if let Some(pid) = self.pid {
            write!(f, ", pid {pid}")?;
        }
        match &self.process {
            Some(name) => write!(f, ", process {}", quote(name)),
            None => Ok(()),
        }
    }
}

/// The groups of a user. All connections of the user share them, and so get changes of them.
#[derive(Clone, Debug, Default)]
pub struct Groups(Arc<RwLock<Arc<[u32]>>>);

impl Groups {
    /// The current groups.
    pub fn current(&self) -> Arc<[u32]> {
        self.0
            .read()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }

    /// Returns whether they changed.
    fn set(&self, groups: &Arc<[u32]>) -> bool {
        let mut current = self.0.write().unwrap_or_else(PoisonError::into_inner);
        let changed = *current != *groups;
        if changed {
            *current = groups.clone();
        }
        changed
    }

    fn is_shared(&self) -> bool {
        Arc::strong_count(&self.0) > 1
    }
}

impl From<&[u32]> for Groups {
    fn from(groups: &[u32]) -> Self {
        Self(Arc::new(RwLock::new(groups.into())))
    }
}

impl PartialEq for Groups {
    fn eq(&self, other: &Self) -> bool {
        self.current() == other.current()
    }
}

impl Eq for Groups {}

/// The entry of one user in the user database.
#[derive(Default)]
struct Record {
    name: Option<Arc<str>>,
    groups: Arc<[u32]>,
}

/// A cached user.
struct Known {
    until: Instant,
    name: Option<Arc<str>>,
    groups: Groups,
}

/// The users of this machine. There is one instance for the whole agent.
pub struct Accounts {
    known: Mutex<HashMap<u32, Known>>,
    pool: Pool,
}

impl Default for Accounts {
    fn default() -> Self {
        Self {
            known: Mutex::default(),
            pool: Pool::new("users", LOOKUP_THREADS),
        }
    }
}

impl Accounts {
    /// The peer with the kernel's credentials of a connection. If the database does not answer, the peer has no
    /// name and only its own group: fewer rights, never more.
    pub async fn peer(&self, credentials: UCred) -> Peer {
        Peer::new(credentials, self.account(credentials.uid()).await)
    }

    /// The same without querying the database; `None` if there is no cached answer for this user.
    pub(crate) fn remembered_peer(&self, credentials: UCred) -> Option<Peer> {
        let account = self.remembered(credentials.uid())?;
        Some(Peer::new(credentials, account))
    }

    /// Looks up the groups of all connected users again. Returns whether any have changed. If the database does not
    /// answer for a user, the last known groups stay.
    pub async fn refresh(&self) -> bool {
        let uids: Vec<u32> = {
            let mut known = self.lock();
            known.retain(|_, user| user.groups.is_shared());
            known.keys().copied().collect()
        };
        let mut changed = false;
        for uid in uids {
            if let Some(record) = self.look_up(uid).await {
                changed |= self.remember(uid, &record, CACHE_FOR).1;
            }
        }
        changed
    }

    async fn account(&self, uid: u32) -> (Option<Arc<str>>, Groups) {
        if let Some(account) = self.remembered(uid) {
            return account;
        }
        match self.look_up(uid).await {
            Some(record) => self.remember(uid, &record, CACHE_FOR).0,
            // A connected user keeps the last answer of the database.
            None => self
                .prolonged(uid)
                .unwrap_or_else(|| self.remember(uid, &Record::default(), FAILURE_FOR).0),
        }
    }

    /// `None` if the database can't be queried, which is logged.
    async fn look_up(&self, uid: u32) -> Option<Record> {
        let looked_up = self.pool.run(move || look_up(uid));
        let reason = match tokio::time::timeout(LOOKUP_LIMIT, looked_up).await {
            Ok(Some(Ok(record))) => return Some(record),
            Ok(Some(Err(errno))) => errno.desc().to_owned(),
            Ok(None) => "the lookup failed".to_owned(),
            Err(_) => format!("no answer within {} s", LOOKUP_LIMIT.as_secs()),
        };
        tracing::warn!(uid, "the user database can't be queried: {reason}");
        None
    }

    fn remembered(&self, uid: u32) -> Option<(Option<Arc<str>>, Groups)> {
        let known = self.lock();
        let user = known.get(&uid)?;
        (Instant::now() < user.until).then(|| (user.name.clone(), user.groups.clone()))
    }

    fn prolonged(&self, uid: u32) -> Option<(Option<Arc<str>>, Groups)> {
        let mut known = self.lock();
        let user = known.get_mut(&uid)?;
        user.until = Instant::now() + FAILURE_FOR;
        Some((user.name.clone(), user.groups.clone()))
    }

    /// Also returns whether the groups differ from those that were known.
    fn remember(
        &self,
        uid: u32,
        record: &Record,
        lasts: Duration,
    ) -> ((Option<Arc<str>>, Groups), bool) {
        let mut known = self.lock();
        if known.len() >= CACHED_USERS && !known.contains_key(&uid) {
            known.retain(|_, user| user.groups.is_shared());
        }
        let user = known.entry(uid).or_insert_with(|| Known {
            until: Instant::now(),
            name: None,
            groups: Groups::default(),
        });
        user.until = Instant::now() + lasts;
        user.name.clone_from(&record.name);
        let changed = user.groups.set(&record.groups);
        ((user.name.clone(), user.groups.clone()), changed)
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<u32, Known>> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn look_up(uid: u32) -> nix::Result<Record> {
    let Some(user) = User::from_uid(Uid::from_raw(uid))? else {
        return Ok(Record::default());
    };
    let name = CString::new(user.name.as_str()).map_err(|_| nix::Error::EINVAL)?;
    let groups = getgrouplist(&name, user.gid)?;
    Ok(Record {
        name: Some(user.name.into()),
        groups: groups.into_iter().map(Gid::as_raw).collect(),
    })
}

fn process_name(pid: u32) -> Option<Arc<str>> {
    let bytes = std::fs::read(format!("/proc/{pid}/comm")).ok()?;
    let name = String::from_utf8_lossy(&bytes);
    let name = cut(name.trim_end_matches('\n'), PROCESS_NAME);
    (!name.is_empty()).then(|| name.into())
}

/// The id of a user, if that user exists on this machine. Queries the user database, so it may block.
///
/// # Errors
/// The database can't be queried.
pub fn user_id(account: &Account) -> io::Result<Option<u32>> {
    match account {
        Account::Id(id) => Ok(Some(*id)),
        Account::Name(name) => Ok(User::from_name(name)?.map(|user| user.uid.as_raw())),
    }
}

/// The id of a group, if that group exists on this machine. Queries the user database, so it may block.
///
/// # Errors
/// The database can't be queried.
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
        assert!(peer.is_in(rustix::process::getegid().as_raw()));
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

    #[tokio::test]
    async fn open_connections_see_the_groups_of_their_user_change() {
        let (stream, _other) = tokio::net::UnixStream::pair().unwrap();
        let accounts = Accounts::default();
        let peer = accounts.peer(stream.peer_cred().unwrap()).await;
        let old = Record {
            name: None,
            groups: [4_000_000_002].into(),
        };
        accounts.remember(peer.uid, &old, CACHE_FOR);
        assert!(peer.is_in(4_000_000_002));

        assert!(accounts.refresh().await);
        assert!(!peer.is_in(4_000_000_002));
        assert!(!accounts.refresh().await, "nothing has changed since");
        assert!(peer.is_in(peer.gid), "whatever the database has");
    }

    #[tokio::test]
    async fn disconnected_users_are_removed_from_the_cache() {
        let accounts = Accounts::default();
        for uid in 0..10_000 {
            accounts.remember(uid, &Record::default(), CACHE_FOR);
        }
        assert!(accounts.lock().len() <= CACHED_USERS);
        accounts.refresh().await;
        assert!(accounts.lock().is_empty());
    }

    #[test]
    fn a_process_cannot_forge_a_log_line_by_its_name() {
        let peer = Peer {
            uid: 7,
            gid: 7,
            pid: Some(12),
            user: None,
            groups: Groups::default(),
            process: Some("x\ny\", user root".into()),
        };
        assert_eq!(
            peer.to_string(),
            "user 7, pid 12, process \"x\\ny\\\", user root\""
        );
    }
}
