//! The state for people: the agent in a line, what is wrong, then a table with trouble on top.

use std::fmt::Write;
use std::time::{Duration, SystemTime};

use comfy_table::{Attribute, Cell, Color, ContentArrangement, Table, presets};
use sds_agent::admin::state::{
    Answer, Condition, Folder, Problem, Secret, State, Subscriber, Time, Waiting,
};

use crate::cli::output::shown;

const HEADER: [&str; 7] = [
    "STATE", "SECRET", "KIND", "EXPIRES", "VERSION", "SINCE", "CLIENTS",
];

/// More clients of one secret than this are counted instead of told.
const CLIENTS: usize = 8;
/// More names that do not exist than this are counted instead of told.
const WAITING: usize = 10;
/// More problems than this are counted instead of told.
const PROBLEMS: usize = 40;
/// As much of a version as tells two apart.
const VERSION: usize = 8;

/// Everything.
pub(super) fn of(state: &State, colour: bool) -> String {
    let mut text = String::new();
    head(&mut text, state);
    trouble(&mut text, state);
    let rows = rows(state);
    if rows.is_empty() {
        text.push_str("no secrets\n");
    } else {
        text.push_str(&table(rows, colour));
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
        counted(state.secrets.len(), "secret", "secrets"),
        counted(streams as usize, "stream", "streams"),
    );
    for wait in &agent.waiting_for {
        let _ = writeln!(text, "not ready: {}", shown(wait));
    }
    for root in &state.roots {
        if root.present == Some(false) {
            let path = shown(&root.path);
            let _ = writeln!(
                text,
                "warning: the root {path} does not exist; it is served as soon as it does"
            );
        }
    }
    for (reason, count) in &state.watch.polled {
        let reason = shown(&reason.replace('_', " "));
        let folders = counted(*count as usize, "folder is", "folders are");
        let remedy = state.watch.polled_paths.iter();
        let remedy = remedy.map(|path| shown(&path.remedy)).next();
        let _ = writeln!(
            text,
            "warning: {folders} polled instead of watched ({reason}): {}",
            remedy.unwrap_or_default()
        );
    }
    text.push('\n');
}

/// What is wrong, with its remedy, in the order of the table.
fn trouble(text: &mut String, state: &State) {
    let of_folders = state.folders.iter().flat_map(|folder| {
        let word = match folder.state {
            Condition::PassedOver => "passed over",
            _ => "error",
        };
        folder
            .problems
            .iter()
            .map(move |problem| told(word, problem))
    });
    let of_secrets = state.secrets.iter().flat_map(|secret| {
        let problems = secret.problems.iter().map(|problem| told("error", problem));
        let nacks = secret
            .subscribers
            .iter()
            .filter_map(|client| nack(secret, client));
        let warnings = secret
            .warnings
            .iter()
            .map(|problem| told("warning", problem));
        problems.chain(nacks).chain(warnings)
    });
    let of_roots = state.roots.iter().flat_map(|root| {
        root.problems
            .iter()
            .map(|problem| told("passed over", problem))
    });
    let all: Vec<_> = of_folders.chain(of_secrets).chain(of_roots).collect();
    text.extend(all.iter().take(PROBLEMS).map(String::as_str));
    if all.len() > PROBLEMS {
        let _ = writeln!(
            text,
            "and {} more; --output json has them all",
            all.len() - PROBLEMS
        );
    }
    if !all.is_empty() {
        text.push('\n');
    }
}

fn told(word: &str, problem: &Problem) -> String {
    format!(
        "{word}: {}: {}\n    {}\n",
        shown(&problem.path),
        shown(&problem.what),
        shown(&problem.remedy)
    )
}

fn nack(secret: &Secret, client: &Subscriber) -> Option<String> {
    let words = client.error.as_ref()?;
    Some(format!(
        "error: {}: refused by {}: {}\n",
        shown(&secret.name),
        who(client),
        shown(words)
    ))
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
        Cell::new(secret.not_after.map_or("-".into(), |end| when(end, now))),
        Cell::new(secret.version.get(..VERSION).unwrap_or(&secret.version)),
        Cell::new(when(secret.since, now)),
        Cell::new(clients(secret, now)),
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
        let streams = counted(waiting.streams, "stream waits", "streams wait");
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

/// The streams that wait for a secret, those that refused it first.
fn clients(secret: &Secret, now: SystemTime) -> String {
    let mut clients: Vec<_> = secret.subscribers.iter().collect();
    clients.sort_by_key(|client| client.answer != Answer::Nack);
    let mut lines: Vec<_> = clients
        .iter()
        .take(CLIENTS)
        .map(|client| format!("{}: {}", who(client), answer(secret, client, now)))
        .collect();
    if clients.len() > CLIENTS {
        lines.push(format!("and {} more", clients.len() - CLIENTS));
    }
    lines.join("\n")
}

/// As `edge-1 (envoy, envoy 4711, delta)`: node id, user, process, protocol.
fn who(client: &Subscriber) -> String {
    let user = client
        .user
        .as_deref()
        .map_or_else(|| format!("uid {}", client.uid), shown);
    let process = match (&client.process, client.pid) {
        (Some(name), Some(pid)) => format!(", {} {pid}", shown(name)),
        (None, Some(pid)) => format!(", process {pid}"),
        _ => String::new(),
    };
    format!(
        "{} ({user}{process}, {})",
        shown(&client.node),
        shown(&client.protocol)
    )
}

fn answer(secret: &Secret, client: &Subscriber, now: SystemTime) -> String {
    let Some(sent) = client.sent.filter(|_| client.version.is_some()) else {
        return "nothing sent".to_owned();
    };
    let old = client.version.as_deref().filter(|v| *v != secret.version);
    let old = old.map_or_else(String::new, |version| {
        format!(" of {}", version.get(..VERSION).unwrap_or(version))
    });
    let sent = when(sent, now);
    match client.answer {
        Answer::Ack => format!("ACK{old}, sent {sent}"),
        Answer::Nack => format!("NACK{old}, sent {sent}"),
        Answer::None => format!("no answer{old}, sent {sent}"),
    }
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

fn counted(count: usize, one: &str, many: &str) -> String {
    format!("{count} {}", if count == 1 { one } else { many })
}

/// As `in 12 days` or `3 h ago`.
fn when(time: Time, now: SystemTime) -> String {
    match time.get().duration_since(now) {
        Ok(left) => format!("in {}", span(left)),
        Err(past) => format!("{} ago", span(past.duration())),
    }
}

/// A length of time in its largest unit.
fn span(span: Duration) -> String {
    let seconds = span.as_secs();
    match seconds {
        0..120 => format!("{seconds} s"),
        120..7200 => format!("{} min", seconds / 60),
        7200..172_800 => format!("{} h", seconds / 3600),
        _ => format!("{} days", seconds / 86_400),
    }
}
