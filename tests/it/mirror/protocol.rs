//! Responses of a broken, overloaded or hostile server, which a real one can't be made to send.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use serde_json::{Value, json};

use super::{Output, PAIR};
use crate::util::http_server::{Answer, HttpServer};
use crate::util::kube::{Mirror, secret};
use crate::util::{Ca, eventually_true};

fn mirror(server: &HttpServer, output: &Output) -> Mirror {
    let ca = output.beside("ca.crt");
    if !ca.exists() {
        std::fs::write(&ca, Ca::new("CA").pem()).unwrap();
    }
    let mut command = Mirror::without_access(&["n"], &output.path());
    command.arg("--server").arg(server.url());
    command.arg("--ca-file").arg(ca);
    Mirror::spawn(&mut command)
}

pub(super) fn object(name: &str, data: &[(&str, &str)]) -> Value {
    let mut object = secret(name, "Opaque", data);
    object["metadata"]["namespace"] = "n".into();
    object["metadata"]["uid"] = format!("uid of {name}").into();
    object["metadata"]["resourceVersion"] = "7".into();
    object
}

pub(super) fn list(items: &[Value], next: Option<&str>) -> Answer {
    let metadata = json!({"resourceVersion": "7", "continue": next.unwrap_or_default()});
    Answer::Json(
        200,
        json!({"apiVersion": "v1", "kind": "SecretList", "metadata": metadata, "items": items}),
    )
}

pub(super) fn failure(code: u16) -> Answer {
    Answer::Json(
        code,
        json!({"apiVersion": "v1", "kind": "Status", "status": "Failure", "code": code, "message": "so it is"}),
    )
}

/// Whether this asks for Secrets, and whether it is a watch.
pub(super) fn is_list(path: &str) -> bool {
    path.contains("/secrets?") && !is_watch(path)
}

pub(super) fn is_watch(path: &str) -> bool {
    path.contains("watch=true") || path.contains("watch=1")
}

#[test]
fn hostile_names_and_keys_stay_out_of_the_file_system() {
    let output = Output::new();
    let long = "k".repeat(300);
    let bad_keys = [
        PAIR[0],
        PAIR[1],
        ("../../escaped", "E"),
        ("a/b", "E"),
        ("..data", "E"),
        (&long, "E"),
    ];
    let items = [
        object("../escaped", &PAIR),
        object("a/b", &PAIR),
        object("..", &PAIR),
        object(".hidden", &PAIR),
        object("", &PAIR),
        object("line\nbreak", &PAIR),
        object(&"n".repeat(254), &PAIR),
        object("good", &bad_keys),
    ];
    let server = HttpServer::start(move |path| match path {
        path if is_list(path) => list(&items, None),
        path if is_watch(path) => Answer::Silence,
        _ => failure(403),
    });
    let mirror = mirror(&server, &output);
    output.wait_for(&["good"]);
    assert!(output.holds("good", &PAIR));
    for (secret, why) in [
        ("n/../escaped", "path separator"),
        ("n/a/b", "path separator"),
        ("n/.hidden", "begins with a dot"),
        ("n/line\\nbreak", "control characters"),
        (
            "n/good",
            "the key \\\"../../escaped\\\" has a path separator",
        ),
        ("n/good", "longer than 253 bytes"),
    ] {
        let why = why.replace("\\\"", "\"");
        mirror.wait_for_line(&["ERROR", secret, &why]);
    }
    let beside = std::fs::read_dir(output.beside("")).unwrap();
    let mut beside: Vec<_> = beside.map(|entry| entry.unwrap().file_name()).collect();
    beside.sort();
    assert_eq!(beside, ["ca.crt", "credentials"]);
}

#[test]
fn a_partial_list_removes_nothing() {
    let output = Output::new();
    let whole = Arc::new(AtomicBool::new(true));
    let is_whole = Arc::clone(&whole);
    let server = HttpServer::start(move |path| match path {
        path if is_watch(path) => Answer::Silence,
        path if is_list(path) && path.contains("continue=") => {
            if is_whole.load(Ordering::Relaxed) {
                list(&[object("second", &PAIR)], None)
            } else {
                failure(500)
            }
        }
        path if is_list(path) => list(&[object("first", &PAIR)], Some("more")),
        _ => failure(403),
    });
    let first = mirror(&server, &output);
    output.wait_for(&["first", "second"]);
    drop(first);
    whole.store(false, Ordering::Relaxed);
    let second = mirror(&server, &output);
    second.wait_for_line(&["WARN", "so it is (500)"]);
    eventually_true("another try", || server.count("continue=") >= 3);
    assert_eq!(output.names(), ["first", "second"]);
    whole.store(true, Ordering::Relaxed);
    second.wait_for_line(&["listed", "objects=2"]);
    assert_eq!(output.names(), ["first", "second"]);
}

#[test]
fn a_watch_refused_as_too_old_restarts_with_a_list() {
    let output = Output::new();
    let watches = AtomicUsize::new(0);
    let server = HttpServer::start(move |path| match path {
        path if is_watch(path) && watches.fetch_add(1, Ordering::Relaxed) == 0 => failure(410),
        path if is_watch(path) => Answer::Silence,
        path if is_list(path) => list(&[object("a", &PAIR)], None),
        _ => failure(403),
    });
    let mirror = mirror(&server, &output);
    mirror.wait_for_line(&["WARN", "gone", "a new list follows"]);
    eventually_true("the second watch", || server.count("watch=") == 2);
    assert_eq!(mirror.lines_with(&["listed"]).len(), 2);
}

#[test]
fn watches_that_end_immediately_restart_after_a_pause_and_without_a_list() {
    let output = Output::new();
    let server = HttpServer::start(|path| match path {
        path if is_watch(path) => Answer::Nothing,
        path if is_list(path) => list(&[object("a", &PAIR)], None),
        _ => failure(403),
    });
    let _mirror = mirror(&server, &output);
    eventually_true("a burst of watches", || server.count("watch=") >= 10);
    std::thread::sleep(Duration::from_secs(3));
    let watches = server.count("watch=");
    assert!(watches < 40, "{watches} watches");
    assert_eq!(server.count("limit="), 1, "one list");
}

#[test]
fn an_overloaded_server_gets_the_pause_that_it_requests() {
    let output = Output::new();
    let lists = AtomicUsize::new(0);
    let server = HttpServer::start(move |path| match path {
        path if is_watch(path) => Answer::Silence,
        path if is_list(path) && lists.fetch_add(1, Ordering::Relaxed) == 0 => Answer::Json(
            429,
            json!({"apiVersion": "v1", "kind": "Status", "status": "Failure", "code": 429,
                "message": "too many requests", "details": {"retryAfterSeconds": 2}}),
        ),
        path if is_list(path) => list(&[object("a", &PAIR)], None),
        _ => failure(403),
    });
    let mirror = mirror(&server, &output);
    mirror.wait_for_line(&["WARN", "throttled", "next_try_in=2s"]);
    output.wait_for(&["a"]);
}
