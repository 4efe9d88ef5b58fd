//! `sds-agent completions`: what a shell completes.

use std::process::ExitCode;

use clap::Command;
use clap_complete::Shell;

use super::output;

const EXAMPLES: &str = "\
Examples:
  bash    sds-agent completions bash > /usr/share/bash-completion/completions/sds-agent
  zsh     sds-agent completions zsh > /usr/share/zsh/site-functions/_sds-agent
  fish    sds-agent completions fish > ~/.config/fish/completions/sds-agent.fish
  this shell alone, bash
          source <(sds-agent completions bash)";

/// The options of `completions`.
#[derive(clap::Args)]
#[command(after_help = EXAMPLES)]
pub(crate) struct Args {
    /// The shell
    shell: Shell,
}

pub(crate) fn run(args: &Args, mut program: Command) -> ExitCode {
    let mut script = Vec::new();
    let name = program.get_name().to_owned();
    clap_complete::generate(args.shell, &mut program, name, &mut script);
    output::print(&script)
}
