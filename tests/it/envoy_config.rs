//! `sds-agent envoy-config`: a real Envoy accepts its output unchanged.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::path::Path;
use std::process::{Command, Output};

use rcgen::{ExtendedKeyUsagePurpose, KeyPair};
use serde_json::json;

use crate::util::agent::PROGRAM;
use crate::util::envoy::{http_connection_manager, loopback};
use crate::util::pki::leaf_params;
use crate::util::s_client::s_client;
use crate::util::tools::ENVOY;
use crate::util::{Agent, Bed, Ca, Envoy, Https, Identity, eventually_true, require};

fn generate(arguments: &[&str]) -> Output {
    Command::new(PROGRAM)
        .arg("envoy-config")
        .args(arguments)
        .output()
        .unwrap()
}

#[track_caller]
fn yaml(arguments: &[&str]) -> String {
    let output = generate(arguments);
    assert!(output.status.success(), "{arguments:?}: {output:?}");
    String::from_utf8(output.stdout).unwrap()
}

#[track_caller]
fn assert_envoy_takes(envoy: &Path, arguments: &[&str]) {
    let yaml = yaml(arguments);
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("envoy.yaml");
    std::fs::write(&path, &yaml).unwrap();
    let output = Command::new(envoy)
        .args(["--mode", "validate", "--log-level", "warning", "-c"])
        .arg(&path)
        .output()
        .unwrap();
    let printed = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{arguments:?}\n{yaml}\n{printed}");
    assert!(printed.is_empty(), "{arguments:?}: Envoy warns: {printed}");
}

#[test]
fn envoy_accepts_every_combination_of_options() {
    if let Some(envoy) = require(&ENVOY) {
        takes_every_combination(&envoy, true);
    }
}

/// This release of Envoy accepts every combination; with `on_demand`, also with certificates on demand.
pub(crate) fn takes_every_combination(envoy: &Path, on_demand: bool) {
    let names: [&[&str]; 4] = [
        &["a.test"],
        &["a.test", "B.test", "*.c.test"],
        &["a.test", "a.test"],
        &["a.test", "a.test-ecdsa", "a.test-rsa", "b.test"],
    ];
    for options in [&["--anonymous"][..], &["--inject", "token", "--full"]] {
        assert_envoy_takes(envoy, &[&["--upstream", "a.test"], options].concat());
    }
    for names in names {
        for options in 0..16_u8 {
            let flags = ["--mutual", "--full", "--on-demand", "--upstream"];
            let chosen = flags
                .iter()
                .enumerate()
                .filter(|(bit, _)| options & (1 << bit) != 0);
            let arguments: Vec<_> = names
                .iter()
                .copied()
                .chain(chosen.map(|(_, flag)| *flag))
                .collect();
            if options & 0b0100 != 0 && !on_demand {
                continue;
            }
            if options & 0b1000 != 0 && options & 0b0101 != 0 {
                assert_eq!(generate(&arguments).status.code(), Some(2), "{arguments:?}");
            } else {
                assert_envoy_takes(envoy, &arguments);
            }
        }
    }
}

#[test]
fn envoy_accepts_every_possible_credential_name() {
    let Some(envoy) = require(&ENVOY) else { return };
    let longest = "n".repeat(253);
    for name in [
        "\"",
        "'",
        "\\",
        "a: b",
        "- a",
        "#",
        "{}",
        "*",
        "&sds",
        "*sds",
        "!!int 1",
        "%",
        "null",
        "1",
        "~",
        " a ",
        "\u{2028}",
        "\u{feff}é",
        "😀",
        "[::1]",
        "--",
        "${HOME}",
        "%REQ(x)%",
        &longest,
    ] {
        for role in ["--mutual", "--on-demand", "--upstream"] {
            assert_envoy_takes(&envoy, &[role, "--full", "--", name]);
        }
    }
    assert_envoy_takes(
        &envoy,
        &[
            "--socket",
            "/run/a \"b\"/\u{e9}.sock",
            "--node",
            "\"\\\n",
            "a",
        ],
    );
    for name in ["", ".hidden", "a/b", "a\nb", &"n".repeat(254)] {
        assert_eq!(generate(&["--", name]).status.code(), Some(2), "{name:?}");
    }
    assert_eq!(generate(&["a", "b*c"]).status.code(), Some(2));
    assert_eq!(generate(&[]).status.code(), Some(2));
}

