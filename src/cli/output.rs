//! What a command prints.

use std::fmt;
use std::io::{self, IsTerminal, Write};
use std::process::ExitCode;

use sds_agent::text::escape;

/// The exit code of a command that could not do what it was asked to. clap's own for a wrong
/// command line is the same.
pub(crate) const COULD_NOT: u8 = 2;

/// Writes `bytes` to the standard output. A reader that has gone is a quiet end.
pub(crate) fn print(bytes: &[u8]) -> ExitCode {
    let mut out = io::stdout().lock();
    match out.write_all(bytes).and_then(|()| out.flush()) {
        Err(error) if error.kind() != io::ErrorKind::BrokenPipe => {
            fail(format_args!("can't write to the standard output: {error}"))
        }
        _ => ExitCode::SUCCESS,
    }
}

/// Says why the command could not do what it was asked to.
pub(crate) fn fail(message: impl fmt::Display) -> ExitCode {
    say(message);
    ExitCode::from(COULD_NOT)
}

/// Says what is wrong with what the command was asked to check.
pub(crate) fn bad(message: impl fmt::Display) -> ExitCode {
    say(message);
    ExitCode::FAILURE
}

/// Text from outside, safe for a terminal.
pub(crate) fn shown(text: &str) -> String {
    escape(text).to_string()
}

/// Whether what is printed may be coloured: see <https://no-color.org>.
pub(crate) fn colour() -> bool {
    let unwanted = std::env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty());
    io::stdout().is_terminal() && !unwanted
}

/// Writes a message to the standard error.
pub(crate) fn say(message: impl fmt::Display) {
    // There is nobody left to tell where the standard error is closed.
    let message = message.to_string();
    let _ = writeln!(io::stderr(), "sds-agent: {}", escape(&message));
}
