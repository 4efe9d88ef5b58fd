//! `sds-agent probe`: whether a real Envoy presents what the agent serves.

use std::fs;
use std::net::{Ipv6Addr, TcpListener};
use std::path::Path;
use std::process::{Command, Output, Stdio};

use serde_json::Value;
use sha2::{Digest, Sha256};

use crate::util::agent::PROGRAM;
use crate::util::ocsp::{Status, staple};
use crate::util::process::Process;
use crate::util::tools::{self, ENVOY};
use crate::util::{
    Agent, Bed, Ca, Envoy, Host, Identity, Protocol, admin, eventually_true, require,
};

fn probe(bed: &Bed, arguments: &[&str]) -> Output {
    Command::new(PROGRAM)
        .arg("probe")
        .arg("--admin-socket")
        .arg(bed.admin())
        .args(arguments)
        .output()
        .unwrap()
}

/// The exit code, and the JSON form.
#[track_caller]
fn json(bed: &Bed, arguments: &[&str]) -> (i32, Value) {
    let output = probe(bed, &[arguments, &["-o", "json"]].concat());
    let json = serde_json::from_slice(&output.stdout);
    let json = json.unwrap_or_else(|error| panic!("{error}: {output:?}"));
    (output.status.code().unwrap(), json)
}

#[track_caller]
fn text(bed: &Bed, arguments: &[&str]) -> String {
    String::from_utf8(probe(bed, arguments).stdout).unwrap()
}

/// A running agent, and an Envoy that gets its secrets from another agent: it presents whatever a test gives to
/// that one.
struct Listener {
    bed: Bed,
    _agent: Agent,
    others: Bed,
    _others_agent: Agent,
    envoy: Envoy,
    target: String,
}

impl Listener {
    /// Both agents have `identity` as the credential `site`.
    fn start(program: &Path, bed: Bed, identity: &Identity, hosts: &[Host]) -> Self {
        let others = Bed::new();
        bed.root.write_pair("site", identity);
        others.root.write_pair("site", identity);
        let (agent, others_agent) = (bed.ready_agent(), others.ready_agent());
        let envoy = Envoy::start(program, &others.socket(), Protocol::Delta, hosts);
        let target = format!("127.0.0.1:{}", envoy.port());
        Self {
            bed,
            _agent: agent,
            others,
            _others_agent: others_agent,
            envoy,
            target,
        }
    }

    fn verdict(&self, arguments: &[&str]) -> Value {
        let (code, json) = json(&self.bed, &[&[&*self.target], arguments].concat());
        assert_eq!(json["format"], 1, "{json:#}");
        let probe = json["probes"][0].clone();
        let live = probe["verdict"] == "live";
        assert_eq!((code == 0, json["live"] == true), (live, live), "{json:#}");
        probe
    }

    /// Waits until the probe of `www.test` has that verdict.
    #[track_caller]
    fn wait_for(&self, verdict: &str) -> Value {
        let mut last = Value::Null;
        eventually_true(verdict, || {
            last = self.verdict(&["--name", "www.test"]);
            last["verdict"] == verdict
        });
        last
    }
}

fn fingerprint(der: &[u8]) -> String {
    let hash = Sha256::digest(der);
    hash.iter().map(|byte| format!("{byte:02x}")).collect()
}

#[test]
fn a_certificate_that_has_expired_is_not_called_valid() {
    let Some(program) = require(&ENVOY) else {
        return;
    };
    let bed = Bed::new();
    let expired = bed.ca.server_with(&["www.test"], |params| {
        params.not_after = time::OffsetDateTime::now_utc() - time::Duration::days(5);
    });
    let hosts = [Host::new("www.test", "site")];
    let listener = Listener::start(&program, bed, &expired, &hosts);
    // It presents what the agent serves, which has only this one.
    listener.wait_for("live");
    let shown = text(&listener.bed, &[&listener.target, "--name", "www.test"]);
    assert!(
        shown.contains("; expired on ") && shown.contains("(5 days ago)"),
        "{shown}"
    );
    assert!(!shown.contains("valid until"), "{shown}");
}

