//! `sds-agent get` prints what Envoy would receive.

use std::process::Command;

use serde_json::Value;

use crate::util::agent::PROGRAM;
use crate::util::{Bed, Identity};

#[track_caller]
fn stdout(bed: &Bed, arguments: &[&str]) -> String {
    let output = bed.get(arguments);
    assert!(output.status.success(), "{output:?}");
    String::from_utf8(output.stdout).unwrap()
}

/// The file of a key also contains the public half, which the certificate shows.
#[track_caller]
fn assert_no_private_part_in(text: &str, identity: &Identity) {
    assert!(!text.contains("PRIVATE KEY"), "{text}");
    // The bytes 48 to 66 of a PKCS #8 file of a P-256 key are in the middle of the private half.
    let second = identity.key.lines().nth(2).unwrap();
    assert!(!text.contains(&second[..24]), "{text}");
}

#[test]
fn a_pair_is_shown_without_its_key_unless_it_is_requested() {
    let bed = Bed::new();
    let identity = bed.pair("site");
    let _agent = bed.ready_agent();
    let shown = stdout(&bed, &["site"]);
    assert!(shown.contains(&identity.chain), "{shown}");
    let key = format!("<private key, P-256, {} bytes>\n", identity.key.len());
    assert!(shown.contains(&key), "{shown}");
    assert_no_private_part_in(&shown, &identity);

    let revealed = stdout(&bed, &["site", "--reveal-key"]);
    assert!(revealed.contains(&identity.key), "{revealed}");
}

#[test]
fn get_prints_the_same_as_json() {
    let bed = Bed::new();
    let identity = bed.pair("site");
    let _agent = bed.ready_agent();
    let json = stdout(&bed, &["site", "--output", "json"]);
    assert_no_private_part_in(&json, &identity);
    let json: Value = serde_json::from_str(&json).unwrap();
    assert_eq!(json["name"], "site");
    assert_eq!(json["kind"], "certificate");
    assert_eq!(json["certificate_chain"], identity.chain.as_str());
    assert!(json["version"].is_string());
    let revealed = stdout(&bed, &["site", "--output", "json", "--reveal-key"]);
    let revealed: Value = serde_json::from_str(&revealed).unwrap();
    assert_eq!(revealed["private_key"], identity.key.as_str());
}

#[test]
fn a_bundle_is_printed_under_its_own_name() {
    let bed = Bed::new();
    bed.pair("site");
    bed.root.write("site", &[("cacert", bed.ca.pem())]);
    let _agent = bed.ready_agent();
    let shown = stdout(&bed, &["site-cacert"]);
    assert!(shown.contains("trust bundle"), "{shown}");
    assert!(shown.contains(bed.ca.pem().trim_end()), "{shown}");
}

#[test]
fn an_unknown_name_exits_with_1_and_a_missing_agent_with_2() {
    let bed = Bed::new();
    let output = bed.get(&["site"]);
    assert_eq!(output.status.code(), Some(2), "{output:?}");
    let _agent = bed.ready_agent();
    let output = bed.get(&["no\nsuch"]);
    assert_eq!(output.status.code(), Some(1), "{output:?}");
    let message = String::from_utf8_lossy(&output.stderr);
    assert!(message.contains("no secret `no\\nsuch`"), "{message}");
    assert!(output.stdout.is_empty());
}

#[test]
fn a_socket_that_does_not_speak_sds_is_reported() {
    let bed = Bed::new();
    let _agent = bed.ready_agent();
    let output = Command::new(PROGRAM)
        .args(["get", "site", "--socket"])
        .arg(bed.admin())
        .output()
        .unwrap();
    assert_eq!(output.status.code(), Some(2));
    let message = String::from_utf8_lossy(&output.stderr);
    assert!(message.contains(bed.admin().to_str().unwrap()), "{message}");
}
