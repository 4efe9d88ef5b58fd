//! Metrics in Prometheus' text format. Labels come from the configuration or from fixed sets.

use std::sync::atomic::{AtomicI64, AtomicU64};
use std::time::{SystemTime, UNIX_EPOCH};

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::info::Info;
use prometheus_client::registry::Registry;

use sds_agent::admin::{exposition, process};

use crate::output::Outcome;
use crate::problems::{Kind, Problems};
use crate::source::FailureKind;

/// How much of everything there is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Counts {
    /// Secrets that have their folder.
    pub(crate) mirrored: usize,
    /// Secrets that are to have one, and have not yet.
    pub(crate) waiting: usize,
    /// Secrets that are none of the mirror's business.
    pub(crate) passed_over: usize,
    /// Folders that the mirror made.
    pub(crate) folders: usize,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct NamespaceLabel {
    namespace: String,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct FailureLabels {
    namespace: String,
    kind: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct StateLabel {
    state: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct KindLabel {
    kind: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ResultLabel {
    result: &'static str,
}

/// All metrics of the mirror.
pub(crate) struct Metrics {
    started: SystemTime,
    registry: Registry,
    sync: Family<NamespaceLabel, Gauge<f64, AtomicU64>>,
    lists: Family<NamespaceLabel, Counter>,
    failures: Family<FailureLabels, Counter>,
    secrets: Family<StateLabel, Gauge>,
    folders: Gauge<i64, AtomicI64>,
    problems: Family<KindLabel, Gauge>,
    writes: Family<ResultLabel, Counter>,
    removals: Family<ResultLabel, Counter>,
}

impl Metrics {
    pub(crate) fn new() -> Self {
        let mut metrics = Self {
            started: SystemTime::now(),
            registry: Registry::with_prefix("sds_mirror"),
            sync: Family::default(),
            lists: Family::default(),
            failures: Family::default(),
            secrets: Family::default(),
            folders: Gauge::default(),
            problems: Family::default(),
            writes: Family::default(),
            removals: Family::default(),
        };
        metrics.register_source();
        metrics.register_disk();
        metrics
    }

    fn register_source(&mut self) {
        let registry = &mut self.registry;
        registry.register(
            "sync_timestamp_seconds",
            "When the API server was last heard of, by namespace",
            self.sync.clone(),
        );
        registry.register(
            "lists",
            "Whole lists of a namespace's Secrets",
            self.lists.clone(),
        );
        registry.register(
            "api_failures",
            "Requests that failed and watches that broke, by kind",
            self.failures.clone(),
        );
        registry.register(
            "secrets",
            "Secrets that the API server told of, by what became of them",
            self.secrets.clone(),
        );
    }

    fn register_disk(&mut self) {
        let registry = &mut self.registry;
        registry.register(
            "folders",
            "Folders that the mirror made",
            self.folders.clone(),
        );
        registry.register(
            "problems",
            "Present problems, by kind",
            self.problems.clone(),
        );
        registry.register("writes", "Folders written, by result", self.writes.clone());
        registry.register(
            "removals",
            "Folders removed, by result",
            self.removals.clone(),
        );
        let version = [("version", sds_agent::VERSION)];
        registry.register("build", "The program", Info::new(version));
    }

    pub(crate) fn heard(&self, namespace: &str, when: SystemTime) {
        let seconds = when.duration_since(UNIX_EPOCH).unwrap_or_default();
        self.sync
            .get_or_create(&label(namespace))
            .set(seconds.as_secs_f64());
    }

    pub(crate) fn listed(&self, namespace: &str) {
        self.lists.get_or_create(&label(namespace)).inc();
    }

    pub(crate) fn failed(&self, namespace: &str, kind: FailureKind) {
        let labels = FailureLabels {
            namespace: namespace.to_owned(),
            kind: kind.as_str(),
        };
        self.failures.get_or_create(&labels).inc();
    }

    pub(crate) fn wrote(&self, outcome: Option<Outcome>) {
        let result = match outcome {
            Some(Outcome::Made) => "made",
            Some(Outcome::Changed) => "changed",
            Some(Outcome::Same) => "same",
            None => "error",
        };
        self.writes.get_or_create(&ResultLabel { result }).inc();
    }

    pub(crate) fn removed(&self, done: bool) {
        let result = if done { "removed" } else { "error" };
        self.removals.get_or_create(&ResultLabel { result }).inc();
    }

    pub(crate) fn set(&self, counts: &Counts, problems: &Problems) {
        let gauge = |value: usize| i64::try_from(value).unwrap_or(i64::MAX);
        for (state, value) in [
            ("mirrored", counts.mirrored),
            ("waiting", counts.waiting),
            ("passed_over", counts.passed_over),
        ] {
            self.secrets
                .get_or_create(&StateLabel { state })
                .set(gauge(value));
        }
        self.folders.set(gauge(counts.folders));
        for kind in Kind::ALL {
            let label = KindLabel {
                kind: kind.as_str(),
            };
            self.problems
                .get_or_create(&label)
                .set(gauge(problems.count(kind)));
        }
    }

    /// The text that Prometheus reads.
    pub(crate) fn encode(&self) -> String {
        let mut process = Registry::default();
        process::register(&mut process, self.started);
        exposition::text(&self.registry) + &exposition::text(&process)
    }
}

fn label(namespace: &str) -> NamespaceLabel {
    NamespaceLabel {
        namespace: namespace.to_owned(),
    }
}
