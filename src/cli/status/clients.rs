//! The streams that wait for a secret, in words.

use std::time::SystemTime;

use sds_agent::admin::state::{Answer, Secret, Subscriber};

use crate::cli::output::shown;
use sds_agent::times::when;

/// More clients of one secret than this are counted instead of told.
const CLIENTS: usize = 8;
/// As much of a version as tells two apart.
const VERSION: usize = 8;

/// The streams that wait for a secret, those that refused it first.
pub(super) fn all(secret: &Secret, now: SystemTime) -> String {
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
    let old = old.map_or_else(String::new, |version| format!(" of {}", short(version)));
    let sent = when(sent.get(), now);
    match client.answer {
        Answer::Ack => format!("ACK{old}, sent {sent}"),
        Answer::Nack => format!("NACK{old}, sent {sent}"),
        Answer::None => format!("no answer{old}, sent {sent}"),
    }
}

/// A refusal as a line of its own.
pub(super) fn nack(secret: &Secret, client: &Subscriber) -> Option<String> {
    let words = client.error.as_ref()?;
    Some(format!(
        "error: {}: refused by {}: {}\n",
        shown(&secret.name),
        who(client),
        shown(words)
    ))
}

/// A version, short.
pub(super) fn short(version: &str) -> &str {
    version.get(..VERSION).unwrap_or(version)
}
