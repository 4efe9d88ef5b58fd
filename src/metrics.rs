//! Counts what happens while the agent runs, for Prometheus. Values that can be looked up at any time instead, such
//! as expiry or open streams, are added for each request.
//!
//! Every label here has a fixed set of values: neither files nor clients can create series.

use std::time::{Duration, SystemTime};

use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::registry::{Registry, Unit};

use crate::problem::Reason;

/// Bucket bounds in seconds, from a read of a local disk to an outage.
const BUCKETS: [f64; 15] = [
    0.0001, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0,
];

type Labels<const N: usize> = [(&'static str, &'static str); N];
type Counters<const N: usize> = Family<Labels<N>, Counter>;

/// The agent's counters. There is one instance for the whole agent.
#[derive(Debug)]
pub struct Metrics {
    loads: Counter,
    rejections: Counters<1>,
    removals: Counter,
    reads: Family<Labels<1>, Histogram, fn() -> Histogram>,
    connections: Gauge,
    connections_opened: Counter,
    streams: Counters<1>,
    deliveries: Counters<2>,
    delays: Histogram,
    acks: Counters<1>,
    nacks: Counters<1>,
    refusals: Counters<1>,
    limits: Counters<1>,
    config_is_good: Gauge,
    config_loaded_at: Gauge,
    log_lines_lost: Counter,
}

/// What is read from the disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Read {
    /// The names in a root.
    Root,
    /// The files of a credential folder, and their check.
    Folder,
}

/// What is refused to a peer that is not allowed to have it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refusal {
    /// A connection.
    Connection,
    /// A name.
    Name,
}

/// A limit that files or clients can reach, by its key in `[limits]`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Limit {
    /// `file_bytes`.
    FileBytes,
    /// `files`.
    Files,
    /// `credentials`.
    Credentials,
    /// `connections`.
    Connections,
    /// `streams`.
    Streams,
    /// `streams_per_connection`.
    StreamsPerConnection,
    /// `names_per_stream`.
    NamesPerStream,
    /// `request_bytes`.
    RequestBytes,
    /// `client_bytes`.
    ClientBytes,
}

/// An open connection.
#[derive(Debug)]
pub struct Connected(Gauge);

impl Drop for Connected {
    fn drop(&mut self) {
        self.0.dec();
    }
}

impl Limit {
    /// All of them.
    pub const ALL: [Self; 9] = [
        Self::FileBytes,
        Self::Files,
        Self::Credentials,
        Self::Connections,
        Self::Streams,
        Self::StreamsPerConnection,
        Self::NamesPerStream,
        Self::RequestBytes,
        Self::ClientBytes,
    ];

    /// The key.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::FileBytes => "file_bytes",
            Self::Files => "files",
            Self::Credentials => "credentials",
            Self::Connections => "connections",
            Self::Streams => "streams",
            Self::StreamsPerConnection => "streams_per_connection",
            Self::NamesPerStream => "names_per_stream",
            Self::RequestBytes => "request_bytes",
            Self::ClientBytes => "client_bytes",
        }
    }
}

impl Default for Metrics {
    fn default() -> Self {
        let metrics = Self {
            loads: Counter::default(),
            rejections: Family::default(),
            removals: Counter::default(),
            reads: Family::new_with_constructor(|| Histogram::new(BUCKETS)),
            connections: Gauge::default(),
            connections_opened: Counter::default(),
            streams: Family::default(),
            deliveries: Family::default(),
            delays: Histogram::new(BUCKETS),
            acks: Family::default(),
            nacks: Family::default(),
            refusals: Family::default(),
            limits: Family::default(),
            config_is_good: Gauge::default(),
            config_loaded_at: Gauge::default(),
            log_lines_lost: Counter::default(),
        };
        // An agent does not start with an invalid configuration.
        metrics.config_reloaded(true);
        metrics.begin_at_zero();
        metrics
    }
}

impl Metrics {
    /// A folder has new content to serve.
    pub fn loaded(&self) {
        self.loads.inc();
    }

    /// The content of a folder was rejected, for this reason among others.
    pub fn rejected(&self, reason: Reason) {
        self.rejections
            .get_or_create(&[("reason", reason.as_str())])
            .inc();
    }

    /// A folder was removed, with everything that it served.
    pub fn removed(&self) {
        self.removals.inc();
    }

    /// A read took this long.
    pub fn read(&self, what: Read, took: Duration) {
        let what = match what {
            Read::Root => "root",
            Read::Folder => "folder",
        };
        self.reads
            .get_or_create(&[("of", what)])
            .observe(took.as_secs_f64());
    }

    /// A connection was accepted. It counts as open until the result is dropped.
    #[must_use]
    pub fn connected(&self) -> Connected {
        self.connections_opened.inc();
        self.connections.inc();
        Connected(self.connections.clone())
    }

    /// A stream was opened.
    pub fn opened(&self, protocol: &'static str) {
        self.streams.get_or_create(&[("protocol", protocol)]).inc();
    }

