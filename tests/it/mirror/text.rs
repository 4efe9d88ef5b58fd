//! Text from a cluster, a kubeconfig or a writer of the output folder can't forge a log line or control a terminal,
//! in any output.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output as Ended};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use sds_agent::text::escape_json;
use serde_json::{Value, json};

use super::health::ask;
use super::protocol::{is_list, is_watch, list, object};
use super::{Output, PAIR, asking, log};
use crate::hostile::text::{HOSTILE, assert_harmless, is_hostile};
use crate::util::eventually_true;
use crate::util::http_server::{Answer, HttpServer};
use crate::util::kube::{Mirror, PROGRAM};

/// Objects with a hostile name, namespace, annotation, key, content, type and version.
fn objects() -> Vec<Value> {
    let with = |name: &str, change: &dyn Fn(&mut Value)| {
        let mut object = object(name, &PAIR);
        change(&mut object);
        object
    };
    vec![
        object(HOSTILE, &PAIR),
        with("namespace", &|object| {
            object["metadata"]["namespace"] = HOSTILE.into();
        }),
        with("annotation", &|object| {
            object["metadata"]["annotations"] = json!({"sds-agent/folder": HOSTILE});
        }),
        object("keys", &[PAIR[0], PAIR[1], (HOSTILE, "text")]),
        object("content", &[(PAIR[0].0, HOSTILE), PAIR[1]]),
        with("type", &|object| object["type"] = HOSTILE.into()),
        with("version", &|object| {
            object["metadata"]["resourceVersion"] = HOSTILE.into();
            object["metadata"]["uid"] = HOSTILE.into();
        }),
        object("good", &PAIR),
    ]
}

fn failure(code: u16) -> Answer {
    let status = json!({"apiVersion": "v1", "kind": "Status", "status": "Failure", "code": code,
        "reason": HOSTILE, "message": HOSTILE});
    Answer::Json(code, status)
}

/// Refuses the first list and the first watch with hostile text; the next watch ends with an error.
fn hostile_server() -> HttpServer {
    let (lists, watches) = (AtomicUsize::new(0), AtomicUsize::new(0));
    let next = |count: &AtomicUsize| count.fetch_add(1, Ordering::Relaxed);
    HttpServer::start(move |path| match path {
        path if is_list(path) && next(&lists) == 0 => failure(500),
        path if is_list(path) => list(&objects(), None),
        path if is_watch(path) => match next(&watches) {
            0 => failure(500),
            1 => {
                let status =
                    json!({"kind": "Status", "code": 500, "message": HOSTILE, "reason": HOSTILE});
                let event = json!({"type": "ERROR", "object": status});
                Answer::Text(200, format!("{event}\n"))
            }
            _ => Answer::Silence,
        },
        _ => failure(403),
    })
}

/// A kubeconfig whose every name is hostile.
fn kubeconfig(output: &Output, name: &str, url: &str) -> PathBuf {
    let config = json!({
        "apiVersion": "v1", "kind": "Config", "current-context": HOSTILE,
        "clusters": [{"name": HOSTILE, "cluster": {"server": url}}],
        "users": [{"name": HOSTILE, "user": {"token": "t"}}],
        "contexts": [{"name": HOSTILE, "context":
            {"cluster": HOSTILE, "user": HOSTILE, "namespace": HOSTILE}}],
    });
    write(output, name, &config)
}

fn write(output: &Output, name: &str, config: &Value) -> PathBuf {
    let path = output.beside(name);
    // YAML allows hostile characters only as escapes.
    fs::write(&path, escape_json(&config.to_string())).unwrap();
    path
}

fn mirror(output: &Output, kubeconfig: &Path) -> Command {
    let mut command = Mirror::without_access(&["n"], &output.path());
    command.arg("--kubeconfig").arg(kubeconfig);
    command.args(["--log-level", "trace"]);
    command
}

/// Asserts that the output of a command is harmless, and returns it.
#[track_caller]
fn printed(what: &str, ended: &Ended) -> String {
    let stdout = String::from_utf8_lossy(&ended.stdout).into_owned();
    assert_harmless(what, &stdout);
    assert_harmless(what, &log(ended));
    stdout + &log(ended)
}

