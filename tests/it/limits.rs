//! Each limit at its edge: what is allowed is served, the first thing beyond it is refused, and other clients are
//! not affected.

use std::fs;
use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;

use prost::Message;
use sds_agent::proto::SECRET_TYPE_URL;
use sds_agent::proto::core::Node;
use sds_agent::proto::discovery::DiscoveryRequest;
use tonic::Code;

use crate::util::{Agent, BOUND, Bed, Identity, Sds, eventually};

/// An agent with these limits, on a bed with one pair, `site`.
fn start(limits: &str) -> (Bed, Agent, Identity) {
    let bed = Bed::new();
    let site = bed.pair("site");
    let config = bed.scratch("sds-agent.toml");
    fs::write(&config, format!("[limits]\n{limits}\n")).unwrap();
    let agent = bed.builder().arg("--config").arg(&config);
    let agent = agent.start_without_waiting();
    agent.wait_for_line(&["serving"]);
    (bed, agent, site)
}

#[track_caller]
fn assert_serves_site(client: &Sds) {
    let mut stream = client.delta();
    stream.subscribe(&["site"]);
    stream.secret();
}

fn request(names: &[&str]) -> DiscoveryRequest {
    DiscoveryRequest {
        resource_names: names.iter().map(|name| (*name).to_owned()).collect(),
        type_url: SECRET_TYPE_URL.into(),
        ..DiscoveryRequest::default()
    }
}

/// Waits until the metrics report that the limit was reached.
#[track_caller]
fn assert_counted(bed: &Bed, limit: &str) {
    let counter = format!("sds_agent_limit_reached_total{{limit=\"{limit}\"}} ");
    eventually(&format!("a count of {limit}"), || {
        let mut admin = UnixStream::connect(bed.socket().with_file_name("admin.sock")).unwrap();
        let request = b"GET /metrics HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n";
        admin.write_all(request).unwrap();
        let mut page = String::new();
        admin.read_to_string(&mut page).unwrap();
        let line = page.lines().find_map(|line| line.strip_prefix(&counter))?;
        (line.parse::<u64>().unwrap() > 0).then_some(())
    });
}

/// Whether the agent ends the connection.
fn is_refused(socket: &Path) -> bool {
    let mut connection = UnixStream::connect(socket).unwrap();
    connection.set_read_timeout(Some(BOUND)).unwrap();
    let preface = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0";
    let _ = connection.write_all(preface);
    !matches!(connection.read(&mut [0; 1]), Ok(1))
}

#[test]
fn connections() {
    let (bed, agent, _) = start("connections = 2");
    let (first, second) = (bed.client(), bed.client());
    assert_serves_site(&first);
    assert_serves_site(&second);
    assert!(is_refused(&bed.socket()));
    agent.wait_for_line(&["limits.connections"]);
    assert_serves_site(&first);
    // A slot that is free again can be used again.
    drop(second);
    eventually("a free place", || {
        bed.client().fetch(request(&["site"])).ok()
    });
    assert_counted(&bed, "connections");
}

#[test]
fn streams_per_connection() {
    let (bed, agent, _) = start("streams_per_connection = 2");
    let client = bed.client();
    let mut streams = [client.delta(), client.delta()];
    for stream in &mut streams {
        stream.subscribe(&["site"]);
        stream.secret();
    }
    let mut third = client.delta();
    third.subscribe(&["site"]);
    third.0.assert_silent();
    agent.wait_for_line(&["limits.streams_per_connection"]);
    // Another connection has its own streams, and the third stream waits until another one ends.
    assert_serves_site(&bed.client());
    drop(streams);
    third.secret();
    assert_counted(&bed, "streams_per_connection");
}

#[test]
fn names_per_stream() {
    let (bed, agent, _) = start("names_per_stream = 3");
    let client = bed.client();
    let mut delta = client.delta();
    delta.subscribe(&["site", "a", "b"]);
    delta.changes();
    delta.unsubscribe(&["b"]);
    delta.subscribe(&["c"]);
    assert_eq!(delta.removed(), ["c"]);
    delta.subscribe(&["d"]);
    assert_eq!(delta.0.end(), Code::ResourceExhausted);

    let mut sotw = client.sotw();
    sotw.subscribe(&["site", "a", "b"]);
    sotw.secret();
    sotw.subscribe(&["site", "a", "b", "c"]);
    assert_eq!(sotw.stream.end(), Code::ResourceExhausted);

    client.fetch(request(&["site", "a", "b"])).unwrap();
    let refused = client.fetch(request(&["site", "a", "b", "c"]));
    let refused = refused.unwrap_err();
    assert_eq!(refused.code(), Code::ResourceExhausted);
    agent.wait_for_line(&["stream ended", "3"]);
    assert_serves_site(&client);
    assert_counted(&bed, "names_per_stream");
}

