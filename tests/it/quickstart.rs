//! The tour for new users does what it prints, and leaves nothing behind.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::{Mutex, MutexGuard, PoisonError};

use rustix::process::Signal;
use serde_json::Value;

use crate::util::agent::PROGRAM;
use crate::util::process::Process;
use crate::util::{eventually_true, require, tools};

/// The example, built now if it is not up to date: `cargo test --test it` does not build it.
fn quickstart() -> PathBuf {
    let mut cargo = Command::new(env!("CARGO"));
    cargo
        .args(["build", "--example", "quickstart"])
        .arg("--message-format=json-render-diagnostics")
        .current_dir(env!("CARGO_MANIFEST_DIR"))
        .stderr(Stdio::inherit());
    // With the same features as this test, so that nothing else is built again.
    if cfg!(feature = "mirror") {
        cargo.arg("--all-features");
    }
    let output = cargo.output().unwrap();
    assert!(output.status.success(), "{:?}", output.status);
    let messages = String::from_utf8(output.stdout).unwrap();
    let executable = messages.lines().rev().find_map(|line| {
        let message: Value = serde_json::from_str(line).ok()?;
        Some(PathBuf::from(message["executable"].as_str()?))
    });
    executable.unwrap()
}

/// The tour, with the agent that is tested.
fn command(envoy: &Path) -> Command {
    let mut command = Command::new(quickstart());
    command.env("SDS_AGENT_PROGRAM", PROGRAM);
    command.env("SDS_AGENT_ENVOY", envoy);
    command
}

/// One tour at a time, because it looks for a free port and uses it a moment later.
static ONE_AT_A_TIME: Mutex<()> = Mutex::new(());

fn alone() -> MutexGuard<'static, ()> {
    ONE_AT_A_TIME.lock().unwrap_or_else(PoisonError::into_inner)
}

const STORY: [&str; 5] = [
    "Envoy's configuration: ",
    "https://one.example.com:8443/  → 200, the first certificate",
    "https://two.example.com:8443/  → 200, the first certificate",
    "https://one.example.com:8443/  → 200, the rotated certificate",
    "https://three.example.com:8443/  → 200, the first certificate",
];

/// A line of the tour, whatever port was free.
fn is_printed(lines: &[String], due: &str) -> bool {
    let (before, after) = due.split_once(":8443").unwrap_or((due, ""));
    lines
        .iter()
        .any(|line| line.contains(before) && line.contains(after))
}

#[track_caller]
fn assert_gone(lines: &[String]) {
    let line = lines.iter().find(|line| line.contains(STORY[0])).unwrap();
    let config = Path::new(line.split(STORY[0]).nth(1).unwrap());
    assert!(!config.parent().unwrap().exists(), "{line}");
}

#[test]
fn with_once_the_tour_ends_by_itself() {
    let Some(envoy) = require(&tools::ENVOY) else {
        return;
    };
    let _alone = alone();
    let mut tour = Process::spawn("quickstart", command(&envoy).arg("--once"));
    assert_eq!(tour.wait().code(), Some(0));
    let lines = tour.lines();
    for due in STORY {
        assert!(is_printed(&lines, due), "no line with {due:?}: {lines:#?}");
    }
    assert_gone(&lines);
}

#[test]
fn the_commands_that_the_tour_suggests_work_when_pasted() {
    let Some(envoy) = require(&tools::ENVOY) else {
        return;
    };
    let curl = tools::program("curl", "apt-get install curl");
    if require(&curl).is_none() {
        return;
    }
    let _alone = alone();
    let mut tour = Process::spawn("quickstart", &mut command(&envoy));
    tour.wait_for_line(&["Ctrl-C stops everything"]);
    let lines = tour.lines();
    let starts = ["curl ", "cp ", PROGRAM];
    let pasted: Vec<&str> = lines
        .iter()
        .filter_map(|line| line.strip_prefix("  "))
        .filter(|line| starts.iter().any(|start| line.starts_with(start)))
        .collect();
    let shows = [
        "O=rotated",
        "",
        "O=replaced by hand",
        "",
        "O=added by hand",
        "four.example.com",
    ];
    assert_eq!(pasted.len(), shows.len(), "{pasted:#?}");
    for (line, due) in pasted.iter().zip(shows) {
        // A busy machine may take longer than the second that the tour gives it.
        eventually_true(&format!("{due} of {line}"), || {
            let output = Command::new("bash").args(["-c", line]).output().unwrap();
            let printed = String::from_utf8(output.stdout).unwrap();
            // OpenSSL 3.0 and later versions print it with and without spaces.
            output.status.success() && printed.replace(" = ", "=").contains(due)
        });
    }
    tour.signal(Signal::INT);
    assert_eq!(tour.wait().code(), Some(0));
    assert_gone(&lines);
}

#[test]
fn missing_requirements_are_listed_before_anything_is_downloaded() {
    let mut command = Command::new(quickstart());
    command.env("PATH", "/nowhere");
    command
        .env_remove("SDS_AGENT_PROGRAM")
        .env_remove("SDS_AGENT_ENVOY");
    let mut tour = Process::spawn("quickstart", &mut command);
    assert_eq!(tour.wait().code(), Some(1));
    let line = tour.wait_for_line(&["something is missing"]);
    assert!(line.contains("python3"), "{line}");
    tour.wait_for_line(&["What to do", "apt-get install"]);
    assert!(tour.lines_with(&["Getting Envoy"]).is_empty());
}

#[test]
fn a_failed_tour_reports_what_failed_and_what_to_do() {
    let mut tour = Process::spawn("quickstart", &mut command(Path::new("/nowhere/envoy")));
    assert_eq!(tour.wait().code(), Some(1));
    tour.wait_for_line(&["SDS_AGENT_ENVOY", "/nowhere/envoy"]);
    tour.wait_for_line(&["What to do"]);

    let broken = PathBuf::from("/bin/false");
    let mut tour = Process::spawn("quickstart", command(&broken).arg("--once"));
    assert_eq!(tour.wait().code(), Some(1));
    tour.wait_for_line(&["envoy has ended"]);
    tour.wait_for_line(&["What to do"]);
}
