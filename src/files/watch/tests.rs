//! Real files, a real inotify: whatever is done to the files, the last state of them is read, and
//! nothing that never stood there.

use std::collections::BTreeMap;
use std::fs;
use std::os::fd::OwnedFd;
use std::os::unix::fs::symlink;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::kernel::Inotify;
use super::*;
use crate::config::Limits;
use crate::files::read::{Options, read};

mod folders;
mod model;
mod tools;

/// A change that is not reported within this time is lost.
const LOST: Duration = Duration::from_secs(20);

/// What is not told within this time is not going to be.
const SILENCE: Duration = Duration::from_millis(300);

impl Key for PathBuf {
    fn folder(&self) -> PathBuf {
        self.clone()
    }
}

/// The files of a folder, by name, or `None` when it is not there.
type Files = Option<BTreeMap<String, String>>;

/// Keeps up with one folder.
struct Follower {
    runtime: tokio::runtime::Runtime,
    watch: Watch<PathBuf>,
    folder: PathBuf,
    files: Files,
    /// Every state that was good for use, in order.
    seen: Vec<Files>,
}

impl Follower {
    fn new(folder: impl Into<PathBuf>) -> Self {
        Self::with(folder, Settings::default())
    }

    /// One that has read these files, and has nothing more to follow.
    fn settled(folder: impl Into<PathBuf>, files: &[(&str, &str)]) -> Self {
        let mut follower = Self::new(folder);
        follower.until(files);
        follower.settle();
        follower
    }

    fn with(folder: impl Into<PathBuf>, settings: Settings) -> Self {
        let mut follower = Self {
            runtime: tokio::runtime::Builder::new_current_thread()
                .enable_all()
                .build()
                .unwrap(),
            watch: Watch::start(settings),
            folder: folder.into(),
            files: None,
            seen: Vec::new(),
        };
        follower.read();
        follower
    }

    fn read(&mut self) {
        if let Some(files) = read_files(&self.watch, &self.folder) {
            self.files.clone_from(&files);
            self.seen.push(files);
        }
    }

    /// Waits for a word, and reads. False when there is none.
    fn step(&mut self, limit: Duration) -> bool {
        let changed = async { tokio::time::timeout(limit, self.watch.changed()).await };
        let Ok(owners) = self.runtime.block_on(changed) else {
            return false;
        };
        assert!(owners.iter().all(|owner| *owner == self.folder) && owners.len() == 1);
        self.read();
        true
    }

    /// Follows until the files are these.
    fn until(&mut self, files: &[(&str, &str)]) {
        self.until_is(Some(pairs(files)));
    }

    fn until_is(&mut self, files: Files) {
        while self.files != files {
            assert!(self.step(LOST), "lost: {:?}\nwanted: {files:?}", self.files);
        }
    }

    /// Follows until nothing more is reported.
    fn settle(&mut self) {
        while self.step(SILENCE) {}
    }

    /// Nothing is reported.
    fn assert_idle(&mut self) {
        assert!(
            !self.step(SILENCE),
            "a change was reported, and there was none"
        );
    }
}

fn read_files(watch: &Watch<PathBuf>, folder: &PathBuf) -> Option<Files> {
    let limits = Limits::default();
    watch.read(folder, |arm| {
        let reading = read(folder.as_path(), options(&limits), arm);
        let files = reading.files.into_iter();
        let files = files.map(|file| (file.name, String::from_utf8_lossy(&file.bytes).into()));
        (reading.present.then(|| files.collect()), reading.stamps)
    })
}

fn options(limits: &Limits) -> Options<'_> {
    Options {
        limits,
        confine: None,
        route: None,
        parts: |names| (0..names.len()).collect(),
    }
}

fn pairs(files: &[(&str, &str)]) -> BTreeMap<String, String> {
    let pairs = files
        .iter()
        .map(|(name, text)| ((*name).into(), (*text).into()));
    pairs.collect()
}

fn write(folder: &Path, files: &[(&str, &str)]) {
    fs::create_dir_all(folder).unwrap();
    for (name, text) in files {
        fs::write(folder.join(name), text).unwrap();
    }
}

const A: [(&str, &str); 2] = [("tls.crt", "certificate a"), ("tls.key", "key a")];
const B: [(&str, &str); 2] = [("tls.crt", "certificate b"), ("tls.key", "key b")];

