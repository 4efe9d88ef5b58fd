//! The agent as a process: its socket, its log, and how it stops.

use std::fs;
use std::io::Read;
use std::os::unix::fs::{FileTypeExt, PermissionsExt};
use std::os::unix::net::{UnixListener, UnixStream};
use std::process::Command;

use rustix::process::Signal;
use serde_json::Value;
use tonic::Code;

use crate::util::agent::PROGRAM;
use crate::util::bed::assert_no_key_in_log;
use crate::util::{Agent, BOUND, Bed, Root, eventually, eventually_true};

#[test]
fn the_socket_has_mode_0660_whatever_the_umask() {
    for umask in ["0000", "0022", "0077"] {
        let bed = Bed::new();
        let mut command = Command::new("sh");
        command
            .arg("-c")
            .arg(format!("umask {umask}; exec \"$@\""))
            .arg("sh");
        let agent = bed.builder().wrapped_in(command).start();
        let metadata = fs::metadata(bed.socket()).unwrap();
        assert!(metadata.file_type().is_socket());
        assert_eq!(metadata.permissions().mode() & 0o7777, 0o660, "{umask}");
        assert!(agent.terminate().success());
    }
}

#[test]
fn the_socket_is_never_wider_than_0660() {
    let bed = Bed::new();
    for _ in 0..30 {
        let mut agent = bed.builder().start_without_waiting();
        // Polled without a pause, starting before the socket exists.
        let mode = eventually("the socket", || {
            Some(fs::metadata(bed.socket()).ok()?.permissions().mode() & 0o777)
        });
        assert_eq!(mode & !0o660, 0, "{mode:o}");
        agent.kill();
        fs::remove_file(bed.socket()).unwrap();
    }
}

#[test]
fn a_stale_socket_is_replaced() {
    let bed = Bed::new();
    bed.pair("site");
    let mut agent = bed.agent();
    agent.kill();
    assert!(bed.socket().exists(), "SIGKILL leaves the socket behind");
    let _agent = bed.agent();
    let mut stream = bed.client().sotw();
    stream.subscribe(&["site"]);
    stream.secret();
}

#[test]
fn the_socket_of_a_running_agent_is_an_error_and_is_not_replaced() {
    let bed = Bed::new();
    bed.pair("site");
    let agent = bed.agent();
    let mut second = bed.builder().start_without_waiting();
    let status = second.wait();
    assert!(!status.success());
    let socket = bed.socket();
    second.wait_for_line(&[socket.to_str().unwrap()]);
    let mut stream = bed.client().sotw();
    stream.subscribe(&["site"]);
    stream.secret();
    assert!(agent.terminate().success());
}

#[test]
fn a_socket_in_use_by_another_program_is_an_error() {
    let bed = Bed::new();
    let other = UnixListener::bind(bed.socket()).unwrap();
    let mut agent = bed.builder().start_without_waiting();
    assert!(!agent.wait().success());
    assert!(bed.socket().exists());
    drop(other);
}

#[test]
fn a_path_that_is_not_a_socket_is_not_removed() {
    let bed = Bed::new();
    fs::write(bed.socket(), "somebody's work").unwrap();
    let mut agent = bed.builder().start_without_waiting();
    assert!(!agent.wait().success());
    let content = fs::read_to_string(bed.socket()).unwrap();
    assert_eq!(content, "somebody's work");
}

#[test]
fn sigterm_ends_open_streams_and_the_process_with_code_0() {
    ends_with_code_0(Signal::TERM);
}

#[test]
fn sigint_ends_open_streams_and_the_process_with_code_0() {
    ends_with_code_0(Signal::INT);
}

fn ends_with_code_0(signal: Signal) {
    let bed = Bed::new();
    bed.pair("site");
    let mut agent = bed.agent();
    let client = bed.client();
    let (mut sotw, mut delta, mut unread) = (client.sotw(), client.delta(), client.sotw());
    sotw.subscribe(&["site"]);
    delta.subscribe(&["site"]);
    unread.subscribe(&["site"]);
    sotw.secret();
    delta.secret();
    // And a connection without a request, and an idle one.
    let mut silent = UnixStream::connect(bed.socket()).unwrap();
    let _idle = bed.client();

    agent.signal(signal);
    let ends = [sotw.stream.end(), delta.0.end()];
    for end in ends {
        let regular = [Code::Ok, Code::Unavailable];
        assert!(regular.contains(&end), "a stream's end: {end:?}");
    }
    assert_eq!(agent.wait().code(), Some(0));
    assert!(!bed.socket().exists(), "the socket has stayed");
    silent.set_read_timeout(Some(BOUND)).unwrap();
    let _ = silent.read(&mut [0; 64]);
}

