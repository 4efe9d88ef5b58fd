//! Faults around the agent, one at a time: nothing is lost, and what is not affected continues.

use std::fs::{self, File};
use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, SystemTime};

use rustix::fs::{CWD, Mode, mkfifoat};
use rustix::process::{Resource, Rlimit, Signal, getrlimit, setrlimit};

use crate::util::admin::metric;
use crate::util::process::Process;
use crate::util::sds::Delta;
use crate::util::tools::{LIBFAKETIME, program};
use crate::util::users::ROOT;
use crate::util::{Agent, BOUND, Bed, Identity, Root, eventually_true, require};

/// A stream that has been served `name`.
#[track_caller]
fn subscribed(bed: &Bed, name: &str) -> Delta {
    let mut stream = bed.client().delta();
    stream.subscribe(&[name]);
    stream.secret();
    stream
}

/// Waits for that pair, the last one that was written. Nothing may be removed in the meantime.
#[track_caller]
fn arrives(stream: &mut Delta, identity: &Identity) {
    while !stream.secret().is_pair(&identity.chain, &identity.key) {}
}

/// A command that runs these shell commands and then becomes the agent.
fn shell(words: &str) -> Command {
    let mut command = Command::new("sh");
    command.args(["-c", &format!("{words}; exec \"$@\""), "sh"]);
    command
}

#[test]
fn with_too_few_watches_nothing_is_lost() {
    // The limit of a separate user namespace, not this machine's.
    let mut limited = Command::new("unshare");
    limited.args(["--user", "--map-root-user", "sh", "-c"]);
    limited.args([
        "echo 6 >/proc/sys/user/max_inotify_watches && exec \"$@\"",
        "sh",
    ]);
    if !can_limit_watches() {
        let _ = require(&program(
            "unshare with user namespaces",
            "allow user namespaces",
        ));
        return;
    }
    let bed = Bed::new();
    let names: Vec<_> = (0..20).map(|n| format!("site-{n}")).collect();
    names.iter().for_each(|name| drop(bed.pair(name)));
    let agent = bed.builder().wrapped_in(limited).start();
    let mut streams: Vec<_> = names.iter().map(|name| subscribed(&bed, name)).collect();
    agent.wait_for_line(&["max_user_watches"]);
    for _ in 0..2 {
        let renewed: Vec<_> = names.iter().map(|name| bed.pair(name)).collect();
        for (stream, identity) in streams.iter_mut().zip(&renewed) {
            arrives(stream, identity);
        }
    }
    // A folder that is created when no watch is left for it.
    let new = bed.pair("new");
    let mut stream = bed.client().delta();
    stream.subscribe(&["new"]);
    while !stream
        .changes()
        .secrets
        .iter()
        .any(|s| s.is_pair(&new.chain, &new.key))
    {}
}

fn can_limit_watches() -> bool {
    let mut probe = Command::new("unshare");
    probe.args(["--user", "--map-root-user", "sh", "-c"]);
    probe.arg("echo 6 2>/dev/null >/proc/sys/user/max_inotify_watches");
    probe.status().is_ok_and(|status| status.success())
}

#[test]
fn an_overflow_of_the_event_queue_loses_nothing() {
    let bed = Bed::new();
    bed.pair("site");
    bed.pair("gone");
    let agent = bed.agent();
    let mut site = subscribed(&bed, "site");
    let mut gone = subscribed(&bed, "gone");
    let mut new = bed.client().delta();
    new.subscribe(&["new"]);
    assert_eq!(new.removed(), ["new"]);

    let limit = fs::read_to_string("/proc/sys/fs/inotify/max_queued_events").unwrap();
    let limit: usize = limit.trim().parse().unwrap();
    agent.signal(Signal::STOP);
    let noise = bed.root.credential("site").join("noise");
    for _ in 0..limit {
        File::create(&noise).unwrap();
        fs::remove_file(&noise).unwrap();
    }
    // From here on, the kernel keeps no events.
    let renewed = bed.pair("site");
    let added = bed.pair("new");
    bed.root.remove("gone");
    agent.signal(Signal::CONT);
    arrives(&mut site, &renewed);
    arrives(&mut new, &added);
    assert_eq!(gone.removed(), ["gone"]);
    agent.wait_for_line(&["queue", "overflow"]);
}

