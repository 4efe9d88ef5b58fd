//! Whatever stands in a folder: it is read whole, or named, and nothing blocks.

use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};

use proptest::prelude::*;
use rustix::fs::{CWD, Mode, mknodat};

use super::*;
use crate::files::kubelet;

/// A folder for one test.
struct Place {
    dir: tempfile::TempDir,
}

impl Place {
    fn new() -> Self {
        Self {
            dir: tempfile::tempdir().unwrap(),
        }
    }

    fn at(&self, path: &str) -> PathBuf {
        self.dir.path().join(path)
    }

    fn write(&self, path: &str, content: &str) {
        fs::create_dir_all(self.at(path).parent().unwrap()).unwrap();
        fs::write(self.at(path), content).unwrap();
    }

    fn link(&self, path: &str, target: &str) {
        symlink(target, self.at(path)).unwrap();
    }

    fn read(&self, path: &str) -> Reading {
        read(&*self.at(path), options(None), &mut Unwatched)
    }

    /// What a read confined to `root` finds.
    fn read_confined(&self, path: &str) -> Reading {
        let root = self.at("root");
        read(&*self.at(path), options(Some(&root)), &mut Unwatched)
    }
}

fn options(confine: Option<&Path>) -> Options<'_> {
    Options {
        limits: &DEFAULT,
        confine,
        route: None,
        parts: |names| {
            (0..names.len())
                .filter(|at| !names[*at].starts_with("old"))
                .collect()
        },
    }
}

fn names(reading: &Reading) -> Vec<&str> {
    reading
        .files
        .iter()
        .map(|file| file.name.as_str())
        .collect()
}

fn reasons(reading: &Reading) -> Vec<(Reason, &str)> {
    let name = |problem: &'_ Problem| -> &'static str {
        let name = problem.path().file_name().unwrap().to_string_lossy();
        Box::leak(name.into_owned().into_boxed_str())
    };
    let problems = reading.problems.iter();
    problems
        .map(|problem| (problem.reason(), name(problem)))
        .collect()
}

#[test]
fn files_come_whole_by_name_and_with_their_modes() {
    let place = Place::new();
    place.write("host/b", "two");
    place.write("host/a", "");
    fs::set_permissions(place.at("host/b"), PermissionsExt::from_mode(0o640)).unwrap();
    let reading = place.read("host");
    assert!(reading.present && reading.problems.is_empty());
    assert_eq!(names(&reading), ["a", "b"]);
    assert_eq!(*reading.files[1].bytes, b"two");
    assert_eq!(reading.files[1].mode, 0o640);
    assert!(!reading.stamps.changed(&place.at("host")));
    place.write("host/b", "2");
    assert!(reading.stamps.changed(&place.at("host")));
}

#[test]
fn a_folder_that_is_not_there_is_absent_and_no_problem() {
    let place = Place::new();
    for path in ["none", "none/at/all"] {
        let reading = place.read(path);
        assert!(!reading.present && reading.problems.is_empty());
        assert!(!reading.stamps.changed(&place.at(path)));
    }
    let reading = place.read("none");
    fs::create_dir(place.at("none")).unwrap();
    assert!(reading.stamps.changed(&place.at("none")));
}

#[test]
fn a_file_in_the_place_of_the_folder_is_a_problem() {
    let place = Place::new();
    place.write("host", "x");
    let reading = place.read("host");
    assert!(!reading.present);
    assert_eq!(reasons(&reading), [(Reason::NotAFile, "host")]);
    assert!(!place.read("host/below").present);
}

#[test]
fn what_is_no_file_is_named_and_the_rest_is_read() {
    let place = Place::new();
    place.write("host/tls.key", "key");
    place.write("host/lost+found/x", "x");
    place.write("host/..2024/x", "x");
    place.write("host/..tmp", "x");
    let node =
        |name: &str, kind, device| mknodat(CWD, place.at(name), kind, Mode::from(0o600), device);
    node("host/pipe", FileType::Fifo, 0).unwrap();
    let _socket = std::os::unix::net::UnixListener::bind(place.at("host/socket")).unwrap();
    place.link("host/device", "/dev/zero");
    place.link("host/terminal", "/dev/tty");
    place.link("host/top", "/");
    let reading = place.read("host");
    assert_eq!(names(&reading), ["tls.key"]);
    assert_eq!(
        reasons(&reading),
        ["device", "lost+found", "pipe", "socket", "terminal", "top"]
            .map(|name| (Reason::NotAFile, name))
    );
}

