//! `sds-agent serve`: the agent.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use sds_agent::agent::{Agent, Command};
use sds_agent::config::{
    Config, LogFilter, LogFormat, Overrides, parse_duration, parse_tcp,
};
use sds_agent::listen::{Activation, ListenConfig, Listener};
use sds_agent::sds::ledger::Ledger;
use sds_agent::sds::{server, service::Sds};
use sds_agent::store::Store;
use sds_agent::{harden, systemd};
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;
use tracing::{error, info};

use super::logging::{self, Levels};

/// The options of `serve`.
#[derive(clap::Args)]
pub(crate) struct Args {
    /// The configuration file [default: /etc/sds-agent/sds-agent.toml, if it exists]
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,

    /// Check the configuration, say what is wrong with it, and end: 0 it is good, 1 it is not
    #[arg(long)]
    check_config: bool,

    /// A folder of credential folders to watch; may be given several times, the first one that has
    /// a name wins [default: /etc/sds-agent/credentials]
    #[arg(long, value_name = "DIR")]
    credentials: Vec<PathBuf>,

    /// The Unix socket that Envoy connects to [default: /run/sds-agent/sds.sock]
    #[arg(long, value_name = "PATH")]
    socket: Option<PathBuf>,

    /// The Unix socket for status, metrics and health [default: admin.sock beside the socket]
    #[arg(long, value_name = "PATH")]
    admin_socket: Option<PathBuf>,

    /// A loopback address for metrics, health and the page [default: none]
    #[arg(long, value_name = "ADDRESS:PORT", value_parser = parse_tcp)]
    admin_tcp: Option<SocketAddr>,

    /// What is logged: a level, or levels by module as in `info,sds_agent::sds=debug`
    #[arg(long, value_name = "LEVEL", env = "RUST_LOG")]
    log_level: Option<LogFilter>,

    /// The form of a log line
    #[arg(long, value_enum, value_name = "FORMAT")]
    log_format: Option<LogFormat>,

    /// How long before its end a certificate is warned of, in days [default: 30]
    #[arg(long, value_name = "DAYS")]
    warn_days: Option<u32>,

    /// How long a folder must be gone before its secrets go too [default: 1s]
    #[arg(long, value_name = "TIME", value_parser = parse_duration)]
    removal_delay: Option<Duration>,
}

pub(crate) fn run(args: Args) -> ExitCode {
    let source = args.source();
    let config = match source.load() {
        Ok(config) => config,
        Err(error) => return super::fail(&error),
    };
    if args.check_config {
        return super::say("the configuration is good");
    }
    let levels = logging::start(&config.log);
    match serve(config, source, &levels) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            error!("{error:#}");
            ExitCode::FAILURE
        }
    }
}
