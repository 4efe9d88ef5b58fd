//! The state of files and folders that a read depended on, so that `stat` alone can tell later whether they
//! changed.

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use rustix::fs::{Stat, lstat};
use rustix::io::Errno;

/// What the results of later calls of `stat` are compared with. A hundred bytes for a folder: there may be tens of
/// thousands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Stamps {
    /// A fingerprint of all that was found.
    print: u64,
    /// For each path that was examined: its [`Depth`], how many bytes it has in common with the one before,
    /// and the rest of it, which a NUL ends. The one before the first is the folder that was read.
    looks: Box<[u8]>,
    /// Whether something could not be examined, for a reason that passes without a trace.
    unsure: bool,
    /// Whether something could not be examined because permission was denied.
    denied: bool,
}

/// How much of what is found matters.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Depth {
    /// Which file or folder it is: enough for a folder that is only walked through.
    Identity = b'i' as isize,
    /// Its content too.
    Content = b'c' as isize,
}

impl Stamps {
    /// Examines everything again that was examined when `folder` was read, by `lstat` alone: true when
    /// something is not as it was.
    pub fn changed(&self, folder: &Path) -> bool {
        let mut print = DefaultHasher::new();
        self.each(folder, |path, depth| {
            fingerprint(depth, lstat(path).as_ref().map_err(|e| *e)).hash(&mut print);
        });
        self.unsure || print.finish() != self.print
    }

    /// The paths that were examined when `folder` was read.
    pub(super) fn paths(&self, folder: &Path) -> Vec<PathBuf> {
        let mut paths = Vec::new();
        self.each(folder, |path, _| paths.push(path.to_owned()));
        paths
    }

    fn each(&self, folder: &Path, mut look: impl FnMut(&Path, Depth)) {
        let mut path = folder.as_os_str().as_bytes().to_vec();
        let mut looks = &*self.looks;
        while let Some(([depth, common], rest)) = looks.split_first_chunk()
            && let Some(end) = rest.iter().position(|byte| *byte == 0)
        {
            path.truncate((*common).into());
            path.extend_from_slice(&rest[..end]);
            looks = &rest[end + 1..];
            let depth = match depth {
                b'i' => Depth::Identity,
                _ => Depth::Content,
            };
            look(Path::new(OsStr::from_bytes(&path)), depth);
        }
    }

    /// Whether something could not be examined because permission was denied.
    pub(super) fn denied(&self) -> bool {
        self.denied
    }

    /// Whether something could not be examined for a reason that passes without a trace, such as
    /// the limit on open files: then they count as changed until it could.
    pub fn unsure(&self) -> bool {
        self.unsure
    }
}

impl Default for Stamps {
    /// Those of a read that examined nothing.
    fn default() -> Self {
        Collector::default().finish(Path::new(""))
    }
}

/// Gathers [`Stamps`] during a read.
#[derive(Default)]
pub(super) struct Collector {
    prints: BTreeMap<(PathBuf, Depth), u64>,
    unsure: bool,
    denied: bool,
}

impl Collector {
    /// Keeps what was `found` at `path`. The first result for a path counts: what changes between two
    /// calls must count as changed later.
    pub(super) fn add(&mut self, depth: Depth, path: &Path, found: Result<&Stat, Errno>) {
        if let Err(error) = found {
            self.failed(error);
        }
        let print = fingerprint(depth, found);
        self.prints.entry((path.to_owned(), depth)).or_insert(print);
    }

    /// Something could not be examined.
    pub(super) fn failed(&mut self, error: Errno) {
        self.unsure |= passes(error);
        self.denied |= matches!(error, Errno::ACCESS | Errno::PERM);
    }

    /// What was found may never have been there.
    pub(super) fn unsure(&mut self) {
        self.unsure = true;
    }

    /// The stamps of a read of `folder`.
    pub(super) fn finish(self, folder: &Path) -> Stamps {
        let mut print = DefaultHasher::new();
        let mut looks = Vec::new();
        let mut last = folder.to_owned();
        let mut prints = self.prints.into_iter().peekable();
        while let Some(((path, depth), found)) = prints.next() {
            // What is examined below it is another thing when another folder takes its place.
            let below = prints.peek().map(|((path, _), _)| path);
            if depth == Depth::Identity && below.is_some_and(|below| below.starts_with(&path)) {
                continue;
            }
            let [bytes, before] = [&path, &last].map(|path| path.as_os_str().as_bytes());
            let pairs = before.iter().zip(bytes);
            let common = pairs.take_while(|(a, b)| a == b).count();
            let common = u8::try_from(common).unwrap_or(u8::MAX);
            looks.extend([depth as u8, common]);
            looks.extend(&bytes[common.into()..]);
            looks.push(0);
            found.hash(&mut print);
            last = path;
        }
        Stamps {
            print: print.finish(),
            // A copy of the exact size, as in `Texts`.
            looks: (*looks).into(),
            unsure: self.unsure,
            denied: self.denied,
        }
    }
}

