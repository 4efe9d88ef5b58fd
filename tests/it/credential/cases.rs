//! Folders of files, each with the expected result of the check.

use std::fs;

use rcgen::{
    BasicConstraints, CertificateParams, CertificateRevocationListParams, DnType, IsCa, Issuer,
    KeyIdMethod, KeyPair, KeyUsagePurpose, RevokedCertParams, SerialNumber,
};
use sds_agent::problem::Reason;
use time::{Duration, OffsetDateTime};

use super::odd;

/// A folder of files, and the expected result of the check.
pub(super) struct Case {
    pub(super) name: String,
    pub(super) files: Vec<(String, Vec<u8>)>,
    pub(super) verdict: Verdict,
}

#[derive(Clone, Debug)]
pub(super) enum Verdict {
    /// Served, with these warnings.
    Good(Vec<Reason>),
    /// Rejected, as Envoy does when it loads the files.
    Bad(Reason),
    /// Rejected although Envoy would load it, because it does harm or is not worth the risk.
    Stricter(Reason),
}
use Verdict::{Bad, Good, Stricter};

/// Every case.
pub(super) fn all() -> Vec<Case> {
    let mut cases = Vec::new();
    kinds_of_keys(&mut cases);
    shapes_of_chains(&mut cases);
    shapes_of_keys(&mut cases);
    orders(&mut cases);
    bundles(&mut cases);
    revocation_lists(&mut cases);
    cases
}

fn case(name: &str, files: &[(&str, &[u8])], verdict: Verdict) -> Case {
    Case {
        name: name.into(),
        files: files
            .iter()
            .map(|(name, bytes)| ((*name).to_owned(), bytes.to_vec()))
            .collect(),
        verdict,
    }
}

/// Files that OpenSSL made, by their names.
fn kinds_of_keys(cases: &mut Vec<Case>) {
    let good = |name: &str| (name.to_owned(), Good(vec![]));
    let taken = [
        "p256",
        "p384",
        "p521",
        "p256-parameters",
        "p256-compressed",
        "p256-no-public",
        "ed25519",
        "rsa2048",
        "rsa2048-pkcs1",
        "rsa2048-e3",
        "rsa4096",
        "rsa2048-md5",
        "rsa2048-sha1",
        "p256-critical",
        "rsa2048-cert-sign",
        "p256-v1",
    ];
    let unsupported = [
        "p224",
        "p192",
        "secp256k1",
        "brainpool",
        "p256-explicit",
        "rsa1024",
        "rsa2047",
        "rsa-pss",
        "ed448",
        "dsa",
        "p256-key-agreement",
        "p256-cert-sign",
        "p256-bad-usage",
        "openssh",
    ];
    let encrypted = ["encrypted-pkcs8", "encrypted-sec1", "encrypted-pkcs1"];
    let bad = |names: &[&str], reason| {
        names
            .iter()
            .map(|name| ((*name).to_owned(), Bad(reason)))
            .collect::<Vec<_>>()
    };
    let all = taken
        .iter()
        .map(|name| good(name))
        .chain(bad(&unsupported, Reason::UnsupportedKey))
        .chain(bad(&encrypted, Reason::EncryptedKey))
        .chain(bad(&["rsa-three-primes", "public"], Reason::BadPem))
        .chain(bad(&["must-staple"], Reason::Incomplete))
        .chain([("trusted".to_owned(), Good(vec![Reason::Tidied]))]);
    for (name, verdict) in all {
        let read = |ending| fs::read(odd().join(format!("{name}.{ending}"))).unwrap();
        let files: [(&str, &[u8]); 2] = [("tls.crt", &read("crt")), ("tls.key", &read("key"))];
        cases.push(case(&name, &files, verdict));
    }
}

