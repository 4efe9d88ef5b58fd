//! What `check`, `status`, the page and the metrics show about the credentials. The JSON of these types is
//! described in `docs/status.md`: add a new field there too. A change that breaks programs needs a new
//! [`Report::FORMAT`].

mod credential;
mod probe;
mod subscriber;
mod time;

use serde::{Deserialize, Serialize};

pub use self::credential::Subscribers;
pub(crate) use self::credential::text;
pub use self::probe::{Probe, Verdict};
pub use self::subscriber::{Answer, Standing, Subscriber};
pub use self::time::Time;

/// What is known about the credentials and their roots. Contains no key material.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Report {
    /// The version of this JSON.
    pub format: u32,
    /// The time of this report.
    pub now: Time,
    /// The most urgent state of all credentials and roots.
    pub state: State,
    /// The credentials, sorted by urgency, then by expiry, then by name.
    pub credentials: Vec<Credential>,
    /// The roots, in order of precedence.
    pub roots: Vec<Root>,
}

/// The state of a credential, a secret or a root: the most urgent one that applies. The order is by urgency.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize,
)]
#[serde(rename_all = "snake_case")]
pub enum State {
    /// The current files can't be used, the certificate is not valid yet, or a client rejected it. The previous
    /// version is served, if there is one.
    Rejected,
    /// A certificate has expired.
    Expired,
    /// A certificate, revocation list or OCSP staple expires soon.
    Expiring,
    /// It is served. There may be warnings.
    #[default]
    Ok,
    /// It is intentionally not served: its name is reserved, another root has the name, or it has a file `token`.
    Skipped,
}

/// A credential: the parts of one folder, or of the files of one name in a flat root.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Credential {
    /// Its name.
    pub name: String,
    /// Its state.
    pub state: State,
    /// The root that it is in.
    pub root: String,
    /// The folder that its files are in.
    pub folder: String,
    /// The secrets that are served from it.
    pub secrets: Vec<Secret>,
    /// The names of the files that belong to no part of it.
    pub skipped_files: Vec<String>,
    /// Why current files are not served.
    pub problems: Vec<Problem>,
    /// Conditions that don't keep it from being served.
    pub warnings: Vec<Problem>,
    /// What `sds-agent probe` saw at TLS listeners: the last result for each, the newest first.
    #[serde(default)]
    pub probes: Vec<Probe>,
}

/// A secret that is served: one part of a credential.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Secret {
    /// The name that clients request.
    pub name: String,
    /// `certificate`, `trust_bundle`, `session_ticket_keys` or `generic`.
    pub kind: String,
    /// Its state.
    pub state: State,
    /// A hash of its content.
    pub version: String,
    /// Since when this version is served.
    pub since: Time,
    /// Whether it is the previous version, because the current files were rejected.
    pub is_previous: bool,
    /// The beginning of validity of its leaf, or of the CA certificate that expires next.
    pub not_before: Option<Time>,
    /// When that certificate expires.
    pub not_after: Option<Time>,
    /// It is `expiring` at most this many days before its end.
    pub warn_days: u32,
    /// The names of the files that it comes from.
    pub files: Vec<String>,
    /// The type of the private key, such as `P-256` or `RSA 2048`.
    pub key_type: Option<String>,
    /// The chain, leaf first, or the CA certificates.
    pub certificates: Vec<Certificate>,
    /// The OCSP staple that is sent with it.
    pub staple: Option<Staple>,
    /// The streams that are subscribed to it.
    pub subscribers: Vec<Subscriber>,
}

/// A certificate of a chain or a trust bundle.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Certificate {
    /// The subject.
    pub subject: String,
    /// The issuer.
    pub issuer: String,
    /// The serial number, in lower-case hexadecimal.
    pub serial: String,
    /// The DNS names and IP addresses that it covers.
    pub names: Vec<String>,
    /// The beginning of its validity.
    pub not_before: Time,
    /// The end of its validity.
    pub not_after: Time,
}

/// An OCSP staple.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Staple {
    /// The beginning of its validity.
    pub this_update: Time,
    /// The end of its validity, if it has one.
    pub next_update: Option<Time>,
}

/// A problem with files.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Problem {
    /// The kind of the part that it concerns, if it concerns only one.
    pub kind: Option<String>,
    /// The reason, from a fixed set.
    pub reason: String,
    /// The file or folder.
    pub path: String,
    /// What is wrong.
    pub what: String,
    /// What to do about it.
    pub remedy: String,
}

/// A root.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Root {
    /// Its path.
    pub path: String,
    /// `rejected` if it is missing, can't be read, or does not have the expected layout; else `ok`.
    pub state: State,
    /// Whether it, and every folder in it, has been read.
    pub read: bool,
    /// Whether it exists; `None` while that is not known.
    pub present: Option<bool>,
    /// Whether it could be listed completely at least once since the agent was started.
    pub listed: bool,
    /// Whether it exists and could be read when it was last listed; `None` while that is not known.
    pub readable: Option<bool>,
    /// The number of its credentials.
    pub folders: usize,
    /// What is wrong with it.
    pub problems: Vec<Problem>,
    /// Conditions that don't keep credentials in it from being served.
    pub warnings: Vec<Problem>,
}

impl Report {
    /// The version of the JSON.
    pub const FORMAT: u32 = 2;

    /// The secrets of all credentials.
    pub fn secrets(&self) -> impl Iterator<Item = &Secret> {
        self.credentials.iter().flat_map(|one| &one.secrets)
    }

    /// The same report, with only the credentials that `keeps` accepts.
    pub fn retain(&mut self, keeps: impl FnMut(&Credential) -> bool) {
        self.credentials.retain(keeps);
        self.state = self.worst();
    }

    fn worst(&self) -> State {
        let credentials = self.credentials.iter().map(|one| one.state);
        let all = credentials.chain(self.roots.iter().map(|root| root.state));
        all.min().unwrap_or_default()
    }
}

impl State {
    /// Every state, the most urgent first.
    pub const ALL: [Self; 5] = [
        Self::Rejected,
        Self::Expired,
        Self::Expiring,
        Self::Ok,
        Self::Skipped,
    ];

    /// The state as a word in JSON, tables and metrics.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Rejected => "rejected",
            Self::Expired => "expired",
            Self::Expiring => "expiring",
            Self::Ok => "ok",
            Self::Skipped => "skipped",
        }
    }
}

impl Credential {
    /// The end of the secret that expires first.
    pub fn not_after(&self) -> Option<Time> {
        self.secrets
            .iter()
            .filter_map(|secret| secret.not_after)
            .min()
    }
}
