//! Signals → requests to the agent.

use tokio::signal::unix::{Signal, SignalKind, signal};

/// The signals that the agent handles.
pub(super) struct Signals {
    terminate: Signal,
    interrupt: Signal,
    reload: Signal,
    /// A reload was requested while the roots were read for the first time.
    reload_due: bool,
}

/// What a signal requests.
#[derive(PartialEq, Eq)]
pub(super) enum Request {
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

    pub(super) async fn next(&mut self) -> Request {
        if std::mem::take(&mut self.reload_due) {
            return Request::Reload;
        }
        self.signal().await
    }

    async fn signal(&mut self) -> Request {
        tokio::select! {
            _ = self.terminate.recv() => Request::Stop,
            _ = self.interrupt.recv() => Request::Stop,
            _ = self.reload.recv() => Request::Reload,
        }
    }

    /// Waits for a signal to stop. A reload is remembered for later.
    pub(super) async fn stop(&mut self) {
        while self.signal().await != Request::Stop {
            self.reload_due = true;
        }
    }
}