#[test]
fn request_bytes() {
    const LIMIT: usize = 65_536;
    let (bed, agent, _) = start(&format!("request_bytes = {LIMIT}"));
    let client = bed.client();
    let request = |length: usize| {
        let mut request = request(&["site"]);
        request.node = Some(Node::default());
        // The node's id fills the rest; its length takes three bytes, as does the node's.
        let id = length - request.encoded_len() - 1 - 3 - 2;
        request.node = Some(Node {
            id: "n".repeat(id),
            ..Node::default()
        });
        assert_eq!(request.encoded_len(), length);
        request
    };
    client.fetch(request(LIMIT)).unwrap();
    let refused = client.fetch(request(LIMIT + 1)).unwrap_err();
    assert_eq!(refused.code(), Code::ResourceExhausted);

    let mut stream = client.sotw();
    stream.stream.send(request(LIMIT));
    stream.secret();
    stream.stream.send(request(LIMIT + 1));
    assert_eq!(stream.stream.end(), Code::ResourceExhausted);
    agent.wait_for_line(&["stream ended", "larger than"]);
    assert_serves_site(&client);
    assert_counted(&bed, "request_bytes");
}

#[test]
fn files() {
    let (bed, agent, site) = start("files = 3");
    let files = [("cert", &*site.chain), ("key", &*site.key), ("note", "1")];
    bed.root.write("three", &files);
    agent.wait_for_line(&["loaded", "three"]);
    // Files that are not part of a credential do not count.
    bed.root.write("three", &[("note-2", "2"), ("note-3", "3")]);
    bed.root.write("four", &[("ca.crt", "3"), ("ca.crl", "4")]);
    bed.root.write("four", &files);
    agent.wait_for_line(&["four", "3"]);
    let mut stream = bed.client().delta();
    stream.subscribe(&["three", "four"]);
    let changes = stream.changes();
    assert_eq!(changes.removed, ["four"]);
    assert_eq!(changes.secrets.len(), 1);
    assert_counted(&bed, "files");
}

#[test]
fn file_bytes() {
    const LIMIT: usize = 2_000;
    let (bed, agent, site) = start(&format!("file_bytes = {LIMIT}"));
    let padded = |length: usize| {
        let pad = length - site.chain.len() - 1;
        format!("{}{}\n", site.chain, "#".repeat(pad))
    };
    let write = |name: &str, length: usize| {
        let chain = padded(length);
        assert_eq!(chain.len(), length);
        bed.root
            .write(name, &[("key", &*site.key), ("cert", &*chain)]);
    };
    write("full", LIMIT);
    agent.wait_for_line(&["loaded", "full"]);
    write("over", LIMIT + 1);
    agent.wait_for_line(&["rejected", "over", "cert"]);
    let mut stream = bed.client().delta();
    stream.subscribe(&["full", "over"]);
    let changes = stream.changes();
    assert_eq!(changes.removed, ["over"]);
    assert_eq!(changes.secrets.len(), 1);
    assert_counted(&bed, "file_bytes");
}

#[test]
fn credentials() {
    let (bed, agent, _) = start("credentials = 2");
    bed.pair("second");
    agent.wait_for_line(&["loaded", "second"]);
    bed.pair("third");
    agent.wait_for_line(&["limit"]);
    let mut stream = bed.client().delta();
    stream.subscribe(&["site", "second", "third"]);
    let changes = stream.changes();
    assert_eq!(changes.removed, ["third"]);
    assert_eq!(changes.secrets.len(), 2);
    // Makes room for it.
    bed.root.remove("second");
    eventually_served(&mut stream);
    assert_counted(&bed, "credentials");
}

/// The third one is sent when the second is removed; the order of both messages is not defined.
fn eventually_served(stream: &mut crate::util::sds::Delta) {
    loop {
        if !stream.changes().secrets.is_empty() {
            return;
        }
    }
}
