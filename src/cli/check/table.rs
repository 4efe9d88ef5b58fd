//! The report for people: a table, then each problem with its remedy, then a sum.

use std::fmt::Write;

use comfy_table::{Cell, Color, ContentArrangement, Table, presets};
use sds_agent::inventory::Credential;
use sds_agent::problem::Problem;
use sds_agent::secret::{Facts, Kind};
use sds_agent::times::when;

use super::survey::{Entry, State, Survey};
use crate::cli::output::shown;

/// More names than this are counted instead of told.
const NAMES: usize = 4;

const HEADER: [&str; 9] = [
    "CREDENTIAL",
    "STATE",
    "KIND",
    "COVERS",
    "ISSUER",
    "KEY",
    "EXPIRES",
    "FILES",
    "PASSED OVER",
];

pub(super) fn report(survey: &Survey, colour: bool) -> String {
    let mut report = String::new();
    if !survey.entries.is_empty() {
        report.push_str(&table(survey, colour));
        report.push_str("\n\n");
    }
    for failure in &survey.failures {
        tell(&mut report, "error", failure);
    }
    for (state, problem) in &survey.roots {
        let word = if *state == State::Broken {
            "error"
        } else {
            "warning"
        };
        tell(&mut report, word, problem);
    }
    for entry in &survey.entries {
        let word = if entry.state == State::PassedOver {
            "passed over"
        } else {
            "error"
        };
        for problem in &entry.problems {
            tell(&mut report, word, problem);
        }
        for warning in &entry.warnings {
            tell(&mut report, "warning", warning);
        }
    }
    report.push_str(&sum(survey));
    report
}

fn table(survey: &Survey, colour: bool) -> String {
    let mut table = Table::new();
    table
        .load_preset(presets::NOTHING)
        .set_header(HEADER)
        .set_content_arrangement(ContentArrangement::Disabled);
    if colour {
        table
            .enforce_styling()
            .set_content_arrangement(ContentArrangement::Dynamic);
    } else {
        table.force_no_tty();
    }
    for entry in &survey.entries {
        table.add_row(row(entry, survey));
    }
    let text = table.to_string();
    let lines: Vec<&str> = text.lines().map(str::trim_end).collect();
    lines.join("\n")
}

fn row(entry: &Entry, survey: &Survey) -> Vec<Cell> {
    let colour = match entry.state {
        State::Good => Color::Green,
        State::PassedOver => Color::Grey,
        State::Warning | State::Expiring => Color::Yellow,
        State::Broken => Color::Red,
    };
    let mut row = vec![
        Cell::new(shown(&entry.name)),
        Cell::new(entry.state.as_str()).fg(colour),
    ];
    let cells = match entry.credential.as_deref().filter(|one| one.serves()) {
        None => vec![String::new(); HEADER.len() - 2],
        Some(credential) => {
            let kinds: Vec<_> = credential.kinds().map(kind).collect();
            let files = [files(credential), listed(&credential.skipped)];
            [kinds.join(", ")]
                .into_iter()
                .chain(details(credential, survey))
                .chain(files)
                .collect()
        }
    };
    row.extend(cells.into_iter().map(|text| match text.is_empty() {
        true => Cell::new("-"),
        false => Cell::new(text),
    }));
    row
}

fn kind(kind: Kind) -> &'static str {
    match kind {
        Kind::Certificate => "pair",
        Kind::TrustBundle => "bundle",
        Kind::OcspStaple => "staple",
        Kind::TicketKeys => "ticket keys",
        Kind::Generic => "generic",
    }
}

/// Names, issuer, key and expiry of the pair, or else of the bundle.
fn details(credential: &Credential, survey: &Survey) -> [String; 4] {
    let facts = |kind| Some(credential.secret(kind)?.facts());
    if let Some(Facts::Certificate(pair)) = facts(Kind::Certificate) {
        return [
            listed(&pair.leaf.names),
            shown(&pair.leaf.issuer),
            pair.key_type.clone(),
            when(pair.leaf.not_after, survey.now),
        ];
    }
    let Some(Facts::TrustBundle(bundle)) = facts(Kind::TrustBundle) else {
        return Default::default();
    };
    let subjects = bundle.certificates.iter().map(|ca| ca.subject.clone());
    let ends = bundle.certificates.iter().map(|ca| ca.not_after);
    let next = ends.filter(|end| *end >= survey.now).min();
    [
        format!("clients of {}", listed(&subjects.collect::<Vec<_>>())),
        String::new(),
        String::new(),
        next.map_or_else(String::new, |end| when(end, survey.now)),
    ]
}

fn files(credential: &Credential) -> String {
    let secrets = Kind::ALL
        .into_iter()
        .filter_map(|kind| credential.secret(kind));
    let parts = secrets.flat_map(|secret| [Some(secret.part()), secret.staple()]);
    let files = parts.flatten().flat_map(|part| part.facts().files());
    listed(&files.cloned().collect::<Vec<_>>())
}

fn listed(names: &[String]) -> String {
    let mut text: Vec<String> = names.iter().take(NAMES).map(|name| shown(name)).collect();
    if names.len() > NAMES {
        text.push(format!("{} more", names.len() - NAMES));
    }
    text.join(", ")
}

fn tell(report: &mut String, word: &str, problem: &Problem) {
    let path = shown(&problem.path().display().to_string());
    // Writing to a string can't fail.
    let _ = writeln!(report, "{word}: {path}: {}", shown(problem.what()));
    let _ = writeln!(report, "    {}", shown(problem.remedy()));
}

/// How many credentials there are, and how they are.
fn sum(survey: &Survey) -> String {
    let count = |state| {
        let alike = survey.entries.iter().filter(|entry| entry.state == state);
        alike.count()
    };
    let counts: Vec<String> = State::ALL
        .into_iter()
        .filter(|state| count(*state) > 0)
        .map(|state| format!("{} {}", count(state), state.as_str()))
        .collect();
    match survey.entries.len() {
        0 => "no credentials\n".to_owned(),
        1 => format!("1 credential: {}\n", counts.join(", ")),
        all => format!("{all} credentials: {}\n", counts.join(", ")),
    }
}
