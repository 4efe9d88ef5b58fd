//! The agent's life: what is started in which order, reloads, and the end.

use std::pin::{Pin, pin};
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, anyhow, bail};
use sds_agent::admin::health::{Health, Phase};
use sds_agent::agent::board::Board;
use sds_agent::agent::{Agent, Command};
use sds_agent::config::{Changes, Config};
use sds_agent::listen::{Activation, ListenConfig, Listener};
use sds_agent::metrics::Metrics;
use sds_agent::peer::Accounts;
use sds_agent::pool::Pool;
use sds_agent::sds::access::{Access, Rules};
use sds_agent::sds::ledger::Ledger;
use sds_agent::sds::{server, service::Sds};
use sds_agent::store::Store;
use sds_agent::systemd::{self, Heart, Pulse};
use tokio::runtime::Handle;
use tokio::sync::{mpsc, oneshot};
use tokio_util::sync::CancellationToken;
use tokio_util::task::AbortOnDropHandle;
use tracing::{error, info, warn};

use super::Source;
use super::admin;
use super::guard::Guard;
use super::signals::{Signals, Told};
use crate::cli::logging::Levels;

/// How long the user database may take before the log says that the agent waits for it.
const PATIENCE: Duration = Duration::from_secs(5);

/// What the parts of a running agent share.
pub(super) struct Shared {
    pub(super) config: Config,
    pub(super) store: Arc<Store>,
    pub(super) ledger: Arc<Ledger>,
    pub(super) metrics: Arc<Metrics>,
    pub(super) health: Arc<Health>,
    pub(super) stopping: CancellationToken,
    pub(super) accounts: Arc<Accounts>,
    pub(super) access: Arc<Access>,
    pub(super) sds: Sds,
    /// Reads the configuration, and asks the user database.
    pub(super) pool: Pool,
    heart: Arc<Heart>,
}

