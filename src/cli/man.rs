//! `sds-agent man`: the manual pages.

use std::io;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::Command;
use clap_mangen::Man;
use clap_mangen::roff::{Roff, roman};

use super::output;

const EXAMPLES: &str = "\
Examples:
  sds-agent man | man -l -
  sds-agent man envoy-config | man -l -
  sds-agent man --dir /usr/local/share/man/man1";

/// The options of `man`.
#[derive(clap::Args)]
#[command(after_help = EXAMPLES)]
pub(crate) struct Args {
    /// The command that the page is about; without it, the program
    #[arg(value_name = "COMMAND")]
    command: Option<String>,

    /// Write the pages of the program and of all commands to this folder instead
    #[arg(long, value_name = "DIR", conflicts_with = "command")]
    dir: Option<PathBuf>,
}

pub(crate) fn run(args: Args, program: Command) -> ExitCode {
    // `help` needs no page.
    let mut program = program.disable_help_subcommand(true);
    // Gives each command the name that its page has: `sds-agent-serve`.
    program.build();
    let done = match (args.dir, args.command) {
        (Some(dir), _) => return write_all(&program, &dir),
        (None, None) => page(&program, &program),
        (None, Some(name)) => match program.find_subcommand(&name) {
            Some(command) => page(&program, command),
            None => {
                return output::fail(format_args!(
                    "there is no command `{name}`; see sds-agent --help"
                ));
            }
        },
    };
    match done {
        Ok(page) => output::print(&page),
        Err(error) => output::fail(error),
    }
}

/// The exit status of commands that do not describe their own.
const EXIT_STATUS: &str = "0 success; 2 it failed, or the command line is wrong.";
const FILES: &str = "/etc/sds-agent/sds-agent.toml     the configuration file (optional)";

/// The page of `program`, or of one of its commands. Text below the options keeps its line breaks, which
/// clap_mangen would remove.
fn page(program: &Command, command: &Command) -> io::Result<Vec<u8>> {
    let man = Man::new(command.clone())
        .source(format!("sds-agent {}", sds_agent::VERSION))
        .manual("sds-agent");
    let mut page = Vec::new();
    man.render_title(&mut page)?;
    man.render_name_section(&mut page)?;
    man.render_synopsis_section(&mut page)?;
    man.render_description_section(&mut page)?;
    man.render_options_section(&mut page)?;
    if command.has_subcommands() {
        man.render_subcommands_section(&mut page)?;
    }
    for (name, text) in sections(program, command) {
        let mut section = Roff::new();
        section.control("SH", [name]).control("nf", []);
        section.text([roman(text)]).control("fi", []);
        section.to_writer(&mut page)?;
    }
    Ok(page)
}

/// The sections after the options, in the usual order.
fn sections(program: &Command, command: &Command) -> Vec<(&'static str, String)> {
    let below = command.get_after_long_help().or(command.get_after_help());
    let below = below.map(ToString::to_string).unwrap_or_default();
    let mut notes = Vec::new();
    let (mut examples, mut files, mut status) = (Vec::new(), None, None);
    for paragraph in below.split("\n\n") {
        if let Some(text) = paragraph.strip_prefix("Exit codes: ") {
            status = Some(text.to_owned());
        } else if let Some(text) = paragraph.strip_prefix("Files:\n") {
            files = Some(text.to_owned());
        } else if let Some(text) = paragraph.strip_prefix("Examples:\n") {
            examples.push(text);
        } else if paragraph.starts_with("A first try:") {
            examples.push(paragraph);
        } else {
            notes.push(paragraph);
        }
    }
    let takes_config = command.get_arguments().any(|arg| arg.get_id() == "config");
    let files = files.or_else(|| takes_config.then(|| format!("  {FILES}")));
    let sections = [
        ("NOTES", notes.join("\n\n")),
        (
            "EXIT STATUS",
            status.unwrap_or_else(|| EXIT_STATUS.to_owned()),
        ),
        ("FILES", files.unwrap_or_default()),
        ("ENVIRONMENT", environment(command)),
        ("EXAMPLES", examples.join("\n\n")),
        ("SEE ALSO", see_also(program, command)),
    ];
    let sections = sections.into_iter();
    sections.filter(|(_, text)| !text.is_empty()).collect()
}

/// The environment variables that set options.
fn environment(command: &Command) -> String {
    let variable = |arg: &clap::Arg| {
        let name = arg.get_env()?.to_string_lossy().into_owned();
        let option = arg.get_long()?;
        Some(format!(
            "{name}\n    the value of --{option}, if that is not given"
        ))
    };
    let variables: Vec<_> = command.get_arguments().filter_map(variable).collect();
    variables.join("\n")
}

/// The other pages.
fn see_also(program: &Command, command: &Command) -> String {
    let commands = program.get_subcommands().filter(|one| !one.is_hide_set());
    let names = std::iter::once(program).chain(commands).map(page_name);
    let own = page_name(command);
    let others: Vec<_> = names
        .filter(|name| *name != own)
        .map(|name| format!("{name}(1)"))
        .collect();
    others.join(", ")
}

fn page_name(command: &Command) -> &str {
    command.get_display_name().unwrap_or(command.get_name())
}

fn write_all(program: &Command, dir: &Path) -> ExitCode {
    let commands = program
        .get_subcommands()
        .filter(|command| !command.is_hide_set());
    for command in std::iter::once(program).chain(commands) {
        let path = dir.join(format!("{}.1", page_name(command)));
        if let Err(error) = page(program, command).and_then(|page| std::fs::write(&path, page)) {
            return output::fail(format_args!(
                "{}: {error}; name a folder that exists and that you may write to",
                path.display()
            ));
        }
    }
    ExitCode::SUCCESS
}
