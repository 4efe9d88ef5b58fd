//! The state-of-the-world protocol.

use sds_agent::proto::SECRET_TYPE_URL;
use sds_agent::proto::discovery::DiscoveryRequest;
use tonic::Code;

use crate::util::Bed;
use crate::util::sds::secrets_of;

#[test]
fn a_subscription_is_answered_but_an_ack_is_not() {
    let bed = Bed::new();
    let identity = bed.pair("site");
    let _agent = bed.agent();
    let mut stream = bed.client().sotw();
    stream.subscribe(&["site"]);
    let served = stream.secret();
    assert_eq!(served.name, "site");
    assert!(served.is_pair(&identity.chain, &identity.key));
    stream.stream.assert_silent();
}

#[test]
fn a_change_is_sent_once_with_another_version() {
    let bed = Bed::new();
    bed.pair("site");
    let _agent = bed.agent();
    let mut stream = bed.client().sotw();
    stream.subscribe(&["site"]);
    let before = stream.secret();
    let identity = bed.pair("site");
    let after = stream.secret();
    assert!(after.is_pair(&identity.chain, &identity.key));
    assert_ne!(after.version, before.version);
    stream.stream.assert_silent();
}

#[test]
fn the_same_content_has_the_same_version_in_another_agent() {
    let bed = Bed::new();
    let identity = bed.pair("site");
    let version = || {
        let _agent = bed.agent();
        let mut stream = bed.client().sotw();
        stream.subscribe(&["site"]);
        stream.secret().version
    };
    let first = version();
    assert_eq!(version(), first);
    bed.root.remove("site");
    bed.root.write_pair("site", &identity);
    assert_eq!(version(), first);
}

#[test]
fn the_same_content_written_again_is_not_a_change() {
    let bed = Bed::new();
    let identity = bed.pair("site");
    let _agent = bed.agent();
    let mut stream = bed.client().sotw();
    stream.subscribe(&["site"]);
    stream.secret();
    bed.root.write_pair("site", &identity);
    stream.stream.assert_silent();
}

#[test]
fn after_a_nack_nothing_is_sent_until_the_content_changes() {
    let bed = Bed::new();
    bed.pair("site");
    let agent = bed.agent();
    let mut stream = bed.client().node("edge-7").sotw();
    stream.subscribe(&["site"]);
    let response = stream.recv();
    stream.nack(&response, "these are Envoy's words");
    agent.wait_for_line(&["site", "edge-7", "these are Envoy's words"]);
    stream.stream.assert_silent();

    let identity = bed.pair("site");
    assert!(stream.secret().is_pair(&identity.chain, &identity.key));
}

#[test]
fn a_stale_nonce_is_ignored() {
    let bed = Bed::new();
    bed.pair("site");
    let _agent = bed.agent();
    let mut stream = bed.client().sotw();
    stream.subscribe(&["site"]);
    let first = stream.recv();
    stream.ack(&first);
    bed.pair("site");
    let second = stream.recv();
    stream.ack(&first);
    stream.nack(&first, "too late");
    stream.stream.assert_silent();
    stream.ack(&second);
    stream.stream.assert_silent();
}

#[test]
fn an_unknown_name_waits_in_silence_and_is_answered_when_it_appears() {
    let bed = Bed::new();
    let _agent = bed.agent();
    let mut stream = bed.client().sotw();
    stream.subscribe(&["site"]);
    stream.stream.assert_silent();
    let identity = bed.pair("site");
    assert!(stream.secret().is_pair(&identity.chain, &identity.key));
}

#[test]
fn an_unknown_name_delays_no_other() {
    let bed = Bed::new();
    bed.pair("known");
    let _agent = bed.agent();
    let mut stream = bed.client().sotw();
    stream.subscribe(&["unknown", "known"]);
    assert_eq!(stream.secret().name, "known");
    stream.stream.assert_silent();
    bed.pair("unknown");
    let names: Vec<_> = stream.secrets().into_iter().map(|s| s.name).collect();
    assert!(names.contains(&"unknown".to_owned()), "{names:?}");
}

#[test]
fn a_name_added_to_the_subscription_is_answered() {
    let bed = Bed::new();
    bed.pair("one");
    bed.pair("two");
    let _agent = bed.agent();
    let mut stream = bed.client().sotw();
    stream.subscribe(&["one"]);
    assert_eq!(stream.secret().name, "one");
    stream.subscribe(&["one", "two"]);
    let names: Vec<_> = stream.secrets().into_iter().map(|s| s.name).collect();
    assert!(names.contains(&"two".to_owned()), "{names:?}");
    stream.stream.assert_silent();
}

