//! The notifications to a service manager, on the socket in `NOTIFY_SOCKET`. `systemd.rs` tests what a real service
//! manager does with them.

use std::collections::HashMap;
use std::os::unix::net::{UnixDatagram, UnixListener};
use std::process::Command;

use rustix::process::Signal;

use crate::util::agent::PROGRAM;
use crate::util::process::Process;
use crate::util::{BOUND, Bed, eventually_true, require, tools};

/// The manager's end.
struct Manager(UnixDatagram);

impl Manager {
    fn bind(bed: &Bed) -> Self {
        let socket = UnixDatagram::bind(bed.scratch("notify")).unwrap();
        socket.set_read_timeout(Some(BOUND)).unwrap();
        Self(socket)
    }

    /// The next message's fields.
    #[track_caller]
    fn message(&self) -> HashMap<String, String> {
        let mut buffer = [0; 4096];
        let length = self.0.recv(&mut buffer).unwrap();
        let text = std::str::from_utf8(&buffer[..length]).unwrap();
        let fields = text.lines().map(|line| line.split_once('=').unwrap());
        fields
            .map(|(key, value)| (key.to_owned(), value.to_owned()))
            .collect()
    }

    /// The next message with that field; messages that feed the watchdog are skipped.
    #[track_caller]
    fn message_with(&self, key: &str) -> HashMap<String, String> {
        loop {
            let message = self.message();
            if message.contains_key(key) {
                return message;
            }
            assert!(
                message.contains_key("WATCHDOG"),
                "{message:?} came before {key}"
            );
        }
    }
}

fn monotonic_usec() -> i128 {
    let now = rustix::time::clock_gettime(rustix::time::ClockId::Monotonic);
    i128::from(now.tv_sec) * 1_000_000 + i128::from(now.tv_nsec) / 1_000
}

#[test]
fn readiness_reload_and_stop_are_notified_in_order() {
    let bed = Bed::new();
    bed.pair("site");
    let manager = Manager::bind(&bed);
    let agent = bed
        .builder()
        .env("NOTIFY_SOCKET", bed.scratch("notify"))
        .start_without_waiting();
    let ready = manager.message();
    assert_eq!(ready["READY"], "1");
    assert_eq!(ready["STATUS"], "serving; secrets: 1");

    let before = monotonic_usec();
    agent.signal(Signal::HUP);
    let reloading = manager.message();
    assert_eq!(reloading["RELOADING"], "1");
    let time: i128 = reloading["MONOTONIC_USEC"].parse().unwrap();
    assert!((before..=monotonic_usec()).contains(&time));
    assert_eq!(manager.message()["READY"], "1");

    agent.signal(Signal::TERM);
    assert_eq!(manager.message()["STOPPING"], "1");
}

#[test]
fn the_watchdog_is_notified_only_while_the_agent_makes_progress() {
    let bed = Bed::new();
    bed.pair("site");
    let manager = Manager::bind(&bed);
    let agent = bed
        .builder()
        .env("NOTIFY_SOCKET", bed.scratch("notify"))
        .env("WATCHDOG_USEC", "300000")
        .start_without_waiting();
    manager.message_with("READY");
    for _ in 0..5 {
        assert_eq!(manager.message_with("WATCHDOG")["WATCHDOG"], "1");
    }
    agent.signal(Signal::STOP);
    eventually_true("the stop", || agent.proc_file("stat").contains(") T "));
    // What was sent before it stopped.
    manager.0.set_nonblocking(true).unwrap();
    while manager.0.recv(&mut [0; 4096]).is_ok() {}
    manager.0.set_nonblocking(false).unwrap();
    manager
        .0
        .set_read_timeout(Some(std::time::Duration::from_secs(1)))
        .unwrap();
    assert!(manager.0.recv(&mut [0; 4096]).is_err());
    agent.signal(Signal::CONT);
    manager.0.set_read_timeout(Some(BOUND)).unwrap();
    manager.message_with("WATCHDOG");
}

#[test]
fn a_socket_passed_by_systemd_is_used_and_not_removed() {
    let activate = tools::program("systemd-socket-activate", "apt-get install systemd");
    let Some(activate) = require(&activate) else {
        return;
    };
    let bed = Bed::new();
    bed.pair("site");
    let (socket, other) = (bed.socket(), bed.scratch("other.sock"));
    let mut command = Command::new(activate);
    command
        .arg("--listen")
        .arg(&socket)
        .arg("--listen")
        .arg(&other);
    command.arg(PROGRAM).arg("serve");
    command.arg("--credentials").arg(bed.root.path());
    command.arg("--socket").arg(&socket);
    let mut agent = Process::spawn("systemd-socket-activate", &mut command);
    agent.wait_for_line(&["Listening on"]);

    let mut stream = bed.client().delta();
    stream.subscribe(&["site"]);
    stream.secret();
    // A socket that is not in the configuration is reported.
    agent.wait_for_line(&["other.sock", "paths the same"]);
    agent.signal(Signal::TERM);
    assert!(agent.wait().success());
    assert!(socket.exists(), "it is the manager's");
    // Nothing listens on it now, so an agent without systemd replaces it.
    assert!(UnixListener::bind(&socket).is_err());
    let _agent = bed.agent();
    let mut stream = bed.client().delta();
    stream.subscribe(&["site"]);
    stream.secret();
}