/// Whether an error is of the kind that goes away without any change to the files.
fn passes(error: Errno) -> bool {
    matches!(
        error,
        Errno::MFILE
            | Errno::NFILE
            | Errno::NOMEM
            | Errno::IO
            | Errno::STALE
            | Errno::AGAIN
            | Errno::INTR
            | Errno::TIMEDOUT
            | Errno::HOSTDOWN
            | Errno::NOTCONN
    )
}

/// The bits of a mode that tell the type of a file (inode(7)).
const FILE_TYPE: u32 = 0o170_000;

fn fingerprint(depth: Depth, found: Result<&Stat, Errno>) -> u64 {
    let mut hasher = DefaultHasher::new();
    match found {
        Ok(stat) => {
            // What is walked through may change its mode: whether that matters shows in what is
            // found behind it.
            (stat.st_dev, stat.st_ino, stat.st_mode & FILE_TYPE).hash(&mut hasher);
            if depth == Depth::Content {
                stat.st_mode.hash(&mut hasher);
                (stat.st_size, stat.st_mtime, stat.st_mtime_nsec).hash(&mut hasher);
                (stat.st_ctime, stat.st_ctime_nsec).hash(&mut hasher);
            }
        }
        // A file in a folder's place is as good as nothing there.
        Err(Errno::NOENT | Errno::NOTDIR) => "absent".hash(&mut hasher),
        Err(error) => error.raw_os_error().hash(&mut hasher),
    }
    hasher.finish()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What a read of the folder that `path` is in finds there.
    fn stamps(depth: Depth, path: &Path) -> Stamps {
        let mut collector = Collector::default();
        collector.add(depth, path, lstat(path).as_ref().map_err(|e| *e));
        collector.finish(path.parent().unwrap())
    }

    #[test]
    fn a_file_that_appears_changes_or_goes_is_changed() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("tls.key");
        let absent = stamps(Depth::Content, &file);
        assert!(!absent.changed(dir.path()));

        std::fs::write(&file, "a").unwrap();
        assert!(absent.changed(dir.path()));
        let there = stamps(Depth::Content, &file);
        assert!(!there.changed(dir.path()));

        std::fs::write(&file, "ab").unwrap();
        assert!(there.changed(dir.path()));
        let changed = stamps(Depth::Content, &file);
        std::fs::remove_file(&file).unwrap();
        assert!(
            changed.changed(dir.path()) && there.changed(dir.path()) && !absent.changed(dir.path())
        );
    }

    #[test]
    fn each_of_many_paths_that_begin_alike_is_looked_at() {
        let dir = tempfile::tempdir().unwrap();
        let paths =
            ["a", "ab", "abc/d", "abc/de", "abc", "b", "é", "è"].map(|name| dir.path().join(name));
        std::fs::create_dir(dir.path().join("abc")).unwrap();
        for path in paths.iter().filter(|path| !path.is_dir()) {
            let mut collector = Collector::default();
            for path in &paths {
                collector.add(Depth::Content, path, lstat(path).as_ref().map_err(|e| *e));
            }
            let stamps = collector.finish(dir.path());
            assert!(!stamps.changed(dir.path()));
            std::fs::write(path, "x").unwrap();
            assert!(stamps.changed(dir.path()), "{path:?}");
        }
    }

    #[test]
    fn a_folder_walked_through_is_changed_by_another_in_its_place_alone() {
        let dir = tempfile::tempdir().unwrap();
        let [folder, other] = ["folder", "other"].map(|name| dir.path().join(name));
        std::fs::create_dir(&folder).unwrap();
        std::fs::create_dir(&other).unwrap();
        let before = stamps(Depth::Identity, &folder);
        std::fs::write(folder.join("file"), "a").unwrap();
        assert!(!before.changed(dir.path()));
        std::fs::remove_file(folder.join("file")).unwrap();
        std::fs::rename(&other, &folder).unwrap();
        assert!(before.changed(dir.path()));
    }

    #[test]
    fn a_passing_failure_counts_as_changed() {
        let mut collector = Collector::default();
        collector.add(Depth::Content, Path::new("/"), Err(Errno::MFILE));
        let stamps = collector.finish(Path::new("/"));
        assert!(stamps.unsure() && stamps.changed(Path::new("/")));
    }
}
