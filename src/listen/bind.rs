//! Creates the socket's file.
//!
//! Two agents that start at the same time must not take the socket from each other, and no client may connect
//! before the socket has its owner and mode. So everything that touches the path happens under a lock, and the
//! socket is created with mode 0600 before it gets its configured group and mode. The lock is a file that only the
//! agent's user can open: every local user could hold a lock on the folder.

use std::ffi::{OsStr, OsString};
use std::os::fd::{AsRawFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use rustix::fs::{self as rfs, AtFlags, FileType, FlockOperation, Gid, Mode, OFlags};
use rustix::io::Errno;
use rustix::net::{self, AddressFamily, SocketAddrUnix, SocketFlags, SocketType};

use super::ListenConfig;
use super::error::{ListenError, system};

/// Pending connections: all Envoys may reconnect at once. The kernel limits it to `net.core.somaxconn`.
const BACKLOG: i32 = 4096;
/// How long another agent may hold the lock; it needs a millisecond.
const LOCK_LIMIT: Duration = Duration::from_secs(5);

/// A path that this process created, and must remove.
pub(super) struct Bound {
    folder: OwnedFd,
    name: OsString,
    /// Keeps the inode in use, so that no later socket can be mistaken for this one.
    file: OwnedFd,
    path: PathBuf,
}

/// Binds the socket and listens.
pub(super) fn bind(config: &ListenConfig) -> Result<(OwnedFd, Bound), ListenError> {
    let path = &config.path;
    let name = file_name(path)?;
    let folder = open_folder(path)?;
    let (socket, file) = {
        let _lock = Lock::take(&folder, path)?;
        clear_stale(&folder, name, path)?;
        let socket = bind_narrow(path)?;
        let made = publish(&socket, &folder, name, config).inspect_err(|_| {
            let _ = rfs::unlinkat(&folder, name, AtFlags::empty());
        });
        (socket, made?)
    };
    let bound = Bound {
        folder,
        name: name.to_owned(),
        file,
        path: path.clone(),
    };
    Ok((socket, bound))
}

/// Gives the new socket its group, then its mode, and listens. Uses the socket's own descriptor, so that nothing
/// else is changed if something else has the path by now.
fn publish(
    socket: &OwnedFd,
    folder: &OwnedFd,
    name: &OsStr,
    config: &ListenConfig,
) -> Result<OwnedFd, ListenError> {
    let path = &config.path;
    let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let file =
        rfs::openat(folder, name, flags, Mode::empty()).map_err(|e| system("open", path, e))?;
    if let Some(group) = config.group {
        let group = Some(Gid::from_raw(group));
        rfs::chownat(&file, "", None, group, AtFlags::EMPTY_PATH)
            .map_err(|e| system("set the group of", path, e))?;
    }
    let own = format!("/proc/self/fd/{}", file.as_raw_fd());
    rfs::chmod(own, Mode::from_raw_mode(config.mode & 0o777))
        .map_err(|e| system("set the mode of", path, e))?;
    net::listen(socket, BACKLOG).map_err(|e| system("listen on", path, e))?;
    Ok(file)
}

impl Drop for Bound {
    /// Removes the path, if it still leads to this socket, and not to the socket of an agent that was started
    /// later.
    fn drop(&mut self) {
        let _lock = match Lock::take(&self.folder, &self.path) {
            Ok(lock) => lock,
            Err(error) => return tracing::warn!("the socket is left behind: {error}"),
        };
        if is_at(&self.folder, &self.name, &self.file)
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
    // The kernel's limit for sun_path, including the final zero byte; clients have the same limit.
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
    // As for /run/sds-agent after a reboot: only the last folder is missing.
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

/// The lock on a socket's path, held for as long as this lives.
struct Lock<'a> {
    folder: &'a OwnedFd,
    name: OsString,
    _file: OwnedFd,
}

impl<'a> Lock<'a> {
    fn take(folder: &'a OwnedFd, socket: &Path) -> Result<Self, ListenError> {
        let mut name = file_name(socket)?.to_owned();
        name.push(".lock");
        let path = socket.with_file_name(&name);
        let until = Instant::now() + LOCK_LIMIT;
        loop {
            let file = open_lock(folder, &name, &path)?;
            match rfs::flock(&file, FlockOperation::NonBlockingLockExclusive) {
                // Unless its last holder has removed it in the meantime: other processes would lock a new file.
                Ok(()) if is_at(folder, &name, &file) => {
                    return Ok(Self {
                        folder,
                        name,
                        _file: file,
                    });
                }
                Ok(()) => {}
                Err(Errno::WOULDBLOCK) if Instant::now() < until => {
                    std::thread::sleep(Duration::from_millis(5));
                }
                Err(Errno::WOULDBLOCK) => return Err(ListenError::Locked(path)),
                Err(e) => return Err(system("lock", &path, e)),
            }
        }
    }
}

impl Drop for Lock<'_> {
    /// Removes the file while it is locked: a process that waits for the lock finds it removed.
    fn drop(&mut self) {
        // If it stays, it does no harm.
        let _ = rfs::unlinkat(self.folder, &self.name, AtFlags::empty());
    }
}

/// Opens the lock file, which must be this user's own.
fn open_lock(folder: &OwnedFd, name: &OsStr, path: &Path) -> Result<OwnedFd, ListenError> {
    let flags = OFlags::RDWR
        | OFlags::CREATE
        | OFlags::NOFOLLOW
        | OFlags::NONBLOCK
        | OFlags::NOCTTY
        | OFlags::CLOEXEC;
    let file = rfs::openat(folder, name, flags, Mode::RUSR | Mode::WUSR)
        .map_err(|e| system("open", path, e))?;
    let stat = rfs::fstat(&file).map_err(|e| system("look at", path, e))?;
    let is_own = stat.st_uid == rustix::process::geteuid().as_raw();
    let is_file = FileType::from_raw_mode(stat.st_mode) == FileType::RegularFile;
    if !is_own || !is_file || stat.st_mode & 0o077 != 0 {
        return Err(ListenError::ForeignLock(path.to_owned()));
    }
    Ok(file)
}

/// Whether the file of that name is this one.
fn is_at(folder: &OwnedFd, name: &OsStr, file: &OwnedFd) -> bool {
    let there = rfs::statat(folder, name, AtFlags::SYMLINK_NOFOLLOW);
    let own = rfs::fstat(file);
    matches!((there, own), (Ok(a), Ok(b)) if (a.st_dev, a.st_ino) == (b.st_dev, b.st_ino))
}

/// Removes a socket without a listener.
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

/// Whether a process listens on the socket. Does not block: a socket with a full queue is in use too.
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

/// Binds a socket with mode 0600, whatever the umask: the kernel takes the file's mode from the socket's own mode,
/// which can be set in advance without changing the state of the process.
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
