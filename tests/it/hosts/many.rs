//! Many subscribed hosts: their cost, and that a change is only sent for the hosts that it affects.

use sds_agent::proto::SECRET_TYPE_URL;
use sds_agent::proto::discovery::DeltaDiscoveryRequest;

use super::{configured, write};
use crate::util::sds::Delta;
use crate::util::{Bed, Identity, eventually_true};

/// As many names as a stream may have by default.
const PER_STREAM: usize = 16_384;

fn subscribe(stream: &mut Delta, names: Vec<String>) {
    stream.0.send(DeltaDiscoveryRequest {
        type_url: SECRET_TYPE_URL.into(),
        resource_names_subscribe: names,
        ..DeltaDiscoveryRequest::default()
    });
}

/// Receives `count` secrets, and asserts that each is `identity`.
#[track_caller]
fn receive(stream: &mut Delta, count: usize, identity: &Identity) {
    let mut received = 0;
    while received < count {
        let changes = stream.changes();
        assert!(changes.removed.is_empty(), "{:?}", changes.removed);
        for secret in &changes.secrets {
            assert!(secret.is_pair(&identity.chain, &identity.key), "{secret:?}");
        }
        received += changes.secrets.len();
    }
    assert_eq!(received, count);
}

#[test]
fn fifty_thousand_hosts_of_one_certificate_take_less_than_60_mb() {
    const HOSTS: usize = 50_000;
    const BOUND_KIB: u64 = 60_000_000 / 1024;
    let bed = Bed::new();
    let site = write(&bed, "site", &["*.example.test"]);
    let agent = configured(&bed, "log_level = \"warn\"\n");
    let client = bed.client();
    let before = agent.resident_kib();
    let names: Vec<_> = (0..HOSTS)
        .map(|number| format!("host-{number}.example.test"))
        .collect();
    let mut streams: Vec<_> = names
        .chunks(PER_STREAM)
        .map(|names| {
            let mut stream = client.delta();
            subscribe(&mut stream, names.to_vec());
            receive(&mut stream, names.len(), &site);
            (stream, names.len())
        })
        .collect();
    let after = agent.resident_kib();
    eprintln!("resident memory: {before} KiB, then {after} KiB");
    assert!(after < before + BOUND_KIB, "{before} KiB, then {after} KiB");

    // A rotation is sent for all of them, and leaves no memory in use.
    let renewed = write(&bed, "site", &["*.example.test"]);
    for (stream, count) in &mut streams {
        receive(stream, *count, &renewed);
    }
    let rotated = agent.resident_kib();
    eprintln!("resident memory after a rotation: {rotated} KiB");
    assert!(
        rotated < before + BOUND_KIB,
        "{before} KiB, then {rotated} KiB"
    );
}

#[test]
fn a_rotation_wakes_only_the_streams_that_it_affects() {
    const CREDENTIALS: usize = 2_000;
    const HOSTS: usize = 10_000;
    let bed = Bed::new();
    let shared = bed.ca.server(&["*.shared.test"]);
    for number in 0..CREDENTIALS {
        bed.root.write_pair(&format!("shared-{number}"), &shared);
    }
    let one = write(&bed, "one", &["one.test", "*.one.test"]);
    let agent = configured(&bed, "log_level = \"info\"\n");
    let client = bed.client();
    let (mut crowd, mut concerned) = (client.delta(), client.delta());
    let hosts = (0..HOSTS).map(|number| format!("host-{number}.shared.test"));
    subscribe(&mut crowd, hosts.collect());
    receive(&mut crowd, HOSTS, &shared);
    let names = ["one", "one.test", "www.one.test", "ONE.test"];
    concerned.subscribe(&names);
    receive(&mut concerned, names.len(), &one);

    let delivered = || agent.lines_with(&["key_delivered"]).len();
    eventually_true("a line for each delivery", || {
        delivered() == HOSTS + names.len()
    });
    let renewed = write(&bed, "one", &["one.test", "*.one.test"]);
    receive(&mut concerned, names.len(), &renewed);
    crowd.0.assert_silent();
    concerned.0.assert_silent();
    // The same certificate in one more folder, and in one less: the best one stays the same.
    bed.root.write_pair("a", &shared);
    bed.root.remove("shared-1999");
    agent.wait_for_line(&["removed", "shared-1999"]);
    crowd.0.assert_silent();
    assert_eq!(delivered(), HOSTS + 2 * names.len());
}