/// Forms of PEM, with a certificate as the example.
fn shapes_of_chains(cases: &mut Vec<Case>) {
    let root = ca("root");
    let (cert, key) = leaf(&root, "a.example");
    let body = body(&cert);
    let with = |width: usize| pem("CERTIFICATE", &body, width);
    let warn = || Good(vec![]);
    let tidied = || Good(vec![Reason::Tidied]);
    let broken = |text: &str| format!("{cert}{text}");
    let mut add = |name: &str, text: String, verdict: Verdict| {
        let files: [(&str, &[u8]); 2] = [("tls.crt", text.as_bytes()), ("tls.key", key.as_bytes())];
        cases.push(case(&format!("chain: {name}"), &files, verdict));
    };
    add("CRLF", cert.replace('\n', "\r\n"), warn());
    add(
        "text around",
        format!("Subject: ä\n{cert}\nthe end"),
        warn(),
    );
    add("one long line", with(10_000), warn());
    add("a byte a line", with(1), warn());
    add("no newline at the end", cert.trim_end().into(), warn());
    add(
        "spaces at the ends of lines",
        cert.replace('\n', " \t \n"),
        warn(),
    );
    add(
        "spaces before base64",
        cert.replace("\nM", "\n \tM"),
        warn(),
    );
    add(
        "an empty line after BEGIN",
        cert.replacen("-----\n", "-----\n\n", 1),
        warn(),
    );
    add("NUL at the end", format!("{cert}\0\0"), warn());
    add(
        "the label of old",
        cert.replace("CERTIFICATE", "X509 CERTIFICATE"),
        warn(),
    );
    add(
        "DH parameters behind",
        broken(&pem("DH PARAMETERS", "AAAA", 64)),
        warn(),
    );
    add(
        "four dashes",
        broken("-----BEGIN CERTIFICATE----\n"),
        Stricter(Reason::BadPem),
    );
    add(
        "a long line of text in front",
        format!("{}{cert}", "x".repeat(253)),
        warn(),
    );
    add("a byte-order mark", format!("\u{feff}{cert}"), tidied());
    add(
        "a mark in the middle",
        format!("{cert}\u{feff}{}", root.pem),
        Good(vec![Reason::Tidied]),
    );
    add("empty", String::new(), Bad(Reason::BadPem));
    add("a newline", "\n".into(), Bad(Reason::BadPem));
    add("CR alone", cert.replace('\n', "\r"), tidied());
    add("BEGIN indented", format!(" {cert}"), tidied());
    add(
        "second BEGIN behind a no-break space",
        format!("{cert}\u{a0}{}", root.pem),
        tidied(),
    );
    add(
        "an empty line inside",
        with(64).replacen(&body[64..128], &format!("\n{}", &body[64..128]), 1),
        Bad(Reason::BadPem),
    );
    add(
        "an empty line before END",
        cert.replace("-----END", "\n-----END"),
        Bad(Reason::BadPem),
    );
    add(
        "headers",
        cert.replacen("-----\n", "-----\nA: b\n\n", 1),
        Bad(Reason::BadPem),
    );
    add(
        "text behind END",
        cert.replace("END CERTIFICATE-----", "END CERTIFICATE----- x"),
        Bad(Reason::BadPem),
    );
    add(
        "run together",
        format!("{}{}", cert.trim_end(), root.pem),
        Bad(Reason::BadPem),
    );
    add(
        "second cut short",
        broken(&root.pem[..200]),
        Bad(Reason::BadPem),
    );
    add(
        "first cut short",
        format!("{}\n{cert}", &root.pem[..200]),
        Bad(Reason::BadPem),
    );
    add(
        "a lone BEGIN",
        broken("-----BEGIN CERTIFICATE-----\n"),
        Bad(Reason::BadPem),
    );
    add(
        "another label at the END",
        broken("-----BEGIN A-----\nAAAA\n-----END B-----\n"),
        Bad(Reason::BadPem),
    );
    add(
        "an empty block",
        broken("-----BEGIN A-----\n-----END A-----\n"),
        Bad(Reason::BadPem),
    );
    add(
        "DH parameters broken",
        broken(&pem("DH PARAMETERS", "A*A=", 64)),
        Bad(Reason::BadPem),
    );
    add(
        "second no certificate",
        broken(&pem("CERTIFICATE", "AAAA", 64)),
        Bad(Reason::BadPem),
    );
    add(
        "padding in the middle",
        pem("CERTIFICATE", &format!("AA=={body}"), 64),
        Bad(Reason::BadPem),
    );
    add(
        "padding missing",
        pem("CERTIFICATE", body.trim_end_matches('='), 61).replace(
            "-----END",
            if body.ends_with('=') {
                "-----END"
            } else {
                "A\n-----END"
            },
        ),
        Bad(Reason::BadPem),
    );
    add(
        "too much padding",
        pem("CERTIFICATE", &format!("{body}===="), 64),
        Bad(Reason::BadPem),
    );
    add("only a key", key.clone(), Bad(Reason::BadPem));
    let utf16: Vec<u8> = "\u{feff}"
        .encode_utf16()
        .chain(cert.encode_utf16())
        .flat_map(u16::to_le_bytes)
        .collect();
    let der = rustls_pki_types::pem::PemObject::from_pem_slice(cert.as_bytes())
        .map(|der: rustls_pki_types::CertificateDer<'_>| der.to_vec())
        .unwrap();
    for (name, bytes) in [("UTF-16", utf16), ("DER", der)] {
        let files: [(&str, &[u8]); 2] = [("tls.crt", &bytes), ("tls.key", key.as_bytes())];
        cases.push(case(&format!("chain: {name}"), &files, Bad(Reason::BadPem)));
    }
}

fn shapes_of_keys(cases: &mut Vec<Case>) {
    let root = ca("root");
    let (cert, key) = leaf(&root, "a.example");
    let (_, other) = leaf(&root, "b.example");
    let chain = format!("{cert}{}", root.pem);
    let mut add = |name: &str, text: String, verdict: Verdict| {
        let files: [(&str, &[u8]); 2] =
            [("tls.crt", chain.as_bytes()), ("tls.key", text.as_bytes())];
        cases.push(case(&format!("key: {name}"), &files, verdict));
    };
    add("CRLF", key.replace('\n', "\r\n"), Good(vec![]));
    add("twice", format!("{key}{key}"), Good(vec![]));
    add("another behind", format!("{key}{other}"), Good(vec![]));
    add(
        "after its certificate",
        format!("{cert}{key}"),
        Good(vec![]),
    );
    add(
        "a byte-order mark",
        format!("\u{feff}{key}"),
        Good(vec![Reason::Tidied]),
    );
    add("another", other.clone(), Bad(Reason::KeyMismatch));
    add(
        "another in front",
        format!("{other}{key}"),
        Bad(Reason::KeyMismatch),
    );
    add("empty", String::new(), Bad(Reason::BadPem));
    add("a newline", "\n".into(), Bad(Reason::BadPem));
    add(
        "cut short",
        key[..key.len() - 40].into(),
        Bad(Reason::BadPem),
    );
    add(
        "headers",
        key.replacen("-----\n", "-----\nA: b\n\n", 1),
        Bad(Reason::BadPem),
    );
    add(
        "no key",
        pem("PRIVATE KEY", "AAAA", 64),
        Bad(Reason::BadPem),
    );
    add(
        "broken block in front",
        format!("{}{key}", pem("EC PARAMETERS", "@@@@", 64)),
        Bad(Reason::BadPem),
    );
    add(
        "broken block behind",
        format!("{key}-----BEGIN A-----\n"),
        Stricter(Reason::BadPem),
    );
    add("a certificate", cert.clone(), Bad(Reason::BadPem));
    let both = format!("{chain}{key}");
    cases.push(case(
        "key: one file",
        &[("a.pem", both.as_bytes())],
        Good(vec![]),
    ));
    let (cert, key) = version_2();
    let files: [(&str, &[u8]); 2] = [("tls.crt", cert.as_bytes()), ("tls.key", key.as_bytes())];
    cases.push(case(
        "key: PKCS #8 of version 2",
        &files,
        Bad(Reason::UnsupportedKey),
    ));
}

/// An Ed25519 key that includes its public key.
fn version_2() -> (String, String) {
    let key = KeyPair::generate_for(&rcgen::PKCS_ED25519).unwrap();
    let params = CertificateParams::new(vec!["a.example".to_owned()]).unwrap();
    (params.self_signed(&key).unwrap().pem(), key.serialize_pem())
}

fn orders(cases: &mut Vec<Case>) {
    let root = ca("root");
    let middle = root.issue_ca("middle", |_| ());
    let renewed = root.issue_ca("middle", |_| ());
    let (cert, key) = leaf(&middle, "a.example");
    let (stranger, _) = leaf(&ca("other"), "b.example");
    let order = || Good(vec![Reason::ChainOrder]);
    let mut add = |name: &str, chain: &[&str], verdict: Verdict| {
        let files: [(&str, &[u8]); 2] = [
            ("tls.crt", &chain.concat().into_bytes()),
            ("tls.key", key.as_bytes()),
        ];
        cases.push(case(&format!("order: {name}"), &files, verdict));
    };
    add("right", &[&cert, &middle.pem], Good(vec![]));
    add(
        "with the root",
        &[&cert, &middle.pem, &root.pem],
        Good(vec![]),
    );
    add("the leaf alone", &[&cert], Good(vec![]));
    add(
        "root and intermediate swapped",
        &[&cert, &root.pem, &middle.pem],
        order(),
    );
    add("the intermediate missing", &[&cert, &root.pem], order());
    add(
        "another key's intermediate",
        &[&cert, &renewed.pem],
        order(),
    );
    add(
        "a stranger behind",
        &[&cert, &middle.pem, &stranger],
        order(),
    );
    add("the leaf twice", &[&cert, &cert, &middle.pem], order());
    add(
        "200 kB",
        &[&cert, &middle.pem, &root.pem.repeat(300)],
        Good(vec![]),
    );
    // Envoy would not accept these unchanged.
    for chain in [[&middle.pem, &cert], [&root.pem, &cert]] {
        let files: [(&str, &[u8]); 2] = [
            ("tls.crt", &format!("{}{}", chain[0], chain[1]).into_bytes()),
            ("tls.key", key.as_bytes()),
        ];
        cases.push(case("order: the leaf second", &files, order()));
    }
}

fn bundles(cases: &mut Vec<Case>) {
    let root = ca("root");
    let other = ca("other");
    let middle = root.issue_ca("middle", |_| ());
    let powerless = root.issue_ca("powerless", |params| {
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    });
    let old = root.again(-20, -10);
    let future = root.again(10, 20);
    let soon = root.again(-20, 2);
    let (cert, key) = leaf(&root, "a.example");
    let pinned = self_signed("pinned");
    let v1 = fs::read_to_string(odd().join("p256-v1.crt")).unwrap();
    let mut add = |name: &str, certificates: &[&str], verdict: Verdict| {
        let files: [(&str, &[u8]); 1] = [("ca.crt", &certificates.concat().into_bytes())];
        cases.push(case(&format!("bundle: {name}"), &files, verdict));
    };
    add("a root", &[&root.pem], Good(vec![]));
    add("an intermediate", &[&middle.pem], Good(vec![]));
    add("the same twice", &[&root.pem, &root.pem], Good(vec![]));
    add("two roots", &[&root.pem, &other.pem], Good(vec![]));
    add("version 1", &[&v1], Good(vec![]));
    add("a self-signed leaf", &[&pinned], Good(vec![]));
    add("soon over", &[&soon], Good(vec![Reason::Expiring]));
    add(
        "a leaf beside a root",
        &[&cert, &root.pem],
        Good(vec![Reason::PinnedPeer]),
    );
    add(
        "another's expired root",
        &[&old, &other.pem],
        Good(vec![Reason::Expired]),
    );
    add(
        "renewed",
        &[&old, &root.pem],
        Good(vec![Reason::Expired, Reason::Tidied]),
    );
    add(
        "future and present",
        &[&future, &root.pem],
        Good(vec![Reason::NotYetValid, Reason::Tidied]),
    );
    add(
        "the root expired",
        &[&old, &middle.pem],
        Good(vec![Reason::Expired, Reason::Tidied]),
    );
    add(
        "a mark between",
        &[&root.pem, "\u{feff}", &other.pem],
        Good(vec![Reason::Tidied]),
    );
    add(
        "a key in it",
        &[&root.pem, &key],
        Good(vec![Reason::Tidied]),
    );
    add("text around", &[" a\n", &root.pem, "b\n"], Good(vec![]));
    add("empty", &[""], Bad(Reason::BadPem));
    add("no PEM", &["hello"], Bad(Reason::BadPem));
    add(
        "no certificate",
        &["-----BEGIN A-----\nAAAA\n-----END A-----\n"],
        Bad(Reason::BadPem),
    );
    add(
        "second cut short",
        &[&root.pem, &other.pem[..300]],
        Bad(Reason::BadPem),
    );
    add(
        "second broken",
        &[
            &root.pem,
            "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n",
        ],
        Bad(Reason::BadPem),
    );
    add("expired", &[&old], Stricter(Reason::BadTrustBundle));
    add(
        "not valid yet",
        &[&future],
        Stricter(Reason::BadTrustBundle),
    );
    add("a leaf", &[&cert], Good(vec![Reason::PinnedPeer]));
    add(
        "may not sign",
        &[&powerless.pem],
        Stricter(Reason::BadTrustBundle),
    );
}

fn revocation_lists(cases: &mut Vec<Case>) {
    let root = ca("root");
    let other = ca("other");
    let namesake = ca("root");
    let middle = root.issue_ca("middle", |_| ());
    let issuer = ca("powerless");
    let powerless = issuer.again_with(|params| {
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign];
    });
    let (r, o, n, m) = (
        root.list(1),
        other.list(1),
        namesake.list(1),
        middle.list(1),
    );
    let bad = || Stricter(Reason::BadCrl);
    let mut add = |name: &str, bundle: &[&str], list: &[&str], verdict: Verdict| {
        let files: [(&str, &[u8]); 2] = [
            ("ca.crt", &bundle.concat().into_bytes()),
            ("ca.crl", &list.concat().into_bytes()),
        ];
        cases.push(case(&format!("list: {name}"), &files, verdict));
    };
    add("its own", &[&root.pem], &[&r], Good(vec![]));
    add(
        "its own, twice the same",
        &[&root.pem],
        &[&r, &r],
        Good(vec![]),
    );
    add(
        "one each",
        &[&root.pem, &other.pem],
        &[&r, &o],
        Good(vec![]),
    );
    add(
        "root and intermediate",
        &[&root.pem, &middle.pem],
        &[&m, &r],
        Good(vec![]),
    );
    add(
        "of an intermediate that clients send",
        &[&root.pem],
        &[&r, &m],
        Good(vec![]),
    );
    add(
        "in the bundle's file",
        &[&root.pem, &other.pem, &r],
        &[&o],
        Good(vec![]),
    );
    add(
        "two CAs of one name",
        &[&root.pem, &namesake.pem],
        &[&r, &n],
        Good(vec![]),
    );
    add(
        "a certificate in its file",
        &[&root.pem],
        &[&root.pem, &r],
        Good(vec![]),
    );
    add(
        "soon over",
        &[&root.pem],
        &[&root.list_of(-20, 2, 1, false)],
        Good(vec![Reason::Expiring]),
    );
    add("empty", &[&root.pem], &[""], bad());
    add("garbage", &[&root.pem], &["hello"], bad());
    add("a certificate", &[&root.pem], &[&root.pem], bad());
    add("cut short", &[&root.pem], &[&r[..200]], Bad(Reason::BadCrl));
    add(
        "broken",
        &[&root.pem],
        &["-----BEGIN X509 CRL-----\nAAAA\n-----END X509 CRL-----\n"],
        Bad(Reason::BadCrl),
    );
    add(
        "expired",
        &[&root.pem],
        &[&root.list_of(-20, -10, 1, false)],
        bad(),
    );
    add(
        "not valid yet",
        &[&root.pem],
        &[&root.list_of(10, 20, 1, false)],
        bad(),
    );
    add("another's", &[&root.pem], &[&o], bad());
    add("another key's", &[&root.pem], &[&n], bad());
    add("one for two", &[&root.pem, &other.pem], &[&r], bad());
    add("two of one", &[&root.pem], &[&r, &root.list(2)], bad());
    add(
        "two of one, in both files",
        &[&root.pem, &root.list(2)],
        &[&r],
        bad(),
    );
    add("the intermediate's alone", &[&middle.pem], &[&m], bad());
    add("the root's alone", &[&root.pem, &middle.pem], &[&r], bad());
    add(
        "may not sign lists",
        &[&powerless],
        &[&issuer.list(1)],
        bad(),
    );
    add(
        "of a part",
        &[&root.pem],
        &[&root.list_of(-1, 20, 1, true)],
        bad(),
    );
}

