//! How the mirror is doing: what health and metrics show.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime};

use hyper::StatusCode;
use sds_agent::admin::exposition;
use sds_agent::admin::http::{BoxFuture, Page, Pages, TEXT};

use crate::metrics::{Counts, Metrics};
use crate::problems::Problems;

/// After this time without a word of the API server the mirror does not count as ready. A watch is
/// renewed every minute.
const STALE_AFTER: Duration = Duration::from_secs(300);

/// Shared by the mirror, which writes it, and the admin server, which shows it.
pub(crate) struct Status {
    pub(crate) metrics: Metrics,
    state: Mutex<State>,
}

struct State {
    namespaces: BTreeMap<String, Namespace>,
    problems: Problems,
    counts: Counts,
}

#[derive(Default)]
struct Namespace {
    listed: bool,
    heard: Option<SystemTime>,
    failure: Option<String>,
}

impl Status {
    pub(crate) fn new(namespaces: &BTreeSet<String>) -> Self {
        let namespaces = namespaces.iter().cloned();
        Self {
            metrics: Metrics::new(),
            state: Mutex::new(State {
                namespaces: namespaces
                    .map(|name| (name, Namespace::default()))
                    .collect(),
                problems: Problems::default(),
                counts: Counts::default(),
            }),
        }
    }

    /// The API server agreed to a request about a namespace: it is heard of.
    pub(crate) fn heard(&self, name: &str) {
        let now = SystemTime::now();
        self.metrics.heard(name, now);
        if let Some(namespace) = self.lock().namespaces.get_mut(name) {
            namespace.heard = Some(now);
            if namespace.failure.take().is_some() {
                tracing::info!(namespace = name, "the API server answers again");
            }
        }
    }

    /// The API server could not be asked. Returns whether this is news.
    pub(crate) fn failed(&self, namespace: &str, failure: &str) -> bool {
        let mut state = self.lock();
        let Some(namespace) = state.namespaces.get_mut(namespace) else {
            return false;
        };
        let news = namespace.failure.as_deref() != Some(failure);
        namespace.failure = Some(failure.to_owned());
        news
    }

    /// The whole list of a namespace has come.
    pub(crate) fn listed(&self, namespace: &str) {
        self.metrics.listed(namespace);
        if let Some(namespace) = self.lock().namespaces.get_mut(namespace) {
            namespace.listed = true;
        }
    }

    /// What is wrong now, and how much of everything there is.
    pub(crate) fn update(&self, problems: &Problems, counts: Counts) {
        self.metrics.set(&counts, problems);
        let mut state = self.lock();
        state.problems = problems.clone();
        state.counts = counts;
    }

    /// The line for `systemctl status`.
    pub(crate) fn line(&self) -> String {
        let state = self.lock();
        let waiting = state.namespaces.values().filter(|one| !one.listed).count();
        let mut line = format!("{} folders", state.counts.folders);
        if waiting > 0 {
            let _ = write!(line, ", waiting for the list of {waiting} namespaces");
        }
        if !state.problems.is_empty() {
            let _ = write!(line, ", {} problems", state.problems.len());
        }
        line
    }

    fn ready(&self) -> Page {
        let state = self.lock();
        let waits = state
            .namespaces
            .values()
            .any(|one| one.waits_for().is_some());
        let (status, mut body) = match waits {
            false => (StatusCode::OK, "ready\n".to_owned()),
            true => (StatusCode::SERVICE_UNAVAILABLE, "not ready\n".to_owned()),
        };
        for (name, namespace) in &state.namespaces {
            let _ = writeln!(body, "namespace {name}: {}", namespace.text());
        }
        for (subject, problem) in state.problems.iter() {
            let _ = writeln!(body, "problem: {subject}: {}", problem.text);
        }
        Page::text(status, body)
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Namespace {
    /// How long ago the API server was heard of.
    fn age(&self) -> Option<Duration> {
        self.heard.and_then(|heard| heard.elapsed().ok())
    }

    fn waits_for(&self) -> Option<&'static str> {
        if !self.listed {
            return Some("waiting for the first list");
        }
        let is_stale = self.age().is_some_and(|age| age > STALE_AFTER);
        is_stale.then_some("waiting for the API server")
    }

    fn text(&self) -> String {
        let mut text = self.waits_for().unwrap_or("in step").to_owned();
        if let Some(age) = self.age() {
            let _ = write!(text, ", heard of {} s ago", age.as_secs());
        }
        if let Some(failure) = &self.failure {
            let _ = write!(text, ": {failure}");
        }
        text
    }
}

impl Pages for Status {
    fn page<'a>(&'a self, path: &'a str) -> BoxFuture<'a, Option<Page>> {
        Box::pin(std::future::ready(match path {
            "/" => Some(Page::ok(TEXT, "/livez\n/readyz\n/metrics\n")),
            "/livez" => Some(Page::ok(TEXT, "alive\n")),
            "/readyz" => Some(self.ready()),
            "/metrics" => Some(Page::ok(exposition::CONTENT_TYPE, self.metrics.encode())),
            _ => None,
        }))
    }
}
