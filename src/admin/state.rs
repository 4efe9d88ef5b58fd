//! The state of the agent, as `sds-agent status`, `/status` and the page show it. Its JSON is
//! described in `docs/status.md`; a field is added there and here, and none changes its meaning.

use std::collections::BTreeMap;
use std::fmt;
use std::time::{Duration, SystemTime};

use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// Everything. Holds no key material.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct State {
    /// The agent itself.
    pub agent: Agent,
    /// What is served: trouble first, then by name.
    pub secrets: Vec<Secret>,
    /// Folders of which nothing is served, by name.
    pub folders: Vec<Folder>,
    /// Names that clients wait for and that do not exist.
    pub waiting: Waiting,
    /// The roots, the most important first.
    pub roots: Vec<Root>,
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
    /// How long ago that was, by a clock that nobody sets.
    pub uptime_seconds: u64,
    /// The time of this state.
    pub now: Time,
    /// Its configuration file, if any.
    pub config: Option<String>,
    /// Why the configuration was refused when it was last read; the previous one is in force then.
    #[serde(default)]
    pub config_error: Option<String>,
    /// The socket for Envoy.
    pub socket: String,
    /// How many days before its end a certificate is warned of at most, where its root or `[[secret]]`
    /// has no setting of its own.
    pub warn_days: u32,
    /// Whether all roots were read and clients are served.
    pub ready: bool,
    /// What it is waiting for, where it is not ready.
    pub waiting_for: Vec<String>,
    /// What is wrong though it is ready: roots that can't be read, a configuration that was refused.
    #[serde(default)]
    pub degraded: Vec<String>,
    /// The credential for hosts that none covers, if any.
    #[serde(default)]
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

/// The worst that is to be said of a secret or a folder. The order is that of urgency.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize,
)]
#[serde(rename_all = "snake_case")]
pub enum Condition {
    /// What is in the folder can't be served, and nothing is.
    Rejected,
    /// What is in the folder can't be served, and the last good content still is.
    LastGood,
    /// A client refused it.
    Nacked,
    /// A certificate is past its end.
    Expired,
    /// A certificate's time has not come.
    NotYetValid,
    /// Less than a quarter of the lifetime of a certificate is left, and at most `warn_days`.
    ExpiresSoon,
    /// It is served with a warning.
    Warning,
    /// All is well.
    #[default]
    Ok,
    /// A folder of the same name in an earlier root is served in its place.
    Hidden,
    /// It is not served on purpose, by its name or a file `token` in it.
    PassedOver,
}

/// A secret that is served.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Secret {
    /// Its name.
    pub name: String,
    /// `certificate`, `trust_bundle`, `session_ticket_keys` or `generic`.
    pub kind: String,
    /// The worst that is to be said of it.
    pub state: Condition,
    /// A hash of its content.
    pub version: String,
    /// Since when it is this version that is served.
    pub since: Time,
    /// The end of its leaf, or of the CA certificate that ends next.
    pub not_after: Option<Time>,
    /// The beginning of that certificate.
    pub not_before: Option<Time>,
    /// How many days before its end it is warned of at most.
    #[serde(default)]
    pub warn_days: u32,
    /// When the OCSP staple that is sent with it ends, if there is one and it says so.
    #[serde(default)]
    pub staple_next_update: Option<Time>,
    /// The credential that it comes from: the name of the folder.
    pub credential: String,
    /// The root that it comes from.
    pub root: String,
    /// The folder that it comes from.
    pub folder: String,
    /// The files in it that it comes from.
    pub files: Vec<String>,
    /// The DNS names and IP addresses that the leaf covers.
    pub names: Vec<String>,
    /// The subjects: the leaf's, or those of the CA certificates.
    pub subjects: Vec<String>,
    /// The leaf's issuer.
    pub issuer: Option<String>,
    /// The leaf's serial number, in lower-case hexadecimal.
    pub serial: Option<String>,
    /// The type of the key, as `P-256` or `RSA 2048`.
    pub key_type: Option<String>,
    /// What keeps the present files of the folder from being served; this is the last good then.
    pub problems: Vec<Problem>,
    /// What is worth a warning.
    pub warnings: Vec<Problem>,
    /// The streams that wait for it.
    pub subscribers: Vec<Subscriber>,
}