/// Runs Envoy with a full configuration for the agent of `bed`, unchanged except for the ports.
#[track_caller]
fn start(envoy: &Path, bed: &Bed, arguments: &[&str]) -> Envoy {
    let socket = bed.socket();
    let mut all = vec!["--full", "--socket", socket.to_str().unwrap()];
    all.extend(["--listen", "127.0.0.1:0", "--admin", "127.0.0.1:0"]);
    all.extend(arguments);
    Envoy::start_as_it_is(envoy, &yaml(&all))
}

#[track_caller]
fn wait_until_served(https: &Https, identity: &Identity) {
    eventually_true("the certificate", || {
        https
            .get()
            .is_ok_and(|served| served.status == 200 && served.chain[0] == identity.der)
    });
}

/// A credential with its CA in the same folder.
fn write_with_ca(bed: &Bed, name: &str, identity: &Identity, ca: &Ca) {
    let files = [
        ("tls.crt", &*identity.chain),
        ("tls.key", &identity.key),
        ("ca.crt", ca.pem()),
    ];
    bed.root.write(name, &files);
}

#[test]
fn a_full_configuration_serves_each_host_its_certificate() {
    let Some(envoy) = require(&ENVOY) else { return };
    let bed = Bed::new();
    let mut agent = bed.agent();
    let names = ["a.test", "B.test", "*.c.test"];
    let identities = names.map(|name| {
        let identity = bed.ca.server(&[name]);
        bed.root.write_pair(name, &identity);
        identity
    });
    let envoy = start(&envoy, &bed, &names);
    for (host, identity) in ["a.test", "b.test", "x.c.test"]
        .into_iter()
        .zip(&identities)
    {
        wait_until_served(&envoy.https(host).ca(bed.ca.pem()), identity);
    }
    assert!(envoy.https("other.test").get().is_err());

    // What changes while the agent is stopped is served after its start.
    agent.kill();
    let next = bed.ca.server(&["a.test"]);
    bed.root.write_pair("a.test", &next);
    assert_eq!(envoy.https("a.test").leaf().unwrap(), identities[0].der);
    let _agent = bed.agent();
    wait_until_served(&envoy.https("a.test").ca(bed.ca.pem()), &next);
    envoy.assert_no_rejection();
}

#[test]
fn mutual_tls_serves_only_clients_with_a_valid_certificate() {
    let Some(envoy) = require(&ENVOY) else { return };
    let (bed, clients) = (Bed::new(), Ca::new("The clients' CA"));
    let identity = bed.ca.server(&["a.test"]);
    write_with_ca(&bed, "a.test", &identity, &clients);
    let _agent = bed.agent();
    for more in [&[][..], &["--on-demand"]] {
        let envoy = start(&envoy, &bed, &[&["a.test", "--mutual"], more].concat());
        let client = envoy.https("a.test").ca(bed.ca.pem());
        wait_until_served(&client.clone().identity(&clients.client("me")), &identity);
        assert!(
            client.get().is_err(),
            "{more:?}: served without a certificate"
        );
        let stranger = bed.ca.client("me");
        assert!(
            client.identity(&stranger).get().is_err(),
            "{more:?}: served a stranger"
        );
    }
}

#[test]
fn on_demand_serves_every_host_that_the_agent_has() {
    if let Some(envoy) = require(&ENVOY) {
        serves_on_demand(&envoy);
    }
}

/// The same with this release of Envoy.
pub(crate) fn serves_on_demand(envoy: &Path) {
    let bed = Bed::new();
    let first = bed.ca.server(&["first.test"]);
    bed.root.write_pair("first.test", &first);
    let agent = bed.agent();
    let written = yaml(&["first.test", "--on-demand"]);
    assert!(
        written.contains("--groups sds-agent-clients envoy"),
        "{written}"
    );
    let envoy = start(envoy, &bed, &["first.test", "--on-demand"]);
    wait_until_served(&envoy.https("first.test").ca(bed.ca.pem()), &first);
    assert!(envoy.https("later.test").get().is_err());
    let later = bed.ca.server(&["later.test"]);
    bed.root.write_pair("later.test", &later);
    wait_until_served(&envoy.https("later.test").ca(bed.ca.pem()), &later);
    let next = bed.ca.server(&["later.test"]);
    bed.root.write_pair("later.test", &next);
    wait_until_served(&envoy.https("later.test").ca(bed.ca.pem()), &next);
    // A client without SNI.
    wait_until_served(&envoy.https("127.0.0.1"), &first);
    assert!(agent.lines_with(&["NACK"]).is_empty());
}

