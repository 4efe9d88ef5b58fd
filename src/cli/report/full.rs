//! One credential with all details.

use std::time::SystemTime;

use sds_agent::report::{Certificate, Credential, Probe, Secret, Time};
use sds_agent::times::{date, when};

use super::{Canvas, clients, listed, problems_of, warnings_of};
use crate::cli::output::{columns, filled, shown, wrapped};

/// The width of the names of facts.
const LABEL: usize = 12;
/// The column of a fact that does not fit beside its name.
const BELOW: usize = 6;

/// One credential.
pub(super) fn of(credential: &Credential, now: SystemTime, canvas: Canvas) -> String {
    let mut text = format!(
        "{}: {}\n",
        shown(&credential.name),
        credential.state.as_str()
    );
    let mut add = |facts: Vec<(&str, String)>| {
        for (label, fact) in facts {
            text.push_str(&line(label, &fact, canvas));
        }
    };
    add(vec![
        ("root", shown(&credential.root)),
        ("folder", shown(&credential.folder)),
        ("skipped", joined(&credential.skipped_files)),
    ]);
    for secret in &credential.secrets {
        add(of_secret(secret, now));
    }
    let probes = credential.probes.iter();
    add(probes.map(|probe| ("probed", probed(probe, now))).collect());
    let problems = problems_of(credential, canvas).chain(warnings_of(credential, canvas));
    match listed(&problems.collect::<Vec<_>>()) {
        none if none.is_empty() => text,
        problems => format!("{text}\n{problems}"),
    }
}

fn of_secret(secret: &Secret, now: SystemTime) -> Vec<(&'static str, String)> {
    let previous = match secret.is_previous {
        true => ", the previous version",
        false => "",
    };
    let mut facts = vec![
        (
            "",
            format!(
                "{} ({}): {}{previous}",
                shown(&secret.name),
                secret.kind.replace('_', " "),
                secret.state.as_str()
            ),
        ),
        (
            "version",
            format!(
                "{}, since {}",
                shown(&secret.version),
                dated(secret.since, now)
            ),
        ),
        ("files", joined(&secret.files)),
        ("key", secret.key_type.clone().unwrap_or_default()),
    ];
    for (place, certificate) in secret.certificates.iter().enumerate() {
        facts.extend(of_certificate(certificate, place, secret, now));
    }
    if let Some(staple) = &secret.staple {
        let end = staple.next_update;
        let end = end.map_or_else(|| "no end".to_owned(), |end| dated(end, now));
        facts.push(("staple", format!("until {end}")));
    }
    let clients = clients::lines(secret, now).into_iter();
    facts.extend(clients.map(|client| ("client", client)));
    facts
}

fn of_certificate(
    certificate: &Certificate,
    place: usize,
    secret: &Secret,
    now: SystemTime,
) -> Vec<(&'static str, String)> {
    let label = match (place, &secret.key_type) {
        (0, Some(_)) => "certificate",
        (_, Some(_)) => "issuer",
        (_, None) => "CA",
    };
    vec![
        (label, shown(&certificate.subject)),
        ("  issued by", shown(&certificate.issuer)),
        ("  serial", shown(&certificate.serial)),
        (
            "  valid",
            format!(
                "{} to {}",
                date(certificate.not_before.get()),
                dated(certificate.not_after, now)
            ),
        ),
        ("  covers", joined(&certificate.names)),
    ]
}

/// A probe, such as `localhost:443 for www.example.com 3 min ago: presents the current certificate`.
fn probed(probe: &Probe, now: SystemTime) -> String {
    let name = probe.name.as_deref();
    let name = name.map_or_else(String::new, |name| format!(" for {}", shown(name)));
    let at = when(probe.at.get(), now);
    format!("{}{name} {at}: {}", shown(&probe.target), probe.what)
}

fn dated(time: Time, now: SystemTime) -> String {
    format!("{} ({})", date(time.get()), when(time.get(), now))
}

fn joined(texts: &[String]) -> String {
    let texts: Vec<_> = texts.iter().map(|text| shown(text)).collect();
    texts.join(", ")
}

fn line(label: &str, fact: &str, canvas: Canvas) -> String {
    let beside = LABEL + 3;
    let longest = fact.split(' ').map(columns).max().unwrap_or(0);
    let fits = canvas.width.is_none_or(|width| beside + longest <= width);
    let (first, indent) = match fits {
        true => (format!("  {label:LABEL$} "), beside),
        false => (format!("  {label}\n{}", " ".repeat(BELOW)), BELOW),
    };
    match (label, fact) {
        (_, "") => String::new(),
        ("", fact) => format!("\n{}", wrapped(fact, canvas.width)),
        _ => filled(&first, &" ".repeat(indent), fact, "", canvas.width),
    }
}