#[test]
fn links_that_lead_nowhere_are_named() {
    let place = Place::new();
    place.write("host/file", "x");
    place.link("host/a", "b");
    place.link("host/b", "a");
    place.link("host/c", "c");
    place.link("host/dangling", "../nowhere/at/all");
    place.link("host/through-a-file", "file/x");
    place.link("host/through-a-circle", "a/x");
    place.link("host/good", "./.././host/./file");
    let reading = place.read("host");
    assert_eq!(names(&reading), ["file", "good"]);
    assert_eq!(
        reasons(&reading),
        [
            "a",
            "b",
            "c",
            "dangling",
            "through-a-circle",
            "through-a-file"
        ]
        .map(|name| (Reason::BrokenLink, name))
    );
    let text = reading.problems[3].to_string();
    assert!(text.contains("nowhere, which does not exist"), "{text}");
    place.link("link", "host");
    assert!(
        place.read("link/none").problems.is_empty(),
        "the link is not to blame"
    );
    let reading = place.read("host/dangling/x");
    assert_eq!(
        (reading.present, reading.problems[0].reason()),
        (false, Reason::BrokenLink)
    );
}

#[test]
fn as_many_links_as_the_system_follows_are_followed() {
    let place = Place::new();
    place.write("host/link0", "x");
    for i in 1..=41 {
        place.link(&format!("host/link{i}"), &format!("link{}", i - 1));
    }
    let reading = place.read("host");
    assert_eq!(reading.files.len(), 41);
    assert_eq!(reasons(&reading), [(Reason::BrokenLink, "link41")]);
    assert!(
        fs::read(place.at("host/link40")).is_ok() && fs::read(place.at("host/link41")).is_err()
    );
}

#[test]
fn a_file_is_too_large_from_one_byte_over_the_limit() {
    let place = Place::new();
    fs::create_dir(place.at("host")).unwrap();
    for (name, size) in [
        ("fits", 1 << 20),
        ("over", (1 << 20) + 1),
        ("huge", 64 << 20),
    ] {
        let file = fs::File::create(place.at("host").join(name)).unwrap();
        file.set_len(size).unwrap();
    }
    let reading = place.read("host");
    assert_eq!(names(&reading), ["fits"]);
    assert_eq!(
        reasons(&reading),
        [(Reason::TooLarge, "huge"), (Reason::TooLarge, "over")]
    );
}

#[test]
fn a_folder_with_too_many_files_has_one_problem_and_no_file() {
    let place = Place::new();
    for i in 0..64 {
        place.write(&format!("host/{i}"), "x");
        place.write(&format!("host/..{i}"), "x");
    }
    assert_eq!(place.read("host").files.len(), 64);
    place.write("host/one more", "x");
    let reading = place.read("host");
    assert!(reading.present && reading.files.is_empty());
    assert_eq!(reasons(&reading), [(Reason::TooLarge, "host")]);
}

#[test]
fn files_that_are_left_behind_do_not_count_however_many_there_are() {
    let place = Place::new();
    for i in 0..10 {
        place.write(&format!("host/{i}"), "x");
        place.write(&format!("host/old{i}"), "x");
    }
    assert_eq!(place.read("host").files.len(), 20, "few files are all read");
    for i in 10..MAX_NAMES - 10 {
        fs::File::create(place.at(&format!("host/old{i}"))).unwrap();
    }
    let reading = place.read("host");
    assert!(reading.problems.is_empty());
    let expected: Vec<String> = (0..10).map(|i| i.to_string()).collect();
    assert_eq!(names(&reading), expected);
    // There is a bound all the same.
    place.write("host/..hidden", "x");
    let reading = place.read("host");
    assert!(reading.present && reading.files.is_empty());
    assert_eq!(reasons(&reading), [(Reason::TooLarge, "host")]);
    assert!(reading.problems[0].what().contains("16384"));
}

