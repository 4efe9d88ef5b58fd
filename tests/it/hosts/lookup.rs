//! Which credential is served for a host, through the socket.

use std::fs;
use std::os::unix::fs::PermissionsExt;

use rcgen::{CertificateParams, DnType, KeyPair};

use super::{configured, ending, write};
use crate::util::sds::{Delta, Served};
use crate::util::users::{ROOT, connect_as};
use crate::util::{Bed, Identity, Sds, require};

/// Users and groups that this machine has no entries for.
const ALICE: (u32, u32) = (54_341, 54_342);
const BOB: (u32, u32) = (54_351, 54_352);

#[track_caller]
fn assert_is(served: &Served, name: &str, identity: &Identity) {
    assert_eq!(served.name, name, "the name is the requested one");
    assert!(served.is_pair(&identity.chain, &identity.key), "{served:?}");
}

/// Asserts that the next response has these secrets, and these names as nonexistent.
#[track_caller]
fn expect(stream: &mut Delta, secrets: &[(&str, &Identity)], removed: &[&str]) {
    let (mut served, mut gone) = (Vec::new(), Vec::new());
    // Changes that happen together may arrive in several responses.
    while served.len() < secrets.len() || gone.len() < removed.len() {
        let changes = stream.changes();
        served.extend(changes.secrets);
        gone.extend(changes.removed);
    }
    served.sort_by(|a, b| a.name.cmp(&b.name));
    gone.sort();
    let mut expected = secrets.to_vec();
    expected.sort_by_key(|(name, _)| *name);
    assert_eq!(served.len(), expected.len(), "{served:?}");
    for (one, (name, identity)) in served.iter().zip(expected) {
        assert_is(one, name, identity);
    }
    let mut removed = removed.to_vec();
    removed.sort_unstable();
    assert_eq!(gone, removed);
}

#[test]
fn each_spelling_of_a_host_finds_its_certificate() {
    let bed = Bed::new();
    let names = [
        "www.example.test",
        "xn--bcher-kva.example",
        "192.0.2.7",
        "2001:db8::7",
    ];
    let site = write(&bed, "site", &names);
    let wildcard = write(&bed, "wildcard", &["*.xn--bcher-kva.example", "*.2.7"]);
    let _agent = bed.ready_agent();
    let mut stream = bed.client().delta();
    for (name, identity) in [
        ("www.example.test", &site),
        ("WWW.EXAMPLE.TEST", &site),
        ("www.example.test.", &site),
        ("kubernetes://www.example.test", &site),
        ("bücher.example", &site),
        ("BÜCHER.Example.", &site),
        ("XN--BCHER-KVA.example", &site),
        ("shop.bücher.example", &wildcard),
        ("192.0.2.7", &site),
        ("2001:DB8:0:0::7", &site),
        ("[2001:db8::7]", &site),
    ] {
        stream.subscribe(&[name]);
        expect(&mut stream, &[(name, identity)], &[]);
    }
    for name in [
        "example.test",
        "a.www.example.test",
        "192.0.2.8",
        "192.0.2.7:443",
        "2001:db8::8",
        "*.xn--bcher-kva.example",
        "*",
        "a.b.bücher.example",
        "www.example.test..",
        "www.example.test-cacert",
    ] {
        stream.subscribe(&[name]);
        expect(&mut stream, &[], &[name]);
    }
}

#[test]
fn the_best_certificate_is_served_and_a_change_of_it_is_sent_only_to_its_hosts() {
    let bed = Bed::new();
    let wildcard = ending(&bed, &["*.example.test"], 300);
    bed.root.write_pair("wildcard", &wildcard);
    let _agent = bed.ready_agent();
    let mut stream = bed.client().delta();
    stream.subscribe(&["www.example.test", "api.example.test", "other.test"]);
    let (www, api) = ("www.example.test", "api.example.test");
    expect(
        &mut stream,
        &[(www, &wildcard), (api, &wildcard)],
        &["other.test"],
    );

    // An exact name takes precedence, although it expires sooner.
    let exact = ending(&bed, &["www.example.test"], 30);
    bed.root.write_pair("exact", &exact);
    expect(&mut stream, &[(www, &exact)], &[]);
    stream.0.assert_silent();

    // A second certificate that expires sooner changes nothing.
    let worse = ending(&bed, &["www.example.test", "*.example.test"], 20);
    bed.root.write_pair("worse", &worse);
    stream.0.assert_silent();

    // If two expire at the same time, the name decides.
    bed.root.remove("worse");
    bed.root.write_pair("a-tie", &exact);
    stream.0.assert_silent();
    let tie = bed.ca.server_with(&["www.example.test"], |params| {
        params.not_before = time::OffsetDateTime::from_unix_timestamp(1_700_000_000).unwrap();
        params.not_after = time::OffsetDateTime::from_unix_timestamp(4_000_000_000).unwrap();
    });
    let same = bed.ca.server_with(&["www.example.test"], |params| {
        params.not_before = time::OffsetDateTime::from_unix_timestamp(1_700_000_000).unwrap();
        params.not_after = time::OffsetDateTime::from_unix_timestamp(4_000_000_000).unwrap();
    });
    bed.root.write_pair("m", &tie);
    expect(&mut stream, &[(www, &tie)], &[]);
    bed.root.write_pair("n", &same);
    stream.0.assert_silent();
    bed.root.write_pair("c", &same);
    expect(&mut stream, &[(www, &same)], &[]);
    bed.root.remove("c");
    expect(&mut stream, &[(www, &tie)], &[]);
    bed.root.remove("m");
    expect(&mut stream, &[(www, &same)], &[]);
    bed.root.remove("n");
    // The same bytes are in two folders: whichever is served, the client has them after one response.
    expect(&mut stream, &[(www, &exact)], &[]);
    bed.root.remove("a-tie");
    stream.0.assert_silent();
    bed.root.remove("exact");
    expect(&mut stream, &[(www, &wildcard)], &[]);
    bed.root.remove("wildcard");
    expect(&mut stream, &[], &[www, api]);
    stream.0.assert_silent();

    // A folder of exactly that name takes precedence over any certificate.
    let other = write(&bed, "certificate", &["other.test"]);
    expect(&mut stream, &[("other.test", &other)], &[]);
    let folder = write(&bed, "other.test", &["something.else"]);
    expect(&mut stream, &[("other.test", &folder)], &[]);
}

