//! Credentials as a table that fits the terminal: less important columns are left out if there is no room for them,
//! and no name is ever split.

use std::fmt::Write;
use std::time::{Duration, SystemTime};

use comfy_table::{Attribute, Cell, ContentArrangement, Table, presets};
use sds_agent::admin::status::{Status, Waiting, Watch};
use sds_agent::report::Credential;
use sds_agent::times::{span, when};

use super::{Canvas, Subject, clients, colour, counted};
use crate::cli::output::{shown, wrapped};

/// If there are more names or files than this, the rest is only counted. The smaller number is for narrow
/// terminals.
const LISTED: [usize; 2] = [4, 1];
/// If more names that do not exist are requested than this, the rest is only counted.
const WAITING: usize = 10;
/// Shown in an empty cell.
const NOTHING: &str = "-";
/// The space between two columns.
const GAP: usize = 2;

/// What a column shows.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Column {
    State,
    Name,
    Expires,
    Clients,
    Covers,
    Kind,
    Changed,
    Issuer,
    Key,
    Files,
    Skipped,
}

impl Column {
    /// The columns of `check`, in the order in which they are shown.
    const OF_FILES: [Self; 9] = [
        Self::State,
        Self::Name,
        Self::Expires,
        Self::Kind,
        Self::Covers,
        Self::Issuer,
        Self::Key,
        Self::Files,
        Self::Skipped,
    ];

    /// The columns of `status`.
    const OF_AGENT: [Self; 7] = [
        Self::State,
        Self::Name,
        Self::Expires,
        Self::Kind,
        Self::Clients,
        Self::Changed,
        Self::Covers,
    ];

    /// The columns that can be left out, in that order.
    const OPTIONAL: [Self; 8] = [
        Self::Skipped,
        Self::Issuer,
        Self::Files,
        Self::Key,
        Self::Changed,
        Self::Covers,
        Self::Kind,
        Self::Clients,
    ];

    fn title(self) -> &'static str {
        match self {
            Self::State => "STATE",
            Self::Name => "CREDENTIAL",
            Self::Expires => "EXPIRES",
            Self::Clients => "CLIENTS",
            Self::Covers => "COVERS",
            Self::Kind => "KIND",
            Self::Changed => "CHANGED",
            Self::Issuer => "ISSUER",
            Self::Key => "KEY",
            Self::Files => "FILES",
            Self::Skipped => "SKIPPED",
        }
    }

    fn text(self, credential: &Credential, now: SystemTime, listed: usize) -> String {
        let secrets = || credential.secrets.iter();
        let text = match self {
            Self::State => credential.state.as_str().to_owned(),
            Self::Name => shown(&credential.name),
            Self::Expires => credential
                .not_after()
                .map_or_else(String::new, |end| when(end.get(), now)),
            Self::Clients => clients::summary(credential),
            Self::Covers => covers(credential, listed),
            Self::Kind => {
                let kinds: Vec<_> = secrets().map(|one| one.kind.replace('_', " ")).collect();
                kinds.join(", ")
            }
            Self::Changed => secrets()
                .map(|secret| secret.since)
                .max()
                .map_or_else(String::new, |since| when(since.get(), now)),
            Self::Issuer => leaf(credential).map_or_else(String::new, |leaf| shown(&leaf.issuer)),
            Self::Key => secrets()
                .find_map(|secret| secret.key_type.clone())
                .unwrap_or_default(),
            Self::Files => list(secrets().flat_map(|secret| &secret.files), listed),
            Self::Skipped => list(credential.skipped_files.iter(), listed),
        };
        match text.is_empty() {
            true => NOTHING.to_owned(),
            false => text,
        }
    }
}

/// The credentials of a report.
pub(super) fn of(subject: &Subject<'_>, canvas: Canvas) -> String {
    let report = subject.report();
    let columns = match subject.agent() {
        Some(_) => &Column::OF_AGENT[..],
        None => &Column::OF_FILES[..],
    };
    let cells = |listed| {
        let of_column = |column: &Column| {
            let rows = report.credentials.iter();
            let texts = rows.map(|one| column.text(one, report.now.get(), listed));
            (*column, texts.collect::<Vec<_>>())
        };
        columns.iter().map(of_column).collect::<Vec<_>>()
    };
    let mut chosen = cells(LISTED[0]);
    let all = chosen.clone();
    if !fits(&chosen, canvas) {
        chosen = cells(LISTED[1]);
    }
    let is_empty = |texts: &Vec<String>| texts.iter().all(|text| text == NOTHING);
    chosen.retain(|(column, texts)| !(Column::OPTIONAL.contains(column) && is_empty(texts)));
    for optional in Column::OPTIONAL {
        if !fits(&chosen, canvas) {
            chosen.retain(|(column, _)| *column != optional);
        }
    }
    match fits(&chosen, canvas) {
        true => drawn(subject, &chosen, canvas),
        false => stacked(&all, canvas),
    }
}

