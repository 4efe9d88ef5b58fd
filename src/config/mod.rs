//! The configuration: `sds-agent.toml` and the command line → a checked [`Config`].

mod changes;
mod error;
mod forms;
mod keys;
mod load;
mod named;
mod options;
mod renamed;
mod trust;
mod values;

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use serde::de::{self, Deserialize, Deserializer};

pub use changes::Changes;
pub use error::ConfigError;
pub use keys::parse_flat;
pub use load::read;
pub use options::{Options, OrOff};
pub use trust::{
    CertificateHash, KeyHash, Matcher, SanKind, Strictness, SubjectAltName, Trust, TrustOptions,
};
pub use values::{Account, LogFilter, Pattern, parse_duration, parse_mode, parse_tcp};

/// The default path of the configuration file.
pub const DEFAULT_CONFIG: &str = "/etc/sds-agent/sds-agent.toml";
/// The default root.
pub const DEFAULT_CREDENTIALS: &str = "/etc/sds-agent/credentials";
/// The default path of the Unix socket that Envoy connects to.
pub const DEFAULT_SOCKET: &str = "/run/sds-agent/sds.sock";
/// The default group of the Unix socket that Envoy connects to. The packages create it. It is not the
/// group that may read the credentials.
pub const CLIENTS_GROUP: &str = "sds-agent-clients";
/// The path shown for the root that holds the `[[secret]]` entries of the configuration.
pub const NAMED_CREDENTIALS: &str = "[[secret]]";
/// The default of `warn_days`.
const WARN_DAYS: u32 = 30;
/// The default file name of the admin socket, which is in the same folder as the socket for Envoy.
pub const ADMIN_SOCKET_NAME: &str = "admin.sock";

/// The settings of a running agent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Config {
    /// The roots in order of precedence: of credentials with one name, the first root's is served.
    pub roots: Vec<Root>,
    /// The socket for Envoy, and who may connect to it.
    pub listen: Listen,
    /// Which clients may read which secrets. Without any rule, every client may read all of them.
    pub access: Vec<AccessRule>,
    /// Where status, metrics and health are served.
    pub admin: Admin,
    /// The log settings.
    pub log: Log,
    /// Limits on files and clients.
    pub limits: Limits,
    /// The answer to a name that has never existed in any root.
    pub absent: Absent,
    /// Whether a host name selects the credential whose certificate covers it.
    pub hosts: bool,
    /// The credential for hosts that no certificate covers.
    pub default_credential: Option<String>,
    /// How long a folder must be missing before its secrets are removed.
    pub removal_delay: Duration,
    /// A certificate is `expiring` at most this many days before its end, unless its root or `[[secret]]`
    /// sets its own number.
    pub warn_days: u32,
    /// Whether the agent's memory is locked, so that it can't be swapped out.
    pub lock_memory: bool,
    /// When the configuration is read again.
    pub reload: Reload,
    /// Warnings about the file, such as a key with a deprecated name.
    pub warnings: Vec<String>,
}

/// When a running agent reloads its configuration.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Reload {
    /// When the file has changed, and on SIGHUP.
    #[default]
    Auto,
    /// Only on SIGHUP.
    Signal,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            roots: vec![Root::default()],
            listen: Listen::default(),
            access: Vec::new(),
            admin: Admin::default(),
            log: Log::default(),
            limits: Limits::default(),
            absent: Absent::default(),
            hosts: true,
            default_credential: None,
            removal_delay: Duration::from_secs(1),
            warn_days: WARN_DAYS,
            lock_memory: false,
            reload: Reload::default(),
            warnings: Vec::new(),
        }
    }
}

/// The admin socket that goes with the socket for Envoy at `socket`.
fn beside(socket: &Path) -> PathBuf {
    socket.with_file_name(ADMIN_SOCKET_NAME)
}

