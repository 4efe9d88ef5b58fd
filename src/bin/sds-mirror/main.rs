//! `sds-mirror`: mirrors Secrets of a Kubernetes cluster to credential folders.
//!
//! # Layout
//!
//! In the order of the data flow; a module uses only those before it.
//!
//! - [`name`], [`select`]: Secret or ConfigMap → the files of a folder, or why not
//! - [`gateway`]: which of them a Gateway refers to
//! - [`options`]: the command line's options and the configuration file
//! - [`cluster`], [`exec`], [`access`], [`transport`]: connection to the cluster, and its identity
//! - [`config`]: options → checked settings
//! - [`backoff`], [`source`]: list and watch → events
//! - [`manifest`], [`output`]: the folders on disk, each changed atomically
//! - [`content`]: which of their parts sds-agent would reject
//! - [`reconcile`]: compares the desired and the actual folders
//! - [`problems`], [`metrics`], [`status`], [`events`]: the state of the mirror
//! - [`cli`]: the command line
//! - [`mirror`](mod@mirror): connects all of the above

mod access;
mod backoff;
mod cli;
mod cluster;
mod config;
mod content;
mod events;
mod exec;
mod gateway;
mod manifest;
mod metrics;
mod mirror;
mod name;
mod options;
mod output;
mod problems;
mod reconcile;
mod select;
mod source;
mod status;
mod transport;

use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;

use clap::Parser;
use sds_agent::admin::http::{self, Pages};
use sds_agent::config::LogFilter;
use sds_agent::listen::{ListenConfig, Listener};
use sds_agent::logging::{self, Logging};
use sds_agent::systemd::{self, Liveness};
use sds_agent::{harden, text};
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio_util::sync::CancellationToken;
use tracing::{Metadata, error, info};
use tracing_subscriber::EnvFilter;

use crate::cli::Cli;
use crate::config::Config;
use crate::mirror::{End, Mirror};
use crate::options::Options;
use crate::reconcile::History;
use crate::status::Status;

/// An object was refused, or a folder could not be written.
const WITH_PROBLEMS: u8 = 1;
/// The mirror could not run.
const COULD_NOT_RUN: u8 = 2;
/// The mode of the admin socket: its owner and group may connect.
const ADMIN_MODE: u32 = 0o660;
/// The crates whose events are logged. Events of other libraries never are, at any level: those for
/// Kubernetes and HTTP log whole responses, including private keys.
const OWN: [&str; 2] = ["sds_mirror", "sds_agent"];

fn main() -> ExitCode {
    let mut cli = Cli::parse();
    if let Some(command) = cli.command.take() {
        return cli::run(command);
    }
    let settings = Settings {
        file: cli.config,
        options: cli.options,
    };
    let config = match settings.read() {
        Ok(config) => config,
        Err(error) => {
            eprintln!("sds-mirror: {}", text::escape(&error));
            return ExitCode::from(COULD_NOT_RUN);
        }
    };
    let levels = filter(config.log_level.as_ref());
    let logging = logging::start(levels, config.log_format, is_own);
    logging.start_thread();
    harden::no_dumps();
    match run(config, settings, &logging) {
        Ok(End::Good) => ExitCode::SUCCESS,
        Ok(End::WithProblems) => ExitCode::from(WITH_PROBLEMS),
        Err(error) => {
            error!("{error}");
            ExitCode::from(COULD_NOT_RUN)
        }
    }
}

/// The sources of the configuration, which a reload reads again.
struct Settings {
    file: Option<PathBuf>,
    options: Options,
}

impl Settings {
    fn read(&self) -> Result<Config, String> {
        let file = match &self.file {
            Some(path) => Options::read(path)?,
            None => Options::default(),
        };
        Config::new(self.options.clone().or(file))
    }
}

fn filter(level: Option<&LogFilter>) -> EnvFilter {
    match level {
        Some(level) => level.to_filter(),
        None => EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new("info")),
    }
}

fn is_own(metadata: &Metadata<'_>) -> bool {
    let program = metadata.target().split("::").next().unwrap_or_default();
    OWN.contains(&program)
}

fn run(config: Config, settings: Settings, logging: &Logging) -> Result<End, String> {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .map_err(|error| format!("can't start the asynchronous runtime: {error}"))?;
    let end = runtime.block_on(mirror(config, settings, logging));
    // A write that hangs on a dead file system must not keep the process from exiting.
    runtime.shutdown_background();
    end
}

/// Runs mirrors, a new one for each configuration, until a signal or an error.
async fn mirror(mut config: Config, settings: Settings, logging: &Logging) -> Result<End, String> {
    let mut signals = Signals::new()?;
    let status = Arc::new(Status::new());
    let liveness = Liveness::default();
    let mut admin = Admin::start(&config, &status).await?;
    let mut history = History::default();
    let mut previous: Option<Config> = None;
    loop {
        status.reset();
        let mirror = Mirror::new(config.clone(), Arc::clone(&status), history.clone()).await;
        let mirror = match (mirror, previous.take()) {
            (Ok(mirror), None) => mirror,
            (Ok(mirror), Some(_)) => {
                logging.set(filter(config.log_level.as_ref()));
                admin.change(&config, &status).await;
                info!("reloaded: the new configuration is in effect");
                mirror
            }
            (Err(error), None) => return Err(error),
            (Err(error), Some(previous)) => {
                error!("not reloaded, the current configuration stays in effect: {error}");
                config = previous;
                continue;
            }
        };
        systemd::ready(&status.line());
        let stop = CancellationToken::new();
        let run = mirror.run(liveness.part("mirror"), &stop);
        tokio::pin!(run);
        let next = tokio::select! {
            end = &mut run => return end.map(|(end, _)| end),
            () = feed_watchdog(&liveness) => return Ok(End::Good),
            next = signals.next(&settings) => next,
        };
        stop.cancel();
        let (_, past) = run.await?;
        history = past;
        let Some(next) = next else {
            systemd::stopping();
            info!("stopped by a signal; the folders stay as they are");
            return Ok(End::Good);
        };
        previous = Some(std::mem::replace(&mut config, next));
    }
}

