//! `sds-agent.toml`: how it is checked, and how a running agent reloads it.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use rustix::fs::{CWD, Mode, mkfifoat};
use rustix::process::Signal;

use crate::util::admin::{get, metric, metric_becomes, status};
use crate::util::agent::PROGRAM;
use crate::util::sds::{Delta, Sotw};
use crate::util::{Agent, Bed, Root, eventually_true};

const EXAMPLE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/examples/sds-agent.toml");

/// An agent with its own configuration file.
struct Configured {
    bed: Bed,
    file: PathBuf,
}

impl Configured {
    fn new() -> Self {
        let bed = Bed::new();
        let file = bed.scratch("sds-agent.toml");
        Self { bed, file }
    }

    fn write(&self, text: &str) {
        fs::write(&self.file, text).unwrap();
    }

    /// Writes a file with these roots and `more` at the top.
    fn write_roots(&self, roots: &[&Root], more: &str) {
        let paths: Vec<_> = roots.iter().map(|root| root.path()).collect();
        self.write(&format!("credentials = {paths:?}\n{more}"));
    }

    fn start(&self) -> Agent {
        let builder = Agent::builder(&self.bed.socket());
        builder.arg("--config").arg(&self.file).start()
    }

    /// Writes such a file that is only reloaded on SIGHUP.
    fn write_roots_unfollowed(&self, roots: &[&Root], more: &str) {
        self.write_roots(roots, &format!("reload = \"signal\"\n{more}"));
    }

    /// Makes the agent read the file again, and waits for the log line with the result.
    #[track_caller]
    fn reload(&self, agent: &Agent, pieces: &[&str]) -> String {
        let lines = agent.lines().len();
        agent.signal(Signal::HUP);
        agent.wait_for_line_after(lines, pieces)
    }
}

fn check(text: &str) -> (Output, PathBuf) {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("a.toml");
    fs::write(&file, text).unwrap();
    let output = serve(&["--check-config", "--config", file.to_str().unwrap()]);
    (output, file)
}

fn serve(arguments: &[&str]) -> Output {
    let mut command = Command::new(PROGRAM);
    command.arg("serve").args(arguments).env_remove("RUST_LOG");
    command.output().unwrap()
}

#[test]
fn a_valid_configuration_is_reported_as_valid() {
    let output = serve(&["--check-config", "--config", EXAMPLE]);
    assert_eq!(output.status.code(), Some(0), "{output:?}");
    let printed = String::from_utf8_lossy(&output.stdout);
    assert!(printed.ends_with(&format!("OK: {EXAMPLE}\n")), "{printed}");
    assert!(output.stderr.is_empty(), "{output:?}");
}

#[test]
fn the_example_can_be_uncommented_as_a_whole() {
    let example = fs::read_to_string(EXAMPLE).unwrap();
    let lines = example.lines().map(|line| match line.strip_prefix('#') {
        Some(rest) if !rest.starts_with(' ') && !rest.is_empty() => rest,
        _ => line,
    });
    let text = lines.collect::<Vec<_>>().join("\n");
    assert!(text.contains("\n[[secret]]\n"), "{text}");
    let (output, _) = check(&text);
    assert_eq!(output.status.code(), Some(0), "{output:?}");
}

#[test]
fn an_invalid_configuration_is_refused_with_file_line_and_remedy() {
    for (text, line, words) in [
        (
            "warn_days = 3\n\nwarm_days = 4\n",
            3,
            "did you mean `warn_days`?",
        ),
        ("[listen]\nmode = \"0990\"\n", 2, "write it in octal"),
        ("credentials = \"/a\"\n", 1, "expected a sequence"),
        ("[[root]]\npath = 7\n", 2, "expected a path"),
        ("[limits]\nfiles = 0\n", 2, "a whole number from 1 to"),
        ("[log\n", 1, ""),
        ("a = 1\n", 1, "did you mean"),
    ] {
        let (output, file) = check(text);
        assert_eq!(output.status.code(), Some(1), "{text}{output:?}");
        let printed = String::from_utf8_lossy(&output.stderr);
        let start = format!("sds-agent: {}:{line}:", file.display());
        assert!(
            printed.starts_with(&start) && printed.contains(words),
            "{text}{printed}"
        );
        assert_eq!(printed.lines().count(), 1, "{printed}");
    }
}

