//! Whether the agent is alive, and whether it is ready.

use std::sync::atomic::{AtomicU8, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use crate::sds::hub::Hub;
use crate::systemd::{Liveness, Silent};
use crate::text;

/// How long a part of the agent may take to report progress.
const PATIENCE: Duration = Duration::from_secs(5);

/// The agent's health.
pub struct Health {
    hub: Arc<Hub>,
    liveness: Arc<Liveness>,
    phase: AtomicU8,
    config_error: Mutex<Option<String>>,
}

/// The phase that the agent is in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Phase {
    /// It is reading the roots for the first time, and does not accept connections yet.
    Loading = 0,
    /// It serves.
    Serving = 1,
    /// It is stopping.
    Stopping = 2,
}

impl Health {
    /// The health according to what `hub` publishes and to `liveness`.
    pub fn new(hub: Arc<Hub>, liveness: Arc<Liveness>) -> Self {
        Self {
            hub,
            liveness,
            phase: AtomicU8::new(Phase::Loading as u8),
            config_error: Mutex::default(),
        }
    }

    /// Records the phase that the agent has entered.
    pub fn enter(&self, phase: Phase) {
        self.phase.store(phase as u8, Ordering::Relaxed);
    }

    /// Records why the configuration was refused when it was last read; `None` if it was applied.
    pub fn config_reloaded(&self, error: Option<String>) {
        *self
            .config_error
            .lock()
            .unwrap_or_else(PoisonError::into_inner) = error;
    }

    /// Why the configuration was refused when it was last read.
    pub fn config_error(&self) -> Option<String> {
        let error = self.config_error.lock();
        error.unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Whether every part of the agent reports progress.
    ///
    /// # Errors
    /// The part that does not.
    pub async fn alive(&self) -> Result<(), Silent> {
        self.liveness.check(PATIENCE).await
    }

    /// What the agent is waiting for before it is ready; empty when it is ready.
    pub fn waits_for(&self) -> Vec<String> {
        let phase = self.phase.load(Ordering::Relaxed);
        let mut waits: Vec<_> = self
            .hub
            .current()
            .snapshot
            .roots()
            .iter()
            .filter(|root| !root.is_read())
            .map(|root| {
                let path = root.path.display().to_string();
                format!("the root {} is being read", text::escape(&path))
            })
            .collect();
        if phase == Phase::Stopping as u8 {
            waits.push("the agent is stopping".to_owned());
        } else if phase == Phase::Loading as u8 && waits.is_empty() {
            waits.push("the socket for Envoy is about to be served".to_owned());
        }
        waits
    }

    /// Problems that exist although the agent is ready, one line each: roots that can't be read, and a
    /// configuration that was refused. The reason for a refusal may quote the file, so it is only included with
    /// `details`, never where every local user can read it.
    pub fn degraded(&self, details: bool) -> Vec<String> {
        let published = self.hub.current();
        let roots = published.snapshot.roots().iter();
        let roots = roots.filter_map(|root| {
            let path = root.path.display().to_string();
            let path = text::escape(&path);
            Some(match (root.present?, root.listed) {
                (true, true) if root.is_readable()? => return None,
                (true, true) => format!("the root {path} can't be read"),
                (true, false) => format!("the root {path} could not be read since the start"),
                (false, true) => format!("the root {path} does not exist any more"),
                (false, false) => {
                    format!("the root {path} does not exist, and has not since the start")
                }
            })
        });
        let refused = self.config_error().map(|error| match details {
            true => {
                format!("the configuration was refused, and the previous one is in effect: {error}")
            }
            false => "the last reload was refused; see `sds-agent status`".to_owned(),
        });
        roots.chain(refused).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::agent::Agent;
    use crate::config::{Config, Root};

    /// The health of an agent that has read nothing yet, and that agent.
    fn health(liveness: &Arc<Liveness>) -> (Health, Agent) {
        let config = Config {
            roots: vec![Root::new("/nonexistent/\nroot")],
            ..Config::default()
        };
        let hub = Arc::new(Hub::default());
        let agent = Agent::new(config, Default::default(), hub.clone(), Arc::default());
        (Health::new(hub, liveness.clone()), agent)
    }

    #[tokio::test(start_paused = true)]
    async fn a_part_that_reports_no_progress_is_named() {
        let liveness = Arc::new(Liveness::default());
        let (health, _agent) = health(&liveness);
        assert_eq!(health.alive().await, Ok(()));
        let _stuck = liveness.part("reader");
        assert_eq!(health.alive().await, Err(Silent("reader")));
    }

    #[tokio::test]
    async fn what_it_waits_for_is_one_line_each() {
        let (health, mut agent) = health(&Arc::default());
        health.enter(Phase::Serving);
        assert_eq!(
            health.waits_for(),
            ["the root /nonexistent/\\nroot is being read"]
        );
        agent.load().await;
        assert!(health.waits_for().is_empty());
        assert_eq!(
            health.degraded(true),
            ["the root /nonexistent/\\nroot does not exist, and has not since the start"]
        );
        health.enter(Phase::Stopping);
        assert_eq!(health.waits_for(), ["the agent is stopping"]);
    }
}
