//! Metrics in Prometheus' text format. Labels come from the configuration or from fixed sets.

use std::sync::atomic::{AtomicI64, AtomicU64};
use std::time::{SystemTime, UNIX_EPOCH};

use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::info::Info;
use prometheus_client::registry::Registry;

use sds_agent::admin::{exposition, process};

use crate::problems::{Kind, Problems};
use crate::select::Scope;
use crate::source::FailureKind;

/// The values of the gauges.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Counts {
    /// Objects that are on disk as they are in the cluster.
    pub(crate) mirrored: usize,
    /// Objects that should be on disk but are missing, or have another version there.
    pub(crate) waiting: usize,
    /// Objects that are not credentials.
    pub(crate) skipped: usize,
    /// Folders that the mirror made.
    pub(crate) folders: usize,
    /// Folders whose removal is held back.
    pub(crate) held: usize,
    /// Folders and files that the mirror did not make.
    pub(crate) foreign: usize,
    /// Folders that can't be read.
    pub(crate) unreadable: usize,
}

/// Labels with fixed values.
type Fixed = [(&'static str, &'static str); 1];
/// The labels of a scope: its namespace and its resource.
type OfScope = [(&'static str, String); 2];

/// All metrics of the mirror.
pub(crate) struct Metrics {
    started: SystemTime,
    registry: Registry,
    sync: Family<OfScope, Gauge<f64, AtomicU64>>,
    lists: Family<OfScope, Counter>,
    failures: Family<[(&'static str, String); 3], Counter>,
    objects: Family<Fixed, Gauge>,
    folders: Gauge<i64, AtomicI64>,
    held: Gauge<i64, AtomicI64>,
    foreign: Gauge<i64, AtomicI64>,
    unreadable: Gauge<i64, AtomicI64>,
    not_in_step: Gauge<i64, AtomicI64>,
    ready: Gauge<i64, AtomicI64>,
    problems: Family<Fixed, Gauge>,
    writes: Family<Fixed, Counter>,
    removals: Family<Fixed, Counter>,
}

impl Metrics {
    pub(crate) fn new() -> Self {
        let mut metrics = Self {
            started: SystemTime::now(),
            registry: Registry::with_prefix("sds_mirror"),
            sync: Family::default(),
            lists: Family::default(),
            failures: Family::default(),
            objects: Family::default(),
            folders: Gauge::default(),
            held: Gauge::default(),
            foreign: Gauge::default(),
            unreadable: Gauge::default(),
            not_in_step: Gauge::default(),
            ready: Gauge::default(),
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
            "When the API server last answered; 0 before it has",
            self.sync.clone(),
        );
        registry.register("lists", "Complete lists", self.lists.clone());
        registry.register(
            "api_failures",
            "Failed requests and watches, by kind",
            self.failures.clone(),
        );
        registry.register(
            "secrets",
            "Secrets and ConfigMaps in the cluster, by their state on disk",
            self.objects.clone(),
        );
    }

    fn register_disk(&mut self) {
        let registry = &mut self.registry;
        for (name, help, gauge) in [
            ("folders", "Folders that the mirror made", &self.folders),
            (
                "held_folders",
                "Folders whose removal is held back",
                &self.held,
            ),
            (
                "foreign_folders",
                "Folders and files in the output folder that the mirror did not make",
                &self.foreign,
            ),
            (
                "unreadable_folders",
                "Folders that can't be read",
                &self.unreadable,
            ),
            (
                "not_in_step",
                "Secrets and ConfigMaps that are not on disk as they are in the cluster",
                &self.not_in_step,
            ),
            ("ready", "Whether /readyz is 200", &self.ready),
        ] {
            registry.register(name, help, gauge.clone());
        }
        registry.register(
            "problems",
            "Current problems, by kind",
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

    /// Creates the series of a scope that is watched from now on, before the API server has answered.
    pub(crate) fn expect(&self, scope: &Scope) {
        self.sync.get_or_create(&labels(scope)).set(0.0);
        self.lists.get_or_create(&labels(scope)).inc_by(0);
    }

    pub(crate) fn answered(&self, scope: &Scope, when: SystemTime) {
        let seconds = when.duration_since(UNIX_EPOCH).unwrap_or_default();
        self.sync
            .get_or_create(&labels(scope))
            .set(seconds.as_secs_f64());
    }

    /// Removes the series of a scope that is no longer watched.
    pub(crate) fn forget(&self, scope: &Scope) {
        self.sync.remove(&labels(scope));
    }

    pub(crate) fn listed(&self, scope: &Scope) {
        self.lists.get_or_create(&labels(scope)).inc();
    }

    pub(crate) fn failed(&self, scope: &Scope, kind: FailureKind) {
        let [namespace, resource] = labels(scope);
        let labels = [namespace, resource, ("kind", kind.as_str().to_owned())];
        self.failures.get_or_create(&labels).inc();
    }

    pub(crate) fn ready(&self, is_ready: bool) {
        self.ready.set(is_ready.into());
    }

    /// Counts a write by its result: an outcome, `rejected` or `error`.
    pub(crate) fn wrote(&self, result: &'static str) {
        self.writes.get_or_create(&[("result", result)]).inc();
    }

    pub(crate) fn removed(&self, done: bool) {
        let result = if done { "removed" } else { "error" };
        self.removals.get_or_create(&[("result", result)]).inc();
    }

    pub(crate) fn set(&self, counts: &Counts, problems: &Problems) {
        let gauge = |value: usize| i64::try_from(value).unwrap_or(i64::MAX);
        for (state, value) in [
            ("mirrored", counts.mirrored),
            ("waiting", counts.waiting),
            ("skipped", counts.skipped),
        ] {
            self.objects
                .get_or_create(&[("state", state)])
                .set(gauge(value));
        }
        self.folders.set(gauge(counts.folders));
        self.held.set(gauge(counts.held));
        self.foreign.set(gauge(counts.foreign));
        self.unreadable.set(gauge(counts.unreadable));
        self.not_in_step.set(gauge(counts.waiting));
        for kind in Kind::ALL {
            let count = gauge(problems.count(kind));
            self.problems
                .get_or_create(&[("kind", kind.as_str())])
                .set(count);
        }
    }

    /// The text that Prometheus reads.
    pub(crate) fn encode(&self) -> String {
        let mut process = Registry::default();
        process::register(&mut process, self.started);
        exposition::text(&self.registry) + &exposition::text(&process)
    }
}

fn labels(scope: &Scope) -> OfScope {
    [
        ("namespace", scope.namespace.clone()),
        ("resource", scope.kind.resource().to_owned()),
    ]
}
