//! The agent's life: what is started in which order, reloads, and the end.

use std::sync::Arc;

use anyhow::{Context, bail};
use sds_agent::admin::health::{Health, Phase};
use sds_agent::agent::{Agent, Command};
use sds_agent::config::{Changes, Config};
use sds_agent::listen::{Activation, ListenConfig, Listener};
use sds_agent::metrics::Metrics;
use sds_agent::sds::access::{Access, Rules};
use sds_agent::sds::ledger::Ledger;
use sds_agent::sds::{server, service::Sds};
use sds_agent::store::Store;
use sds_agent::systemd::{self, Heart, Pulse};
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;
use tokio_util::task::AbortOnDropHandle;
use tracing::{error, info, warn};

use super::Source;
use super::admin;
use super::signals::{Signals, Told};
use crate::cli::logging::Levels;

/// What the parts of a running agent share.
pub(super) struct Shared {
    pub(super) config: Config,
    pub(super) store: Arc<Store>,
    pub(super) ledger: Arc<Ledger>,
    pub(super) metrics: Arc<Metrics>,
    pub(super) health: Arc<Health>,
    pub(super) stopping: CancellationToken,
    heart: Arc<Heart>,
    access: Arc<Access>,
}

/// Runs the agent until it is told to end.
pub(super) async fn run(
    config: Config,
    source: &Source,
    levels: &Levels,
    mut activation: Activation,
) -> anyhow::Result<()> {
    let mut signals = Signals::new().context("signals can't be handled")?;
    let listener = listen(&config, &mut activation)?;
    let (shared, mut agent) = Shared::new(config);
    // Before anything is read, so that it can be asked what the agent waits for.
    let admin = admin::start(&shared, &agent, source, &listener).await?;
    let loaded = tokio::select! {
        () = agent.load() => true,
        () = signals.stop() => false,
    };
    let result = match loaded {
        true => serve(&shared, agent, listener, source, levels, signals).await,
        false => Ok(()),
    };
    shared.stopping.cancel();
    admin.wait().await;
    result
}

impl Shared {
    fn new(config: Config) -> (Self, Agent) {
        let metrics = Arc::new(Metrics::default());
        let store = Arc::<Store>::default();
        let heart = Arc::<Heart>::default();
        let agent = Agent::new(config.clone(), store.clone(), metrics.clone());
        let shared = Self {
            store,
            ledger: Arc::new(Ledger::new(metrics.clone())),
            metrics,
            health: Arc::new(Health::new(agent.board(), heart.clone())),
            stopping: CancellationToken::new(),
            heart,
            access: Arc::new(Access::new(Rules::resolve(&config))),
            config,
        };
        (shared, agent)
    }
}

/// Serves until it is told to end, or a part of the agent has ended.
async fn serve(
    shared: &Shared,
    mut agent: Agent,
    listener: Listener,
    source: &Source,
    levels: &Levels,
    mut signals: Signals,
) -> anyhow::Result<()> {
    let (commands, inbox) = mpsc::channel(1);
    let pulse = shared.heart.part("watcher");
    let mut agent = tokio::spawn(async move { agent.run(inbox, pulse).await });
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
    loop {
        tokio::select! {
            told = signals.next() => match told {
                Told::Stop => break,
                Told::Reload => {
                    running = shared.reload(running, source, levels, &commands).await;
                    systemd::ready(&status(&shared.store));
                }
            },
            // Without one of them the agent would look alive and serve nothing new.
            ended = &mut agent => bail!("the task that reads the files has ended: {ended:?}"),
            ended = &mut server => bail!("the task that serves has ended: {ended:?}"),
        }
    }
    info!("stopping");
    systemd::stopping();
    shared.health.enter(Phase::Stopping);
    shared.stopping.cancel();
    drop(commands);
    let (server, agent) = tokio::join!(server, agent);
    server.and(agent).context("a task of the agent failed")
}

impl Shared {
    /// Answers Envoy, until the agent stops.
    fn server(&self, listener: Listener) -> impl Future<Output = ()> + use<> {
        let sds = Sds::new(
            self.store.clone(),
            self.ledger.clone(),
            self.access.clone(),
            self.config.limits,
            self.stopping.clone(),
        );
        let pulse = self.heart.part("server");
        server::run(
            listener,
            sds,
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
        commands: &mpsc::Sender<Command>,
    ) -> Config {
        systemd::reloading();
        let (config, changes) = match source.load() {
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
        enforce(&self.access, &self.store, &config).await;
        if let Some(changes) = changes {
            tell(&changes);
        }
        // Last, so that a quieter log still says so.
        levels.set(&config.log.level);
        config
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