#[test]
fn a_folder_that_appears_later_is_found_and_reading_it_is_no_change() {
    let dir = tempfile::tempdir().unwrap();
    let folder = dir.path().join("etc/agent/credentials/host");
    let mut follower = Follower::new(&folder);
    assert_eq!(follower.files, None);
    follower.assert_idle();
    write(&folder, &A);
    follower.until(&A);
    follower.settle();
    for _ in 0..3 {
        follower.read();
    }
    follower.assert_idle();
}

#[test]
fn a_folder_that_goes_is_gone_and_comes_back() {
    let dir = tempfile::tempdir().unwrap();
    let folder = dir.path().join("root/host");
    write(&folder, &A);
    let mut follower = Follower::new(&folder);
    follower.until(&A);
    fs::remove_dir_all(&folder).unwrap();
    follower.until_is(None);
    write(&folder, &B);
    follower.until(&B);
    fs::remove_dir_all(dir.path().join("root")).unwrap();
    follower.until_is(None);
    write(&folder, &A);
    follower.until(&A);
}

#[test]
fn a_folder_renamed_away_and_replaced_is_seen_at_every_height() {
    let dir = tempfile::tempdir().unwrap();
    let folder = dir.path().join("a/b/host");
    for height in ["a/b/host", "a/b", "a"] {
        write(&folder, &A);
        let mut follower = Follower::new(&folder);
        follower.until(&A);
        let rest = Path::new("a/b/host").strip_prefix(height).unwrap();
        let (place, next, old) = (height, "next", "old");
        write(&dir.path().join(next).join(rest), &B);
        fs::rename(dir.path().join(place), dir.path().join(old)).unwrap();
        follower.until_is(None);
        fs::rename(dir.path().join(next), dir.path().join(place)).unwrap();
        follower.until(&B);
        follower.settle();
        // The one that was replaced is not watched any more.
        fs::write(dir.path().join(old).join(rest).join("tls.key"), "x").unwrap();
        follower.assert_idle();
        fs::write(folder.join("tls.key"), "key c").unwrap();
        follower.until(&[B[0], ("tls.key", "key c")]);
        fs::remove_dir_all(dir.path().join(old)).unwrap();
        fs::remove_dir_all(dir.path().join("a")).unwrap();
    }
}

#[test]
fn a_link_switched_anywhere_on_the_way_is_seen() {
    let dir = tempfile::tempdir().unwrap();
    let at = |path: &str| dir.path().join(path);
    write(&at("releases/1/host"), &A);
    write(&at("releases/2/host"), &B);
    symlink("releases/1", at("current")).unwrap();
    symlink(at("current"), at("root")).unwrap();
    let mut follower = Follower::settled(at("root/host"), &A);
    for (target, files) in [("releases/2", &B), ("releases/1", &A), ("releases/2", &B)] {
        symlink(target, at("new")).unwrap();
        fs::rename(at("new"), at("current")).unwrap();
        follower.until(files);
    }
    fs::remove_file(at("root")).unwrap();
    follower.until_is(None);
    symlink("releases/1", at("root")).unwrap();
    follower.until(&A);
}

#[test]
fn links_to_files_elsewhere_are_followed_and_watched() {
    let dir = tempfile::tempdir().unwrap();
    let at = |path: &str| dir.path().join(path);
    write(&at("archive"), &A);
    fs::create_dir(at("live")).unwrap();
    symlink("../archive/tls.crt", at("live/tls.crt")).unwrap();
    symlink(at("not/yet/tls.key"), at("live/tls.key")).unwrap();
    let mut follower = Follower::new(at("live"));
    follower.until(&A[..1]);
    write(&at("not/yet"), &A[1..]);
    follower.until(&A);
    fs::write(at("archive/tls.crt"), "certificate b").unwrap();
    follower.until(&[B[0], A[1]]);
    follower.settle();
    fs::write(at("archive/other"), "not looked at").unwrap();
    follower.assert_idle();
}

#[test]
fn a_folder_deleted_and_made_again_a_thousand_times_is_never_lost() {
    let dir = tempfile::tempdir().unwrap();
    let folder = dir.path().join("host");
    let mut follower = Follower::new(&folder);
    for round in 0..1000 {
        let text = format!("key {round}");
        if round % 20 == 0 {
            write(&folder, &[("tls.key", &text)]);
        } else {
            write(&dir.path().join("next"), &[("tls.key", &text)]);
            fs::rename(dir.path().join("next"), &folder).unwrap();
        }
        follower.until(&[("tls.key", &text)]);
        fs::remove_dir_all(&folder).unwrap();
        // Every other time it is back before anyone has seen it go.
        if round % 2 == 0 {
            follower.until_is(None);
        }
    }
    let watched = follower.watch.state().directories;
    assert!(watched < 10, "{watched} folders are still watched");
}

