//! Good and bad folders of files, and the credentials that they make.

use std::collections::HashMap;
use std::path::Path;
use std::sync::LazyLock;
use std::time::{Duration, SystemTime};

use proptest::prelude::*;
use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair, KeyUsagePurpose};
use zeroize::Zeroizing;

use super::key::KeyType;
use super::{Credential, from_files};
use crate::files::read::File;
use crate::problem::{Problem, Reason};
use crate::text::Texts;

const DAY: Duration = Duration::from_secs(86_400);

/// An authority: its certificate, and what it signs with.
pub(crate) struct Ca {
    pub(crate) pem: String,
    pub(super) issuer: Issuer<'static, KeyPair>,
}

impl Ca {
    pub(super) fn key(&self) -> String {
        self.issuer.key().serialize_pem()
    }
}

pub(crate) fn ca(name: &str) -> Ca {
    ca_with(name, |_| ())
}

pub(super) fn ca_with(name: &str, change: impl FnOnce(&mut CertificateParams)) -> Ca {
    let mut params = CertificateParams::default();
    params.distinguished_name.push(DnType::CommonName, name);
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    change(&mut params);
    let key = KeyPair::generate().unwrap();
    Ca {
        pem: params.self_signed(&key).unwrap().pem(),
        issuer: Issuer::new(params, key),
    }
}

pub(super) fn intermediate(of: &Ca, name: &str) -> Ca {
    let mut params = CertificateParams::default();
    params.distinguished_name.push(DnType::CommonName, name);
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    let key = KeyPair::generate().unwrap();
    Ca {
        pem: params.signed_by(&key, &of.issuer).unwrap().pem(),
        issuer: Issuer::new(params, key),
    }
}

/// A leaf's certificate and key, both PEM.
pub(crate) fn leaf(of: &Ca, name: &str) -> (String, String) {
    leaf_with(of, name, |_| ())
}

pub(super) fn leaf_with(
    of: &Ca,
    name: &str,
    change: impl FnOnce(&mut CertificateParams),
) -> (String, String) {
    let mut params = CertificateParams::new(vec![name.to_owned()]).unwrap();
    params.distinguished_name.push(DnType::CommonName, name);
    change(&mut params);
    let key = KeyPair::generate().unwrap();
    let certificate = params.signed_by(&key, &of.issuer).unwrap();
    (certificate.pem(), key.serialize_pem())
}

pub(crate) fn files(files: &[(&str, &str)]) -> Vec<File> {
    files
        .iter()
        .map(|(name, text)| file(name, text.as_bytes()))
        .collect()
}

pub(super) fn file(name: &str, bytes: &[u8]) -> File {
    File {
        name: name.to_owned(),
        bytes: Zeroizing::new(bytes.to_vec()),
        mode: 0o640,
    }
}

pub(super) fn judged(files: Vec<File>) -> Credential {
    from_files(Path::new("/c/a"), files, SystemTime::now(), 30)
}

/// A credential without rejected parts, or the problems.
pub(super) fn read(files: Vec<File>) -> Result<Credential, Vec<Problem>> {
    let credential = judged(files);
    let problems: Vec<Problem> = credential.problems().cloned().collect();
    if problems.is_empty() {
        Ok(credential)
    } else {
        Err(problems)
    }
}

pub(super) fn good(list: &[(&str, &str)]) -> Credential {
    match read(files(list)) {
        Ok(credential) => credential,
        Err(problems) => panic!("rejected: {problems:?}"),
    }
}

/// The reasons for which the files are rejected.
pub(super) fn bad(list: &[(&str, &str)]) -> Vec<Reason> {
    rejected(files(list))
}

pub(super) fn rejected(files: Vec<File>) -> Vec<Reason> {
    match read(files) {
        Ok(credential) => panic!("accepted: {credential:?}"),
        Err(problems) => problems.iter().map(Problem::reason).collect(),
    }
}

