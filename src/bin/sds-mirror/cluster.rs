//! The identity of the cluster: folders of one cluster must not be changed by the objects of another.

use std::collections::BTreeSet;
use std::fmt;

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

/// The identity of a cluster, as far as an account with access only to Secrets can know it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Cluster {
    /// The uid of the namespace `kube-system`, which identifies the cluster by convention. It is unknown if the
    /// account is not allowed to get that namespace.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) uid: Option<String>,
    /// Hashes of the CA certificates that its API server is checked against.
    #[serde(default, skip_serializing_if = "BTreeSet::is_empty")]
    pub(crate) ca: BTreeSet<String>,
    /// The API server's URL.
    pub(crate) server: String,
}

impl Cluster {
    /// The cluster of the API server at `server`, whose certificate is verified with `cas` (DER).
    pub(crate) fn new(server: impl Into<String>, cas: &[Vec<u8>]) -> Self {
        Self {
            uid: None,
            ca: cas.iter().map(|der| hash(der)).collect(),
            server: server.into(),
        }
    }

    /// How this cluster differs from `other`; `None` if they are the same. The uid decides if both are known,
    /// otherwise a common CA, so that CAs can be rotated and servers moved. The URL only counts if no CA is
    /// known, because a recreated cluster often has the same URL.
    pub(crate) fn difference(&self, other: &Self) -> Option<String> {
        match (&self.uid, &other.uid) {
            (Some(a), Some(b)) => (a != b).then(|| differ("uid", a, b)),
            _ if self.ca.is_empty() && other.ca.is_empty() => {
                (self.server != other.server).then(|| differ("URL", &self.server, &other.server))
            }
            _ if self.ca.is_disjoint(&other.ca) => {
                Some(differ("CA", &list(&self.ca), &list(&other.ca)))
            }
            _ => None,
        }
    }
}

fn differ(what: &str, this: &str, other: &str) -> String {
    format!("its {what} is {this}, not {other}")
}

fn list(hashes: &BTreeSet<String>) -> String {
    match hashes.is_empty() {
        true => "unknown".to_owned(),
        false => hashes
            .iter()
            .map(String::as_str)
            .collect::<Vec<_>>()
            .join(" and "),
    }
}

impl fmt::Display for Cluster {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.server)?;
        match (&self.uid, self.ca.first()) {
            (Some(uid), _) => write!(f, " (uid {uid})"),
            (None, Some(ca)) => write!(f, " (CA {ca})"),
            (None, None) => Ok(()),
        }
    }
}

/// The first half of the SHA-256 hash: enough to distinguish CAs, and short enough to read.
fn hash(der: &[u8]) -> String {
    let digest = Sha256::digest(der);
    digest[..16]
        .iter()
        .map(|byte| format!("{byte:02x}"))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cluster(uid: Option<&str>, server: &str, cas: &[&str]) -> Cluster {
        let cas: Vec<Vec<u8>> = cas.iter().map(|ca| ca.as_bytes().to_vec()).collect();
        Cluster {
            uid: uid.map(str::to_owned),
            ..Cluster::new(server, &cas)
        }
    }

    fn same(a: &Cluster, b: &Cluster) -> bool {
        a.difference(b).is_none()
    }

    #[test]
    fn the_uid_decides_if_both_are_known() {
        let a = cluster(Some("1"), "https://a", &["x"]);
        assert!(same(&a, &cluster(Some("1"), "https://b", &["y"])));
        let other = cluster(Some("2"), "https://a", &["x"]);
        assert_eq!(a.difference(&other).unwrap(), "its uid is 1, not 2");
    }

    #[test]
    fn a_common_ca_decides_if_a_uid_is_unknown() {
        let a = cluster(Some("1"), "https://a", &["old", "new"]);
        assert!(
            same(&a, &cluster(None, "https://b", &["new"])),
            "a moved server"
        );
        let recreated = cluster(None, "https://a", &["other"]);
        let difference = a.difference(&recreated).unwrap();
        assert!(difference.starts_with("its CA is "), "{difference}");
        assert!(a.difference(&cluster(None, "https://a", &[])).is_some());
    }

    #[test]
    fn the_url_decides_if_no_ca_is_known() {
        let a = cluster(None, "https://a", &[]);
        assert!(same(&a, &cluster(None, "https://a", &[])));
        let difference = a.difference(&cluster(None, "https://b", &[])).unwrap();
        assert_eq!(difference, "its URL is https://a, not https://b");
    }
}
