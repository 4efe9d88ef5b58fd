//! Whether the agent is alive, and whether it serves all that it should.

use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};
use std::time::Duration;

use crate::agent::board::Board;
use crate::systemd::{Heart, Silent};

/// How long a part of the agent may take to answer that it moves.
const PATIENCE: Duration = Duration::from_secs(5);

/// The agent's health.
pub struct Health {
    board: Arc<Board>,
    heart: Arc<Heart>,
    phase: AtomicU8,
}

/// Where the agent is in its life.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Phase {
    /// It reads the roots for the first time, and takes no connection yet.
    Loading = 0,
    /// It serves.
    Serving = 1,
    /// It is about to end.
    Stopping = 2,
}

impl Health {
    /// Health by what `board` and `heart` know.
    pub fn new(board: Arc<Board>, heart: Arc<Heart>) -> Self {
        Self {
            board,
            heart,
            phase: AtomicU8::new(Phase::Loading as u8),
        }
    }

    /// Notes where the agent is in its life.
    pub fn enter(&self, phase: Phase) {
        self.phase.store(phase as u8, Ordering::Relaxed);
    }

    /// Whether every part of the agent moves.
    ///
    /// # Errors
    /// The part that does not.
    pub async fn alive(&self) -> Result<(), Silent> {
        self.heart.check(PATIENCE).await
    }

    /// What the agent waits for before it serves all that it should; nothing when it does.
    pub fn waits_for(&self) -> Vec<String> {
        let phase = self.phase.load(Ordering::Relaxed);
        let mut waits: Vec<_> = self
            .board
            .roots()
            .iter()
            .filter(|root| !root.read)
            .map(|root| {
                let path = root.path.display().to_string();
                format!("the root {} is being read", path.escape_debug())
            })
            .collect();
        if phase == Phase::Stopping as u8 {
            waits.push("the agent is stopping".to_owned());
        } else if phase == Phase::Loading as u8 && waits.is_empty() {
            waits.push("the socket for Envoy is about to be served".to_owned());
        }
        waits
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::agent::Agent;
    use crate::config::{Config, Root};

    fn health(heart: &Arc<Heart>) -> Health {
        let config = Config {
            roots: vec![Root::new("/nonexistent/\nroot")],
            ..Config::default()
        };
        let agent = Agent::new(config, Arc::default(), Arc::default());
        Health::new(agent.board(), heart.clone())
    }

    #[tokio::test(start_paused = true)]
    async fn a_part_that_does_not_move_is_named() {
        let heart = Arc::new(Heart::default());
        let health = health(&heart);
        assert_eq!(health.alive().await, Ok(()));
        let _stuck = heart.part("reader");
        assert_eq!(health.alive().await, Err(Silent("reader")));
    }

    #[tokio::test]
    async fn what_it_waits_for_is_one_line_each() {
        let health = health(&Arc::default());
        health.enter(Phase::Serving);
        assert_eq!(
            health.waits_for(),
            ["the root /nonexistent/\\nroot is being read"]
        );
        health
            .board
            .read(std::path::Path::new("/nonexistent/\nroot"));
        assert!(health.waits_for().is_empty());
        health.enter(Phase::Stopping);
        assert_eq!(health.waits_for(), ["the agent is stopping"]);
    }
}