/// A folder of which nothing is served, or a part of one.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Folder {
    /// Its name.
    pub name: String,
    /// The kind of the part that is not served, where the rest is.
    #[serde(default)]
    pub kind: Option<String>,
    /// `rejected`, `hidden` or `passed_over`.
    pub state: Condition,
    /// The root that it is in.
    pub root: String,
    /// Its path.
    pub folder: String,
    /// What keeps its files from being served.
    pub problems: Vec<Problem>,
}

/// What is wrong with files.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Problem {
    /// The kind, from a fixed set.
    pub reason: String,
    /// The file or folder.
    pub path: String,
    /// What is wrong.
    pub what: String,
    /// What to do about it.
    pub remedy: String,
}

/// A stream that waits for a secret.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Subscriber {
    /// `sotw`, `delta` or `fetch`.
    pub protocol: String,
    /// The id that the client gives itself, `-` where it gave none.
    pub node: String,
    /// The cluster that the client counts itself to, `-` where it named none.
    pub cluster: String,
    /// The user's number.
    pub uid: u32,
    /// The user's name, where there is one.
    pub user: Option<String>,
    /// The process's number, where the agent can see it.
    pub pid: Option<u32>,
    /// The process's name, where the agent can see it.
    pub process: Option<String>,
    /// Since when the stream is open.
    pub since: Time,
    /// The name that it asked for: that of the secret, or of a host that the certificate covers.
    #[serde(default)]
    pub requested: String,
    /// Whether the client has the version that is served now.
    #[serde(default)]
    pub current: bool,
    /// The version that it was sent last; none before the first time.
    pub version: Option<String>,
    /// When it was sent that.
    pub sent: Option<Time>,
    /// What the client said to it.
    pub answer: Answer,
    /// When it said that.
    pub answered: Option<Time>,
    /// Its own words, where it refused.
    pub error: Option<String>,
}

/// What a client said to what it was sent last.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Answer {
    /// Nothing yet.
    None,
    /// It took it.
    Ack,
    /// It refused it.
    Nack,
}

/// Names that clients wait for and that do not exist.
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
    /// The name, as clients asked for it.
    pub name: String,
    /// How many streams wait for it.
    pub streams: usize,
}

/// A root.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Root {
    /// Its path.
    pub path: String,
    /// Whether it, and every folder in it, has been read.
    pub read: bool,
    /// Whether it exists; none while that is not known.
    pub present: Option<bool>,
    /// Whether it could be listed completely at least once since the agent was started.
    #[serde(default)]
    pub listed: bool,
    /// Whether it exists and could be read when it was last looked at; none while that is not known.
    #[serde(default)]
    pub readable: Option<bool>,
    /// How many credential folders it holds.
    pub folders: usize,
    /// What in it is not served, besides what is said of its folders.
    pub problems: Vec<Problem>,
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
    /// Times that watching began anew.
    pub rebuilds: u64,
    /// Changes that no event had told of, found by looking.
    pub missed: u64,
    /// How many roots and folders are polled for want of a watch, by reason.
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

/// A point in time: RFC 3339 in JSON.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Time(SystemTime);

impl Default for Time {
    /// The beginning of 1970.
    fn default() -> Self {
        Self(SystemTime::UNIX_EPOCH)
    }
}

impl Waiting {
    /// How many names are listed: clients choose them, so there may be any number.
    pub const SHOWN: usize = 100;
}

impl Watch {
    /// How many polled paths are listed.
    pub const SHOWN: usize = 100;
}

impl Time {
    /// The point in time.
    pub fn get(self) -> SystemTime {
        self.0
    }
}

impl From<SystemTime> for Time {
    /// To the millisecond.
    fn from(time: SystemTime) -> Self {
        let since = time.duration_since(SystemTime::UNIX_EPOCH);
        let millis = since.unwrap_or_default().as_millis();
        let millis = u64::try_from(millis).unwrap_or(u64::MAX);
        Self(SystemTime::UNIX_EPOCH + Duration::from_millis(millis))
    }
}

impl fmt::Display for Time {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let since = self.0.duration_since(SystemTime::UNIX_EPOCH);
        match since.unwrap_or_default().subsec_millis() {
            0 => humantime::format_rfc3339_seconds(self.0).fmt(f),
            _ => humantime::format_rfc3339_millis(self.0).fmt(f),
        }
    }
}

impl Serialize for Time {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Time {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        humantime::parse_rfc3339(&text)
            .map(Self)
            .map_err(serde::de::Error::custom)
    }
}
