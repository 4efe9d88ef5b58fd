//! The check and a running Envoy agree, over SDS: Envoy accepts everything that the agent would send, and rejects
//! everything that the agent rejects as broken. The mutations are the same in each `cargo test`; `tests/soak` uses
//! others, for minutes.

use std::time::{Duration, Instant, SystemTime};

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use rcgen::{
    CertificateParams, CustomExtension, ExtendedKeyUsagePurpose, KeyPair, KeyUsagePurpose,
};
use sds_agent::credential::pem::tidy;
use sds_agent::problem::{Problem, Reason};
use sds_agent::proto::tls::secret::Type as Kind;

use super::cases::{ca_with, days, pem};
use super::dice::Dice;
use super::{judged, mutation, odd};
use crate::util::judge::{Judge, bundle, pair_with_staple};
use crate::util::ocsp::{self, Status};
use crate::util::pki::{leaf_params, must_staple_feature};
use crate::util::{Ca, require, tools};

/// The number of rounds, unless `SDS_AGENT_SOAK` sets a duration in seconds.
const ROUNDS: usize = 8;

/// The secrets of a round.
const ROUND: usize = 480;

/// The problems of staples that the agent does not send although Envoy loads them: clients would refuse them.
const STALE: [&str; 6] = [
    "expired on",
    "valid only from",
    "REVOKED",
    "does not know",
    "is not for",
    "not signed by the certificate's issuer",
];

/// The file of the OCSP staples.
const STAPLE: &str = "ocsp.der";

type Files = Vec<(String, Vec<u8>)>;

#[test]
fn envoy_and_the_check_agree_on_mutated_files() {
    let Some(program) = require(&tools::ENVOY) else {
        return;
    };
    let read = |name: &str| {
        std::env::var(name)
            .ok()
            .map(|text| text.parse::<u64>().unwrap())
    };
    let soak = read("SDS_AGENT_SOAK");
    // The same each time in `cargo test`, another one in each soak.
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
    let random = soak.map(|_| now.unwrap().as_secs());
    let seed = read("SDS_AGENT_SEED").or(random).unwrap_or(1);
    eprintln!("SDS_AGENT_SEED={seed}");
    let mut dice = Dice(seed);
    let mut judge = Judge::start(&program);
    let foundations = foundations();
    let until = soak.map(|seconds| Instant::now() + Duration::from_secs(seconds));
    let mut rounds = 0..ROUNDS;
    let mut goes_on = || match until {
        Some(until) => Instant::now() < until,
        None => rounds.next().is_some(),
    };
    let mut counts = [0_usize; 2];
    let mut wrong = Vec::new();
    while wrong.len() < 60 && goes_on() {
        let round: Vec<Tried> = (0..ROUND)
            .filter_map(|_| Tried::new(mutated(&foundations, &mut dice)))
            .collect();
        let verdicts = judge.judge(round.iter().map(|tried| tried.sent.clone()).collect());
        for (tried, verdict) in round.into_iter().zip(verdicts) {
            counts[usize::from(tried.refused.is_some())] += 1;
            wrong.extend(tried.disagreement(verdict));
        }
    }
    eprintln!(
        "{} sent by the agent, {} refused by it",
        counts[0], counts[1]
    );
    assert!(judge.envoy.is_running());
    assert!(counts.iter().all(|count| *count > 100), "{counts:?}");
    assert!(
        wrong.is_empty(),
        "seed {seed}: {} disagreements\n{}",
        wrong.len(),
        wrong.join("\n")
    );
}

/// A folder, the secret that is sent to Envoy, and why the agent would not send it.
struct Tried {
    files: Files,
    sent: Kind,
    refused: Option<Problem>,
}

