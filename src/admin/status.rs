//! The state of the running agent, as `sds-agent status`, `/status` and the page show it. Its JSON is
//! described in `docs/status.md`.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::report::{Report, Time};

/// Everything that is known about the agent and its credentials. Contains no key material.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Status {
    /// The credentials and the roots.
    #[serde(flatten)]
    pub report: Report,
    /// The agent itself.
    pub agent: Agent,
    /// Names that clients requested and that do not exist.
    pub waiting: Waiting,
    /// How changes of the files are noticed.
    pub watch: Watch,
}

/// The agent itself.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Agent {
    /// Its version, with the commit where that is known.
    pub version: String,
    /// Its process.
    pub pid: u32,
    /// When it was started.
    pub started: Time,
    /// How long ago that was, by the monotonic clock.
    pub uptime_seconds: u64,
    /// The name of its host.
    pub host: String,
    /// Its configuration file, if any.
    pub config: Option<String>,
    /// Why the configuration was refused when it was last read, while the previous one is in effect.
    pub config_error: Option<String>,
    /// The socket for Envoy.
    pub socket: String,
    /// A certificate is `expiring` at most this many days before its end, unless its root or `[[secret]]` sets its
    /// own number.
    pub warn_days: u32,
    /// Whether all roots were read and clients are served.
    pub ready: bool,
    /// Why it is not ready; empty if it is.
    pub waiting_for: Vec<String>,
    /// Problems although it is ready: roots that can't be read, a configuration that was refused.
    pub degraded: Vec<String>,
    /// The credential for hosts that no certificate covers, if any.
    pub default_credential: Option<String>,
    /// Open streams.
    pub streams: Streams,
}

/// How many streams are open.
#[derive(Clone, Copy, Debug, Default, Serialize, Deserialize)]
pub struct Streams {
    /// State of the world.
    pub sotw: u64,
    /// Delta.
    pub delta: u64,
    /// `FetchSecrets`, for as long as each takes.
    pub fetch: u64,
}

/// Names that clients requested and that do not exist.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Waiting {
    /// How many there are.
    pub total: usize,
    /// Some of them, at most [`Waiting::SHOWN`].
    pub names: Vec<WaitingName>,
}

/// A name that does not exist.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct WaitingName {
    /// The name, as clients requested it.
    pub name: String,
    /// How many streams are subscribed to it.
    pub streams: usize,
}

/// How changes of the files are noticed.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Watch {
    /// Directories with a watch.
    pub directories: usize,
    /// Times that the kernel's event queue overflowed.
    pub overflows: u64,
    /// Times that the kernel refused a watch.
    pub refusals: u64,
    /// Times that all watches were set up again.
    pub rebuilds: u64,
    /// Changes found by polling that no event had reported.
    pub missed: u64,
    /// How many roots and folders are polled because they can't be watched, by reason.
    pub polled: BTreeMap<String, u64>,
    /// Some of them, at most [`Watch::SHOWN`].
    pub polled_paths: Vec<PolledPath>,
}

/// A root or folder that is polled.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct PolledPath {
    /// Its path.
    pub path: String,
    /// Why, from a fixed set.
    pub reason: String,
    /// What to do about it.
    pub remedy: String,
}

impl Waiting {
    /// How many names are listed: clients choose them, so there may be any number.
    pub const SHOWN: usize = 100;
}

impl Watch {
    /// How many polled paths are listed.
    pub const SHOWN: usize = 100;
}
