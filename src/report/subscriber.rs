//! A stream that is subscribed to a secret.

use serde::{Deserialize, Serialize};

use super::Time;
use crate::sds::ledger::{self, Account, Delivery};
use crate::secret::Secret;

/// A stream that is subscribed to a secret.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Subscriber {
    /// `sotw`, `delta` or `fetch`.
    pub protocol: String,
    /// The client's node id, `-` where it sent none.
    pub node: String,
    /// The client's cluster, `-` where it sent none.
    pub cluster: String,
    /// The user id of the client's process.
    pub uid: u32,
    /// The user's name, where there is one.
    pub user: Option<String>,
    /// The process id, where the agent can see it.
    pub pid: Option<u32>,
    /// The name of the process, where the agent can see it.
    pub process: Option<String>,
    /// When the stream was opened.
    pub since: Time,
    /// The name that it requested: that of the secret, or a host that the certificate covers.
    pub requested: String,
    /// Which version of the secret the client has.
    pub standing: Standing,
    /// Whether the client has the version that is served now.
    pub current: bool,
    /// The version that the client has: the one that it was sent last, or reported when it connected.
    pub version: Option<String>,
    /// When it was sent that version; `None` if it had it before this stream.
    pub sent: Option<Time>,
    /// The client's answer to it.
    pub answer: Answer,
    /// When the client answered.
    pub answered: Option<Time>,
    /// The client's error message, if it rejected the version.
    pub error: Option<String>,
}

/// Which version of a secret its client has. The order is by urgency.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Standing {
    /// It rejected the version that it was sent last.
    Rejected,
    /// It has not been sent any version.
    NothingSent,
    /// It has another version than the one that is served.
    Outdated,
    /// It has the version that is served.
    UpToDate,
}

/// A client's answer to the last version that it was sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Answer {
    /// None so far.
    None,
    /// It accepted the version.
    Ack,
    /// It rejected the version.
    Nack,
}

impl Subscriber {
    /// The stream `account`, which requested `secret` as `name` and was sent `delivery`.
    pub(crate) fn of(account: &Account, name: &str, delivery: Delivery, secret: &Secret) -> Self {
        let peer = account.peer();
        let is_current =
            (delivery.version.as_deref()).is_some_and(|held| secret.version() == *held);
        let standing = match (&delivery.answer, &delivery.version) {
            (ledger::Answer::Nack(..), _) => Standing::Rejected,
            (_, None) => Standing::NothingSent,
            (_, Some(_)) if is_current => Standing::UpToDate,
            (_, Some(_)) => Standing::Outdated,
        };
        let (answer, answered, error) = match delivery.answer {
            ledger::Answer::None => (Answer::None, None, None),
            ledger::Answer::Ack(at) => (Answer::Ack, Some(at), None),
            ledger::Answer::Nack(at, error) => (Answer::Nack, Some(at), Some(error.to_string())),
        };
        Self {
            protocol: account.protocol().as_str().to_owned(),
            node: account.node_id().to_owned(),
            cluster: account.cluster().to_owned(),
            uid: peer.uid,
            user: peer.user.as_deref().map(str::to_owned),
            pid: peer.pid,
            process: peer.process.as_deref().map(str::to_owned),
            since: account.since().into(),
            requested: name.to_owned(),
            standing,
            current: standing == Standing::UpToDate,
            version: delivery.version.as_deref().map(str::to_owned),
            sent: delivery.sent.map(Into::into),
            answer,
            answered: answered.map(Into::into),
            error,
        }
    }
}

impl Standing {
    /// All of them, the most urgent first.
    pub const ALL: [Self; 4] = [
        Self::Rejected,
        Self::NothingSent,
        Self::Outdated,
        Self::UpToDate,
    ];

    /// The same in words.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Rejected => "rejected",
            Self::NothingSent => "nothing sent",
            Self::Outdated => "outdated",
            Self::UpToDate => "up to date",
        }
    }
}
