//! Who may connect, and which secrets they may read, through the socket.

use std::fs;
use std::io::{self, Read};
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;

use rustix::process::Signal;
use sds_agent::proto::SECRET_TYPE_URL;
use sds_agent::proto::core::Node;
use sds_agent::proto::discovery::DiscoveryRequest;
use serde_json::Value;
use tonic::{Code, Status};

use crate::util::users::{ROOT, connect_as};
use crate::util::{Agent, BOUND, Bed, Sds, require};

/// Users and groups that this machine has no entries for.
const ALICE: (u32, u32) = (54_321, 54_322);
const BOB: (u32, u32) = (54_331, 54_332);

/// A bed that other users can access, and an agent with that configuration.
struct Guarded {
    bed: Bed,
    agent: Agent,
    config: PathBuf,
}

impl Guarded {
    fn start(config: &str) -> Self {
        let bed = Bed::new();
        let folder = bed.scratch("");
        fs::set_permissions(folder, PermissionsExt::from_mode(0o711)).unwrap();
        let path = bed.scratch("sds-agent.toml");
        fs::write(&path, config).unwrap();
        bed.pair("shop");
        bed.pair("bank");
        let agent = bed.builder().arg("--config").arg(&path).start();
        Self {
            bed,
            agent,
            config: path,
        }
    }

    fn reload(&self, config: &str) {
        let before = self.agent.lines().len();
        fs::write(&self.config, config).unwrap();
        self.agent.signal(Signal::HUP);
        self.agent.wait_for_line_after(before, &["reloaded"]);
    }

    fn connect(&self, (uid, gid): (u32, u32)) -> io::Result<std::os::unix::net::UnixStream> {
        connect_as(&self.bed.socket(), uid, gid)
    }

    #[track_caller]
    fn client(&self, who: (u32, u32)) -> Sds {
        Sds::on(self.connect(who).unwrap()).unwrap()
    }

    /// Whether the agent accepts the connection of that peer, which has opened the socket.
    fn accepts(&self, who: (u32, u32)) -> bool {
        let mut connection = self.connect(who).unwrap();
        connection.set_read_timeout(Some(BOUND)).unwrap();
        let preface = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0";
        // A refused connection may be closed before this arrives.
        let _ = io::Write::write_all(&mut connection, preface);
        // The server's SETTINGS, or the end.
        matches!(connection.read(&mut [0; 1]), Ok(1))
    }
}

fn fetch(client: &Sds, node: &str, name: &str) -> Result<(), Status> {
    let request = DiscoveryRequest {
        node: Some(Node {
            id: node.into(),
            ..Node::default()
        }),
        resource_names: vec![name.into()],
        type_url: SECRET_TYPE_URL.into(),
        ..DiscoveryRequest::default()
    };
    client.fetch(request).map(|response| {
        assert_eq!(response.resources.len(), 1);
    })
}

#[test]
fn mode_and_group_decide_who_can_open_the_socket() {
    if require(&ROOT).is_none() {
        return;
    }
    let guarded = Guarded::start(&format!("[listen]\nmode = \"0620\"\ngroup = {}\n", ALICE.1));
    let metadata = fs::metadata(guarded.bed.socket()).unwrap();
    assert_eq!(metadata.permissions().mode() & 0o777, 0o620);
    assert!(guarded.accepts(ALICE));
    assert!(guarded.accepts((BOB.0, ALICE.1)));
    let refused = guarded.connect(BOB).unwrap_err();
    assert_eq!(refused.kind(), io::ErrorKind::PermissionDenied);
}

#[test]
fn only_allowed_users_and_groups_may_connect() {
    if require(&ROOT).is_none() {
        return;
    }
    let guarded = Guarded::start(&format!(
        "[listen]\nmode = \"0666\"\nallow_users = [{}]\nallow_groups = [\"{}\"]\n",
        ALICE.0, BOB.1
    ));
    assert!(guarded.accepts((ALICE.0, 1)));
    assert!(guarded.accepts((1, BOB.1)));
    assert!(!guarded.accepts((BOB.0, ALICE.1)));
    assert!(!guarded.accepts((0, 0)), "root is a user like any other");
    guarded
        .agent
        .wait_for_line(&["audit", "refused", &BOB.0.to_string(), "process"]);
}

#[test]
fn user_names_are_resolved_on_this_machine() {
    if require(&ROOT).is_none() {
        return;
    }
    let guarded = Guarded::start(
        "[listen]\nmode = \"0666\"\nallow_users = [\"root\", \"no-such-user-here\"]\n",
    );
    guarded.agent.wait_for_line(&["no-such-user-here"]);
    assert!(guarded.accepts((0, 0)));
    assert!(!guarded.accepts(ALICE));
}

