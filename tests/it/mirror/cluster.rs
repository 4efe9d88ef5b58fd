//! A cluster that crashes, loses its history, or is replaced by another one.

use std::fs;
use std::path::Path;
use std::thread;
use std::time::Duration;

use rustix::process::Signal;

use super::health::ask;
use super::{OTHER, Output, PAIR, log, once, watching};
use crate::util::kube::{self, ControlPlane, Mirror, secret};
use crate::util::{eventually_true, require};

/// How often a namespace was listed completely.
fn lists(socket: &Path) -> u64 {
    let metrics = ask(socket, "/metrics");
    let line = metrics
        .lines()
        .find(|line| line.starts_with("sds_mirror_lists_total"))
        .unwrap();
    line.rsplit(' ').next().unwrap().parse().unwrap()
}

#[test]
fn the_mirror_survives_a_cluster_that_crashes_and_loses_its_history() {
    let Some(programs) = require(&kube::KUBE) else {
        return;
    };
    // A separate cluster, because it is killed.
    let mut cluster = ControlPlane::start(&programs);
    let output = Output::new();
    let socket = output.beside("admin.sock");
    let name = {
        let namespace = cluster.namespace();
        for name in ["a", "b", "c"] {
            namespace.create_generic(name, &PAIR);
        }
        namespace.name.clone()
    };
    let mut command = Mirror::command(&cluster, &[&name], &output.path());
    command.arg("--admin-socket").arg(&socket);
    let mut mirror = Mirror::spawn(&mut command);
    output.wait_for(&["a", "b", "c"]);
    assert_eq!(lists(&socket), 1);

    // The cluster crashes, and the folders stay; a mirror that starts now removes nothing either.
    cluster.kill_api_server();
    mirror.wait_for_line(&["WARN", "network"]);
    mirror.signal(Signal::TERM);
    assert!(mirror.wait().success());
    let mut mirror = Mirror::spawn(&mut command);
    mirror.wait_for_line(&["WARN", "network"]);
    assert!(ask(&socket, "/readyz").contains("503"));
    assert!(output.holds("a", &PAIR) && output.holds("c", &PAIR));

    // It is back, and dies again. The watch resumes where it ended if the new server has kept enough history; if
    // not, there is one new list.
    cluster.start_api_server();
    mirror.wait_for_line(&["listed"]);
    assert_eq!(lists(&socket), 1);
    let lines = mirror.lines().len();
    cluster.kill_api_server();
    mirror.wait_for_line_after(lines, &["WARN", "network"]);
    cluster.start_api_server();
    apply(&cluster, &name, &[("a", &OTHER)]);
    output.wait_for_content("a", &OTHER);
    let before = lists(&socket);
    assert!(before <= 2, "{before} lists");

    // The history is lost: the mirror sleeps, the server is restarted, and etcd compacted.
    mirror.signal(Signal::STOP);
    cluster.kill_api_server();
    cluster.start_api_server();
    kube::run(
        cluster
            .kubectl()
            .args(["-n", &name, "delete", "secret", "b"]),
    );
    apply(&cluster, &name, &[("a", &PAIR), ("d", &PAIR)]);
    cluster.kill_api_server();
    cluster.compact();
    cluster.start_api_server();
    mirror.signal(Signal::CONT);
    output.wait_for(&["a", "c", "d"]);
    output.wait_for_content("a", &PAIR);
    mirror.wait_for_line(&["WARN", "gone", "a new list follows"]);
    let before = lists(&socket);
    assert!((2..=3).contains(&before), "{before} lists");

    // It goes up and down repeatedly.
    for _ in 0..3 {
        cluster.kill_api_server();
        cluster.start_api_server();
    }
    apply(&cluster, &name, &[("c", &OTHER)]);
    output.wait_for_content("c", &OTHER);
    // At most one for each server that lost its history.
    assert!(lists(&socket) <= before + 3, "{} lists", lists(&socket));
    another_cluster_is_refused(&mut mirror, &name, &output);
}

/// The folders belong to one cluster, and the mirror is connected to another one.
fn another_cluster_is_refused(mirror: &mut Mirror, name: &str, output: &Output) {
    let Some(other) = kube::shared() else {
        return;
    };
    mirror.signal(Signal::TERM);
    assert!(mirror.wait().success());
    let mut command = Mirror::command(other, &[name], &output.path());
    let ended = command.arg("--once").output().unwrap();
    let log = String::from_utf8_lossy(&ended.stderr).into_owned();
    assert_eq!(ended.status.code(), Some(2), "{log}");
    assert!(log.contains("folders belong to another cluster"), "{log}");
    assert_eq!(output.names(), ["a", "c", "d"]);
    // If the change is allowed, the folders are like any others without a Secret.
    let ended = command.arg("--allow-cluster-change").output().unwrap();
    assert_eq!(ended.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&ended.stderr).contains("held back"));
    assert_eq!(output.names(), ["a", "c", "d"]);
}

