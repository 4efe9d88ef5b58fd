//! What `sds-agent probe` compares the certificate of a TLS listener with. Certificates are identified by their
//! fingerprints, so that no private key leaves the agent.

use std::sync::Arc;
use std::time::SystemTime;

use serde::{Deserialize, Serialize};

use crate::credential::Fingerprint;
use crate::inventory::{Credential, Replaced, Snapshot};
use crate::name::{self, Host};
use crate::report::Time;
use crate::secret::{Facts, Kind};

/// A certificate that is served.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Served {
    /// The credential that it belongs to.
    pub credential: String,
    /// The version of its secret.
    pub version: String,
    /// Since when this version is served.
    pub since: Time,
    /// Its serial number, in lower-case hexadecimal.
    pub serial: String,
    /// The end of its validity.
    pub not_after: Time,
    /// The type of its key, such as `P-256` or `RSA 2048`.
    pub key_type: String,
    /// The certificates of its chain, leaf first.
    pub chain: Vec<Fingerprint>,
    /// The OCSP staple that is sent with it, if any.
    pub staple: Option<Fingerprint>,
}

/// What is known about a certificate that a listener presents.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Known {
    /// The credentials that serve it now.
    pub served: Vec<Served>,
    /// If no credential serves it now: which one served it last, and until when.
    pub replaced: Option<Was>,
    /// Since when replaced certificates have been recorded: the start of the agent.
    pub known_since: Time,
}

/// A certificate that was served earlier.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Was {
    /// The credential that it belonged to.
    pub credential: String,
    /// The version of the secret that it was last served in.
    pub version: String,
    /// When another one replaced it, or the credential was removed.
    pub until: Time,
}

/// The hosts that the certificates cover, including wildcards.
pub(super) fn hosts(snapshot: &Snapshot) -> Vec<String> {
    let covered = snapshot.covered();
    covered.iter().map(ToString::to_string).collect()
}

/// What is served for that name: first what a client that requests it gets, then the other certificates that cover
/// it, in the order of lookup.
pub(super) fn served(snapshot: &Snapshot, requested: &str, now: SystemTime) -> Vec<Served> {
    let found = snapshot.lookup(requested, now, &|_| true).found();
    let found = found.filter(|found| found.secret.kind() == Kind::Certificate);
    let found = found.and_then(|found| snapshot.winner(&found.credential));
    let host = Host::parse(name::plain(requested));
    let covering = host.iter().flat_map(|host| snapshot.covering(host, now));
    let mut credentials: Vec<&Arc<Credential>> = Vec::new();
    for credential in found.into_iter().chain(covering) {
        if !credentials.iter().any(|one| one.name == credential.name) {
            credentials.push(credential);
        }
    }
    credentials.into_iter().filter_map(|one| of(one)).collect()
}

/// What is known about the certificate with this fingerprint. The agent was started at `started`.
pub(super) fn known(snapshot: &Snapshot, leaf: &Fingerprint, started: SystemTime) -> Known {
    let serving = snapshot.serving(leaf).into_iter();
    let served: Vec<Served> = serving.filter_map(|one| of(one)).collect();
    let replaced = snapshot.replaced(leaf).filter(|_| served.is_empty());
    Known {
        served,
        replaced: replaced.map(Was::from),
        known_since: started.into(),
    }
}

fn of(credential: &Credential) -> Option<Served> {
    let (secret, pair) = (credential.secret(Kind::Certificate)?, credential.pair()?);
    let staple = match secret.staple().map(|staple| staple.facts()) {
        Some(Facts::OcspStaple(staple)) => Some(staple.fingerprint),
        _ => None,
    };
    Some(Served {
        credential: credential.name.to_string(),
        version: secret.version().to_string(),
        since: secret.since().into(),
        serial: pair.leaf.serial().to_owned(),
        not_after: pair.leaf.not_after.into(),
        key_type: pair.key_type.to_string(),
        chain: pair.chain.to_vec(),
        staple,
    })
}

impl From<&Replaced> for Was {
    fn from(replaced: &Replaced) -> Self {
        Self {
            credential: replaced.credential.to_string(),
            version: replaced.version.to_string(),
            until: replaced.until.into(),
        }
    }
}
