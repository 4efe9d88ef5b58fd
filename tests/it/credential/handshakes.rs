//! Which clients a real Envoy admits with a trust bundle. This verifies the check's reasons for rejecting bundles
//! and revocation lists that Envoy would load, and for leaving out certificates.

use serde_json::{Value, json};

use super::cases::{Ca, ca, days};
use super::{check, odd};
use crate::util::envoy::http_connection_manager;
use crate::util::{Envoy, Identity, require, tools};

/// A bundle, its revocation lists, and clients with whether they are admitted.
struct Situation {
    name: &'static str,
    files: Vec<(String, Vec<u8>)>,
    accepted: bool,
    clients: Vec<(Identity, bool)>,
}

fn situation(
    name: &'static str,
    bundle: &[&str],
    lists: &[&str],
    accepted: bool,
    clients: Vec<(Identity, bool)>,
) -> Situation {
    let mut files = vec![("ca.crt".to_owned(), bundle.concat().into_bytes())];
    if !lists.is_empty() {
        files.push(("ca.crl".to_owned(), lists.concat().into_bytes()));
    }
    Situation {
        name,
        files,
        accepted,
        clients,
    }
}

/// Accepted files are served in the form that the agent would send; rejected ones unchanged.
#[test]
fn envoy_admits_exactly_the_clients_that_the_check_predicts() {
    let Some(program) = require(&tools::ENVOY) else {
        return;
    };
    let situations = situations();
    let mut chains = Vec::new();
    for (number, situation) in situations.iter().enumerate() {
        let verdict = check(&situation.files);
        assert_eq!(
            verdict.is_ok(),
            situation.accepted,
            "{}: {verdict:?}",
            situation.name
        );
        let files = match verdict.map(|credential| credential.bundle.part) {
            Ok(Some(bundle)) => [Some(bundle.trusted_ca), bundle.crl],
            _ => {
                let mut files = situation.files.iter().map(|(_, bytes)| bytes.clone());
                [files.next(), files.next()]
            }
        };
        let [trust, lists] =
            files.map(|bytes| bytes.map(|bytes| String::from_utf8(bytes).unwrap()));
        chains.push(filter_chain(number, trust, lists));
    }
    let envoy = Envoy::start_as_it_is(&program, &configuration(&chains).to_string());
    let mut wrong = Vec::new();
    for (number, situation) in situations.iter().enumerate() {
        for (place, (client, expected)) in situation.clients.iter().enumerate() {
            let https = envoy.https(&format!("{number}.example")).identity(client);
            if https.get().is_ok() != *expected {
                wrong.push(format!("{}, client {place}", situation.name));
            }
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
}

fn situations() -> Vec<Situation> {
    let (root, other) = (ca("root"), ca("other"));
    let middle = root.issue_ca("middle", |_| ());
    let (expired, early) = (root.again(-20, -10), root.again(10, 20));
    let stale_middle = root.issue_ca("middle", |params| params.not_after = days(-1));
    let lone = root.client("lone", 5);
    let own = || root.client("a", 1);
    let below = || middle.client("b", 2);
    let foreign = || other.client("c", 3);
    let revoked = || root.client("d", 77);
    let (r, m, o) = (root.list(1), middle.list(1), other.list(1));
    let past = root.list_of(-20, -10, 1, false);
    let part = root.list_of(-1, 20, 1, true);
    let both = |one, two| vec![(own(), one), (below(), two)];
    vec![
        situation(
            "a root",
            &[&root.pem],
            &[],
            true,
            vec![(own(), true), (below(), true), (foreign(), false)],
        ),
        situation(
            "an intermediate",
            &[&middle.pem],
            &[],
            true,
            both(false, true),
        ),
        situation(
            "renewed",
            &[&expired, &root.pem],
            &[],
            true,
            both(true, true),
        ),
        situation(
            "early and present",
            &[&early, &root.pem],
            &[],
            true,
            both(true, true),
        ),
        situation(
            "the root expired",
            &[&expired, &middle.pem],
            &[],
            true,
            both(false, true),
        ),
        situation(
            "the intermediate expired",
            &[&root.pem, &stale_middle.pem],
            &[],
            true,
            both(true, false),
        ),
        situation("expired", &[&expired], &[], false, both(false, false)),
        situation("not valid yet", &[&early], &[], false, both(false, false)),
        situation(
            "a leaf",
            &[&lone.leaf],
            &[],
            true,
            vec![(lone.clone(), true), (own(), false), (below(), false)],
        ),
        situation(
            "one list",
            &[&root.pem],
            &[&r],
            true,
            vec![(own(), true), (revoked(), false)],
        ),
        situation(
            "lists of both",
            &[&root.pem],
            &[&m, &r],
            true,
            both(true, true),
        ),
        situation(
            "no list of an intermediate in the bundle",
            &[&root.pem, &middle.pem],
            &[&r],
            false,
            both(true, false),
        ),
        situation(
            "an intermediate's list without the root",
            &[&middle.pem],
            &[&m, &r],
            false,
            both(false, false),
        ),
        situation(
            "one list for two",
            &[&root.pem, &other.pem],
            &[&r],
            false,
            vec![(own(), true), (foreign(), false)],
        ),
        situation(
            "another's list",
            &[&root.pem],
            &[&o],
            false,
            both(false, false),
        ),
        situation(
            "an expired list",
            &[&root.pem],
            &[&past],
            false,
            both(false, false),
        ),
        situation(
            "a list of a part",
            &[&root.pem],
            &[&part],
            false,
            both(false, false),
        ),
        situation(
            "no list in the file",
            &[&root.pem],
            &["hello\n"],
            false,
            both(false, false),
        ),
    ]
}

impl Ca {
    /// A client's identity, with the certificates up to below the root.
    pub(super) fn client(&self, name: &str, serial: u64) -> Identity {
        let (leaf, key) = self.leaf(name, |params| params.serial_number = Some(serial.into()));
        let chain = if self.is_root {
            leaf.clone()
        } else {
            format!("{leaf}{}", self.pem)
        };
        Identity {
            chain,
            key,
            leaf,
            der: Vec::new(),
        }
    }
}

fn configuration(chains: &[Value]) -> Value {
    let loopback = json!({ "socket_address": { "address": "127.0.0.1", "port_value": 0 } });
    json!({
        "admin": { "address": loopback },
        "static_resources": { "listeners": [{
            "name": "clients",
            "address": loopback,
            "listener_filters": [{
                "name": "tls_inspector",
                "typed_config": {
                    "@type": "type.googleapis.com/envoy.extensions.filters.listener.tls_inspector.v3.TlsInspector",
                },
            }],
            "filter_chains": chains,
        }] },
    })
}

fn filter_chain(number: usize, trust: Option<String>, lists: Option<String>) -> Value {
    let file = |ending: &str| json!({ "filename": odd().join(format!("p256.{ending}")) });
    let mut validation = json!({ "trusted_ca": { "inline_string": trust } });
    if let Some(lists) = lists {
        validation["crl"] = json!({ "inline_string": lists });
    }
    json!({
        "filter_chain_match": { "server_names": [format!("{number}.example")] },
        "transport_socket": {
            "name": "tls",
            "typed_config": {
                "@type": "type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.DownstreamTlsContext",
                "require_client_certificate": true,
                "common_tls_context": {
                    "tls_certificates": [{ "certificate_chain": file("crt"), "private_key": file("key") }],
                    "validation_context": validation,
                },
            },
        },
        "filters": [http_connection_manager()],
    })
}
