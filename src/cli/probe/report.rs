//! The output for the outcomes.

use std::fmt::Write;
use std::time::SystemTime;

use sds_agent::report::Time;
use sds_agent::text::escape_json;
use sds_agent::times::{date, when};
use serde::Serialize;

use super::handshake::ClientAuth;
use super::verdict::{Outcome, Shown};
use crate::cli::output;

/// The version of the JSON. It changes when a field changes its meaning.
const FORMAT: u32 = 1;

#[derive(Serialize)]
struct Report<'a> {
    format: u32,
    live: bool,
    probes: &'a [Outcome],
    /// The IP addresses that certificates cover and that were not given as a target.
    skipped: &'a [String],
}

/// One JSON object.
pub(super) fn json(outcomes: &[Outcome], skipped: &[String]) -> String {
    let report = Report {
        format: FORMAT,
        live: outcomes.iter().all(Outcome::is_live),
        probes: outcomes,
        skipped,
    };
    // Serialization can't fail.
    let text = serde_json::to_string_pretty(&report).unwrap_or_default();
    escape_json(&text) + "\n"
}

/// At least two lines for each outcome, and one line for the total.
pub(super) fn text(outcomes: &[Outcome], skipped: &[String], width: Option<usize>) -> String {
    let mut out = String::new();
    for outcome in outcomes {
        for (label, text) in lines(outcome) {
            let next = " ".repeat(label.len());
            out.push_str(&output::filled(
                &label,
                &next,
                &output::shown(&text),
                "",
                width,
            ));
        }
    }
    if !skipped.is_empty() {
        let line = format!(
            "skipped: {}: a client can't send an IP address as SNI; probe it as HOST",
            output::shown(&skipped.join(", "))
        );
        out.push_str(&output::wrapped(&line, width));
    }
    if outcomes.len() > 1 {
        let live = outcomes.iter().filter(|one| one.is_live()).count();
        // Writing to a String does not fail.
        let _ = writeln!(out, "{live} of {} are live", outcomes.len());
    }
    out
}

/// The lines, each with its label.
fn lines(outcome: &Outcome) -> Vec<(String, String)> {
    let state = match outcome.is_live() {
        true => "live",
        false => "NOT LIVE",
    };
    let name = match &outcome.name {
        Some(name) => format!("{name} at {}", outcome.target),
        None => format!("{}, without a name", outcome.target),
    };
    let kind = outcome.key_kind.map(|kind| format!(" ({})", kind.as_str()));
    let first = format!("{name}{}", kind.unwrap_or_default());
    let mut lines = vec![(format!("{state:<8}  "), first)];
    let mut detail = |what: &str, text| lines.push((format!("          {what:<9} "), text));
    if let Some(shown) = &outcome.presented {
        detail("presented", presented(outcome, shown));
    }
    if !outcome.is_live() {
        detail("served", served(outcome));
    }
    if let Some(why) = &outcome.why {
        detail("why", why.clone());
    }
    if let Some(remedy) = &outcome.remedy {
        detail("do", remedy.clone());
    }
    if outcome
        .presented
        .as_ref()
        .map(|shown| shown.client_certificate)
        == Some(ClientAuth::NotGiven)
    {
        let note = "the listener requests a client certificate, and none was given (--cert)";
        detail("note", note.to_owned());
    }
    lines
}

fn presented(outcome: &Outcome, shown: &Shown) -> String {
    let mut text = match &shown.leaf {
        Some(leaf) => format!("serial {}", leaf.serial),
        None => "a certificate that can't be read".to_owned(),
    };
    match (&outcome.credential, &outcome.version, outcome.replaced) {
        (Some(credential), _, Some(at)) => {
            let _ = write!(text, " of `{credential}`, replaced at {}", dated(at));
        }
        (Some(credential), Some(version), None) => {
            let _ = write!(text, " of `{credential}`, version {version}");
            let since = outcome
                .served
                .as_ref()
                .filter(|served| served.version == *version);
            if let Some(since) = since.map(|served| served.since) {
                let _ = write!(text, ", served since {}", dated(since));
            }
        }
        _ => {
            if let Some(leaf) = &shown.leaf {
                let _ = write!(text, ", {}, issued by {}", leaf.subject, leaf.issuer);
            }
        }
    }
    if let Some(leaf) = &shown.leaf {
        let (validity, time) = if leaf.not_after.get() < SystemTime::now() {
            ("expired on", leaf.not_after)
        } else if leaf.not_before.get() > SystemTime::now() {
            ("not valid before", leaf.not_before)
        } else {
            ("valid until", leaf.not_after)
        };
        let _ = write!(text, "; {validity} {}", dated(time));
    }
    text
}

fn served(outcome: &Outcome) -> String {
    match &outcome.served {
        None => "nothing for this name".to_owned(),
        Some(served) => format!(
            "serial {} of `{}`, version {}, since {}",
            served.serial,
            served.credential,
            served.version,
            dated(served.since)
        ),
    }
}

/// A time, and how far away it is.
fn dated(time: Time) -> String {
    format!(
        "{} ({})",
        date(time.get()),
        when(time.get(), SystemTime::now())
    )
}
