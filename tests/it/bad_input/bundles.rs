//! Trust bundles that would turn client authentication off, or refuse or admit the wrong clients.

use rcgen::{
    CertificateParams, CertificateRevocationListParams, Issuer, KeyIdMethod, KeyPair,
    RevokedCertParams, SerialNumber, date_time_ymd,
};

use crate::util::sds::Content;
use crate::util::{Bed, Ca, Envoy, Host, Protocol, eventually_true, require, tools};

/// A name, and the content of `ca.crt` and `ca.crl`.
type Case = (&'static str, Vec<u8>, Option<Vec<u8>>);

/// An authority with revocation lists.
struct Revoking {
    issuer: Issuer<'static, KeyPair>,
    pem: String,
}

impl Revoking {
    fn new(name: &str) -> Self {
        Self::valid_until(name, 2090)
    }

    fn valid_until(name: &str, year: i32) -> Self {
        let key = KeyPair::generate().unwrap();
        let mut params = crate::util::pki::ca_params(name);
        params.not_before = date_time_ymd(2020, 1, 1);
        params.not_after = date_time_ymd(year, 1, 1);
        let pem = params.self_signed(&key).unwrap().pem();
        Self {
            issuer: Issuer::new(params, key),
            pem,
        }
    }

    fn crl(&self, number: u64, next_update: i32) -> (String, Vec<u8>) {
        let revoked = RevokedCertParams {
            serial_number: SerialNumber::from(number),
            revocation_time: date_time_ymd(2021, 1, 1),
            reason_code: None,
            invalidity_date: None,
        };
        let params = CertificateRevocationListParams {
            this_update: date_time_ymd(2021, 1, 1),
            next_update: date_time_ymd(next_update, 1, 1),
            crl_number: SerialNumber::from(number),
            issuing_distribution_point: None,
            revoked_certs: vec![revoked],
            key_identifier_method: KeyIdMethod::Sha256,
        };
        let crl = params.signed_by(&self.issuer).unwrap();
        (crl.pem().unwrap(), crl.der().to_vec())
    }
}

fn rejected_bundles() -> Vec<Case> {
    let (one, two) = (Revoking::new("One"), Revoking::new("Two"));
    let expired = Revoking::valid_until("Expired", 2021);
    let good = |ca: &Revoking| ca.pem.clone().into_bytes();
    let (crl, crl_der) = one.crl(1, 2090);
    let pem = |text: &str| Some(text.as_bytes().to_vec());
    let cut = &two.pem[..two.pem.len() / 2];
    vec![
        ("empty", Vec::new(), None),
        ("no-pem", b"no PEM".to_vec(), None),
        ("crl-alone", crl.clone().into_bytes(), None),
        ("empty-with-crl", Vec::new(), pem(&crl)),
        (
            "a-bad-block",
            format!("{}{cut}", one.pem).into_bytes(),
            None,
        ),
        ("expired-alone", good(&expired), None),
        ("crl-garbage", good(&one), pem("no PEM")),
        ("crl-empty", good(&one), pem("")),
        ("crl-der", good(&one), Some(crl_der)),
        ("crl-expired", good(&one), pem(&one.crl(1, 2022).0)),
        ("crl-of-another", good(&one), pem(&two.crl(1, 2090).0)),
        (
            "two-cas-one-crl",
            format!("{}{}", one.pem, two.pem).into_bytes(),
            pem(&crl),
        ),
        (
            "two-crls-of-one-issuer",
            good(&one),
            pem(&format!("{crl}{}", one.crl(2, 2090).0)),
        ),
    ]
}

fn files(case: &Case) -> Vec<(&'static str, &[u8])> {
    // The list is written first: a bundle without one may be valid in between.
    let crl = case.2.as_deref().map(|crl| ("ca.crl", crl));
    crl.into_iter()
        .chain([("ca.crt", case.1.as_slice())])
        .collect()
}

#[test]
fn a_harmful_bundle_never_replaces_a_valid_one() {
    let bed = Bed::new();
    let good = Ca::new("Good");
    let cases = rejected_bundles();
    for (name, ..) in &cases {
        bed.root.write(name, &[("ca.crt", good.pem())]);
    }
    let agent = bed.agent();
    let names: Vec<String> = cases.iter().map(|c| format!("{}-cacert", c.0)).collect();
    let names: Vec<&str> = names.iter().map(String::as_str).collect();
    let mut stream = bed.client().delta();
    stream.subscribe(&names);
    super::receive(&mut stream, names.len());
    for case in &cases {
        bed.root.write(case.0, &files(case));
    }
    for case in &cases {
        agent.wait_for_line(&["rejected", case.0]);
    }
    stream.0.assert_silent();
    let mut late = bed.client().delta();
    late.subscribe(&names);
    for served in super::receive(&mut late, names.len()) {
        assert!(served.is_trust(good.pem()), "{served:?}");
    }
    super::assert_others_go_on(&bed);
}

#[test]
fn a_harmful_bundle_is_never_served_initially() {
    let bed = Bed::new();
    let cases = rejected_bundles();
    for case in &cases {
        bed.root.write(case.0, &files(case));
    }
    let agent = bed.agent();
    let mut stream = bed.client().delta();
    for case in &cases {
        agent.wait_for_line(&["rejected", case.0]);
        for name in [case.0.to_owned(), format!("{}-cacert", case.0)] {
            stream.subscribe(&[&name]);
            assert_eq!(stream.removed(), [name]);
        }
    }
    stream.0.assert_silent();
}

#[test]
fn a_bad_bundle_leaves_the_previous_pair_and_bundle_in_service() {
    let bed = Bed::new();
    let first = bed.pair("site");
    let clients = Ca::new("Clients");
    bed.root.write("site", &[("cacert", clients.pem())]);
    let agent = bed.agent();
    let mut stream = bed.client().delta();
    stream.subscribe(&["site", "site-cacert"]);
    super::receive(&mut stream, 2);
    bed.root.write("site", &[("cacert", "bad")]);
    agent.wait_for_line(&["rejected", "site"]);
    let mut late = bed.client().delta();
    late.subscribe(&["site", "site-cacert"]);
    for served in super::receive(&mut late, 2) {
        match served.content {
            Content::Pair { .. } => assert!(served.is_pair(&first.chain, &first.key)),
            _ => assert!(served.is_trust(clients.pem())),
        }
    }
    stream.0.assert_silent();
}

#[test]
fn a_byte_order_mark_before_two_cas_drops_neither() {
    let Some(program) = require(&tools::ENVOY) else {
        return;
    };
    let bed = Bed::new();
    bed.pair("site");
    let (one, two) = (Ca::new("One"), Ca::new("Two"));
    let bundle = format!("\u{feff}{}{}", one.pem(), two.pem());
    bed.root.write("site", &[("cacert", &bundle)]);
    let _agent = bed.agent();
    let hosts = [Host::new("site.test", "site").client_ca("site-cacert")];
    let envoy = Envoy::start(&program, &bed.socket(), Protocol::Delta, &hosts);
    let https = envoy.https("site.test");
    for ca in [&one, &two] {
        let with = https.clone().identity(&ca.client("client.test"));
        eventually_true("a client of each CA", || with.get().is_ok());
    }
    assert!(https.get().is_err());
    envoy.assert_no_rejection();
}

#[test]
fn a_revoked_client_is_refused_and_the_others_are_served() {
    let Some(program) = require(&tools::ENVOY) else {
        return;
    };
    let bed = Bed::new();
    let identity = bed.ca.server(&["site.test"]);
    let clients = Revoking::new("Clients");
    let client = |serial: u64| {
        let mut params = CertificateParams::new(vec!["client.test".to_owned()]).unwrap();
        params.serial_number = Some(SerialNumber::from(serial));
        let key = KeyPair::generate().unwrap();
        let leaf = params.signed_by(&key, &clients.issuer).unwrap();
        crate::util::Identity {
            chain: leaf.pem(),
            leaf: leaf.pem(),
            key: key.serialize_pem(),
            der: leaf.der().to_vec(),
        }
    };
    let files = [
        ("tls.crt", identity.chain.as_str()),
        ("tls.key", &identity.key),
        ("ca.crt", &clients.pem),
        ("ca.crl", &clients.crl(7, 2090).0),
    ];
    bed.root.write("site", &files);
    let _agent = bed.agent();
    let hosts = [Host::new("site.test", "site").client_ca("site-cacert")];
    let envoy = Envoy::start(&program, &bed.socket(), Protocol::Delta, &hosts);
    let https = envoy.https("site.test");
    let good = https.clone().identity(&client(8));
    eventually_true("a client that is not revoked", || good.get().is_ok());
    assert!(https.identity(&client(7)).get().is_err());
    envoy.assert_no_rejection();
}
