//! Any files in a credential folder: parts that are accepted can be served, and are what they claim to be.
#![no_main]

use std::path::Path;
use std::time::{Duration, SystemTime};

use libfuzzer_sys::fuzz_target;
use sds_agent::credential;
use sds_agent::files::read::File;
use sds_agent::problem::Problem;
use sds_agent::inventory::Judged;
use zeroize::Zeroizing;

/// Names with a meaning; other names are random.
const NAMES: [&str; 16] = [
    "tls.crt",
    "tls.key",
    "ca.crt",
    "ca.crl",
    "tls.ocsp-staple",
    "cert",
    "key",
    "cacert",
    "fullchain.pem",
    "privkey.pem",
    "fullchain.cer",
    "site.key",
    "site.crt",
    "site.pem",
    "ca.pem",
    "svid_bundle.pem",
];

/// Files: a byte for the name, two for the length, then the content. The corpus has valid content, because random
/// bytes never make a certificate.
fn files(mut data: &[u8]) -> Vec<File> {
    let mut files: Vec<File> = Vec::new();
    while let [name, high, low, rest @ ..] = data {
        let length = usize::from(*high) << 8 | usize::from(*low);
        let (content, after) = rest.split_at(length.min(rest.len()));
        let name = NAMES[usize::from(*name) % NAMES.len()];
        if !files.iter().any(|file| file.name == name) {
            files.push(File {
                name: name.to_owned(),
                bytes: Zeroizing::new(content.to_vec()),
                mode: 0o640,
            });
        }
        data = after;
    }
    files
}

fuzz_target!(|data: &[u8]| {
    let now = SystemTime::UNIX_EPOCH + Duration::from_secs(1_800_000_000);
    let folder = Path::new("/etc/sds-agent/credentials/site");
    let credential = credential::from_files(folder, files(data), now, 30);
    if let Some(pair) = &credential.pair.part {
        assert!(!pair.chain.is_empty() && !pair.key.is_empty());
    }
    if let Some(bundle) = &credential.bundle.part {
        // Without a CA it would switch client authentication off.
        assert!(!bundle.facts.certificates.is_empty() && !bundle.trusted_ca.is_empty());
    }
    if let Some(keys) = &credential.ticket_keys.part {
        assert!(keys.keys.iter().all(|key| key.len() == 80));
    }
    if let Some(generic) = &credential.generic.part {
        assert!(!generic.secret.is_empty());
    }
    assert_readable(credential.problems());
    assert_readable(credential.warnings());
    let _ = Judged::from(credential);
});

fn assert_readable<'a>(problems: impl IntoIterator<Item = &'a Problem>) {
    for problem in problems {
        assert!(!problem.to_string().contains('\n'));
    }
}