#[test]
fn names_that_are_no_text_are_named() {
    use std::os::unix::ffi::OsStrExt;
    let place = Place::new();
    place.write("host/tls.key", "x");
    fs::write(place.at("host").join(OsStr::from_bytes(b"\xff\n")), "x").unwrap();
    let reading = place.read("host");
    assert_eq!(names(&reading), ["tls.key"]);
    assert_eq!(reading.problems[0].reason(), Reason::Name);
    assert!(!reading.problems[0].to_string().contains('\n'));
}

#[test]
fn a_file_without_read_permission_is_named() {
    let place = Place::new();
    place.write("host/tls.key", "x");
    place.write("host/tls.crt", "x");
    fs::set_permissions(place.at("host/tls.key"), PermissionsExt::from_mode(0o000)).unwrap();
    if rustix::process::geteuid().is_root() {
        // Root reads everything; a process without that right is a matter of the tests of the agent.
        assert_eq!(place.read("host").files.len(), 2);
        return;
    }
    let reading = place.read("host");
    assert_eq!(names(&reading), ["tls.crt"]);
    assert_eq!(reasons(&reading), [(Reason::Unreadable, "tls.key")]);
}

#[test]
fn the_data_link_leads_to_all_files() {
    let place = Place::new();
    place.write("host/..1/tls.key", "1");
    place.write("host/..1/..hidden", "1");
    place.write("elsewhere/ca", "ca");
    place.link("host/..1/ca.crt", "../../elsewhere/ca");
    place.write("host/beside", "not looked at");
    place.link("host/..data", "..1");
    let reading = place.read("host");
    assert_eq!(names(&reading), ["ca.crt", "tls.key"]);
    assert!(reading.problems.is_empty());
    place.write("host/beside", "changed");
    assert!(!reading.stamps.changed(&place.at("host")));
    place.write("elsewhere/ca", "new");
    assert!(reading.stamps.changed(&place.at("host")));
}

#[test]
fn a_data_link_that_leads_nowhere_is_a_problem_of_the_folder() {
    let place = Place::new();
    place.write("host/tls.key", "beside");
    for target in ["..nowhere", "..data", "tls.key"] {
        place.link("host/..data", target);
        let reading = place.read("host");
        assert!(reading.present && reading.files.is_empty());
        assert_eq!(reading.problems.len(), 1);
        assert_eq!(reading.problems[0].path(), place.at("host"));
        fs::remove_file(place.at("host/..data")).unwrap();
    }
    fs::create_dir(place.at("host/..data")).unwrap();
    assert_eq!(names(&place.read("host")), ["tls.key"]);
}

#[test]
fn every_folder_on_the_way_is_announced_before_it_is_looked_at() {
    #[derive(Default)]
    struct Log(Vec<(PathBuf, String)>);
    impl Arm for Log {
        fn arm(&mut self, dir: Dir<'_>, interest: Interest<'_>) {
            let what = match interest {
                Interest::Name(name) => name.to_string_lossy().into_owned(),
                Interest::Content(name) => format!("content of {}", name.to_string_lossy()),
                Interest::Names => "names".into(),
                Interest::All => "all".into(),
            };
            self.0.push((dir.path.to_owned(), what));
        }
        fn saw(&mut self, dir: Dir<'_>, file: Seen<'_>) {
            let what = format!("saw {}", file.name.to_string_lossy());
            self.0.push((dir.path.to_owned(), what));
        }
    }
    let place = Place::new();
    let top = fs::canonicalize(place.dir.path()).unwrap();
    place.write("archive/crt1", "x");
    fs::create_dir(place.at("live")).unwrap();
    place.link("live/crt", "../archive/crt1");
    place.link("live/key", "../missing/key1");
    place.link("root", "live");
    let mut log = Log::default();
    read(&*place.at("root"), options(None), &mut log);
    let mut expected = Vec::new();
    let mut above = PathBuf::from("/");
    for step in top.iter().skip(1) {
        expected.push((above.clone(), step.to_string_lossy().into_owned()));
        above.push(step);
    }
    let rest = [
        ("", "root"),
        ("", "live"),
        ("live", "..data"),
        ("live", "all"),
        ("live", "crt"),
        ("", "archive"),
        ("archive", "crt1"),
        ("archive", "content of crt1"),
        ("archive", "saw crt1"),
        ("live", "key"),
        ("", "missing"),
    ];
    // Paths are compared by their components: `top/` is `top`.
    expected.extend(rest.map(|(dir, what)| (top.join(dir), what.to_owned())));
    assert_eq!(log.0, expected);
}