/// A folder that is watched for credentials, and how it is read.
#[derive(Clone, Debug, PartialEq, Eq, serde::Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Root {
    /// The folder.
    #[serde(deserialize_with = "forms::path")]
    pub path: PathBuf,
    /// How credentials are stored in it.
    pub layout: Layout,
    /// The answer to a name that this root once had.
    pub absent: Absent,
    /// Whether symbolic links that lead out of the folder are refused.
    pub confine: bool,
    /// Whether a private key that other users can read is refused; otherwise it only causes a warning.
    pub strict_permissions: bool,
    /// Whether folders with a file `token` are skipped, as Istio skips such Secrets.
    pub skip_token_folders: bool,
    /// Whether folders whose names begin with `istio` or `prometheus` are skipped, as Istio does.
    pub reserved_names: bool,
    /// How often its files are checked with `stat`. `None` means every 60 s if the kernel reports changes, and
    /// every 5 s if it doesn't.
    #[serde(deserialize_with = "forms::interval_or_auto")]
    pub poll_interval: Option<Duration>,
    /// A certificate in it is `expiring` at most this many days before its end.
    #[serde(deserialize_with = "forms::number::<_, _, 0, 36_500>")]
    pub warn_days: u32,
    /// The options of its trust bundles, by the names of their credentials.
    #[serde(skip)]
    pub trust: Trust,
}

impl Default for Root {
    fn default() -> Self {
        Self {
            path: DEFAULT_CREDENTIALS.into(),
            layout: Layout::default(),
            absent: Absent::default(),
            confine: false,
            strict_permissions: false,
            skip_token_folders: true,
            reserved_names: true,
            poll_interval: None,
            warn_days: WARN_DAYS,
            trust: Trust::default(),
        }
    }
}

impl Root {
    /// The root at `path` with default settings.
    pub fn new(path: impl Into<PathBuf>) -> Self {
        Self {
            path: path.into(),
            ..Self::default()
        }
    }

    /// The `warn_days` that applies to `credential`.
    pub fn warn_days_of(&self, credential: &str) -> u32 {
        let own = match &self.layout {
            Layout::Named(all) => all.iter().find(|one| one.name == credential),
            Layout::Folders | Layout::Flat => None,
        };
        own.and_then(|one| one.warn_days).unwrap_or(self.warn_days)
    }
}

impl Layout {
    /// Whether this is the same kind of layout, whatever credentials it names.
    pub fn is_like(&self, other: &Self) -> bool {
        std::mem::discriminant(self) == std::mem::discriminant(other)
    }
}

/// How credentials are stored in a root.
#[derive(Clone, Debug, Default, PartialEq, Eq, serde::Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Layout {
    /// A folder for each, named after the credential.
    #[default]
    Folders,
    /// Files in the root itself, named after the credential.
    Flat,
    /// The root is not a folder: it stands for the credentials of the configuration, whose files can be
    /// anywhere.
    #[serde(skip)]
    Named(Arc<[NamedCredential]>),
}

/// A `[[secret]]` of the configuration.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NamedCredential {
    /// Its name.
    pub name: String,
    /// The paths of its files, each with the name that the file would have in a credential folder.
    pub files: Vec<(&'static str, PathBuf)>,
    /// Its own `warn_days`, if it has one.
    pub warn_days: Option<u32>,
}

/// The answer to a delta client that requests a name that does not exist. SotW clients get no response
/// either way, since no release of Envoy can use an empty SotW response.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Absent {
    /// No response: Envoy keeps the listener waiting, up to its `initial_fetch_timeout`, and continues to
    /// use on-demand secrets that it has.
    Wait,
    /// `removed_resources`: Envoy opens the listener at once, refuses handshakes until the secret
    /// arrives, and drops the on-demand secret if it has it.
    #[default]
    SaySo,
}

/// The socket for Envoy, and who may connect to it.
#[derive(Clone, Debug, PartialEq, Eq, serde::Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Listen {
    /// The path of the Unix socket.
    #[serde(skip)]
    pub socket: PathBuf,
    /// Its mode.
    #[serde(deserialize_with = "forms::mode")]
    pub mode: u32,
    /// Its group. `None`: [`CLIENTS_GROUP`] where the agent is a member of it, else the group that the
    /// agent runs as.
    #[serde(deserialize_with = "forms::account_or_auto")]
    pub group: Option<Account>,
    /// The users who may connect. If `allow_groups` is empty too, only the mode decides.
    pub allow_users: Vec<Account>,
    /// The groups whose members may connect.
    pub allow_groups: Vec<Account>,
}

impl Default for Listen {
    fn default() -> Self {
        Self {
            socket: DEFAULT_SOCKET.into(),
            mode: 0o660,
            group: None,
            allow_users: Vec::new(),
            allow_groups: Vec::new(),
        }
    }
}

