//! `sds-agent serve`: the agent.

use std::path::PathBuf;
use std::process::ExitCode;

use sds_agent::config::{Config, DEFAULT_CREDENTIALS, DEFAULT_SOCKET, Listen, Root};

/// The options of `serve`.
#[derive(clap::Args)]
pub(crate) struct Args {
    /// A folder of credential folders to watch; may be given several times, the first one that has
    /// a name wins
    #[arg(long, value_name = "DIR", default_value = DEFAULT_CREDENTIALS)]
    credentials: Vec<PathBuf>,

    /// The Unix socket that Envoy connects to
    #[arg(long, value_name = "PATH", default_value = DEFAULT_SOCKET)]
    socket: PathBuf,
}

pub(crate) fn run(args: Args) -> ExitCode {
    let _config = Config {
        roots: args.credentials.into_iter().map(Root::new).collect(),
        listen: Listen {
            socket: args.socket,
            ..Listen::default()
        },
        ..Config::default()
    };
    ExitCode::SUCCESS
}