#[test]
fn a_confined_read_follows_no_link_out_of_its_root() {
    let place = Place::new();
    place.write("outside/key", "secret");
    place.write("real/host/tls.crt", "crt");
    place.write("real/shared/ca", "ca");
    place.link("root", "real");
    for (name, target) in [
        ("in", "../shared/ca"),
        ("out", "../../outside/key"),
        ("out-absolute", place.at("outside/key").to_str().unwrap()),
        ("out-and-back", "../../real/shared/ca"),
    ] {
        place.link(&format!("real/host/{name}"), target);
    }
    place.link("real/away", "../outside");
    let reading = place.read_confined("root/host");
    assert_eq!(names(&reading), ["in", "tls.crt"]);
    assert_eq!(
        reasons(&reading),
        ["out", "out-absolute", "out-and-back"].map(|name| (Reason::BrokenLink, name))
    );
    let reading = place.read_confined("root/away");
    assert!(!reading.present && reading.files.is_empty() && reading.problems.len() == 1);
    assert_eq!(names(&place.read("root/host")).len(), 5);
}

/// Moves a folder away at the moment when something is about to be looked up in it.
struct Mover<'a> {
    name: &'a str,
    from: PathBuf,
    to: PathBuf,
}

impl Arm for Mover<'_> {
    fn arm(&mut self, _: Dir<'_>, interest: Interest<'_>) {
        if interest == Interest::Name(self.name.as_ref()) {
            fs::rename(&self.from, &self.to).unwrap();
        }
    }
    fn saw(&mut self, _: Dir<'_>, _: Seen<'_>) {}
}

#[test]
fn a_confined_read_stays_in_its_root_whatever_is_renamed_meanwhile() {
    let leaks = |confined: bool| {
        let place = Place::new();
        place.write("outside/secret/key", "secret");
        fs::create_dir_all(place.at("outside/x")).unwrap();
        fs::create_dir_all(place.at("root/host/a/b/c")).unwrap();
        fs::create_dir_all(place.at("root/host/secret")).unwrap();
        // By its text it stays in the folder; by the parents of the folders that are there when it
        // is walked, it leads to `outside/secret/key`.
        place.link("root/host/key", "a/b/c/../../../secret/key");
        let mut mover = Mover {
            name: "c",
            from: place.at("root/host/a/b"),
            to: place.at("outside/x/b"),
        };
        let root = place.at("root");
        let options = options(confined.then_some(&*root));
        let reading = read(&*place.at("root/host"), options, &mut mover);
        assert!(!mover.from.exists(), "nothing was moved");
        reading.files.iter().any(|file| **file.bytes == *b"secret")
    };
    assert!(leaks(false), "the attack does not work where it should");
    assert!(!leaks(true));
}

#[test]
fn a_confined_read_stays_in_its_root_while_somebody_renames_without_a_pause() {
    let place = Place::new();
    place.write("outside/secret/key", "secret");
    fs::create_dir_all(place.at("outside/x")).unwrap();
    fs::create_dir_all(place.at("root/host/a/b")).unwrap();
    fs::create_dir_all(place.at("root/host/secret")).unwrap();
    place.link("root/host/key", "a/b/../../secret/key");
    let (inside, outside) = (place.at("root/host/a/b"), place.at("outside/x/b"));
    let done = AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            while !done.load(Ordering::Relaxed) {
                fs::rename(&inside, &outside).unwrap();
                fs::rename(&outside, &inside).unwrap();
            }
        });
        for _ in 0..3000 {
            let reading = place.read_confined("root/host");
            assert!(reading.files.is_empty());
        }
        done.store(true, Ordering::Relaxed);
    });
}

