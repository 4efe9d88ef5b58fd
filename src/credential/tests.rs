//! Folders of files, good and bad, and what is made of them.

use std::path::Path;
use std::time::{Duration, SystemTime};

use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair, KeyUsagePurpose};
use zeroize::Zeroizing;

use super::{Credential, from_files};
use crate::files::read::File;
use crate::problem::{Problem, Reason};

const DAY: Duration = Duration::from_secs(86_400);

/// An authority: its certificate, and what it signs with.
pub(super) struct Ca {
    pub(super) pem: String,
    pub(super) issuer: Issuer<'static, KeyPair>,
}

pub(super) fn ca(name: &str) -> Ca {
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
pub(super) fn leaf(of: &Ca, name: &str) -> (String, String) {
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

pub(super) fn files(files: &[(&str, &str)]) -> Vec<File> {
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

pub(super) fn read(files: Vec<File>) -> Result<Credential, Vec<Problem>> {
    from_files(Path::new("/c/a"), files, SystemTime::now(), 30)
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
    credential.warnings.iter().map(Problem::reason).collect()
}

#[test]
fn the_very_bytes_of_a_good_pair_and_its_bundle_are_kept() {
    let root = ca("root");
    let (cert, key) = leaf(&root, "a.example");
    let chain = format!("a note\r\n{}\r\n# the end", cert.replace('\n', "\r\n"));
    let credential = good(&[
        ("tls.crt", &chain),
        ("tls.key", &key),
        ("ca.crt", &root.pem),
        ("README", "what this is"),
    ]);
    let pair = credential.pair.as_ref().unwrap();
    assert_eq!(pair.chain, chain.as_bytes());
    assert_eq!(&**pair.key, key.as_bytes());
    assert_eq!(pair.key_type, "P-256");
    assert_eq!(pair.leaf.names, ["a.example"]);
    assert_eq!(pair.leaf.subject, "CN=a.example");
    assert_eq!(pair.leaf.issuer, "CN=root");
    assert_eq!(pair.files, ["tls.crt", "tls.key"]);
    let bundle = credential.bundle.as_ref().unwrap();
    assert_eq!(bundle.trusted_ca, root.pem.as_bytes());
    assert_eq!(bundle.files, ["ca.crt"]);
    assert_eq!(credential.passed_over, ["README"]);
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
    let chain = credential.pair.as_ref().unwrap().chain.clone();
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
        let pair = credential.pair.as_ref().unwrap();
        assert_eq!(
            String::from_utf8_lossy(&pair.chain),
            format!("{cert}{}", root.pem)
        );
        assert_eq!(&**pair.key, key.as_bytes());
        assert_eq!(warned(&credential), []);
    }
}

#[test]
fn a_key_in_the_chains_or_the_bundles_file_stays_there() {
    let root = ca("root");
    let (cert, key) = leaf(&root, "a.example");
    // Also where it is no block, for the line is indented.
    for hidden in [key.clone(), format!("  {key}")] {
        let credential = good(&[
            ("tls.crt", &format!("{cert}{hidden}")),
            ("tls.key", &key),
            ("ca.crt", &format!("{hidden}{}", root.pem)),
        ]);
        let pair = credential.pair.as_ref().unwrap();
        assert_eq!(pair.chain, cert.as_bytes());
        let bundle = credential.bundle.as_ref().unwrap();
        assert_eq!(bundle.trusted_ca, root.pem.as_bytes());
        assert_eq!(warned(&credential), [Reason::Tidied, Reason::Tidied]);
    }
}

#[test]
fn dates_are_warned_of_and_served() {
    let root = ca("root");
    let now = SystemTime::now();
    let cases = [
        (now - 3 * DAY, now - DAY, Reason::Expired),
        (now + DAY, now + 90 * DAY, Reason::NotYetValid),
        (now - DAY, now + 29 * DAY, Reason::ExpiresSoon),
    ];
    for (from, until, reason) in cases {
        let (cert, key) = leaf_with(&root, "a.example", |params| {
            params.not_before = from.into();
            params.not_after = until.into();
        });
        let credential = good(&[("tls.crt", &cert), ("tls.key", &key), ("ca.crt", &root.pem)]);
        assert_eq!(warned(&credential), [reason]);
    }
}
