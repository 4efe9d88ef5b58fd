//! `sds-agent status --watch`: the state, redrawn each second.

use std::io::{self, IsTerminal, Write};
use std::process::ExitCode;
use std::time::Duration;

use rustix::termios::tcgetwinsize;
use sds_agent::admin::status::Status;
use sds_agent::text::escape_json;
use tokio::signal::unix::{SignalKind, signal};
use tokio::time::MissedTickBehavior;

use super::Request;
use crate::cli::output;
use crate::cli::report::{Canvas, Form};

const PERIOD: Duration = Duration::from_secs(1);

/// Shows the state until Ctrl-C or SIGTERM, or until the reader closes the pipe.
pub(super) async fn run(request: &Request) -> ExitCode {
    let (Ok(mut interrupt), Ok(mut terminate)) = (
        signal(SignalKind::interrupt()),
        signal(SignalKind::terminate()),
    ) else {
        return output::fail("signals can't be handled");
    };
    // If the agent does not answer at first, that is an error. Later, it may be restarting.
    if let Err(error) = request.status().await {
        return output::fail(error);
    }
    let screen = Screen::enter(request.form);
    let mut ticks = tokio::time::interval(PERIOD);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let shown = async {
        loop {
            ticks.tick().await;
            let text = match request.status().await {
                Ok(status) if request.form == Form::Json => line(&status),
                Ok(status) => request.render(&status, Canvas::stdout()),
                Err(error) => output::wrapped(&output::shown(&error), output::width()),
            };
            if let Err(error) = screen.show(&text) {
                break error;
            }
        }
    };
    let end = tokio::select! {
        error = shown => Some(error),
        _ = interrupt.recv() => None,
        _ = terminate.recv() => None,
    };
    drop(screen);
    match end {
        Some(error) if error.kind() != io::ErrorKind::BrokenPipe => {
            output::fail(format_args!("can't write to standard output: {error}"))
        }
        _ => ExitCode::SUCCESS,
    }
}

/// The state as one line of JSON.
fn line(status: &Status) -> String {
    let mut line = escape_json(&serde_json::to_string(status).unwrap_or_default());
    line.push('\n');
    line
}

/// The target of the output: the alternate screen of the terminal, or plain output.
struct Screen {
    terminal: bool,
}

impl Screen {
    fn enter(form: Form) -> Self {
        let terminal = form == Form::Table && io::stdout().is_terminal();
        if terminal {
            // Switch to the alternate screen, and hide the cursor.
            write_all("\x1b[?1049h\x1b[?25l").unwrap_or_default();
        }
        Self { terminal }
    }

    fn show(&self, text: &str) -> io::Result<()> {
        if !self.terminal {
            return write_all(text);
        }
        let size = tcgetwinsize(io::stdout());
        // A terminal that does not know its size reports 0.
        let known = size.ok().filter(|size| size.ws_row > 0 && size.ws_col > 0);
        let (rows, columns) = known.map_or((24, 80), |size| (size.ws_row, size.ws_col));
        let (rows, columns) = (usize::from(rows), usize::from(columns));
        let lines: Vec<_> = text
            .lines()
            .flat_map(|line| pieces(line, columns))
            .collect();
        let fits = lines.len() <= rows;
        let shown = if fits {
            lines.len()
        } else {
            rows.saturating_sub(1)
        };
        // Draw from the top. Clear the rest of each line, and everything below the last one.
        let mut frame = String::from("\x1b[H");
        for line in &lines[..shown] {
            frame.push_str(line);
            frame.push_str("\x1b[K\r\n");
        }
        if fits {
            // A line break after the last row would scroll.
            frame.truncate(frame.len().saturating_sub(2));
        } else {
            frame.push_str(&format!("... {} more lines\x1b[K", lines.len() - shown));
        }
        frame.push_str("\x1b[J");
        write_all(&frame)
    }
}

impl Drop for Screen {
    fn drop(&mut self) {
        if self.terminal {
            write_all("\x1b[?25h\x1b[?1049l").unwrap_or_default();
        }
    }
}

/// Splits a line if a word in it is wider than the terminal. A line with colours belongs to the table, which fits
/// already.
fn pieces(line: &str, columns: usize) -> Vec<String> {
    if line.is_empty() || line.contains('\x1b') {
        return vec![line.to_owned()];
    }
    let chars: Vec<_> = line.chars().collect();
    chars
        .chunks(columns)
        .map(|piece| piece.iter().collect())
        .collect()
}

fn write_all(text: &str) -> io::Result<()> {
    let mut out = io::stdout().lock();
    out.write_all(text.as_bytes())?;
    out.flush()
}
