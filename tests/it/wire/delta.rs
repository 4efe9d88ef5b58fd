//! The delta protocol.

use sds_agent::proto::discovery::DeltaDiscoveryRequest;
use tonic::Code;

use crate::util::Bed;
use crate::util::wait::QUIET;

#[test]
fn a_subscription_is_answered_but_an_ack_is_not() {
    let bed = Bed::new();
    let identity = bed.pair("site");
    let _agent = bed.agent();
    let mut stream = bed.client().delta();
    stream.subscribe(&["site"]);
    let served = stream.secret();
    assert_eq!(served.name, "site");
    assert!(served.is_pair(&identity.chain, &identity.key));
    stream.0.assert_silent();
}

#[test]
fn only_what_changed_is_sent() {
    let bed = Bed::new();
    bed.pair("one");
    bed.pair("two");
    let _agent = bed.agent();
    let mut stream = bed.client().delta();
    stream.subscribe(&["one", "two"]);
    let mut served = Vec::new();
    while served.len() < 2 {
        served.extend(stream.changes().secrets);
    }
    let identity = bed.pair("two");
    let served = stream.secret();
    assert_eq!(served.name, "two");
    assert!(served.is_pair(&identity.chain, &identity.key));
    stream.0.assert_silent();
}

#[test]
fn an_unknown_name_is_reported_as_removed_once_and_sent_when_it_appears() {
    let bed = Bed::new();
    let _agent = bed.agent();
    let mut stream = bed.client().delta();
    stream.subscribe(&["site"]);
    assert_eq!(stream.removed(), ["site"]);
    stream.0.assert_silent();
    let identity = bed.pair("site");
    assert!(stream.secret().is_pair(&identity.chain, &identity.key));
    stream.0.assert_silent();
}

#[test]
fn a_removed_secret_is_reported_as_removed_once() {
    let bed = Bed::new();
    bed.pair("site");
    let _agent = bed.agent();
    let mut stream = bed.client().delta();
    stream.subscribe(&["site"]);
    stream.secret();
    bed.root.remove("site");
    assert_eq!(stream.removed(), ["site"]);
    stream.0.assert_silent();
    let identity = bed.pair("site");
    assert!(stream.secret().is_pair(&identity.chain, &identity.key));
}

#[test]
fn a_folder_deleted_and_created_again_immediately_is_a_rotation() {
    let bed = Bed::new();
    bed.pair("site");
    let _agent = bed.agent();
    let mut stream = bed.client().delta();
    stream.subscribe(&["site"]);
    stream.secret();
    for _ in 0..20 {
        bed.root.remove("site");
        let identity = bed.pair("site");
        // This also asserts that nothing is reported as removed.
        assert!(stream.secret().is_pair(&identity.chain, &identity.key));
    }
    stream.0.assert_silent();
}

#[test]
fn a_name_subscribed_again_is_answered_again_known_or_not() {
    let bed = Bed::new();
    bed.pair("site");
    let _agent = bed.agent();
    let mut stream = bed.client().delta();
    stream.subscribe(&["site"]);
    let first = stream.secret();
    stream.subscribe(&["site"]);
    assert_eq!(stream.secret(), first);
    stream.unsubscribe(&["site"]);
    stream.subscribe(&["site"]);
    assert_eq!(stream.secret(), first);

    stream.subscribe(&["unknown"]);
    assert_eq!(stream.removed(), ["unknown"]);
    stream.subscribe(&["unknown"]);
    assert_eq!(stream.removed(), ["unknown"]);
    stream.0.assert_silent();
}

#[test]
fn nothing_is_sent_for_an_unsubscribed_name() {
    let bed = Bed::new();
    bed.pair("one");
    bed.pair("two");
    let _agent = bed.agent();
    let mut stream = bed.client().delta();
    stream.subscribe(&["one"]);
    stream.secret();
    stream.unsubscribe(&["one"]);
    // The answer to this shows that the request before it was read.
    stream.subscribe(&["two"]);
    stream.secret();
    bed.pair("one");
    bed.root.remove("one");
    bed.pair("one");
    stream.0.assert_silent();
}

