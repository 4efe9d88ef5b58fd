//! Opens and lists a folder, and describes the problem if a walk failed.

use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::rc::Rc;

use rustix::fs::{Dir as Listing, FileType, OFlags};
use rustix::io::{Errno, fcntl_dupfd_cloexec};

use super::resolve::{Failure, Folder, Found, Walk, open, with_stat};
use super::route::Route;
use super::stamps::Depth;
use crate::problem::{Problem, Reason};
use crate::text;

/// Why a folder can't be read.
pub(super) enum NoFolder {
    /// It does not exist.
    Absent,
    /// Something else is there, with this problem.
    Not(Problem),
    /// It may exist: that is unknown because of this problem.
    Unknown(Problem),
}

/// Opens the folder at `path`. With `confine`, its root, no link may lead out of that root. With a `route` to the
/// root, the walk begins there.
pub(super) fn open_folder(
    walk: &mut Walk<'_>,
    confine: Option<&Path>,
    route: Option<&Route>,
    path: &Path,
) -> Result<Rc<Folder>, NoFolder> {
    match find_folder(walk, confine, route, path) {
        Ok(Found::Folder(folder)) => Ok(folder),
        Ok(Found::Other(_)) => Err(NoFolder::Not(Problem::new(
            Reason::NotAFile,
            path,
            "it is not a folder",
            "replace it with a folder",
        ))),
        Err(Failure::Absent) => Err(NoFolder::Absent),
        Err(Failure::System(error)) => {
            walk.stamps.failed(error);
            Err(NoFolder::Unknown(problem(path, Failure::System(error))))
        }
        Err(failure) => Err(NoFolder::Not(problem(path, failure))),
    }
}

fn find_folder(
    walk: &mut Walk<'_>,
    confine: Option<&Path>,
    route: Option<&Route>,
    path: &Path,
) -> Result<Found, Failure> {
    let Some(root) = confine.or(route.map(Route::root)) else {
        return walk.find(path);
    };
    let route = route.filter(|route| route.root() == root);
    let found = match route.and_then(Route::folder) {
        Some(folder) => Ok(Found::Folder(folder)),
        // A read that can't reach the root watches the folders on the way itself.
        None => walk.find(root),
    };
    let Ok(Found::Folder(folder)) = found else {
        return found;
    };
    walk.begin_at(&folder);
    if confine.is_some() {
        walk.confine();
    }
    match path.strip_prefix(root) {
        Ok(rest) => walk.follow(folder, rest, 0),
        Err(_) => Err(Failure::Outside(path.to_owned())),
    }
}

/// The entries of `folder`, except for `.` and `..`, unsorted.
pub(super) fn list(
    walk: &mut Walk<'_>,
    folder: &Folder,
) -> Result<impl Iterator<Item = Result<(OsString, FileType), Errno>> + use<>, Errno> {
    let opened = match &folder.listing {
        Some(stat) => fcntl_dupfd_cloexec(&folder.fd, 0).map(|fd| (fd, *stat)),
        None => {
            let flags = OFlags::RDONLY | OFlags::DIRECTORY;
            open(&folder.fd, OsStr::new("."), flags).and_then(with_stat)
        }
    };
    // The state from before the listing: a change during the listing must be detected later.
    let (fd, stat) =
        opened.inspect_err(|error| walk.stamps.add(Depth::Content, &folder.path, Err(*error)))?;
    walk.stamps.add(Depth::Content, &folder.path, Ok(&stat));
    let mut listing = Listing::new(fd)?;
    listing.rewind();
    Ok(listing.filter_map(|entry| match entry {
        Ok(entry) => {
            let name = entry.file_name().to_bytes();
            (name != b"." && name != b"..")
                .then(|| Ok((OsStr::from_bytes(name).to_owned(), entry.file_type())))
        }
        Err(error) => Some(Err(error)),
    }))
}

/// The problem to report if a walk from `path` failed.
pub(super) fn problem(path: &Path, failure: Failure) -> Problem {
    match failure {
        Failure::Absent => Problem::new(Reason::Unreadable, path, "it does not exist", "create it"),
        Failure::Dangling(to) => Problem::new(
            Reason::BrokenLink,
            path,
            format!("it leads to {}, which does not exist", text::path(&to)),
            "correct the link, or delete it",
        ),
        Failure::Circle => Problem::new(
            Reason::BrokenLink,
            path,
            "its links lead in a circle",
            "correct the link, or delete it",
        ),
        Failure::TooDeep => Problem::new(
            Reason::BrokenLink,
            path,
            "it leads through too many nested folders for a confined root",
            "keep the file in the folder itself",
        ),
        Failure::Outside(to) => Problem::new(
            Reason::BrokenLink,
            path,
            format!("it leads out of its root, to {}", text::path(&to)),
            "keep the file itself below the root, or switch `confine` off",
        ),
        Failure::System(error) => {
            let remedy = match error {
                Errno::ACCESS | Errno::PERM => "let the agent's user read it",
                Errno::MFILE => "raise the agent's limit on open files (LimitNOFILE=)",
                Errno::NFILE => "raise the system's limit on open files (fs.file-max)",
                _ => "see the system's log; the read is retried",
            };
            Problem::new(
                Reason::Unreadable,
                path,
                format!("it can't be read: {}", std::io::Error::from(error)),
                remedy,
            )
        }
    }
}
