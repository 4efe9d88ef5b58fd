//! Certificates with names that are not host names, with very many names, and very many with the same name.

use rcgen::{CertificateParams, CustomExtension};
use time::{Duration, OffsetDateTime};

use super::assert_others_go_on;
use crate::util::{Bed, Identity, admin};

/// The maximum length of a log line.
const MAX_LINE: usize = 2_000;

/// A certificate with these DNS names, whatever they are.
fn named(bed: &Bed, names: &[&[u8]]) -> Identity {
    let names: Vec<u8> = names.iter().flat_map(|name| tagged(0x82, name)).collect();
    let extension = CustomExtension::from_oid_content(&[2, 5, 29, 17], tagged(0x30, &names));
    bed.ca
        .server_with(&["site.test"], |params: &mut CertificateParams| {
            params.subject_alt_names = Vec::new();
            params.custom_extensions = vec![extension];
        })
}

/// DER: a tag, a length and a content.
fn tagged(tag: u8, content: &[u8]) -> Vec<u8> {
    let length = u16::try_from(content.len()).unwrap().to_be_bytes();
    let header = match content.len() {
        0..128 => vec![tag, length[1]],
        128..256 => vec![tag, 0x81, length[1]],
        _ => vec![tag, 0x82, length[0], length[1]],
    };
    [&header, content].concat()
}

#[test]
fn a_san_that_is_not_a_host_name_covers_no_host() {
    let bed = Bed::new();
    let long = "l".repeat(254);
    let label = format!("{}.test", "l".repeat(64));
    let cases: [(&str, &[u8], &[&str]); 9] = [
        ("star", b"*", &["star-host", "x.test"]),
        ("star-com", b"*.com", &["x.com", "com", "a.x.com"]),
        ("star-within", b"a.*.b", &["a.x.b", "a..b"]),
        ("star-in-label", b"w*.x.test", &["www.x.test"]),
        ("empty", b"", &["."]),
        ("non-ascii", "b\u{fc}cher.test".as_bytes(), &[]),
        ("not-utf-8", b"\xff\xfe.test", &[]),
        ("long", long.as_bytes(), &[&long]),
        ("long-label", label.as_bytes(), &[&label]),
    ];
    for (name, san, _) in &cases {
        let identity = named(&bed, &[san, b"beside.test"]);
        bed.root.write_pair(name, &identity);
    }
    let agent = bed.ready_agent();
    let mut stream = bed.client().delta();
    for (name, san, hosts) in cases {
        // It is served under its folder's name, or rejected with a log line.
        stream.subscribe(&[name]);
        let changes = stream.changes();
        if changes.secrets.is_empty() {
            agent.wait_for_line(&["rejected", name]);
        } else {
            agent.wait_for_line(&["loaded", name]);
        }
        for host in hosts {
            stream.subscribe(&[host]);
            assert_eq!(stream.removed(), [*host], "{san:?}");
        }
    }
    assert_others_go_on(&bed);
}

#[test]
fn a_certificate_with_2000_names_is_served_for_each_and_logged_in_short_lines() {
    let bed = Bed::new();
    let names: Vec<String> = (0..2000).map(|i| format!("host-{i:04}.test")).collect();
    let names: Vec<&str> = names.iter().map(String::as_str).collect();
    let identity = bed.ca.server(&names);
    bed.root.write_pair("many", &identity);
    let agent = bed.agent();
    agent.wait_for_line(&["loaded", "credential=\"many\"", "and 1990 more"]);
    let mut stream = bed.client().delta();
    for host in ["host-0000.test", "host-1999.test"] {
        stream.subscribe(&[host]);
        assert!(stream.secret().is_pair(&identity.chain, &identity.key));
    }
    // Even the line about its problem is short.
    bed.root.write("many", &[("key", "broken")]);
    agent.wait_for_line(&["rejected", "credential=\"many\""]);
    let longest = agent.lines().iter().map(String::len).max().unwrap();
    assert!(longest < MAX_LINE, "{longest}");
}

#[test]
fn of_1000_folders_for_one_host_the_one_that_expires_last_is_served() {
    let bed = Bed::new();
    let expiring = |days: i64| {
        bed.ca
            .server_with(&["site.test"], |params: &mut CertificateParams| {
                params.not_after = OffsetDateTime::now_utc() + Duration::days(days);
            })
    };
    let (last, others) = (expiring(200), expiring(100));
    for i in 0..1000 {
        bed.root.write_pair(&format!("c{i:03}"), &others);
    }
    bed.root.write_pair("c500", &last);
    let _agent = bed.ready_agent();
    let mut stream = bed.client().delta();
    stream.subscribe(&["site.test"]);
    assert!(stream.secret().is_pair(&last.chain, &last.key));
    bed.root.remove("c500");
    assert!(stream.secret().is_pair(&others.chain, &others.key));
    // Of equal ones it is the first by name, and the next has the same content.
    let source = |name: &str| {
        admin::secret(&bed.admin(), name, |secret| {
            let subscribers = secret["subscribers"].as_array().unwrap();
            subscribers
                .iter()
                .any(|one| one["requested"] == "site.test")
        })
    };
    source("c000");
    bed.root.remove("c000");
    source("c001");
    stream.0.assert_silent();
}

#[test]
fn credential_names_are_case_sensitive_and_host_names_are_not() {
    let bed = Bed::new();
    let (upper, lower) = (bed.ca.server(&["one.test"]), bed.ca.server(&["two.test"]));
    bed.root.write_pair("Site", &upper);
    bed.root.write_pair("site", &lower);
    let _agent = bed.ready_agent();
    let mut stream = bed.client().delta();
    for (name, identity) in [
        ("Site", &upper),
        ("site", &lower),
        ("ONE.test", &upper),
        ("Two.Test.", &lower),
    ] {
        stream.subscribe(&[name]);
        let served = stream.secret();
        assert!(served.name == name && served.is_pair(&identity.chain, &identity.key));
    }
    stream.subscribe(&["SITE"]);
    assert_eq!(stream.removed(), ["SITE"]);
}

#[test]
fn a_certificate_without_alternative_names_is_warned_of() {
    let bed = Bed::new();
    let identity = bed
        .ca
        .server_with(&["site.test"], |params: &mut CertificateParams| {
            params.subject_alt_names = Vec::new();
        });
    bed.root.write_pair("plain", &identity);
    bed.pair("site");
    let agent = bed.agent();
    agent.wait_for_line(&[
        "WARN",
        "credential=\"plain\"",
        "no subject alternative name",
    ]);
    assert!(
        agent
            .lines_with(&["WARN", "credential=\"site\"", "alternative"])
            .is_empty()
    );
    let secret = admin::secret(&bed.admin(), "plain", |_| true);
    assert!(
        secret["warnings"]
            .to_string()
            .contains("no subject alternative name"),
        "{secret}"
    );
}
