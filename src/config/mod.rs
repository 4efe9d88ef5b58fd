//! What the agent is told to do: `sds-agent.toml` and the command line → a [`Config`] that can't be
//! wrong in itself.

mod changes;
mod error;
mod file;
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

pub use changes::Changes;
pub use error::ConfigError;
pub use forms::OrOff;
pub use load::read;
pub use options::Options;
pub use trust::{Matcher, SanKind, Strictness, SubjectAltName, Trust, TrustOptions};
pub use values::{
    Account, CredentialName, LogFilter, Pattern, parse_duration, parse_mode, parse_tcp,
};

/// Where the configuration is looked for when nothing else is configured.
pub const DEFAULT_CONFIG: &str = "/etc/sds-agent/sds-agent.toml";
/// Where credentials are looked for when nothing else is configured.
pub const DEFAULT_CREDENTIALS: &str = "/etc/sds-agent/credentials";
/// The Unix socket that Envoy connects to when nothing else is configured.
pub const DEFAULT_SOCKET: &str = "/run/sds-agent/sds.sock";
/// The group whose members may open the socket for Envoy when nothing else is configured. The packaging makes
/// it: the group that may read the credentials is another one.
pub const CLIENTS_GROUP: &str = "sds-agent-clients";
/// What stands for the path of the root of the credentials that the configuration itself names.
pub const NAMED_CREDENTIALS: &str = "[[secret]]";
/// How many days before its end a certificate is warned of at most, when nothing else is configured.
const WARN_DAYS: u32 = 30;
/// The file name of the admin socket, beside the socket for Envoy, when nothing else is configured.
pub const ADMIN_SOCKET_NAME: &str = "admin.sock";

/// The settings of a running agent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Config {
    /// The roots, most important first: the first one that has a name wins.
    pub roots: Vec<Root>,
    /// The socket for Envoy, and who may connect to it.
    pub listen: Listen,
    /// Who may have which secret. With no rule at all, whoever may connect may have them all.
    pub access: Vec<AccessRule>,
    /// Where status, metrics and health are served.
    pub admin: Admin,
    /// What is logged, and how.
    pub log: Log,
    /// What clients and files may cost.
    pub limits: Limits,
    /// The answer to a name that no root has ever had.
    pub absent: Absent,
    /// Whether a host name stands for the credential whose certificate covers it.
    pub hosts: bool,
    /// The credential for hosts that none covers.
    pub default_credential: Option<String>,
    /// How long a folder must be gone before its secrets go too.
    pub removal_delay: Duration,
    /// How many days before its end a certificate is warned of at most, where its root or `[[secret]]`
    /// has no setting of its own.
    pub warn_days: u32,
    /// Whether the agent's memory is kept from being swapped out.
    pub lock_memory: bool,
    /// When the configuration is read again.
    pub reload: Reload,
    /// What in the file is worth a warning, such as a key with a new name.
    pub warnings: Vec<String>,
}

/// When a running agent reads its configuration again.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Reload {
    /// When the file has changed, and at SIGHUP.
    #[default]
    Auto,
    /// At SIGHUP alone.
    Signal,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            roots: vec![Root::new(DEFAULT_CREDENTIALS)],
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

/// A folder of credential folders, and how it is read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Root {
    /// The folder.
    pub path: PathBuf,
    /// How credentials lie in it.
    pub layout: Layout,
    /// The answer to a name that this root had, and has no more.
    pub absent: Absent,
    /// Whether reads stay below the folder, those through links included.
    pub confine: bool,
    /// Whether a private key that others can read is refused rather than warned of.
    pub strict_permissions: bool,
    /// Whether folders with a file `token` are passed over, as Istio does with such Secrets.
    pub skip_token_folders: bool,
    /// Whether folders whose names begin with `istio` or `prometheus` are skipped, as Istio does.
    pub reserved_names: bool,
    /// How often it is looked at by `stat` alone. `None`: every 60 s where the kernel reports
    /// changes, and every 5 s where it can't.
    pub poll_interval: Option<Duration>,
    /// How many days before its end a certificate in it is warned of at most.
    pub warn_days: u32,
    /// The options of the trust bundles in it, by the names of their credentials.
    pub trust: Trust,
}