#[test]
fn the_certificate_that_envoy_presents_is_compared_with_the_served_one() {
    let Some(program) = require(&ENVOY) else {
        return;
    };
    let bed = Bed::new();
    let ca = bed.ca.intermediate("Intermediate CA");
    let names = ["www.test", "*.wild.test"];
    let first = ca.server(&names);
    bed.root
        .write_pair("other", &bed.ca.server(&["other.test"]));
    let hosts = names.map(|name| Host::new(name, "site"));
    let listener = Listener::start(&program, bed, &first, &hosts);
    let Listener {
        bed,
        others,
        target,
        ..
    } = &listener;

    let live = listener.wait_for("live");
    assert_eq!(live["credential"], "site");
    let kept = |verdict: &str| {
        let site = admin::secret(&bed.admin(), "site", |site| {
            site["probes"][0]["verdict"] == verdict
        });
        let probes = site["probes"].as_array().unwrap();
        assert_eq!(
            probes.len(),
            1,
            "the last of a listener and name: {probes:#?}"
        );
        assert_eq!(probes[0]["target"], **target);
        assert_eq!(probes[0]["name"], "www.test");
        probes[0].clone()
    };
    assert_eq!(kept("live")["what"], "presents the current certificate");
    assert_eq!(live["presented"]["chain"][0], fingerprint(&first.der));
    assert_eq!(live["presented"]["chain"].as_array().unwrap().len(), 2);
    assert_eq!(live["served"]["chain"], live["presented"]["chain"]);
    assert_eq!(
        live["served"]["serial"],
        live["presented"]["leaf"]["serial"]
    );
    assert_eq!(live["presented"]["tls"], "TLS 1.3");
    assert_eq!(live["presented"]["client_certificate"], "not_requested");
    let serial = live["served"]["serial"].as_str().unwrap();
    let shown = text(bed, &[target, "--name", "www.test"]);
    let version = live["version"].as_str().unwrap();
    for part in [
        "live ",
        "www.test",
        "`site`",
        serial,
        version,
        "served since",
    ] {
        assert!(shown.contains(part), "no {part}: {shown}");
    }

    // A wildcard is probed with a name below it.
    let below = listener.verdict(&["--name", "*.wild.test"]);
    assert_eq!(below["name"], "sds-agent-probe.wild.test");
    assert_eq!(below["verdict"], "live");

    // Every host of every credential: one of them is not on this listener.
    let (code, all) = json(bed, &[target, "--all"]);
    let verdicts = all["probes"].as_array().unwrap().iter();
    let verdicts: Vec<_> = verdicts
        .map(|one| {
            (
                one["name"].as_str().unwrap(),
                one["verdict"].as_str().unwrap(),
            )
        })
        .collect();
    let expected = [
        ("other.test", "failed"),
        ("www.test", "live"),
        ("sds-agent-probe.wild.test", "live"),
    ];
    assert_eq!((code, verdicts), (1, expected.to_vec()));
    let shown = text(bed, &[target, "--all"]);
    assert!(
        shown.contains("no_filter_chain_match") && shown.contains("2 of 3 are live"),
        "{shown}"
    );

    // Renewed, and Envoy still has the previous one.
    let second = ca.server(&names);
    bed.root.write_pair("site", &second);
    let stale = listener.wait_for("replaced");
    assert_eq!(
        (&stale["credential"], &stale["version"]),
        (&live["credential"], &live["version"])
    );
    assert_ne!(stale["served"]["serial"], live["served"]["serial"]);
    assert_eq!(
        stale["presented"]["leaf"]["serial"],
        live["served"]["serial"]
    );
    let since = humantime::parse_rfc3339(stale["replaced"].as_str().unwrap()).unwrap();
    let replaced = humantime::parse_rfc3339(stale["served"]["since"].as_str().unwrap()).unwrap();
    let apart = since
        .duration_since(replaced)
        .unwrap_or_else(|error| error.duration());
    assert!(apart.as_secs() < 30, "{stale:#}");
    let shown = text(bed, &[target, "--name", "www.test"]);
    for part in ["NOT LIVE", "replaced at", serial, "sds-agent status"] {
        assert!(shown.contains(part), "no {part}: {shown}");
    }

    // Only the leaf, then the complete chain.
    fs::write(others.root.credential("site").join("cert"), &second.leaf).unwrap();
    fs::write(others.root.credential("site").join("key"), &second.key).unwrap();
    let chain = listener.wait_for("chain_differs");
    assert_eq!(chain["credential"], "site");
    others.root.write_pair("site", &second);
    listener.wait_for("live");

    // A foreign certificate for the same name.
    others
        .root
        .write_pair("site", &Ca::new("Another CA").server(&names));
    let foreign = listener.wait_for("unknown_certificate");
    assert_eq!(
        (&foreign["credential"], &foreign["replaced"]),
        (&Value::Null, &Value::Null)
    );
    assert_eq!(foreign["presented"]["leaf"]["issuer"], "CN=Another CA");
    let shown = text(bed, &[target, "--name", "www.test"]);
    assert!(
        shown.contains("has not served since its start on"),
        "{shown}"
    );

    // The certificate of another credential.
    let other = bed.ca.server(&["other.test"]);
    bed.root.write_pair("other", &other);
    others.root.write_pair("site", &other);
    let wrong = listener.wait_for("other_credential");
    assert_eq!(
        (&wrong["credential"], &wrong["served"]["credential"]),
        (&"other".into(), &"site".into())
    );

    // A credential that is removed: Envoy keeps what its configuration names.
    others.root.write_pair("site", &second);
    listener.wait_for("live");
    bed.root.remove("site");
    let removed = listener.wait_for("replaced");
    assert_eq!(
        (&removed["credential"], &removed["served"]),
        (&"site".into(), &Value::Null)
    );
    listener.envoy.assert_no_rejection();
}

