//! What the mirror notes in each folder that it makes: where it came from. It is in the generation
//! that it speaks of, so that both change in one step.

use serde::{Deserialize, Serialize};

use crate::cluster::Cluster;
use crate::select::Id;

/// The manifest's file name; sds-agent passes over names that begin with `..`.
pub(crate) const FILE_NAME: &str = "..sds-mirror.json";
/// Bytes of a manifest that are read at most.
pub(crate) const MAX_BYTES: usize = 64 * 1024;

/// Where the files of a folder came from.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Manifest {
    /// The cluster.
    pub(crate) cluster: Cluster,
    /// The Secret's namespace.
    pub(crate) namespace: String,
    /// The Secret's name.
    pub(crate) name: String,
    /// The Secret's uid: another one is another Secret, whatever its name.
    pub(crate) uid: String,
    /// The Secret's resource version.
    pub(crate) resource_version: String,
}

impl Manifest {
    /// The Secret's place in the cluster.
    pub(crate) fn id(&self) -> Id {
        Id {
            namespace: self.namespace.clone(),
            name: self.name.clone(),
        }
    }

    /// The manifest as the bytes of its file.
    pub(crate) fn to_bytes(&self) -> Vec<u8> {
        let mut bytes = serde_json::to_vec_pretty(self).unwrap_or_default();
        bytes.push(b'\n');
        bytes
    }

    /// The manifest that a file holds; `None` when it is none.
    pub(crate) fn from_bytes(bytes: &[u8]) -> Option<Self> {
        serde_json::from_slice(bytes).ok()
    }
}