#[test]
fn an_upstream_receives_the_client_certificate_and_is_verified() {
    let Some(program) = require(&ENVOY) else {
        return;
    };
    let (servers, clients) = (Ca::new("The servers' CA"), Ca::new("The clients' CA"));
    let (upstream, downstream) = (Bed::new(), Bed::new());
    write_with_ca(&upstream, "b.test", &servers.server(&["b.test"]), &clients);
    write_with_ca(&downstream, "b.test", &clients.client("me"), &servers);
    write_with_ca(&downstream, "c.test", &clients.client("me"), &servers);
    let _agents: [Agent; 2] = [upstream.agent(), downstream.agent()];
    let server = start(&program, &upstream, &["b.test", "--mutual"]);
    for host in ["127.0.0.1", "localhost"] {
        let address = format!("{host}:{}", server.port());
        let arguments = [
            "b.test",
            "c.test",
            "--upstream",
            "--upstream-address",
            &address,
        ];
        let client = start(&program, &downstream, &arguments);
        eventually_true("an answer of the upstream", || {
            plain_status(client.port(), "b.test") == Some(200)
        });
        // The upstream's certificate is only for b.test.
        assert_eq!(plain_status(client.port(), "c.test:80"), Some(503));
    }
}

/// The status of `GET /` without TLS.
fn plain_status(port: u16, host: &str) -> Option<u16> {
    let mut stream = TcpStream::connect(("127.0.0.1", port)).ok()?;
    let request = format!("GET / HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).ok()?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer).ok()?;
    answer.split(' ').nth(1)?.parse().ok()
}

#[test]
fn a_client_is_served_the_certificate_that_it_can_verify() {
    let Some(program) = require(&ENVOY) else {
        return;
    };
    let bed = Bed::new();
    let rsa = KeyPair::from_pem(include_str!("fixtures/credential/rsa2048.key")).unwrap();
    let params = leaf_params(&["site"], ExtendedKeyUsagePurpose::ServerAuth);
    let rsa = bed.ca.issue(&params, &rsa);
    let ecdsa = bed.ca.server(&["site"]);
    bed.root.write_pair("site", &rsa);
    bed.root.write_pair("site-ecdsa", &ecdsa);
    let _agent = bed.ready_agent();
    let rsa_only = ["-tls1_2", "-cipher", "ECDHE-RSA-AES128-GCM-SHA256"];
    let ecdsa_only = ["-tls1_2", "-cipher", "ECDHE-ECDSA-AES128-GCM-SHA256"];
    let new_only = ["-tls1_3", "-sigalgs", "ECDSA+SHA256:RSA-PSS+SHA256"];
    let body = |identity: &Identity| identity.leaf.trim_end().to_owned();
    for on_demand in [false, true] {
        let mut arguments = vec!["site", "site-ecdsa"];
        arguments.extend(on_demand.then_some("--on-demand"));
        let envoy = start(&program, &bed, &arguments);
        let serves = |options: &[&str], identity: &Identity| {
            s_client(envoy.port(), "site", options).contains(&body(identity))
        };
        eventually_true("the listener", || serves(&rsa_only, &rsa));
        // On demand, Envoy takes one certificate for a host: the other one has its folder's name.
        assert_eq!(serves(&ecdsa_only, &ecdsa), !on_demand);
        assert!(serves(&new_only, if on_demand { &rsa } else { &ecdsa }));
        if on_demand {
            let other = s_client(envoy.port(), "site-ecdsa", &ecdsa_only);
            assert!(other.contains(&body(&ecdsa)), "{other}");
        }
        envoy.assert_no_rejection();
    }
}

#[test]
fn options_that_contradict_each_other_are_refused() {
    for arguments in [
        &["--upstream", "--mutual"][..],
        &["--upstream", "--on-demand"],
        &["--upstream-address", "127.0.0.1:1"],
        &["--admin", "127.0.0.1:1"],
        &["--upstream", "--upstream-address", "backend"],
        &["--upstream", "--upstream-address", "10.0.0.300:1"],
        &["--upstream", "--upstream-address", "a b:1"],
    ] {
        let output = Command::new(PROGRAM)
            .args(["envoy-config", "a.test"])
            .args(arguments)
            .output()
            .unwrap();
        assert_eq!(output.status.code(), Some(2), "{arguments:?}: {output:?}");
    }
}

#[test]
fn an_upstream_may_have_a_host_name() {
    for (address, kind, host, port) in [
        (
            "backend.internal:8443",
            "STRICT_DNS",
            "backend.internal",
            8443,
        ),
        ("localhost:1", "STRICT_DNS", "localhost", 1),
        ("[fd00::7]:443", "STATIC", "fd00::7", 443),
    ] {
        let output = Command::new(PROGRAM)
            .args([
                "envoy-config",
                "a.test",
                "--upstream",
                "--upstream-address",
                address,
            ])
            .output()
            .unwrap();
        let text = String::from_utf8(output.stdout).unwrap();
        assert!(text.contains(&format!("type: {kind}")), "{text}");
        let line = format!("socket_address: {{address: \"{host}\", port_value: {port}}}");
        assert!(text.contains(&line), "{text}");
        if let Some(envoy) = require(&ENVOY) {
            let arguments = [
                "a.test",
                "--upstream",
                "--full",
                "--upstream-address",
                address,
            ];
            assert_envoy_takes(&envoy, &arguments);
        }
    }
}

#[test]
fn an_upstream_without_client_certificates_is_verified_and_sent_a_token() {
    let Some(program) = require(&ENVOY) else {
        return;
    };
    let bed = Bed::new();
    let identity = bed.ca.server(&["b.test"]);
    let server = Envoy::start_as_it_is(&program, &upstream_config(&identity));
    bed.root
        .write("b.test", &[("ca.crt", Ca::new("another").pem())]);
    bed.root.write("token", &[("secret", "Bearer one\n")]);
    let _agent = bed.ready_agent();
    let address = format!("127.0.0.1:{}", server.port());
    let arguments = ["b.test", "--upstream", "--upstream-address", &address];
    let anonymous = [&arguments[..], &["--anonymous"]].concat();
    let with_token = [&anonymous[..], &["--inject", "token"]].concat();
    let client = start(&program, &bed, &with_token);
    let status = |client: &Envoy| plain_status(client.port(), "b.test");
    eventually_true("the refusal of the upstream", || {
        status(&client) == Some(503)
    });
    bed.root.write("b.test", &[("ca.crt", bed.ca.pem())]);
    eventually_true("the first token", || status(&client) == Some(201));
    bed.root.write("token", &[("secret", "Bearer two\n")]);
    eventually_true("the second token", || status(&client) == Some(202));
    let without_token = start(&program, &bed, &anonymous);
    eventually_true("an answer", || status(&without_token) == Some(418));
    client.assert_no_rejection();
    for wrong in [&["a", "--anonymous"][..], &["a", "--inject", "token"]] {
        assert_eq!(generate(wrong).status.code(), Some(2), "{wrong:?}");
    }
}

/// An upstream with TLS that answers 201 or 202 to the tokens `one` and `two`, and 418 to all else.
fn upstream_config(identity: &Identity) -> String {
    let mut manager = http_connection_manager();
    let routes = manager["typed_config"]["route_config"]["virtual_hosts"][0]["routes"]
        .as_array_mut()
        .unwrap();
    for (status, token) in [(201, "Bearer one"), (202, "Bearer two")] {
        let header = json!({"name": "authorization", "string_match": {"exact": token}});
        routes.insert(
            0,
            json!({
                "match": {"prefix": "/", "headers": [header]},
                "direct_response": {"status": status},
            }),
        );
    }
    let inline = |text: &str| json!({"inline_string": text});
    let certificate = json!({
        "certificate_chain": inline(&identity.chain), "private_key": inline(&identity.key),
    });
    let socket = json!({
        "name": "tls",
        "typed_config": {
            "@type": "type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.DownstreamTlsContext",
            "common_tls_context": {"tls_certificates": [certificate]},
        },
    });
    json!({
        "admin": {"address": loopback()},
        "static_resources": {"listeners": [{
            "name": "upstream",
            "address": loopback(),
            "filter_chains": [{"filters": [manager], "transport_socket": socket}],
        }]},
    })
    .to_string()
}
