//! The report for programs. docs/check.md describes it: what is there stays, more may be added.

use std::path::Path;
use std::time::SystemTime;

use sds_agent::credential::CertificateFacts;
use sds_agent::inventory::Credential;
use sds_agent::problem::Problem;
use sds_agent::secret::{Facts, Kind};
use sds_agent::text::escape_json;
use sds_agent::times::rfc3339;
use serde::Serialize;

use super::survey::{Entry, State, Survey};

#[derive(Serialize)]
struct Report<'a> {
    checked_at: String,
    state: State,
    credentials: Vec<JsonCredential<'a>>,
    failures: Vec<JsonProblem<'a>>,
    roots: Vec<JsonRoot<'a>>,
}

#[derive(Serialize)]
struct JsonRoot<'a> {
    state: State,
    #[serde(flatten)]
    problem: JsonProblem<'a>,
}

#[derive(Serialize)]
struct JsonCredential<'a> {
    name: &'a str,
    path: String,
    state: State,
    pair: Option<JsonPair<'a>>,
    bundle: Option<JsonBundle<'a>>,
    staple: Option<JsonStaple<'a>>,
    ticket_keys: Option<JsonFiles<'a>>,
    generic: Option<JsonFiles<'a>>,
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
struct JsonStaple<'a> {
    files: &'a [String],
    this_update: String,
    next_update: Option<String>,
}

#[derive(Serialize)]
struct JsonFiles<'a> {
    files: &'a [String],
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
    let report = Report {
        checked_at: rfc3339(survey.now),
        state: survey.worst().unwrap_or(State::Good),
        credentials: survey
            .entries
            .iter()
            .map(|entry| credential(entry, survey.now))
            .collect(),
        failures: problems(&survey.failures),
        roots: survey
            .roots
            .iter()
            .map(|(state, problem)| JsonRoot {
                state: *state,
                problem: problem.into(),
            })
            .collect(),
    };
    // Nothing in it can fail to be JSON: no map has keys other than strings.
    let mut text = escape_json(&serde_json::to_string_pretty(&report).unwrap_or_default());
    text.push('\n');
    text
}

fn credential(entry: &Entry, now: SystemTime) -> JsonCredential<'_> {
    let served = entry.credential.as_deref();
    let secret = |kind| served.and_then(|credential: &Credential| credential.secret(kind));
    let certificate_secret = secret(Kind::Certificate);
    let staple = certificate_secret.and_then(|secret| secret.staple());
    let files = |kind| {
        secret(kind).map(|secret| JsonFiles {
            files: secret.facts().files(),
        })
    };
    JsonCredential {
        name: &entry.name,
        path: path(&entry.path),
        state: entry.state,
        pair: certificate_secret.and_then(|secret| pair(secret.facts(), now)),
        bundle: secret(Kind::TrustBundle).map(|secret| JsonBundle {
            files: secret.facts().files(),
            certificates: secret
                .facts()
                .certificates()
                .iter()
                .map(|ca| certificate(ca, now))
                .collect(),
        }),
        staple: staple.and_then(|part| match part.facts() {
            Facts::OcspStaple(facts) => Some(JsonStaple {
                files: &facts.files,
                this_update: rfc3339(facts.this_update),
                next_update: facts.next_update.map(rfc3339),
            }),
            _ => None,
        }),
        ticket_keys: files(Kind::TicketKeys),
        generic: files(Kind::Generic),
        passed_over: served.map_or(&[], |credential| &credential.skipped),
        problems: problems(&entry.problems),
        warnings: problems(&entry.warnings),
    }
}

fn pair(facts: &Facts, now: SystemTime) -> Option<JsonPair<'_>> {
    let Facts::Certificate(pair) = facts else {
        return None;
    };
    Some(JsonPair {
        files: &pair.files,
        key_type: &pair.key_type,
        leaf: certificate(&pair.leaf, now),
    })
}

fn certificate(facts: &CertificateFacts, now: SystemTime) -> JsonCertificate<'_> {
    JsonCertificate {
        subject: &facts.subject,
        issuer: &facts.issuer,
        serial: &facts.serial,
        names: &facts.names,
        not_before: rfc3339(facts.not_before),
        not_after: rfc3339(facts.not_after),
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

fn seconds_between(from: SystemTime, to: SystemTime) -> i64 {
    let seconds = |time: std::time::Duration| i64::try_from(time.as_secs()).unwrap_or(i64::MAX);
    match to.duration_since(from) {
        Ok(left) => seconds(left),
        Err(past) => -seconds(past.duration()),
    }
}