pub(super) fn warned(credential: &Credential) -> Vec<Reason> {
    credential.warnings().map(Problem::reason).collect()
}

#[test]
fn the_bytes_of_a_valid_pair_and_its_bundle_are_unchanged() {
    let root = ca("root");
    let (cert, key) = leaf(&root, "a.example");
    let chain = format!("a note\r\n{}\r\n# the end", cert.replace('\n', "\r\n"));
    let credential = good(&[
        ("tls.crt", &chain),
        ("tls.key", &key),
        ("ca.crt", &root.pem),
        ("README", "what this is"),
    ]);
    let pair = credential.pair.part.as_ref().unwrap();
    assert_eq!(pair.chain, chain.as_bytes());
    assert_eq!(&**pair.key, key.as_bytes());
    assert_eq!(pair.facts.key_type, KeyType::P256);
    assert!(pair.facts.leaf.names().eq(["a.example"]));
    assert_eq!(pair.facts.leaf.subject(), "CN=a.example");
    assert_eq!(pair.facts.leaf.issuer(), "CN=root");
    assert_eq!(pair.facts.files, Texts::from_iter(["tls.crt", "tls.key"]));
    let bundle = credential.bundle.part.as_ref().unwrap();
    assert_eq!(bundle.trusted_ca, root.pem.as_bytes());
    assert_eq!(bundle.facts.files, Texts::from_iter(["ca.crt"]));
    assert_eq!(credential.skipped, Texts::from_iter(["README"]));
    assert_eq!(warned(&credential), []);
}

#[test]
fn the_keys_certificate_is_put_first_with_a_warning() {
    let root = ca("root");
    let middle = intermediate(&root, "middle");
    let (cert, key) = leaf(&middle, "a.example");
    let credential = good(&[
        ("tls.crt", &format!("{}{}{cert}", root.pem, middle.pem)),
        ("tls.key", &key),
    ]);
    let chain = credential.pair.part.as_ref().unwrap().chain.clone();
    assert_eq!(
        String::from_utf8(chain).unwrap(),
        format!("{cert}{}{}", root.pem, middle.pem)
    );
    assert_eq!(warned(&credential), [Reason::ChainOrder]);
}

#[test]
fn the_key_of_another_certificate_is_rejected() {
    let root = ca("root");
    let (cert, _) = leaf(&root, "a.example");
    let (_, key) = leaf(&root, "a.example");
    assert_eq!(
        bad(&[("tls.crt", &cert), ("tls.key", &key)]),
        [Reason::KeyMismatch]
    );
}

#[test]
fn one_pem_with_both_never_sends_the_key_with_the_chain() {
    let root = ca("root");
    let (cert, key) = leaf(&root, "a.example");
    for (name, text) in [
        ("site.pem", format!("{cert}{}{key}", root.pem)),
        ("site.pem", format!("{key}{cert}{}", root.pem)),
        ("cert.pem", format!("{cert}{key}{}", root.pem)),
    ] {
        let credential = good(&[(name, &text)]);
        let pair = credential.pair.part.as_ref().unwrap();
        assert_eq!(
            String::from_utf8_lossy(&pair.chain),
            format!("{cert}{}", root.pem)
        );
        assert_eq!(&**pair.key, key.as_bytes());
        assert_eq!(warned(&credential), []);
    }
}

#[test]
fn one_pem_with_both_may_have_a_byte_order_mark() {
    let root = ca("root");
    let (cert, key) = leaf(&root, "a.example");
    for text in [
        format!("\u{feff}{cert}{key}"),
        format!("{key}\u{feff}{cert}"),
    ] {
        let credential = good(&[("site.pem", &text), ("ca.pem", &root.pem)]);
        assert_eq!(
            credential.pair.part.as_ref().unwrap().chain,
            cert.as_bytes()
        );
        assert_eq!(warned(&credential), [Reason::Tidied]);
    }
}