#[test]
fn without_file_descriptors_the_previous_version_stays_and_the_next_is_served_later() {
    let bed = Bed::new();
    bed.pair("site");
    let agent = bed.builder().wrapped_in(shell("ulimit -n 48")).start();
    let mut stream = subscribed(&bed, "site");
    let crowd: Vec<_> = (0..100)
        .map(|_| UnixStream::connect(bed.socket()).unwrap())
        .collect();
    agent.wait_for_line(&["no connection can be accepted"]);
    let renewed = bed.pair("site");
    drop(crowd);
    arrives(&mut stream, &renewed);
    agent.wait_for_line(&["accepted again"]);
    let mut late = bed.client().delta();
    late.subscribe(&["site"]);
    assert!(late.secret().is_pair(&renewed.chain, &renewed.key));
    let last = bed.pair("site");
    arrives(&mut late, &last);
}

#[test]
fn a_blocked_log_stops_no_delivery_and_loses_no_audit_line() {
    const STREAMS: usize = 20;
    let bed = Bed::new();
    let pairs = ["a.test", "b.test"].map(|host| bed.ca.server(&[host]));
    let write = |n: usize| {
        bed.root.write_pair("site", &pairs[n % 2]);
        &pairs[n % 2]
    };
    write(0);
    let pipe = bed.scratch("log");
    mkfifoat(CWD, &pipe, Mode::from(0o600)).unwrap();
    // Open for reading and writing, so that opening it does not wait for the other end.
    let log = File::options().read(true).write(true).open(&pipe).unwrap();
    let to_pipe = shell(&format!("exec 2>'{}'", pipe.display()));
    let mut agent = bed.builder().wrapped_in(to_pipe).start();
    let mut streams: Vec<_> = (0..STREAMS).map(|_| subscribed(&bed, "site")).collect();
    let mut deliveries = STREAMS;
    let mut rotate = |n: usize| {
        let identity = write(n);
        for stream in &mut streams {
            arrives(stream, identity);
        }
        deliveries += STREAMS;
    };
    let lost = || metric(&bed.admin(), "sds_agent_log_lines_lost_total").unwrap();
    let mut rotations = 1;
    while lost() == 0.0 {
        rotate(rotations);
        rotations += 1;
        assert!(rotations < 2_000, "the log never became full");
    }
    for n in rotations..rotations + 10 {
        rotate(n);
    }

    // Once the log is read, it has every line that is not counted as lost, and a line about the loss.
    let lines = Arc::new(Mutex::new(Vec::new()));
    let collected = lines.clone();
    thread::spawn(move || {
        for line in BufReader::new(log).lines().map_while(Result::ok) {
            collected.lock().unwrap().push(line);
        }
    });
    let count = |pieces: &[&str]| {
        let lines = lines.lock().unwrap();
        let has = |line: &&String| pieces.iter().all(|piece| line.contains(piece));
        lines.iter().filter(has).count()
    };
    eventually_true("every line of the audit", || {
        count(&["key_delivered"]) == deliveries && count(&["log lines were lost"]) == 1
    });
    agent.signal(Signal::TERM);
    assert!(agent.wait().success());
    eventually_true("the last line", || count(&["stopping"]) == 1);
}

/// A small file system in memory, unmounted when dropped.
struct SmallDisk(PathBuf);

impl SmallDisk {
    fn mount(at: &Path) -> Self {
        fs::create_dir_all(at).unwrap();
        let mounted = Command::new("mount")
            .args(["-t", "tmpfs", "-o", "size=128k", "none"])
            .arg(at)
            .status()
            .unwrap();
        assert!(mounted.success());
        Self(at.to_owned())
    }

    /// Fills it to the last byte.
    fn fill(&self) -> PathBuf {
        let filler = self.0.join("filler");
        let mut file = File::options()
            .create(true)
            .append(true)
            .open(&filler)
            .unwrap();
        while file.write_all(&[0; 4096]).is_ok() {}
        filler
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("--lazy").arg(&self.0).status();
    }
}

#[test]
fn a_full_disk_removes_no_valid_credential() {
    if require(&ROOT).is_none() {
        return;
    }
    let bed = Bed::new();
    let disk = SmallDisk::mount(&bed.scratch("disk"));
    let root = disk.0.join("live");
    let folder = root.join("site");
    let first = bed.ca.server(&["site.test"]);
    crate::util::folders::write_files(&folder, &[("cert", &first.chain), ("key", &first.key)]);
    let agent = Agent::start(&root, &bed.socket());
    let mut stream = subscribed(&bed, "site");

    let renewed = bed.ca.server(&["site.test"]);
    let cert = folder.join("cert");
    // As `cp` does: the file is truncated, and then there is no space.
    let mut writer = File::options()
        .write(true)
        .truncate(true)
        .open(&cert)
        .unwrap();
    let filler = disk.fill();
    assert!(writer.write_all(renewed.chain.as_bytes()).is_err());
    drop(writer);
    agent.wait_for_line(&["rejected", "site", "cert", "previous version"]);
    stream.0.assert_silent();

    fs::remove_file(filler).unwrap();
    fs::write(&cert, &renewed.chain).unwrap();
    fs::write(folder.join("key"), &renewed.key).unwrap();
    arrives(&mut stream, &renewed);
}