fn apply(cluster: &ControlPlane, namespace: &str, secrets: &[(&str, &[(&str, &str)])]) {
    let folder = tempfile::tempdir().unwrap();
    for (name, data) in secrets {
        let file = folder.path().join(format!("{name}.json"));
        fs::write(file, secret(name, "Opaque", data).to_string()).unwrap();
    }
    let mut command = cluster.kubectl();
    command
        .args(["-n", namespace, "apply", "-f"])
        .arg(folder.path());
    kube::run(&mut command);
}

#[test]
fn without_a_cluster_the_mirror_waits_and_stops_immediately_on_request() {
    let output = Output::new();
    let mut command = Mirror::without_access(&["a"], &output.path());
    // Nothing listens there.
    command.args(["--server", "http://127.0.0.1:9"]);
    let mut mirror = Mirror::spawn(&mut command);
    mirror.wait_for_line(&["WARN", "network", "the folders stay as they are"]);
    eventually_true("three attempts", || {
        thread::sleep(Duration::from_millis(50));
        mirror.is_running()
    });
    mirror.signal(Signal::TERM);
    assert!(mirror.wait().success());
    let ended = command.arg("--once").output().unwrap();
    assert_eq!(ended.status.code(), Some(2));
}

#[test]
fn another_cluster_at_the_same_address_is_not_followed_while_the_mirror_runs() {
    let Some(programs) = require(&kube::KUBE) else {
        return;
    };
    let mut cluster = ControlPlane::start(&programs);
    let name = {
        let namespace = cluster.namespace();
        for name in ["a", "b", "c"] {
            namespace.create_generic(name, &PAIR);
        }
        namespace.name.clone()
    };
    let output = Output::new();
    let mirror = Mirror::spawn(&mut watching(&cluster, &name, &output));
    output.wait_for(&["a", "b", "c"]);
    cluster.replace(&name);
    apply(&cluster, &name, &[("a", &OTHER), ("new", &PAIR)]);
    let line = mirror.wait_for_line(&["WARN", "folders belong to another cluster"]);
    // The uids of both clusters are known, so they are compared.
    assert!(
        line.contains("its uid is ") && line.contains("another_cluster"),
        "{line}"
    );
    let ready = ask(&output.socket(), "/readyz");
    assert!(ready.contains("belong to another cluster"), "{ready}");
    assert!(output.holds("a", &PAIR));
    assert_eq!(output.names(), ["a", "b", "c"]);
    drop(mirror);

    // A new process does not follow it either. If that is allowed once, it is the cluster of the folders, including
    // those that are held.
    let ended = once(&cluster, &[&name], &output, &[]);
    assert_eq!(ended.status.code(), Some(2));
    let ended = once(&cluster, &[&name], &output, &["--allow-cluster-change"]);
    assert!(
        log(&ended).contains("2 folders is held back"),
        "{}",
        log(&ended)
    );
    output.wait_for_content("a", &OTHER);
    let ended = once(&cluster, &[&name], &output, &[]);
    assert_eq!(ended.status.code(), Some(1), "{}", log(&ended));
    assert!(
        log(&ended).contains("2 folders is held back"),
        "{}",
        log(&ended)
    );
    for folder in ["a", "b", "c", "new"] {
        let uid = &output.manifest(folder)["cluster"]["uid"];
        assert_eq!(*uid, output.manifest("new")["cluster"]["uid"], "{folder}");
        assert!(uid.is_string());
    }
}

#[test]
fn a_new_ca_of_the_same_cluster_needs_no_intervention() {
    let Some(programs) = require(&kube::KUBE) else {
        return;
    };
    let mut cluster = ControlPlane::start(&programs);
    let name = {
        let namespace = cluster.namespace();
        for name in ["a", "b"] {
            namespace.create_generic(name, &PAIR);
        }
        namespace.name.clone()
    };
    let output = Output::new();
    let mirror = Mirror::spawn(&mut watching(&cluster, &name, &output));
    output.wait_for(&["a", "b"]);
    let ca = |folder: &str| output.manifest(folder)["cluster"]["ca"].clone();
    let before = ca("a");
    cluster.replace_ca();
    mirror.wait_for_line(&["reading address and credentials of the cluster again"]);
    apply(&cluster, &name, &[("a", &OTHER)]);
    output.wait_for_content("a", &OTHER);
    eventually_true("the new CA in all manifests", || {
        ["a", "b"].iter().all(|folder| ca(folder) != before)
    });
    drop(mirror);
    let ended = once(&cluster, &[&name], &output, &[]);
    assert!(ended.status.success(), "{}", log(&ended));
}