impl Tried {
    fn new(files: Files) -> Option<Self> {
        let credential = judged(&files);
        let file = |name: &str| {
            files
                .iter()
                .find(|(known, _)| known == name)
                .map(|(_, bytes)| &**bytes)
        };
        let is_pair = file("tls.key").is_some();
        let first = |problems: Vec<Problem>| problems.into_iter().next();
        let (sent, refused) = if is_pair {
            let (staple, of_staple) = match credential.staple.part {
                Some(good) => (Some(good.response), None),
                None => (
                    file(STAPLE).map(Vec::from),
                    first(credential.staple.problems),
                ),
            };
            let with_staple = |chain, key| pair_with_staple(chain, key, staple.as_deref());
            match credential.pair.part {
                Some(good) => (with_staple(&good.chain, &good.key), of_staple),
                None => (
                    with_staple(file("tls.crt")?, file("tls.key")?),
                    first(credential.pair.problems),
                ),
            }
        } else {
            match credential.bundle.part {
                Some(good) => (bundle(&good.trusted_ca, good.crl.as_deref()), None),
                None => (
                    bundle(file("ca.crt")?, file("ca.crl")),
                    first(credential.bundle.problems),
                ),
            }
        };
        let tried = Self {
            files,
            sent,
            refused,
        };
        (!tried.is_excepted()).then_some(tried)
    }

    /// What the agent intentionally rejects although Envoy accepts it.
    fn is_excepted(&self) -> bool {
        let Some(problem) = &self.refused else {
            return false;
        };
        let what = problem.what();
        // Envoy loads it, and then refuses all clients or admits the wrong ones.
        let reasons = [Reason::BadTrustBundle, Reason::BadCrl];
        reasons.contains(&problem.reason()) && !what.contains("line")
            // A block that Envoy would not see at all.
            || self.files.iter().any(|(name, bytes)| name != STAPLE && !matches!(tidy(bytes), Ok(None)))
            // Envoy reads a line up to a NUL, and skips the block if that is its first line.
            || self.files.iter().any(|(name, bytes)| name != STAPLE && bytes.contains(&0))
            || STALE.iter().any(|words| what.contains(words))
            // For Envoy, an empty staple is no staple.
            || (problem.path().ends_with(STAPLE) && what.contains("it is empty"))
            // Envoy reads a key up to its first block, and a file of lists as far as it can.
            || (what.contains("PEM block") && problem.path().ends_with("tls.key"))
            || (what.contains("PEM block") && problem.path().ends_with("ca.crl"))
            // An empty bundle turns client authentication off.
            || problem.path().ends_with("ca.crt") && (what.contains("there is no") || what.contains("it is empty"))
    }

    fn disagreement(self, verdict: Result<(), String>) -> Option<String> {
        let what = match (self.refused, verdict) {
            (None, Err(words)) => format!("sent, and Envoy rejects it: {words}"),
            (Some(problem), Ok(())) => format!("Envoy takes it, and the agent does not: {problem}"),
            _ => return None,
        };
        let files = self.files.iter().map(|(name, bytes)| {
            format!("{name}: {}", String::from_utf8_lossy(bytes).escape_debug())
        });
        Some(format!(
            "{what}\n  {}",
            files.collect::<Vec<_>>().join("\n  ")
        ))
    }
}

/// Valid folders, to be mutated: pairs with keys of several kinds, with and without staples, bundles with and
/// without lists. Their lengths are the same each time, so that the mutations are the same too: keys are read from
/// files, and authorities sign with RSA and Ed25519.
fn foundations() -> Vec<Files> {
    let root = ca_with("root", key("rsa2048"));
    let other = ca_with("other", key("ed25519"));
    let rich = |params: &mut CertificateParams| {
        params.key_usages = vec![
            KeyUsagePurpose::DigitalSignature,
            KeyUsagePurpose::KeyAgreement,
        ];
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
        params.use_authority_key_identifier_extension = true;
        params.not_before = days(-1);
        params.not_after = days(100);
        let mut critical = CustomExtension::from_oid_content(&[1, 2, 3, 4], vec![5, 0]);
        critical.set_criticality(true);
        params.custom_extensions = vec![critical];
    };
    let (cert, p384) = root.certify("a.example", &key("p384"), rich);
    let (rsa_cert, rsa) = other.certify("r.example", &key("rsa4096"), rich);
    let mut all: Vec<Files> = vec![
        files(&[
            ("tls.crt", &format!("{cert}{}", root.pem)),
            ("tls.key", &p384),
        ]),
        files(&[("tls.crt", &rsa_cert), ("tls.key", &rsa)]),
        files(&[("ca.crt", &root.pem)]),
        files(&[("ca.crt", &format!("{}{}", root.pem, other.pem))]),
        files(&[("ca.crt", &root.pem), ("ca.crl", &root.list(1))]),
        files(&[("ca.crt", &format!("{}{}", root.pem, root.list(1)))]),
        files(&[("ca.crt", &cert)]),
    ];
    all.extend([stapled(false), stapled(true)]);
    let kinds = [
        "p256",
        "p384",
        "p521",
        "ed25519",
        "rsa2048",
        "rsa2048-pkcs1",
        "p256-compressed",
        "p256-parameters",
        "p256-no-public",
        "p256-v1",
        "p256-critical",
        "trusted",
    ];
    let read = |name: &str, ending: &str| {
        std::fs::read_to_string(odd().join(format!("{name}.{ending}"))).unwrap()
    };
    all.extend(kinds.map(|name| {
        files(&[
            ("tls.crt", &read(name, "crt")),
            ("tls.key", &read(name, "key")),
        ])
    }));
    all
}

