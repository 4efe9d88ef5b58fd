//! A terminal of a chosen width.

use std::path::Path;
use std::process::{Command, Output, Stdio};

use super::agent::PROGRAM;

/// Runs the program on a terminal with this number of columns, without colours. Its output is in `stdout`.
pub(crate) fn run(columns: u16, arguments: &[&str]) -> Output {
    command(columns)
        .args(arguments)
        .env("NO_COLOR", "1")
        .output()
        .unwrap()
}

/// The program on a terminal with this number of columns.
pub(crate) fn command(columns: u16) -> Command {
    let mut command = Command::new("python3");
    command
        .args([
            "-c",
            "import os, pty, sys; sys.exit(os.waitstatus_to_exitcode(pty.spawn(sys.argv[1:])))",
            "sh",
            "-c",
            &format!("stty rows 50 cols {columns} && exec \"$@\""),
            "sh",
        ])
        .arg(Path::new(PROGRAM))
        .stdin(Stdio::null());
    command
}

/// What was printed, as lines.
pub(crate) fn lines(output: &Output) -> Vec<String> {
    let text = String::from_utf8(output.stdout.clone()).unwrap();
    text.lines()
        .map(|line| line.trim_end().to_owned())
        .collect()
}

/// Fails if a line with several words is longer than the terminal is wide, or if a paragraph ends with a single
/// short word on its last line.
#[track_caller]
pub(crate) fn assert_fits(lines: &[String], columns: usize) {
    for line in lines {
        let is_one_word = !line.trim_start().contains(' ');
        assert!(
            line.chars().count() <= columns || is_one_word,
            "longer than {columns} columns: {line}\n{}",
            lines.join("\n")
        );
    }
}
