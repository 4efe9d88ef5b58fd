//! What `sds-agent probe` saw last, kept in memory for `status` and the page.

use std::collections::{BTreeMap, HashMap};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::SystemTime;

use hyper::StatusCode;
use serde::{Deserialize, Serialize};

use super::http::Page;
use crate::report::{Credential, Probe, Report, Verdict};

/// How many results are kept in total, and how many (the newest) are shown for each credential.
const KEPT: usize = 10_000;
const SHOWN: usize = 10;
/// Maximum bytes of a text: a host or credential name has at most 253, and a target adds `:65535`.
const MAX_TEXT: usize = 300;

/// The result of a handshake with a TLS listener.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Seen {
    /// The credential that is served for the name, or that the certificate belongs to.
    pub credential: String,
    /// The version of it that was served at that time.
    pub version: Option<String>,
    /// The listener, as `HOST:PORT`.
    pub target: String,
    /// The host that was sent as SNI, if any.
    pub name: Option<String>,
    /// Whether the listener presented it.
    pub verdict: Verdict,
}

/// The last results for each credential and listener, bounded.
#[derive(Default)]
pub(super) struct Probes(Mutex<Kept>);

#[derive(Default)]
struct Kept {
    /// By number, in the order of arrival.
    all: BTreeMap<u64, (SystemTime, Seen)>,
    /// The number of the last result of each credential, listener and name.
    last: HashMap<(String, String, Option<String>), u64>,
    next: u64,
}

impl Probes {
    /// Takes a JSON list of [`Seen`].
    pub(super) fn take(&self, json: &[u8]) -> Page {
        let seen = serde_json::from_slice::<Vec<Seen>>(json);
        let Ok(seen) = seen.map_err(|_| ()).and_then(bounded) else {
            let message = "expected a list of results of `sds-agent probe`\n";
            return Page::text(StatusCode::BAD_REQUEST, message);
        };
        let mut kept = self.lock();
        let now = SystemTime::now();
        seen.into_iter().for_each(|one| kept.insert(now, one));
        Page::text(StatusCode::OK, "kept\n")
    }

    /// Adds the results to their credentials.
    pub(super) fn add_to(&self, report: &mut Report) {
        let mut of_credential = HashMap::<String, Vec<(SystemTime, Seen)>>::new();
        for (at, seen) in self.lock().all.values().rev() {
            let seen_of_it = of_credential.entry(seen.credential.clone()).or_default();
            if seen_of_it.len() < SHOWN {
                seen_of_it.push((*at, seen.clone()));
            }
        }
        for credential in &mut report.credentials {
            let seen = of_credential.remove(&credential.name).unwrap_or_default();
            let probes = seen
                .into_iter()
                .map(|(at, seen)| shown(at, seen, credential));
            credential.probes = probes.collect();
        }
    }

    fn lock(&self) -> MutexGuard<'_, Kept> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Kept {
    fn insert(&mut self, now: SystemTime, seen: Seen) {
        let id = listener(&seen);
        if let Some(before) = self.last.insert(id, self.next) {
            self.all.remove(&before);
        }
        self.all.insert(self.next, (now, seen));
        self.next += 1;
        while self.all.len() > KEPT
            && let Some((_, (_, oldest))) = self.all.pop_first()
        {
            self.last.remove(&listener(&oldest));
        }
    }
}

fn listener(seen: &Seen) -> (String, String, Option<String>) {
    let Seen {
        credential,
        target,
        name,
        ..
    } = seen;
    (credential.clone(), target.clone(), name.clone())
}

fn shown(at: SystemTime, seen: Seen, credential: &Credential) -> Probe {
    let mut secrets = credential.secrets.iter();
    let pair = secrets.find(|secret| secret.key_type.is_some());
    let rotated_since = pair.map(|pair| &pair.version) != seen.version.as_ref();
    Probe {
        target: seen.target,
        name: seen.name,
        at: at.into(),
        verdict: seen.verdict,
        rotated_since,
        what: seen.verdict.what(rotated_since).to_owned(),
    }
}

fn bounded(seen: Vec<Seen>) -> Result<Vec<Seen>, ()> {
    let fits = |text: &String| text.len() <= MAX_TEXT;
    let all_fit = |one: &Seen| {
        let optional = one.name.iter().chain(&one.version);
        [&one.credential, &one.target]
            .into_iter()
            .chain(optional)
            .all(fits)
    };
    match seen.iter().all(all_fit) {
        true => Ok(seen),
        false => Err(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn seen(number: usize) -> Seen {
        Seen {
            credential: "site".into(),
            version: None,
            target: format!("localhost:{number}"),
            name: None,
            verdict: Verdict::Live,
        }
    }

    #[test]
    fn the_last_result_of_each_listener_is_kept_up_to_a_limit() {
        let (mut kept, now) = (Kept::default(), SystemTime::now());
        for number in 0..KEPT {
            kept.insert(now, seen(number));
        }
        kept.insert(now, seen(0));
        assert_eq!((kept.all.len(), kept.last.len()), (KEPT, KEPT));
        kept.insert(now, seen(KEPT));
        assert_eq!((kept.all.len(), kept.last.len()), (KEPT, KEPT));
        assert!(!kept.last.contains_key(&listener(&seen(1))), "the oldest");
        assert!(kept.last.contains_key(&listener(&seen(0))));
    }

    #[test]
    fn texts_that_are_too_long_and_other_json_are_refused() {
        let probes = Probes::default();
        let long = Seen {
            target: "a".repeat(MAX_TEXT + 1),
            ..seen(1)
        };
        for json in [
            serde_json::to_string(&[long]).unwrap(),
            "{}".to_owned(),
            "[1]".to_owned(),
            String::new(),
        ] {
            let answer = probes.take(json.as_bytes());
            assert_eq!(answer.status, StatusCode::BAD_REQUEST, "{json}");
        }
        assert!(probes.lock().all.is_empty());
        let json = serde_json::to_string(&[seen(1)]).unwrap();
        assert_eq!(probes.take(json.as_bytes()).status, StatusCode::OK);
        assert_eq!(probes.lock().all.len(), 1);
    }
}
