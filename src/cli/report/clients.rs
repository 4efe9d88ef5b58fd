//! The streams that are subscribed to a secret, as text.

use std::time::SystemTime;

use sds_agent::report::{Answer, Credential, Secret, Subscriber};
use sds_agent::times::when;

use crate::cli::output::shown;

/// Characters of a version that are enough to distinguish two.
const VERSION: usize = 8;

/// How many clients of a credential have what, as `1 refused, 2 up to date`.
pub(super) fn summary(credential: &Credential) -> String {
    let clients = || {
        let secrets = credential.secrets.iter();
        secrets.flat_map(|secret| &secret.subscribers)
    };
    let counts = Standing::ALL.map(|standing| {
        let alike = clients().filter(|client| Standing::of(client) == standing);
        (alike.count(), standing.as_str())
    });
    let counts = counts.iter().filter(|(count, _)| *count > 0);
    let counts: Vec<_> = counts
        .map(|(count, word)| format!("{count} {word}"))
        .collect();
    counts.join(", ")
}

/// A line for each stream, those that refused the secret first.
pub(super) fn lines(secret: &Secret, now: SystemTime) -> Vec<String> {
    let mut clients: Vec<_> = secret.subscribers.iter().collect();
    clients.sort_by_key(|client| Standing::of(client));
    let lines = clients.into_iter();
    lines.map(|client| line(secret, client, now)).collect()
}

/// The refusals of a secret, each as an error.
pub(super) fn refusals(secret: &Secret) -> impl Iterator<Item = String> + '_ {
    let clients = secret.subscribers.iter();
    clients.filter_map(|client| {
        let error = client.error.as_ref()?;
        Some(format!(
            "error: {}: refused by {}: {}",
            shown(&secret.name),
            who(client),
            shown(error)
        ))
    })
}

/// A version, short.
pub(super) fn short(version: &str) -> &str {
    version.get(..VERSION).unwrap_or(version)
}

/// What a client has of a secret.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Standing {
    Refused,
    Nothing,
    Outdated,
    UpToDate,
}

impl Standing {
    const ALL: [Self; 4] = [Self::Refused, Self::Nothing, Self::Outdated, Self::UpToDate];

    fn of(client: &Subscriber) -> Self {
        match (client.answer, client.current, &client.version) {
            (Answer::Nack, ..) => Self::Refused,
            (_, true, _) => Self::UpToDate,
            (_, false, Some(_)) => Self::Outdated,
            (_, false, None) => Self::Nothing,
        }
    }

    fn as_str(self) -> &'static str {
        match self {
            Self::Refused => "refused",
            Self::Nothing => "sent nothing yet",
            Self::Outdated => "outdated",
            Self::UpToDate => "up to date",
        }
    }
}

fn line(secret: &Secret, client: &Subscriber, now: SystemTime) -> String {
    let mut line = format!("{}: {}", who(client), Standing::of(client).as_str());
    if client.requested != secret.name {
        line.push_str(&format!(", requested {}", shown(&client.requested)));
    }
    if let Some(version) = client.version.as_ref().filter(|_| !client.current) {
        line.push_str(&format!(", version {}", shown(short(version))));
    }
    match client.sent {
        Some(sent) => line.push_str(&format!(", sent {}", when(sent.get(), now))),
        None if client.version.is_some() => line.push_str(", since before it connected"),
        None => {}
    }
    match (client.answer, &client.error) {
        (Answer::Ack, _) => line.push_str(", ACK"),
        (Answer::Nack, Some(error)) => line.push_str(&format!(", NACK: {}", shown(error))),
        (Answer::Nack, None) => line.push_str(", NACK"),
        (Answer::None, _) if client.sent.is_some() => line.push_str(", not acknowledged yet"),
        (Answer::None, _) => {}
    }
    line
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
