//! Which folder a watch is on, and since when what it reports can be relied on.

use std::ffi::OsStr;
use std::fs::File;
use std::io::Write;
use std::os::fd::AsFd;

use super::kernel::{Inotify, Scope};
use super::*;
use crate::files::read::{Dir, FileId, Interest};

/// Two owners, and folders that they depend on.
struct Bed {
    watch: Watch<PathBuf>,
    runtime: tokio::runtime::Runtime,
    dir: tempfile::TempDir,
}

impl Bed {
    fn new() -> Self {
        Self {
            watch: Watch::start(Settings::default()),
            runtime: tokio::runtime::Builder::new_current_thread()
                .enable_all()
                .build()
                .unwrap(),
            dir: tempfile::tempdir().unwrap(),
        }
    }

    fn folder(&self, name: &str) -> PathBuf {
        let folder = self.dir.path().join(name);
        fs::create_dir_all(&folder).unwrap();
        folder
    }

    /// A read of `owner` that depends on `interest` in `folder`, whatever the number of its inode.
    fn read(&self, owner: &str, folder: &Path, interest: Interest<'_>) {
        let read = self.watch.read(&owner.into(), |arm| {
            arm_folder(arm, folder, interest);
            ((), Stamps::default())
        });
        assert!(read.is_some());
    }

    /// The owners that are due, in order.
    fn due(&self) -> Vec<PathBuf> {
        let mut due = Vec::new();
        let changed = || async { tokio::time::timeout(SILENCE, self.watch.changed()).await };
        while let Ok(owners) = self.runtime.block_on(changed()) {
            due.extend(owners);
        }
        due.sort();
        due
    }

    fn is_due(&self, owners: &[&str]) -> bool {
        self.due().iter().eq(owners.iter().map(Path::new))
    }
}

/// All folders have the same number here.
fn arm_folder(arm: &mut dyn Arm, folder: &Path, interest: Interest<'_>) {
    let fd = File::open(folder).unwrap();
    let id = FileId {
        device: 1,
        inode: 5,
    };
    let dir = Dir {
        fd: fd.as_fd(),
        path: folder,
        id,
        remote: false,
        complete: false,
    };
    arm.arm(dir, interest);
}

#[test]
fn a_folder_that_gets_the_inode_number_of_another_is_told_apart() {
    let bed = Bed::new();
    let [first, second] = ["first", "second"].map(|name| bed.folder(name));
    bed.read("a", &first, Interest::All);
    fs::remove_dir(&first).unwrap();
    bed.read("a", &second, Interest::All);
    assert!(bed.is_due(&["a"]), "the first one was deleted");
    bed.read("a", &second, Interest::All);
    assert!(bed.is_due(&[]));
    fs::write(second.join("tls.key"), "key").unwrap();
    assert!(bed.is_due(&["a"]));
    assert_eq!(bed.watch.state().directories, 1);
}

#[test]
fn a_folder_that_is_replaced_during_a_read_has_it_read_again() {
    let bed = Bed::new();
    let [first, second] = ["first", "second"].map(|name| bed.folder(name));
    let read = bed.watch.read(&"a".into(), |arm| {
        arm_folder(arm, &first, Interest::All);
        fs::remove_dir(&first).unwrap();
        // For this read it is the first one.
        arm_folder(arm, &second, Interest::All);
        ((), Stamps::default())
    });
    assert!(read.is_some() && bed.is_due(&["a"]));
    bed.read("a", &second, Interest::All);
    fs::write(second.join("tls.key"), "key").unwrap();
    assert!(bed.is_due(&["a"]));
}

#[test]
fn no_watch_is_left_of_two_folders_with_one_inode_number() {
    let bed = Bed::new();
    let [first, second] = ["first", "second"].map(|name| bed.folder(name));
    let name = "tls.key".as_ref();
    let read = bed.watch.read(&"a".into(), |arm| {
        arm_folder(arm, &first, Interest::Name(name));
        arm_folder(arm, &second, Interest::Content(name));
        ((), Stamps::default())
    });
    assert!(read.is_some());
    assert_eq!(bed.watch.state().directories, 2);
    bed.watch.forget(&"a".into());
    assert_eq!(bed.watch.state().directories, 0);
}

#[test]
fn a_watch_is_widened_and_never_narrowed_by_another_owner() {
    let bed = Bed::new();
    let folder = bed.folder("folder");
    fs::write(folder.join("tls.key"), "key").unwrap();
    bed.read("a", &folder, Interest::Names);
    bed.read("b", &folder, Interest::All);
    bed.read("a", &folder, Interest::Names);
    assert!(bed.is_due(&[]));
    fs::write(folder.join("tls.key"), "another key").unwrap();
    assert!(bed.is_due(&["b"]), "the content matters to one alone");
    bed.watch.forget(&"a".into());
    fs::write(folder.join("tls.key"), "a third key").unwrap();
    assert!(bed.is_due(&["b"]));
    fs::remove_file(folder.join("tls.key")).unwrap();
    assert!(bed.is_due(&["b"]));
    assert_eq!(bed.watch.state().directories, 1);
}

