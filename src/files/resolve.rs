//! A path walk in user space: each folder is announced right before a name is looked up in it, so
//! that every hop of every link can be watched, a missing one included, and none can lead astray.

use std::ffi::{CString, OsStr, OsString};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Component, Path, PathBuf};
use std::rc::Rc;

use rustix::fs::{AtFlags, CWD, FileType, Mode, OFlags, Stat};
use rustix::fs::{fstat, openat, readlinkat, statat};
use rustix::io::{Errno, retry_on_intr};

use super::arm::{Arm, Dir, FileId, Interest};
use super::filesystem::Kind;
use super::stamps::{Collector, Depth};

/// Links that a walk follows: as many as Linux does, see path_resolution(7).
const MAX_LINKS: u32 = 40;

/// Folders that a confined walk may be below its root: each one is held open.
const MAX_DEPTH: usize = 32;

/// Why a walk led nowhere.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Failure {
    /// Nothing is there.
    Absent,
    /// A link leads to this path, where nothing is.
    Dangling(PathBuf),
    /// More links than [`MAX_LINKS`].
    Circle,
    /// More folders below each other than [`MAX_DEPTH`].
    TooDeep,
    /// It leads out of the folder that it is confined to, to here.
    Outside(PathBuf),
    /// The system refused it.
    System(Errno),
}

/// An open folder.
pub(super) struct Folder {
    pub(super) fd: OwnedFd,
    pub(super) path: PathBuf,
    /// In a confined walk, the folder that it was found in, up to the one that no walk leaves.
    pub(super) above: Option<Rc<Self>>,
    id: FileId,
    kind: Kind,
    /// If it is open for listing, its state when it was opened.
    pub(super) listing: Option<Stat>,
}

impl Folder {
    pub(super) fn id(&self) -> FileId {
        self.id
    }

    pub(super) fn as_dir(&self) -> Dir<'_> {
        Dir {
            fd: self.fd.as_fd(),
            path: &self.path,
            id: self.id,
            remote: self.kind.is_remote(),
            complete: false,
        }
    }
}

/// What a name stands for.
pub(super) enum Entry {
    Folder(Rc<Folder>),
    Link(Link),
    Other(Leaf),
}

/// A symbolic link, as it was.
pub(super) struct Link {
    pub(super) target: PathBuf,
    pub(super) stat: Stat,
}

impl Link {
    fn new(target: CString, stat: Stat) -> Self {
        let target = PathBuf::from(OsString::from_vec(target.into_bytes()));
        Self { target, stat }
    }
}

/// Something that is neither folder nor link, under its name in the folder that it is in.
pub(super) struct Leaf {
    pub(super) folder: Rc<Folder>,
    pub(super) name: OsString,
    pub(super) stat: Stat,
    /// A regular file that is open already.
    pub(super) opened: Option<OwnedFd>,
}

/// Where a path led.
pub(super) enum Found {
    Folder(Rc<Folder>),
    Other(Leaf),
}

/// The walks of one read.
pub(super) struct Walk<'a> {
    pub(super) arm: &'a mut dyn Arm,
    pub(super) stamps: Collector,
    /// Whether no walk may leave the folder that it starts from.
    confined: bool,
    /// The owner of the last link that a confined walk followed, root's links left out.
    pub(super) linked_by: Option<u32>,
    /// The folder of the root that it went through.
    pub(super) root: Option<FileId>,
    /// Device → the kind of its file system, for the devices met so far.
    devices: Vec<(u64, Kind)>,
    /// A folder whose files were complete before it could be reached.
    complete: Option<FileId>,
    /// Whether the folder that is looked for is to be listed, so that it is best opened for that at once.
    pub(super) for_listing: bool,
}

impl<'a> Walk<'a> {
    pub(super) fn new(arm: &'a mut dyn Arm) -> Self {
        Self {
            arm,
            stamps: Collector::default(),
            confined: false,
            linked_by: None,
            root: None,
            devices: Vec::new(),
            complete: None,
            for_listing: false,
        }
    }

    /// Follows `path` from the file system's root.
    pub(super) fn find(&mut self, path: &Path) -> Result<Found, Failure> {
        let path = std::path::absolute(path)
            .map_err(|e| Failure::System(Errno::from_io_error(&e).unwrap_or(Errno::INVAL)))?;
        let top = self.top()?;
        self.follow(top, path.strip_prefix("/").unwrap_or(&path), 0)
    }

    /// Continues from the folder of a root.
    pub(super) fn begin_at(&mut self, root: &Folder) {
        self.root = Some(root.id);
        self.devices.push((root.id.device, root.kind));
    }

    /// The files of `folder` were complete before it could be reached.
    pub(super) fn set_complete(&mut self, folder: &Folder) {
        self.complete = Some(folder.id);
    }