/// Never returns, even without a watchdog.
async fn feed_watchdog(liveness: &Liveness) {
    systemd::feed_watchdog(liveness).await;
    std::future::pending::<()>().await;
}

struct Signals {
    terminate: Signal,
    interrupt: Signal,
    reload: Signal,
}

impl Signals {
    fn new() -> Result<Self, String> {
        let signal = |kind| signal(kind).map_err(|error| format!("can't handle signals: {error}"));
        Ok(Self {
            terminate: signal(SignalKind::terminate())?,
            interrupt: signal(SignalKind::interrupt())?,
            reload: signal(SignalKind::hangup())?,
        })
    }

    /// Waits for a new configuration; `None` when the mirror must stop. An invalid configuration is logged, and
    /// the current one stays in effect.
    async fn next(&mut self, settings: &Settings) -> Option<Config> {
        loop {
            tokio::select! {
                _ = self.terminate.recv() => return None,
                _ = self.interrupt.recv() => return None,
                _ = self.reload.recv() => {}
            }
            systemd::reloading();
            match settings.read() {
                Ok(config) => return Some(config),
                Err(error) => {
                    error!("not reloaded, the current configuration stays in effect: {error}");
                    systemd::ready("the last reload was refused; see the log");
                }
            }
        }
    }
}

/// The servers of health, metrics and state.
struct Admin {
    socket: Option<(ListenConfig, CancellationToken)>,
    tcp: Option<(std::net::SocketAddr, CancellationToken)>,
}

impl Admin {
    async fn start(config: &Config, status: &Arc<Status>) -> Result<Self, String> {
        let mut admin = Self {
            socket: None,
            tcp: None,
        };
        // A single pass must not replace the socket of a running mirror.
        if !config.once {
            admin.set_socket(config, status)?;
            admin.set_tcp(config, status).await?;
        }
        Ok(admin)
    }

    /// Applies a new configuration. Errors are logged.
    async fn change(&mut self, config: &Config, status: &Arc<Status>) {
        let socket = self.set_socket(config, status);
        let tcp = self.set_tcp(config, status).await;
        for error in [socket.err(), tcp.err()].into_iter().flatten() {
            error!("{error}");
        }
    }

    fn set_socket(&mut self, config: &Config, status: &Arc<Status>) -> Result<(), String> {
        let wanted = config.admin_socket.as_ref().map(|path| ListenConfig {
            path: path.clone(),
            mode: ADMIN_MODE,
            group: config.rights.group,
        });
        if self.socket.as_ref().map(|(socket, _)| socket) == wanted.as_ref() {
            return Ok(());
        }
        if let Some((_, stop)) = self.socket.take() {
            stop.cancel();
        }
        if let Some(listen) = wanted {
            let listener = Listener::bind(&listen).map_err(|error| error.to_string())?;
            let stop = CancellationToken::new();
            let pages = Arc::clone(status) as Arc<dyn Pages>;
            tokio::spawn(http::serve_unix(listener, pages, stop.clone()));
            self.socket = Some((listen, stop));
        }
        Ok(())
    }

    async fn set_tcp(&mut self, config: &Config, status: &Arc<Status>) -> Result<(), String> {
        if self.tcp.as_ref().map(|(address, _)| *address) == config.admin_tcp {
            return Ok(());
        }
        if let Some((_, stop)) = self.tcp.take() {
            stop.cancel();
        }
        if let Some(address) = config.admin_tcp {
            let listener = http::bind_loopback(address).await?;
            let stop = CancellationToken::new();
            let pages = Arc::clone(status) as Arc<dyn Pages>;
            tokio::spawn(http::serve_tcp(listener, pages, stop.clone()));
            self.tcp = Some((address, stop));
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::path::Path;

    /// The source of a module, without its tests.
    fn source(module: &str) -> String {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("src/bin/sds-mirror");
        let mut files = vec![folder.join(format!("{module}.rs"))];
        if let Ok(entries) = fs::read_dir(folder.join(module)) {
            files.extend(entries.map(|entry| entry.unwrap().path()));
        }
        let is_test = |path: &Path| path.to_string_lossy().ends_with("tests.rs");
        let text = |path: &Path| fs::read_to_string(path).unwrap_or_default();
        let files = files.iter().filter(|path| !is_test(path));
        let code = files.map(|path| text(path).split("#[cfg(test)]").next().unwrap().to_owned());
        code.collect()
    }

    #[test]
    fn no_module_uses_one_that_is_listed_after_it() {
        let list = include_str!("main.rs").split("\nmod ").next().unwrap();
        let listed: Vec<&str> = list
            .split("[`")
            .skip(1)
            .filter_map(|rest| rest.split('`').next())
            .collect();
        let modules = include_str!("main.rs")
            .lines()
            .filter_map(|line| line.strip_prefix("mod ")?.strip_suffix(';'));
        for module in modules {
            let place = listed.iter().position(|one| *one == module);
            let place = place.unwrap_or_else(|| panic!("{module} is not listed"));
            let code = source(module);
            assert!(!code.is_empty(), "{module}");
            for later in &listed[place + 1..] {
                assert!(
                    !code.contains(&format!("crate::{later}::")),
                    "{module} uses {later}"
                );
            }
        }
    }
}
