//! The state of files and folders that a read depended on, so that `stat` alone can tell later whether they
//! changed.

use std::collections::hash_map::DefaultHasher;
use std::collections::{HashMap, HashSet};
use std::ffi::OsStr;
use std::hash::{Hash, Hasher};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use rustix::fs::{Stat, lstat};
use rustix::io::Errno;

/// What the results of later calls of `stat` are compared with. A few hundred bytes for a folder: there may
/// be thousands.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Stamps {
    /// For each look: its [`Depth`], how many bytes its path has in common with that of the look
    /// before, in two bytes, and the rest of the path, which a NUL ends.
    paths: Box<[u8]>,
    /// For each path, the fingerprint of what was found.
    prints: Box<[u64]>,
    /// Whether something could not be examined, for a reason that passes without a trace.
    unsure: bool,
    /// Whether something could not be examined because permission was denied.
    denied: bool,
}

/// How much of what is found matters.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub(super) enum Depth {
    /// Which file or folder it is: enough for a folder that is only walked through.
    Identity = b'i' as isize,
    /// Its content too.
    Content = b'c' as isize,
}

impl Stamps {
    /// Recent again at everything, by `lstat` alone: true when something is not as it was.
    pub fn changed(&self) -> bool {
        self.changed_since(&mut Recent::default())
    }

    /// As [`Stamps::changed`], with what was seen a moment ago for other stamps.
    pub(super) fn changed_since(&self, recent: &mut Recent) -> bool {
        let mut rest = &*self.paths;
        let mut path = Vec::new();
        let mut is_other = |print: &u64| {
            let depth = next_look(&mut rest, &mut path);
            recent.at(depth, Path::new(OsStr::from_bytes(&path))) != *print
        };
        self.unsure || self.prints.iter().any(&mut is_other)
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

/// Takes the next look off `rest`, and makes `path`, the one before, its path.
fn next_look(rest: &mut &[u8], path: &mut Vec<u8>) -> Depth {
    let Some(([depth, low, high], looks)) = rest.split_first_chunk() else {
        return Depth::Identity;
    };
    let end = looks.iter().position(|byte| *byte == 0);
    let (own, looks) = looks.split_at(end.unwrap_or(looks.len()));
    path.truncate(u16::from_le_bytes([*low, *high]).into());
    path.extend_from_slice(own);
    *rest = looks.get(1..).unwrap_or_default();
    match depth {
        b'i' => Depth::Identity,
        _ => Depth::Content,
    }
}

/// Folders that many stamps have in common, as they were a moment ago: most paths are those of the
/// folders above the roots.
#[derive(Default)]
pub(super) struct Recent(HashMap<PathBuf, u64>);

impl Recent {
    fn at(&mut self, depth: Depth, path: &Path) -> u64 {
        let stat = || fingerprint(depth, lstat(path).as_ref().map_err(|e| *e));
        if depth == Depth::Content {
            return stat();
        }
        match self.0.get(path) {
            Some(print) => *print,
            None => {
                let print = stat();
                self.0.insert(path.to_owned(), print);
                print
            }
        }
    }
}

/// Gathers [`Stamps`] during a read.
#[derive(Default)]
pub(super) struct Collector {
    paths: Vec<u8>,
    /// The path of the last look.
    last: Vec<u8>,
    prints: Vec<u64>,
    seen: HashSet<u64>,
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
        let mut hasher = DefaultHasher::new();
        (depth, path.as_os_str().as_bytes()).hash(&mut hasher);
        if self.seen.insert(hasher.finish()) {
            self.add_look(depth, path.as_os_str().as_bytes());
            self.prints.push(fingerprint(depth, found));
        }
    }

    fn add_look(&mut self, depth: Depth, path: &[u8]) {
        let pairs = self.last.iter().zip(path);
        let common = pairs.take_while(|(a, b)| a == b).count();
        let common = u16::try_from(common).unwrap_or(u16::MAX);
        self.paths.push(depth as u8);
        self.paths.extend(common.to_le_bytes());
        self.paths.extend(&path[common.into()..]);
        self.paths.push(0);
        self.last = path.to_owned();
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

    pub(super) fn finish(self) -> Stamps {
        Stamps {
            paths: self.paths.into(),
            prints: self.prints.into(),
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

pub(super) fn fingerprint(depth: Depth, found: Result<&Stat, Errno>) -> u64 {
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

    fn stamps(depth: Depth, path: &Path) -> Stamps {
        let mut collector = Collector::default();
        collector.add(depth, path, lstat(path).as_ref().map_err(|e| *e));
        collector.finish()
    }

    #[test]
    fn a_file_that_appears_changes_or_goes_is_changed() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("tls.key");
        let absent = stamps(Depth::Content, &file);
        assert!(!absent.changed());

        std::fs::write(&file, "a").unwrap();
        assert!(absent.changed());
        let there = stamps(Depth::Content, &file);
        assert!(!there.changed());

        std::fs::write(&file, "ab").unwrap();
        assert!(there.changed());
        let changed = stamps(Depth::Content, &file);
        std::fs::remove_file(&file).unwrap();
        assert!(changed.changed() && there.changed() && !absent.changed());
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
            let stamps = collector.finish();
            assert!(!stamps.changed());
            std::fs::write(path, "x").unwrap();
            assert!(stamps.changed(), "{path:?}");
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
        assert!(!before.changed());
        std::fs::remove_file(folder.join("file")).unwrap();
        std::fs::rename(&other, &folder).unwrap();
        assert!(before.changed());
    }

    #[test]
    fn a_passing_failure_counts_as_changed() {
        let mut collector = Collector::default();
        collector.add(Depth::Content, Path::new("/"), Err(Errno::MFILE));
        let stamps = collector.finish();
        assert!(stamps.unsure() && stamps.changed());
    }
}
