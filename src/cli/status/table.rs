//! The state for people: the agent in a line, what is wrong, a table with trouble on top, and last what
//! could be better.

use std::fmt::Write;
use std::time::{Duration, SystemTime};

use comfy_table::{Attribute, Cell, Color, ContentArrangement, Table, presets};
use sds_agent::admin::state::{Condition, Folder, Problem, Secret, State, Waiting, Watch};

use super::clients;
use crate::cli::output::shown;
use sds_agent::times::{span, when};

const HEADER: [&str; 7] = [
    "STATE", "SECRET", "KIND", "EXPIRES", "VERSION", "SINCE", "CLIENTS",
];

/// More names that do not exist than this are counted instead of told.
const WAITING: usize = 10;
/// More problems, or warnings, than this are counted instead of told.
const PROBLEMS: usize = 40;

/// Everything.
pub(super) fn of(state: &State, colour: bool) -> String {
    let mut text = String::new();
    head(&mut text, state);
    let rows = rows(state);
    let table = match rows.is_empty() {
        true => "no secrets\n".to_owned(),
        false => table(rows, colour),
    };
    for section in [bounded(&errors(state)), table, bounded(&warnings(state))] {
        if !section.is_empty() {
            text.push('\n');
            text.push_str(&section);
        }
    }
    text
}

fn head(text: &mut String, state: &State) {
    let agent = &state.agent;
    let streams = agent.streams.sotw + agent.streams.delta + agent.streams.fetch;
    // Writing to a string can't fail.
    let _ = writeln!(
        text,
        "sds-agent {}, pid {}, up {}: {} on {}",
        shown(&agent.version),
        agent.pid,
        span(Duration::from_secs(agent.uptime_seconds)),
        counted(state.secrets.len() as u64, "secret", "secrets"),
        counted(streams, "stream", "streams"),
    );
    for wait in &agent.waiting_for {
        let _ = writeln!(text, "not ready: {}", shown(wait));
    }
    for root in &agent.degraded {
        let _ = writeln!(text, "degraded: {}", shown(root));
    }
    polled(text, &state.watch);
}

fn polled(text: &mut String, watch: &Watch) {
    for (reason, count) in &watch.polled {
        let mut paths = watch.polled_paths.iter();
        let remedy = paths.find(|path| path.reason == *reason);
        let _ = writeln!(
            text,
            "warning: {} polled instead of watched ({}): {}",
            counted(*count, "folder is", "folders are"),
            shown(&reason.replace('_', " ")),
            remedy.map_or_else(String::new, |path| shown(&path.remedy))
        );
    }
}

/// What is wrong, with its remedy, in the order of the table.
fn errors(state: &State) -> Vec<String> {
    let of_folders = state.folders.iter().flat_map(|folder| {
        let problems = match folder.state {
            Condition::PassedOver => &[][..],
            _ => &folder.problems,
        };
        all_told("error", problems)
    });
    let of_secrets = state.secrets.iter().flat_map(|secret| {
        let clients = secret.subscribers.iter();
        let nacks = clients.filter_map(|client| clients::nack(secret, client));
        all_told("error", &secret.problems).chain(nacks)
    });
    of_roots(state, true)
        .chain(of_folders)
        .chain(of_secrets)
        .collect()
}

/// What is wrong with the roots themselves, or with what is in them.
fn of_roots(state: &State, themselves: bool) -> impl Iterator<Item = String> + '_ {
    state.roots.iter().flat_map(move |root| {
        let problems = root.problems.iter();
        let problems = problems.filter(move |problem| (problem.path == root.path) == themselves);
        problems.map(move |problem| {
            let word = match problem.reason.as_str() {
                _ if !themselves => "passed over",
                "incomplete" => "warning",
                "layout" if root.folders > 0 => "warning",
                _ => "error",
            };
            told(word, problem)
        })
    })
}

/// What could be better, and what is not served on purpose.
fn warnings(state: &State) -> Vec<String> {
    let of_secrets = state.secrets.iter();
    let of_secrets = of_secrets.flat_map(|secret| all_told("warning", &secret.warnings));
    let passed_over = state.folders.iter();
    let passed_over = passed_over.filter(|folder| folder.state == Condition::PassedOver);
    let passed_over = passed_over.flat_map(|folder| all_told("passed over", &folder.problems));
    let passed_over = passed_over.chain(of_roots(state, false));
    of_secrets.chain(passed_over).collect()
}

