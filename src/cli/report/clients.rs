//! The streams that are subscribed to a secret, as text.

use std::time::SystemTime;

use sds_agent::report::{Answer, Credential, Secret, Standing, Subscriber};
use sds_agent::times::when;

use crate::cli::output::shown;

/// Characters of a version that are enough to distinguish two.
const VERSION: usize = 8;

/// How many clients of a credential are in which state, such as `1 rejected, 2 up to date`.
pub(super) fn summary(credential: &Credential) -> String {
    let clients = || {
        let secrets = credential.secrets.iter();
        secrets.flat_map(|secret| &secret.subscribers)
    };
    let counts = Standing::ALL.map(|standing| {
        let alike = clients().filter(|client| client.standing == standing);
        (alike.count(), standing.as_str())
    });
    let counts = counts.iter().filter(|(count, _)| *count > 0);
    let counts: Vec<_> = counts
        .map(|(count, word)| format!("{count} {word}"))
        .collect();
    counts.join(", ")
}

/// A line for each stream, those that rejected the secret first.
pub(super) fn lines(secret: &Secret, now: SystemTime) -> Vec<String> {
    let mut clients: Vec<_> = secret.subscribers.iter().collect();
    clients.sort_by_key(|client| client.standing);
    let lines = clients.into_iter();
    lines.map(|client| line(secret, client, now)).collect()
}

/// The rejections of a secret by clients, each as an error and what to do about it.
pub(super) fn rejections(secret: &Secret) -> impl Iterator<Item = (String, String)> + '_ {
    let article = match secret.kind.ends_with('s') {
        true => "",
        false => "a ",
    };
    let kind = secret
        .kind
        .replace('_', " ")
        .replace("generic", "generic secret");
    let remedy = format!("check that the client's configuration uses it as {article}{kind}");
    let clients = secret.subscribers.iter();
    clients.filter_map(move |client| {
        let error = client.error.as_ref()?;
        let what = format!(
            "error: {}: rejected by {}: {}",
            shown(&secret.name),
            who(client),
            shown(error.trim_end())
        );
        Some((what, remedy.clone()))
    })
}

/// The beginning of a version.
pub(super) fn short(version: &str) -> &str {
    version.get(..VERSION).unwrap_or(version)
}

fn line(secret: &Secret, client: &Subscriber, now: SystemTime) -> String {
    let mut line = format!("{}: {}", who(client), client.standing.as_str());
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

/// A client, such as `edge-1 (envoy, envoy 4711, delta)`: node id, user, process, protocol.
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