    /// A secret was sent on a stream.
    pub fn delivered(&self, protocol: &'static str, kind: &'static str) {
        self.deliveries
            .get_or_create(&[("protocol", protocol), ("kind", kind)])
            .inc();
    }

    /// A stream that waited for a change of a secret was sent it, this long after the change was noticed.
    pub fn delayed(&self, delay: Duration) {
        self.delays.observe(delay.as_secs_f64());
    }

    /// A client accepted a secret.
    pub fn acked(&self, protocol: &'static str) {
        self.acks.get_or_create(&[("protocol", protocol)]).inc();
    }

    /// A client rejected a secret.
    pub fn nacked(&self, protocol: &'static str) {
        self.nacks.get_or_create(&[("protocol", protocol)]).inc();
    }

    /// A peer was refused something that it is not allowed to have.
    pub fn refused(&self, what: Refusal) {
        let what = match what {
            Refusal::Connection => "connection",
            Refusal::Name => "name",
        };
        self.refusals.get_or_create(&[("of", what)]).inc();
    }

    /// Something was refused because a limit was reached.
    pub fn limit_reached(&self, limit: Limit) {
        self.limits
            .get_or_create(&[("limit", limit.as_str())])
            .inc();
    }

    /// The configuration was read again, and applied or refused.
    pub fn config_reloaded(&self, good: bool) {
        self.config_is_good.set(good.into());
        if good {
            let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
            let seconds = now.unwrap_or_default().as_secs();
            self.config_loaded_at.set(seconds.cast_signed());
        }
    }

    /// Counts the log lines that could not be written in time.
    pub fn log_lines_lost(&self) -> Counter {
        self.log_lines_lost.clone()
    }

    /// Registers everything under its name, without the program's prefix.
    pub fn register(&self, registry: &mut Registry) {
        self.register_files(registry);
        self.register_streams(registry);
        registry.register(
            "limit_reached",
            "Times that something was refused because a limit of the configuration was reached",
            self.limits.clone(),
        );
        registry.register(
            "config_last_reload_successful",
            "Whether the configuration was applied when it was last read (1), or refused (0)",
            self.config_is_good.clone(),
        );
        registry.register_with_unit(
            "config_last_reload_success_timestamp",
            "When a configuration was last applied, in Unix time",
            Unit::Seconds,
            self.config_loaded_at.clone(),
        );
        registry.register(
            "log_lines_lost",
            "Log lines that were lost because standard error did not accept output for too long",
            self.log_lines_lost.clone(),
        );
    }

    fn register_files(&self, registry: &mut Registry) {
        registry.register(
            "credential_loads",
            "Times that a credential folder had new content to serve",
            self.loads.clone(),
        );
        registry.register(
            "credential_rejections",
            "Times that the content of a credential folder was rejected, by reason",
            self.rejections.clone(),
        );
        registry.register(
            "credential_removals",
            "Times that a credential folder was removed",
            self.removals.clone(),
        );
        registry.register_with_unit(
            "read_duration",
            "How long a read of a root or of a credential folder took, including its check",
            Unit::Seconds,
            self.reads.clone(),
        );
    }

    fn register_streams(&self, registry: &mut Registry) {
        registry.register("connections", "Open connections", self.connections.clone());
        registry.register(
            "connections_opened",
            "Connections that clients opened",
            self.connections_opened.clone(),
        );
        registry.register(
            "streams_opened",
            "Streams that clients opened",
            self.streams.clone(),
        );
        registry.register(
            "deliveries",
            "Secrets that were sent on a stream",
            self.deliveries.clone(),
        );
        registry.register_with_unit(
            "delivery_delay",
            "Time from noticing a change of the files to sending it on a subscribed stream",
            Unit::Seconds,
            self.delays.clone(),
        );
        registry.register(
            "acks",
            "Secrets that clients accepted (ACK)",
            self.acks.clone(),
        );
        registry.register("nacks", "Secrets that clients rejected", self.nacks.clone());
        registry.register(
            "access_refusals",
            "Connections and names that were refused by the access rules",
            self.refusals.clone(),
        );
    }

    /// If a series begins with its first event, `increase()` does not see that event.
    fn begin_at_zero(&self) {
        for protocol in ["sotw", "delta", "fetch"] {
            begin(&self.streams, [("protocol", protocol)]);
            for kind in ["certificate", "trust_bundle"] {
                begin(&self.deliveries, [("protocol", protocol), ("kind", kind)]);
            }
        }
        for protocol in ["sotw", "delta"] {
            begin(&self.acks, [("protocol", protocol)]);
            begin(&self.nacks, [("protocol", protocol)]);
        }
        for of in ["connection", "name"] {
            begin(&self.refusals, [("of", of)]);
        }
        for limit in Limit::ALL {
            begin(&self.limits, [("limit", limit.as_str())]);
        }
    }
}

fn begin<const N: usize>(counters: &Counters<N>, labels: Labels<N>) {
    drop(counters.get_or_create(&labels));
}
