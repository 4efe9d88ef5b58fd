//! Making the socket's file.
//!
//! Two agents started at once must not take the socket from one another, and nobody may connect
//! before the socket has its owner and mode. So all that touches the path happens under a lock on
//! its folder, and the socket is made with mode 0600 before it gets what was asked for.

use std::ffi::{OsStr, OsString};
use std::os::fd::{AsRawFd, OwnedFd};
use std::path::Path;
use std::time::{Duration, Instant};

use rustix::fs::{self as rfs, AtFlags, FileType, FlockOperation, Gid, Mode, OFlags};
use rustix::io::Errno;
use rustix::net::{self, AddressFamily, SocketAddrUnix, SocketFlags, SocketType};

use super::ListenConfig;
use super::error::{ListenError, system};

/// Connections that may wait to be accepted: a whole fleet of Envoys that comes back at once. The
/// kernel caps it at `net.core.somaxconn`.
const BACKLOG: i32 = 4096;
/// How long another agent may hold the folder's lock; it needs a millisecond.
const LOCK_LIMIT: Duration = Duration::from_secs(5);

/// A path that this process made, to be removed by it.
pub(super) struct Bound {
    folder: OwnedFd,
    name: OsString,
    /// Keeps the inode, so that no later socket can be taken for this one.
    file: OwnedFd,
}

/// Binds the socket and listens.
pub(super) fn bind(config: &ListenConfig) -> Result<(OwnedFd, Bound), ListenError> {
    let path = &config.path;
    let name = file_name(path)?;
    let folder = open_folder(path)?;
    let _lock = lock(&folder, path)?;
    clear_stale(&folder, name, path)?;

    let socket = bind_narrow(path)?;
    let file = rfs::openat(
        &folder,
        name,
        OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC,
        Mode::empty(),
    )
    .map_err(|e| system("open", path, e))?;
    let bound = Bound {
        folder,
        name: name.to_owned(),
        file,
    };
    bound.give(config)?;
    net::listen(&socket, BACKLOG).map_err(|e| system("listen on", path, e))?;
    Ok((socket, bound))
}

impl Bound {
    /// Gives the new socket its group, then its mode. Through its own descriptor: whatever has the
    /// path by now, nothing else is changed.
    fn give(&self, config: &ListenConfig) -> Result<(), ListenError> {
        let path = &config.path;
        if let Some(group) = config.group {
            let group = Some(Gid::from_raw(group));
            rfs::chownat(&self.file, "", None, group, AtFlags::EMPTY_PATH)
                .map_err(|e| system("set the group of", path, e))?;
        }
        let own = format!("/proc/self/fd/{}", self.file.as_raw_fd());
        rfs::chmod(own, Mode::from_raw_mode(config.mode & 0o777))
            .map_err(|e| system("set the mode of", path, e))
    }

    fn is_still_there(&self) -> bool {
        let there = rfs::statat(&self.folder, &self.name, AtFlags::SYMLINK_NOFOLLOW);
        let own = rfs::fstat(&self.file);
        matches!((there, own), (Ok(a), Ok(b)) if (a.st_dev, a.st_ino) == (b.st_dev, b.st_ino))
    }
}

impl Drop for Bound {
    /// Removes the path, if it is still this socket's and not that of an agent started since.
    fn drop(&mut self) {
        let Ok(_lock) = lock(&self.folder, Path::new(&self.name)) else {
            return;
        };
        if self.is_still_there()
            && let Err(error) = rfs::unlinkat(&self.folder, &self.name, AtFlags::empty())
        {
            tracing::warn!("the socket can't be removed: {error}");
        }
    }
}

fn file_name(path: &Path) -> Result<&OsStr, ListenError> {
    let wrong = |reason| ListenError::Path {
        path: path.to_owned(),
        reason,
    };
    // The kernel's limit for sun_path, its final zero byte included; clients have it too.
    if path.as_os_str().len() > 107 {
        return Err(wrong("it is longer than 107 bytes"));
    }
    path.file_name()
        .ok_or_else(|| wrong("it does not end in a name"))
}

fn folder_of(path: &Path) -> &Path {
    match path.parent() {
        Some(folder) if !folder.as_os_str().is_empty() => folder,
        _ => Path::new("."),
    }
}

