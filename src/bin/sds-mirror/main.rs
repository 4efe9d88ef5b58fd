//! `sds-mirror`: keeps credential folders in step with Secrets of a Kubernetes cluster.
//!
//! # Layout
//!
//! In the order of the flow; a module knows only the ones before it.
//!
//! - [`options`], [`name`], [`config`]: command line and file → settings that can't be wrong
//! - [`access`], [`cluster`], [`transport`]: how the cluster is reached, and which one it is
//! - [`select`]: Secret → the files of a folder, or why not
//! - [`source`], [`backoff`]: list and watch → events
//! - [`reconcile`]: what should be there against what is there
//! - [`manifest`], [`output`]: the folders on disk, changed in one step each
//! - [`content`]: what sds-agent will make of them
//! - [`problems`], [`metrics`], [`status`]: how it is doing
//! - [`mirror`]: wires all of the above

mod access;
mod backoff;
mod cluster;
mod config;
mod content;
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

use std::io::IsTerminal;
use std::process::ExitCode;
use std::sync::Arc;

use clap::Parser;
use sds_agent::admin::http::{self, Pages};
use sds_agent::config::LogFormat;
use sds_agent::harden;
use sds_agent::listen::{ListenConfig, Listener};
use sds_agent::systemd::{self, Heart};
use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;
use tracing::{error, info};
use tracing_subscriber::EnvFilter;

use crate::config::Config;
use crate::mirror::{End, Mirror};
use crate::options::Cli;
use crate::status::Status;
use crate::transport::Transport;

/// Something was refused, or could not be written.
const WITH_PROBLEMS: u8 = 1;
/// It could not run at all.
const COULD_NOT_RUN: u8 = 2;
/// kube logs each failed request as an error; the mirror says the same in context, and once.
const DEFAULT_LOG: &str = "info,kube_client=off,kube_runtime=off";
/// The admin socket's mode: its owner and group ask.
const ADMIN_MODE: u32 = 0o660;

fn main() -> ExitCode {
    let config = match Config::new(Cli::parse()) {
        Ok(config) => config,
        Err(error) => {
            eprintln!("sds-mirror: {error}");
            return ExitCode::from(COULD_NOT_RUN);
        }
    };
    start_logging(&config);
    harden::no_dumps();
    match run(config) {
        Ok(End::Good) => ExitCode::SUCCESS,
        Ok(End::WithProblems) => ExitCode::from(WITH_PROBLEMS),
        Err(error) => {
            error!("{error}");
            ExitCode::from(COULD_NOT_RUN)
        }
    }
}

fn start_logging(config: &Config) {
    let filter = match &config.log_level {
        Some(level) => level.to_filter(),
        None => EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new(DEFAULT_LOG)),
    };
    let lines = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr);
    match config.log_format {
        LogFormat::Text => lines
            .with_target(false)
            .with_ansi(std::io::stderr().is_terminal())
            .init(),
        LogFormat::Json => lines.json().flatten_event(true).init(),
    }
}

fn run(config: Config) -> Result<End, String> {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .map_err(|error| format!("the asynchronous runtime can't start: {error}"))?;
    let end = runtime.block_on(mirror(config));
    // A write that hangs on a dead file system must not keep the process.
    runtime.shutdown_background();
    end
}

async fn mirror(config: Config) -> Result<End, String> {
    let shutdown = CancellationToken::new();
    cancel_on_signal(&shutdown)?;
    let status = Arc::new(Status::new(&config.namespaces));
    let transport = Transport::new(config.access.clone()).await?;
    let cluster = transport.cluster().clone();
    info!(
        version = sds_agent::VERSION,
        cluster = %cluster,
        output = %config.output.display(),
        "mirroring"
    );
    serve_admin(&config, &status, &shutdown).await?;
    let mirror = Mirror::new(config, cluster, Arc::clone(&status))?;
    let heart = Heart::default();
    let pulse = heart.part("mirror");
    systemd::ready(&status.line());
    let end = tokio::select! {
        end = mirror.run(&transport, pulse, &shutdown) => end,
        () = feed_watchdog(&heart) => Ok(End::Good),
    };
    systemd::stopping();
    if shutdown.is_cancelled() {
        info!("ended by a signal; the folders stay as they are");
    }
    shutdown.cancel();
    end
}

/// Never ends, also where there is no watchdog.
async fn feed_watchdog(heart: &Heart) {
    systemd::feed_watchdog(heart).await;
    std::future::pending::<()>().await;
}

fn cancel_on_signal(shutdown: &CancellationToken) -> Result<(), String> {
    for kind in [SignalKind::terminate(), SignalKind::interrupt()] {
        let mut signals =
            signal(kind).map_err(|error| format!("signals can't be handled: {error}"))?;
        let shutdown = shutdown.clone();
        tokio::spawn(async move {
            signals.recv().await;
            shutdown.cancel();
        });
    }
    Ok(())
}

/// Serves health and metrics where the configuration says so.
async fn serve_admin(
    config: &Config,
    status: &Arc<Status>,
    shutdown: &CancellationToken,
) -> Result<(), String> {
    let pages = || Arc::clone(status) as Arc<dyn Pages>;
    if let Some(path) = &config.admin_socket {
        let listen = ListenConfig {
            path: path.clone(),
            mode: ADMIN_MODE,
            group: config.group,
        };
        let listener = Listener::bind(&listen).map_err(|error| error.to_string())?;
        tokio::spawn(http::serve_unix(listener, pages(), shutdown.clone()));
    }
    if let Some(address) = config.admin_tcp {
        let listener = http::bind_loopback(address).await?;
        tokio::spawn(http::serve_tcp(listener, pages(), shutdown.clone()));
    }
    Ok(())
}
