//! `[[trust]]`: its effect on clients of a real Envoy, and on the check.

use std::fs;
use std::process::Command;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Value, json};
use sha2::{Digest, Sha256};
use x509_parser::prelude::{FromDer, X509Certificate};

use super::cases::{ca, days};
use crate::util::agent::PROGRAM;
use crate::util::{Agent, Bed, Envoy, Host, Identity, Protocol, eventually_true, require, tools};

/// A bundle, its options, and clients with whether they are admitted.
struct Situation {
    name: &'static str,
    options: String,
    files: Vec<(&'static str, String)>,
    /// Whether the check rejects the files without the options.
    needs_options: bool,
    /// The options that are left to Envoy's own configuration.
    in_envoy: Value,
    clients: Vec<(Identity, bool)>,
}

fn situations() -> Vec<Situation> {
    let root = ca("root");
    let middle = root.issue_ca("middle", |_| ());
    let (a, b) = (root.client("a.test", 1), root.client("b.test", 2));
    let below = middle.client("c.test", 3);
    let (leaf, key) = root.leaf("old.test", |params| {
        params.not_before = days(-20);
        params.not_after = days(-10);
    });
    let expired = Identity {
        chain: leaf.clone(),
        key,
        leaf,
        der: Vec::new(),
    };
    let der = |identity: &Identity| {
        let body = identity.leaf.lines().filter(|line| !line.starts_with('-'));
        STANDARD.decode(body.collect::<String>()).unwrap()
    };
    let (a_der, b_der) = (der(&a), der(&b));
    let (_, parsed) = X509Certificate::from_der(&a_der).unwrap();
    let spki = STANDARD.encode(Sha256::digest(parsed.tbs_certificate.subject_pki.raw));
    let hash: String = Sha256::digest(&b_der)
        .iter()
        .map(|byte| format!("{byte:02x}"))
        .collect();
    let revoked = middle.client("revoked", 77);
    let bundle = || vec![("ca.crt", root.pem.clone())];
    let both = |of_a, of_b| vec![(a.clone(), of_a), (b.clone(), of_b)];
    let situation = |name, options: &str, files, clients| Situation {
        name,
        options: options.to_owned(),
        files,
        needs_options: false,
        in_envoy: Value::Null,
        clients,
    };
    let of_middle = || {
        vec![
            ("ca.crt", format!("{}{}", root.pem, middle.pem)),
            ("ca.crl", middle.list_of(-1, 20, 1, false)),
        ]
    };
    vec![
        situation("nothing", "", bundle(), both(true, true)),
        situation(
            "names",
            "subject_alt_names = ['dns:a.*']",
            bundle(),
            both(true, false),
        ),
        situation(
            "spki",
            &format!("certificate_spki = ['{spki}']"),
            bundle(),
            both(true, false),
        ),
        situation(
            "hash",
            &format!("certificate_hash = ['{hash}']"),
            bundle(),
            both(false, true),
        ),
        situation(
            "depth",
            "max_verify_depth = 1",
            bundle(),
            vec![(a.clone(), true), (below.clone(), false)],
        ),
        situation(
            "deep",
            "max_verify_depth = 2",
            bundle(),
            vec![(below.clone(), true)],
        ),
        situation(
            "expired",
            "allow_expired_certificate = true",
            bundle(),
            vec![(expired.clone(), true), (a.clone(), true)],
        ),
        situation("fresh", "", bundle(), vec![(expired, false)]),
        Situation {
            needs_options: true,
            ..situation(
                "leaf-list",
                "only_verify_leaf_cert_crl = true",
                of_middle(),
                vec![(below.clone(), true), (revoked.clone(), false)],
            )
        },
        // The check accepts the files, whether or not Envoy does.
        Situation {
            needs_options: true,
            in_envoy: json!({"only_verify_leaf_cert_crl": true}),
            ..situation(
                "lenient",
                "check = 'lenient'",
                of_middle(),
                vec![(below, true), (revoked, false)],
            )
        },
    ]
}

#[test]
fn options_of_a_bundle_take_effect_in_envoy_and_in_the_check() {
    let Some(program) = require(&tools::ENVOY) else {
        return;
    };
    let situations = situations();
    let bed = Bed::new();
    bed.root.write_pair("site", &bed.ca.server(&["site.test"]));
    let mut options = String::new();
    for one in &situations {
        bed.root.write(one.name, &one.files);
        if !one.options.is_empty() {
            options.push_str(&format!(
                "[[trust]]\nname = '{}'\n{}\n",
                one.name, one.options
            ));
        }
    }
    let config = bed.scratch("sds-agent.toml");
    let root = format!("credentials = [{:?}]\n", bed.root.path());
    fs::write(&config, format!("{root}{options}")).unwrap();
    let check = |with_options: bool| {
        let mut command = Command::new(PROGRAM);
        command.arg("check");
        match with_options {
            true => command.arg("--config").arg(&config),
            false => command.arg(bed.root.path()),
        };
        String::from_utf8(command.output().unwrap().stdout).unwrap()
    };
    let (with, without) = (check(true), check(false));
    for one in &situations {
        let file = format!("{}/ca.crl", one.name);
        assert!(!with.contains(&file), "{with}");
        assert_eq!(without.contains(&file), one.needs_options, "{without}");
    }

    let agent = Agent::builder(&bed.socket()).arg("--config").arg(&config);
    let _agent = bed.ready(agent);
    let hosts: Vec<Host> = situations
        .iter()
        .map(|one| {
            let host = Host::new(one.name, "site").client_ca(&format!("{}-cacert", one.name));
            host.validation(one.in_envoy.clone())
        })
        .collect();
    let envoy = Envoy::start(&program, &bed.socket(), Protocol::Delta, &hosts);
    eventually_true("the listener", || {
        envoy
            .https("nothing")
            .identity(&situations[0].clients[0].0)
            .get()
            .is_ok()
    });
    for one in &situations {
        for (place, (client, expected)) in one.clients.iter().enumerate() {
            let got = envoy.https(one.name).identity(client).get();
            assert_eq!(
                got.is_ok(),
                *expected,
                "{}, client {place}: {got:?}",
                one.name
            );
        }
    }
    envoy.assert_no_rejection();
}
