//! Logs to standard error, as text or JSON, with levels that a reload can change.

use std::io::{self, IsTerminal};
use std::thread;
use std::time::Duration;

use prometheus_client::metrics::counter::Counter;
use rustix::io::Errno;
use tracing::Metadata;
use tracing::field::Field;
use tracing_subscriber::field::MakeExt;
use tracing_subscriber::filter::filter_fn;
use tracing_subscriber::fmt::format::{self, Writer};
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::SubscriberInitExt;
use tracing_subscriber::{EnvFilter, Layer, Registry, fmt, reload};

use crate::config::LogFormat;
use crate::lines::Lines;
use crate::text::{escape, quote};

/// How long the program waits at its end for lines to be written.
const LAST_LINES: Duration = Duration::from_secs(2);

/// How often writing to a non-blocking standard error is retried when it is full.
const RETRY: Duration = Duration::from_millis(10);

/// The log of a running process. Remaining lines are written when it is dropped.
pub struct Logging {
    levels: reload::Handle<EnvFilter, Registry>,
    lines: Lines,
}

/// Starts logging. Each line is written directly until the [thread](Logging::start_thread) is started.
/// Events that pass `levels` are only logged if `is_wanted` accepts them.
pub fn start(
    levels: EnvFilter,
    format: LogFormat,
    is_wanted: fn(&Metadata<'_>) -> bool,
) -> Logging {
    let (filter, levels) = reload::Layer::new(levels);
    let lines = Lines::new(write);
    let layer = fmt::layer().with_writer(lines.clone()).with_target(false);
    let layer = match format {
        LogFormat::Text => layer
            .with_ansi(io::stderr().is_terminal())
            .fmt_fields(format::debug_fn(field).delimited(" "))
            .boxed(),
        LogFormat::Json => layer.json().with_target(true).flatten_event(true).boxed(),
    };
    tracing_subscriber::registry()
        .with(filter)
        .with(layer.with_filter(filter_fn(is_wanted)))
        .init();
    Logging { levels, lines }
}

/// Writes a field, including the message. All text of the log passes here and is escaped, so that it stays on
/// one line, can't control a terminal, and can't be taken for further fields.
fn field(writer: &mut Writer<'_>, field: &Field, value: &dyn std::fmt::Debug) -> std::fmt::Result {
    let value = format!("{value:?}");
    match field.name() {
        "message" => write!(writer, "{}", escape(&value)),
        // Strings are quoted already; paths and errors are not.
        name if !value.starts_with('"') && value.contains([' ', '"', '=']) => {
            write!(writer, "{name}={}", quote(&value))
        }
        name => write!(writer, "{name}={}", escape(&value)),
    }
}

impl Logging {
    /// Starts the thread that writes the lines.
    pub fn start_thread(&self) {
        self.lines.start();
    }

    /// Counts lost lines in `counter`.
    pub fn count_lost(&self, counter: Counter) {
        self.lines.count_lost(counter);
    }

    /// Changes the levels.
    pub fn set(&self, levels: EnvFilter) {
        if let Err(error) = self.levels.reload(levels) {
            tracing::warn!("the log level can't be changed: {error}");
        }
    }
}

impl Drop for Logging {
    fn drop(&mut self) {
        self.lines.flush(LAST_LINES);
    }
}

/// Writes to standard error, which another process may have set to non-blocking.
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
