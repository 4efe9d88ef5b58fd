//! Health, metrics, status, and a configuration that is reloaded.

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::{PermissionsExt, chown};
use std::os::unix::process::CommandExt;
use std::process::{Command, Stdio};

use rustix::process::Signal;
use serde_json::Value;

use super::{OTHER, Output, PAIR, asking, bench, watching};
use crate::util::kube::{self, Mirror, PROGRAM, secret};
use crate::util::users::ROOT;
use crate::util::{eventually_true, require, tools};

/// Asserts that promtool reports no problem with the metrics of a response.
pub(super) fn check_metrics(answer: &str) {
    use std::io::Write;
    let promtool = tools::program("promtool", "apt-get install prometheus");
    let Some(promtool) = require(&promtool) else {
        return;
    };
    let (_, metrics) = answer.split_once("\r\n\r\n").unwrap();
    let mut command = Command::new(promtool);
    command.args(["check", "metrics"]);
    command.stdin(Stdio::piped()).stdout(Stdio::piped());
    let mut child = command.stderr(Stdio::piped()).spawn().unwrap();
    let mut input = child.stdin.take().unwrap();
    input.write_all(metrics.as_bytes()).unwrap();
    drop(input);
    let ended = child.wait_with_output().unwrap();
    assert!(
        ended.status.success() && ended.stderr.is_empty(),
        "{ended:?}"
    );
}

/// Sends a request to the admin socket.
pub(super) fn ask(socket: &std::path::Path, path: &str) -> String {
    use std::io::{Read, Write};
    let mut stream = std::os::unix::net::UnixStream::connect(socket).unwrap();
    let request = format!("GET {path} HTTP/1.1\r\nHost: localhost\r\n\r\n");
    stream.write_all(request.as_bytes()).unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    answer
}

/// The value of a series, by the beginning of its line.
pub(super) fn value(socket: &std::path::Path, series: &str) -> Option<f64> {
    let metrics = ask(socket, "/metrics");
    let line = metrics.lines().find(|line| line.starts_with(series))?;
    line.rsplit(' ').next()?.parse().ok()
}

#[test]
fn before_the_first_answer_metrics_exist_and_health_gives_the_reason() {
    let output = Output::new();
    let mut command = Mirror::without_access(&["a"], &output.path());
    command.args(["--server", "http://127.0.0.1:9", "--admin-socket"]);
    command.arg(output.socket());
    let mirror = Mirror::spawn(&mut command);
    mirror.wait_for_line(&["WARN", "network"]);
    let ready = ask(&output.socket(), "/readyz");
    assert!(
        ready.contains("503") && ready.contains("waiting for the first list"),
        "{ready}"
    );
    let series = "sds_mirror_sync_timestamp_seconds{namespace=\"a\",resource=\"secrets\"}";
    assert_eq!(value(&output.socket(), series), Some(0.0));
    assert_eq!(value(&output.socket(), "sds_mirror_ready"), Some(0.0));
    check_metrics(&ask(&output.socket(), "/metrics"));
}

#[test]
fn a_foreign_folder_is_shown_by_health_and_counted() {
    let Some((cluster, namespace, output)) = bench() else {
        return;
    };
    fs::create_dir_all(output.folder("a")).unwrap();
    for name in ["a", "b"] {
        namespace.create_generic(name, &PAIR);
    }
    let mirror = Mirror::spawn(&mut watching(cluster, &namespace.name, &output));
    mirror.wait_for_line(&["ERROR", "/a: it is not mirrored"]);
    output.wait_for_content("b", &PAIR);
    let socket = output.socket();
    eventually_true("health", || {
        ask(&socket, "/readyz").contains("not in step: 1 objects")
    });
    let ready = ask(&socket, "/readyz");
    assert!(ready.contains("not made by sds-mirror: 1"), "{ready}");
    for (series, expected) in [
        ("sds_mirror_foreign_folders", 1.0),
        ("sds_mirror_not_in_step", 1.0),
        ("sds_mirror_folders", 1.0),
        ("sds_mirror_secrets{state=\"mirrored\"}", 1.0),
        ("sds_mirror_problems{kind=\"foreign_folder\"}", 1.0),
    ] {
        assert_eq!(value(&socket, series), Some(expected), "{series}");
    }
    fs::remove_dir(output.folder("a")).unwrap();
    output.wait_for_content("a", &PAIR);
    eventually_true("ready", || {
        ask(&socket, "/readyz").contains("\r\n\r\nready\n")
    });
    assert_eq!(value(&socket, "sds_mirror_foreign_folders"), Some(0.0));
    assert_eq!(value(&socket, "sds_mirror_ready"), Some(1.0));
}