    /// `folder`, as it is reported to the watch.
    pub(super) fn dir<'f>(&self, folder: &'f Folder) -> Dir<'f> {
        Dir {
            complete: self.complete == Some(folder.id),
            ..folder.as_dir()
        }
    }

    /// From now on no walk leaves the folder that it starts from, or that was found from there.
    ///
    /// `..` is not looked up then, but is the folder that the walk came from: a folder that somebody
    /// moves meanwhile leads nowhere else.
    pub(super) fn confine(&mut self) {
        self.confined = true;
    }

    /// Follows `path` from `folder`, after `links` links that led here.
    pub(super) fn follow(
        &mut self,
        mut folder: Rc<Folder>,
        path: &Path,
        mut links: u32,
    ) -> Result<Found, Failure> {
        let mut steps: Vec<Step> = Vec::new();
        push_steps(&mut steps, path);
        // How many of the steps are those of `path` itself, not of a link.
        let mut own = if links == 0 { steps.len() } else { 0 };
        while let Some(step) = steps.pop() {
            let is_own = steps.len() < own;
            own = own.min(steps.len());
            folder = match step {
                Step::Top if self.confined => return Err(Failure::Outside(PathBuf::from("/"))),
                Step::Top => self.top()?,
                Step::Up => self.parent(&folder)?,
                Step::Down(name) => match self.lookup(&folder, &name) {
                    Ok(Entry::Folder(folder)) => folder,
                    Ok(Entry::Link(_)) if links == MAX_LINKS => return Err(Failure::Circle),
                    Ok(Entry::Link(link)) => {
                        links += 1;
                        self.note_link(&link);
                        push_steps(&mut steps, &link.target);
                        folder
                    }
                    Ok(Entry::Other(leaf)) if steps.is_empty() => return Ok(Found::Other(leaf)),
                    Ok(Entry::Other(_)) | Err(Failure::Absent) if is_own => {
                        return Err(Failure::Absent);
                    }
                    Ok(Entry::Other(_)) | Err(Failure::Absent) => {
                        return Err(Failure::Dangling(folder.path.join(name)));
                    }
                    Err(failure) => return Err(failure),
                },
            };
        }
        Ok(Found::Folder(folder))
    }

    /// Finds the entry `name` of a listed folder, of which the listing gave the `kind`.
    pub(super) fn find_listed(
        &mut self,
        folder: &Rc<Folder>,
        name: &OsStr,
        kind: FileType,
    ) -> Result<Found, Failure> {
        // Most reads need no more than the file itself.
        if kind == FileType::RegularFile
            && let Ok((fd, stat)) = open_file(folder, name)
            && FileType::from_raw_mode(stat.st_mode) == FileType::RegularFile
        {
            let path = folder.path.join(name);
            self.stamps.add(Depth::Content, &path, Ok(&stat));
            return Ok(Found::Other(Leaf {
                folder: Rc::clone(folder),
                name: name.to_owned(),
                stat,
                opened: Some(fd),
            }));
        }
        self.follow(Rc::clone(folder), Path::new(name), 0)
    }

    /// Looks `name` up in `folder`, which is a link or nothing most likely: without opening it. Whether the
    /// link is still the same one must be checked when it has been followed.
    pub(super) fn lookup_link(
        &mut self,
        folder: &Rc<Folder>,
        name: &OsStr,
    ) -> Result<Entry, Failure> {
        let dir = self.dir(folder);
        self.arm.arm(dir, Interest::Name(name));
        let path = folder.path.join(name);
        let stat = statat(&folder.fd, name.as_bytes(), AtFlags::SYMLINK_NOFOLLOW)
            .map_err(|error| self.missing(&path, error))?;
        if FileType::from_raw_mode(stat.st_mode) == FileType::Symlink
            && let Ok(target) = readlinkat(&folder.fd, name.as_bytes(), Vec::new())
        {
            self.stamps.add(Depth::Content, &path, Ok(&stat));
            return Ok(Entry::Link(Link::new(target, stat)));
        }
        self.lookup(folder, name)
    }

    /// Looks `name` up in `folder`.
    pub(super) fn lookup(&mut self, folder: &Rc<Folder>, name: &OsStr) -> Result<Entry, Failure> {
        let dir = self.dir(folder);
        self.arm.arm(dir, Interest::Name(name));
        let path = folder.path.join(name);
        let listing = self.open_listing(folder, name);
        let is_listing = listing.is_some();
        let opened = listing.map_or_else(|| self.open(folder, name), Ok);
        let (fd, stat) = opened.map_err(|error| self.missing(&path, error))?;
        let kind = FileType::from_raw_mode(stat.st_mode);
        let depth = match kind {
            FileType::Directory => Depth::Identity,
            _ => Depth::Content,
        };
        self.stamps.add(depth, &path, Ok(&stat));
        if kind == FileType::Directory {
            let above = self.confined.then(|| Rc::clone(folder));
            let folder = self.enter(fd, path, above, &stat, is_listing.then_some(stat))?;
            return Ok(Entry::Folder(folder));
        }
        if kind == FileType::Symlink {
            let target = readlinkat(&fd, "", Vec::new()).map_err(Failure::System)?;
            return Ok(Entry::Link(Link::new(target, stat)));
        }
        Ok(Entry::Other(Leaf {
            folder: Rc::clone(folder),
            name: name.to_owned(),
            stat,
            opened: None,
        }))
    }

    /// Keeps that nothing could be looked up at `path`.
    fn missing(&mut self, path: &Path, error: Errno) -> Failure {
        self.stamps.add(Depth::Content, path, Err(error));
        match error {
            Errno::NOENT | Errno::NOTDIR | Errno::NAMETOOLONG => Failure::Absent,
            _ => Failure::System(error),
        }
    }

    /// Keeps whose link was followed.
    pub(super) fn note_link(&mut self, link: &Link) {
        if self.confined && link.stat.st_uid != 0 {
            self.linked_by = Some(link.stat.st_uid);
        }
    }

    fn top(&mut self) -> Result<Rc<Folder>, Failure> {
        self.open_folder(CWD, "/", PathBuf::from("/"))
    }

    fn parent(&mut self, folder: &Folder) -> Result<Rc<Folder>, Failure> {
        let path = folder.path.parent().unwrap_or(&folder.path).to_owned();
        match &folder.above {
            Some(above) => Ok(Rc::clone(above)),
            None if self.confined => Err(Failure::Outside(path)),
            None => self.open_folder(folder.fd.as_fd(), "..", path),
        }
    }

    fn open_folder(
        &mut self,
        from: BorrowedFd<'_>,
        name: &str,
        path: PathBuf,
    ) -> Result<Rc<Folder>, Failure> {
        let (fd, stat) = open(from, OsStr::new(name), OFlags::PATH | OFlags::DIRECTORY)
            .and_then(with_stat)
            .map_err(Failure::System)?;
        self.enter(fd, path, None, &stat, None)
    }

    fn enter(
        &mut self,
        fd: OwnedFd,
        path: PathBuf,
        above: Option<Rc<Folder>>,
        stat: &Stat,
        listing: Option<Stat>,
    ) -> Result<Rc<Folder>, Failure> {
        let way = std::iter::successors(above.as_deref(), |folder| folder.above.as_deref());
        if way.count() > MAX_DEPTH {
            return Err(Failure::TooDeep);
        }
        let id = FileId::of(stat);
        let kind = self.kind(&fd, id.device).map_err(Failure::System)?;
        Ok(Rc::new(Folder {
            fd,
            path,
            above,
            id,
            kind,
            listing,
        }))
    }

    /// Opens the folder `name` for listing, if it is to be listed and this process may.
    fn open_listing(&self, folder: &Folder, name: &OsStr) -> Option<(OwnedFd, Stat)> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW;
        let opened = self.for_listing.then(|| open(&folder.fd, name, flags))?;
        opened.and_then(with_stat).ok()
    }

    /// Opens whatever `name` is by its path alone, which has no effect on a pipe or a device.
    ///
    /// A folder that an automounter stands ready for is not mounted by `stat` alone, only by
    /// opening it as a folder.
    fn open(&mut self, folder: &Folder, name: &OsStr) -> Result<(OwnedFd, Stat), Errno> {
        let flags = OFlags::PATH | OFlags::NOFOLLOW;
        let (fd, stat) = open(&folder.fd, name, flags).and_then(with_stat)?;
        if FileType::from_raw_mode(stat.st_mode) == FileType::Directory
            && self.kind(&fd, FileId::of(&stat).device)?.is_automount()
        {
            let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::DIRECTORY;
            return open(&folder.fd, name, flags).and_then(with_stat);
        }
        Ok((fd, stat))
    }

    /// The kind of the file system that `fd` is on, asked once for each device.
    fn kind(&mut self, fd: &OwnedFd, device: u64) -> Result<Kind, Errno> {
        if let Some((_, kind)) = self.devices.iter().find(|(known, _)| *known == device) {
            return Ok(*kind);
        }
        let kind = Kind::of(fd)?;
        self.devices.push((device, kind));
        Ok(kind)
    }
}

