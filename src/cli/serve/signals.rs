//! Signals → what the agent is told.

use tokio::signal::unix::{Signal, SignalKind, signal};

/// What the agent is told by signals.
pub(super) struct Signals {
    terminate: Signal,
    interrupt: Signal,
    reload: Signal,
    /// A reload was asked for while the roots were read for the first time.
    reload_due: bool,
}

#[derive(PartialEq, Eq)]
pub(super) enum Told {
    Stop,
    Reload,
}

impl Signals {
    pub(super) fn new() -> std::io::Result<Self> {
        Ok(Self {
            terminate: signal(SignalKind::terminate())?,
            interrupt: signal(SignalKind::interrupt())?,
            reload: signal(SignalKind::hangup())?,
            reload_due: false,
        })
    }

    pub(super) async fn next(&mut self) -> Told {
        if std::mem::take(&mut self.reload_due) {
            return Told::Reload;
        }
        self.signal().await
    }

    async fn signal(&mut self) -> Told {
        tokio::select! {
            _ = self.terminate.recv() => Told::Stop,
            _ = self.interrupt.recv() => Told::Stop,
            _ = self.reload.recv() => Told::Reload,
        }
    }

    /// Waits for the end; a reload is for later.
    pub(super) async fn stop(&mut self) {
        while self.signal().await != Told::Stop {
            self.reload_due = true;
        }
    }
}
