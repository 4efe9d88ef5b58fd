//! A crash at any moment: the writer is killed at each of its system calls, by strace's fault
//! injection, and the files on disk are checked after each one.
//!
//! The test runs itself again as the child that writes. strace counts calls by thread and by name,
//! so each call of each name is hit by killing the child at its first call, at its second one, and
//! so on until it lives. The start of the child makes calls of two of these names in another thread, which
//! must not be the ones that are hit.

use std::collections::BTreeMap;
use std::fs;
use std::io::Write;
use std::os::unix::process::ExitStatusExt;
use std::path::Path;
use std::process::{Command, Stdio};
use std::thread;

use super::tests::{files, manifest, seen};
use super::*;

/// The folder in which the child writes, and what it does there.
const CHILD_FOLDER: &str = "SDS_MIRROR_CRASH_FOLDER";
const CHILD_STEP: &str = "SDS_MIRROR_CRASH_STEP";

/// Every call that changes or syncs a file system, and the calls that reach a file.
const CALLS: [&str; 17] = [
    "openat",
    "mkdir",
    "mkdirat",
    "write",
    "fchmod",
    "fchown",
    "fsync",
    "fdatasync",
    "symlinkat",
    "readlinkat",
    "renameat",
    "renameat2",
    "rename",
    "unlink",
    "unlinkat",
    "rmdir",
    "getdents64",
];

/// Those that the start of the child makes too: the loader opens libraries, and the harness prints.
const AT_START: [&str; 2] = ["openat", "write"];

/// How many calls of each of these the writing thread makes before it begins: more than the start does.
const WARM_UP: usize = 100;

const OLD: [(&str, &str); 2] = [("cert", "C1"), ("key", "K1")];
const NEW: [(&str, &str); 2] = [("cert", "C2"), ("key", "K2")];
const MORE: [(&str, &str); 3] = [("cacert", "A"), ("cert", "C3"), ("key", "K3")];

/// What a folder holds; `None` when there is none.
type Content = Option<&'static [(&'static str, &'static str)]>;

/// What the child does to a folder that holds the first, to make it hold the second.
const STEPS: [(&str, Content, Content); 5] = [
    ("make", None, Some(&OLD)),
    ("swap", Some(&OLD), Some(&NEW)),
    ("more files", Some(&OLD), Some(&MORE)),
    ("fewer files", Some(&MORE), Some(&OLD)),
    ("remove", Some(&OLD), None),
];

#[test]
fn killed_at_any_system_call_the_old_or_the_new_generation_is_there() {
    if std::env::var_os(CHILD_FOLDER).is_some() {
        return child();
    }
    if !has_strace() {
        return;
    }
    let kills: usize = thread::scope(|scope| {
        let step = |(name, before, after)| {
            scope.spawn(move || -> usize {
                let calls = CALLS.iter();
                calls
                    .map(|call| kill_at_each(name, call, before, after))
                    .sum()
            })
        };
        let steps: Vec<_> = STEPS.into_iter().map(step).collect();
        steps.into_iter().map(|step| step.join().unwrap()).sum()
    });
    // The number of calls that the writer makes in all; fewer means that they were not hit.
    assert!(kills > 200, "{kills} calls were hit");
}

/// Kills the child at each call of this name in turn, and returns how many there were.
fn kill_at_each(step: &str, call: &str, before: Content, after: Content) -> usize {
    for nth in 1.. {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("out");
        if let Some(before) = before {
            let output = Output::open(&path, Rights::default()).unwrap();
            output
                .write("a", &manifest("a", 1), &files(before))
                .unwrap();
        } else {
            drop(Output::open(&path, Rights::default()).unwrap());
        }
        let lived = !run_child(&path, step, call, nth);
        let shown = seen(&path.join("a"));
        let allowed = [expected(before), expected(after)];
        let at = format!("{step}, killed at {call} number {nth}");
        assert!(allowed.contains(&shown), "{at}: {shown:?}");
        heal(&path, after, &at);
        if lived {
            assert_eq!(shown, expected(after), "{at}");
            return nth - 1;
        }
    }
    unreachable!()
}

