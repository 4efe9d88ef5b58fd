//! The state of the mirror, for health, metrics and `sds-mirror status`, and the requests of
//! `sds-mirror release`.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime};

use hyper::StatusCode;
use sds_agent::admin::exposition;
use sds_agent::admin::http::{BoxFuture, JSON, Page, Pages, TEXT};
use sds_agent::text::{escape, escape_json};
use serde::{Deserialize, Serialize};
use tokio::sync::Notify;

use crate::metrics::{Counts, Metrics};
use crate::problems::Problems;
use crate::select::Scope;

/// After this time without a response of the API server, the mirror is not ready. A watch is renewed every
/// minute.
const STALE_AFTER: Duration = Duration::from_secs(300);
/// How long a write may be pending before the mirror is not ready.
const ON_ITS_WAY: Duration = Duration::from_secs(5);

/// The content of `/status`.
#[derive(Debug, Default, Serialize, Deserialize)]
pub(crate) struct Report {
    /// `ready`, `degraded` or `not ready`.
    pub(crate) health: String,
    /// The cluster.
    pub(crate) cluster: String,
    /// The watched scopes.
    pub(crate) scopes: Vec<ScopeReport>,
    /// Every object, and every folder without an object.
    pub(crate) objects: Vec<Shown>,
    /// The current problems.
    pub(crate) problems: Vec<ProblemReport>,
}

/// One scope in a [`Report`].
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct ScopeReport {
    pub(crate) resource: String,
    pub(crate) namespace: String,
    pub(crate) state: String,
}

/// One problem in a [`Report`].
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct ProblemReport {
    pub(crate) subject: String,
    pub(crate) kind: String,
    pub(crate) text: String,
}

/// One object, or one folder without one, in a [`Report`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Shown {
    /// `secret` or `configmap`.
    pub(crate) kind: String,
    pub(crate) namespace: String,
    pub(crate) name: String,
    pub(crate) folder: Option<String>,
    /// The version on disk.
    pub(crate) resource_version: Option<String>,
    /// When the files on disk were written, in seconds since 1970.
    pub(crate) written: Option<u64>,
    /// `ok`, `waiting`, `rejected`, `blocked`, `held` or `kept`.
    pub(crate) state: String,
    pub(crate) problem: Option<String>,
}

/// A request to release held folders.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Release {
    #[serde(default)]
    pub(crate) all: bool,
    #[serde(default)]
    pub(crate) folders: BTreeSet<String>,
}

/// The response to a [`Release`].
#[derive(Debug, Default, Serialize, Deserialize)]
pub(crate) struct Released {
    pub(crate) released: BTreeSet<String>,
    /// Folders that are not held back.
    pub(crate) unknown: BTreeSet<String>,
}

/// Shared by the mirror, which writes it, and the admin server, which shows it.
pub(crate) struct Status {
    pub(crate) metrics: Metrics,
    state: Mutex<State>,
    release: Notify,
}

#[derive(Default)]
struct State {
    cluster: String,
    scopes: BTreeMap<Scope, ScopeState>,
    problems: Problems,
    counts: Counts,
    objects: Vec<Shown>,
    /// The folders that may be released.
    held: BTreeSet<String>,
    released: BTreeSet<String>,
    /// Since when any write has been pending.
    waiting_since: Option<SystemTime>,
}

#[derive(Default)]
struct ScopeState {
    listed: bool,
    answered: Option<SystemTime>,
    failure: Option<String>,
}

/// The results of the mirror's last step.
pub(crate) struct Findings {
    pub(crate) cluster: String,
    pub(crate) problems: Problems,
    pub(crate) counts: Counts,
    pub(crate) objects: Vec<Shown>,
    pub(crate) held: BTreeSet<String>,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Health {
    Ready,
    Degraded,
    NotReady,
}

impl Health {
    fn as_str(self) -> &'static str {
        match self {
            Self::Ready => "ready",
            Self::Degraded => "degraded",
            Self::NotReady => "not ready",
        }
    }
}

