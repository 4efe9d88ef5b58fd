//! Logs to standard error, as text or JSON, with levels that a reload can change.

use std::fmt::{self, Write};
use std::io::{self, IsTerminal};
use std::thread;
use std::time::Duration;

use prometheus_client::metrics::counter::Counter;
use rustix::io::Errno;
use tracing::Metadata;
use tracing::field::{Field, Visit};
use tracing_subscriber::field::{MakeExt, MakeVisitor, VisitFmt, VisitOutput};
use tracing_subscriber::filter::filter_fn;
use tracing_subscriber::fmt::format::Writer;
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::SubscriberInitExt;
use tracing_subscriber::{EnvFilter, Layer, Registry, reload};

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
    let layer = tracing_subscriber::fmt::layer()
        .with_writer(lines.clone())
        .with_target(false);
    let layer = match format {
        LogFormat::Text => layer
            .with_ansi(io::stderr().is_terminal())
            .fmt_fields(Fields.delimited(" "))
            .boxed(),
        LogFormat::Json => layer.json().with_target(true).flatten_event(true).boxed(),
    };
    tracing_subscriber::registry()
        .with(filter)
        .with(layer.with_filter(filter_fn(is_wanted)))
        .init();
    Logging { levels, lines }
}

/// Writes the fields, including the message. All text of the log passes here and is escaped, so that it stays on
/// one line, can't control a terminal, and can't be taken for further fields.
struct Fields;

struct Fielder<'a> {
    writer: Writer<'a>,
    result: fmt::Result,
}

impl<'a> MakeVisitor<Writer<'a>> for Fields {
    type Visitor = Fielder<'a>;

    fn make_visitor(&self, writer: Writer<'a>) -> Fielder<'a> {
        let result = Ok(());
        Fielder { writer, result }
    }
}

impl Fielder<'_> {
    fn text(&mut self, name: &str, value: &str) -> fmt::Result {
        // Nearly all text is of this kind, and the same with escapes as without.
        let is_plain = |byte: &u8| matches!(byte, b' '..=b'~') && !matches!(byte, b'"' | b'\\');
        if !value.as_bytes().iter().all(is_plain) {
            return write!(self.writer, "{name}={}", escape(&format!("{value:?}")));
        }
        for part in [name, "=\"", value, "\""] {
            self.writer.write_str(part)?;
        }
        Ok(())
    }

    fn value(&mut self, name: &str, value: &dyn fmt::Debug) -> fmt::Result {
        let value = format!("{value:?}");
        // Strings are quoted already; paths and errors are not.
        if !value.starts_with('"') && value.contains([' ', '"', '=']) {
            write!(self.writer, "{name}={}", quote(&value))
        } else {
            write!(self.writer, "{name}={}", escape(&value))
        }
    }
}

impl Visit for Fielder<'_> {
    fn record_str(&mut self, field: &Field, value: &str) {
        self.result = self.result.and(self.text(field.name(), value));
    }

    fn record_u64(&mut self, field: &Field, value: u64) {
        let written = write!(self.writer, "{}={value}", field.name());
        self.result = self.result.and(written);
    }

    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        let written = match field.name() {
            "message" => write!(Escaping(&mut self.writer), "{value:?}"),
            name => self.value(name, value),
        };
        self.result = self.result.and(written);
    }
}

impl VisitOutput<fmt::Result> for Fielder<'_> {
    fn finish(self) -> fmt::Result {
        self.result
    }
}

impl VisitFmt for Fielder<'_> {
    fn writer(&mut self) -> &mut dyn Write {
        &mut self.writer
    }
}

/// Escapes what is written to it.
struct Escaping<'a, 'w>(&'a mut Writer<'w>);

impl Write for Escaping<'_, '_> {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        write!(self.0, "{}", escape(text))
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