#[test]
fn a_missing_or_old_staple_is_not_live() {
    let Some(program) = require(&ENVOY) else {
        return;
    };
    let bed = Bed::new();
    let identity = bed.ca.server(&["www.test"]);
    bed.root.write("site", &[("ca.crt", bed.ca.pem())]);
    let hosts = [Host::new("www.test", "site")];
    let listener = Listener::start(&program, bed, &identity, &hosts);
    let Listener { bed, others, .. } = &listener;
    listener.wait_for("live");
    let files = [bed, others].map(|bed| bed.root.credential("site").join("tls.ocsp-staple"));
    let good = staple(&bed.ca, &identity, Status::Good, 7);
    fs::write(&files[0], &good).unwrap();
    let missing = listener.wait_for("staple_differs");
    assert_eq!(missing["presented"]["staple"], Value::Null);
    assert_eq!(missing["served"]["staple"], fingerprint(&good));
    fs::write(&files[1], &good).unwrap();
    listener.wait_for("live");
    fs::write(&files[0], staple(&bed.ca, &identity, Status::Good, 8)).unwrap();
    let old = listener.wait_for("staple_differs");
    assert_eq!(old["presented"]["staple"], fingerprint(&good));
}

#[test]
fn a_client_certificate_is_presented_on_request() {
    let Some(program) = require(&ENVOY) else {
        return;
    };
    let bed = Bed::new();
    let clients = Ca::new("Client CA");
    let identity = bed.ca.server(&["www.test"]);
    let hosts = [Host::new("www.test", "site").client_ca("site-cacert")];
    let listener = Listener::start(&program, bed, &identity, &hosts);
    listener
        .others
        .root
        .write("site", &[("ca.crt", clients.pem())]);
    let client = clients.client("me");
    let stranger = Ca::new("Another CA").client("me");
    let write = |name: &str, text: &str| {
        let path = listener.bed.scratch(name);
        fs::write(&path, text).unwrap();
        path.to_str().unwrap().to_owned()
    };
    let (chain, key) = (
        write("client.pem", &client.chain),
        write("client.key", &client.key),
    );
    let both = write("both.pem", &(stranger.key.clone() + &stranger.chain));

    eventually_true("the certificate", || {
        listener.verdict(&["--name", "www.test"])["verdict"] == "live"
    });
    let without = listener.verdict(&["--name", "www.test"]);
    assert_eq!(without["presented"]["client_certificate"], "not_given");
    let shown = text(&listener.bed, &[&listener.target, "--name", "www.test"]);
    assert!(shown.contains("requests a client certificate"), "{shown}");
    let with = listener.verdict(&["--name", "www.test", "--cert", &chain, "--key", &key]);
    assert_eq!(with["presented"]["client_certificate"], "given");
    assert_eq!(with["verdict"], "live");
    let refused = listener.verdict(&["--name", "www.test", "--cert", &both]);
    assert_eq!(refused["presented"]["client_certificate"], "refused");
    assert_eq!(refused["verdict"], "client_refused");

    for arguments in [
        &["--cert", &chain, "--key", &chain][..],
        &["--cert", &key],
        &["--cert", &both, "--key", &key],
        &["--cert", "/nowhere"],
        &["--key", &key],
    ] {
        let output = probe(&listener.bed, &[&[&*listener.target], arguments].concat());
        assert_eq!(output.status.code(), Some(2), "{arguments:?}: {output:?}");
        let printed = String::from_utf8(output.stderr).unwrap();
        assert!(!printed.contains("PRIVATE KEY"), "{printed}");
    }
}

