//! What the agent is told to do, after the command line and its defaults are put together.

use std::path::PathBuf;
use std::time::Duration;

/// Where credentials are looked for when nothing else is said.
pub const DEFAULT_CREDENTIALS: &str = "/etc/sds-agent/credentials";
/// The Unix socket that Envoy connects to when nothing else is said.
pub const DEFAULT_SOCKET: &str = "/run/sds-agent/sds.sock";

/// The settings of a running agent.
#[derive(Clone, Debug)]
pub struct Config {
    /// The roots, most important first: the first one that has a name wins.
    pub roots: Vec<PathBuf>,
    /// The Unix socket for Envoy.
    pub socket: PathBuf,
    /// The mode of the socket.
    pub socket_mode: u32,
    /// How long a folder must be gone before its secrets go too.
    pub removal_delay: Duration,
    /// How long before its end a certificate is warned of, in days.
    pub warn_days: u32,
    /// What a read of a folder may cost.
    pub limits: Limits,
    /// Whether folders with a file `token` are passed over, as Istio does with such Secrets.
    pub skip_token_folders: bool,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            roots: vec![DEFAULT_CREDENTIALS.into()],
            socket: DEFAULT_SOCKET.into(),
            socket_mode: 0o660,
            removal_delay: Duration::from_secs(1),
            warn_days: 30,
            limits: Limits::default(),
            skip_token_folders: true,
        }
    }
}

/// What a read of a folder may cost: whatever stands there, memory stays bounded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Bytes of one file. The largest chain seen in practice has 200 kB.
    pub file_bytes: usize,
    /// Files in one folder.
    pub files: usize,
    /// Credential folders in all roots together.
    pub credentials: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            file_bytes: 1024 * 1024,
            files: 64,
            credentials: 20_000,
        }
    }
}