/// As many lines as can be read, and how many more there are.
fn bounded(lines: &[String]) -> String {
    let mut text = lines.iter().take(PROBLEMS).cloned().collect::<String>();
    if lines.len() > PROBLEMS {
        let more = lines.len() - PROBLEMS;
        let _ = writeln!(text, "and {more} more; --output json has them all");
    }
    text
}

fn all_told<'a>(word: &'a str, problems: &'a [Problem]) -> impl Iterator<Item = String> + 'a {
    problems.iter().map(move |problem| told(word, problem))
}

fn told(word: &str, problem: &Problem) -> String {
    format!(
        "{word}: {}: {}\n    {}\n",
        shown(&problem.path),
        shown(&problem.what),
        shown(&problem.remedy)
    )
}

/// Urgency, name, and the cells.
type Row = (Condition, String, Vec<Cell>);

fn rows(state: &State) -> Vec<Row> {
    let now = state.agent.now.get();
    let secrets = state.secrets.iter().map(|secret| of_secret(secret, now));
    let folders = state.folders.iter().map(of_folder);
    let mut rows: Vec<_> = secrets
        .chain(folders)
        .chain(of_waiting(&state.waiting))
        .collect();
    rows.sort_by(|a, b| (a.0, &a.1).cmp(&(b.0, &b.1)));
    rows
}

fn of_secret(secret: &Secret, now: SystemTime) -> Row {
    let cells = vec![
        condition(secret.state),
        Cell::new(shown(&secret.name)),
        Cell::new(secret.kind.replace('_', " ")),
        Cell::new(
            secret
                .not_after
                .map_or("-".into(), |end| when(end.get(), now)),
        ),
        Cell::new(clients::short(&secret.version)),
        Cell::new(when(secret.since.get(), now)),
        Cell::new(clients::all(secret, now)),
    ];
    (secret.state, secret.name.clone(), cells)
}

fn of_folder(folder: &Folder) -> Row {
    let cells = bare(condition(folder.state), &folder.name, String::new());
    (folder.state, folder.name.clone(), cells)
}

fn of_waiting(waiting: &Waiting) -> impl Iterator<Item = Row> {
    let state = || Cell::new("waiting").fg(Color::Yellow);
    let named = waiting.names.iter().take(WAITING).map(move |waiting| {
        let streams = counted(waiting.streams as u64, "stream waits", "streams wait");
        (waiting.name.clone(), streams)
    });
    let more = waiting
        .total
        .saturating_sub(waiting.names.len().min(WAITING));
    let more = (more > 0).then(|| (format!("{more} more"), String::new()));
    // Below what is broken, above what is well.
    named.chain(more).map(move |(name, clients)| {
        let cells = bare(state(), &name, clients);
        (Condition::Warning, name, cells)
    })
}

fn bare(state: Cell, name: &str, clients: String) -> Vec<Cell> {
    let dash = || Cell::new("-");
    vec![
        state,
        Cell::new(shown(name)),
        dash(),
        dash(),
        dash(),
        dash(),
        Cell::new(clients),
    ]
}

fn condition(condition: Condition) -> Cell {
    let (word, colour) = match condition {
        Condition::Rejected => ("rejected", Color::Red),
        Condition::LastGood => ("last good", Color::Red),
        Condition::Nacked => ("nacked", Color::Red),
        Condition::Expired => ("expired", Color::Red),
        Condition::NotYetValid => ("not valid yet", Color::Red),
        Condition::ExpiresSoon => ("expires soon", Color::Yellow),
        Condition::Warning => ("warning", Color::Yellow),
        Condition::Ok => ("ok", Color::Green),
        Condition::Hidden => ("hidden", Color::Grey),
        Condition::PassedOver => ("passed over", Color::Grey),
    };
    Cell::new(word).fg(colour)
}

fn table(rows: Vec<Row>, colour: bool) -> String {
    let mut table = Table::new();
    table
        .load_preset(presets::NOTHING)
        .set_content_arrangement(ContentArrangement::Disabled);
    if colour {
        table
            .enforce_styling()
            .set_content_arrangement(ContentArrangement::Dynamic);
    } else {
        table.force_no_tty();
    }
    let header = HEADER.map(|name| Cell::new(name).add_attribute(Attribute::Bold));
    table.set_header(header);
    table.add_rows(rows.into_iter().map(|(_, _, cells)| cells));
    let text = table.to_string();
    let lines = text.lines().map(str::trim_end);
    lines.map(|line| format!("{line}\n")).collect()
}

fn counted(count: u64, one: &str, many: &str) -> String {
    format!("{count} {}", if count == 1 { one } else { many })
}