/// A user whose folder is read-only.
const USER: u32 = 61_236;

#[test]
fn a_failed_write_is_shown_by_health_and_counted() {
    if require(&ROOT).is_none() {
        return;
    }
    let Some((cluster, namespace, output)) = bench() else {
        return;
    };
    namespace.create_generic("a", &PAIR);
    fs::create_dir(output.path()).unwrap();
    let kubeconfig = output.beside("kubeconfig");
    fs::copy(cluster.admin_kubeconfig(), &kubeconfig).unwrap();
    for path in [output.beside(""), output.path(), kubeconfig.clone()] {
        chown(path, Some(USER), Some(USER)).unwrap();
    }
    fs::set_permissions(output.path(), fs::Permissions::from_mode(0o550)).unwrap();
    let mut command = Mirror::without_access(&[&namespace.name], &output.path());
    command.arg("--kubeconfig").arg(&kubeconfig);
    command.args(["--check-interval", "300ms", "--admin-socket"]);
    command.arg(output.socket()).uid(USER).gid(USER);
    let mirror = Mirror::spawn(&mut command);
    mirror.wait_for_line(&["ERROR", "folder a", "can't be written"]);
    let socket = output.socket();
    let ready = ask(&socket, "/readyz");
    assert!(
        ready.contains("503") && ready.contains("can't be written"),
        "{ready}"
    );
    assert_eq!(
        value(&socket, "sds_mirror_problems{kind=\"write\"}"),
        Some(1.0)
    );
    fs::set_permissions(output.path(), fs::Permissions::from_mode(0o750)).unwrap();
    output.wait_for_content("a", &PAIR);
    eventually_true("ready", || ask(&socket, "/readyz").contains("200 OK"));
    assert_eq!(
        value(&socket, "sds_mirror_problems{kind=\"write\"}"),
        Some(0.0)
    );
}

#[test]
fn status_shows_each_object_its_folder_version_age_and_problem() {
    let Some((cluster, namespace, output)) = bench() else {
        return;
    };
    namespace.create_generic("good", &PAIR);
    namespace.apply(&secret("bad", "Opaque", &[PAIR[0], OTHER[1]]));
    let mirror = Mirror::spawn(&mut watching(cluster, &namespace.name, &output));
    mirror.wait_for_line(&["ERROR", "/bad: sds-agent would reject it"]);
    let ended = asking(&output, &["status"]);
    let table = String::from_utf8_lossy(&ended.stdout).into_owned();
    assert_eq!(ended.status.code(), Some(1), "{table}");
    let line = |name: &str| {
        let row = table.lines().find(|line| line.contains(name));
        row.unwrap_or_else(|| panic!("{name}: {table}")).to_owned()
    };
    assert!(line("/good").contains(" ok "), "{table}");
    assert!(line("/bad").contains(" rejected "), "{table}");

    let ended = asking(&output, &["status", "-o", "json", "good"]);
    let report: Value = serde_json::from_slice(&ended.stdout).unwrap();
    let object = &report["objects"][0];
    let version = [
        "get",
        "secret",
        "good",
        "-o",
        "jsonpath={.metadata.resourceVersion}",
    ];
    assert_eq!(object["folder"], "good");
    assert_eq!(
        object["resource_version"],
        namespace.kubectl(&version).as_str()
    );
    assert!(object["written"].as_u64().unwrap() > 1_600_000_000);
    assert_eq!(report["objects"].as_array().unwrap().len(), 1);
    let ended = asking(&output, &["status", "no-such"]);
    assert_eq!(ended.status.code(), Some(2));
}