#[test]
fn a_key_in_the_chains_or_the_bundles_file_stays_there() {
    let root = ca("root");
    let (cert, key) = leaf(&root, "a.example");
    // Also where Envoy would see no block, because the line is indented.
    for (hidden, warnings) in [(key.clone(), 2), (format!("  {key}"), 4)] {
        let credential = good(&[
            ("tls.crt", &format!("{cert}{hidden}")),
            ("tls.key", &key),
            ("ca.crt", &format!("{hidden}{}", root.pem)),
        ]);
        let pair = credential.pair.part.as_ref().unwrap();
        assert_eq!(pair.chain, cert.as_bytes());
        let bundle = credential.bundle.part.as_ref().unwrap();
        assert_eq!(bundle.trusted_ca, root.pem.as_bytes());
        assert_eq!(warned(&credential), vec![Reason::Tidied; warnings]);
    }
}

#[test]
fn dates_cause_warnings_and_are_served() {
    let root = ca("root");
    let now = SystemTime::now();
    let cases = [
        (now - 3 * DAY, now - DAY, Reason::Expired),
        (now + DAY, now + 90 * DAY, Reason::NotYetValid),
        (now - 370 * DAY, now + 29 * DAY, Reason::Expiring),
        (now - 4 * DAY, now + DAY, Reason::Expiring),
    ];
    let in_time = [
        (now - DAY, now + 29 * DAY),
        (now - 60 * DAY, now + 30 * DAY),
        (now - DAY / 2, now + DAY / 4),
    ];
    let cases = cases.map(|(from, until, reason)| (from, until, Some(reason)));
    let in_time = in_time.map(|(from, until)| (from, until, None));
    for (from, until, reason) in cases.into_iter().chain(in_time) {
        let (cert, key) = leaf_with(&root, "a.example", |params| {
            params.not_before = from.into();
            params.not_after = until.into();
        });
        let credential = good(&[("tls.crt", &cert), ("tls.key", &key), ("ca.crt", &root.pem)]);
        assert_eq!(warned(&credential), Vec::from_iter(reason));
    }
}

#[test]
fn a_key_that_others_can_read_causes_a_warning() {
    let (cert, key) = leaf(&ca("root"), "a.example");
    let both = format!("{cert}{key}");
    for (mode, warns) in [(0o600, false), (0o640, false), (0o604, true), (0o602, true)] {
        for mut list in [
            files(&[("tls.crt", &cert), ("tls.key", &key)]),
            files(&[("a.pem", &both)]),
        ] {
            for file in &mut list {
                // A certificate is not confidential.
                file.mode = if file.name == "tls.crt" { 0o644 } else { mode };
            }
            let credential = read(list).unwrap();
            let warned = warned(&credential).contains(&Reason::LooseMode);
            assert_eq!(warned, warns, "{mode:o}");
        }
    }
}

#[test]
fn a_revocation_list_without_a_bundle_is_skipped() {
    let root = ca("root");
    let (cert, key) = leaf(&root, "a.example");
    let chain = format!("{cert}{}", root.pem);
    let credential = good(&[("tls.crt", &chain), ("tls.key", &key), ("ca.crl", "hello")]);
    assert_eq!(warned(&credential), [Reason::Incomplete]);
    assert_eq!(credential.skipped, Texts::from_iter(["ca.crl"]));
}

#[test]
fn the_problems_of_all_parts_are_reported_together() {
    let root = ca("root");
    let (cert, _) = leaf(&root, "a.example");
    let problems = bad(&[
        ("tls.crt", &cert[..90]),
        ("tls.key", ""),
        ("ca.crt", &cert[..80]),
    ]);
    assert_eq!(problems, [Reason::BadPem, Reason::BadPem, Reason::BadPem]);
}

