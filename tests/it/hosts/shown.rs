//! The credential that is served for a host, in the log, in `status` and in `get`.

use serde_json::Value;

use super::write;
use crate::util::{Bed, admin};

#[test]
fn the_log_names_the_credential_that_was_served_for_a_host() {
    let bed = Bed::new();
    write(&bed, "site", &["*.example.test"]);
    let agent = bed.ready_agent();
    let mut stream = bed.client().delta();
    stream.subscribe(&["www.example.test"]);
    stream.secret();
    for event in ["subscribed", "key_delivered"] {
        agent.wait_for_line(&[event, "www.example.test", "credential=\"site\""]);
    }
}

#[test]
fn status_shows_hosts_with_the_credential_served_for_them() {
    let bed = Bed::new();
    write(&bed, "site", &["*.example.test"]);
    let _agent = bed.ready_agent();
    let mut stream = bed.client().delta();
    stream.subscribe(&["www.example.test", "unknown.test"]);
    stream.changes();
    let has_one = |secret: &Value| secret["subscribers"].as_array().unwrap().len() == 1;
    let site = admin::secret(&bed.admin(), "site", has_one);
    assert_eq!(site["credential"], "site");
    assert_eq!(site["subscribers"][0]["requested"], "www.example.test");
    let state = admin::status(&bed.admin());
    assert_eq!(state["waiting"]["names"][0]["name"], "unknown.test");
}

#[test]
fn get_prints_the_credential_that_is_served_for_a_host() {
    let bed = Bed::new();
    let site = write(&bed, "site", &["*.example.test"]);
    let _agent = bed.ready_agent();
    let host = "www.example.test";

    let output = bed.get(&[host]);
    assert!(output.status.success(), "{output:?}");
    let shown = String::from_utf8(output.stdout).unwrap();
    assert!(shown.contains(&site.chain), "{shown}");
    assert!(
        shown.starts_with("# www.example.test, of the credential site: "),
        "{shown}"
    );

    let output = bed.get(&[host, "--output", "json"]);
    let shown: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(
        (&shown["name"], &shown["credential"]),
        (&host.into(), &"site".into())
    );

    // Under its own name there is nothing to add.
    let output = bed.get(&["site"]);
    let shown = String::from_utf8(output.stdout).unwrap();
    assert!(shown.starts_with("# site: "), "{shown}");
    let output = bed.get(&["site", "--output", "json"]);
    let shown: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(shown["credential"], "site");
}
