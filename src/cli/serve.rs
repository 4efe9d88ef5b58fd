//! `sds-agent serve`: the agent.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, bail};
use sds_agent::agent::{Agent, Command};
use sds_agent::config::{
    Config, ConfigError, DEFAULT_CONFIG, LogFilter, LogFormat, Overrides, parse_duration, parse_tcp,
};
use sds_agent::harden;
use sds_agent::listen::{Activation, ListenConfig, Listener};
use sds_agent::sds::access::{Access, Rules};
use sds_agent::sds::ledger::Ledger;
use sds_agent::sds::{server, service::Sds};
use sds_agent::store::Store;
use sds_agent::systemd::{self, Heart, Pulse};
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;
use tokio_util::task::AbortOnDropHandle;
use tracing::{error, info, warn};

use super::logging::{self, Levels};
use super::output;

const EXAMPLES: &str = "\
Examples:
  As the configuration says, or by the defaults
      sds-agent serve
  One folder of credential folders, a socket of one's own, every subscription logged
      sds-agent serve --credentials ./credentials --socket ./sds.sock --log-level debug
  The certificates of certbot beside those of the default folder
      sds-agent serve --credentials /etc/sds-agent/credentials --credentials /etc/letsencrypt/live
  Check a changed configuration, then take it over
      sds-agent serve --check-config && systemctl reload sds-agent

A credential folder is named like the host or secret that it is for, and holds a certificate chain
and its key, a bundle of CAs, or both: tls.crt, tls.key and ca.crt, or the names that certbot,
acme.sh, step, lego, cert-manager, Istio, Vault agent and spiffe-helper use.

Every option is a key of the configuration file, with `_` for `-`; the command line wins. SIGHUP
reads the file again, SIGTERM ends the agent.

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
}

/// Where the configuration comes from, now and at each reload.
struct Source {
    file: Option<PathBuf>,
    overrides: Overrides,
}

/// Checks the configuration or runs the agent until it is told to end.
pub(crate) fn run(args: Args) -> ExitCode {
    let check_only = args.check_config;
    let source = args.source();
    let config = match source.load() {
        Ok(config) if check_only => return good(&source, &config),
        Ok(config) => config,
        Err(error) if check_only => return output::bad(error),
        Err(error) => return output::fail(error),
    };
    let levels = logging::start(&config.log);
    match serve(&config, &source, &levels) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            error!("{error:#}");
            ExitCode::FAILURE
        }
    }
}

/// Says that the configuration is good, and what it amounts to where that may be a surprise.
fn good(source: &Source, config: &Config) -> ExitCode {
    let file = match &source.file {
        Some(file) => file.display().to_string(),
        None => format!("{DEFAULT_CONFIG} does not exist, the defaults hold"),
    };
    let missing = config.roots.iter().filter(|root| !root.path.is_dir());
    let missing = missing.map(|root| format!("note: {} does not exist yet\n", root.path.display()));
    output::print(format!("{}OK: {file}\n", missing.collect::<String>()).as_bytes())
}

impl Args {
    fn source(self) -> Source {
        // One that is there now must not be missing when it is read again: an editor may just be
        // replacing it, and without it every root would change.
        let usual = || Some(PathBuf::from(DEFAULT_CONFIG)).filter(|file| file.exists());
        Source {
            file: self.config.or_else(usual),
            overrides: Overrides {
                credentials: self.credentials,
                socket: self.socket,
                admin_socket: self.admin_socket,
                admin_tcp: self.admin_tcp,
                log_level: self.log_level,
                log_format: self.log_format,
                warn_days: self.warn_days,
                removal_delay: self.removal_delay,
            },
        }
    }
}

impl Source {
    fn load(&self) -> Result<Config, ConfigError> {
        Config::load(self.file.as_deref(), &self.overrides)
    }
}

fn serve(config: &Config, source: &Source, levels: &Levels) -> anyhow::Result<()> {
    // The environment that announces systemd's sockets is read before there are threads.
    let activation = Activation::from_env();
    harden::no_dumps();
    if config.lock_memory {
        harden::lock_memory()?;
    }
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .context("the asynchronous runtime can't start")?;
    let result = runtime.block_on(run_agent(config.clone(), source, levels, activation));
    // A read that hangs on a dead file system must not keep the process.
    runtime.shutdown_background();
    result
}

