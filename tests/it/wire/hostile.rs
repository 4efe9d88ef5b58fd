//! Hostile and faulty clients affect only their own connection or stream.

use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::time::Duration;

use rcgen::CustomExtension;
use sds_agent::proto::discovery::DiscoveryRequest;
use tonic::Code;

use crate::util::sds::{Sotw, secrets_of};
use crate::util::{Agent, BOUND, Bed, Sds, eventually_true};

/// The maximum increase of resident memory that a hostile client may cause, in KiB.
const BOUNDED_KIB: u64 = 64 * 1024;

/// A stream that must not be affected by other clients.
struct Bystander {
    bed: Bed,
    agent: Agent,
    client: Sds,
    stream: Sotw,
    resident_kib: u64,
}

impl Bystander {
    fn new() -> Self {
        let bed = Bed::new();
        bed.pair("site");
        let agent = bed.agent();
        let client = bed.client();
        let mut stream = client.sotw();
        stream.subscribe(&["site"]);
        stream.secret();
        let resident_kib = agent.resident_kib();
        Self {
            bed,
            agent,
            client,
            stream,
            resident_kib,
        }
    }

    #[track_caller]
    fn assert_untouched(&mut self) {
        self.stream.stream.assert_silent();
        let identity = self.bed.pair("site");
        let served = self.stream.secret();
        assert!(served.is_pair(&identity.chain, &identity.key));
        let grown = self.agent.resident_kib().saturating_sub(self.resident_kib);
        assert!(grown < BOUNDED_KIB, "the agent has grown by {grown} KiB");
    }
}

#[test]
fn a_request_with_100_000_names_ends_only_its_stream() {
    let mut bystander = Bystander::new();
    let names: Vec<String> = (0..100_000).map(|n| format!("name-{n}")).collect();
    let names: Vec<&str> = names.iter().map(String::as_str).collect();
    for _ in 0..5 {
        let mut stream = bystander.client.sotw();
        stream.subscribe(&names);
        assert_eq!(stream.stream.end(), Code::ResourceExhausted);
        let mut stream = bystander.client.delta();
        stream.subscribe(&names);
        assert_eq!(stream.0.end(), Code::ResourceExhausted);
    }
    bystander.assert_untouched();
}

#[test]
fn adding_names_without_limit_ends_only_that_stream() {
    let mut bystander = Bystander::new();
    let mut stream = bystander.client.delta();
    let mut ended = false;
    for round in 0..200 {
        let names: Vec<String> = (0..500).map(|n| format!("name-{round}-{n}")).collect();
        let names: Vec<&str> = names.iter().map(String::as_str).collect();
        let mut request = stream.request();
        request.resource_names_subscribe = names.iter().map(|name| (*name).into()).collect();
        if !stream.0.try_send(request) {
            ended = true;
            break;
        }
        match stream.0.recv_or_end() {
            Ok(response) => stream.ack(&response),
            Err(code) => {
                assert_eq!(code, Code::ResourceExhausted);
                ended = true;
                break;
            }
        }
    }
    assert!(ended, "100,000 names on one stream were taken");
    bystander.assert_untouched();
}

#[test]
fn a_name_of_a_mebibyte_does_not_exist_and_does_not_flood_the_log() {
    let mut bystander = Bystander::new();
    let name = "n".repeat(1024 * 1024);
    for _ in 0..5 {
        let mut stream = bystander.client.delta();
        stream.subscribe(&[&name]);
        assert_eq!(stream.removed(), [name.as_str()]);
        let mut stream = bystander.client.sotw();
        stream.subscribe(&[&name]);
        stream.stream.assert_silent();
    }
    bystander.assert_untouched();
    for line in bystander.agent.lines() {
        assert!(line.len() < 4096, "a line of {} bytes", line.len());
    }
}

#[test]
fn a_message_of_20_mebibytes_ends_only_its_stream() {
    let mut bystander = Bystander::new();
    for _ in 0..3 {
        let mut stream = bystander.client.sotw();
        stream.subscribe(&["site"]);
        let request = DiscoveryRequest {
            version_info: "v".repeat(20 << 20),
            ..DiscoveryRequest::default()
        };
        stream.stream.try_send(request);
        let code = loop {
            match stream.stream.recv_or_end() {
                Ok(_) => {}
                Err(code) => break code,
            }
        };
        assert_ne!(code, Code::Ok);
    }
    bystander.assert_untouched();
}