/// A pair with a staple, which its certificate may require.
fn stapled(must_staple: bool) -> Files {
    let ca = Ca::with_key("responder", key("rsa2048"));
    let mut params = leaf_params(&["s.example"], ExtendedKeyUsagePurpose::ServerAuth);
    if must_staple {
        params.custom_extensions = vec![must_staple_feature()];
    }
    let identity = ca.issue(&params, &key("p256"));
    let days = ["-ndays", "7", "-resp_no_certs"];
    let staple = ocsp::staple_with(&ca, &identity, Status::Good, &days);
    let mut files = files(&[("tls.crt", &identity.chain), ("tls.key", &identity.key)]);
    files.push((STAPLE.to_owned(), staple));
    files
}

/// A key that is the same each time.
fn key(name: &str) -> KeyPair {
    let path = odd().join(format!("{name}.key"));
    KeyPair::from_pem(&std::fs::read_to_string(path).unwrap()).unwrap()
}

fn files(list: &[(&str, &str)]) -> Files {
    let owned = list
        .iter()
        .map(|(name, text)| ((*name).to_owned(), text.as_bytes().to_vec()));
    owned.collect()
}

/// One of the folders with a change in one of its files.
fn mutated(foundations: &[Files], dice: &mut Dice) -> Files {
    let mut files = dice.pick(foundations).clone();
    let at = dice.below(files.len());
    let (name, file) = &mut files[at];
    match dice.below(4) {
        _ if name == STAPLE => *file = mutation::der(file, dice),
        0 => mutation::text(file, dice),
        1 if dice.below(4) == 0 => relabel(file, dice),
        _ => mutate_block(file, dice),
    }
    files
}

/// Puts another label around one of the blocks.
fn relabel(file: &mut Vec<u8>, dice: &mut Dice) {
    let labels = [
        "CERTIFICATE",
        "X509 CERTIFICATE",
        "TRUSTED CERTIFICATE",
        "PRIVATE KEY",
        "RSA PRIVATE KEY",
        "EC PRIVATE KEY",
        "DSA PRIVATE KEY",
        "ENCRYPTED PRIVATE KEY",
        "ANY PRIVATE KEY",
        "X509 CRL",
        "PKCS7",
        "CERTIFICATE REQUEST",
        "certificate",
        "",
    ];
    let mut blocks = blocks(file);
    let at = dice.below(blocks.len());
    blocks[at].0 = (*dice.pick(&labels)).to_owned();
    *file = joined(&blocks);
}

fn mutate_block(file: &mut Vec<u8>, dice: &mut Dice) {
    let mut blocks = blocks(file);
    let at = dice.below(blocks.len());
    blocks[at].1 = mutation::der(&blocks[at].1, dice);
    *file = joined(&blocks);
}

/// The labels and contents of the PEM blocks of a valid file.
fn blocks(file: &[u8]) -> Vec<(String, Vec<u8>)> {
    let text = std::str::from_utf8(file).unwrap();
    let parts = text.split("-----BEGIN ").skip(1);
    parts
        .map(|part| {
            let (label, rest) = part.split_once("-----").unwrap();
            let body: String = rest
                .split("-----")
                .next()
                .unwrap()
                .split_whitespace()
                .collect();
            (label.to_owned(), STANDARD.decode(body).unwrap())
        })
        .collect()
}

fn joined(blocks: &[(String, Vec<u8>)]) -> Vec<u8> {
    let texts = blocks
        .iter()
        .map(|(label, der)| pem(label, &STANDARD.encode(der), 64));
    texts.collect::<String>().into_bytes()
}