#[test]
fn a_file_being_written_is_read_when_it_is_closed() {
    use std::io::Write;
    let dir = tempfile::tempdir().unwrap();
    let folder = dir.path().join("host");
    write(&folder, &A);
    let mut follower = Follower::settled(&folder, &A);
    follower.seen.clear();
    let mut file = fs::File::create(folder.join("tls.crt")).unwrap();
    for piece in ["certificate b", " and", " its", " issuer"] {
        file.write_all(piece.as_bytes()).unwrap();
        // Meanwhile the key is replaced: it waits for the certificate.
        fs::write(folder.join("new"), "key b").unwrap();
        fs::rename(folder.join("new"), folder.join("tls.key")).unwrap();
        assert!(!follower.step(Duration::from_millis(40)));
    }
    drop(file);
    let whole = [("tls.crt", "certificate b and its issuer"), B[1]];
    follower.until(&whole);
    assert_eq!(follower.seen, [Some(pairs(&whole))]);
}

#[test]
fn a_file_that_is_never_closed_is_read_when_it_has_been_silent() {
    use std::io::Write;
    let dir = tempfile::tempdir().unwrap();
    let mut follower = Follower::new(dir.path());
    let mut file = fs::File::create(dir.path().join("tls.key")).unwrap();
    file.write_all(b"key a").unwrap();
    follower.until(&A[1..]);
    drop(file);
}

#[test]
fn a_file_half_written_when_the_watch_starts_is_not_read_before_it_is_whole() {
    use std::io::Write;
    let dir = tempfile::tempdir().unwrap();
    let mut file = fs::File::create(dir.path().join("tls.crt")).unwrap();
    file.write_all(b"certificate a").unwrap();
    let mut follower = Follower::new(dir.path());
    assert!(follower.seen.is_empty());
    file.write_all(b" and its issuer").unwrap();
    drop(file);
    follower.until(&[("tls.crt", "certificate a and its issuer")]);
    assert_eq!(follower.seen.len(), 1);
}

#[test]
fn a_file_half_written_before_another_owner_reads_it_is_not_read_before_it_is_whole() {
    use std::io::Write;
    let dir = tempfile::tempdir().unwrap();
    let [folder, link] = ["host", "link"].map(|name| dir.path().join(name));
    write(&folder, &A[1..]);
    symlink(&folder, &link).unwrap();
    let follower = Follower::settled(&folder, &A[1..]);
    let start = Instant::now();
    let mut file = fs::File::create(folder.join("tls.crt")).unwrap();
    file.write_all(b"certificate a").unwrap();
    // The folder is watched, but what was reported before the other owner depended on it was not for that one.
    follower.watch.lock().drain();
    let files = read_files(&follower.watch, &link);
    assert!(files.is_none() || start.elapsed() >= pending::QUIET);
    drop(file);
    follower.watch.lock().drain();
    assert_eq!(read_files(&follower.watch, &link), Some(Some(pairs(&A))));
}

#[test]
fn a_change_of_mode_and_a_hard_link_are_seen() {
    use std::os::unix::fs::PermissionsExt;
    let dir = tempfile::tempdir().unwrap();
    let folder = dir.path().join("host");
    write(&folder, &A);
    write(dir.path(), &[("cacert", "ca")]);
    let mut follower = Follower::settled(&folder, &A);
    fs::set_permissions(folder.join("tls.key"), PermissionsExt::from_mode(0o600)).unwrap();
    assert!(follower.step(LOST));
    fs::hard_link(dir.path().join("cacert"), folder.join("cacert")).unwrap();
    follower.until(&[("cacert", "ca"), A[0], A[1]]);
}

#[test]
fn a_new_link_is_due_at_once_and_a_new_file_is_not() {
    let dir = tempfile::tempdir().unwrap();
    let folder = dir.path().join("host");
    write(&folder, &A[..1]);
    let mut follower = Follower::settled(&folder, &A[..1]);
    let deadline = |watch: &Watch<PathBuf>| {
        let mut table = watch.lock();
        table.drain();
        table.next_deadline().unwrap()
    };
    symlink("nowhere", folder.join("link")).unwrap();
    assert!(deadline(&follower.watch) <= Instant::now());
    follower.settle();
    let file = fs::File::create(folder.join("tls.key")).unwrap();
    let made = Instant::now();
    assert!(deadline(&follower.watch) >= made + pending::QUIET);
    drop(file);
}

