//! The report of `check` and of `status`: as a table with all problems, as JSON, or as one line.

mod clients;
mod full;
mod line;
mod table;

use std::fmt::Display;
use std::process::ExitCode;

use clap::ValueEnum;
use comfy_table::Color;
use sds_agent::admin::status::Status;
use sds_agent::report::{Credential, Problem, Report, State};
use sds_agent::text::escape_json;
use serde::Serialize;

use super::output::{self, shown, wrapped};

/// If there are more problems or warnings than this, the rest is only counted.
const PROBLEMS: usize = 40;

/// The form of a report.
#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Form {
    /// For people
    Table,
    /// For programs, described in docs/status.md
    Json,
    /// One line, as monitoring plugins print it
    Line,
}

/// Where a report is shown.
#[derive(Clone, Copy)]
pub(crate) struct Canvas {
    /// The width of the terminal; `None` if lines may have any length.
    pub(crate) width: Option<usize>,
    /// Whether it may be coloured.
    pub(crate) colour: bool,
}

/// What a report is about.
pub(crate) enum Subject<'a> {
    /// Files, without an agent.
    Files(&'a Report),
    /// A running agent.
    Agent(&'a Status),
}

impl Canvas {
    /// The standard output.
    pub(crate) fn stdout() -> Self {
        Self {
            width: output::width(),
            colour: output::colour(),
        }
    }
}

impl<'a> Subject<'a> {
    pub(crate) fn report(&self) -> &'a Report {
        match self {
            Self::Files(report) => report,
            Self::Agent(status) => &status.report,
        }
    }

    fn agent(&self) -> Option<&'a Status> {
        match self {
            Self::Files(_) => None,
            Self::Agent(status) => Some(status),
        }
    }

    /// Why nothing is served yet.
    fn not_ready(&self) -> &'a [String] {
        self.agent().map_or(&[], |status| &status.agent.waiting_for)
    }

    /// Why the configuration was refused when it was last read.
    fn config_error(&self) -> Option<&'a str> {
        self.agent()?.agent.config_error.as_deref()
    }

    /// The exit code of a monitoring plugin: 0 for OK, 1 for a warning, 2 for critical.
    fn severity(&self) -> u8 {
        let of_config = u8::from(self.config_error().is_some());
        match self.not_ready() {
            [] => severity(self.report().state).max(of_config),
            _ => 2,
        }
    }

    /// The exit code of a monitoring plugin.
    pub(crate) fn exit_code(&self) -> ExitCode {
        ExitCode::from(self.severity())
    }

    /// The report as text.
    pub(crate) fn text(&self, canvas: Canvas) -> String {
        let report = self.report();
        let table = match report.credentials.is_empty() {
            true => String::new(),
            false => table::of(self, canvas),
        };
        let (mut problems, mut warnings) = (Vec::new(), Vec::new());
        for root in &report.roots {
            let described = |word| move |problem| described(word, problem, canvas);
            problems.extend(root.problems.iter().map(described("error")));
            warnings.extend(root.warnings.iter().map(described("warning")));
        }
        for credential in &report.credentials {
            problems.extend(problems_of(credential, canvas));
            warnings.extend(warnings_of(credential, canvas));
        }
        let mut sections = vec![table, bounded(&problems), bounded(&warnings)];
        if let Some(status) = self.agent() {
            sections.insert(0, table::head(status, canvas));
            sections.push(table::waiting(&status.waiting, canvas));
        }
        sections.push(wrapped(&line::sum(report), canvas.width));
        sections.retain(|section| !section.is_empty());
        sections.join("\n")
    }

    /// All details of each of its credentials.
    pub(crate) fn full(&self, canvas: Canvas) -> String {
        let report = self.report();
        let each = report.credentials.iter();
        let each = each.map(|credential| full::of(credential, report.now.get(), canvas));
        each.collect::<Vec<_>>().join("\n")
    }

    /// The report as one line.
    pub(crate) fn line(&self) -> String {
        line::of(self)
    }
}

/// JSON in several lines.
pub(crate) fn json(report: &impl Serialize) -> String {
    // Serialization can't fail: all maps have strings as keys.
    let text = serde_json::to_string_pretty(report).unwrap_or_default();
    format!("{}\n", escape_json(&text))
}

/// Ends a command that could not make a report.
pub(crate) fn fail(error: impl Display, form: Form) -> ExitCode {
    match form {
        // Monitoring systems only read standard output.
        Form::Line => {
            output::print(line::unknown(&error.to_string()).as_bytes());
            ExitCode::from(output::COULD_NOT)
        }
        Form::Table | Form::Json => output::fail(error),
    }
}

fn severity(state: State) -> u8 {
    match state {
        State::Ok | State::Skipped => 0,
        State::Expiring => 1,
        State::Rejected | State::Expired => 2,
    }
}

fn colour(state: State) -> Color {
    match state {
        State::Rejected | State::Expired => Color::Red,
        State::Expiring => Color::Yellow,
        State::Ok => Color::Green,
        State::Skipped => Color::Grey,
    }
}

/// A problem, and what to do about it.
struct Entry {
    what: String,
    remedy: String,
}

impl Entry {
    fn new(what: &str, remedy: &str, canvas: Canvas) -> Self {
        Self {
            what: wrapped(what, canvas.width),
            remedy: wrapped(&format!("    {remedy}"), canvas.width),
        }
    }
}

fn problems_of(credential: &Credential, canvas: Canvas) -> impl Iterator<Item = Entry> + '_ {
    let word = match credential.state {
        State::Skipped => "skipped",
        _ => "error",
    };
    let problems = credential.problems.iter();
    let problems = problems.map(move |problem| described(word, problem, canvas));
    let rejections = credential.secrets.iter().flat_map(clients::rejections);
    problems.chain(rejections.map(move |(what, remedy)| Entry::new(&what, &remedy, canvas)))
}

fn warnings_of(credential: &Credential, canvas: Canvas) -> impl Iterator<Item = Entry> + '_ {
    let warnings = credential.warnings.iter();
    warnings.map(move |problem| described("warning", problem, canvas))
}

fn described(word: &str, problem: &Problem, canvas: Canvas) -> Entry {
    let what = format!("{word}: {}: {}", shown(&problem.path), shown(&problem.what));
    Entry::new(&what, &shown(&problem.remedy), canvas)
}

/// Each entry, and below it what to do about it: only once for consecutive entries with the same remedy.
fn listed(entries: &[Entry]) -> String {
    let mut text = String::new();
    for (place, entry) in entries.iter().enumerate() {
        let next = entries.get(place + 1);
        text.push_str(&entry.what);
        if next.is_none_or(|next| next.remedy != entry.remedy) {
            text.push_str(&entry.remedy);
        }
    }
    text
}

/// The first entries, and how many more there are.
fn bounded(entries: &[Entry]) -> String {
    let mut text = listed(&entries[..entries.len().min(PROBLEMS)]);
    if let Some(more) = entries.len().checked_sub(PROBLEMS).filter(|more| *more > 0) {
        text.push_str(&format!("and {more} more; --output json lists all\n"));
    }
    text
}

fn counted(count: u64, one: &str, many: &str) -> String {
    format!("{count} {}", if count == 1 { one } else { many })
}
