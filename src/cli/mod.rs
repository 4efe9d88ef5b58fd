//! The command line: one file for each command.

mod check;
mod client;
mod completions;
mod envoy_config;
mod get;
mod help;
mod man;
mod output;
mod probe;
mod report;
mod serve;
mod status;
mod ticket_keys;

use std::process::ExitCode;

use clap::{CommandFactory, FromArgMatches, Parser, Subcommand};

const ABOUT: &str = "Watches folders of PEM files and serves them to Envoy over a Unix socket, as \
its Secret Discovery Service (SDS). A certificate that is replaced on disk reaches Envoy within \
milliseconds, without a restart or a reload; one that Envoy would reject is not sent, and the \
previous version stays in service.";

const EXAMPLES: &str = "\
A first try:
  mkdir -p /tmp/sds/credentials/localhost && cd /tmp/sds
  openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -subj /CN=localhost \\
      -addext subjectAltName=DNS:localhost -days 7 \\
      -keyout credentials/localhost/tls.key -out credentials/localhost/tls.crt
  sds-agent serve --credentials credentials --socket sds.sock &
  sds-agent envoy-config localhost --full --socket sds.sock > envoy.yaml
  envoy -c envoy.yaml &
  curl --cacert credentials/localhost/tls.crt https://localhost:18443/

Files:
  /etc/sds-agent/sds-agent.toml     the configuration file (optional)
  /etc/sds-agent/credentials/       the folder of credential folders
  /run/sds-agent/sds.sock           the socket for Envoy
  /run/sds-agent/admin.sock         the socket for status, metrics and health";

/// Serves folders of PEM files to Envoy as SDS secrets
#[derive(Parser)]
#[command(version = sds_agent::BUILD, about, long_about = ABOUT, after_long_help = EXAMPLES)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Watch credential folders and serve them to Envoy
    Serve(Box<serve::Args>),
    /// Check credential folders, and report what is wrong with them
    Check(check::Args),
    /// Show what the running agent serves, with subscribers and expiry
    Status(status::Args),
    /// Fetch a secret from the running agent, as Envoy would
    Get(get::Args),
    /// Check that TLS listeners present the certificates that the agent serves
    Probe(probe::Args),
    /// Write the Envoy configuration that goes with the agent
    EnvoyConfig(envoy_config::Args),
    /// Make and rotate TLS session ticket keys
    TicketKeys(ticket_keys::Args),
    /// Write a script that lets a shell complete this program's commands and options
    Completions(completions::Args),
    /// Write the manual pages
    Man(man::Args),
}

/// Runs the command that the command line names.
pub(crate) fn run() -> ExitCode {
    completions::answer(Cli::command);
    let matches = help::unwrapped(Cli::command()).try_get_matches();
    let cli = match matches.and_then(|matches| Cli::from_arg_matches(&matches)) {
        Ok(cli) => cli,
        Err(error) => return help::end(&error),
    };
    match cli.command {
        Command::Serve(args) => serve::run(*args),
        Command::Check(args) => check::run(args),
        Command::Status(args) => status::run(args),
        Command::Get(args) => get::run(args),
        Command::Probe(args) => probe::run(args),
        Command::EnvoyConfig(args) => envoy_config::run(args),
        Command::TicketKeys(args) => ticket_keys::run(args),
        Command::Completions(args) => completions::run(&args, &Cli::command()),
        Command::Man(args) => man::run(args, Cli::command()),
    }
}
