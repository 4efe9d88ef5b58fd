//! Log lines to standard error, as text or JSON, with levels that a reload can change.

use std::io::{self, IsTerminal};

use sds_agent::config::{Log, LogFilter, LogFormat};
use sds_agent::text::escape;
use tracing::field::Field;
use tracing_subscriber::field::MakeExt;
use tracing_subscriber::fmt::format::{self, Writer};
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::SubscriberInitExt;
use tracing_subscriber::{EnvFilter, Layer, Registry, fmt, reload};

/// Changes what is logged in a running process.
pub(crate) struct Levels(reload::Handle<EnvFilter, Registry>);

/// Starts logging.
pub(crate) fn start(log: &Log) -> Levels {
    let (filter, handle) = reload::Layer::new(log.level.to_filter());
    let lines = fmt::layer().with_writer(io::stderr).with_target(false);
    let lines = match log.format {
        LogFormat::Text => lines
            .with_ansi(io::stderr().is_terminal())
            .fmt_fields(format::debug_fn(field).delimited(" "))
            .boxed(),
        LogFormat::Json => lines.json().with_target(true).flatten_event(true).boxed(),
    };
    tracing_subscriber::registry()
        .with(filter)
        .with(lines)
        .init();
    Levels(handle)
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

impl Levels {
    /// Logs by this filter from now on.
    pub(crate) fn set(&self, filter: &LogFilter) {
        if let Err(error) = self.0.reload(filter.to_filter()) {
            tracing::warn!("the log level can't be changed: {error}");
        }
    }
}
