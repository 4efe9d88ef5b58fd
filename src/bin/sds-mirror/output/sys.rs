//! The system calls of the writer: relative to open folders, without following links, and synced.

use std::fs::{DirBuilder, File};
use std::io::{self, Read, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::DirBuilderExt;
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use rustix::fs::{
    AtFlags, CWD, Dir, FileType, FlockOperation, Gid, Mode, OFlags, RenameFlags, Stat, Uid, fchmod,
    fchown, flock, fstat, fsync, mkdirat, openat, readlinkat, renameat, renameat_with, stat,
    statat, symlinkat, unlinkat,
};
use rustix::io::Errno;

use crate::config::Rights;

/// Opens the folder at `path`. If it is missing, it is created, with its parents.
pub(super) fn make_and_open(path: &Path, rights: Rights) -> io::Result<OwnedFd> {
    if !path.is_dir() {
        DirBuilder::new()
            .recursive(true)
            .mode(rights.dir_mode)
            .create(path)?;
        let dir = openat(CWD, path, folder_flags(), Mode::empty())?;
        settle(&dir, rights, rights.dir_mode)?;
        return Ok(dir);
    }
    open_output(path)
}

/// The rights of what root writes: the owner and group of the output folder, unless others are given. The
/// mirror of that user could not use root's files.
pub(super) fn inherited(dir: impl AsFd, rights: Rights) -> io::Result<Rights> {
    if !rustix::process::geteuid().is_root() {
        return Ok(rights);
    }
    let stat = fstat(dir)?;
    Ok(Rights {
        owner: rights.owner.or(Some(stat.st_uid)),
        group: rights.group.or(Some(stat.st_gid)),
        ..rights
    })
}

/// Opens the output folder.
pub(super) fn open_output(path: &Path) -> io::Result<OwnedFd> {
    // Only here may a link lead to the folder: the administrator has given this path.
    Ok(openat(
        CWD,
        path,
        folder_flags() - OFlags::NOFOLLOW,
        Mode::empty(),
    )?)
}

/// Whether the open folder is what `path` leads to.
pub(super) fn is_at(dir: impl AsFd, path: &Path) -> bool {
    let (Ok(open), Ok(there)) = (fstat(dir), stat(path)) else {
        return false;
    };
    (open.st_dev, open.st_ino) == (there.st_dev, there.st_ino)
}

/// How long to wait for the lock: a mirror that is stopping may still finish its last write.
const LOCK_PATIENCE: Duration = Duration::from_secs(1);
const LOCK_PAUSE: Duration = Duration::from_millis(20);

/// Locks the folder. Returns `false` if another process has locked it.
pub(super) fn lock(dir: impl AsFd) -> io::Result<bool> {
    let deadline = Instant::now() + LOCK_PATIENCE;
    loop {
        match flock(&dir, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => return Ok(true),
            Err(Errno::WOULDBLOCK) if Instant::now() < deadline => thread::sleep(LOCK_PAUSE),
            Err(Errno::WOULDBLOCK) => return Ok(false),
            Err(errno) => return Err(errno.into()),
        }
    }
}

/// The names in a folder, without `.` and `..`. Names that are not UTF-8 are not the mirror's, so a lossy
/// conversion is enough.
pub(super) fn names(dir: impl AsFd) -> io::Result<Vec<String>> {
    let mut names = Vec::new();
    for entry in Dir::read_from(dir)? {
        let entry = entry?;
        let name = entry.file_name().to_string_lossy();
        if !matches!(&*name, "." | "..") {
            names.push(name.into_owned());
        }
    }
    Ok(names)
}

/// Opens a folder in `dir` without following a link.
pub(super) fn open_folder(dir: impl AsFd, name: &str) -> rustix::io::Result<OwnedFd> {
    openat(dir, name, folder_flags(), Mode::empty())
}

fn folder_flags() -> OFlags {
    OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC
}

/// The target of a link; `None` if there is no link with this name.
pub(super) fn link_target(dir: impl AsFd, name: &str) -> io::Result<Option<String>> {
    match readlinkat(dir, name, Vec::new()) {
        Ok(target) => Ok(target.into_string().ok()),
        Err(Errno::NOENT | Errno::INVAL) => Ok(None),
        Err(errno) => Err(errno.into()),
    }
}

/// The content of a regular file of up to `limit` bytes; `None` if there is no such file.
pub(super) fn read_file(dir: impl AsFd, name: &str, limit: usize) -> io::Result<Option<Vec<u8>>> {
    // NONBLOCK: opening a pipe must not block.
    let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
    let file = match openat(dir, name, flags, Mode::empty()) {
        Ok(file) => File::from(file),
        Err(Errno::NOENT | Errno::LOOP | Errno::NXIO) => return Ok(None),
        Err(errno) => return Err(errno.into()),
    };
    let metadata = file.metadata()?;
    let size = usize::try_from(metadata.len()).unwrap_or(usize::MAX);
    if !metadata.is_file() || size > limit {
        return Ok(None);
    }
    // The whole capacity from the start: growing would leave copies of a key in memory.
    let mut bytes = Vec::with_capacity(size + 1);
    file.take(limit as u64).read_to_end(&mut bytes)?;
    Ok(Some(bytes))
}

/// Creates a folder that no other user can enter yet.
pub(super) fn make_folder(dir: impl AsFd, name: &str) -> io::Result<OwnedFd> {
    mkdirat(&dir, name, Mode::from(0o700))?;
    Ok(open_folder(&dir, name)?)
}

/// Sets owner, group and mode of a folder or file, in this order, so that no other group can ever read it.
pub(super) fn settle(fd: impl AsFd, rights: Rights, mode: u32) -> io::Result<()> {
    let stat = fstat(&fd)?;
    let owner = rights.owner.filter(|owner| *owner != stat.st_uid);
    let group = rights.group.filter(|group| *group != stat.st_gid);
    if owner.is_some() || group.is_some() {
        fchown(&fd, owner.map(Uid::from_raw), group.map(Gid::from_raw))?;
    }
    fchmod(&fd, Mode::from(mode))?;
    Ok(())
}

/// Does the same as [`settle`] for a regular file.
pub(super) fn settle_file(dir: impl AsFd, name: &str, rights: Rights) -> io::Result<()> {
    let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
    settle(
        openat(dir, name, flags, Mode::empty())?,
        rights,
        rights.file_mode,
    )
}

/// The metadata of a regular file; `None` if there is no such file.
pub(super) fn stat_file(dir: impl AsFd, name: &str) -> io::Result<Option<Stat>> {
    match statat(dir, name, AtFlags::SYMLINK_NOFOLLOW) {
        Ok(stat) if FileType::from_raw_mode(stat.st_mode).is_file() => Ok(Some(stat)),
        Ok(_) | Err(Errno::NOENT) => Ok(None),
        Err(errno) => Err(errno.into()),
    }
}

/// Creates a new file and syncs it.
pub(super) fn make_file(
    dir: impl AsFd,
    name: &str,
    content: &[u8],
    rights: Rights,
) -> io::Result<()> {
    let flags = OFlags::CREATE | OFlags::EXCL | OFlags::WRONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let mut file = File::from(openat(dir, name, flags, Mode::from(0o600))?);
    settle(&file, rights, rights.file_mode)?;
    file.write_all(content)?;
    file.sync_all()
}

/// Creates a link. It replaces a leftover with the same name.
pub(super) fn make_link(dir: impl AsFd, name: &str, target: &str) -> io::Result<()> {
    remove_file(&dir, name)?;
    Ok(symlinkat(target, &dir, name)?)
}

/// Removes a file or link, if it exists.
pub(super) fn remove_file(dir: impl AsFd, name: &str) -> io::Result<()> {
    match unlinkat(dir, name, AtFlags::empty()) {
        Ok(()) | Err(Errno::NOENT) => Ok(()),
        Err(errno) => Err(errno.into()),
    }
}

/// Renames within a folder, and replaces what has the new name.
pub(super) fn rename(dir: impl AsFd, from: &str, to: &str) -> io::Result<()> {
    Ok(renameat(&dir, from, &dir, to)?)
}

/// Renames within a folder, if nothing has the new name.
pub(super) fn rename_to_new(dir: impl AsFd, from: &str, to: &str) -> io::Result<()> {
    match renameat_with(&dir, from, &dir, to, RenameFlags::NOREPLACE) {
        // The file system does not support this. A plain rename does not replace a folder with content either.
        Err(Errno::INVAL | Errno::NOSYS | Errno::NOTSUP) => rename(dir, from, to),
        result => Ok(result?),
    }
}

/// Exchanges two names in one step. Returns whether the file system supports this.
pub(super) fn exchange(dir: impl AsFd, a: &str, b: &str) -> io::Result<bool> {
    match renameat_with(&dir, a, &dir, b, RenameFlags::EXCHANGE) {
        Ok(()) => Ok(true),
        Err(Errno::INVAL | Errno::NOSYS | Errno::NOTSUP) => Ok(false),
        Err(errno) => Err(errno.into()),
    }
}

/// Syncs a folder, so that its entries survive a power failure.
pub(super) fn sync(dir: impl AsFd) -> io::Result<()> {
    Ok(fsync(dir)?)
}

/// Removes `path`, of any type, if it exists. Links are removed, not followed.
pub(super) fn remove_tree(path: &Path) -> io::Result<()> {
    let result = match path.symlink_metadata() {
        Ok(metadata) if metadata.is_dir() => std::fs::remove_dir_all(path),
        Ok(_) => std::fs::remove_file(path),
        Err(error) => Err(error),
    };
    match result {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        result => result,
    }
}

/// A name that neither this process nor an earlier one has used: the time, and a number that distinguishes
/// concurrent writers.
pub(super) fn unique(prefix: &str) -> String {
    static NUMBER: AtomicU64 = AtomicU64::new(0);
    let now = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap_or_default();
    let number = NUMBER.fetch_add(1, Ordering::Relaxed);
    format!("{prefix}{:x}{number:04x}", now.as_nanos())
}

/// Whether this is the name of a generation, from [`unique`].
pub(super) fn is_generation(name: &str) -> bool {
    let rest = name.strip_prefix("..").unwrap_or_default();
    !rest.is_empty() && rest.bytes().all(|byte| byte.is_ascii_hexdigit())
}