impl Status {
    pub(crate) fn new() -> Self {
        Self {
            metrics: Metrics::new(),
            state: Mutex::default(),
            release: Notify::new(),
        }
    }

    /// Resets the state, for a new mirror.
    pub(crate) fn reset(&self) {
        let mut state = self.lock();
        for scope in state.scopes.keys() {
            self.metrics.forget(scope);
        }
        *state = State::default();
    }

    /// Adds a scope that is watched from now on.
    pub(crate) fn expect(&self, scope: &Scope) {
        self.metrics.expect(scope);
        self.lock().scopes.entry(scope.clone()).or_default();
    }

    /// Records a successful response for a scope.
    pub(crate) fn answered(&self, scope: &Scope) {
        let now = SystemTime::now();
        if let Some(known) = self.lock().scopes.get_mut(scope) {
            self.metrics.answered(scope, now);
            known.answered = Some(now);
            if known.failure.take().is_some() {
                tracing::info!(
                    namespace = scope.namespace,
                    resource = scope.kind.resource(),
                    "the API server answers again"
                );
            }
        }
    }

    /// Records a failed request for a scope. Returns whether the failure is a new one.
    pub(crate) fn failed(&self, scope: &Scope, failure: &str) -> bool {
        let mut state = self.lock();
        let Some(scope) = state.scopes.get_mut(scope) else {
            return false;
        };
        let is_new = scope.failure.as_deref() != Some(failure);
        scope.failure = Some(failure.to_owned());
        is_new
    }

    /// Records a complete list of a scope.
    pub(crate) fn listed(&self, scope: &Scope) {
        self.metrics.listed(scope);
        if let Some(scope) = self.lock().scopes.get_mut(scope) {
            scope.listed = true;
        }
    }

    /// Replaces the state with the results of a step.
    pub(crate) fn update(&self, findings: Findings) {
        self.metrics.set(&findings.counts, &findings.problems);
        let mut state = self.lock();
        state.waiting_since = match (findings.counts.waiting, state.waiting_since) {
            (0, _) => None,
            (_, since) => since.or_else(|| Some(SystemTime::now())),
        };
        state.cluster = findings.cluster;
        state.problems = findings.problems;
        state.counts = findings.counts;
        state.objects = findings.objects;
        state.held = findings.held;
    }

    /// Waits until folders are released, and returns their names. Cancel-safe.
    pub(crate) async fn released(&self) -> BTreeSet<String> {
        self.release.notified().await;
        std::mem::take(&mut self.lock().released)
    }

    /// The line for `systemctl status`.
    pub(crate) fn line(&self) -> String {
        let state = self.lock();
        let waiting = state.scopes.values().filter(|one| !one.listed).count();
        let mut line = format!("{} folders", state.counts.folders);
        if waiting > 0 {
            let _ = write!(line, ", waiting for {waiting} lists");
        }
        if state.counts.waiting > 0 {
            let _ = write!(line, ", {} not in step", state.counts.waiting);
        }
        if state.counts.held > 0 {
            let _ = write!(line, ", {} held back", state.counts.held);
        }
        if !state.problems.is_empty() {
            let _ = write!(line, ", {} problems", state.problems.len());
        }
        line
    }

    fn ready(&self) -> Page {
        let state = self.lock();
        let health = state.health();
        let status = match health {
            Health::NotReady => StatusCode::SERVICE_UNAVAILABLE,
            Health::Ready | Health::Degraded => StatusCode::OK,
        };
        let mut body = format!("{}\n", health.as_str());
        for (scope, known) in &state.scopes {
            let line = format!("{scope}: {}", known.text());
            let _ = writeln!(body, "{}", escape(&line));
        }
        if state.counts.waiting > 0 {
            let _ = writeln!(body, "not in step: {} objects", state.counts.waiting);
        }
        for (count, what) in [
            (state.counts.held, "held back"),
            (state.counts.foreign, "not made by sds-mirror"),
            (state.counts.unreadable, "unreadable"),
        ] {
            if count > 0 {
                let _ = writeln!(body, "folders {what}: {count}");
            }
        }
        for (subject, problem) in state.problems.iter() {
            let line = format!("problem: {subject}: {}", problem.text);
            let _ = writeln!(body, "{}", escape(&line));
        }
        Page::text(status, body)
    }

