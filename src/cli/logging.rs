//! Log lines to standard error, as text or JSON, with levels that a reload can change.

use std::io::{self, IsTerminal};
use std::thread;
use std::time::Duration;

use prometheus_client::metrics::counter::Counter;
use rustix::io::Errno;
use sds_agent::config::{Log, LogFilter, LogFormat};
use sds_agent::text::escape;
use tracing::field::Field;
use tracing_subscriber::field::MakeExt;
use tracing_subscriber::fmt::format::{self, Writer};
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::SubscriberInitExt;
use tracing_subscriber::{EnvFilter, Layer, Registry, fmt, reload};

use sds_agent::lines::Lines;

/// How long the end of the program waits for lines to be written.
const LAST_LINES: Duration = Duration::from_secs(2);

/// How often a standard error that does not block is tried again when it is full.
const RETRY: Duration = Duration::from_millis(10);

/// The log of a running process. What was logged is written when it is dropped.
pub(crate) struct Logging {
    levels: reload::Handle<EnvFilter, Registry>,
    lines: Lines,
}

/// Starts logging. Each line is written at once until there may be [threads](Logging::start_thread).
pub(crate) fn start(log: &Log) -> Logging {
    let (filter, levels) = reload::Layer::new(log.level.to_filter());
    let lines = Lines::new(write);
    let layer = fmt::layer().with_writer(lines.clone()).with_target(false);
    let layer = match log.format {
        LogFormat::Text => layer
            .with_ansi(io::stderr().is_terminal())
            .fmt_fields(format::debug_fn(field).delimited(" "))
            .boxed(),
        LogFormat::Json => layer.json().with_target(true).flatten_event(true).boxed(),
    };
    tracing_subscriber::registry()
        .with(filter)
        .with(layer)
        .init();
    Logging { levels, lines }
}

/// Writes a field, the message among them. Here text leaves for the log, and whatever it holds, it is
/// one line that controls no terminal.
fn field(writer: &mut Writer<'_>, field: &Field, value: &dyn std::fmt::Debug) -> std::fmt::Result {
    let value = format!("{value:?}");
    match field.name() {
        "message" => write!(writer, "{}", escape(&value)),
        name => write!(writer, "{name}={}", escape(&value)),
    }
}

impl Logging {
    /// From now on a thread writes the lines.
    pub(crate) fn start_thread(&self) {
        self.lines.start();
    }

    /// Counts in `counter` the lines that nobody took.
    pub(crate) fn count_lost(&self, counter: Counter) {
        self.lines.count_lost(counter);
    }

    /// Logs by this filter from now on.
    pub(crate) fn set(&self, filter: &LogFilter) {
        if let Err(error) = self.levels.reload(filter.to_filter()) {
            tracing::warn!("the log level can't be changed: {error}");
        }
    }
}

impl Drop for Logging {
    fn drop(&mut self) {
        self.lines.flush(LAST_LINES);
    }
}

/// Writes to standard error, which another process may have made non-blocking.
fn write(mut bytes: &[u8]) -> io::Result<()> {
    while !bytes.is_empty() {
        match rustix::io::write(io::stderr(), bytes) {
            Ok(written) => bytes = bytes.get(written..).unwrap_or_default(),
            Err(Errno::INTR) => {}
            Err(Errno::AGAIN) => thread::sleep(RETRY),
            Err(error) => return Err(error.into()),
        }
    }
    Ok(())
}