#[test]
fn everything_that_serve_would_fail_at_is_reported_together() {
    let text = "[listen]\ngroup = \"no-such-group-1\"\nallow_users = [\"no-such-user-1\"]\n\
                [admin]\ngroup = \"no-such-group-2\"\n\
                [[access]]\nsecrets = [\"*\"]\nusers = [\"no-such-user-2\"]\n";
    let (output, file) = check(text);
    assert_eq!(output.status.code(), Some(1), "{output:?}");
    let printed = String::from_utf8_lossy(&output.stderr);
    for (name, place) in [
        ("user `no-such-user-1`", "allow_users in [listen]"),
        ("user `no-such-user-2`", "users in [[access]]"),
        ("group `no-such-group-1`", "group in [listen]"),
        ("group `no-such-group-2`", "group in [admin]"),
    ] {
        let mut lines = printed.lines().filter(|line| line.contains(name));
        let line = lines.next().unwrap();
        assert!(
            line.contains(place) && line.contains(file.to_str().unwrap()),
            "{line}"
        );
        assert_eq!(lines.next(), None, "{printed}");
    }
    assert_eq!(printed.lines().count(), 4, "{printed}");
}

#[test]
fn a_socket_open_to_everyone_is_warned_of_unless_users_are_listed() {
    let named = "allow_users = [0]\n";
    let rule = "[[access]]\nsecrets = [\"*\"]\nusers = [0]\n";
    for (text, warnings) in [
        ("[listen]\nmode = \"0666\"\n".to_owned(), 1),
        ("[admin]\nmode = \"0666\"\n".to_owned(), 1),
        (format!("[listen]\nmode = \"0666\"\n{named}"), 0),
        (format!("[listen]\nmode = \"0666\"\n{rule}"), 0),
        ("[listen]\nmode = \"0660\"\n".to_owned(), 0),
    ] {
        let (output, _) = check(&text);
        assert_eq!(output.status.code(), Some(0), "{output:?}");
        let printed = String::from_utf8_lossy(&output.stdout);
        let found = printed
            .lines()
            .filter(|line| line.starts_with("warning: mode 0666"));
        assert_eq!(found.count(), warnings, "{text}\n{printed}");
    }
}

#[test]
fn an_old_name_is_warned_of_when_it_is_checked_and_when_it_is_used() {
    let configured = Configured::new();
    configured.write(&format!(
        "credentials = [{:?}]\n[log]\nlevel = \"debug\"\n",
        configured.bed.root.path()
    ));
    let warning = format!(
        "{}:3: `level` in [log] is now `log_level` at the top of the file",
        configured.file.display()
    );
    let output = serve(&[
        "--check-config",
        "--config",
        configured.file.to_str().unwrap(),
    ]);
    assert_eq!(output.status.code(), Some(0), "{output:?}");
    let printed = String::from_utf8_lossy(&output.stdout);
    assert!(
        printed.contains(&format!("warning: {warning}")),
        "{printed}"
    );
    let agent = configured.start();
    agent.wait_for_line(&["WARN", &warning]);
    configured.reload(&agent, &["WARN", &warning]);
}

#[test]
fn every_command_uses_the_configuration() {
    let bed = Bed::new();
    bed.pair("site");
    let file = bed.scratch("sds-agent.toml");
    fs::write(
        &file,
        format!(
            "credentials = [{:?}]\nsocket = {:?}\nadmin_socket = \"other.sock\"\n",
            bed.root.path(),
            bed.socket()
        ),
    )
    .unwrap();
    let run = |arguments: &[&str], env: &[(&str, &Path)]| {
        let mut command = Command::new(PROGRAM);
        command.args(arguments).envs(env.iter().copied());
        command.output().unwrap()
    };
    let text = |output: &Output| {
        assert_eq!(output.status.code(), Some(0), "{output:?}");
        String::from_utf8_lossy(&output.stdout).into_owned()
    };
    let config = file.to_str().unwrap();
    let mut serving = Command::new(PROGRAM);
    serving.args(["serve", "--config", config]);
    let agent = crate::util::process::Process::spawn("agent", &mut serving);
    agent.wait_for_line(&["serving"]);
    let envoy = text(&run(&["envoy-config", "site", "--config", config], &[]));
    assert!(envoy.contains(bed.socket().to_str().unwrap()), "{envoy}");
    for command in [&["status"][..], &["get", "site"], &["check"]] {
        let by_option = run(
            &[command, &["--config", config, "-o", "json"]].concat(),
            &[],
        );
        let by_env = run(
            &[command, &["-o", "json"]].concat(),
            &[("SDS_AGENT_CONFIG", &file)],
        );
        assert!(text(&by_option).contains("site"), "{by_option:?}");
        assert!(text(&by_env).contains("site"), "{by_env:?}");
    }
    let other = bed.scratch("other.sock");
    let by_env = run(&["status"], &[("SDS_AGENT_ADMIN_SOCKET", &other)]);
    assert!(text(&by_env).contains("site"));
    let by_env = run(&["get", "site"], &[("SDS_AGENT_SOCKET", &bed.socket())]);
    assert!(text(&by_env).contains("BEGIN CERTIFICATE"));
    fs::write(&file, "warm_days = 3\n").unwrap();
    for command in [
        &["status"][..],
        &["get", "site"],
        &["check"],
        &["envoy-config", "site"],
    ] {
        let output = run(&[command, &["--config", config]].concat(), &[]);
        assert_eq!(output.status.code(), Some(2), "{output:?}");
        let printed = String::from_utf8_lossy(&output.stderr);
        assert!(printed.contains("did you mean `warn_days`?"), "{printed}");
    }
}

