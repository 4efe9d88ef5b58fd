//! The report for programs. docs/check.md describes it: what is there stays, more may be added.

use std::path::Path;
use std::time::SystemTime;

use sds_agent::credential::{Bundle, CertificateFacts, Credential, Pair};
use sds_agent::problem::Problem;
use sds_agent::text::escape_json;
use serde::Serialize;

use super::survey::{Entry, State, Survey};

#[derive(Serialize)]
struct Report<'a> {
    checked_at: String,
    state: State,
    credentials: Vec<JsonCredential<'a>>,
    failures: Vec<JsonProblem<'a>>,
}

#[derive(Serialize)]
struct JsonCredential<'a> {
    name: &'a str,
    path: String,
    state: State,
    pair: Option<JsonPair<'a>>,
    bundle: Option<JsonBundle<'a>>,
    passed_over: &'a [String],
    problems: Vec<JsonProblem<'a>>,
    warnings: Vec<JsonProblem<'a>>,
}

#[derive(Serialize)]
struct JsonPair<'a> {
    files: &'a [String],
    key_type: &'a str,
    #[serde(flatten)]
    leaf: JsonCertificate<'a>,
}

#[derive(Serialize)]
struct JsonBundle<'a> {
    files: &'a [String],
    certificates: Vec<JsonCertificate<'a>>,
}

#[derive(Serialize)]
struct JsonCertificate<'a> {
    subject: &'a str,
    issuer: &'a str,
    serial: &'a str,
    names: &'a [String],
    not_before: String,
    not_after: String,
    expires_in_seconds: i64,
}

#[derive(Serialize)]
struct JsonProblem<'a> {
    reason: &'static str,
    path: String,
    what: &'a str,
    remedy: &'a str,
}

pub(super) fn report(survey: &Survey) -> String {
    let worst = survey.entries.iter().map(|entry| entry.state).max();
    let report = Report {
        checked_at: time(survey.now),
        state: worst.unwrap_or(State::Good),
        credentials: survey
            .entries
            .iter()
            .map(|entry| credential(entry, survey.now))
            .collect(),
        failures: problems(&survey.failures),
    };
    // Nothing in it can fail to be JSON: no map has keys other than strings.
    let mut text = escape_json(&serde_json::to_string_pretty(&report).unwrap_or_default());
    text.push('\n');
    text
}

fn credential(entry: &Entry, now: SystemTime) -> JsonCredential<'_> {
    let served: Option<&Credential> = entry.verdict.as_ref().ok();
    let pair = served.and_then(|credential| credential.pair.as_ref());
    let bundle = served.and_then(|credential| credential.bundle.as_ref());
    JsonCredential {
        name: &entry.name,
        path: path(&entry.path),
        state: entry.state,
        pair: pair.map(|pair: &Pair| JsonPair {
            files: &pair.files,
            key_type: &pair.key_type,
            leaf: certificate(&pair.leaf, now),
        }),
        bundle: bundle.map(|bundle: &Bundle| JsonBundle {
            files: &bundle.files,
            certificates: bundle
                .certificates
                .iter()
                .map(|ca| certificate(ca, now))
                .collect(),
        }),
        passed_over: served.map_or(&[], |credential| &credential.passed_over),
        problems: problems(entry.problems()),
        warnings: problems(entry.warnings()),
    }
}

fn certificate(facts: &CertificateFacts, now: SystemTime) -> JsonCertificate<'_> {
    JsonCertificate {
        subject: &facts.subject,
        issuer: &facts.issuer,
        serial: &facts.serial,
        names: &facts.names,
        not_before: time(facts.not_before),
        not_after: time(facts.not_after),
        expires_in_seconds: seconds_between(now, facts.not_after),
    }
}

fn problems(problems: &[Problem]) -> Vec<JsonProblem<'_>> {
    let json = |problem| JsonProblem::from(problem);
    problems.iter().map(json).collect()
}

impl<'a> From<&'a Problem> for JsonProblem<'a> {
    fn from(problem: &'a Problem) -> Self {
        Self {
            reason: problem.reason().as_str(),
            path: path(problem.path()),
            what: problem.what(),
            remedy: problem.remedy(),
        }
    }
}

fn path(path: &Path) -> String {
    path.display().to_string()
}

/// RFC 3339, in UTC.
fn time(time: SystemTime) -> String {
    humantime::format_rfc3339_seconds(time).to_string()
}

fn seconds_between(from: SystemTime, to: SystemTime) -> i64 {
    let seconds = |time: std::time::Duration| i64::try_from(time.as_secs()).unwrap_or(i64::MAX);
    match to.duration_since(from) {
        Ok(left) => seconds(left),
        Err(past) => -seconds(past.duration()),
    }
}
