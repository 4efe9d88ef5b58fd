//! The state → gauges. Together with the agent's counters, they are everything that `/metrics` shows.
//!
//! The names of credentials are labels; `limits.credentials` bounds their number. Values that clients choose, such
//! as node ids or names that do not exist, are never labels.

use std::time::SystemTime;

use prometheus_client::metrics::counter::ConstCounter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::{ConstGauge, Gauge};
use prometheus_client::metrics::info::Info;
use prometheus_client::registry::{Registry, Unit};

use super::status::{Status, Watch};
use super::{exposition, process};
use crate::files::watch::Polled;
use crate::metrics::Metrics;
use crate::report::{Answer, Report, Secret, State, Time};
use crate::secret::Kind;

type Labels<const N: usize> = [(&'static str, String); N];
type Gauges<const N: usize> = Family<Labels<N>, Gauge>;

/// All metrics, in Prometheus' text format.
pub(super) fn text(status: &Status, counters: &Metrics) -> String {
    let mut registry = Registry::default();
    let own = registry.sub_registry_with_prefix("sds_agent");
    counters.register(own);
    agent(own, status);
    certificates(own, &status.report);
    credentials(own, &status.report);
    watch(own, &status.watch);
    process::register(&mut registry, status.agent.started.get());
    exposition::text(&registry)
}

fn agent(registry: &mut Registry, status: &Status) {
    let version = [("version", crate::VERSION)];
    registry.register("build", "The program", Info::new(version));
    registry.register(
        "ready",
        "Whether all roots were read and clients are served",
        ConstGauge::new(i64::from(status.agent.ready)),
    );
    let open = status.agent.streams;
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
        "Names that clients have requested and that do not exist",
        ConstGauge::new(integer(status.waiting.total as u64)),
    );
}

fn certificates(registry: &mut Registry, report: &Report) {
    let (starts, ends, warn) = (Gauges::default(), Gauges::default(), Gauges::default());
    let (valid, nacked) = (Gauges::default(), Gauges::default());
    let (staple_starts, staple_ends) = (Gauges::default(), Gauges::default());
    for secret in report.secrets() {
        if let Some(staple) = &secret.staple
            && let Some(end) = staple.next_update
        {
            let label = [("credential", secret.name.clone())];
            set(&staple_starts, label.clone(), seconds(staple.this_update));
            set(&staple_ends, label, seconds(end));
        }
        if let (Some(start), Some(end)) = (secret.not_before, secret.not_after) {
            set(&starts, labels(secret), seconds(start));
            set(&ends, labels(secret), seconds(end));
            set(&warn, labels(secret), 86_400 * u64::from(secret.warn_days));
        }
        let is_valid = is_valid(secret, report.now);
        set(&valid, labels(secret), u64::from(is_valid));
        let clients = secret.subscribers.iter();
        let refused = clients.filter(|client| client.answer == Answer::Nack);
        set(&nacked, labels(secret), refused.count() as u64);
    }
    registry.register("secrets", "Secrets that are served", kinds(report));
    registry.register_with_unit(
        "certificate_not_after_timestamp",
        "When the leaf expires, or the CA certificate of a trust bundle that expires next, in Unix \
         time",
        Unit::Seconds,
        ends,
    );
    registry.register_with_unit(
        "certificate_not_before_timestamp",
        "When the same certificate began to be valid, in Unix time",
        Unit::Seconds,
        starts,
    );
    registry.register_with_unit(
        "ocsp_staple_next_update_timestamp",
        "When the OCSP staple of a certificate expires, in Unix time",
        Unit::Seconds,
        staple_ends,
    );
    registry.register_with_unit(
        "ocsp_staple_this_update_timestamp",
        "When the validity of the same staple began, in Unix time",
        Unit::Seconds,
        staple_starts,
    );
    registry.register_with_unit(
        "certificate_warn",
        "How long before its end a certificate counts as expiring at most; from warn_days",
        Unit::Seconds,
        warn,
    );
    registry.register(
        "certificate_valid",
        "Whether the certificates of a secret are valid now (1) or not (0)",
        valid,
    );
    registry.register(
        "nacked_streams",
        "Streams whose client rejected the last version that it was sent",
        nacked,
    );
}

/// How many secrets there are of each kind.
fn kinds(report: &Report) -> Gauges<1> {
    let counts = Gauges::default();
    for kind in Kind::ALL.map(Kind::as_str) {
        let count = report.secrets().filter(|s| s.kind == kind).count();
        set(&counts, [("kind", kind.to_owned())], count as u64);
    }
    counts
}

fn credentials(registry: &mut Registry, report: &Report) {
    let states = Gauges::default();
    for state in State::ALL {
        let alike = report.credentials.iter().filter(|one| one.state == state);
        let labels = [("state", state.as_str().to_owned())];
        set(&states, labels, alike.count() as u64);
    }
    registry.register("credentials", "Credentials by state", states);
    let valid = Gauges::default();
    let served = report
        .credentials
        .iter()
        .filter(|one| one.state != State::Skipped);
    for credential in served {
        let labels = [
            ("credential", credential.name.clone()),
            ("root", credential.root.clone()),
        ];
        set(&valid, labels, u64::from(credential.problems.is_empty()));
    }
    registry.register(
        "credential_valid",
        "Whether the current files of a credential are served (1), or were rejected, so that the \
         previous version or nothing is served (0)",
        valid,
    );
    let (present, listed, readable) = (Gauges::default(), Gauges::default(), Gauges::default());
    for root in &report.roots {
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
        "Whether a root exists and could be read completely when it was last listed (1) or not (0)",
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
            "Times that all watches were set up again",
            watch.rebuilds,
        ),
        (
            "watch_missed_changes",
            "Changes found by polling that no event had reported",
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
        "Roots and folders that are polled because they can't be watched, by reason",
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