#[test]
fn garbage_instead_of_http_ends_only_that_connection() {
    let mut bystander = Bystander::new();
    let garbage: Vec<u8> = (0..200_000_u32).map(|n| (n * 31 % 251) as u8).collect();
    let preface = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
    let settings = [0, 0, 0, 4, 0, 0, 0, 0, 0];
    let beginnings: [&[u8]; 4] = [
        b"",
        b"GET / HTTP/1.1\r\nHost: x\r\n\r\n",
        preface,
        &[&preface[..], &settings].concat(),
    ];
    for beginning in beginnings {
        let mut connection = UnixStream::connect(bystander.bed.socket()).unwrap();
        connection.set_read_timeout(Some(BOUND)).unwrap();
        // The other end may close the connection before it has read everything.
        let _ = connection.write_all(beginning);
        let _ = connection.write_all(&garbage);
        let mut answer = Vec::new();
        let end = connection.read_to_end(&mut answer);
        assert!(
            !end.is_err_and(|error| error.kind() == std::io::ErrorKind::WouldBlock),
            "the connection stays open"
        );
    }
    bystander.assert_untouched();
}

#[test]
fn garbage_instead_of_a_message_ends_only_that_stream() {
    let mut bystander = Bystander::new();
    let right = [Code::Internal, Code::InvalidArgument];
    for _ in 0..5 {
        let code = bystander.client.garbage_message();
        assert!(right.contains(&code), "{code:?}");
    }
    bystander.assert_untouched();
}

#[test]
fn silent_connections_cost_nothing() {
    let mut bystander = Bystander::new();
    let silent: Vec<UnixStream> = (0..200)
        .map(|_| UnixStream::connect(bystander.bed.socket()).unwrap())
        .collect();
    bystander.assert_untouched();
    drop(silent);
}

#[test]
fn closed_streams_leave_nothing_behind() {
    let mut bystander = Bystander::new();
    let files = bystander.agent.open_files();
    for _ in 0..200 {
        let client = bystander.bed.client();
        let (mut sotw, mut delta) = (client.sotw(), client.delta());
        sotw.subscribe(&["site"]);
        delta.subscribe(&["site"]);
        sotw.recv();
        // One client disconnected without an answer, the other without having read anything.
    }
    // The agent may have opened a few files since; each remaining connection would be one more.
    eventually_true("the connections' end", || {
        bystander.agent.open_files() < files + 20
    });
    bystander.assert_untouched();
}

#[test]
fn a_client_that_does_not_read_delays_no_other_and_gets_the_latest_state() {
    const ROTATIONS: usize = 300;
    // In total, far more than the buffers between the two can hold.
    let big = CustomExtension::from_oid_content(&[1, 3, 6, 1, 4, 1, 99999], vec![7; 150_000]);
    let bed = Bed::new();
    let write = || {
        let identity = bed.ca.server_with(&["site.test"], |params| {
            params.custom_extensions = vec![big.clone()];
        });
        bed.root.write_pair("site", &identity);
        identity
    };
    write();
    let agent = bed.agent();
    let (mut slow, mut quick) = (bed.client().sotw(), bed.client().sotw());
    slow.subscribe(&["site"]);
    quick.subscribe(&["site"]);
    quick.secret();
    let before = agent.resident_kib();
    let mut last = None;
    for _ in 0..ROTATIONS {
        let identity = write();
        let served = quick.secret();
        assert!(served.is_pair(&identity.chain, &identity.key));
        last = Some(identity);
    }
    let grown = agent.resident_kib().saturating_sub(before);
    assert!(grown < BOUNDED_KIB, "the agent has grown by {grown} KiB");

    let last = last.unwrap();
    let mut received = 0;
    loop {
        let response = slow.recv();
        received += 1;
        slow.ack(&response);
        if secrets_of(&response)[0].is_pair(&last.chain, &last.key) {
            break;
        }
    }
    assert!(
        received < ROTATIONS / 10,
        "{received} responses were kept for a client that did not read"
    );
    slow.stream.assert_silent();
}

#[test]
fn shutdown_does_not_wait_for_a_stopped_client_process() {
    let bed = Bed::new();
    bed.pair("site");
    let agent = bed.agent();
    let mut stream = bed.client().sotw();
    stream.subscribe(&["site"]);
    let mut idle = UnixStream::connect(bed.socket()).unwrap();
    idle.set_read_timeout(Some(Duration::from_millis(1)))
        .unwrap();
    assert!(agent.terminate().success());
    let _ = idle.read(&mut [0; 1]);
}