#[test]
fn a_path_that_is_not_a_configuration_file_is_refused() {
    for path in ["/nonexistent/a.toml", "/dev/zero", "/", PROGRAM] {
        let output = serve(&["--check-config", "--config", path]);
        assert_eq!(output.status.code(), Some(1), "{path}: {output:?}");
        let printed = String::from_utf8_lossy(&output.stderr);
        assert!(printed.contains(path), "{printed}");
        assert_eq!(serve(&["--config", path]).status.code(), Some(2), "{path}");
    }
}

#[test]
fn every_option_is_a_key() {
    let help = serve(&["--help"]).stdout;
    let help = String::from_utf8(help).unwrap();
    let example = fs::read_to_string(EXAMPLE).unwrap();
    let options: Vec<_> = help
        .lines()
        .filter_map(|line| line.trim_start().strip_prefix("--"))
        .filter_map(|line| line.split_whitespace().next())
        .filter(|option| !["config", "check-config"].contains(option))
        .collect();
    assert!(options.len() >= 8, "{help}");
    for option in options {
        let key = format!("\n#{} = ", option.replace('-', "_"));
        assert!(
            example.contains(&key),
            "--{option} is not a key of {EXAMPLE}"
        );
    }
}

#[test]
fn the_command_line_wins_over_the_file() {
    let configured = Configured::new();
    let other = Root::new();
    configured.bed.pair("mine");
    other.write_pair("other", &configured.bed.ca.server(&["other.test"]));
    configured.write(&format!(
        "credentials = [{:?}]\nsocket = \"/nonexistent/x.sock\"\nlog_level = \"off\"\n",
        other.path()
    ));
    let agent = configured
        .bed
        .builder()
        .arg("--config")
        .arg(&configured.file);
    let agent = agent.arg("--log-level").arg("info").start();
    agent.wait_for_line(&["serving", configured.bed.socket().to_str().unwrap()]);
    let mut stream = agent.client().delta();
    stream.subscribe(&["mine", "other"]);
    let changes = stream.changes();
    assert_eq!(changes.secrets.len(), 1, "{changes:?}");
    assert_eq!(changes.removed, ["other"]);
}

#[test]
fn adding_and_removing_roots_does_not_disturb_streams() {
    let configured = Configured::new();
    let (first, second) = (&configured.bed.root, Root::new());
    let identity = configured.bed.pair("stays");
    let late = configured.bed.ca.server(&["late.test"]);
    second.write_pair("late", &late);
    configured.write_roots(&[first], "");
    let agent = configured.start();

    let (mut sotw, mut delta): (Sotw, Delta) = (agent.client().sotw(), agent.client().delta());
    sotw.subscribe(&["stays"]);
    delta.subscribe(&["stays"]);
    assert!(sotw.secret().is_pair(&identity.chain, &identity.key));
    assert!(delta.secret().is_pair(&identity.chain, &identity.key));
    let mut waiting = agent.client().delta();
    waiting.subscribe(&["late"]);
    assert_eq!(waiting.removed(), ["late"]);

    let added = format!("root {} added", second.path().display());
    configured.write_roots(&[first, &second], "");
    configured.reload(&agent, &["reloaded", &added]);
    assert!(waiting.secret().is_pair(&late.chain, &late.key));

    let removed = format!("root {} removed", second.path().display());
    configured.write_roots(&[first], "");
    configured.reload(&agent, &["reloaded", &removed]);
    assert_eq!(waiting.removed(), ["late"]);

    sotw.stream.assert_silent();
    delta.0.assert_silent();
    // They are still served.
    let next = configured.bed.pair("stays");
    assert!(sotw.secret().is_pair(&next.chain, &next.key));
    assert!(delta.secret().is_pair(&next.chain, &next.key));
}