#[test]
fn a_root_that_is_a_file_does_not_stop_the_agent() {
    let bed = Bed::new();
    let file = bed.scratch("a-file");
    fs::write(&file, "").unwrap();
    let agent = bed.builder().credentials(&file).start();
    agent.wait_for_line(&[file.to_str().unwrap()]);
    let identity = bed.pair("site");
    let mut stream = bed.client().sotw();
    stream.subscribe(&["site"]);
    assert!(stream.secret().is_pair(&identity.chain, &identity.key));
}

#[test]
fn a_wrong_command_line_is_reported_with_exit_code_2() {
    for arguments in [&["serve", "--credential", "/x"][..], &["sevre"], &[]] {
        let output = Command::new(PROGRAM).args(arguments).output().unwrap();
        assert_eq!(output.status.code(), Some(2), "{arguments:?}");
        let printed = String::from_utf8_lossy(&output.stderr);
        assert!(printed.contains("Usage"), "{printed}");
    }
}

#[test]
fn a_socket_that_cannot_be_created_is_reported_with_its_path() {
    let bed = Bed::new();
    // The last folder would be created.
    let missing = bed.scratch("missing/folder");
    let cases = [
        (missing.join("sds.sock"), missing.to_str().unwrap()),
        (bed.scratch(&"n".repeat(200)), "nnnnnnnn"),
    ];
    for (socket, named) in cases {
        let mut agent = Agent::builder(&socket)
            .credentials(&bed.root.path())
            .start_without_waiting();
        let code = agent.wait().code();
        assert!(code.is_some_and(|code| code != 0), "{code:?}");
        agent.wait_for_line(&[named]);
    }
}

#[test]
fn the_log_shows_the_lifecycle_of_a_credential() {
    let bed = Bed::new();
    bed.pair("site");
    let agent = bed.agent();
    agent.wait_for_line(&["loaded", "site"]);
    bed.pair("site");
    agent.wait_for_line(&["rotated", "site"]);
    bed.root.write("site", &[("key", "not a key")]);
    let key = bed.root.credential("site").join("key");
    agent.wait_for_line(&[
        "rejected",
        "site",
        key.to_str().unwrap(),
        "previous version",
    ]);
    bed.root.remove("site");
    agent.wait_for_line(&["removed", "site"]);
    for what in ["loaded", "rotated", "rejected", "removed"] {
        let lines = agent.lines_with(&[what, "site"]);
        assert_eq!(lines.len(), 1, "one line an event: {lines:#?}");
    }
}

#[test]
fn a_problem_is_logged_once_however_often_the_folder_is_read() {
    let bed = Bed::new();
    bed.pair("site");
    let agent = bed.agent();
    for _ in 0..5 {
        bed.root.write("site", &[("key", "not a key")]);
    }
    agent.wait_for_line(&["rejected", "site"]);
    // A line that follows all lines about it.
    bed.pair("other");
    agent.wait_for_line(&["loaded", "other"]);
    let lines = agent.lines_with(&["rejected", "site"]);
    assert_eq!(lines.len(), 1, "{lines:#?}");
}

#[test]
fn the_json_log_has_one_object_per_line() {
    let bed = Bed::new();
    let first = bed.pair("site");
    let agent = bed.builder().arg("--log-format=json").start();
    let mut stream = bed.client().node("edge-9").sotw();
    stream.subscribe(&["site"]);
    stream.secret();
    let second = bed.pair("site");
    stream.secret();
    agent.wait_for_line(&["rotated", "site"]);
    let lines = agent.lines();
    for line in &lines {
        let value: Value = serde_json::from_str(line).unwrap_or_else(|error| {
            panic!("{error} in {line}");
        });
        for field in ["timestamp", "level", "message"] {
            let found = value.get(field).or(value["fields"].get(field));
            assert!(found.is_some(), "no {field} in {line}");
        }
    }
    assert!(lines.iter().any(|line| line.contains("edge-9")));
    assert_no_key_in_log(&agent, &[&first, &second]);
}

