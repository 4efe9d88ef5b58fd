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