#[test]
fn the_order_of_the_roots_decides_which_one_serves_a_name() {
    let configured = Configured::new();
    let (first, second) = (&configured.bed.root, Root::new());
    let mine = configured.bed.pair("site");
    let other = configured.bed.ca.server(&["site.test"]);
    second.write_pair("site", &other);
    configured.write_roots(&[first, &second], "");
    let agent = configured.start();
    let mut stream = agent.client().delta();
    stream.subscribe(&["site"]);
    assert!(stream.secret().is_pair(&mine.chain, &mine.key));

    configured.write_roots(&[&second, first], "");
    configured.reload(&agent, &["reloaded", "roots reordered"]);
    assert!(stream.secret().is_pair(&other.chain, &other.key));
}

#[test]
fn an_invalid_file_is_refused_and_the_old_configuration_stays_in_effect() {
    let configured = Configured::new();
    let (first, second) = (&configured.bed.root, Root::new());
    configured.bed.pair("stays");
    configured.write_roots(&[first], "");
    let agent = configured.start();
    let mut stream = agent.client().delta();
    stream.subscribe(&["stays"]);
    stream.secret();

    configured.write_roots(&[&second], "warm_days = 3\n");
    let place = format!("{}:2:1: ", configured.file.display());
    let words = [
        "refused",
        "still using the previous one",
        &place,
        "did you mean `warn_days`?",
    ];
    configured.reload(&agent, &words);
    fs::remove_file(&configured.file).unwrap();
    configured.reload(
        &agent,
        &["refused", "still using the previous one", "No such file"],
    );
    stream.0.assert_silent();
    let next = configured.bed.pair("stays");
    assert!(stream.secret().is_pair(&next.chain, &next.key));
}

#[test]
fn the_log_level_changes_in_a_running_agent() {
    let configured = Configured::new();
    configured.write_roots_unfollowed(&[&configured.bed.root], "log_level = \"info\"\n");
    let agent = configured.start();
    agent.wait_for_line(&["serving"]);
    configured.write_roots_unfollowed(&[&configured.bed.root], "log_level = \"error\"\n");
    configured.reload(&agent, &["reloaded", "log_level"]);

    // At this level, the reload back is not logged itself, but what follows it is.
    configured.write_roots_unfollowed(&[&configured.bed.root], "warm_days = 1\n");
    configured.reload(&agent, &["refused"]);
    assert_eq!(agent.lines_with(&["reloaded"]).len(), 1);
    configured.write_roots_unfollowed(&[&configured.bed.root], "log_level = \"info\"\n");
    agent.signal(Signal::HUP);
    eventually_true("a line at the level info", || {
        configured.bed.pair("noise");
        !agent.lines_with(&["noise"]).is_empty()
    });
}

#[test]
fn keys_that_need_a_restart_are_named() {
    let configured = Configured::new();
    configured.bed.pair("stays");
    configured.write_roots(&[&configured.bed.root], "");
    let agent = configured.start();
    let more = "lock_memory = true\n[listen]\nmode = \"0600\"\n[limits]\nconnections = 7\n";
    configured.write_roots(&[&configured.bed.root], more);
    let keys = [
        "until a restart",
        "listen.mode",
        "limits.connections",
        "lock_memory",
    ];
    configured.reload(&agent, &keys);
    let mut stream = agent.client().delta();
    stream.subscribe(&["stays"]);
    stream.secret();
}

const IS_GOOD: &str = "sds_agent_config_last_reload_successful";

#[test]
fn a_saved_change_is_applied_without_a_signal() {
    let configured = Configured::new();
    let (first, second) = (&configured.bed.root, Root::new());
    let late = configured.bed.ca.server(&["late.test"]);
    second.write_pair("late", &late);
    configured.write_roots(&[first], "");
    let agent = configured.start();
    let mut stream = agent.client().delta();
    stream.subscribe(&["late"]);
    assert_eq!(stream.removed(), ["late"]);
    // In place, and as most editors do it: a new file renamed over the old one.
    configured.write_roots(&[first, &second], "");
    assert!(stream.secret().is_pair(&late.chain, &late.key));
    let new = configured.bed.scratch("new.toml");
    fs::write(&new, format!("credentials = [{:?}]\n", first.path())).unwrap();
    fs::rename(&new, &configured.file).unwrap();
    assert_eq!(stream.removed(), ["late"]);
    // The same text again is not a change.
    fs::write(&new, format!("credentials = [{:?}]\n", first.path())).unwrap();
    fs::rename(&new, &configured.file).unwrap();
    configured.write_roots(&[first], "warn_days = 3\n");
    agent.wait_for_line(&["reloaded", "warn_days"]);
    assert_eq!(agent.lines_with(&["reloaded"]).len(), 3);
}

