//! Private keys and tokens are never in the log, whatever fails, at any level.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use serde_json::json;

use super::protocol::{failure, is_list, is_watch, list, object};
use super::{Output, PAIR, bench};
use crate::util::http_server::{Answer, HttpServer};
use crate::util::kube::{self, Mirror, base64};
use crate::util::{Ca, eventually_true};

/// Pieces of the key, plain and as sent.
fn secrets() -> [String; 3] {
    let key = PAIR[1].1;
    let body = key.lines().nth(1).unwrap();
    let encoded = base64(key.as_bytes());
    [
        body[..20].to_owned(),
        encoded[..40].to_owned(),
        encoded[60..100].to_owned(),
    ]
}

fn command(server: &HttpServer, output: &Output) -> Command {
    let ca = output.beside("ca.crt");
    fs::write(&ca, Ca::new("CA").pem()).unwrap();
    let mut command = Mirror::without_access(&["n"], &output.path());
    command.arg("--server").arg(server.url());
    command
        .arg("--ca-file")
        .arg(ca)
        .args(["--log-level", "trace"]);
    command
}

#[track_caller]
fn assert_silent(mirror: &Mirror) {
    for line in mirror.lines() {
        for secret in secrets() {
            assert!(!line.contains(&secret), "{line}");
        }
    }
}

/// Lists and events that can't be parsed and contain the key in various places.
fn broken() -> Vec<Answer> {
    let Answer::Json(_, whole) = list(&[object("a", &PAIR)], None) else {
        unreachable!()
    };
    let whole = whole.to_string();
    let key = base64(PAIR[1].1.as_bytes());
    let as_data = |data: serde_json::Value| {
        let mut object = object("a", &PAIR);
        object["data"] = data;
        list(&[object], None)
    };
    vec![
        Answer::Text(200, whole[..whole.len() - 3].to_owned()),
        Answer::Text(200, whole[..whole.len() / 2].to_owned()),
        Answer::Text(200, format!("{whole}}}")),
        as_data(json!(key)),
        as_data(json!({"key": [key]})),
        as_data(json!({"key": PAIR[1].1})),
        as_data(json!({"key": format!("!{key}")})),
        Answer::Json(
            200,
            json!({"kind": "SecretList", "metadata": key, "items": []}),
        ),
        Answer::Json(200, json!(key)),
        Answer::Json(500, json!({"items": [object("a", &PAIR)]})),
        Answer::Text(502, PAIR[1].1.to_owned()),
        Answer::Text(404, key),
    ]
}

#[test]
fn a_list_that_can_not_be_parsed_is_not_logged_at_any_level() {
    for number in 0..broken().len() {
        let output = Output::new();
        let server = HttpServer::start(move |path| match path {
            path if is_watch(path) => Answer::Silence,
            path if is_list(path) => broken().swap_remove(number),
            _ => failure(403),
        });
        let mirror = Mirror::spawn(&mut command(&server, &output));
        mirror.wait_for_line(&["WARN", "kind="]);
        assert_silent(&mirror);
        assert!(output.names().is_empty());
    }
}

#[test]
fn an_event_that_can_not_be_parsed_is_not_logged_at_any_level() {
    let events = [
        json!({"type": "ADDED", "object": {"kind": "Secret", "data": base64(PAIR[1].1.as_bytes())}}),
        json!({"type": base64(PAIR[1].1.as_bytes()), "object": object("a", &PAIR)}),
        json!([base64(PAIR[1].1.as_bytes())]),
    ];
    for event in events {
        let output = Output::new();
        let watches = Arc::new(AtomicUsize::new(0));
        let seen = Arc::clone(&watches);
        let server = HttpServer::start(move |path| match path {
            path if is_watch(path) => {
                watches.fetch_add(1, Ordering::Relaxed);
                Answer::Text(200, format!("{event}\n"))
            }
            path if is_list(path) => list(&[object("a", &PAIR)], None),
            _ => failure(403),
        });
        let mirror = Mirror::spawn(&mut command(&server, &output));
        eventually_true("two watches", || seen.load(Ordering::Relaxed) >= 2);
        assert_silent(&mirror);
    }
}

