//! The command line: a file a command.

mod serve;

use std::process::ExitCode;

use clap::{Parser, Subcommand};

/// Serves folders of PEM files to Envoy as SDS secrets.
#[derive(Parser)]
#[command(version, about, max_term_width = 100)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Watch credential folders and serve them to Envoy.
    Serve(serve::Args),
}

/// Runs the command that the command line names.
pub(crate) fn run() -> ExitCode {
    match Cli::parse().command {
        Command::Serve(args) => serve::run(args),
    }
}