#[test]
fn rust_log_sets_the_level() {
    let bed = Bed::new();
    bed.pair("site");
    let quiet = bed.builder().env("RUST_LOG", "error").start();
    let mut stream = bed.client().sotw();
    stream.subscribe(&["site"]);
    stream.secret();
    // Who received a key is logged at every level, unless the filter names the audit.
    let lines = quiet.lines();
    assert!(
        lines.iter().all(|line| line.contains("audit")),
        "{lines:#?}"
    );
    quiet.terminate();
    let silent = bed.builder().env("RUST_LOG", "error,audit=off").start();
    let mut stream = bed.client().sotw();
    stream.subscribe(&["site"]);
    stream.secret();
    assert!(silent.lines().is_empty(), "{:#?}", silent.lines());
    silent.terminate();
    let loud = bed.builder().env("RUST_LOG", "debug").start();
    loud.wait_for_line(&["loaded", "site"]);
}

#[test]
fn no_key_is_ever_in_the_log() {
    let bed = Bed::new();
    let first = bed.pair("site");
    let agent = bed.builder().env("RUST_LOG", "trace").start();
    let mut stream = bed.client().sotw();
    stream.subscribe(&["site", "mixed", "swapped", "cut"]);
    stream.secret();
    let second = bed.pair("site");
    stream.secret();
    // Keys in places where a parser fails on their bytes, and in the wrong files.
    let other = bed.ca.server(&["other.test"]);
    bed.root
        .write("mixed", &[("cert", &first.chain), ("key", &other.key)]);
    bed.root
        .write("swapped", &[("cert", &other.key), ("key", &other.chain)]);
    let cut = &other.key[..other.key.len() / 2];
    bed.root
        .write("cut", &[("cert", other.chain.as_str()), ("key", cut)]);
    for name in ["mixed", "cut"] {
        agent.wait_for_line(&["rejected", name]);
    }
    // By content, they are a pair.
    agent.wait_for_line(&["loaded", "swapped"]);
    assert_no_key_in_log(&agent, &[&first, &second, &other]);
}

#[test]
fn a_name_cannot_forge_a_log_line() {
    let bed = Bed::new();
    let agent = bed.agent();
    let mut stream = bed.client().node("edge\nFORGED node").delta();
    stream.subscribe(&["x\nFORGED name", "y\u{1b}[31mFORGED colour"]);
    stream.changes();
    bed.pair("a\nFORGED folder");
    bed.pair("site");
    agent.wait_for_line(&["loaded", "site"]);
    eventually_true("the folder's refusal", || {
        !agent.lines_with(&["FORGED folder"]).is_empty()
    });
    for line in agent.lines() {
        assert!(!line.starts_with("FORGED"), "{line:?}");
        assert!(!line.contains('\u{1b}'), "{line:?}");
    }
}

#[test]
fn absent_wait_applies_to_a_root_and_to_the_agent() {
    let bed = Bed::new();
    let config = bed.scratch("sds-agent.toml");
    let other = Root::new();
    let (patient, plain) = (other.path(), bed.root.path());
    let write = |absent: &str| {
        fs::write(
            &config,
            format!(
                "absent = \"{absent}\"\n[[root]]\npath = {plain:?}\nabsent = \"say-so\"\n\
                 [[root]]\npath = {patient:?}\nabsent = \"wait\"\n"
            ),
        )
        .unwrap();
    };
    write("say-so");
    bed.pair("plain");
    other.write_pair("patient", &bed.ca.server(&["patient.test"]));
    let agent = Agent::builder(&bed.socket())
        .arg("--config")
        .arg(&config)
        .start();
    let mut stream = agent.client().delta();
    stream.subscribe(&["plain", "patient", "unknown"]);
    let changes = stream.changes();
    assert_eq!(
        (changes.secrets.len(), changes.removed),
        (2, vec!["unknown".into()])
    );

    other.remove("patient");
    agent.wait_for_line(&["removed", "patient"]);
    bed.root.remove("plain");
    assert_eq!(
        stream.removed(),
        ["plain"],
        "and nothing of the patient one"
    );
    stream.0.assert_silent();
    // A new client also waits, and gets the secret once it exists.
    let mut late = agent.client().delta();
    late.subscribe(&["patient"]);
    late.0.assert_silent();
    let renewed = bed.ca.server(&["patient.test"]);
    other.write_pair("patient", &renewed);
    for stream in [&mut stream, &mut late] {
        assert!(stream.secret().is_pair(&renewed.chain, &renewed.key));
    }

    write("wait");
    agent.signal(Signal::HUP);
    agent.wait_for_line(&["reloaded"]);
    let mut waiting = agent.client().delta();
    waiting.subscribe(&["never-seen"]);
    waiting.0.assert_silent();
}
