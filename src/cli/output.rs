//! What a command prints.

use std::fmt;
use std::io::{self, IsTerminal, Write};
use std::process::ExitCode;

use rustix::termios::tcgetwinsize;
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

/// Reports why the command could not do what it was asked to.
pub(crate) fn fail(message: impl fmt::Display) -> ExitCode {
    say(message);
    ExitCode::from(COULD_NOT)
}

/// Reports what is wrong with what the command was asked to check.
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

/// The columns of the terminal that the standard output is, if it is one and has a size.
pub(crate) fn width() -> Option<usize> {
    let size = tcgetwinsize(io::stdout()).ok()?;
    Some(usize::from(size.ws_col)).filter(|columns| *columns > 0)
}

/// A line as lines of at most `width` columns, broken between words alone; those after the first are
/// indented by four columns more than the first. A word that is longer stays in one piece.
pub(crate) fn wrapped(line: &str, width: Option<usize>) -> String {
    let indent = line.len() - line.trim_start().len();
    let mut text = " ".repeat(indent);
    let (mut column, mut is_first) = (indent, true);
    for word in line.trim_start().split(' ') {
        let length = word.chars().count();
        let fits = width.is_none_or(|width| column + 1 + length <= width);
        match (is_first, fits) {
            (true, _) => {}
            (false, true) => text.push(' '),
            (false, false) => {
                text.push('\n');
                text.push_str(&" ".repeat(indent + 4));
                column = indent + 3;
            }
        }
        text.push_str(word);
        column += length + usize::from(!is_first);
        is_first = false;
    }
    text + "\n"
}

/// Writes a message to the standard error.
pub(crate) fn say(message: impl fmt::Display) {
    // Where the standard error is closed there is nowhere to report to.
    let message = message.to_string();
    let _ = writeln!(io::stderr(), "sds-agent: {}", escape(&message));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_is_broken_between_words_alone_and_what_follows_is_indented() {
        assert_eq!(wrapped("one two", None), "one two\n");
        assert_eq!(
            wrapped("  one two three", Some(10)),
            "  one two\n      three\n"
        );
        assert_eq!(
            wrapped("a host.example.com b", Some(8)),
            "a\n    host.example.com\n    b\n"
        );
        assert_eq!(wrapped("", Some(8)), "\n");
    }
}