/// An authority: its certificate, and what it signs with.
pub(super) struct Ca {
    pub(super) pem: String,
    params: CertificateParams,
    key: String,
    issuer: Issuer<'static, KeyPair>,
    pub(super) is_root: bool,
}

pub(super) fn ca(name: &str) -> Ca {
    ca_with(name, KeyPair::generate().unwrap())
}

/// An authority with this key.
pub(super) fn ca_with(name: &str, key: KeyPair) -> Ca {
    let params = ca_params(name);
    Ca {
        pem: params.self_signed(&key).unwrap().pem(),
        key: key.serialize_pem(),
        issuer: Issuer::new(params.clone(), key),
        params,
        is_root: true,
    }
}

fn ca_params(name: &str) -> CertificateParams {
    let mut params = CertificateParams::default();
    params.distinguished_name.push(DnType::CommonName, name);
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    params
}

impl Ca {
    pub(super) fn issue_ca(&self, name: &str, change: impl FnOnce(&mut CertificateParams)) -> Self {
        let mut params = ca_params(name);
        change(&mut params);
        let key = KeyPair::generate().unwrap();
        Self {
            pem: params.signed_by(&key, &self.issuer).unwrap().pem(),
            key: key.serialize_pem(),
            issuer: Issuer::new(params.clone(), key),
            params,
            is_root: false,
        }
    }