#[test]
fn a_problem_of_one_file_is_reported_once() {
    let (cert, key) = leaf(&ca("root"), "a.example");
    let cut = format!("{key}{}", &cert[..200]);
    assert_eq!(bad(&[("a.pem", &cut)]), [Reason::BadPem]);
}

#[test]
fn a_key_of_another_kind_does_not_match() {
    let root = ca("root");
    let (cert, _) = leaf(&root, "a.example");
    let other = KeyPair::generate_for(&rcgen::PKCS_ECDSA_P384_SHA384).unwrap();
    let list = [
        ("tls.crt", cert.as_str()),
        ("tls.key", &other.serialize_pem()),
    ];
    assert_eq!(bad(&list), [Reason::KeyMismatch]);
}

#[test]
fn names_from_a_certificate_forge_no_line() {
    let root = ca("ro\not");
    let (cert, key) = leaf_with(&root, "a.example", |params| {
        params.not_after = (SystemTime::now() - DAY).into();
        params
            .distinguished_name
            .push(DnType::OrganizationName, "\x1b[2J\r");
    });
    let credential = good(&[("tls.crt", &cert), ("tls.key", &key)]);
    let leaf = &credential.pair.part.as_ref().unwrap().facts.leaf;
    for text in [
        leaf.subject(),
        leaf.issuer(),
        &credential.warnings().next().unwrap().to_string(),
    ] {
        assert!(!text.contains(char::is_control), "{text:?}");
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn whatever_is_in_the_chains_file_the_leaf_comes_first_and_no_key_goes_out(
        order in Just(vec!["cert", "middle", "root", "key", "other"]).prop_shuffle(),
        length in 0..=5_usize,
    ) {
        static PKI: LazyLock<HashMap<&str, String>> = LazyLock::new(|| {
            let root = ca("root");
            let middle = intermediate(&root, "middle");
            let (cert, key) = leaf(&middle, "a.example");
            let (_, other) = leaf(&middle, "a.example");
            [("cert", cert), ("middle", middle.pem), ("root", root.pem), ("key", key), ("other", other)].into()
        });
        let order = &order[..length];
        let text = |names: &[&str]| names.iter().map(|name| PKI[name].as_str()).collect::<String>();
        let list = files(&[("tls.crt", &text(order)), ("tls.key", &PKI["key"])]);
        match read(list) {
            Ok(credential) => {
                let chain = credential.pair.part.unwrap().chain;
                let mut expected = vec!["cert"];
                expected.extend(order.iter().filter(|name| !["cert", "key", "other"].contains(name)));
                prop_assert_eq!(String::from_utf8(chain).unwrap(), text(&expected));
            }
            Err(_) => prop_assert!(!order.contains(&"cert")),
        }
    }

    #[test]
    fn no_bytes_cause_a_panic(
        names in proptest::sample::subsequence(vec!["tls.crt", "tls.key", "ca.crt", "ca.crl", "a.pem"], 1..=5),
        damage in proptest::collection::vec((any::<proptest::sample::Index>(), any::<u8>()), 0..4),
    ) {
        static GOOD: LazyLock<String> = LazyLock::new(|| {
            let root = ca("root");
            let (cert, key) = leaf(&root, "a.example");
            format!("{cert}{}{key}", root.pem)
        });
        let mut bytes = GOOD.clone().into_bytes();
        for (at, byte) in damage {
            let at = at.index(bytes.len());
            bytes[at] = byte;
        }
        let list = names.iter().map(|name| file(name, &bytes)).collect();
        if let Ok(Credential { pair, bundle, .. }) = read(list) {
            let (pair, bundle) = (pair.part, bundle.part);
            let chain = pair.map(|pair| pair.chain).unwrap_or_default();
            let trust = bundle.map(|bundle| bundle.trusted_ca).unwrap_or_default();
            for public in [chain, trust] {
                prop_assert!(!String::from_utf8_lossy(&public).contains("PRIVATE KEY"));
            }
        }
    }
}
