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
        (None, None) => page(&program),
        (None, Some(name)) => match program.find_subcommand(&name) {
            Some(command) => page(command),
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

/// The page of one command. Its examples keep their lines, which clap_mangen would fill.
fn page(command: &Command) -> io::Result<Vec<u8>> {
    let examples = command.get_after_long_help().or(command.get_after_help());
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
    if let Some(examples) = examples {
        let mut section = Roff::new();
        section.control("SH", ["NOTES"]).control("nf", []);
        section
            .text([roman(examples.to_string())])
            .control("fi", []);
        section.to_writer(&mut page)?;
    }
    Ok(page)
}

fn write_all(program: &Command, dir: &Path) -> ExitCode {
    let commands = program
        .get_subcommands()
        .filter(|command| !command.is_hide_set());
    for command in std::iter::once(program).chain(commands) {
        let name = command.get_display_name().unwrap_or(command.get_name());
        let path = dir.join(format!("{name}.1"));
        if let Err(error) = page(command).and_then(|page| std::fs::write(&path, page)) {
            return output::fail(format_args!(
                "{}: {error}; name a folder that exists and that you may write to",
                path.display()
            ));
        }
    }
    ExitCode::SUCCESS
}
