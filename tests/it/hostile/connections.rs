//! Connections that only use up resources.

use std::fs;
use std::io::{Read, Write};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixStream;

use super::{assert_serves, start};
use crate::util::users::{ROOT, connect_as};
use crate::util::{Sds, eventually, require};

/// Users that the machine does not know, and a group.
const MALLORY: u32 = 63_001;
const TRUDY: u32 = 63_002;
const ALICE: u32 = 63_003;
const GROUP: u32 = 63_000;

/// Whether the agent has closed the connection.
fn is_closed(stream: &mut UnixStream) -> bool {
    stream.set_nonblocking(true).unwrap();
    let mut byte = [0; 64];
    loop {
        match stream.read(&mut byte) {
            Ok(0) => return true,
            Ok(_) => {}
            Err(error) => return error.kind() != std::io::ErrorKind::WouldBlock,
        }
    }
}

#[test]
fn connections_without_a_request_are_closed() {
    let (bed, _agent, _) = start("");
    let mut silent = UnixStream::connect(bed.socket()).unwrap();
    let mut greeting = UnixStream::connect(bed.socket()).unwrap();
    greeting
        .write_all(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0")
        .unwrap();
    let client = bed.client();
    let mut stream = client.delta();
    stream.subscribe(&["site"]);
    stream.secret();
    for connection in [&mut silent, &mut greeting] {
        eventually("the end of a connection", || {
            is_closed(connection).then_some(())
        });
    }
    // A connection that has sent a request may be idle without a limit.
    let renewed = bed.pair("site");
    assert!(stream.secret().is_pair(&renewed.chain, &renewed.key));
}

#[test]
fn one_user_can_not_exhaust_the_connections_of_others() {
    if require(&ROOT).is_none() {
        return;
    }
    let (bed, agent, _) = start("[listen]\nmode = \"0666\"\n[limits]\nconnections = 40\n");
    let folder = bed.socket().parent().unwrap().to_owned();
    fs::set_permissions(&folder, PermissionsExt::from_mode(0o711)).unwrap();
    let mut held: Vec<UnixStream> = (0..60)
        .map(|_| connect_as(&bed.socket(), MALLORY, GROUP).unwrap())
        .collect();
    agent.wait_for_line(&["connection refused", "limits.connections"]);
    assert_serves(&bed, &bed.client());
    eventually("thirty refusals", || {
        let closed = held.iter_mut().filter_map(|c| is_closed(c).then_some(()));
        (closed.count() >= 30).then_some(())
    });
}

#[test]
fn users_named_in_the_configuration_have_a_reserve() {
    if require(&ROOT).is_none() {
        return;
    }
    let (bed, agent, _) = start(&format!(
        "[listen]\nmode = \"0666\"\n[limits]\nconnections = 40\n\
         [[access]]\nsecrets = [\"*\"]\nusers = [{ALICE}]\n\
         [[access]]\nsecrets = [\"public-*\"]\n"
    ));
    let folder = bed.socket().parent().unwrap().to_owned();
    fs::set_permissions(&folder, PermissionsExt::from_mode(0o711)).unwrap();
    let _held: Vec<UnixStream> = (0..60)
        .map(|n| {
            let user = if n % 2 == 0 { MALLORY } else { TRUDY };
            connect_as(&bed.socket(), user, GROUP).unwrap()
        })
        .collect();
    // At first, the groups of other users may be unknown; until then they can use the reserve.
    let alice = eventually("a connection for a user who is named", || {
        let alice = Sds::on(connect_as(&bed.socket(), ALICE, GROUP).unwrap())?;
        let mut stream = alice.delta();
        stream.subscribe(&["site"]);
        stream.0.recv_or_end().is_ok().then_some(alice)
    });
    assert_serves(&bed, &alice);
    // A user who is not named in the configuration is refused.
    let mut other = connect_as(&bed.socket(), 63_009, GROUP).unwrap();
    eventually("a refusal", || is_closed(&mut other).then_some(()));
    agent.wait_for_line(&["connection refused", "uid=63009"]);
}

#[test]
fn the_streams_of_one_user_are_bounded_across_connections() {
    let (bed, agent, _) = start("[limits]\nstreams = 8\n");
    let clients = [bed.client(), bed.client(), bed.client()];
    let mut open = Vec::new();
    let mut refused = 0;
    for client in clients.iter().cycle().take(9) {
        let mut stream = client.delta();
        stream.subscribe(&["site"]);
        match stream.0.recv_or_end() {
            Ok(_) => open.push(stream),
            Err(code) => {
                assert_eq!(code, tonic::Code::ResourceExhausted);
                refused += 1;
            }
        }
    }
    assert_eq!((open.len(), refused), (6, 3));
    agent.wait_for_line(&["stream refused", "limits.streams"]);
    drop(open);
    eventually("a place for a stream", || {
        let mut stream = clients[0].delta();
        stream.subscribe(&["site"]);
        stream.0.recv_or_end().ok()
    });
}

#[test]
fn a_lock_on_the_folder_prevents_neither_start_nor_stop() {
    if require(&ROOT).is_none() {
        return;
    }
    let bed = crate::util::Bed::new();
    bed.pair("site");
    let folder = bed.socket().parent().unwrap().to_owned();
    fs::set_permissions(&folder, PermissionsExt::from_mode(0o755)).unwrap();
    let lock = fs::File::open(&folder).unwrap();
    lock.lock().unwrap();
    let agent = bed.ready_agent();
    assert_serves(&bed, &bed.client());
    assert!(agent.terminate().success());
    assert!(!bed.socket().exists() && !bed.admin().exists());
    let left: Vec<_> = fs::read_dir(&folder).unwrap().collect();
    assert!(left.is_empty(), "{left:?}");
}