#[test]
fn a_burst_is_few_reads_and_an_owner_comes_once() {
    let dir = tempfile::tempdir().unwrap();
    let mut follower = Follower::new(dir.path());
    for round in 0..200 {
        fs::write(dir.path().join("new"), round.to_string()).unwrap();
        fs::rename(dir.path().join("new"), dir.path().join("tls.key")).unwrap();
    }
    follower.until(&[("tls.key", "199")]);
    follower.settle();
    assert!(follower.seen.len() < 10, "{} reads", follower.seen.len());
}

#[test]
fn forgotten_owners_are_silent_and_leave_no_watch() {
    let dir = tempfile::tempdir().unwrap();
    let folder = dir.path().join("host");
    write(&folder, &A);
    let mut follower = Follower::settled(&folder, &A);
    follower.watch.forget(&folder);
    write(&folder, &B);
    follower.assert_idle();
    wait_for("no watch", || follower.watch.state().directories == 0);
}

#[test]
fn what_strangers_do_beside_the_way_is_not_even_reported() {
    use std::io::{Read, Write};
    // Where no other test makes files: the names in the folders above are watched.
    let dir = tempfile::tempdir_in("/dev/shm").unwrap();
    let folder = dir.path().join("root/host");
    write(&folder, &A);
    let stranger = dir.path().join("stranger");
    fs::write(&stranger, "x").unwrap();
    let mut follower = Follower::settled(&folder, &A);
    let inotify = follower.watch.lock().folders.inotify.clone().unwrap();
    let reported = || rustix::io::ioctl_fionread(&inotify.fd).unwrap();
    for _ in 0..1000 {
        let mut text = String::new();
        fs::File::open(&stranger)
            .unwrap()
            .read_to_string(&mut text)
            .unwrap();
        fs::read(folder.join("tls.crt")).unwrap();
        fs::read_dir(dir.path()).unwrap().for_each(drop);
    }
    let mut file = fs::File::options().append(true).open(&stranger).unwrap();
    file.write_all(b"y").unwrap();
    drop(file);
    assert_eq!(reported(), 0);
    fs::write(folder.join("tls.crt"), "certificate b").unwrap();
    assert_ne!(reported(), 0);
    follower.until(&[B[0], A[1]]);
}

#[test]
fn a_link_to_a_file_that_comes_later_is_read_when_that_file_is_complete() {
    use std::io::Write;
    let dir = tempfile::tempdir().unwrap();
    let [folder, archive] = ["live", "archive"].map(|name| dir.path().join(name));
    fs::create_dir(&folder).unwrap();
    fs::create_dir(&archive).unwrap();
    symlink("../archive/tls.crt", folder.join("tls.crt")).unwrap();
    let mut follower = Follower::settled(&folder, &[]);
    follower.seen.clear();
    let mut file = fs::File::create(archive.join("tls.crt")).unwrap();
    for piece in ["certificate a", " and", " its", " issuer"] {
        file.write_all(piece.as_bytes()).unwrap();
        follower.step(Duration::from_millis(20));
    }
    drop(file);
    let whole = [("tls.crt", "certificate a and its issuer")];
    follower.until(&whole);
    assert_eq!(follower.seen, [Some(pairs(&whole))]);
}

#[test]
fn a_second_read_of_one_owner_waits_for_the_first() {
    let dir = tempfile::tempdir().unwrap();
    write(dir.path(), &A);
    let mut follower = Follower::settled(dir.path(), &A);
    let (watch, folder) = (follower.watch.clone(), follower.folder.clone());
    let both = watch.read(&folder, |_| {
        assert!(read_files(&watch, &folder).is_none());
        ((), Stamps::default())
    });
    assert!(both.is_some());
    assert!(follower.step(LOST));
}

#[test]
fn marks_are_due_at_once() {
    let dir = tempfile::tempdir().unwrap();
    let mut follower = Follower::new(dir.path());
    follower.settle();
    follower.watch.mark(&follower.folder.clone());
    assert!(follower.step(LOST));
    follower.watch.mark_all();
    assert!(follower.step(LOST));
    assert_eq!(follower.watch.state().rebuilds, 1);
    write(dir.path(), &A);
    follower.until(&A);
}

