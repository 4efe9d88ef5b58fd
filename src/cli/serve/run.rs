//! Runs the agent: starts its parts in order, reloads the configuration, and stops.

use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, anyhow, bail};
use sds_agent::admin::health::{Health, Phase};
use sds_agent::agent::{Agent, Command};
use sds_agent::config::{Changes, Config, Reload};
use sds_agent::files::follow::Follow;
use sds_agent::listen::{Activation, ListenConfig, Listener};
use sds_agent::logging::Logging;
use sds_agent::metrics::Metrics;
use sds_agent::peer::Accounts;
use sds_agent::pool::Pool;
use sds_agent::sds::access::Rules;
use sds_agent::sds::hub::Hub;
use sds_agent::sds::ledger::Ledger;
use sds_agent::sds::threads::Threads;
use sds_agent::sds::{server, service::Sds};
use sds_agent::systemd::{self, Heartbeat, Liveness};
use tokio::runtime::Handle;
use tokio::sync::{mpsc, oneshot};
use tokio_util::sync::CancellationToken;
use tokio_util::task::AbortOnDropHandle;
use tracing::{error, info, warn};

use super::admin;
use super::guard::Guard;
use super::signals::{Request, Signals};
use super::source::{Cause, Source};

/// How long to wait for the end of a reload: its roots may be on a network file system that is down.
const READING: Duration = Duration::from_secs(30);
/// How long to wait for the task that reads the files when the agent stops.
const STOPPING: Duration = Duration::from_secs(2);
/// How long the user database may take before the log says that the agent waits for it.
const PATIENCE: Duration = Duration::from_secs(5);

/// What the parts of a running agent share.
pub(super) struct Shared {
    pub(super) config: Config,
    pub(super) hub: Arc<Hub>,
    pub(super) ledger: Arc<Ledger>,
    pub(super) metrics: Arc<Metrics>,
    pub(super) health: Arc<Health>,
    pub(super) stopping: CancellationToken,
    pub(super) accounts: Arc<Accounts>,
    pub(super) sds: Sds,
    /// Reads the configuration, and asks the user database.
    pub(super) pool: Pool,
    threads: Arc<Threads>,
    liveness: Arc<Liveness>,
}

/// Runs the agent until it is asked to stop.
pub(super) async fn run(
    config: Config,
    source: &Arc<Source>,
    logging: &Logging,
    mut activation: Activation,
    files: &Handle,
    threads: Threads,
) -> anyhow::Result<()> {
    let mut signals = Signals::new().context("signals can't be handled")?;
    let pool = Pool::new("configuration", 1);
    let resolved = tokio::select! {
        resolved = Resolved::look_up(&config, &pool) => resolved?,
        () = signals.stop() => return Ok(()),
    };
    let listener = listen(&config, resolved.listen, &mut activation)?;
    let (shared, mut agent) = Shared::new(config, resolved.rules, pool, threads);
    agent.restore(activation.take_stored());
    logging.count_lost(shared.metrics.log_lines_lost());
    // Started before anything is read, so that it can report what the agent waits for.
    let admin = admin::start(&shared, resolved.admin, &agent, source, &listener).await?;
    let (agent, loaded) = Running::start(agent, shared.liveness.clone(), files);
    let result = tokio::select! {
        loaded = loaded => match loaded {
            Ok(()) => serve(&shared, agent, listener, source, logging, signals).await,
            Err(_) => Err(anyhow!("the task that reads the files has ended")),
        },
        () = signals.stop() => Ok(()),
    };
    shared.stopping.cancel();
    admin.wait().await;
    result
}

/// The task that reads the files.
struct Running {
    task: AbortOnDropHandle<()>,
    commands: mpsc::Sender<Command>,
}

impl Running {
    /// Starts it; the receiver completes when everything has been read once.
    fn start(
        mut agent: Agent,
        liveness: Arc<Liveness>,
        files: &Handle,
    ) -> (Self, oneshot::Receiver<()>) {
        let (commands, inbox) = mpsc::channel(1);
        let (loaded, is_loaded) = oneshot::channel();
        let task = files.spawn(async move {
            agent.load().await;
            let heartbeat = liveness.part("watcher");
            let _ = loaded.send(());
            agent.run(inbox, heartbeat).await;
        });
        let task = AbortOnDropHandle::new(task);
        (Self { task, commands }, is_loaded)
    }
}

/// The parts of the configuration that depend on the user database, which may be slow.
struct Resolved {
    listen: ListenConfig,
    admin: Option<ListenConfig>,
    rules: Rules,
}

