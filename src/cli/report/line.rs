//! A report in one line: how many credentials are in which state.

use sds_agent::report::{Report, State};
use sds_agent::times::when;

use super::{Subject, counted, severity};
use crate::cli::output::shown;

/// More credentials than this are counted instead of named.
const NAMED: usize = 5;

/// Such as `WARNING - 3 credentials: 1 expiring, 2 ok; expiring: site (in 6 days) | rejected=0 ...`.
pub(super) fn of(subject: &Subject<'_>) -> String {
    let report = subject.report();
    let status = match subject.severity() {
        0 => "OK",
        1 => "WARNING",
        _ => "CRITICAL",
    };
    let mut details = vec![sum(report)];
    details.extend(
        subject
            .not_ready()
            .iter()
            .map(|why| format!("not ready: {why}")),
    );
    let config = subject.config_error().into_iter();
    details.extend(config.map(|error| format!("the configuration was refused: {error}")));
    for root in &report.roots {
        let problems = root.problems.iter();
        details.extend(problems.map(|problem| format!("root {}: {}", root.path, problem.what)));
    }
    details.extend(State::ALL.iter().filter_map(|state| named(report, *state)));
    let counts = State::ALL.map(|state| format!("{}={}", state.as_str(), count(report, state)));
    format!(
        "{status} - {} | {}\n",
        plain(&details.join("; ")),
        counts.join(" ")
    )
}

/// The line of a check that failed.
pub(super) fn unknown(error: &str) -> String {
    format!("CRITICAL - {}\n", plain(error))
}

/// Such as `3 credentials: 1 expiring, 2 ok; 1 warning`.
pub(super) fn sum(report: &Report) -> String {
    let counts: Vec<_> = State::ALL
        .into_iter()
        .map(|state| (count(report, state), state.as_str()))
        .filter(|(count, _)| *count > 0)
        .map(|(count, state)| format!("{count} {state}"))
        .collect();
    let mut sum = match report.credentials.len() as u64 {
        0 => "no credentials".to_owned(),
        all => counted(all, "credential", "credentials"),
    };
    if !counts.is_empty() {
        sum.push_str(&format!(": {}", counts.join(", ")));
    }
    let of_roots = report.roots.iter().map(|root| root.warnings.len());
    let warnings = report.credentials.iter().map(|one| one.warnings.len());
    match warnings.chain(of_roots).sum::<usize>() as u64 {
        0 => sum,
        warnings => sum + "; " + &counted(warnings, "warning", "warnings"),
    }
}

fn count(report: &Report, state: State) -> usize {
    let alike = report.credentials.iter().filter(|one| one.state == state);
    alike.count()
}

/// The credentials in that state, if it requires action.
fn named(report: &Report, state: State) -> Option<String> {
    let count = count(report, state);
    if severity(state) == 0 || count == 0 {
        return None;
    }
    let alike = report.credentials.iter().filter(|one| one.state == state);
    let mut names: Vec<_> = alike
        .take(NAMED)
        .map(|one| match one.not_after() {
            // The expiry of a rejected credential is not the reason to act.
            Some(end) if state != State::Rejected => {
                format!("{} ({})", one.name, when(end.get(), report.now.get()))
            }
            _ => one.name.clone(),
        })
        .collect();
    if count > NAMED {
        names.push(format!("{} more", count - NAMED));
    }
    Some(format!("{}: {}", state.as_str(), names.join(", ")))
}

/// Text without the character that separates the counts from it.
fn plain(text: &str) -> String {
    shown(text).replace('|', "\\u{7c}")
}