#[test]
fn text_from_a_cluster_cannot_forge_log_lines_or_control_a_terminal() {
    let output = Output::new();
    // Not made by the mirror.
    fs::create_dir_all(output.folder(HOSTILE)).unwrap();
    let server = Arc::new(hostile_server());
    let kubeconfig = kubeconfig(&output, "kubeconfig", &server.url());
    let mut command = mirror(&output, &kubeconfig);
    command
        .args(["--events", "--configmaps", ""])
        .arg("--admin-socket")
        .arg(output.socket());
    let mirror = Mirror::spawn(&mut command);
    mirror.wait_for_line(&["made", "good"]);
    eventually_true("the third watch", || server.count("watch=") >= 3);
    eventually_true("a report of what is refused", || {
        server.count("/events") > 0
    });
    eventually_true("a word on the content", || {
        ask(&output.socket(), "/readyz").contains("n/content")
    });

    let status = asking(&output, &["status"]);
    let table = printed("status", &status);
    for name in ["annotation", "content", "good", "version"] {
        assert!(table.contains(name), "{table}");
    }
    assert!(table.contains("FORGED"), "{table}");
    let json = printed(
        "status as JSON",
        &asking(&output, &["status", "-o", "json"]),
    );
    let state: Value = serde_json::from_str(&json).unwrap();
    assert!(state.to_string().contains("FORGED"));
    printed("release", &asking(&output, &["release", HOSTILE]));
    for page in ["/readyz", "/metrics", "/livez"] {
        let answer = ask(&output.socket(), page).replace("\r\n", "\n");
        assert_harmless(page, &answer);
    }
    let (_, body) = ask(&output.socket(), "/status")
        .split_once("\r\n\r\n")
        .map(|(head, body)| (head.to_owned(), body.to_owned()))
        .unwrap();
    assert!(!body.contains(is_hostile), "{body}");
    for line in mirror.lines() {
        assert_harmless("the log", &line);
        assert!(line.starts_with("20"), "no line of the mirror: {line:?}");
    }
    assert!(mirror.lines().iter().any(|line| line.contains("FORGED")));
}

#[test]
fn a_single_pass_escapes_hostile_text() {
    let output = Output::new();
    let server = HttpServer::start(|path| match path {
        path if is_list(path) => list(&objects(), None),
        _ => failure(403),
    });
    let good = kubeconfig(&output, "kubeconfig", &server.url());
    for pass in ["--dry-run", "--once"] {
        let ended = mirror(&output, &good).arg(pass).output().unwrap();
        let text = printed(pass, &ended);
        assert!(text.contains("FORGED") && text.contains("good"), "{text}");
    }

    // Kubeconfigs that can't be used, each for a reason that has the text in it.
    let user = |user: Value| {
        let mut config: Value = serde_json::from_slice(
            &fs::read(kubeconfig(&output, "plain", "http://127.0.0.1:1")).unwrap(),
        )
        .unwrap();
        config["users"][0]["user"] = user;
        config
    };
    let exec = json!({"apiVersion": "client.authentication.k8s.io/v1", "command": HOSTILE,
        "installHint": HOSTILE, "interactiveMode": "Never"});
    let mut cases = vec![
        user(json!({"exec": exec})),
        user(json!({"tokenFile": HOSTILE})),
        user(json!({"client-certificate": HOSTILE, "client-key": HOSTILE})),
        user(json!({"auth-provider": {"name": HOSTILE}})),
        user(json!({"client-key-data": HOSTILE})),
        json!({"kind": HOSTILE, "clusters": HOSTILE}),
        json!({"current-context": HOSTILE, "clusters": [], "contexts": []}),
    ];
    for (of, key, value) in [
        ("cluster", "server", HOSTILE),
        ("cluster", "certificate-authority", HOSTILE),
        ("cluster", "proxy-url", HOSTILE),
        ("context", "cluster", "x\nFORGED"),
    ] {
        let mut config = user(json!({}));
        config[format!("{of}s")][0][of][key] = value.into();
        cases.push(config);
    }
    for (number, config) in cases.iter().enumerate() {
        let path = write(&output, &format!("bad-{number}"), config);
        let ended = mirror(&output, &path).arg("--once").output().unwrap();
        assert_ne!(ended.status.code(), Some(0), "{config}");
        printed(&config.to_string(), &ended);
    }
    for arguments in [
        &["--namespace", HOSTILE][..],
        &["--namespace", "n", "--context", HOSTILE],
        &["--namespace", "n", "--selector", HOSTILE],
        &["--namespace", "n", "--name-template", HOSTILE],
        &["--gateway", HOSTILE],
        &["--config", HOSTILE],
    ] {
        let mut command = Command::new(PROGRAM);
        command.args(arguments).arg("--kubeconfig").arg(&good);
        command.arg("--output").arg(output.path()).arg("--once");
        let ended = command.output().unwrap();
        assert_ne!(ended.status.code(), Some(0), "{arguments:?}");
        printed(&format!("{arguments:?}"), &ended);
    }
}