/// Gives the secrets that match to the peers that match. A peer matches by its user or one of its
/// groups (when either is given), and also by its node id (when one is given). The client chooses its own
/// node id, so that can only restrict the rule further.
#[derive(Clone, Debug, PartialEq, Eq, serde::Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AccessRule {
    /// The names of the secrets; at least one.
    #[serde(deserialize_with = "at_least_one")]
    pub secrets: Vec<Pattern>,
    /// The users that the rule is for.
    #[serde(default)]
    pub users: Vec<Account>,
    /// The groups that the rule is for.
    #[serde(default)]
    pub groups: Vec<Account>,
    /// The node ids that the rule is for.
    #[serde(default)]
    pub nodes: Vec<Pattern>,
}

fn at_least_one<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<Pattern>, D::Error> {
    let patterns = Vec::deserialize(deserializer)?;
    match patterns.is_empty() {
        true => Err(de::Error::custom(
            "the rule gives access to nothing; list secrets, or `*` for all of them",
        )),
        false => Ok(patterns),
    }
}

/// Where status, metrics and health are served.
#[derive(Clone, Debug, PartialEq, Eq, serde::Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Admin {
    /// The Unix socket, if any.
    #[serde(skip)]
    pub socket: Option<PathBuf>,
    /// Its mode.
    #[serde(deserialize_with = "forms::mode")]
    pub mode: u32,
    /// Its group. `None`: the group that the agent runs as.
    #[serde(deserialize_with = "forms::account_or_auto")]
    pub group: Option<Account>,
    /// The users who may connect to it. If `allow_groups` is empty too, only the mode decides.
    pub allow_users: Vec<Account>,
    /// The groups whose members may connect to it.
    pub allow_groups: Vec<Account>,
    /// A loopback address for metrics and health, if any.
    #[serde(skip)]
    pub tcp: Option<SocketAddr>,
    /// Whether the page and the full state are served there too.
    pub tcp_details: bool,
}

impl Default for Admin {
    fn default() -> Self {
        Self {
            socket: Some(beside(Path::new(DEFAULT_SOCKET))),
            mode: 0o600,
            group: None,
            allow_users: Vec::new(),
            allow_groups: Vec::new(),
            tcp: None,
            tcp_details: false,
        }
    }
}

/// The log settings.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Log {
    /// The levels that are logged.
    pub level: LogFilter,
    /// The format of a line.
    pub format: LogFormat,
}

/// The format of a log line.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Deserialize, clap::ValueEnum)]
#[serde(rename_all = "kebab-case")]
pub enum LogFormat {
    /// Human-readable text.
    #[default]
    Text,
    /// One JSON object per line.
    Json,
}

/// Limits on files and clients, which bound the agent's use of memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Limits {
    /// Bytes of one file. The largest chain seen in practice has 200 kB.
    #[serde(deserialize_with = "forms::number::<_, _, 1_024, 67_108_864>")]
    pub file_bytes: usize,
    /// Files in one folder.
    #[serde(deserialize_with = "forms::number::<_, _, 1, 4_096>")]
    pub files: usize,
    /// Credential folders in all roots together.
    #[serde(deserialize_with = "forms::number::<_, _, 1, 1_000_000>")]
    pub credentials: usize,
    /// Concurrent connections. Envoy opens one for each 1,024 secrets.
    #[serde(deserialize_with = "forms::number::<_, _, 1, 1_000_000>")]
    pub connections: usize,
    /// Concurrent streams on all connections together.
    #[serde(deserialize_with = "forms::number::<_, _, 1, 10_000_000>")]
    pub streams: usize,
    /// Concurrent streams on one connection. Envoy opens one for each secret.
    #[serde(deserialize_with = "forms::number::<_, _, 1, 1_000_000>")]
    pub streams_per_connection: usize,
    /// Names that a stream may subscribe to. Envoy subscribes to one.
    #[serde(deserialize_with = "forms::number::<_, _, 1, 1_000_000>")]
    pub names_per_stream: usize,
    /// Bytes of one request. Envoy's largest request is its first, with a node of 61 kB.
    #[serde(deserialize_with = "forms::number::<_, _, 65_536, 67_108_864>")]
    pub request_bytes: usize,
    /// Bytes kept of what clients have sent: subscribed names, incoming requests, and names in queued
    /// responses.
    #[serde(deserialize_with = "forms::number::<_, _, 1_048_576, 4_294_967_295>")]
    pub client_bytes: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            file_bytes: 1024 * 1024,
            files: 64,
            credentials: 20_000,
            connections: 4_096,
            streams: 65_536,
            streams_per_connection: 16_384,
            names_per_stream: 16_384,
            request_bytes: 4 * 1024 * 1024,
            client_bytes: 256 * 1024 * 1024,
        }
    }
}

#[cfg(test)]
mod tests;
