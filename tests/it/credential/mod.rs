//! The results of the check for valid and invalid files, and whether the real Envoy agrees.

mod cases;
mod dice;
mod differential;
mod handshakes;
mod mutation;
mod oracle;
mod remedies;
mod trust;

use std::path::{Path, PathBuf};
use std::time::SystemTime;

use sds_agent::credential::{Credential, from_files};
use sds_agent::files::read::File;
use sds_agent::problem::{Problem, Reason};

use self::cases::{Case, Verdict};

/// The result of the check for `files`: a credential without a rejected part, or the problems.
fn check(files: &[(String, Vec<u8>)]) -> Result<Credential, Vec<Problem>> {
    let credential = judged(files);
    let problems: Vec<Problem> = credential.problems().cloned().collect();
    if problems.is_empty() {
        Ok(credential)
    } else {
        Err(problems)
    }
}

/// The result of the check for `files`, for each part.
pub(crate) fn judged(files: &[(String, Vec<u8>)]) -> Credential {
    let files = files.iter().map(|(name, bytes)| File {
        name: name.clone(),
        bytes: bytes.clone().into(),
        mode: 0o640,
    });
    from_files(Path::new("/c/a"), files.collect(), SystemTime::now(), 30)
}

/// The folder of files that only OpenSSL can make.
fn odd() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/it/fixtures/credential")
}

fn reasons<'a>(problems: impl IntoIterator<Item = &'a Problem>) -> Vec<Reason> {
    problems.into_iter().map(Problem::reason).collect()
}

#[test]
fn every_case_gets_the_expected_verdict() {
    let mut wrong = Vec::new();
    for Case {
        name,
        files,
        verdict,
    } in cases::all()
    {
        let got = check(&files);
        let right = match (&got, &verdict) {
            (Ok(credential), Verdict::Good(warnings)) => {
                reasons(credential.warnings()) == *warnings
            }
            (Err(problems), Verdict::Bad(reason) | Verdict::Stricter(reason)) => {
                reasons(problems) == [*reason]
            }
            _ => false,
        };
        if !right {
            let got = got.map(|credential| credential.warnings().cloned().collect::<Vec<_>>());
            wrong.push(format!("{name}: expected {verdict:?}, got {got:#?}"));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn no_message_contains_a_line_of_a_file() {
    for Case { name, files, .. } in cases::all() {
        let problems = match check(&files) {
            Ok(credential) => credential.warnings().cloned().collect(),
            Err(problems) => problems,
        };
        let text: String = problems
            .iter()
            .map(|problem| format!("{problem} {problem:?}"))
            .collect();
        for (_, bytes) in &files {
            for line in String::from_utf8_lossy(bytes).lines() {
                let secret = line.len() > 20 && !line.contains("-----");
                assert!(!secret || !text.contains(line), "{name}: {text}");
            }
        }
    }
}