#[test]
fn successful_responses_are_not_logged_either() {
    let output = Output::new();
    let server = HttpServer::start(move |path| match path {
        path if is_watch(path) => Answer::Silence,
        path if is_list(path) => list(&[object("a", &PAIR)], None),
        _ => failure(403),
    });
    let mirror = Mirror::spawn(&mut command(&server, &output));
    output.wait_for_content("a", &PAIR);
    assert_silent(&mirror);
}

/// A kubeconfig whose credential plugin is this shell script.
fn with_plugin(cluster: &kube::ControlPlane, output: &Output, script: &str) -> std::path::PathBuf {
    let plugin = output.beside("plugin");
    fs::write(
        &plugin,
        format!(
            "#!/bin/sh\necho run >>{:?}\n{script}",
            output.beside("runs")
        ),
    )
    .unwrap();
    fs::set_permissions(&plugin, fs::Permissions::from_mode(0o700)).unwrap();
    let exec = json!({"exec": {
        "apiVersion": "client.authentication.k8s.io/v1",
        "command": plugin,
        "interactiveMode": "IfAvailable",
    }});
    let kubeconfig = output.beside("kubeconfig");
    fs::write(&kubeconfig, cluster.kubeconfig_with(&exec)).unwrap();
    kubeconfig
}

fn runs(output: &Output) -> usize {
    let text = fs::read_to_string(output.beside("runs")).unwrap_or_default();
    text.lines().count()
}

#[test]
fn the_output_of_a_plugin_is_not_logged() {
    let Some(cluster) = kube::shared() else {
        return;
    };
    for script in [
        "echo secret-token; echo secret-token >&2; exit 3",
        "echo '{\"status\": \"secret-token\"}'; echo secret-token >&2",
        "echo '{\"status\": {\"token\": \"secret-token'",
        "echo '{\"status\": {\"token\": \"secret-token\", \"expirationTimestamp\": \"secret-token\"}}'",
        "echo '{\"status\": {\"token\": \"secret-token\"}}'",
    ] {
        let output = Output::new();
        let kubeconfig = with_plugin(cluster, &output, script);
        let mut command = Mirror::without_access(&["n"], &output.path());
        command
            .arg("--kubeconfig")
            .arg(kubeconfig)
            .args(["--log-level", "trace", "--once"]);
        let ended = command.output().unwrap();
        let log = super::log(&ended);
        assert_eq!(ended.status.code(), Some(2), "{log}");
        assert!(!log.contains("secret-token"), "{log}");
        assert!(log.contains("plugin") || log.contains("(401)"), "{log}");
    }
}

#[test]
fn a_plugin_runs_once_for_as_long_as_its_token_lasts() {
    let Some((cluster, namespace, output)) = bench() else {
        return;
    };
    for account in [
        "create serviceaccount m",
        "create rolebinding m --clusterrole=view --serviceaccount=NS:m",
    ] {
        let account = account.replace("NS", &namespace.name);
        namespace.kubectl(&account.split(' ').collect::<Vec<_>>());
    }
    namespace.kubectl(&[
        "create",
        "role",
        "m",
        "--verb=get,list,watch",
        "--resource=secrets",
    ]);
    let subject = format!("--serviceaccount={}:m", namespace.name);
    namespace.kubectl(&["create", "rolebinding", "secrets", "--role=m", &subject]);
    let token = namespace.kubectl(&["create", "token", "m"]);
    let script = format!(
        "echo '{{\"status\": {{\"token\": \"{}\", \"expirationTimestamp\": \"2100-01-01T00:00:00Z\"}}}}'",
        token.trim()
    );
    namespace.create_generic("a", &PAIR);
    let kubeconfig = with_plugin(cluster, &output, &script);
    let mut command = Mirror::without_access(&[&namespace.name], &output.path());
    command.arg("--kubeconfig").arg(&kubeconfig);
    let mirror = Mirror::spawn(&mut command);
    output.wait_for_content("a", &PAIR);
    // Read again, with the same plugin in it.
    let text = fs::read_to_string(&kubeconfig).unwrap();
    fs::write(&kubeconfig, format!("{text}\n")).unwrap();
    mirror.wait_for_line(&["reading address and credentials of the cluster again"]);
    namespace.create_generic("b", &PAIR);
    output.wait_for(&["a", "b"]);
    assert_eq!(runs(&output), 1);
}