#[test]
fn reads_that_fail_with_eio_or_estale_are_retried() {
    let Some(strace) = require(&program("strace", "apt-get install strace")) else {
        return;
    };
    if require(&ROOT).is_none() {
        return;
    }
    for error in ["EIO", "ESTALE"] {
        let bed = Bed::new();
        bed.pair("site");
        bed.pair("other");
        let agent = bed.agent();
        let mut stream = subscribed(&bed, "site");
        let mut other = subscribed(&bed, "other");
        let mut command = Command::new(&strace);
        command
            .args(["-f", "-P"])
            .arg(bed.root.credential("site").join("cert"));
        command.args(["-e", "trace=read,pread64,readv,preadv,preadv2"]);
        command.arg("-e");
        command.arg(format!(
            "inject=read,pread64,readv,preadv,preadv2:error={error}"
        ));
        command.args(["-p", &agent.pid().as_raw_nonzero().to_string()]);
        let mut injector = Process::spawn("strace", &mut command);
        injector.wait_for_line(&["attached"]);

        let renewed = bed.pair("site");
        injector.wait_for_line(&["INJECTED"]);
        agent.wait_for_line(&["rejected", "site", "previous version"]);
        stream.0.assert_silent();
        let unconcerned = bed.pair("other");
        arrives(&mut other, &unconcerned);
        // The disk works again, without an event.
        injector.signal(Signal::TERM);
        injector.wait();
        arrives(&mut stream, &renewed);
    }
}

#[test]
fn setting_the_clock_back_and_forth_stops_nothing() {
    let Some(library) = require(&LIBFAKETIME) else {
        return;
    };
    let bed = Bed::new();
    let clock = bed.scratch("clock");
    let set = |offset: &str| fs::write(&clock, offset).unwrap();
    let pair = || {
        let identity = bed.ca.server_with(&["site.test"], |params| {
            let now = SystemTime::now();
            params.not_before = (now - Duration::from_secs(86_400)).into();
            params.not_after = (now + Duration::from_secs(86_400)).into();
        });
        bed.root.write_pair("site", &identity);
        identity
    };
    set("+0");
    pair();
    let agent = bed
        .builder()
        .env("LD_PRELOAD", library)
        .env("FAKETIME_TIMESTAMP_FILE", &clock)
        .env("FAKETIME_NO_CACHE", "1")
        .env("FAKETIME_DONT_FAKE_MONOTONIC", "1")
        .start();
    let mut stream = subscribed(&bed, "site");
    for (offset, verdict) in [("+400d", "expired"), ("-400d", "not_yet_valid"), ("+0", "")] {
        let before = agent.lines().len();
        set(offset);
        let renewed = pair();
        arrives(&mut stream, &renewed);
        if !verdict.is_empty() {
            agent.wait_for_line_after(before, &["site", verdict]);
        }
    }
}

#[test]
fn a_rapidly_replaced_tree_is_served_in_its_final_state() {
    let bed = Bed::new();
    let quiet = Root::new();
    quiet.write_pair("quiet", &bed.ca.server(&["quiet.test"]));
    bed.pair("site");
    let agent = bed.builder().credentials(&quiet.path()).start();
    let mut stream = subscribed(&bed, "site");
    let mut calm = subscribed(&bed, "quiet");
    let other = bed.root.beside("other");
    let identity = bed.ca.server(&["site.test"]);
    let folder = other.join("site");
    crate::util::folders::write_files(
        &folder,
        &[("cert", &identity.chain), ("key", &identity.key)],
    );
    let before = agent.resident_kib();

    let over = AtomicBool::new(false);
    let swaps = AtomicU32::new(0);
    thread::scope(|scope| {
        scope.spawn(|| {
            let flags = rustix::fs::RenameFlags::EXCHANGE;
            let (cwd, live) = (CWD, bed.root.path());
            while !over.load(Ordering::Relaxed) {
                rustix::fs::renameat_with(cwd, &live, cwd, &other, flags).unwrap();
                swaps.fetch_add(1, Ordering::Relaxed);
                thread::sleep(Duration::from_micros(500));
            }
        });
        // Another root is served in the meantime.
        for _ in 0..20 {
            let renewed = bed.ca.server(&["quiet.test"]);
            quiet.write_pair("quiet", &renewed);
            arrives(&mut calm, &renewed);
        }
        eventually_true("3,000 swaps", || swaps.load(Ordering::Relaxed) >= 3_000);
        over.store(true, Ordering::Relaxed);
    });
    let last = bed.pair("site");
    arrives(&mut stream, &last);
    stream.0.assert_silent();
    let grown = agent.resident_kib().saturating_sub(before);
    assert!(grown < 64 * 1024, "the agent has grown by {grown} KiB");
}

