//! `sds-agent serve`: the agent.

mod admin;
mod guard;
mod run;
mod signals;
mod source;

use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use sds_agent::config::{
    Config, DEFAULT_CONFIG, Layout, LogFilter, LogFormat, Overrides, Root, parse_duration,
    parse_tcp,
};
use sds_agent::harden;
use sds_agent::listen::Activation;
use sds_agent::logging::{self, Logging};
use tracing::error;

use self::source::Source;
use super::output;

const EXAMPLES: &str = "\
Examples:
  As the configuration says, or by the defaults
      sds-agent serve
  One folder of credential folders, a socket of one's own, every subscription logged
      sds-agent serve --credentials ./credentials --socket ./sds.sock --log-level debug
  The certificates of certbot beside those of the default folder
      sds-agent serve --credentials /etc/sds-agent/credentials --credentials /etc/letsencrypt/live
  Check a configuration before it takes its place
      sds-agent serve --check-config --config ./sds-agent.toml

A credential folder is named like the host or secret that it is for, and holds a certificate chain
and its key, a bundle of CAs, or both: tls.crt, tls.key and ca.crt, or the names that certbot,
acme.sh, step, lego, cert-manager, Istio, Vault agent and spiffe-helper use.

Every option is a key of the configuration file, with `_` for `-`; the command line wins. A changed
file is taken over when it is saved, and at SIGHUP; SIGTERM ends the agent.

Exit codes: 0 ended by a signal, or the configuration is good; 1 could not serve, or with
--check-config the configuration is bad; 2 wrong command line or configuration.";

/// The options of `serve`.
#[derive(clap::Args)]
#[command(after_help = EXAMPLES)]
pub(crate) struct Args {
    /// The configuration file [default: /etc/sds-agent/sds-agent.toml, if it exists]
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,

    /// Check the configuration, say what is wrong with it, and end
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
    #[arg(long, value_name = "DAYS", value_parser = clap::value_parser!(u32).range(0..=36_500))]
    warn_days: Option<u32>,

    /// How long a folder must be gone before its secrets go too [default: 1s]
    #[arg(long, value_name = "TIME", value_parser = parse_duration)]
    removal_delay: Option<Duration>,

    /// The credential that is served for hosts that none covers [default: none]
    #[arg(long, value_name = "NAME")]
    default_credential: Option<String>,
}

/// Checks the configuration or runs the agent until it is told to end.
pub(crate) fn run(args: Args) -> ExitCode {
    let check_only = args.check_config;
    let source = Arc::new(args.source());
    let config = match source.load() {
        Ok(config) if check_only => return good(&source, &config),
        Ok(config) => config,
        Err(error) if check_only => return output::bad(error),
        Err(error) => return output::fail(error),
    };
    let logging = logging::start(config.log.level.to_filter(), config.log.format, |_| true);
    match serve(&config, &source, &logging) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            error!("{error:#}");
            ExitCode::FAILURE
        }
    }
}

/// Says that the configuration is good, and what it amounts to where that may be a surprise.
fn good(source: &Source, config: &Config) -> ExitCode {
    let file = match source.file() {
        Some(file) => file.display().to_string(),
        None => format!("{DEFAULT_CONFIG} does not exist, the defaults hold"),
    };
    let is_missing = |root: &&Root| !matches!(root.layout, Layout::Named(_)) && !root.path.is_dir();
    let missing = config.roots.iter().filter(is_missing);
    let missing = missing.map(|root| format!("note: {} does not exist yet\n", root.path.display()));
    output::print(format!("{}OK: {file}\n", missing.collect::<String>()).as_bytes())
}

impl Args {
    fn source(self) -> Source {
        let overrides = Overrides {
            credentials: self.credentials,
            socket: self.socket,
            admin_socket: self.admin_socket,
            admin_tcp: self.admin_tcp,
            log_level: self.log_level,
            log_format: self.log_format,
            warn_days: self.warn_days,
            removal_delay: self.removal_delay,
            default_credential: self.default_credential,
        };
        Source::new(self.config, overrides)
    }
}

fn serve(config: &Config, source: &Arc<Source>, logging: &Logging) -> anyhow::Result<()> {
    // The environment that announces systemd's sockets is read before there are threads.
    let activation = Activation::from_env();
    logging.start_thread();
    harden::no_dumps();
    if config.lock_memory {
        harden::lock_memory()?;
    }
    // The files have a thread of their own: they don't wait until a flood of requests is worked off.
    let files = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(1)
        .thread_name("files")
        .enable_all()
        .build()
        .context("the asynchronous runtime can't start")?;
    let runtime = tokio::runtime::Builder::new_multi_thread()
        // Threads that are busy look for new connections and woken streams after so many tasks, by default
        // after 61.
        .global_queue_interval(5)
        .event_interval(5)
        .enable_all()
        .build()
        .context("the asynchronous runtime can't start")?;
    let result = runtime.block_on(run::run(
        config.clone(),
        source,
        logging,
        activation,
        files.handle(),
    ));
    // A read that hangs on a dead file system must not keep the process.
    runtime.shutdown_background();
    files.shutdown_background();
    result
}