#[test]
fn a_saved_file_that_is_invalid_empty_or_missing_is_refused_and_counted() {
    let configured = Configured::new();
    let root = &configured.bed.root;
    configured.bed.pair("stays");
    configured.write_roots(&[root], "");
    let agent = configured.start();
    let admin = configured.bed.admin();
    let mut stream = agent.client().delta();
    stream.subscribe(&["stays"]);
    stream.secret();
    assert_eq!(metric(&admin, IS_GOOD), Some(1.0));
    let timestamp = "sds_agent_config_last_reload_success_timestamp_seconds";
    assert!(metric(&admin, timestamp).unwrap() > 1.7e9);
    for (text, why) in [
        (Some("warm_days = 3\n"), "did you mean `warn_days`?"),
        (Some(" \n"), "it is empty"),
        (None, "No such file"),
    ] {
        let lines = agent.lines().len();
        match text {
            Some(text) => configured.write(text),
            None => fs::remove_file(&configured.file).unwrap(),
        }
        agent.wait_for_line_after(lines, &["refused", "still using the previous one", why]);
        metric_becomes(&admin, IS_GOOD, |value| value == 0.0);
        eventually_true("the reason in the state", || {
            let error = status(&admin)["agent"]["config_error"].to_string();
            error.contains(&why.replace('"', "\\\""))
        });
        assert!(get(&admin, "/readyz").body.contains(why), "{why}");
        stream.0.assert_silent();
        // On a signal, the result is the same.
        configured.reload(&agent, &["refused", "still using the previous one", why]);
        configured.write_roots(&[root], "");
        metric_becomes(&admin, IS_GOOD, |value| value == 1.0);
        eventually_true("a state without it", || {
            status(&admin)["agent"]["config_error"].is_null()
        });
    }
    let next = configured.bed.pair("stays");
    assert!(stream.secret().is_pair(&next.chain, &next.key));
}

#[test]
fn with_reload_signal_a_saved_change_waits_for_the_signal() {
    let configured = Configured::new();
    let root = &configured.bed.root;
    configured.write_roots_unfollowed(&[root], "");
    let agent = configured.start();
    agent.wait_for_line(&["serving"]);
    configured.write_roots_unfollowed(&[root], "warn_days = 3\n");
    // A follower would have reported it by the time that another agent has reported two changes.
    let other = Configured::new();
    other.write_roots(&[&other.bed.root], "");
    let follower = other.start();
    for days in [4, 5] {
        let lines = follower.lines().len();
        other.write_roots(&[&other.bed.root], &format!("warn_days = {days}\n"));
        follower.wait_for_line_after(lines, &["reloaded", "warn_days"]);
    }
    assert!(agent.lines_with(&["reloaded"]).is_empty());
    configured.reload(&agent, &["reloaded", "warn_days"]);
    // Once it is switched on, it applies.
    configured.write_roots(&[root], "");
    configured.reload(&agent, &["reloaded", "reload"]);
    configured.write_roots(&[root], "warn_days = 6\n");
    agent.wait_for_line(&["reloaded", "changed keys: warn_days"]);
}

#[test]
fn a_configuration_that_is_not_a_regular_file_blocks_nothing() {
    let configured = Configured::new();
    configured.write_roots(&[&configured.bed.root], "");
    let mut agent = configured.start();
    for make in [make_pipe, make_folder] {
        let new = configured.bed.scratch("other");
        make(&new);
        let _ = fs::remove_dir(&configured.file);
        let _ = fs::remove_file(&configured.file);
        fs::rename(&new, &configured.file).unwrap();
        configured.reload(&agent, &["refused", "not a regular file"]);
    }
    agent.signal(Signal::TERM);
    assert_eq!(agent.wait().code(), Some(0));

    // At the start, it is an error.
    let file = configured.bed.scratch("pipe.toml");
    make_pipe(&file);
    let output = serve(&["--config", file.to_str().unwrap()]);
    assert_eq!(output.status.code(), Some(2), "{output:?}");
}

fn make_pipe(path: &Path) {
    mkfifoat(CWD, path, Mode::from(0o600)).unwrap();
}

fn make_folder(path: &Path) {
    fs::create_dir(path).unwrap();
}