#[test]
fn a_reconnecting_stream_gets_only_what_changed_meanwhile() {
    let bed = Bed::new();
    for name in ["same", "changed", "gone"] {
        bed.pair(name);
    }
    let agent = bed.agent();
    let mut versions = Vec::new();
    for name in ["same", "changed", "gone"] {
        let mut stream = bed.client().delta();
        stream.subscribe(&[name]);
        versions.push((name, stream.secret().version));
    }
    agent.terminate();
    let identity = bed.pair("changed");
    bed.root.remove("gone");
    let _agent = bed.agent();

    let known: Vec<_> = versions.iter().map(|(n, v)| (*n, v.as_str())).collect();
    let mut stream = bed.client().delta();
    stream.resume(&known);
    let (mut secrets, mut removed) = (Vec::new(), Vec::new());
    while secrets.is_empty() || removed.is_empty() {
        let changes = stream.changes();
        secrets.extend(changes.secrets);
        removed.extend(changes.removed);
    }
    assert_eq!(removed, ["gone"]);
    assert_eq!(secrets.len(), 1, "{secrets:?}");
    assert!(secrets[0].is_pair(&identity.chain, &identity.key));
    stream.0.assert_silent();

    bed.pair("same");
    assert_eq!(stream.secret().name, "same");
}

#[test]
fn after_a_nack_nothing_is_sent_until_the_content_changes() {
    let bed = Bed::new();
    bed.pair("site");
    let agent = bed.agent();
    let mut stream = bed.client().node("edge-8").delta();
    stream.subscribe(&["site"]);
    let response = stream.recv();
    stream.nack(&response, "these are Envoy's words");
    agent.wait_for_line(&["site", "edge-8", "these are Envoy's words"]);
    stream.0.assert_silent();
    let identity = bed.pair("site");
    assert!(stream.secret().is_pair(&identity.chain, &identity.key));
}

#[test]
fn neither_an_empty_subscription_nor_a_wildcard_gets_a_secret() {
    let bed = Bed::new();
    bed.pair("site");
    // A file system allows this name, and Envoy would accept it as the response for a wildcard.
    bed.pair("*");
    let _agent = bed.agent();
    for names in [&[][..], &["*"], &[""], &["*", ""]] {
        let mut stream = bed.client().delta();
        stream.subscribe(names);
        // A name may be reported as nonexistent; an empty subscription has none.
        while let Some(response) = stream.0.recv_within(QUIET) {
            assert!(response.resources.is_empty(), "{names:?}: {response:?}");
            assert!(!response.removed_resources.is_empty(), "an empty response");
            stream.ack(&response);
        }
        bed.pair("site");
        stream.0.assert_silent();
        stream.subscribe(&["site"]);
        assert_eq!(stream.secret().name, "site");
    }
}

#[test]
fn requested_names_are_never_used_as_paths() {
    let bed = Bed::new();
    let identity = bed.pair("site");
    crate::util::folders::write_files(
        &bed.root.beside("outside"),
        &[("cert", &identity.chain), ("key", &identity.key)],
    );
    let _agent = bed.agent();
    let long = "n".repeat(250);
    let absolute = bed.root.credential("site");
    let names = [
        "../outside",
        "site/",
        "./site",
        "site/../site",
        "../../etc/passwd",
        "a/b",
        "a\tb",
        "site\n",
        "site.",
        "SITE",
        long.as_str(),
        absolute.to_str().unwrap(),
    ];
    let mut stream = bed.client().delta();
    for name in names {
        stream.subscribe(&[name]);
        assert_eq!(stream.removed(), [name]);
    }
}

#[test]
fn another_type_url_ends_only_that_stream() {
    let bed = Bed::new();
    bed.pair("site");
    let _agent = bed.agent();
    let client = bed.client();
    let mut bystander = client.delta();
    bystander.subscribe(&["site"]);
    bystander.secret();

    let mut stream = client.delta();
    stream.0.send(DeltaDiscoveryRequest {
        type_url: "type.googleapis.com/envoy.config.listener.v3.Listener".into(),
        resource_names_subscribe: vec!["site".into()],
        ..DeltaDiscoveryRequest::default()
    });
    assert_eq!(stream.0.end(), Code::InvalidArgument);

    let mut stream = client.delta();
    stream.0.send(DeltaDiscoveryRequest {
        resource_names_subscribe: vec!["site".into()],
        ..DeltaDiscoveryRequest::default()
    });
    assert_eq!(stream.secret().name, "site");

    bystander.0.assert_silent();
    bed.pair("site");
    bystander.secret();
}
