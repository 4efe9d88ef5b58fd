//! `sds-agent serve`: the agent.

mod admin;
mod check;
mod guard;
mod run;
mod signals;
mod source;

use std::io;
use std::process::ExitCode;
use std::sync::Arc;

use anyhow::Context;
use sds_agent::config::{Config, Options};
use sds_agent::harden;
use sds_agent::listen::Activation;
use sds_agent::logging::{self, Logging};
use sds_agent::sds::threads::Threads;
use tokio::runtime::{Builder, Runtime};
use tracing::{error, warn};

use self::source::Source;
use super::client::ConfigFile;
use super::output;

const EXAMPLES: &str = "\
Examples:
  With the configuration file, or the defaults where there is none
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
file is applied when it is saved, and at SIGHUP; SIGTERM stops the agent.

Exit codes: 0 ended by a signal, or the configuration is good; 1 could not serve, or with
--check-config the configuration is bad; 2 wrong command line or configuration, or with
--check-config this user is not allowed to read the file.";

/// The options of `serve`.
#[derive(clap::Args)]
#[command(after_help = EXAMPLES)]
pub(crate) struct Args {
    #[command(flatten)]
    file: ConfigFile,

    /// Check the configuration, report what is wrong with it, and exit
    #[arg(long)]
    check_config: bool,

    #[command(flatten)]
    options: Options,
}

/// Checks the configuration, or runs the agent until it is asked to stop.
pub(crate) fn run(args: Args) -> ExitCode {
    let check_only = args.check_config;
    let source = Arc::new(Source::new(args.file.config, args.options));
    let config = match source.load() {
        Ok(config) if check_only => return check::run(&source, &config),
        Ok(config) => config,
        // An unreadable configuration may be valid or not.
        Err(error) if error.is_unreadable(io::ErrorKind::PermissionDenied) => {
            return output::fail(error);
        }
        Err(error) if check_only => return output::bad(error),
        Err(error) => return output::fail(error),
    };
    let logging = logging::start(config.log.level.to_filter(), config.log.format, |_| true);
    config
        .warnings
        .iter()
        .for_each(|warning| warn!("{warning}"));
    match serve(&config, &source, &logging) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            error!("{error:#}");
            ExitCode::FAILURE
        }
    }
}

fn serve(config: &Config, source: &Arc<Source>, logging: &Logging) -> anyhow::Result<()> {
    check::no_proc().map_or(Ok(()), |why| Err(anyhow::Error::msg(why)))?;
    // The environment that announces systemd's sockets is read before there are threads.
    let activation = Activation::from_env();
    logging.start_thread();
    harden::no_dumps();
    if config.lock_memory {
        harden::lock_memory()?;
    }
    // Files have a thread of their own, so that a flood of requests does not delay rotations.
    let files = runtime("files")?;
    let threads = Threads::start().context("the threads of connections can't start")?;
    let main = runtime("main")?;
    let result = main.block_on(run::run(
        config.clone(),
        source,
        logging,
        activation,
        files.handle(),
        threads,
    ));
    // A read that hangs on a dead file system must not keep the process.
    main.shutdown_background();
    files.shutdown_background();
    result
}

/// A runtime with one thread, and those that it starts for blocking calls.
fn runtime(name: &str) -> anyhow::Result<Runtime> {
    Builder::new_multi_thread()
        .worker_threads(1)
        .thread_name(name)
        .enable_all()
        .build()
        .context("the asynchronous runtime can't start")
}