#[test]
fn each_owner_of_a_shared_folder_is_due_until_it_is_forgotten() {
    let bed = Bed::new();
    let folder = bed.folder("folder");
    let names = ["tls.crt", "tls.key"].map(OsStr::new);
    let touch_both = || names.map(|name| symlink("x", folder.join(name)).unwrap());
    let remove_both = || names.map(|name| fs::remove_file(folder.join(name)).unwrap());
    bed.read("a", &folder, Interest::All);
    for owner in ["b", "c"] {
        bed.read(owner, &folder, Interest::Name(names[0]));
    }
    bed.read("c", &folder, Interest::Name(names[1]));
    touch_both();
    assert!(bed.is_due(&["a", "b", "c"]));
    for (forgotten, left) in [("a", &["b", "c"][..]), ("b", &["c"])] {
        bed.watch.forget(&forgotten.into());
        remove_both();
        assert!(bed.is_due(left));
        touch_both();
        assert!(bed.is_due(left));
    }
    bed.read("c", &folder, Interest::Names);
    fs::rename(folder.join(names[0]), folder.join("other")).unwrap();
    assert!(bed.is_due(&["c"]));
    bed.watch.forget(&"c".into());
    assert_eq!(bed.watch.state().directories, 0);
}

#[test]
fn a_watch_that_goes_before_it_is_recorded_is_placed_again() {
    let inotify = Inotify::open().unwrap();
    let dir = tempfile::tempdir().unwrap();
    let folder = File::open(dir.path()).unwrap();
    let place = |meanwhile: &dyn Fn()| {
        let (_, watch) = inotify.place(folder.as_fd(), Scope::Names, meanwhile);
        watch.unwrap()
    };
    let first = place(&|| ());
    let second = place(&|| {
        inotify.remove(first);
        inotify.drain(|_| {}).unwrap();
    });
    assert_ne!(second, first);
}

#[test]
fn an_owner_that_is_forgotten_during_its_read_is_another_one_afterwards() {
    let bed = Bed::new();
    let [old, new] = ["old", "new"].map(|name| bed.folder(name));
    let read = bed.watch.read(&"a".into(), |arm| {
        bed.watch.forget(&"a".into());
        bed.read("a", &new, Interest::All);
        arm_folder(arm, &old, Interest::All);
        ((), Stamps::default())
    });
    assert!(read.is_none());
    assert_eq!(bed.watch.state().directories, 1);
    fs::write(old.join("tls.key"), "key").unwrap();
    assert!(bed.is_due(&[]));
    fs::write(new.join("tls.key"), "key").unwrap();
    assert!(bed.is_due(&["a"]));
}

#[test]
fn a_file_whose_events_were_lost_is_not_used_before_it_is_whole() {
    let dir = tempfile::tempdir().unwrap();
    let folder = dir.path().join("host");
    write(&folder, &A);
    let mut follower = Follower::settled(&folder, &A);
    let mut attempt = || {
        overflow(dir.path());
        follower.seen.clear();
        let start = Instant::now();
        let mut file = File::create(folder.join("tls.crt")).unwrap();
        file.write_all(b"certificate b").unwrap();
        // That there was an overflow is not known before this read ends.
        follower.read();
        let in_time = start.elapsed() < pending::QUIET;
        assert!(!in_time || follower.seen.is_empty());
        file.write_all(b" and its issuer").unwrap();
        drop(file);
        follower.until(&[("tls.crt", "certificate b and its issuer"), A[1]]);
        in_time
    };
    assert!((0..20).any(|_| attempt()), "this machine is too slow");
    assert!(follower.watch.state().overflows > 0);
}

#[test]
fn a_link_by_way_of_a_hidden_name_is_followed() {
    let dir = tempfile::tempdir().unwrap();
    let at = |path: &str| dir.path().join("host").join(path);
    write(&at("..1"), &A);
    write(&at("..2"), &B);
    symlink("..1", at("..now")).unwrap();
    symlink("..now/tls.key", at("tls.key")).unwrap();
    let mut follower = Follower::new(dir.path().join("host"));
    follower.until(&A[1..]);
    symlink("..2", at("..new")).unwrap();
    fs::rename(at("..new"), at("..now")).unwrap();
    follower.until(&B[1..]);
}