#[test]
fn each_kind_of_key_is_probed_where_a_host_has_several() {
    let openssl = tools::program("openssl", "apt-get install openssl");
    if require(&openssl).is_none() {
        return;
    }
    let bed = Bed::new();
    let rsa = || {
        let key = rcgen::KeyPair::generate_for(&rcgen::PKCS_RSA_SHA256).unwrap();
        let usage = rcgen::ExtendedKeyUsagePurpose::ServerAuth;
        bed.ca
            .issue(&crate::util::pki::leaf_params(&["www.test"], usage), &key)
    };
    let (ecdsa, old) = (bed.ca.server(&["www.test"]), rsa());
    bed.root.write_pair("site-ecdsa", &ecdsa);
    bed.root.write_pair("site-rsa", &old);
    let _agent = bed.ready_agent();
    let server = Server::start(&bed, &ecdsa, Some(&old), &[]);
    let verdicts = || {
        let (code, json) = json(&bed, &[&server.target, "--name", "www.test"]);
        let probes = json["probes"].as_array().unwrap().iter();
        let verdict =
            |one: &Value| format!("{} {}", one["credential"], one["verdict"]).replace('"', "");
        (code, probes.map(verdict).collect::<Vec<_>>())
    };
    assert_eq!(
        verdicts(),
        (0, vec!["site-ecdsa live".into(), "site-rsa live".into()])
    );
    bed.root.write_pair("site-rsa", &rsa());
    eventually_true("the replaced one", || {
        verdicts()
            == (
                1,
                vec!["site-ecdsa live".into(), "site-rsa replaced".into()],
            )
    });
}

/// OpenSSL's own server, on an IPv6 address.
struct Server {
    _process: Process,
    target: String,
}

impl Server {
    fn start(bed: &Bed, identity: &Identity, second: Option<&Identity>, options: &[&str]) -> Self {
        let folder = bed.scratch("server");
        fs::create_dir_all(&folder).unwrap();
        let write = |name: &str, identity: &Identity| {
            fs::write(folder.join(format!("{name}.crt")), &identity.chain).unwrap();
            fs::write(folder.join(format!("{name}.key")), &identity.key).unwrap();
        };
        write("a", identity);
        let free = TcpListener::bind((Ipv6Addr::LOCALHOST, 0)).unwrap();
        let target = format!("[::1]:{}", free.local_addr().unwrap().port());
        drop(free);
        let mut command = Command::new("openssl");
        command.args([
            "s_server", "-quiet", "-cert", "a.crt", "-key", "a.key", "-accept", &target,
        ]);
        if let Some(second) = second {
            write("b", second);
            command.args(["-dcert", "b.crt", "-dkey", "b.key"]);
        }
        command
            .args(options)
            .current_dir(&folder)
            .stdin(Stdio::null());
        let process = Process::spawn("openssl s_server", &mut command);
        eventually_true("openssl's listener", || {
            std::net::TcpStream::connect(target.trim_start_matches("tcp:")).is_ok()
        });
        Self {
            _process: process,
            target,
        }
    }
}

