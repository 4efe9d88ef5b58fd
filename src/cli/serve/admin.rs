//! Starts what operators and monitoring ask.

use std::path::Path;
use std::sync::Arc;
use std::time::{Instant, SystemTime};

use anyhow::Context;
use sds_agent::admin::{AdminPages, Sources, http};
use sds_agent::agent::Agent;
use sds_agent::listen::{ListenConfig, ListenError, Listener};
use tokio_util::task::TaskTracker;
use tracing::{error, info};

use super::run::Shared;
use super::source::Source;

/// The mode of the admin socket: the agent's user and the group that may ask for secrets.
const MODE: u32 = 0o660;

/// Answers on the admin socket and the admin port, as far as they are configured, until the agent
/// stops. The result is to be waited for then, so that the socket's path is gone.
pub(super) async fn start(
    shared: &Shared,
    agent: &Agent,
    source: &Source,
    envoy: &Listener,
) -> anyhow::Result<TaskTracker> {
    let sources = Sources {
        hub: shared.hub.clone(),
        watch: agent.watch(),
        ledger: shared.ledger.clone(),
        health: shared.health.clone(),
        started: (SystemTime::now(), Instant::now()),
        config: source.file().map(Path::to_owned),
        socket: envoy.path().to_owned(),
    };
    let tasks = TaskTracker::new();
    if let Some(listener) = listen(shared, envoy)? {
        let pages = AdminPages::new(sources.clone(), shared.metrics.clone());
        tasks.spawn(http::serve_unix(
            listener,
            Arc::new(pages),
            shared.stopping.clone(),
        ));
    }
    if let Some(address) = shared.config.admin.tcp {
        let listener = http::bind_loopback(address).await;
        let listener = listener
            .map_err(anyhow::Error::msg)
            .context("admin.tcp (--admin-tcp)")?;
        info!(address = %listener.local_addr()?, "the page, metrics and health are served");
        let pages = AdminPages::new(sources, shared.metrics.clone()).with_page();
        tasks.spawn(http::serve_tcp(
            listener,
            Arc::new(pages),
            shared.stopping.clone(),
        ));
    }
    tasks.close();
    Ok(tasks)
}

fn listen(shared: &Shared, envoy: &Listener) -> anyhow::Result<Option<Listener>> {
    let Some(path) = &shared.config.admin.socket else {
        return Ok(None);
    };
    // Where systemd gave the socket for Envoy its group, the agent has no right to do so.
    let group = match envoy.is_adopted() {
        true => None,
        false => ListenConfig::resolve(&shared.config.listen)?.group,
    };
    let config = ListenConfig {
        path: path.clone(),
        mode: MODE,
        group,
    };
    match Listener::bind(&config) {
        Ok(listener) => Ok(Some(listener)),
        // Two agents with sockets in one folder share this default, and Envoy is to be served anyway.
        Err(error @ ListenError::Live(_)) => {
            error!(
                "status, metrics and health can't be asked for: {error}; see admin.socket \
                 (--admin-socket)"
            );
            Ok(None)
        }
        Err(error) => Err(error).context("admin.socket (--admin-socket)"),
    }
}