#[test]
fn an_agent_paused_for_ten_seconds_catches_up() {
    let bed = Bed::new();
    bed.pair("site");
    let agent = bed.agent();
    let mut stream = subscribed(&bed, "site");
    agent.signal(Signal::STOP);
    let mut last = bed.pair("site");
    for _ in 0..10 {
        thread::sleep(Duration::from_secs(1));
        last = bed.pair("site");
    }
    agent.signal(Signal::CONT);
    arrives(&mut stream, &last);
    stream.0.assert_silent();
}

#[test]
fn two_thousand_simultaneous_connections_are_served_and_cleaned_up() {
    const CONNECTIONS: usize = 2_000;
    // This process needs the same number.
    let limit = getrlimit(Resource::Nofile);
    let raised = Rlimit {
        current: limit.maximum,
        ..limit
    };
    setrlimit(Resource::Nofile, raised).unwrap();
    let bed = Bed::new();
    bed.pair("site");
    let agent = bed.builder().wrapped_in(shell("ulimit -n 8192")).start();
    let mut stream = subscribed(&bed, "site");
    let files = idle_files(&agent);

    let crowd: Vec<_> = (0..CONNECTIONS)
        .map(|_| {
            let mut connection = UnixStream::connect(bed.socket()).unwrap();
            connection
                .write_all(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0")
                .unwrap();
            connection
        })
        .collect();
    for mut connection in &crowd {
        connection.set_read_timeout(Some(BOUND)).unwrap();
        connection.read_exact(&mut [0; 9]).unwrap();
    }
    let renewed = bed.pair("site");
    arrives(&mut stream, &renewed);
    arrives(&mut subscribed_client(&bed), &renewed);
    drop(crowd);
    eventually_true("the connections' end", || agent.open_files() <= files + 2);
}

/// How many files an idle agent has open. The last one that it opens, after it has begun to serve, is the watch on
/// its configuration, for which `notify` has a thread.
fn idle_files(agent: &Agent) -> usize {
    let task = format!("/proc/{}/task", agent.pid());
    eventually_true("the watch on the configuration", || {
        fs::read_dir(&task).unwrap().any(|thread| {
            let name = fs::read_to_string(thread.unwrap().path().join("comm"));
            name.is_ok_and(|name| name.starts_with("notify-rs"))
        })
    });
    agent.open_files()
}

fn subscribed_client(bed: &Bed) -> Delta {
    let mut stream = bed.client().delta();
    stream.subscribe(&["site"]);
    stream
}

#[test]
fn a_flood_of_admin_requests_delays_nothing() {
    let bed = Bed::new();
    bed.pair("site");
    let agent = bed.agent();
    let mut stream = subscribed(&bed, "site");
    let admin = bed.socket().with_file_name("admin.sock");
    let files = idle_files(&agent);
    let over = AtomicBool::new(false);
    let answers = AtomicU32::new(0);
    thread::scope(|scope| {
        for worker in 0..16 {
            let (admin, over, answers) = (&admin, &over, &answers);
            scope.spawn(move || {
                while !over.load(Ordering::Relaxed) {
                    let request: &[u8] = match worker % 4 {
                        0 => b"GET /metrics HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n",
                        1 => b"GET /status HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n",
                        2 => b"\x16\x03\x01 garbage",
                        _ => b"GET /metrics HTTP/1.1\r\n",
                    };
                    let Ok(mut connection) = UnixStream::connect(admin) else {
                        continue;
                    };
                    let _ = connection.write_all(request);
                    // The last kind disconnects before the answer.
                    if worker % 4 < 2 {
                        let mut answer = Vec::new();
                        let _ = connection.read_to_end(&mut answer);
                        answers.fetch_add(u32::from(!answer.is_empty()), Ordering::Relaxed);
                    }
                }
            });
        }
        for _ in 0..200 {
            let renewed = bed.pair("site");
            arrives(&mut stream, &renewed);
        }
        over.store(true, Ordering::Relaxed);
    });
    assert!(answers.load(Ordering::Relaxed) > 0);
    eventually_true("the connections' end", || agent.open_files() <= files + 2);
}