fn expected(content: Content) -> Option<BTreeMap<String, String>> {
    let own = |(name, text): &(&str, &str)| ((*name).to_owned(), (*text).to_owned());
    content.map(|content| content.iter().map(own).collect())
}

/// The next run of the mirror reaches the intended state, and leaves no temporary files.
fn heal(path: &Path, after: Content, at: &str) {
    let output = Output::open(path, Rights::default()).unwrap();
    match after {
        Some(after) => {
            output.write("a", &manifest("a", 2), &files(after)).unwrap();
            let entries = fs::read_dir(path.join("a")).unwrap().count();
            assert_eq!(entries, after.len() + 2, "{at}: litter in the folder");
        }
        None => {
            output.remove("a").unwrap();
        }
    }
    assert_eq!(seen(&path.join("a")), expected(after), "{at}: not healed");
    let entries = fs::read_dir(path).unwrap().count();
    assert_eq!(entries, usize::from(after.is_some()), "{at}: litter");
}

/// Runs the child under strace. Returns whether it was killed.
fn run_child(path: &Path, step: &str, call: &str, nth: usize) -> bool {
    let nth = nth + if AT_START.contains(&call) { WARM_UP } else { 0 };
    let status = Command::new("strace")
        .args(["-f", "-qq", "-o", "/dev/null"])
        .arg(format!("--trace={call}"))
        .arg(format!("--inject={call}:signal=KILL:when={nth}"))
        .arg(std::env::current_exe().unwrap())
        .args(["--exact", "--test-threads=1", "--nocapture"])
        .arg(
            "output::crash_tests::killed_at_any_system_call_the_old_or_the_new_generation_is_there",
        )
        // Cargo sets it, and the loader then looks for each library in many folders.
        .env_remove("LD_LIBRARY_PATH")
        .env(CHILD_FOLDER, path)
        .env(CHILD_STEP, step)
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .status()
        .unwrap();
    assert!(
        status.success() || status.signal() == Some(9),
        "{step}: {status}"
    );
    !status.success()
}

fn child() {
    let path = std::env::var_os(CHILD_FOLDER).unwrap();
    let step = std::env::var(CHILD_STEP).unwrap();
    let (_, _, after) = STEPS.into_iter().find(|(name, ..)| *name == step).unwrap();
    for _ in 0..WARM_UP {
        let mut null = fs::File::options().write(true).open("/dev/null").unwrap();
        null.write_all(b"x").unwrap();
    }
    let output = Output::open(Path::new(&path), Rights::default()).unwrap();
    match after {
        Some(after) => {
            output.write("a", &manifest("a", 2), &files(after)).unwrap();
        }
        None => {
            output.remove("a").unwrap();
        }
    }
}

/// Whether there is strace. Without it, the test is skipped with a message; with
/// `SDS_AGENT_TESTS=all` it fails.
fn has_strace() -> bool {
    let found = Command::new("strace")
        .arg("-V")
        .stdout(Stdio::null())
        .status()
        .is_ok();
    if !found {
        let line = "LEFT OUT: the crash test of sds-mirror: needs strace: apt-get install strace";
        assert!(
            std::env::var_os("SDS_AGENT_TESTS").is_none_or(|value| value != "all"),
            "{line}"
        );
        // Unlike eprintln!, this is not captured.
        let _ = writeln!(io::stderr().lock(), "\n{line}");
        // tests/run prints it again at the end.
        if let Some(path) = std::env::var_os("SDS_AGENT_LEFT_OUT") {
            let file = fs::OpenOptions::new().append(true).open(path);
            let _ = file.and_then(|mut file| writeln!(file, "{line}"));
        }
    }
    found
}