/// Each credential in two lines, for terminals where not even the most important columns fit.
fn stacked(columns: &[(Column, Vec<String>)], canvas: Canvas) -> String {
    let rows = columns.first().map_or(0, |(_, texts)| texts.len());
    let row = |row: usize| {
        let cells = |wanted: &[Column]| {
            let columns = columns.iter().filter(|(column, _)| wanted.contains(column));
            let texts = columns.map(|(_, texts)| texts[row].as_str());
            texts.filter(|text| *text != NOTHING).collect::<Vec<_>>()
        };
        let [state, name] = [Column::State, Column::Name].map(|column| cells(&[column]).concat());
        let first = format!("{state:9} {name}\n");
        let ends = cells(&[Column::Expires]).concat();
        let ends = match (ends.is_empty(), ends.ends_with("ago")) {
            (true, _) => None,
            (false, true) => Some(format!("expired {ends}")),
            (false, false) => Some(format!("expires {ends}")),
        };
        let rest = cells(&[Column::Kind, Column::Clients]);
        let rest: Vec<_> = ends.as_deref().into_iter().chain(rest).collect();
        match rest.is_empty() {
            true => first,
            false => first + &wrapped(&format!("{:10}{}", "", rest.join(", ")), canvas.width),
        }
    };
    (0..rows).map(row).collect()
}

fn fits(columns: &[(Column, Vec<String>)], canvas: Canvas) -> bool {
    let width = |(column, texts): &(Column, Vec<String>)| {
        let lengths = texts.iter().map(|text| text.chars().count());
        GAP + lengths.max().unwrap_or(0).max(column.title().len())
    };
    let needed = columns.iter().map(width).sum::<usize>() - GAP;
    canvas.width.is_none_or(|width| needed <= width)
}

fn drawn(subject: &Subject<'_>, columns: &[(Column, Vec<String>)], canvas: Canvas) -> String {
    let mut table = Table::new();
    table
        .load_preset(presets::NOTHING)
        .set_content_arrangement(ContentArrangement::Disabled)
        .force_no_tty();
    if canvas.colour {
        table.enforce_styling();
    }
    let titles = columns.iter().map(|(column, _)| column.title());
    table.set_header(titles.map(|title| Cell::new(title).add_attribute(Attribute::Bold)));
    for (row, credential) in subject.report().credentials.iter().enumerate() {
        table.add_row(columns.iter().map(|(column, texts)| {
            let cell = Cell::new(&texts[row]);
            match column {
                Column::State => cell.fg(colour(credential.state)),
                _ => cell,
            }
        }));
    }
    for column in table.column_iter_mut() {
        column.set_padding((0, GAP as u16));
    }
    let text = table.to_string();
    let lines = text.lines().map(str::trim_end);
    lines.map(|line| format!("{line}\n")).collect()
}

/// The hosts that the leaf covers, or the authorities of a bundle.
fn covers(credential: &Credential, listed: usize) -> String {
    if let Some(leaf) = leaf(credential) {
        return list(leaf.names.iter(), listed);
    }
    let authorities = credential.secrets.iter();
    let authorities = authorities.flat_map(|secret| &secret.certificates);
    match list(authorities.map(|one| &one.subject), listed) {
        none if none.is_empty() => none,
        some => format!("clients of {some}"),
    }
}

fn leaf(credential: &Credential) -> Option<&sds_agent::report::Certificate> {
    let mut secrets = credential.secrets.iter();
    let pair = secrets.find(|secret| secret.key_type.is_some())?;
    pair.certificates.first()
}

fn list<'a>(texts: impl Iterator<Item = &'a String>, listed: usize) -> String {
    let mut shown: Vec<String> = texts.map(|text| shown(text)).collect();
    if let Some(more) = shown.len().checked_sub(listed).filter(|more| *more > 0) {
        shown.truncate(listed);
        shown.push(format!("{more} more"));
    }
    shown.join(", ")
}

/// The agent itself, and what prevents it from serving or watching.
pub(super) fn head(status: &Status, canvas: Canvas) -> String {
    let agent = &status.agent;
    let streams = agent.streams.sotw + agent.streams.delta + agent.streams.fetch;
    let mut lines = vec![format!(
        "sds-agent {} on {}, pid {}, up {}: {} on {}",
        shown(&agent.version),
        shown(&agent.host),
        agent.pid,
        span(Duration::from_secs(agent.uptime_seconds)),
        counted(status.report.secrets().count() as u64, "secret", "secrets"),
        counted(streams, "stream", "streams"),
    )];
    let waits = agent.waiting_for.iter();
    lines.extend(waits.map(|wait| format!("not ready: {}", shown(wait))));
    let degraded = agent.degraded.iter();
    lines.extend(degraded.map(|root| format!("degraded: {}", shown(root))));
    lines.extend(polled(&status.watch));
    let wrap = |line: String| wrapped(&line, canvas.width);
    lines.into_iter().map(wrap).collect()
}

fn polled(watch: &Watch) -> impl Iterator<Item = String> + '_ {
    watch.polled.iter().map(|(reason, count)| {
        let mut paths = watch.polled_paths.iter();
        let remedy = paths.find(|path| path.reason == *reason);
        let remedy = remedy.map_or_else(String::new, |path| format!(": {}", shown(&path.remedy)));
        format!(
            "warning: {} polled instead of watched ({}){remedy}",
            counted(*count, "folder is", "folders are"),
            shown(&reason.replace('_', " ")),
        )
    })
}

/// The names that clients requested and that do not exist.
pub(super) fn waiting(waiting: &Waiting, canvas: Canvas) -> String {
    let mut text = String::new();
    for waiting in waiting.names.iter().take(WAITING) {
        let streams = counted(waiting.streams as u64, "stream", "streams");
        let line = format!(
            "requested but missing: {} ({streams})",
            shown(&waiting.name)
        );
        text.push_str(&wrapped(&line, canvas.width));
    }
    let named = waiting.names.len().min(WAITING);
    if waiting.total > named {
        // Writing to a string can't fail.
        let _ = writeln!(text, "and {} more names", waiting.total - named);
    }
    text
}