#[test]
fn the_common_name_counts_only_without_alternative_names() {
    let bed = Bed::new();
    let mut params = CertificateParams::new(Vec::new()).unwrap();
    params
        .distinguished_name
        .push(DnType::CommonName, "cn.test");
    let lone = bed.ca.issue(&params, &KeyPair::generate().unwrap());
    bed.root.write_pair("lone", &lone);
    let both = bed.ca.server_with(&["san.test"], |params| {
        params
            .distinguished_name
            .push(DnType::CommonName, "beside.test");
    });
    bed.root.write_pair("both", &both);
    let _agent = bed.ready_agent();
    let mut stream = bed.client().delta();
    stream.subscribe(&["cn.test", "san.test", "beside.test"]);
    expect(
        &mut stream,
        &[("cn.test", &lone), ("san.test", &both)],
        &["beside.test"],
    );
}

#[test]
fn access_to_a_host_is_access_to_the_credential_that_covers_it() {
    if require(&ROOT).is_none() {
        return;
    }
    let bed = Bed::new();
    fs::set_permissions(bed.scratch(""), PermissionsExt::from_mode(0o711)).unwrap();
    let wildcard = write(&bed, "wildcard", &["*.example.test"]);
    let exact = write(&bed, "exact", &["www.example.test"]);
    let agent = configured(
        &bed,
        &format!(
            "[listen]\nmode = \"0666\"\n[[access]]\nsecrets = [\"wildcard\"]\nusers = [{}]\n\
             [[access]]\nsecrets = [\"exact\", \"free\", \"*.test\"]\nusers = [{}]\n",
            ALICE.0, BOB.0
        ),
    );
    let stream = |(uid, gid)| {
        let connection = connect_as(&bed.socket(), uid, gid).unwrap();
        Sds::on(connection).unwrap().delta()
    };
    let (mut alice, mut bob) = (stream(ALICE), stream(BOB));
    let names = ["www.example.test", "api.example.test", "free.test"];
    for stream in [&mut alice, &mut bob] {
        stream.subscribe(&names);
    }
    let [www, api, free] = names;
    // The exact one does not exist for Alice, so the wildcard is the best one for her.
    expect(&mut alice, &[(www, &wildcard), (api, &wildcard)], &[free]);
    // A rule for the host's name gives Bob nothing.
    expect(&mut bob, &[(www, &exact)], &[api, free]);

    // Forbidden and nonexistent names have the same answers, and the same silence.
    let hidden = write(&bed, "hidden", &[free, "*.example.test"]);
    agent.wait_for_line(&["loaded", "hidden"]);
    for stream in [&mut alice, &mut bob] {
        stream.0.assert_silent();
    }
    for (user, name) in [(ALICE, "hidden"), (ALICE, "exact"), (BOB, free), (BOB, api)] {
        let mut fresh = stream(user);
        fresh.subscribe(&[name, "no-such-name.test"]);
        let mut removed = fresh.removed();
        removed.sort();
        let mut expected = [name, "no-such-name.test"];
        expected.sort_unstable();
        assert_eq!(removed, expected);
        fresh.0.assert_silent();
    }
    agent.wait_for_line(&["audit", "refused", "exact"]);

    // The same certificate in a folder that Bob is allowed to read.
    bed.root.write_pair("free", &hidden);
    expect(&mut bob, &[(api, &hidden), (free, &hidden)], &[]);
    alice.0.assert_silent();
    bed.root.remove("exact");
    expect(&mut bob, &[(www, &hidden)], &[]);
    alice.0.assert_silent();
}
