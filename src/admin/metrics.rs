//! The state → gauges, beside the agent's counters: all that `/metrics` shows.
//!
//! The names of credentials are labels, and bounded by `limits.credentials`. What clients choose, such
//! as node ids or names that do not exist, never is one.

use std::collections::BTreeMap;
use std::time::SystemTime;

use prometheus_client::metrics::counter::ConstCounter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::{ConstGauge, Gauge};
use prometheus_client::metrics::info::Info;
use prometheus_client::registry::{Registry, Unit};

use super::state::{Answer, Condition, Folder, Secret, State, Time, Watch};
use super::{exposition, process};
use crate::files::watch::Polled;
use crate::metrics::Metrics;
use crate::secret::Kind;

type Labels<const N: usize> = [(&'static str, String); N];
type Gauges<const N: usize> = Family<Labels<N>, Gauge>;

/// All metrics, as Prometheus reads them.
pub(super) fn text(state: &State, counters: &Metrics) -> String {
    let mut registry = Registry::default();
    let own = registry.sub_registry_with_prefix("sds_agent");
    counters.register(own);
    agent(own, state);
    certificates(own, state);
    folders(own, state);
    watch(own, &state.watch);
    process::register(&mut registry, state.agent.started.get());
    exposition::text(&registry)
}

fn agent(registry: &mut Registry, state: &State) {
    let version = [("version", crate::VERSION)];
    registry.register("build", "The program", Info::new(version));
    registry.register(
        "ready",
        "Whether all roots were read and clients are served",
        ConstGauge::new(i64::from(state.agent.ready)),
    );
    let open = state.agent.streams;
    let streams = Gauges::default();
    for (protocol, open) in [
        ("sotw", open.sotw),
        ("delta", open.delta),
        ("fetch", open.fetch),
    ] {
        set(&streams, [("protocol", protocol.to_owned())], open);
    }
    registry.register("streams", "Open streams", streams);
    registry.register(
        "waiting_names",
        "Names that clients wait for and that do not exist",
        ConstGauge::new(integer(state.waiting.total as u64)),
    );
}

fn certificates(registry: &mut Registry, state: &State) {
    let (starts, ends, warn_days) = (Gauges::default(), Gauges::default(), Gauges::default());
    let (valid, nacked) = (Gauges::default(), Gauges::default());
    for secret in &state.secrets {
        if let (Some(start), Some(end)) = (secret.not_before, secret.not_after) {
            set(&starts, labels(secret), seconds(start));
            set(&ends, labels(secret), seconds(end));
            set(&warn_days, labels(secret), secret.warn_days.into());
        }
        let is_valid = is_valid(secret, state.agent.now);
        set(&valid, labels(secret), u64::from(is_valid));
        let clients = secret.subscribers.iter();
        let refused = clients.filter(|client| client.answer == Answer::Nack);
        set(&nacked, labels(secret), refused.count() as u64);
    }
    registry.register("secrets", "Secrets that are served", kinds(state));
    registry.register_with_unit(
        "certificate_not_after_timestamp",
        "When the leaf, or the CA certificate of a trust bundle that ends next, ends, in Unix time",
        Unit::Seconds,
        ends,
    );
    registry.register_with_unit(
        "certificate_not_before_timestamp",
        "When the same certificate began to be valid, in Unix time",
        Unit::Seconds,
        starts,
    );
    registry.register(
        "certificate_warn_days",
        "How many days before its end it is warned of at most; the configuration's warn_days",
        warn_days,
    );
    registry.register(
        "certificate_valid",
        "Whether the certificates of a secret are within their time (1) or not (0)",
        valid,
    );
    registry.register(
        "nacked_streams",
        "Streams whose client refused what it was sent last",
        nacked,
    );
}

/// How many secrets there are of each kind.
fn kinds(state: &State) -> Gauges<1> {
    let counts = Gauges::default();
    for kind in Kind::ALL.map(Kind::as_str) {
        let count = state.secrets.iter().filter(|s| s.kind == kind).count();
        set(&counts, [("kind", kind.to_owned())], count as u64);
    }
    counts
}

fn folders(registry: &mut Registry, state: &State) {
    // By credential and root: whether all its files are good.
    let mut good = BTreeMap::new();
    let mut note = |name: &str, root: &str, is_good: bool| {
        *good
            .entry((name.to_owned(), root.to_owned()))
            .or_insert(true) &= is_good;
    };
    for secret in &state.secrets {
        note(&secret.credential, &secret.root, secret.problems.is_empty());
    }
    let passed_over = |folder: &&Folder| folder.state == Condition::PassedOver;
    for folder in state.folders.iter().filter(|folder| !passed_over(folder)) {
        let is_good = folder.state == Condition::Hidden && folder.problems.is_empty();
        note(&folder.name, &folder.root, is_good);
    }
    let gauges = Gauges::default();
    for ((name, root), is_good) in good {
        set(
            &gauges,
            [("credential", name), ("root", root)],
            u64::from(is_good),
        );
    }
    registry.register(
        "credential_valid",
        "Whether what is in a credential folder can be served (1), or not, be its last good content \
         served or nothing (0)",
        gauges,
    );
    let (present, listed, readable) = (Gauges::default(), Gauges::default(), Gauges::default());
    for root in &state.roots {
        let label = || [("root", root.path.clone())];
        set(&present, label(), u64::from(root.present == Some(true)));
        set(&listed, label(), u64::from(root.listed));
        if let Some(is_readable) = root.readable {
            set(&readable, label(), u64::from(is_readable));
        }
    }
    registry.register("root_present", "Whether a root exists", present);
    registry.register(
        "root_readable",
        "Whether a root exists and could be read completely when it was last looked at (1) or not (0)",
        readable,
    );
    registry.register(
        "root_listed",
        "Whether a root could be listed completely at least once since the start (1) or not (0)",
        listed,
    );
}

fn watch(registry: &mut Registry, watch: &Watch) {
    registry.register(
        "watches",
        "Directories that are watched",
        ConstGauge::new(integer(watch.directories as u64)),
    );
    for (name, help, value) in [
        (
            "watch_queue_overflows",
            "Times that the kernel's queue of file events overflowed",
            watch.overflows,
        ),
        (
            "watch_refusals",
            "Times that the kernel refused a watch",
            watch.refusals,
        ),
        (
            "watch_rebuilds",
            "Times that watching began anew",
            watch.rebuilds,
        ),
        (
            "watch_missed_changes",
            "Changes that no event had told of, found by looking",
            watch.missed,
        ),
    ] {
        registry.register(name, help, ConstCounter::new(value));
    }
    let reasons = Gauges::default();
    for reason in Polled::ALL {
        let count = watch.polled.get(reason.as_str()).copied();
        let labels = [("reason", reason.as_str().to_owned())];
        set(&reasons, labels, count.unwrap_or_default());
    }
    registry.register(
        "polled_folders",
        "Roots and folders that are polled for want of a watch, by reason",
        reasons,
    );
}

fn labels(secret: &Secret) -> Labels<2> {
    [
        ("credential", secret.name.clone()),
        ("kind", secret.kind.clone()),
    ]
}

fn is_valid(secret: &Secret, now: Time) -> bool {
    secret.not_after.is_none_or(|end| end >= now)
        && secret.not_before.is_none_or(|start| start <= now)
}

fn seconds(time: Time) -> u64 {
    let since = time.get().duration_since(SystemTime::UNIX_EPOCH);
    since.unwrap_or_default().as_secs()
}

fn set<const N: usize>(gauges: &Gauges<N>, labels: Labels<N>, value: u64) {
    gauges.get_or_create_owned(&labels).set(integer(value));
}

fn integer(value: u64) -> i64 {
    i64::try_from(value).unwrap_or(i64::MAX)
}
