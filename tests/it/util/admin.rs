//! Requests to the agent's admin socket and port, like those of `curl`.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::os::unix::net::UnixStream;
use std::path::Path;

use serde_json::Value;

use super::wait::{BOUND, eventually};

/// A response: its head, and its body.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) status: u16,
    pub(crate) head: String,
    pub(crate) body: String,
}

/// Requests `path` on the admin socket, with a new connection.
#[track_caller]
pub(crate) fn get(socket: &Path, path: &str) -> Answer {
    let stream = eventually("a connection to the admin socket", || {
        UnixStream::connect(socket).ok()
    });
    stream.set_read_timeout(Some(BOUND)).unwrap();
    exchange(
        stream,
        &format!("GET {path} HTTP/1.1\r\nHost: localhost\r\n\r\n"),
    )
}

/// Sends a request to the admin port, unchanged.
#[track_caller]
pub(crate) fn send(address: SocketAddr, request: &str) -> Answer {
    let stream = eventually("a connection to the admin port", || {
        TcpStream::connect(address).ok()
    });
    stream.set_read_timeout(Some(BOUND)).unwrap();
    exchange(stream, request)
}

fn exchange(mut stream: impl Read + Write, request: &str) -> Answer {
    stream.write_all(request.as_bytes()).unwrap();
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).unwrap();
    let answer = String::from_utf8(answer).unwrap();
    let (head, body) = answer.split_once("\r\n\r\n").unwrap();
    Answer {
        status: head.split(' ').nth(1).unwrap().parse().unwrap(),
        head: head.to_owned(),
        body: body.to_owned(),
    }
}

/// The state, as JSON.
#[track_caller]
pub(crate) fn status(socket: &Path) -> Value {
    let answer = get(socket, "/status");
    assert_eq!(answer.status, 200, "{answer:?}");
    serde_json::from_str(&answer.body).unwrap()
}

/// Waits for a secret in the state for which `good` holds, and returns it with the fields of its credential.
#[track_caller]
pub(crate) fn secret(socket: &Path, name: &str, good: impl Fn(&Value) -> bool) -> Value {
    let mut last = Value::Null;
    let found = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
        eventually(&format!("the state of {name}"), || {
            last = status(socket);
            let secret = secrets(&last).find(|secret| secret["name"] == name)?;
            good(&secret).then_some(secret)
        })
    }));
    found.unwrap_or_else(|_| panic!("this state of {name} was not waited for: {last:#}"))
}

/// All secrets of a state, each with the fields of its credential added, and those of its first certificate.
pub(crate) fn secrets(status: &Value) -> impl Iterator<Item = Value> + '_ {
    let credentials = status["credentials"].as_array().unwrap().iter();
    credentials.flat_map(|credential| {
        let secrets = credential["secrets"].as_array().unwrap().iter();
        secrets.map(move |secret| {
            let mut all = credential.as_object().unwrap().clone();
            all.insert("credential".into(), credential["name"].clone());
            all.remove("secrets");
            let leaf = secret["certificates"].get(0).and_then(Value::as_object);
            all.extend(leaf.cloned().unwrap_or_default());
            all.extend(secret.as_object().unwrap().clone());
            Value::Object(all)
        })
    })
}

/// The value of a metric: its name with its labels, as the text has it.
#[track_caller]
pub(crate) fn metric(socket: &Path, series: &str) -> Option<f64> {
    let text = get(socket, "/metrics").body;
    let line = text
        .lines()
        .find_map(|line| line.strip_prefix(series)?.strip_prefix(' '));
    line.map(|value| value.parse().unwrap())
}

/// Waits until a metric has a value for which `good` holds.
#[track_caller]
pub(crate) fn metric_becomes(socket: &Path, series: &str, good: impl Fn(f64) -> bool) -> f64 {
    eventually(&format!("the metric {series}"), || {
        metric(socket, series).filter(|value| good(*value))
    })
}

/// A loopback address with a free port.
pub(crate) fn free_address() -> SocketAddr {
    let listener = TcpListener::bind(("127.0.0.1", 0)).unwrap();
    listener.local_addr().unwrap()
}