#[test]
fn a_secret_that_a_peer_is_not_allowed_to_read_is_reported_as_nonexistent() {
    if require(&ROOT).is_none() {
        return;
    }
    let guarded = Guarded::start(&format!(
        "[listen]\nmode = \"0666\"\n[[access]]\nsecrets = [\"sh*\"]\nusers = [{}]\n\
         [[access]]\nsecrets = [\"bank\"]\ngroups = [{}]\nnodes = [\"vault-*\"]\n",
        ALICE.0, BOB.1
    ));
    let (alice, bob) = (guarded.client(ALICE), guarded.client(BOB));
    fetch(&alice, "n", "shop").unwrap();
    fetch(&bob, "vault-1", "bank").unwrap();
    for (client, node, forbidden) in [
        (&alice, "n", "bank"),
        (&alice, "vault-1", "bank"),
        (&bob, "vault-1", "shop"),
        (&bob, "n", "bank"),
    ] {
        let refusal = fetch(client, node, forbidden).unwrap_err();
        let missing = fetch(client, node, "no-such-secret").unwrap_err();
        assert_eq!(refusal.code(), Code::NotFound);
        assert_eq!(refusal.code(), missing.code());
        assert_eq!(refusal.message(), missing.message());
    }

    let mut delta = alice.delta();
    delta.subscribe(&["shop", "bank", "no-such-secret"]);
    let changes = delta.changes();
    assert_eq!(changes.secrets.len(), 1);
    assert_eq!(changes.removed, ["bank", "no-such-secret"]);

    let mut sotw = alice.sotw();
    sotw.subscribe(&["bank"]);
    sotw.stream.assert_silent();
    // Not even a change of it is sent.
    guarded.bed.pair("bank");
    guarded.agent.wait_for_line(&["rotated", "bank"]);
    sotw.stream.assert_silent();
    delta.0.assert_silent();
}

#[test]
fn reloaded_rules_apply_to_open_streams() {
    if require(&ROOT).is_none() {
        return;
    }
    let everyone = "[listen]\nmode = \"0666\"\n";
    let bank_only = format!("{everyone}[[access]]\nsecrets = [\"bank\"]\n");
    let bob_only = format!("{everyone}allow_users = [{}]\n", BOB.0);
    let guarded = Guarded::start(everyone);
    let mut stream = guarded.client(ALICE).delta();
    stream.subscribe(&["shop"]);
    stream.secret();

    for narrower in [&bank_only, &bob_only] {
        guarded.reload(narrower);
        assert_eq!(stream.removed(), ["shop"]);
        guarded.bed.pair("shop");
        stream.0.assert_silent();
        guarded.reload(everyone);
        stream.secret();
    }
    guarded.reload(&bob_only);
    assert!(!guarded.accepts(ALICE));
    assert!(guarded.accepts(BOB));
}

#[test]
fn the_audit_log_records_deliveries_of_keys_and_refusals() {
    if require(&ROOT).is_none() {
        return;
    }
    let guarded = Guarded::start(&format!(
        "log_level = \"error\"\nlog_format = \"json\"\n[listen]\nmode = \"0666\"\n\
         [[access]]\nsecrets = [\"shop\"]\nusers = [{}]\n",
        ALICE.0
    ));
    let client = guarded.client(ALICE);
    fetch(&client, "edge-1", "shop").unwrap();
    fetch(&client, "edge\n1", "bank\n{}").unwrap_err();
    let line = |pieces: &[&str]| -> Value {
        serde_json::from_str(&guarded.agent.wait_for_line(pieces)).unwrap()
    };
    let delivered = line(&["key_delivered"]);
    assert_eq!(delivered["target"], "audit");
    assert_eq!(delivered["secret"], "shop");
    assert_eq!(delivered["node"], "edge-1");
    assert_eq!(delivered["uid"], ALICE.0);
    assert_eq!(delivered["pid"], std::process::id());
    assert!(delivered["process"].is_string() && delivered["timestamp"].is_string());

    let refused = line(&["refused"]);
    assert_eq!(refused["target"], "audit");
    // JSON has its own escapes: this is what the client sent.
    assert_eq!(refused["secret"], "bank\n{}");
    assert_eq!(refused["node"], "edge\n1");
    assert_eq!(refused["uid"], ALICE.0);
    assert!(refused["process"].is_string());
}