fn open_folder(path: &Path) -> Result<OwnedFd, ListenError> {
    let folder = folder_of(path);
    let open = || {
        rfs::open(
            folder,
            OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC,
            Mode::empty(),
        )
    };
    match open() {
        Err(Errno::NOENT) => {}
        result => return result.map_err(|e| system("open the folder", folder, e)),
    }
    // As /run/sds-agent is after a restart of the machine: only the last folder is missing.
    match rfs::mkdir(folder, Mode::from_raw_mode(0o755)) {
        Err(Errno::NOENT) => {
            return Err(ListenError::NoFolder {
                path: path.to_owned(),
                folder: folder.to_owned(),
            });
        }
        Err(Errno::EXIST) | Ok(()) => {}
        Err(e) => return Err(system("make the folder", folder, e)),
    }
    open().map_err(|e| system("open the folder", folder, e))
}

/// Holds the folder's lock for as long as the result lives.
fn lock(folder: &OwnedFd, path: &Path) -> Result<OwnedFd, ListenError> {
    let name = folder_of(path);
    // A descriptor of its own: a lock belongs to the opening, so that drop gives it back.
    let lock = rfs::openat(
        folder,
        ".",
        OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC,
        Mode::empty(),
    )
    .map_err(|e| system("open the folder", name, e))?;
    let until = Instant::now() + LOCK_LIMIT;
    loop {
        match rfs::flock(&lock, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => return Ok(lock),
            Err(Errno::WOULDBLOCK) if Instant::now() < until => {
                std::thread::sleep(Duration::from_millis(5));
            }
            Err(Errno::WOULDBLOCK) => return Err(ListenError::Locked(name.to_owned())),
            Err(e) => return Err(system("lock the folder", name, e)),
        }
    }
}

/// Removes a socket that nobody listens on any more.
fn clear_stale(folder: &OwnedFd, name: &OsStr, path: &Path) -> Result<(), ListenError> {
    match rfs::statat(folder, name, AtFlags::SYMLINK_NOFOLLOW) {
        Err(Errno::NOENT) => return Ok(()),
        Err(e) => return Err(system("look at", path, e)),
        Ok(stat) if FileType::from_raw_mode(stat.st_mode) != FileType::Socket => {
            return Err(ListenError::NotASocket(path.to_owned()));
        }
        Ok(_) => {}
    }
    if is_live(path)? {
        return Err(ListenError::Live(path.to_owned()));
    }
    tracing::info!(socket = %path.display(), "a socket that was left behind is replaced");
    match rfs::unlinkat(folder, name, AtFlags::empty()) {
        Ok(()) | Err(Errno::NOENT) => Ok(()),
        Err(e) => Err(system("replace", path, e)),
    }
}

/// Whether a process listens on the socket. Without blocking: one whose queue is full is live too.
fn is_live(path: &Path) -> Result<bool, ListenError> {
    let (probe, address) = socket(path)?;
    match net::connect(&probe, &address) {
        Ok(()) | Err(Errno::AGAIN) => Ok(true),
        Err(Errno::CONNREFUSED | Errno::NOENT) => Ok(false),
        // Another kind of socket (datagram, seqpacket): in use, and not the agent's.
        Err(Errno::PROTOTYPE) => Ok(true),
        Err(e) => Err(system("connect to", path, e)),
    }
}

/// A bound socket with mode 0600 whatever the umask: the kernel takes the file's mode from the
/// socket's own, and setting that beforehand touches no state of the process.
pub(super) fn bind_narrow(path: &Path) -> Result<OwnedFd, ListenError> {
    let (socket, address) = socket(path)?;
    rfs::fchmod(&socket, Mode::RUSR | Mode::WUSR).map_err(|e| system("make", path, e))?;
    net::bind(&socket, &address).map_err(|e| system("bind", path, e))?;
    Ok(socket)
}

fn socket(path: &Path) -> Result<(OwnedFd, SocketAddrUnix), ListenError> {
    let address = SocketAddrUnix::new(path).map_err(|e| system("name", path, e))?;
    let socket = net::socket_with(
        AddressFamily::UNIX,
        SocketType::STREAM,
        SocketFlags::CLOEXEC | SocketFlags::NONBLOCK,
        None,
    )
    .map_err(|e| system("make", path, e))?;
    Ok((socket, address))
}