/// One step of a walk.
enum Step {
    Top,
    Up,
    Down(OsString),
}

/// Puts the steps of `path` before those that are left.
fn push_steps(steps: &mut Vec<Step>, path: &Path) {
    for component in path.components().rev() {
        match component {
            Component::RootDir => steps.push(Step::Top),
            Component::ParentDir => steps.push(Step::Up),
            Component::Normal(name) => steps.push(Step::Down(name.to_owned())),
            Component::CurDir | Component::Prefix(_) => {}
        }
    }
}

/// `openat` with what holds for every file that is opened here.
pub(super) fn open(folder: impl AsFd, name: &OsStr, flags: OFlags) -> Result<OwnedFd, Errno> {
    let flags = flags | OFlags::CLOEXEC;
    retry_on_intr(|| openat(&folder, name.as_bytes(), flags, Mode::empty()))
}

/// Opens what is a regular file most likely. Anything else must not block, nor become our terminal.
pub(super) fn open_file(folder: &Folder, name: &OsStr) -> Result<(OwnedFd, Stat), Errno> {
    let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::NOCTTY;
    open(&folder.fd, name, flags).and_then(with_stat)
}

pub(super) fn with_stat(fd: OwnedFd) -> Result<(OwnedFd, Stat), Errno> {
    let stat = fstat(&fd)?;
    Ok((fd, stat))
}