#[test]
fn a_name_dropped_and_subscribed_again_is_answered_again() {
    let bed = Bed::new();
    bed.pair("one");
    bed.pair("two");
    let _agent = bed.agent();
    let mut stream = bed.client().sotw();
    stream.subscribe(&["one", "two"]);
    assert_eq!(stream.secrets().len(), 2);
    stream.subscribe(&["one"]);
    bed.pair("two");
    stream.stream.assert_silent();
    stream.subscribe(&["one", "two"]);
    let names: Vec<_> = stream.secrets().into_iter().map(|s| s.name).collect();
    assert!(names.contains(&"two".to_owned()), "{names:?}");
}

#[test]
fn a_reconnecting_stream_that_has_the_version_is_answered() {
    let bed = Bed::new();
    bed.pair("site");
    let _agent = bed.agent();
    let mut stream = bed.client().sotw();
    stream.subscribe(&["site"]);
    let before = stream.secret();
    drop(stream);
    let mut stream = bed.client().sotw();
    stream.resume(&["site"], &before.version);
    assert_eq!(stream.secret(), before);
    stream.stream.assert_silent();
}

#[test]
fn a_change_made_while_disconnected_is_sent_on_reconnect() {
    let bed = Bed::new();
    bed.pair("site");
    let agent = bed.agent();
    let mut stream = bed.client().sotw();
    stream.subscribe(&["site"]);
    let before = stream.secret();
    drop(stream);
    agent.terminate();
    let identity = bed.pair("site");
    let _agent = bed.agent();
    let mut stream = bed.client().sotw();
    stream.resume(&["site"], &before.version);
    assert!(stream.secret().is_pair(&identity.chain, &identity.key));
}

#[test]
fn removal_of_a_secret_sends_nothing_and_its_return_is_answered() {
    let bed = Bed::new();
    bed.pair("site");
    let agent = bed.agent();
    let mut stream = bed.client().sotw();
    stream.subscribe(&["site"]);
    stream.secret();
    bed.root.remove("site");
    agent.wait_for_line(&["removed", "site"]);
    stream.stream.assert_silent();
    let identity = bed.pair("site");
    assert!(stream.secret().is_pair(&identity.chain, &identity.key));
}

#[test]
fn neither_an_empty_subscription_nor_a_wildcard_gets_a_secret() {
    let bed = Bed::new();
    bed.pair("site");
    let _agent = bed.agent();
    for names in [&[][..], &["*"], &[""], &["*", ""]] {
        let mut stream = bed.client().sotw();
        stream.subscribe(names);
        stream.stream.assert_silent();
        bed.pair("site");
        stream.stream.assert_silent();
        // The stream still works like any other.
        stream.subscribe(&["site"]);
        assert_eq!(stream.secret().name, "site");
    }
}

#[test]
fn an_empty_type_url_means_secret_and_another_one_ends_only_that_stream() {
    let bed = Bed::new();
    bed.pair("site");
    let _agent = bed.agent();
    let client = bed.client();
    let mut bystander = client.sotw();
    bystander.subscribe(&["site"]);
    bystander.secret();

    let request = |type_url: &str| DiscoveryRequest {
        resource_names: vec!["site".into()],
        type_url: type_url.into(),
        ..DiscoveryRequest::default()
    };
    let mut stream = client.sotw();
    stream.stream.send(request(""));
    let response = stream.recv();
    assert_eq!(response.type_url, SECRET_TYPE_URL);
    assert_eq!(secrets_of(&response)[0].name, "site");

    let mut stream = client.sotw();
    stream.stream.send(request(
        "type.googleapis.com/envoy.config.cluster.v3.Cluster",
    ));
    assert_eq!(stream.stream.end(), Code::InvalidArgument);

    bystander.stream.assert_silent();
    bed.pair("site");
    bystander.secret();
}

#[test]
fn a_rotation_goes_only_to_the_streams_that_subscribed_to_it() {
    let bed = Bed::new();
    bed.pair("one");
    bed.pair("two");
    let _agent = bed.agent();
    let client = bed.client();
    let (mut one, mut two) = (client.sotw(), client.sotw());
    one.subscribe(&["one"]);
    two.subscribe(&["two"]);
    one.secret();
    two.secret();
    bed.pair("two");
    two.secret();
    one.stream.assert_silent();
}

#[test]
fn subscriptions_deliveries_and_rejections_are_logged_with_the_client() {
    let bed = Bed::new();
    bed.pair("site");
    let agent = bed.agent();
    let mut stream = bed.client().node("edge-7").sotw();
    stream.subscribe(&["site"]);
    let response = stream.recv();
    stream.nack(&response, "no good");
    let pid = std::process::id().to_string();
    let user = rustix::process::getuid().as_raw().to_string();
    for what in ["subscri", "deliver", "no good"] {
        agent.wait_for_line(&[what, "site", "edge-7", &pid, &user]);
    }
}
