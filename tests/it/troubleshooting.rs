//! What `docs/troubleshooting.md` quotes from Envoy's statistics, from its admin interface and from the agent,
//! provoked with a real Envoy.

use std::path::Path;
use std::process::Command;

use serde_json::{Value, json};

use crate::util::agent::PROGRAM;
use crate::util::hello::{Answer, hello};
use crate::util::tools::ENVOY;
use crate::util::{Bed, Envoy, Host, Protocol, eventually_true, require};

/// The sum of the listener's statistics of that name.
fn of_listener(envoy: &Envoy, name: &str) -> u64 {
    let stats = envoy.stats_where(|stat| {
        stat.starts_with("listener.127.0.0.1") && stat.ends_with(&format!(".{name}"))
    });
    stats.iter().map(|(_, value)| value).sum()
}

fn wait_until_open(envoy: &Envoy) {
    eventually_true("the listener's start", || {
        envoy.stat("listener_manager.workers_started") == 1
    });
}

/// The names of the secrets that Envoy is waiting for.
fn warming(envoy: &Envoy) -> Vec<Value> {
    let dump = envoy.admin("GET", "/config_dump?resource=dynamic_warming_secrets");
    let dump: Value = serde_json::from_str(&dump).unwrap();
    let secrets = dump["configs"].as_array().cloned().unwrap_or_default();
    secrets.iter().map(|one| one["name"].clone()).collect()
}

fn status(bed: &Bed) -> String {
    let output = Command::new(PROGRAM)
        .args(["status", "--admin-socket"])
        .arg(bed.admin())
        .output()
        .unwrap();
    String::from_utf8(output.stdout).unwrap()
}

fn docs() -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/troubleshooting.md");
    std::fs::read_to_string(path).unwrap()
}

#[test]
fn a_changed_listener_waits_for_its_secret_and_the_previous_one_serves() {
    let Some(program) = require(&ENVOY) else {
        return;
    };
    let bed = Bed::new();
    let site = bed.pair("site");
    let agent = bed.ready_agent();
    let listener = |secret| [Host::new("site.test", secret)];
    let envoy = Envoy::start(&program, &bed.socket(), Protocol::Sotw, &listener("site"));
    wait_until_open(&envoy);
    let serves = |leaf: &[u8]| hello(envoy.port(), Some(b"site.test")).shows(leaf);
    eventually_true("the certificate", || serves(&site.der));
    assert_eq!(warming(&envoy), [""; 0]);

    envoy.set_hosts(&listener("later"));
    let is_warming = || envoy.stat("listener_manager.total_listeners_warming") == 1;
    eventually_true("the wait for the secret", is_warming);
    assert_eq!(warming(&envoy), [json!("later")]);
    assert_eq!(envoy.stat("sds.later.update_attempt"), 1);
    assert_eq!(envoy.stat("sds.later.update_success"), 0);
    assert!(serves(&site.der), "the previous listener is closed");
    agent.wait_for_line(&["subscribed", "later", "known=false", "protocol=\"sotw\""]);
    let shown = status(&bed);
    assert!(
        shown.contains("requested but missing: later (1 stream)"),
        "{shown}"
    );

    let later = bed.ca.server(&["site.test"]);
    bed.root.write_pair("later", &later);
    eventually_true("the new listener", || serves(&later.der));
    assert!(!is_warming());
    for quoted in [
        "total_listeners_warming: 1",
        "resource=dynamic_warming_secrets",
        "requested but missing: NAME (1 stream)",
    ] {
        assert!(docs().contains(quoted), "{quoted}");
    }
}

#[test]
fn resets_without_a_secret_and_without_a_filter_chain_can_be_distinguished() {
    let Some(program) = require(&ENVOY) else {
        return;
    };
    let bed = Bed::new();
    let site = bed.pair("site");
    let agent = bed.ready_agent();
    let hosts = [
        Host::new("site.test", "site"),
        Host::new("missing.test", "missing"),
    ];
    let envoy = Envoy::start(&program, &bed.socket(), Protocol::Delta, &hosts);
    wait_until_open(&envoy);
    eventually_true("the certificate", || {
        hello(envoy.port(), Some(b"site.test")).shows(&site.der)
    });
    let counts = || {
        let of_context = "server_ssl_socket_factory.downstream_context_secrets_not_ready";
        [of_context, "no_filter_chain_match"].map(|name| of_listener(&envoy, name))
    };
    assert_eq!(counts(), [0, 0]);
    let missing = hello(envoy.port(), Some(b"missing.test"));
    assert_eq!(missing, Answer::Refused);
    assert_eq!(counts(), [1, 0]);
    let unmatched = hello(envoy.port(), Some(b"other.test"));
    assert_eq!(unmatched, Answer::Refused);
    assert_eq!(counts(), [1, 1]);

    assert_eq!(warming(&envoy), [json!("missing")]);
    // As for a name that was sent.
    assert_eq!(envoy.stat("sds.missing.update_success"), 1);
    agent.wait_for_line(&["subscribed", "missing", "known=false", "protocol=\"delta\""]);
    let shown = status(&bed);
    assert!(
        shown.contains("requested but missing: missing (1 stream)"),
        "{shown}"
    );
    assert!(!shown.contains("other.test"), "{shown}");
    for quoted in [
        "downstream_context_secrets_not_ready",
        "no_filter_chain_match",
    ] {
        assert!(docs().contains(quoted), "{quoted}");
    }
}
