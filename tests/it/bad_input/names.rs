//! Folders that are not served because of their name or content.

use super::receive;
use crate::util::Bed;

#[test]
fn names_that_are_not_served_are_logged_once_with_their_reason() {
    let bed = Bed::new();
    let long = "n".repeat(254);
    let names = [
        "istio-ca",
        "istiod",
        "prometheus-cert",
        "with\u{1}control",
        "with\nnewline",
        long.as_str(),
    ];
    for name in names {
        bed.pair_without_host(name);
    }
    bed.pair_without_host("token-inside");
    bed.root.write("token-inside", &[("token", "eyJ")]);
    bed.pair_without_host(".hidden");
    bed.pair("site");
    let agent = bed.agent();
    agent.wait_for_line(&["loaded", "site"]);

    let mut stream = bed.client().delta();
    let not_served = names.iter().copied().chain(["token-inside", ".hidden"]);
    for name in not_served.clone() {
        stream.subscribe(&[name]);
        assert_eq!(stream.removed(), [name]);
    }
    // Reading them again changes nothing.
    for name in not_served.clone() {
        bed.pair_without_host(name);
    }
    bed.pair("site");
    agent.wait_for_line(&["rotated", "site"]);
    stream.0.assert_silent();
    for name in not_served.filter(|name| !name.starts_with('.')) {
        let shown = name.escape_debug().to_string();
        agent.wait_for_line(&["WARN", &shown]);
        let lines = agent.lines_with(&["WARN", &shown]);
        assert_eq!(lines.len(), 1, "{name:?}: {lines:#?}");
    }
}

#[test]
fn a_name_of_253_bytes_is_served() {
    let bed = Bed::new();
    let name = "n".repeat(253);
    let identity = bed.pair_without_host(&name);
    let _agent = bed.agent();
    let mut stream = bed.client().delta();
    stream.subscribe(&[&name]);
    assert!(stream.secret().is_pair(&identity.chain, &identity.key));
}

#[test]
fn names_of_other_scripts_and_with_spaces_are_served() {
    let bed = Bed::new();
    let names = ["schlüssel", "鍵", "with space", "UPPER", "a.b-c_d", "-dash"];
    for name in names {
        bed.pair_without_host(name);
    }
    let _agent = bed.agent();
    let mut stream = bed.client().delta();
    stream.subscribe(&names);
    let mut served: Vec<_> = receive(&mut stream, names.len())
        .into_iter()
        .map(|served| served.name)
        .collect();
    served.sort();
    let mut due = names.map(str::to_owned);
    due.sort();
    assert_eq!(served, due);
}

#[test]
fn files_next_to_the_folders_are_skipped() {
    let bed = Bed::new();
    let identity = bed.pair("site");
    std::fs::write(bed.root.path().join("README"), "certbot writes this").unwrap();
    std::fs::write(bed.root.path().join("cert"), &identity.chain).unwrap();
    std::fs::write(bed.root.path().join("key"), &identity.key).unwrap();
    let agent = bed.agent();
    let mut stream = bed.client().delta();
    stream.subscribe(&["README"]);
    assert_eq!(stream.removed(), ["README"]);
    stream.subscribe(&["site"]);
    stream.secret();
    let problems = agent.lines_with(&["rejected"]);
    assert!(problems.is_empty(), "{problems:#?}");
}

#[test]
fn a_bundle_alone_is_served_under_both_names_after_its_delay() {
    let bed = Bed::new();
    let trust = bed.ca.pem().to_owned();
    bed.root.write("clients", &[("cacert", &trust)]);
    bed.root.write("own-cacert", &[("cacert", &trust)]);
    let _agent = bed.agent();
    let mut stream = bed.client().delta();
    stream.subscribe(&["clients", "clients-cacert", "own-cacert"]);
    let mut served = receive(&mut stream, 3);
    served.sort_by(|a, b| a.name.cmp(&b.name));
    let names: Vec<_> = served.iter().map(|served| served.name.as_str()).collect();
    assert_eq!(names, ["clients", "clients-cacert", "own-cacert"]);
    assert!(served.iter().all(|served| served.is_trust(&trust)));
}

#[test]
fn a_folder_whose_ca_is_copied_first_is_not_served_as_a_bundle() {
    let bed = Bed::new();
    let _agent = bed.agent();
    let mut stream = bed.client().delta();
    for round in 0..10 {
        let name = format!("site-{round}");
        stream.subscribe(&[&name]);
        assert_eq!(stream.removed(), [name.as_str()]);
        bed.root.write(&name, &[("cacert", bed.ca.pem())]);
        let identity = bed.pair(&name);
        assert!(stream.secret().is_pair(&identity.chain, &identity.key));
    }
}

#[test]
fn a_folder_named_like_a_bundle_takes_precedence_over_that_bundle() {
    let bed = Bed::new();
    let own = crate::util::Ca::new("Of its own");
    bed.pair("site");
    bed.root.write("site", &[("cacert", bed.ca.pem())]);
    let _agent = bed.agent();
    let mut stream = bed.client().delta();
    stream.subscribe(&["site-cacert"]);
    assert!(stream.secret().is_trust(bed.ca.pem()));
    bed.root.write("site-cacert", &[("cacert", own.pem())]);
    assert!(stream.secret().is_trust(own.pem()));
    bed.root.remove("site-cacert");
    assert!(stream.secret().is_trust(bed.ca.pem()));
}
