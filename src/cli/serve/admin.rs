//! Starts the servers for operators and monitoring.

use std::path::Path;
use std::sync::Arc;
use std::time::{Instant, SystemTime};

use anyhow::Context;
use sds_agent::admin::{AdminPages, Sources, With, http};
use sds_agent::agent::Agent;
use sds_agent::listen::{ListenConfig, ListenError, Listener};
use sds_agent::sds::audit::Refused;
use tokio_util::task::TaskTracker;
use tracing::{error, info};

use super::run::Shared;
use super::source::Source;

/// Serves the admin socket and the admin port, if they are configured, until the agent stops. Then wait for
/// the returned tasks, so that the socket's path is removed.
pub(super) async fn start(
    shared: &Shared,
    socket: Option<ListenConfig>,
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
    let pages = AdminPages::new(sources, shared.metrics.clone());
    if let Some(listener) = socket.map(listen).transpose()?.flatten() {
        tasks.spawn(http::serve_unix_to(
            listener,
            Arc::new(pages.clone()),
            gate(shared),
            shared.stopping.clone(),
        ));
    }
    if let Some(address) = shared.config.admin.tcp {
        let listener = http::bind_loopback(address).await;
        let listener = listener.map_err(anyhow::Error::msg).context("admin_tcp")?;
        let details = shared.config.admin.tcp_details;
        info!(address = %listener.local_addr()?, details, "metrics and health are served");
        let with = if details { With::Page } else { With::Nothing };
        tasks.spawn(http::serve_tcp(
            listener,
            Arc::new(pages.with(with)),
            shared.stopping.clone(),
        ));
    }
    tasks.close();
    Ok(tasks)
}

/// Admits the users and groups of `[admin]`, or everyone who can open the socket if it has none.
fn gate(shared: &Shared) -> http::Gate {
    let (accounts, hub) = (shared.accounts.clone(), shared.hub.clone());
    let sds = shared.sds.clone();
    Box::new(move |credentials| {
        let (accounts, hub, sds) = (accounts.clone(), hub.clone(), sds.clone());
        Box::pin(async move {
            let peer = accounts.peer(credentials).await;
            let admitted = hub.current().rules.admits_operator(&peer);
            if !admitted {
                sds.audit().refused(&peer, Refused::AdminConnection);
            }
            admitted
        })
    })
}

fn listen(config: ListenConfig) -> anyhow::Result<Option<Listener>> {
    match Listener::bind(&config) {
        Ok(listener) => Ok(Some(listener)),
        // Two agents with sockets in one folder share this default; the second one must still serve Envoy.
        Err(error @ ListenError::Live(_)) => {
            error!(
                "status, metrics and health are not available: {error}; see admin_socket \
                 (--admin-socket)"
            );
            Ok(None)
        }
        Err(error) => Err(error).context("admin_socket"),
    }
}
