//! Output of the commands.

use std::fmt;
use std::io::{self, IsTerminal, Write};
use std::process::ExitCode;

use rustix::termios::tcgetwinsize;
use sds_agent::text::escape;

/// The exit code of a command that failed. clap uses the same one for a wrong command line.
pub(crate) const COULD_NOT: u8 = 2;

/// Writes `bytes` to standard output. A broken pipe is not an error.
pub(crate) fn print(bytes: &[u8]) -> ExitCode {
    let mut out = io::stdout().lock();
    match out.write_all(bytes).and_then(|()| out.flush()) {
        Err(error) if error.kind() != io::ErrorKind::BrokenPipe => {
            fail(format_args!("can't write to standard output: {error}"))
        }
        _ => ExitCode::SUCCESS,
    }
}

/// Reports why the command failed.
pub(crate) fn fail(message: impl fmt::Display) -> ExitCode {
    say(message);
    ExitCode::from(COULD_NOT)
}

/// Reports a problem in what the command checks.
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

/// The width of the terminal, if standard output is a terminal that reports one.
pub(crate) fn width() -> Option<usize> {
    let size = tcgetwinsize(io::stdout()).ok()?;
    Some(usize::from(size.ws_col)).filter(|columns| *columns > 0)
}

/// Breaks a line between words into lines of at most `width` columns. All but the first are indented by four more
/// columns.
pub(crate) fn wrapped(line: &str, width: Option<usize>) -> String {
    let indent = line.len() - line.trim_start().len();
    let (first, next) = (" ".repeat(indent), " ".repeat(indent + 4));
    filled(&first, &next, line.trim_start(), "", width)
}

/// Breaks text between words into lines of at most `width` columns. The first line begins with `first`, the others
/// with `next`; all but the last end with `joint`. A longer word is not split. The last line has more than one word
/// if the line before it can spare one. Escape sequences take no columns.
pub(crate) fn filled(
    first: &str,
    next: &str,
    text: &str,
    joint: &str,
    width: Option<usize>,
) -> String {
    let words: Vec<&str> = text.split(' ').collect();
    let taken = |words: &[&str]| words.iter().map(|word| 1 + columns(word)).sum::<usize>();
    let fits = |from: usize, to: usize, joint: &str| {
        let indent = columns(if from == 0 { first } else { next });
        let needed = indent + taken(&words[from..to]) - 1 + columns(joint);
        width.is_none_or(|width| needed <= width)
    };
    let mut starts = vec![0];
    for to in 1..words.len() {
        let from = starts[starts.len() - 1];
        let joint = if to + 1 == words.len() { "" } else { joint };
        if !fits(from, to + 1, joint) {
            starts.push(to);
        }
    }
    if let [.., before, last] = starts[..]
        && last + 1 == words.len()
        && last - before > 2
        && fits(last - 1, words.len(), "")
    {
        starts.pop();
        starts.push(last - 1);
    }
    let ends = starts.iter().skip(1).copied().chain([words.len()]);
    let lines = starts.iter().zip(ends).map(|(&from, to)| {
        let indent = if from == 0 { first } else { next };
        let joint = if to == words.len() { "" } else { joint };
        format!("{indent}{}{joint}\n", words[from..to].join(" "))
    });
    lines.collect()
}

/// How many columns of a terminal a text takes. Escape sequences, as clap and the tables have them, end with
/// the letter `m`.
pub(crate) fn columns(text: &str) -> usize {
    let mut pieces = text.split('\x1b');
    let before = pieces.next().unwrap_or_default().chars().count();
    let after = pieces.map(|piece| piece.split_once('m').map_or(piece, |(_, rest)| rest));
    before + after.map(|piece| piece.chars().count()).sum::<usize>()
}

/// Writes a message to standard error.
pub(crate) fn say(message: impl fmt::Display) {
    // If standard error is closed, there is nowhere to report that.
    let message = message.to_string();
    let _ = writeln!(io::stderr(), "sds-agent: {}", escape(&message));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_is_broken_only_between_words_and_the_rest_is_indented() {
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
        assert_eq!(
            filled("a ", "  ", "b c d", " \\", Some(6)),
            "a b \\\n  c d\n"
        );
    }

    #[test]
    fn the_last_line_has_a_single_word_only_if_there_is_none_to_spare() {
        assert_eq!(
            wrapped("one two three four", Some(14)),
            "one two\n    three four\n"
        );
        assert_eq!(wrapped("one two three", Some(7)), "one two\n    three\n");
        assert_eq!(
            wrapped("one two three-and-four five", Some(22)),
            "one two three-and-four\n    five\n"
        );
    }

    #[test]
    fn escape_sequences_take_no_columns() {
        assert_eq!(columns("\x1b[1mone\x1b[0m two"), 7);
    }
}