#[test]
fn a_confined_read_holds_few_folders_open() {
    let place = Place::new();
    let deep = |depth: usize| format!("{}key", "d/".repeat(depth));
    place.write(&format!("root/host/{}", deep(40)), "deep");
    place.write(&format!("root/host/{}", deep(20)), "less deep");
    place.link("root/host/20", &deep(20));
    place.link("root/host/40", &deep(40));
    let reading = place.read_confined("root/host");
    assert_eq!(names(&reading), ["20"]);
    let expected = [(Reason::BrokenLink, "40"), (Reason::NotAFile, "d")];
    assert_eq!(reasons(&reading), expected);
    assert_eq!(names(&place.read("root/host")), ["20", "40"]);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn whatever_kubelet_was_interrupted_in_one_whole_generation_is_read(
        runs in prop::collection::vec(any::<prop::sample::Index>(), 0..8)
    ) {
        let place = Place::new();
        let files = |n: usize| ["a", "b", "c"].map(|name| (name, format!("file {n}")));
        fs::create_dir(place.at("host")).unwrap();
        kubelet::write(&place.at("host"), 0, &files(0)).unwrap();
        let mut current = 0;
        for (n, end) in (1..).zip(runs) {
            let steps = kubelet::steps(&place.at("host"), n, &files(n));
            let end = end.index(steps.len() + 1);
            for step in steps.into_iter().take(end) {
                step().unwrap();
                let link = fs::read_link(place.at("host/..data")).unwrap();
                if link.to_str().unwrap().ends_with(&format!(".{n}")) {
                    current = n;
                }
                let reading = place.read("host");
                prop_assert_eq!(names(&reading), ["a", "b", "c"]);
                let content = format!("file {current}");
                for file in &reading.files {
                    prop_assert_eq!(&**file.bytes, content.as_bytes());
                }
            }
        }
    }
}

/// Whatever a writer does as fast as it can, runs `check` on what is read meanwhile; tells how many
/// reads found the folder good for use.
fn read_while(place: &Place, write: impl Fn(u32) + Sync, check: impl Fn(&Reading)) -> usize {
    let done = AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            for n in 1.. {
                if done.load(Ordering::Relaxed) {
                    break;
                }
                write(n);
            }
        });
        let mut good = 0;
        for _ in 0..2000 {
            let reading = place.read("host");
            check(&reading);
            good += usize::from(reading.problems.is_empty());
        }
        done.store(true, Ordering::Relaxed);
        good
    })
}

#[test]
fn a_swap_in_the_middle_of_a_read_mixes_no_two_generations() {
    let place = Place::new();
    fs::create_dir(place.at("host")).unwrap();
    let swap = |n: u32| {
        let files = ["a", "b", "c", "d"].map(|name| (name, n.to_string()));
        kubelet::write(&place.at("host"), n, &files).unwrap();
    };
    swap(0);
    let good = read_while(&place, swap, |reading| {
        assert!(reading.present);
        if reading.problems.is_empty() {
            assert_eq!(names(reading), ["a", "b", "c", "d"]);
            let first = &reading.files[0].bytes;
            assert!(
                reading.files.iter().all(|file| file.bytes == *first),
                "mixed"
            );
        } else {
            assert!(reading.files.is_empty());
        }
    });
    assert!(good > 1000, "{good} of 2,000 reads found a generation");
}

