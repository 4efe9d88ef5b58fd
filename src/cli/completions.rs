//! Shell completion: the script for a shell, and the answers to the requests of that script.

use std::process::ExitCode;

use clap::{Command, Parser};
use clap_complete::Shell;
use clap_complete::engine::{ArgValueCandidates, CompletionCandidate};
use clap_complete::env::{CompleteEnv, Shells};
use sds_agent::admin::status::Status;

use super::client::{self, AdminSocket};
use super::output;

/// The environment variable through which a shell's script requests completions.
const VARIABLE: &str = "SDS_AGENT_COMPLETE";

const EXAMPLES: &str = "\
Examples:
  For every bash, zsh or fish
      sds-agent completions bash > /usr/share/bash-completion/completions/sds-agent
      sds-agent completions zsh > /usr/share/zsh/site-functions/_sds-agent
      sds-agent completions fish > ~/.config/fish/completions/sds-agent.fish
  For the current bash only
      source <(sds-agent completions bash)

Bash breaks words at a colon: to complete a name that has one, begin it with a quotation mark.";

/// The options of `completions`.
#[derive(clap::Args)]
#[command(after_help = EXAMPLES)]
pub(crate) struct Args {
    /// The shell
    shell: Shell,
}

/// The agent that is asked for names.
#[derive(Parser)]
struct Usual {
    #[command(flatten)]
    admin_socket: AdminSocket,
}

/// If a shell requests completions, prints them and ends the process.
pub(crate) fn answer(program: fn() -> Command) {
    CompleteEnv::with_factory(program).var(VARIABLE).complete();
}

pub(crate) fn run(args: &Args, program: &Command) -> ExitCode {
    let mut script = Vec::new();
    let name = program.get_name();
    let shells = Shells::builtins();
    let written = shells
        .completer(&args.shell.to_string())
        .map(|shell| shell.write_registration(VARIABLE, name, name, name, &mut script));
    match written {
        Some(Ok(())) => output::print(&script),
        Some(Err(error)) => output::fail(error),
        None => output::fail(format!("there is no completion for {}", args.shell)),
    }
}

/// The names of the secrets that the running agent serves.
pub(crate) fn secrets() -> ArgValueCandidates {
    ArgValueCandidates::new(|| {
        // No names if the agent can't be reached: a shell has no place to show the reason.
        let Some(status) = status() else {
            return Vec::new();
        };
        let names = status.report.secrets().map(|secret| &secret.name);
        names.map(CompletionCandidate::new).collect()
    })
}

fn status() -> Option<Status> {
    let usual = Usual::try_parse_from([""]).ok()?;
    let socket = usual.admin_socket.path().ok()?;
    client::block_on(client::status(&socket)).ok()?.ok()
}