#[test]
fn sighup_reloads_the_configuration_and_an_invalid_one_changes_nothing() {
    let Some(cluster) = kube::shared() else {
        return;
    };
    let (first, second) = (cluster.namespace(), cluster.namespace());
    let output = Output::new();
    first.create_generic("a", &PAIR);
    second.create_generic("b", &PAIR);
    let config = output.beside("sds-mirror.toml");
    let write = |namespaces: &[&str], more: &str| {
        let text = format!(
            "kubeconfig = {:?}\nnamespace = {namespaces:?}\noutput = \"credentials\"\n\
             admin_socket = \"admin.sock\"\n{more}",
            cluster.admin_kubeconfig()
        );
        fs::write(&config, text).unwrap();
    };
    write(&[&first.name], "");
    let mut command = Command::new(PROGRAM);
    command.arg("--config").arg(&config).env_remove("RUST_LOG");
    let mut mirror = Mirror::spawn(&mut command);
    output.wait_for(&["a"]);

    write(&[&first.name, &second.name], "");
    mirror.signal(Signal::HUP);
    mirror.wait_for_line(&["reloaded"]);
    output.wait_for(&["a", "b"]);
    for (namespaces, more, why) in [
        (&[first.name.as_str()][..], "no_such_key = 1\n", ":5:1: "),
        (&[], "", "no namespace"),
        (&[&first.name], "context = \"no-such\"\n", "no-such"),
    ] {
        write(namespaces, more);
        mirror.signal(Signal::HUP);
        mirror.wait_for_line(&["ERROR", "not reloaded", why]);
    }
    second.create_generic("c", &PAIR);
    output.wait_for(&["a", "b", "c"]);
    assert!(ask(&output.socket(), "/livez").contains("200 OK"));
    assert!(mirror.is_running());
    mirror.signal(Signal::TERM);
    assert!(mirror.wait().success());
}

#[test]
fn man_page_and_completions_are_made() {
    let run = |arguments: &[&str]| {
        let output = Command::new(PROGRAM).args(arguments).output().unwrap();
        assert!(output.status.success(), "{arguments:?}");
        String::from_utf8(output.stdout).unwrap()
    };
    let page = run(&["man"]);
    for word in [
        "sds\\-mirror",
        "release",
        "mass\\-removal\\-window",
        "dry\\-run",
    ] {
        assert!(page.contains(word), "{word}");
    }
    for shell in ["bash", "zsh", "fish"] {
        assert!(
            run(&["completions", shell]).contains("sds-mirror"),
            "{shell}"
        );
    }
}

/// The mirror's metrics in a text.
fn names(text: &str) -> BTreeSet<String> {
    text.split(|char: char| !(char.is_ascii_alphanumeric() || char == '_'))
        .filter(|word| word.starts_with("sds_mirror_"))
        .map(str::to_owned)
        .collect()
}

#[test]
fn every_metric_is_documented_and_rules_and_dashboard_use_no_others() {
    let Some((cluster, namespace, output)) = bench() else {
        return;
    };
    namespace.create_generic("a", &PAIR);
    namespace.create_generic("b", &PAIR);
    let _mirror = Mirror::spawn(&mut watching(cluster, &namespace.name, &output));
    output.wait_for(&["a", "b"]);
    namespace.delete("b");
    output.wait_for(&["a"]);
    let read = |path: &str| {
        let path = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join(path);
        fs::read_to_string(path).unwrap()
    };
    let metrics = ask(&output.socket(), "/metrics");
    let types = metrics
        .lines()
        .filter_map(|line| line.strip_prefix("# TYPE "));
    let there: BTreeSet<String> = types
        .filter_map(|rest| rest.split(' ').next())
        .filter(|name| name.starts_with("sds_mirror_"))
        .map(str::to_owned)
        .collect();
    // The series of failures only exist after a failure.
    let documented = names(&read("docs/mirror.md"));
    assert!(
        there.len() >= 12 && there.is_subset(&documented),
        "{there:?}"
    );
    for path in [
        "examples/prometheus/sds-mirror.rules.yaml",
        "examples/grafana/sds-agent.json",
    ] {
        let asked = names(&read(path));
        assert!(
            !asked.is_empty() && asked.is_subset(&documented),
            "{path}: {asked:?}"
        );
    }
}

#[test]
fn the_mirrors_alert_rules_pass_their_tests() {
    let promtool = tools::program("promtool", "apt-get install prometheus");
    let Some(promtool) = require(&promtool) else {
        return;
    };
    let folder = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("examples/prometheus");
    for (command, file) in [
        (["check", "rules"], "sds-mirror.rules.yaml"),
        (["test", "rules"], "sds-mirror.rules.test.yaml"),
        (["check", "config"], "prometheus.yaml"),
    ] {
        let mut promtool = Command::new(&promtool);
        let ended = promtool
            .args(command)
            .arg(file)
            .current_dir(&folder)
            .output()
            .unwrap();
        assert!(ended.status.success(), "{file}: {ended:?}");
    }
}
