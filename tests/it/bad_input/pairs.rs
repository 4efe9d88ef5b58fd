//! Pairs that Envoy would reject, and unusual pairs that it accepts.

use rcgen::{CertificateParams, CustomExtension, KeyPair, SignatureAlgorithm, date_time_ymd};

use super::Spoiled;
use crate::util::{Bed, Ca, Envoy, Host, Identity, Protocol, eventually_true, require, tools};

/// A name, and the content of `cert` and `key`.
type Case = (&'static str, Vec<u8>, Vec<u8>);

macro_rules! fixture {
    ($name:literal) => {
        include_bytes!(concat!("../fixtures/credential/", $name)).to_vec()
    };
}

/// Every row of what Envoy rejects.
fn rejected_pairs(ca: &Ca) -> Vec<Case> {
    let pair = ca.server(&["x.test"]);
    let chain = pair.chain.clone().into_bytes();
    let key = pair.key.clone().into_bytes();
    let other = ca.server(&["y.test"]);
    let cut = |text: &str, len: usize| text.as_bytes()[..len].to_vec();
    let two_blocks = format!("{}{}", pair.leaf, ca.pem());
    let must_staple = ca.server_with(&["x.test"], |params| {
        let extension =
            CustomExtension::from_oid_content(&[1, 3, 6, 1, 5, 5, 7, 1, 24], vec![48, 3, 2, 1, 5]);
        params.custom_extensions = vec![extension];
    });
    let ed25519 = of_key(ca, "x.test", &rcgen::PKCS_ED25519);
    vec![
        ("key-of-another", chain.clone(), other.key.into_bytes()),
        ("certificate-not-pem", b"no PEM".to_vec(), key.clone()),
        ("certificate-der", pair.der.clone(), key.clone()),
        ("certificate-empty", Vec::new(), key.clone()),
        ("certificate-blank", b"\n \n".to_vec(), key.clone()),
        ("certificate-is-a-key", key.clone(), key.clone()),
        ("certificate-cut", cut(&pair.leaf, 300), key.clone()),
        (
            "second-block-cut",
            cut(&two_blocks, pair.leaf.len() + 200),
            key.clone(),
        ),
        (
            "second-block-broken",
            format!("{}{}", pair.leaf, broken(ca.pem())).into_bytes(),
            key.clone(),
        ),
        ("key-empty", chain.clone(), Vec::new()),
        ("key-not-pem", chain.clone(), b"no PEM".to_vec()),
        ("key-is-a-certificate", chain.clone(), chain.clone()),
        ("key-cut", chain.clone(), cut(&pair.key, 100)),
        ("key-broken", chain.clone(), broken(&pair.key).into_bytes()),
        ("rsa-1024", fixture!("rsa1024.crt"), fixture!("rsa1024.key")),
        (
            "secp256k1",
            fixture!("secp256k1.crt"),
            fixture!("secp256k1.key"),
        ),
        ("p-224", fixture!("p224.crt"), fixture!("p224.key")),
        (
            "encrypted-pkcs8",
            fixture!("encrypted-pkcs8.crt"),
            fixture!("encrypted-pkcs8.key"),
        ),
        (
            "encrypted-traditional",
            fixture!("encrypted-pkcs1.crt"),
            fixture!("encrypted-pkcs1.key"),
        ),
        // As aws-lc writes it, with the public key.
        (
            "pkcs8-version-2",
            ed25519.chain.into_bytes(),
            ed25519.key.into_bytes(),
        ),
        (
            "must-staple-without-staple",
            must_staple.chain.into_bytes(),
            must_staple.key.into_bytes(),
        ),
    ]
}

fn of_key(ca: &Ca, host: &str, algorithm: &'static SignatureAlgorithm) -> Identity {
    let params = CertificateParams::new(vec![host.to_owned()]).unwrap();
    ca.issue(&params, &KeyPair::generate_for(algorithm).unwrap())
}

/// The PEM block with its base64 cut to an invalid length.
fn broken(pem: &str) -> String {
    let mut lines: Vec<&str> = pem.lines().collect();
    lines[1] = &lines[1][..lines[1].len() - 3];
    lines.join("\n") + "\n"
}

#[test]
fn a_pair_that_envoy_rejects_never_replaces_a_valid_one() {
    let cases = rejected_pairs(&Ca::new("Test CA"));
    let names: Vec<&str> = cases.iter().map(|(name, ..)| *name).collect();
    let mut spoiled = Spoiled::new(&names);
    for (name, cert, key) in &cases {
        let files = [("cert", cert), ("key", key)];
        spoiled.bed.root.write(name, &files);
    }
    spoiled.assert_previous_version_stays();
}

#[test]
fn a_pair_that_envoy_rejects_is_never_served_initially() {
    let bed = Bed::new();
    let cases = rejected_pairs(&bed.ca);
    for (name, cert, key) in &cases {
        bed.root.write(name, &[("cert", cert), ("key", key)]);
    }
    let agent = bed.agent();
    let mut stream = bed.client().delta();
    for (name, ..) in &cases {
        agent.wait_for_line(&["rejected", name]);
        stream.subscribe(&[name]);
        assert_eq!(stream.removed(), [*name]);
    }
    stream.0.assert_silent();
}

#[test]
fn an_invalid_pair_is_served_once_it_becomes_valid() {
    let bed = Bed::new();
    bed.root.write("site", &[("cert", "bad"), ("key", "bad")]);
    let agent = bed.agent();
    agent.wait_for_line(&["rejected", "site"]);
    let mut stream = bed.client().delta();
    stream.subscribe(&["site"]);
    assert_eq!(stream.removed(), ["site"]);
    let identity = bed.pair("site");
    assert!(stream.secret().is_pair(&identity.chain, &identity.key));
}

/// The name of a chain of 200 kB.
const HUGE: &str = "huge-chain";

/// Unusual pairs that must reach Envoy in a form that it accepts.
fn accepted_pairs(ca: &Ca) -> Vec<Case> {
    let bytes = |text: &str| text.as_bytes().to_vec();
    let issuer = ca.intermediate("Intermediate");
    let pair = |host: &str| issuer.server(&[host]);
    let p384 = of_key(ca, "p-384.test", &rcgen::PKCS_ECDSA_P384_SHA384);
    let crlf = pair("crlf.test");
    let text = pair("text-around.test");
    let mark = pair("byte-order-mark.test");
    let second = pair("own-certificate-second.test");
    let expired = ca.server_with(&["expired.test"], |params| {
        params.not_before = date_time_ymd(2020, 1, 1);
        params.not_after = date_time_ymd(2021, 1, 1);
    });
    let early = ca.server_with(&["not-yet-valid.test"], |params| {
        params.not_before = date_time_ymd(2090, 1, 1);
        params.not_after = date_time_ymd(2091, 1, 1);
    });
    let chain_of = |host: &str, length: usize| {
        let pair = pair(host);
        let filler = ca.pem().repeat(length / ca.pem().len());
        (format!("{}{filler}", pair.chain), pair.key)
    };
    let large = chain_of("large-chain.test", 60_000);
    let huge = chain_of(HUGE, 200_000);
    vec![
        ("p-384", bytes(&p384.chain), bytes(&p384.key)),
        ("ed25519", fixture!("ed25519.crt"), fixture!("ed25519.key")),
        ("p521", fixture!("p521.crt"), fixture!("p521.key")),
        ("rsa2048", fixture!("rsa2048.crt"), fixture!("rsa2048.key")),
        (
            "rsa2048-pkcs1",
            fixture!("rsa2048-pkcs1.crt"),
            fixture!("rsa2048-pkcs1.key"),
        ),
        (
            "sec1-parameters",
            fixture!("p256-parameters.crt"),
            fixture!("p256-parameters.key"),
        ),
        ("sec1", fixture!("p256.crt"), fixture!("p256.key")),
        (
            "crlf",
            bytes(&crlf.chain.replace('\n', "\r\n")),
            bytes(&crlf.key.replace('\n', "\r\n")),
        ),
        (
            "text-around",
            bytes(&format!("subject=x\n{}\nissuer=y\n", text.chain)),
            bytes(&format!("Bag Attributes\n{}\nend\n", text.key)),
        ),
        (
            "byte-order-mark",
            bytes(&format!("\u{feff}{}", mark.chain)),
            bytes(&format!("\u{feff}{}", mark.key)),
        ),
        (
            "own-certificate-second",
            bytes(&format!("{}{}", issuer.intermediates(), second.leaf)),
            bytes(&second.key),
        ),
        ("expired", bytes(&expired.chain), bytes(&expired.key)),
        ("not-yet-valid", bytes(&early.chain), bytes(&early.key)),
        ("large-chain", bytes(&large.0), bytes(&large.1)),
        (HUGE, bytes(&huge.0), bytes(&huge.1)),
    ]
}

#[test]
fn envoy_accepts_every_pair_that_the_agent_serves() {
    let Some(program) = require(&tools::ENVOY) else {
        return;
    };
    let bed = Bed::new();
    let cases = accepted_pairs(&bed.ca);
    for (name, cert, key) in &cases {
        bed.root.write(name, &[("cert", cert), ("key", key)]);
    }
    // And everything that is rejected, which must not reach it.
    let rejected = rejected_pairs(&bed.ca);
    for (name, cert, key) in &rejected {
        bed.root.write(name, &[("cert", cert), ("key", key)]);
    }
    let agent = bed.agent();
    let host = |name: &&str| Host::new(&format!("{name}.test"), name);
    let names: Vec<&str> = cases.iter().map(|(name, ..)| *name).collect();
    let bad = rejected.iter().map(|(name, ..)| *name);
    let hosts: Vec<Host> = names.iter().copied().chain(bad).map(|n| host(&n)).collect();
    let envoy = Envoy::start(&program, &bed.socket(), Protocol::Delta, &hosts);
    // Envoy accepts it, but the tests' client limits the size of a handshake.
    eventually_true("the huge chain at Envoy", || {
        envoy.stat(&format!("sds.{HUGE}.update_success")) > 0
    });
    for name in names.iter().filter(|name| **name != HUGE) {
        let https = envoy.https(&format!("{name}.test"));
        eventually_true(&format!("a handshake for {name}"), || https.get().is_ok());
    }
    envoy.assert_no_rejection();
    let nacks = agent.lines_with(&["NACK"]);
    assert!(nacks.is_empty(), "{nacks:#?}");
    for (name, ..) in &rejected {
        let https = envoy.https(&format!("{name}.test"));
        assert!(https.get().is_err(), "{name} was served");
    }
    for (warned, word) in [
        ("byte-order-mark", "byte-order mark"),
        ("own-certificate-second", "first"),
        ("expired", "expired"),
        ("not-yet-valid", "valid only from"),
    ] {
        agent.wait_for_line(&["WARN", warned, word]);
    }
}