async fn run_agent(
    config: Config,
    source: &Source,
    levels: &Levels,
    mut activation: Activation,
) -> anyhow::Result<()> {
    let mut signals = Signals::new().context("signals can't be handled")?;
    let listener = listen(&config, &mut activation)?;
    let store = Arc::new(Store::default());
    let ledger = Arc::new(Ledger::default());
    let stopping = CancellationToken::new();
    let access = Arc::new(Access::new(Rules::resolve(&config)));
    let sds = Sds::new(
        store.clone(),
        ledger,
        access.clone(),
        config.limits,
        stopping.clone(),
    );

    let mut agent = Agent::new(config.clone(), store.clone());
    tokio::select! {
        () = agent.load() => {}
        () = signals.stop() => return Ok(()),
    }
    let heart = Arc::new(Heart::default());
    let (commands, inbox) = mpsc::channel(1);
    let pulse = heart.part("reader");
    let mut agent = tokio::spawn(async move { agent.run(inbox, pulse).await });
    let pulse = heart.part("server");
    info!(
        socket = %listener.path().display(),
        secrets = store.secrets().len(),
        version = sds_agent::VERSION,
        "serving"
    );
    systemd::ready("serving");
    let server = server::run(listener, sds, config.limits, stopping.clone(), pulse);
    let mut server = tokio::spawn(server);
    let store_moves = answer_for(heart.part("store"), store.clone());
    let _watchdog = AbortOnDropHandle::new(tokio::spawn(async move {
        tokio::join!(store_moves, systemd::feed_watchdog(&heart));
    }));

    let mut running = config;
    loop {
        tokio::select! {
            told = signals.next() => match told {
                Told::Stop => break,
                Told::Reload => {
                    running = reload(running, source, levels, &commands).await;
                    enforce(&access, &store, &running).await;
                    systemd::ready("serving");
                }
            },
            // Without one of them the agent would look alive and serve nothing new.
            ended = &mut agent => bail!("the task that reads the files has ended: {ended:?}"),
            ended = &mut server => bail!("the task that serves has ended: {ended:?}"),
        }
    }
    info!("stopping");
    systemd::stopping();
    stopping.cancel();
    drop(commands);
    let (server, agent) = tokio::join!(server, agent);
    server.and(agent).context("a task of the agent failed")
}

/// Takes over the socket that systemd holds, or makes it.
fn listen(config: &Config, activation: &mut Activation) -> anyhow::Result<Listener> {
    let listener = match activation.take(&config.listen.socket) {
        Some(socket) => Listener::adopt(socket)?,
        None => Listener::bind(&ListenConfig::resolve(&config.listen)?)?,
    };
    for path in activation.left() {
        warn!(
            socket = %path.display(),
            configured = %config.listen.socket.display(),
            "systemd holds a socket that is not the one of the configuration, and nobody answers \
             on it: make the paths the same"
        );
    }
    Ok(listener)
}

/// Reads the configuration again. A bad one is refused, and the old one stays.
async fn reload(
    running: Config,
    source: &Source,
    levels: &Levels,
    commands: &mpsc::Sender<Command>,
) -> Config {
    systemd::reloading();
    let config = match source.load() {
        Ok(new) => {
            let (config, changes) = running.reload(new);
            info!("reloaded: {changes}");
            if !changes.needs_restart.is_empty() {
                let keys = changes.needs_restart.join(" ");
                warn!("these keys stay as they were until a restart: {keys}");
            }
            config
        }
        Err(error) => {
            error!("the new configuration is refused, and the old one stays: {error}");
            running
        }
    };
    levels.set(&config.log.level);
    if commands
        .send(Command::Reload(Box::new(config.clone())))
        .await
        .is_err()
    {
        error!("the agent's task has ended");
    }
    config
}

/// Puts the rules of who may have what in force, for open streams too.
async fn enforce(access: &Access, store: &Store, config: &Config) {
    let config = config.clone();
    // The user database may be on the network.
    match tokio::task::spawn_blocking(move || Rules::resolve(&config)).await {
        Ok(rules) => access.replace(rules),
        Err(bug) => error!("the rules of access stay as they were: {bug}"),
    }
    store.wake_all();
}

/// Answers for the store: nobody holds its lock for good.
async fn answer_for(mut pulse: Pulse, store: Arc<Store>) {
    loop {
        pulse.beat_after(|| drop(store.get(""))).await;
    }
}

/// What the agent is told by signals.
struct Signals {
    terminate: Signal,
    interrupt: Signal,
    reload: Signal,
    /// A reload was asked for while the roots were read for the first time.
    reload_due: bool,
}

#[derive(PartialEq, Eq)]
enum Told {
    Stop,
    Reload,
}

impl Signals {
    fn new() -> std::io::Result<Self> {
        Ok(Self {
            terminate: signal(SignalKind::terminate())?,
            interrupt: signal(SignalKind::interrupt())?,
            reload: signal(SignalKind::hangup())?,
            reload_due: false,
        })
    }

    async fn next(&mut self) -> Told {
        if std::mem::take(&mut self.reload_due) {
            return Told::Reload;
        }
        self.signal().await
    }

    async fn signal(&mut self) -> Told {
        tokio::select! {
            _ = self.terminate.recv() => Told::Stop,
            _ = self.interrupt.recv() => Told::Stop,
            _ = self.reload.recv() => Told::Reload,
        }
    }

    /// Waits for the end; a reload is for later.
    async fn stop(&mut self) {
        while self.signal().await != Told::Stop {
            self.reload_due = true;
        }
    }
}