    /// Its certificate, valid between two days from now.
    pub(super) fn again(&self, from: i64, until: i64) -> String {
        self.again_with(|params| {
            params.not_before = days(from);
            params.not_after = days(until);
        })
    }

    /// Its certificate, with other parameters.
    fn again_with(&self, change: impl FnOnce(&mut CertificateParams)) -> String {
        let mut params = self.params.clone();
        change(&mut params);
        let key = KeyPair::from_pem(&self.key).unwrap();
        params.self_signed(&key).unwrap().pem()
    }

    /// A leaf's certificate and key.
    pub(super) fn leaf(
        &self,
        name: &str,
        change: impl FnOnce(&mut CertificateParams),
    ) -> (String, String) {
        self.certify(name, &KeyPair::generate().unwrap(), change)
    }

    /// A certificate of `key`, and the key.
    pub(super) fn certify(
        &self,
        name: &str,
        key: &KeyPair,
        change: impl FnOnce(&mut CertificateParams),
    ) -> (String, String) {
        let mut params = CertificateParams::new(vec![name.to_owned()]).unwrap();
        params.distinguished_name.push(DnType::CommonName, name);
        change(&mut params);
        let certificate = params.signed_by(key, &self.issuer).unwrap();
        (certificate.pem(), key.serialize_pem())
    }

