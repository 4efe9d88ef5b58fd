//! A certificate that is not valid now next to one that is, as time passes.

use crate::util::clock::Clock;
use crate::util::sds::Delta;
use crate::util::{Identity, eventually_true};

#[track_caller]
fn assert_is(stream: &mut Delta, identity: &Identity) {
    let secret = stream.secret();
    assert!(secret.is_pair(&identity.chain, &identity.key), "{secret:?}");
}

/// Asserts that the next `count` secrets, in however many responses, are this pair.
#[track_caller]
fn assert_are(stream: &mut Delta, count: usize, identity: &Identity) {
    let mut received = 0;
    while received < count {
        for secret in stream.changes().secrets {
            assert!(secret.is_pair(&identity.chain, &identity.key), "{secret:?}");
            received += 1;
        }
    }
    assert_eq!(received, count);
}

/// The version under `name` that a new client gets.
#[track_caller]
fn fresh(clock: &Clock, name: &str, identity: &Identity) -> String {
    let mut stream = clock.bed.client().delta();
    stream.subscribe(&[name]);
    let secret = stream.secret();
    assert!(secret.is_pair(&identity.chain, &identity.key), "{secret:?}");
    secret.version
}

#[test]
fn a_renewal_that_is_not_valid_yet_takes_over_when_its_time_comes() {
    let Some(clock) = Clock::new() else { return };
    let bed = &clock.bed;
    let now = clock.identity("www.example.test", -1, 60);
    let next = clock.identity("www.example.test", 10, 90);
    bed.root.write_pair("site", &now);
    let agent = clock.agent();
    let mut stream = bed.client().delta();
    stream.subscribe(&["site"]);
    assert_is(&mut stream, &now);

    bed.root.write_pair("site", &next);
    clock.poke(&agent);
    stream.0.assert_silent();
    let version = fresh(&clock, "www.example.test", &now);

    // Across a restart, a client keeps what it has, and is sent the next one when that becomes valid.
    drop(agent);
    let agent = clock.agent();
    let mut stream = bed.client().delta();
    stream.resume(&[("site", &version), ("www.example.test", &version)]);
    stream.0.assert_silent();
    clock.set("+9d");
    clock.poke(&agent);
    stream.0.assert_silent();
    clock.set("+11d");
    clock.poke(&agent);
    assert_are(&mut stream, 2, &next);
}

#[test]
fn a_renewal_that_has_expired_does_not_replace_one_that_is_valid() {
    let Some(clock) = Clock::new() else { return };
    let bed = &clock.bed;
    let now = clock.identity("www.example.test", -1, 60);
    let expired = clock.identity("www.example.test", -90, -30);
    bed.root.write_pair("site", &now);
    let agent = clock.agent();
    let mut stream = bed.client().delta();
    stream.subscribe(&["site", "www.example.test"]);
    let version = stream.changes().secrets[0].version.clone();
    bed.root.write_pair("site", &expired);
    clock.poke(&agent);
    stream.0.assert_silent();

    drop(agent);
    let agent = clock.agent();
    let mut stream = bed.client().delta();
    stream.resume(&[("site", &version), ("www.example.test", &version)]);
    clock.poke(&agent);
    stream.0.assert_silent();
    // For a client that has nothing, an expired certificate is better than none.
    fresh(&clock, "site", &expired);
    let good = clock.identity("www.example.test", -1, 61);
    bed.root.write_pair("site", &good);
    assert_are(&mut stream, 2, &good);
}

#[test]
fn the_best_certificate_for_a_host_changes_when_one_becomes_valid_or_expires() {
    let Some(clock) = Clock::new() else { return };
    let bed = &clock.bed;
    let host = "www.example.test";
    let short = clock.identity(host, -1, 20);
    let long = clock.identity(host, 10, 30);
    let late = clock.identity(host, -1, 25);
    bed.root.write_pair("short", &short);
    bed.root.write_pair("long", &long);
    let agent = clock.agent();
    let mut stream = bed.client().delta();
    stream.subscribe(&[host]);
    assert_is(&mut stream, &short);
    bed.root.write_pair("late", &late);
    assert_is(&mut stream, &late);

    for (offset, best) in [("+11d", Some(&long)), ("+21d", None), ("+26d", None)] {
        clock.set(offset);
        clock.poke(&agent);
        match best {
            Some(identity) => assert_is(&mut stream, identity),
            None => stream.0.assert_silent(),
        }
    }
    // All have expired: the one that expired last is served, until a valid one is added.
    clock.set("+31d");
    clock.poke(&agent);
    stream.0.assert_silent();
    let renewed = clock.identity(host, -1, 40);
    bed.root.write_pair("short", &renewed);
    assert_is(&mut stream, &renewed);
    eventually_true("a line about the end", || {
        !agent.lines_with(&["has expired"]).is_empty() || !agent.lines_with(&["expired"]).is_empty()
    });
}