impl Resolved {
    /// Waits for the user database. Without it, secrets that a client is allowed to read would be reported as
    /// nonexistent.
    async fn look_up(config: &Config, pool: &Pool) -> anyhow::Result<Self> {
        let config = config.clone();
        let mut resolved = pin!(pool.run(move || Self::of(&config)));
        loop {
            match tokio::time::timeout(PATIENCE, resolved.as_mut()).await {
                Ok(resolved) => return resolved.context("users and groups can't be looked up")?,
                Err(_) => warn!(
                    "waiting for the user database, which does not answer; see `getent group` and \
                     /etc/nsswitch.conf"
                ),
            }
        }
    }

    fn of(config: &Config) -> anyhow::Result<Self> {
        let admin = config.admin.socket.as_deref();
        let admin = admin.map(|path| ListenConfig::admin(path, &config.admin));
        Ok(Self {
            listen: ListenConfig::resolve(&config.listen)?,
            admin: admin.transpose().context("admin.group")?,
            rules: Rules::resolve(config),
        })
    }
}

impl Shared {
    fn new(config: Config, rules: Rules, pool: Pool, threads: Threads) -> (Self, Agent) {
        let metrics = Arc::new(Metrics::default());
        let hub = Arc::<Hub>::default();
        let liveness = Arc::<Liveness>::default();
        let agent = Agent::new(config.clone(), rules, hub.clone(), metrics.clone());
        let ledger = Arc::new(Ledger::new(metrics.clone()));
        let stopping = CancellationToken::new();
        let sds = Sds::new(hub.clone(), ledger.clone(), config.limits, stopping.clone());
        let shared = Self {
            ledger,
            metrics,
            health: Arc::new(Health::new(hub.clone(), liveness.clone())),
            hub,
            stopping,
            accounts: Arc::default(),
            sds,
            pool,
            threads: Arc::new(threads),
            liveness,
            config,
        };
        (shared, agent)
    }
}

/// Serves until it is asked to stop, or a part of the agent has ended.
async fn serve(
    shared: &Shared,
    agent: Running,
    listener: Listener,
    source: &Arc<Source>,
    logging: &Logging,
    mut signals: Signals,
) -> anyhow::Result<()> {
    let Running {
        task: mut agent,
        commands,
    } = agent;
    info!(
        socket = %listener.path().display(),
        secrets = shared.hub.current().snapshot.secret_count(),
        version = sds_agent::VERSION,
        "serving"
    );
    let mut server = tokio::spawn(shared.server(listener));
    let _watchdog = shared.watchdog();
    shared.health.enter(Phase::Serving);
    systemd::ready(&status(&shared.hub));

    let mut running = shared.config.clone();
    let mut guard = Guard::new(shared);
    let mut follow = source.follow(&running);
    // The file may have changed since it was read.
    let mut cause = follow.is_some().then_some(Cause::File);
    loop {
        if let Some(cause) = cause.take() {
            let reload = shared.reload(&running, cause, source, logging, &commands);
            let config = tokio::select! {
                config = reload => config,
                // A reload may take long, and must not delay the end.
                () = signals.stop() => break,
            };
            if let Some(config) = config {
                running = config;
                guard.configure(&running);
            }
            match running.reload {
                Reload::Auto if follow.is_some() => {}
                Reload::Auto | Reload::Signal => follow = source.follow(&running),
            }
        }
        tokio::select! {
            request = signals.next() => match request {
                Request::Stop => break,
                Request::Reload => cause = Some(Cause::Signal),
            },
            () = changed(follow.as_ref()) => cause = Some(Cause::File),
            () = guard.watch() => {}
            // Without one of these tasks, the agent would seem healthy but serve nothing new.
            ended = &mut agent => bail!("the task that reads the files has ended: {ended:?}"),
            ended = &mut server => bail!("the task that serves has ended: {ended:?}"),
        }
    }
    info!("stopping");
    systemd::stopping();
    shared.health.enter(Phase::Stopping);
    shared.stopping.cancel();
    drop(commands);
    let server = server.await;
    match tokio::time::timeout(STOPPING, agent).await {
        Ok(agent) => server.and(agent).context("a task of the agent failed"),
        // The task may be reading from a network file system that is down.
        Err(_) => server.context("the task that serves failed"),
    }
}

impl Shared {
    /// Serves Envoy until the agent stops.
    fn server(&self, listener: Listener) -> impl Future<Output = ()> + use<> {
        let heartbeat = self.liveness.part("server");
        server::run(
            listener,
            self.threads.clone(),
            self.accounts.clone(),
            self.sds.clone(),
            self.config.limits,
            self.stopping.clone(),
            heartbeat,
        )
    }