#[test]
fn an_overflow_of_the_queue_loses_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let folder = dir.path().join("host");
    write(&folder, &A);
    let mut follower = Follower::settled(&folder, &A);
    {
        // While nobody takes events, more come than the queue holds, and the last one is a change.
        let held = follower.watch.lock();
        overflow(dir.path());
        fs::remove_dir_all(&folder).unwrap();
        write(&folder, &B);
        drop(held);
    }
    follower.until(&B);
    wait_for("the overflow", || follower.watch.state().overflows >= 1);
    follower.settle();
    write(&folder, &A);
    follower.until(&A);
}

/// Causes more events in a watched folder than the queue holds.
fn overflow(folder: &Path) {
    let limit = fs::read_to_string("/proc/sys/fs/inotify/max_queued_events").unwrap();
    let limit: usize = limit.trim().parse().unwrap();
    for round in 0..=limit {
        fs::write(folder.join("other"), round.to_string()).unwrap();
        fs::remove_file(folder.join("other")).unwrap();
    }
}

#[test]
fn a_read_that_panics_is_repeated() {
    let dir = tempfile::tempdir().unwrap();
    write(dir.path(), &A);
    let mut follower = Follower::new(dir.path());
    follower.settle();
    let (watch, folder) = (follower.watch.clone(), follower.folder.clone());
    let read = move || watch.read(&folder, |_| -> ((), Stamps) { panic!("on purpose") });
    assert!(std::thread::spawn(read).join().is_err());
    assert!(follower.step(LOST));
    write(dir.path(), &B);
    follower.until(&B);
}

#[test]
fn what_no_event_tells_of_is_found_by_the_next_look() {
    let dir = tempfile::tempdir().unwrap();
    let folder = dir.path().join("host");
    write(&folder, &A);
    let settings = Settings {
        check_interval: Duration::from_millis(100),
        ..Settings::default()
    };
    let mut follower = Follower::with(&folder, settings);
    follower.until(&A);
    follower.settle();
    follower.assert_idle();
    {
        // Something swallows the events.
        let table = follower.watch.lock();
        write(&folder, &B);
        let inotify = table.folders.inotify.as_ref().unwrap();
        assert!(inotify.drain(|_| {}).unwrap());
    }
    follower.until(&B);
    assert!(follower.watch.state().missed >= 1);
}

#[test]
fn without_inotify_everything_is_polled() {
    let dir = tempfile::tempdir().unwrap();
    let folder = dir.path().join("host");
    let watch = Watch::start(quick());
    watch.lock().folders.inotify = None;
    let mut follower = Follower::with(&folder, quick());
    follower.watch = watch;
    follower.read();
    let polled = follower.watch.state().polled;
    assert_eq!(polled, [(folder.clone(), Polled::NoInotify)]);
    write(&folder, &A);
    follower.until(&A);
    symlink("nowhere", folder.join("new")).unwrap();
    fs::rename(folder.join("new"), folder.join("tls.key")).unwrap();
    follower.until(&A[..1]);
}

/// Settings with which a test need not wait long for a look.
fn quick() -> Settings {
    Settings {
        poll_interval: Duration::from_millis(50),
        ..Settings::default()
    }
}

#[test]
fn refused_watches_are_polled_and_had_later() {
    let dir = tempfile::tempdir().unwrap();
    let folder = dir.path().join("host");
    write(&folder, &A);
    let mut follower = Follower::with(dir.path().join("none"), quick());
    follower.watch.forget(&follower.folder.clone());
    // No watch can be placed on a socket.
    let (socket, _other) = UnixStream::pair().unwrap();
    socket.set_nonblocking(true).unwrap();
    let refusing = Arc::new(Inotify::of(OwnedFd::from(socket)));
    let willing = follower.watch.lock().folders.inotify.replace(refusing);
    follower.folder.clone_from(&folder);
    follower.read();
    follower.until(&A);
    let polled = [(folder.clone(), Polled::Refused)];
    assert_eq!(follower.watch.state().polled, polled);
    assert!(follower.watch.state().refusals > 0);
    write(&folder, &B);
    follower.until(&B);
    {
        let mut table = follower.watch.lock();
        table.folders.inotify = willing;
        table
            .rounds
            .insert(polling::FIRST_ROUND, Some(Instant::now()));
    }
    while !follower.watch.state().polled.is_empty() {
        assert!(follower.step(LOST));
    }
    follower.settle();
    write(&folder, &A);
    follower.until(&A);
    assert_eq!(follower.watch.state().missed, 0);
}