#[test]
fn a_server_of_tls_1_2_on_ipv6_is_probed_with_and_without_a_name() {
    let openssl = tools::program("openssl", "apt-get install openssl");
    if require(&openssl).is_none() {
        return;
    }
    let bed = Bed::new();
    let identity = bed.ca.server(&["www.test", "::1"]);
    bed.root.write_pair("site", &identity);
    let _agent = bed.ready_agent();
    let server = Server::start(&bed, &identity, None, &["-tls1_2", "-Verify", "1"]);
    for arguments in [&["--name", "www.test"][..], &[], &["--all"]] {
        let (code, json) = json(&bed, &[&[&*server.target], arguments].concat());
        // It requires a client certificate to complete the handshake.
        assert_eq!(code, 0, "{json:#}");
        for probe in json["probes"].as_array().unwrap() {
            assert_eq!(probe["presented"]["client_certificate"], "not_given");
        }
    }
    // A name that is an address is only probed at that address.
    let (_, elsewhere) = json(&bed, &["127.0.0.1:1", "--all"]);
    assert_eq!(elsewhere["skipped"], serde_json::json!(["::1"]));
    assert_eq!(elsewhere["probes"].as_array().unwrap().len(), 1);
}

#[test]
fn the_reason_of_a_failed_handshake_is_reported() {
    let bed = Bed::new();
    bed.pair("www");
    let _agent = bed.ready_agent();
    let silent = TcpListener::bind("127.0.0.1:0").unwrap();
    let silent = silent.local_addr().unwrap().to_string();
    let plain = TcpListener::bind("127.0.0.1:0").unwrap();
    let plain_address = plain.local_addr().unwrap().to_string();
    std::thread::spawn(move || {
        for connection in plain.incoming() {
            let _ =
                std::io::Write::write_all(&mut connection.unwrap(), b"HTTP/1.1 400 Bad\r\n\r\n");
        }
    });
    let keep = TcpListener::bind(&*silent);
    for (target, why) in [
        ("127.0.0.1:1", "Connection refused"),
        (&plain_address, "does not speak TLS"),
        (&silent, "within 1 s"),
        ("no-such-host.invalid:443", "no address"),
    ] {
        let (code, json) = json(&bed, &[target, "--name", "www.test", "--timeout", "1"]);
        let probe = &json["probes"][0];
        assert_eq!((code, &probe["verdict"]), (1, &"failed".into()), "{json:#}");
        let message = format!("{} {}", probe["why"], probe["remedy"]);
        assert!(
            message.contains(why) || target.contains("invalid"),
            "{message}"
        );
        assert_eq!(probe["served"]["credential"], "www");
    }
    drop(keep);
}

#[test]
fn impossible_targets_are_errors_with_a_remedy() {
    let bed = Bed::new();
    for (arguments, expected) in [
        (&["localhost"][..], "HOST:PORT"),
        (&["::1:443"], "brackets"),
        (&["https://localhost:443"], "URL"),
        (&["localhost:443", "--name", "192.0.2.1"], "host name"),
        (
            &["localhost:443", "--name", "a", "--all"],
            "cannot be used with",
        ),
        (&["localhost:443", "--timeout", "0"], "1..=60"),
        (&[], "HOST:PORT"),
        (&["localhost:443"], "shows whether the agent is running"),
    ] {
        let output = probe(&bed, arguments);
        let error = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(2), "{arguments:?}: {error}");
        assert!(error.contains(expected), "{arguments:?}: {error}");
    }
    // Without a certificate, there is nothing to probe.
    let _agent = bed.ready_agent();
    let output = probe(&bed, &["localhost:443", "--all"]);
    assert_eq!(output.status.code(), Some(2), "{output:?}");
}