    /// Feeds systemd's watchdog while every part of the agent reports progress.
    fn watchdog(&self) -> AbortOnDropHandle<()> {
        let liveness = self.liveness.clone();
        let (hub, threads) = (self.hub.clone(), self.threads.clone());
        AbortOnDropHandle::new(tokio::spawn(async move {
            tokio::join!(
                // The hub makes progress if its locks can be taken.
                answer_after(liveness.part("hub"), || async { drop(hub.current()) }),
                answer_after(liveness.part("connection loop"), || threads.progress()),
                systemd::feed_watchdog(&liveness),
            );
        }))
    }

    /// Reads the configuration again, applies it and logs the changes. An invalid configuration is refused, and the
    /// previous one stays in effect. `None` if the file has not changed.
    async fn reload(
        &self,
        running: &Config,
        cause: Cause,
        source: &Arc<Source>,
        logging: &Logging,
        commands: &mpsc::Sender<Command>,
    ) -> Option<Config> {
        let source = source.clone();
        // The file may be on a file system that hangs.
        let loaded = self.pool.run(move || source.reload(cause)).await;
        let loaded = loaded.flatten()?;
        self.metrics.config_reloaded(loaded.is_ok());
        self.health
            .config_reloaded(loaded.as_ref().err().map(ToString::to_string));
        systemd::reloading();
        let config = match loaded {
            Ok(new) => {
                let (config, changes) = running.reload(new);
                self.put_in_force(&config, commands).await;
                log_changes(&changes);
                config
                    .warnings
                    .iter()
                    .for_each(|warning| warn!("{warning}"));
                // Last, so that the changes are logged even if the new level is quieter.
                logging.set(config.log.level.to_filter());
                config
            }
            Err(error) => {
                error!("the new configuration was refused; still using the previous one: {error}");
                // A signal reopens every root in any case.
                if cause == Cause::Signal {
                    self.put_in_force(running, commands).await;
                }
                running.clone()
            }
        };
        systemd::ready(&status(&self.hub));
        Some(config)
    }

    /// Applies a configuration, with the current group memberships, and waits until all of it is in effect.
    async fn put_in_force(&self, config: &Config, commands: &mpsc::Sender<Command>) {
        let resolving = config.clone();
        // The user database may be on the network.
        let Some(rules) = self.pool.run(move || Rules::resolve(&resolving)).await else {
            return error!("the configuration was not changed: users can't be looked up");
        };
        self.accounts.refresh().await;
        let (in_force, done) = oneshot::channel();
        let command = Command::Reload(Box::new(config.clone()), rules, in_force);
        if commands.send(command).await.is_err() {
            return error!("the agent's task has ended");
        }
        if tokio::time::timeout(READING, done).await.is_err() {
            warn!(
                "the roots have not been read in {} s; until they are, what either the old or the new \
                 configuration forbids is forbidden",
                READING.as_secs()
            );
        }
    }
}

/// Waits until the configuration file may have changed.
async fn changed(follow: Option<&Follow>) {
    match follow {
        Some(follow) => follow.changed().await,
        None => std::future::pending().await,
    }
}

/// Logs what a reload has changed.
fn log_changes(changes: &Changes) {
    info!("reloaded: {changes}");
    if !changes.needs_restart.is_empty() {
        let keys = changes.needs_restart.join(" ");
        warn!("these keys keep their old values until a restart: {keys}");
    }
}

/// What `systemctl status` shows, as of the start or the last reload.
fn status(hub: &Hub) -> String {
    let secrets = hub.current().snapshot.secret_count();
    format!("serving; secrets: {secrets}")
}

/// Takes over the socket that systemd holds, or makes it.
fn listen(
    config: &Config,
    resolved: ListenConfig,
    activation: &mut Activation,
) -> anyhow::Result<Listener> {
    let listener = match activation.take(&config.listen.socket) {
        Some(socket) => Listener::adopt(socket)?,
        None => Listener::bind(&resolved)?,
    };
    for path in activation.left() {
        warn!(
            socket = %path.display(),
            configured = %config.listen.socket.display(),
            "systemd passed a socket that is not in the configuration, and the agent does not accept \
             connections on it: make the paths the same"
        );
    }
    Ok(listener)
}

/// Answers each time that `work` is done.
async fn answer_after<F: Future<Output = ()>>(mut heartbeat: Heartbeat, work: impl Fn() -> F) {
    loop {
        heartbeat.beat_after(work()).await;
    }
}
