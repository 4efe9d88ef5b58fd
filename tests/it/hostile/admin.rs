//! The admin socket: who may open it, and the cost of floods of requests.

use std::fs;
use std::io::Write;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixStream;
use std::time::Duration;

use super::{assert_serves, start};
use crate::util::users::{ROOT, connect_as};
use crate::util::{admin, eventually, eventually_true, require};

const REQUEST: &[u8] = b"GET /status HTTP/1.1\r\nHost: localhost\r\n\r\n";

#[test]
fn thousands_of_abandoned_requests_and_idle_connections_stop_neither_probes_nor_rotations() {
    let (bed, _agent, _) = start("");
    for n in 0..200 {
        bed.pair(&format!("more-{n}"));
    }
    let connect = || {
        eventually("a connection to the admin socket", || {
            UnixStream::connect(bed.admin()).ok()
        })
    };
    let client = bed.client();
    let mut stream = client.delta();
    stream.subscribe(&["site"]);
    stream.secret();
    let idle: Vec<UnixStream> = (0..600).map(|_| connect()).collect();
    assert_eq!(admin::get(&bed.admin(), "/livez").status, 200);
    for n in 0..6_000 {
        let mut abandoned = connect();
        // It may have been closed already to make room.
        let _ = abandoned.write_all(REQUEST);
        if n % 1_000 == 0 {
            let renewed = bed.pair("site");
            assert!(stream.secret().is_pair(&renewed.chain, &renewed.key));
            assert_eq!(admin::get(&bed.admin(), "/livez").status, 200);
        }
    }
    assert_serves(&bed, &client);
    drop(idle);
    let state = admin::status(&bed.admin());
    assert_eq!(admin::secrets(&state).count(), 201);
}

#[test]
fn a_response_is_never_older_than_its_request() {
    let (bed, _agent, _) = start("");
    let version = || {
        let state = admin::status(&bed.admin());
        let secret = &state["credentials"][0]["secrets"][0];
        secret["version"].as_str().unwrap().to_owned()
    };
    let mut stream = bed.client().delta();
    stream.subscribe(&["site"]);
    stream.secret();
    for _ in 0..20 {
        bed.pair("site");
        let served = stream.secret();
        assert_eq!(version(), served.version);
    }
}

#[test]
fn only_the_agents_user_may_open_the_admin_socket_by_default() {
    if require(&ROOT).is_none() {
        return;
    }
    let mode = |path: &std::path::Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
    let (bed, agent, _) = start("[listen]\nmode = \"0666\"\n");
    assert_eq!(mode(&bed.admin()), 0o600);
    let folder = bed.socket().parent().unwrap().to_owned();
    fs::set_permissions(&folder, PermissionsExt::from_mode(0o711)).unwrap();
    let refused = connect_as(&bed.admin(), 63_001, 63_001).unwrap_err();
    assert_eq!(refused.kind(), std::io::ErrorKind::PermissionDenied);
    drop(agent);

    let (bed, agent, _) = start(
        "[admin]\nmode = \"0666\"\ngroup = 63000\nallow_users = [0]\nallow_groups = [63005]\n",
    );
    assert_eq!(mode(&bed.admin()), 0o666);
    let folder = bed.socket().parent().unwrap().to_owned();
    fs::set_permissions(&folder, PermissionsExt::from_mode(0o711)).unwrap();
    let asks = |uid, gid| {
        let mut stream = connect_as(&bed.admin(), uid, gid).unwrap();
        stream
            .set_read_timeout(Some(Duration::from_secs(60)))
            .unwrap();
        let _ = stream.write_all(REQUEST);
        let mut answer = String::new();
        let _ = std::io::Read::read_to_string(&mut stream, &mut answer);
        answer.starts_with("HTTP/1.1 200")
    };
    assert!(asks(0, 0));
    assert!(asks(63_001, 63_005));
    assert!(!asks(63_001, 63_001));
    agent.wait_for_line(&["audit", "admin socket", "uid=63001"]);
    eventually_true("the state", || {
        admin::get(&bed.admin(), "/status").status == 200
    });
}