/// Runs the agent until it is told to end.
pub(super) async fn run(
    config: Config,
    source: &Source,
    levels: &Levels,
    mut activation: Activation,
    files: &Handle,
) -> anyhow::Result<()> {
    let mut signals = Signals::new().context("signals can't be handled")?;
    let pool = Pool::new("configuration", 1);
    let resolved = tokio::select! {
        resolved = Resolved::look_up(&config, &pool) => resolved?,
        () = signals.stop() => return Ok(()),
    };
    let listener = listen(&config, resolved.listen, &mut activation)?;
    let (shared, agent) = Shared::new(config, resolved.rules, pool);
    // Before anything is read, so that it can be asked what the agent waits for.
    let admin = admin::start(&shared, resolved.admin, &agent, source, &listener).await?;
    let (agent, loaded) = Running::start(agent, shared.heart.clone(), files);
    let result = tokio::select! {
        loaded = loaded => match loaded {
            Ok(()) => serve(&shared, agent, listener, source, levels, signals).await,
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
    board: Arc<Board>,
}

impl Running {
    /// Starts it; the receiver is told when everything has been read once.
    fn start(mut agent: Agent, heart: Arc<Heart>, files: &Handle) -> (Self, oneshot::Receiver<()>) {
        let board = agent.board();
        let (commands, inbox) = mpsc::channel(1);
        let (loaded, is_loaded) = oneshot::channel();
        let task = files.spawn(async move {
            agent.load().await;
            let pulse = heart.part("watcher");
            let _ = loaded.send(());
            agent.run(inbox, pulse).await;
        });
        let task = AbortOnDropHandle::new(task);
        let running = Self {
            task,
            commands,
            board,
        };
        (running, is_loaded)
    }
}

/// What the configuration amounts to by the user database, which may take its time.
struct Resolved {
    listen: ListenConfig,
    admin: Option<ListenConfig>,
    rules: Rules,
}

impl Resolved {
    /// Waits for the user database: without it, clients would be told that what they may have is not there.
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
    fn new(config: Config, rules: Rules, pool: Pool) -> (Self, Agent) {
        let metrics = Arc::new(Metrics::default());
        let store = Arc::<Store>::default();
        let heart = Arc::<Heart>::default();
        let agent = Agent::new(config.clone(), store.clone(), metrics.clone());
        let ledger = Arc::new(Ledger::new(metrics.clone()));
        let access = Arc::new(Access::new(rules));
        let stopping = CancellationToken::new();
        let sds = Sds::new(
            store.clone(),
            ledger.clone(),
            access.clone(),
            config.limits,
            stopping.clone(),
        );
        let shared = Self {
            store,
            ledger,
            metrics,
            health: Arc::new(Health::new(agent.board(), heart.clone())),
            stopping,
            accounts: Arc::default(),
            access,
            sds,
            pool,
            heart,
            config,
        };
        (shared, agent)
    }
}

/// Serves until it is told to end, or a part of the agent has ended.
async fn serve(
    shared: &Shared,
    agent: Running,
    listener: Listener,
    source: &Source,
    levels: &Levels,
    mut signals: Signals,
) -> anyhow::Result<()> {
    let Running {
        task: mut agent,
        commands,
        board,
    } = agent;
    info!(
        socket = %listener.path().display(),
        secrets = shared.store.secrets().len(),
        version = sds_agent::VERSION,
        "serving"
    );
    let mut server = tokio::spawn(shared.server(listener));
    let _watchdog = shared.watchdog();
    shared.health.enter(Phase::Serving);
    systemd::ready(&status(&shared.store));

    let mut running = shared.config.clone();
    let mut guard = Guard::new(shared, &board);
    let mut reload_due = false;
    // It may hang, on a configuration or a user database that doesn't answer: signals are heard meanwhile.
    let mut reload = pin!(None);
    loop {
        if reload.is_none() && std::mem::take(&mut reload_due) {
            reload.set(Some(shared.reload(
                running.clone(),
                source,
                levels,
                commands.clone(),
            )));
        }
        tokio::select! {
            told = signals.next() => match told {
                Told::Stop => break,
                Told::Reload => reload_due = true,
            },
            config = finished(reload.as_mut()) => {
                running = config;
                reload.set(None);
                guard.configure(&running);
                systemd::ready(&status(&shared.store));
            }
            () = guard.watch() => {}
            // Without one of them the agent would look alive and serve nothing new.
            ended = &mut agent => bail!("the task that reads the files has ended: {ended:?}"),
            ended = &mut server => bail!("the task that serves has ended: {ended:?}"),
        }
    }
    info!("stopping");
    systemd::stopping();
    shared.health.enter(Phase::Stopping);
    shared.stopping.cancel();
    reload.set(None);
    drop(commands);
    let (server, agent) = tokio::join!(server, agent);
    server.and(agent).context("a task of the agent failed")
}

impl Shared {
    /// Answers Envoy, until the agent stops.
    fn server(&self, listener: Listener) -> impl Future<Output = ()> + use<> {
        let pulse = self.heart.part("server");
        server::run(
            listener,
            self.accounts.clone(),
            self.sds.clone(),
            self.config.limits,
            self.stopping.clone(),
            pulse,
        )
    }

    /// Feeds systemd's watchdog while every part of the agent moves.
    fn watchdog(&self) -> AbortOnDropHandle<()> {
        let heart = self.heart.clone();
        let store_moves = answer_for(heart.part("store"), self.store.clone());
        AbortOnDropHandle::new(tokio::spawn(async move {
            tokio::join!(store_moves, systemd::feed_watchdog(&heart));
        }))
    }

    /// Reads the configuration again and puts it in force, and says so then. A bad one is refused, and
    /// the old one stays.
    async fn reload(
        &self,
        running: Config,
        source: &Source,
        levels: &Levels,
        commands: mpsc::Sender<Command>,
    ) -> Config {
        systemd::reloading();
        let (config, changes) = match self.load(source).await {
            Ok(new) => {
                let (config, changes) = running.reload(new);
                (config, Some(changes))
            }
            Err(error) => {
                error!("the new configuration is refused, and the old one stays: {error}");
                (running, None)
            }
        };
        let command = Command::Reload(Box::new(config.clone()));
        if commands.send(command).await.is_err() {
            error!("the agent's task has ended");
        }
        self.enforce(&config).await;
        if let Some(changes) = changes {
            tell(&changes);
        }
        // Last, so that a quieter log still says so.
        levels.set(&config.log.level);
        config
    }

    async fn load(&self, source: &Source) -> anyhow::Result<Config> {
        let source = source.clone();
        let loaded = self.pool.run(move || source.load()).await;
        Ok(loaded.context("it can't be read now")??)
    }

    /// Puts the rules of who may have what in force, for open streams too, with the memberships as of now.
    async fn enforce(&self, config: &Config) {
        let config = config.clone();
        // The user database may be on the network.
        match self.pool.run(move || Rules::resolve(&config)).await {
            Some(rules) => self.access.replace(rules),
            None => error!("the rules of access stay as they were"),
        }
        self.accounts.refresh().await;
        self.store.wake_all();
    }
}

/// Waits for the end of a future, if there is one.
async fn finished<T>(future: Pin<&mut Option<impl Future<Output = T>>>) -> T {
    match future.as_pin_mut() {
        Some(future) => future.await,
        None => std::future::pending().await,
    }
}

/// Says what a reload has changed.
fn tell(changes: &Changes) {
    info!("reloaded: {changes}");
    if !changes.needs_restart.is_empty() {
        let keys = changes.needs_restart.join(" ");
        warn!("these keys stay as they were until a restart: {keys}");
    }
}

/// What `systemctl status` shows, as of the start or the last reload.
fn status(store: &Store) -> String {
    format!("serving; secrets: {}", store.secrets().len())
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
            "systemd holds a socket that is not the one of the configuration, and nobody answers \
             on it: make the paths the same"
        );
    }
    Ok(listener)
}

/// Answers for the store: nobody holds its lock for good.
async fn answer_for(mut pulse: Pulse, store: Arc<Store>) {
    loop {
        pulse.beat_after(|| drop(store.get(""))).await;
    }
}