impl Root {
    /// The root at `path` with the settings that hold when nothing else is configured.
    pub fn new(path: impl Into<PathBuf>) -> Self {
        Self {
            path: path.into(),
            layout: Layout::Folders,
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

    /// The folder that the files of a credential are in. Those of a credential of the configuration are
    /// anywhere: there is no such folder.
    pub fn folder_of(&self, credential: &str) -> PathBuf {
        match self.layout {
            Layout::Flat => self.path.clone(),
            Layout::Folders | Layout::Named(_) => self.path.join(credential),
        }
    }

    /// The same root, with certificates warned of at most so many days before their end, whatever it or a
    /// credential in it sets.
    fn warned_within(mut self, days: u32) -> Self {
        self.warn_days = days;
        if let Layout::Named(all) = &self.layout {
            let of_root = |one: &NamedCredential| NamedCredential {
                warn_days: None,
                ..one.clone()
            };
            self.layout = Layout::Named(all.iter().map(of_root).collect());
        }
        self
    }

    /// How many days before its end a certificate of `credential` is warned of at most.
    pub fn warn_days_of(&self, credential: &str) -> u32 {
        let own = match &self.layout {
            Layout::Named(all) => all.iter().find(|one| one.name == credential),
            Layout::Folders | Layout::Flat => None,
        };
        own.and_then(|one| one.warn_days).unwrap_or(self.warn_days)
    }
}

impl Layout {
    /// Whether credentials lie in the same way, whichever they are.
    pub fn is_like(&self, other: &Self) -> bool {
        std::mem::discriminant(self) == std::mem::discriminant(other)
    }
}

/// How credentials lie in a root.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Layout {
    /// A folder for each, named like the credential.
    Folders,
    /// The files of the root itself, named like the credential and an ending.
    Flat,
    /// Nothing lies in it: the credentials of the configuration, whose files are anywhere.
    Named(Arc<[NamedCredential]>),
}

/// A credential of the configuration.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NamedCredential {
    /// Its name.
    pub name: String,
    /// The paths of its files, each with the name by which the file is known in a credential folder.
    pub files: Vec<(&'static str, PathBuf)>,
    /// How many days before its end its certificate is warned of at most, where the configuration sets
    /// that for it alone.
    pub warn_days: Option<u32>,
}

/// The answer to a delta client that asks for a name that does not exist. SotW clients get silence
/// either way, for no release of Envoy makes anything good of an empty SotW response.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Absent {
    /// Silence: Envoy keeps the listener waiting, up to its `initial_fetch_timeout`, and what it
    /// had on demand stays in use.
    Wait,
    /// `removed_resources`: Envoy opens the listener at once and refuses handshakes until the
    /// secret comes, and drops what it had on demand.
    #[default]
    SaySo,
}

/// The socket for Envoy, and who may connect to it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Listen {
    /// The path of the Unix socket.
    pub socket: PathBuf,
    /// Its mode.
    pub mode: u32,
    /// Its group. `None`: [`CLIENTS_GROUP`] where the agent is a member of it, else the group that the
    /// agent runs as.
    pub group: Option<Account>,
    /// The users who may connect; with `allow_groups` empty too, whoever the mode lets in.
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
/// groups (when either is named), and by its node id too (when any is named): the node id is the
/// client's own word, so it only narrows what the user or group gives.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AccessRule {
    /// The names of the secrets; at least one.
    pub secrets: Vec<Pattern>,
    /// The users that the rule is for.
    pub users: Vec<Account>,
    /// The groups that the rule is for.
    pub groups: Vec<Account>,
    /// The node ids that the rule is for.
    pub nodes: Vec<Pattern>,
}

/// Where status, metrics and health are served.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Admin {
    /// The Unix socket. `None`: there is none.
    pub socket: Option<PathBuf>,
    /// Its mode.
    pub mode: u32,
    /// Its group. `None`: the group that the agent runs as.
    pub group: Option<Account>,
    /// The users who may connect to it; with `allow_groups` empty too, whoever the mode lets in.
    pub allow_users: Vec<Account>,
    /// The groups whose members may connect to it.
    pub allow_groups: Vec<Account>,
    /// A loopback address for metrics and health. `None`: there is none.
    pub tcp: Option<SocketAddr>,
    /// Whether the page and the whole state are shown there too.
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

/// What is logged, and how.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Log {
    /// The levels.
    pub level: LogFilter,
    /// The form of a line.
    pub format: LogFormat,
}

/// The form of a log line.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Deserialize, clap::ValueEnum)]
#[serde(rename_all = "kebab-case")]
pub enum LogFormat {
    /// For people.
    #[default]
    Text,
    /// One JSON object a line.
    Json,
}

/// What clients and files may cost: whatever stands there, or connects, memory stays bounded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Bytes of one file. The largest chain seen in practice has 200 kB.
    pub file_bytes: usize,
    /// Files in one folder.
    pub files: usize,
    /// Credential folders in all roots together.
    pub credentials: usize,
    /// Connections at once. Envoy opens one for each 1,024 secrets.
    pub connections: usize,
    /// Streams at once on all connections together.
    pub streams: usize,
    /// Streams at once on a connection. Envoy opens one for each secret.
    pub streams_per_connection: usize,
    /// Names that a stream may be subscribed to. Envoy asks for one.
    pub names_per_stream: usize,
    /// Bytes of one request. The largest of Envoy's is its first, with 61 kB of node.
    pub request_bytes: usize,
    /// Bytes that are kept of what clients have sent: names subscribed to, requests on their way in and
    /// names on their way back.
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