#[test]
fn a_file_with_other_names_is_polled() {
    let dir = tempfile::tempdir().unwrap();
    let [folder, other] = ["host", "other"].map(|name| dir.path().join(name));
    write(&other, &A[1..]);
    fs::create_dir(&folder).unwrap();
    fs::hard_link(other.join("tls.key"), folder.join("tls.key")).unwrap();
    let mut follower = Follower::with(&folder, quick());
    follower.until(&A[1..]);
    follower.settle();
    let polled = [(folder.clone(), Polled::SharedFile)];
    assert_eq!(follower.watch.state().polled, polled);
    write(&other, &B[1..]);
    follower.until(&B[1..]);
}

#[test]
fn a_file_system_that_reports_no_changes_is_polled_and_not_watched() {
    let dir = tempfile::tempdir().unwrap();
    let folder = dir.path().join("host");
    write(&folder, &A);
    symlink("/proc/version", folder.join("version")).unwrap();
    let follower = Follower::new(&folder);
    let polled = [(folder.clone(), Polled::RemoteFileSystem)];
    assert_eq!(follower.watch.state().polled, polled);
    let table = follower.watch.lock();
    let mut folders = table.folders.watched.values();
    assert!(!folders.any(|folder| folder.place == super::folders::Place::of(Path::new("/proc"))));
}

#[test]
fn a_touch_of_a_folder_above_is_no_change() {
    use std::os::unix::fs::PermissionsExt;
    let dir = tempfile::tempdir().unwrap();
    let folder = dir.path().join("root/host");
    write(&folder, &A);
    let mut follower = Follower::settled(&folder, &A);
    let mode = |path: &Path, mode| {
        fs::set_permissions(path, PermissionsExt::from_mode(mode)).unwrap();
    };
    mode(&dir.path().join("root"), 0o711);
    follower.assert_idle();
    mode(&folder, 0o700);
    assert!(follower.step(LOST));
}

#[test]
fn a_tree_that_is_replaced_without_a_pause_is_read_when_it_stands_still() {
    let dir = tempfile::tempdir().unwrap();
    let folder = dir.path().join("tree/host");
    write(&folder, &A);
    let mut follower = Follower::new(&folder);
    let done = std::sync::atomic::AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            for round in 0..2000 {
                let next = dir.path().join("next");
                write(&next.join("host"), &[("tls.key", &format!("key {round}"))]);
                fs::rename(dir.path().join("tree"), dir.path().join("old")).unwrap();
                fs::rename(&next, dir.path().join("tree")).unwrap();
                fs::remove_dir_all(dir.path().join("old")).unwrap();
            }
            done.store(true, std::sync::atomic::Ordering::Release);
        });
        while !done.load(std::sync::atomic::Ordering::Acquire) {
            follower.step(Duration::from_millis(50));
        }
    });
    follower.until(&[("tls.key", "key 1999")]);
    follower.settle();
    write(&folder, &B);
    follower.until(&B);
    assert!(follower.watch.state().directories < 10);
}

#[test]
fn many_owners_read_at_the_same_time() {
    let dir = tempfile::tempdir().unwrap();
    let watch = Watch::start(Settings::default());
    let folders: Vec<PathBuf> = (0..300).map(|i| dir.path().join(i.to_string())).collect();
    for folder in &folders {
        write(folder, &A);
    }
    std::thread::sleep(pending::QUIET);
    std::thread::scope(|scope| {
        for part in folders.chunks(40) {
            let watch = &watch;
            scope.spawn(move || {
                for folder in part {
                    assert_eq!(read_files(watch, folder), Some(Some(pairs(&A))));
                }
            });
        }
    });
    assert!(watch.state().directories > 300);
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    let mut left: std::collections::BTreeSet<PathBuf> = folders.iter().cloned().collect();
    for folder in &folders {
        write(folder, &B);
    }
    while !left.is_empty() {
        let changed = async { tokio::time::timeout(LOST, watch.changed()).await };
        for folder in runtime.block_on(changed).expect("a word lost") {
            if read_files(&watch, &folder) == Some(Some(pairs(&B))) {
                left.remove(&folder);
            }
        }
    }
}

fn wait_for(what: &str, condition: impl Fn() -> bool) {
    let start = Instant::now();
    while !condition() {
        assert!(start.elapsed() < LOST, "waited in vain for {what}");
        std::thread::sleep(Duration::from_millis(5));
    }
}
