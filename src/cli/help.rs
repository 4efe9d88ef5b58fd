//! Fits help to the terminal: descriptions beside or below their options, no single word on the last line of a
//! paragraph, and commands that can be copied as they are.

use std::process::ExitCode;

use clap::error::ErrorKind;
use clap::{Command, Error};

use super::output::{self, columns, filled};

/// Longer lines are hard to read.
const WIDEST: usize = 100;
/// The column of a description that does not fit beside its name.
const BELOW: usize = 10;
/// What lines with commands begin with. `-` is for examples that continue on another line.
const COMMANDS: [&str; 6] = ["sds-agent ", "openssl ", "curl ", "envoy ", "mkdir ", "-"];

/// The command line's definition, whose help is [fitted](fit) to the terminal here rather than by clap.
pub(crate) fn unwrapped(program: Command) -> Command {
    program
        .term_width(0)
        .mut_subcommands(|command| command.next_line_help(true))
}

/// Prints help, or what is wrong with the command line.
pub(crate) fn end(error: &Error) -> ExitCode {
    let is_help = error.kind() == ErrorKind::DisplayHelp;
    if !is_help {
        error.exit();
    }
    let text = error.render();
    let text = match output::colour() {
        true => text.ansi().to_string(),
        false => text.to_string(),
    };
    let width = output::width().map_or(WIDEST, |width| width.min(WIDEST));
    output::print(fit(&text, width).as_bytes())
}

fn fit(text: &str, width: usize) -> String {
    let mut goes_on = false;
    let lines = text.lines().map(|line| {
        let fitted = fit_line(line, goes_on, width);
        goes_on = line.ends_with('\\');
        fitted
    });
    lines.collect()
}

/// Fits a line. `goes_on` is set if it continues a command.
fn fit_line(line: &str, goes_on: bool, width: usize) -> String {
    if columns(line) <= width {
        return format!("{line}\n");
    }
    let text = line.trim_start_matches(' ');
    let indent = &line[..line.len() - text.len()];
    if !indent.is_empty() && (goes_on || COMMANDS.iter().any(|one| text.starts_with(one))) {
        let next = format!("{indent}    ");
        return filled(indent, &next, text, " \\", Some(width));
    }
    let Some((name, description)) = text.split_once("  ") else {
        return filled(indent, indent, text, "", Some(width));
    };
    // A name with its description beside it.
    let description = description.trim_start_matches(' ');
    let beside = &line[..line.len() - description.len()];
    let column = columns(beside);
    if column * 2 <= width {
        return filled(beside, &" ".repeat(column), description, "", Some(width));
    }
    let below = " ".repeat(BELOW);
    let description = filled(&below, &below, description, "", Some(width));
    format!("{indent}{name}\n{description}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_kind_of_line_is_broken_in_its_own_way() {
        for (line, expected) in [
            ("one two three four", "one two\nthree four\n"),
            ("  ab  cd efg hijk lm", "  ab  cd efg\n      hijk lm\n"),
            (
                "  sds-agent serve --socket a",
                "  sds-agent \\\n      serve \\\n      --socket a\n",
            ),
            (
                "  a-long-name  what it is for",
                "  a-long-name\n          what\n          it is\n          for\n",
            ),
        ] {
            assert_eq!(fit(line, 16), expected);
        }
    }
}