    fn report(&self) -> Page {
        let state = self.lock();
        let report = Report {
            health: state.health().as_str().to_owned(),
            cluster: state.cluster.clone(),
            scopes: state
                .scopes
                .iter()
                .map(|(scope, known)| ScopeReport {
                    resource: scope.kind.resource().to_owned(),
                    namespace: scope.namespace.clone(),
                    state: known.text(),
                })
                .collect(),
            objects: state.objects.clone(),
            problems: state
                .problems
                .iter()
                .map(|(subject, problem)| ProblemReport {
                    subject: subject.to_string(),
                    kind: problem.kind.as_str().to_owned(),
                    text: problem.text.clone(),
                })
                .collect(),
        };
        json(&report)
    }

    fn release(&self, body: &[u8]) -> Page {
        let release: Release = match serde_json::from_slice(body) {
            Ok(release) => release,
            Err(error) => {
                return Page::text(
                    StatusCode::BAD_REQUEST,
                    format!("{}\n", escape(&error.to_string())),
                );
            }
        };
        let mut state = self.lock();
        let (released, unknown) = match release.all {
            true => (state.held.clone(), BTreeSet::new()),
            false => {
                let is_held = |name: &String| state.held.contains(name);
                release.folders.into_iter().partition(is_held)
            }
        };
        state.released.extend(released.iter().cloned());
        drop(state);
        self.release.notify_one();
        json(&Released { released, unknown })
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn json(value: &impl Serialize) -> Page {
    match serde_json::to_string(value) {
        Ok(body) => Page::ok(JSON, escape_json(&body)),
        Err(error) => Page::text(StatusCode::INTERNAL_SERVER_ERROR, format!("{error}\n")),
    }
}

impl State {
    fn health(&self) -> Health {
        let waits = self.scopes.values().any(|one| one.waits_for().is_some());
        let is_late = self
            .waiting_since
            .is_some_and(|since| since.elapsed().is_ok_and(|age| age > ON_ITS_WAY));
        if self.scopes.is_empty() || waits || is_late || self.problems.has_faults() {
            Health::NotReady
        } else if self.problems.has_errors() {
            Health::Degraded
        } else {
            Health::Ready
        }
    }
}

impl ScopeState {
    /// The time since the last response of the API server.
    fn age(&self) -> Option<Duration> {
        self.answered.and_then(|answered| answered.elapsed().ok())
    }

    fn waits_for(&self) -> Option<&'static str> {
        if !self.listed {
            return Some("waiting for the first list");
        }
        let is_stale = self.age().is_some_and(|age| age > STALE_AFTER);
        is_stale.then_some("waiting for the API server")
    }

    fn text(&self) -> String {
        let mut text = self.waits_for().unwrap_or("watched").to_owned();
        if let Some(age) = self.age() {
            let _ = write!(text, ", last response {} s ago", age.as_secs());
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
            "/" => Some(Page::ok(TEXT, "/livez\n/readyz\n/metrics\n/status\n")),
            "/livez" => Some(Page::ok(TEXT, "alive\n")),
            "/readyz" => Some(self.ready()),
            "/metrics" => {
                let is_ready = self.lock().health() != Health::NotReady;
                self.metrics.ready(is_ready);
                Some(Page::ok(exposition::CONTENT_TYPE, self.metrics.encode()))
            }
            "/status" => Some(self.report()),
            _ => None,
        }))
    }

    fn action<'a>(&'a self, path: &'a str, body: &'a [u8]) -> BoxFuture<'a, Option<Page>> {
        let page = (path == "/release").then(|| self.release(body));
        Box::pin(std::future::ready(page))
    }
}