    pub(super) fn list(&self, number: u64) -> String {
        self.list_of(-1, 20, number, false)
    }

    /// A revocation list, valid between two days from now, of all or of a part of its certificates.
    pub(super) fn list_of(&self, from: i64, until: i64, number: u64, part: bool) -> String {
        let point = rcgen::CrlIssuingDistributionPoint {
            distribution_point: rcgen::CrlDistributionPoint {
                uris: vec!["http://crl.example/".into()],
            },
            scope: None,
        };
        let params = CertificateRevocationListParams {
            this_update: days(from),
            next_update: days(until),
            crl_number: SerialNumber::from(number),
            issuing_distribution_point: part.then_some(point),
            revoked_certs: vec![RevokedCertParams {
                serial_number: SerialNumber::from(77),
                revocation_time: days(from),
                reason_code: None,
                invalidity_date: None,
            }],
            key_identifier_method: KeyIdMethod::Sha256,
        };
        params.signed_by(&self.issuer).unwrap().pem().unwrap()
    }
}

pub(super) fn days(from_now: i64) -> OffsetDateTime {
    OffsetDateTime::now_utc() + Duration::days(from_now)
}

/// A leaf's certificate and key.
pub(super) fn leaf(of: &Ca, name: &str) -> (String, String) {
    of.leaf(name, |_| ())
}

fn self_signed(name: &str) -> String {
    let mut params = CertificateParams::new(vec![name.to_owned()]).unwrap();
    params.distinguished_name.push(DnType::CommonName, name);
    params
        .self_signed(&KeyPair::generate().unwrap())
        .unwrap()
        .pem()
}

/// The base64 of a PEM block, in one line.
pub(super) fn body(pem: &str) -> String {
    pem.lines().filter(|line| !line.starts_with('-')).collect()
}

/// A PEM block with lines of `width`.
pub(super) fn pem(label: &str, body: &str, width: usize) -> String {
    let mut text = format!("-----BEGIN {label}-----\n");
    for line in body.as_bytes().chunks(width) {
        text.push_str(std::str::from_utf8(line).unwrap());
        text.push('\n');
    }
    text + &format!("-----END {label}-----\n")
}