#[test]
fn files_that_vanish_while_they_are_read_are_absent() {
    let place = Place::new();
    place.write("host/stays", "x");
    let write = |n: u32| {
        let name = format!("host/{}", n % 8);
        place.write(&name, "whole");
        fs::remove_file(place.at(&name)).unwrap();
    };
    read_while(&place, write, |reading| {
        if reading.problems.is_empty() {
            assert!(names(reading).contains(&"stays"));
        }
    });
    // A folder that vanishes altogether is absent or empty, never anything in between.
    let write = |_| {
        let _ = fs::remove_dir_all(place.at("host"));
        place.write("host/stays", "x");
    };
    read_while(&place, write, |reading| assert!(reading.files.len() <= 1));
}

#[test]
fn what_can_not_be_opened_for_now_is_unsure() {
    let place = Place::new();
    let mut read = Read::new(
        Path::new("/x").into(),
        options(None),
        Box::leak(Box::new(Unwatched)),
    );
    read.failed(&place.at("x"), Failure::System(Errno::MFILE));
    let reading = read.finish(true);
    assert!(reading.stamps.unsure() && reading.stamps.changed(Path::new("/x")));
    let text = reading.problems[0].to_string();
    assert!(text.contains("LimitNOFILE"), "{text}");
}

static DEFAULT: std::sync::LazyLock<Limits> = std::sync::LazyLock::new(Limits::default);

/// Keeps what is announced.
#[derive(Default)]
struct Announced(Vec<(FileId, String)>);

impl Arm for Announced {
    fn arm(&mut self, dir: Dir<'_>, interest: Interest<'_>) {
        self.0.push((dir.id, format!("{interest:?}")));
    }

    fn saw(&mut self, _: Dir<'_>, _: Seen<'_>) {}
}

/// A change of something on the way to `root`, or in it, or none where it is not possible now.
fn change_the_way(place: &Place, change: usize) {
    let at = |path: &str| place.at(path);
    let relink = |path: &str, target: &str| {
        let _ = fs::remove_file(at(path));
        let _ = symlink(target, at(path));
    };
    let swap = |a: &str, b: &str| {
        let _ = fs::rename(at(a), at("swap"));
        let _ = fs::rename(at(b), at(a));
        let _ = fs::rename(at("swap"), at(b));
    };
    match change {
        0 => relink("way", "a/link"),
        1 => relink("way", "other/root"),
        2 => relink("a/link", "b/root"),
        3 => relink("a/link", "../other/root"),
        4 => swap("a/b/root", "other/root"),
        5 => swap("a", "moved"),
        6 => swap("a/b", "other"),
        7 => swap("way/site", "way/away"),
        8 => drop(fs::write(at("way/site/f"), "changed")),
        9 => drop(fs::create_dir_all(at("a/b/root/site"))),
        _ => drop(fs::remove_dir_all(at("a/b/root"))),
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn reads_that_share_the_way_to_a_root_find_what_others_find(
        changes in prop::collection::vec(0_usize..11, 0..24),
        confined: bool,
    ) {
        let place = Place::new();
        place.write("a/b/root/site/f", "1");
        place.write("other/root/site/f", "2");
        place.link("a/link", "b/root");
        place.link("way", "a/link");
        let root = place.at("way");
        let route = Route::to(&root);
        let read = |route| {
            let mut announced = Announced::default();
            let confine = confined.then_some(&*root);
            let options = Options { route, ..options(confine) };
            let reading = read(&*root.join("site"), options, &mut announced);
            let files = reading.files.into_iter();
            let files: Vec<_> = files.map(|file| (file.name, file.bytes)).collect();
            ((reading.present, files, reading.problems), reading.root, announced.0)
        };
        for change in changes {
            change_the_way(&place, change);
            let (alone, _, announced) = read(None);
            let folder = rustix::fs::stat(&root).ok();
            let folder = folder.filter(|stat| FileType::from_raw_mode(stat.st_mode) == FileType::Directory);
            for _ in 0..2 {
                let (sharing, root, also_announced) = read(Some(&route));
                prop_assert!(sharing == alone, "{change}");
                prop_assert_eq!(root, RootFolder::of(folder.as_ref().map(FileId::of), false));
                // Those on the way are left to the listing of the root.
                prop_assert!(announced.ends_with(&also_announced), "{also_announced:?}");
            }
        }
    }
}
