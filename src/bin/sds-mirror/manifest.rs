//! The manifest in each folder that the mirror creates: the origin of the folder, and whether its removal is
//! held back. It is stored in the generation that it describes, so that both change atomically.

use serde::{Deserialize, Serialize};

use crate::cluster::Cluster;
use crate::select::{Id, Kind};

/// The manifest's file name; sds-agent skips names that begin with `..`.
pub(crate) const FILE_NAME: &str = "..sds-mirror.json";
/// The maximum size of a manifest in bytes.
pub(crate) const MAX_BYTES: usize = 64 * 1024;

/// Where the files of a folder came from.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Manifest {
    /// The cluster.
    pub(crate) cluster: Cluster,
    /// The kind of the object.
    #[serde(default, skip_serializing_if = "is_secret")]
    pub(crate) kind: Kind,
    /// The object's namespace.
    pub(crate) namespace: String,
    /// The object's name.
    pub(crate) name: String,
    /// The object's uid: an object with another uid is another object, even with the same name.
    pub(crate) uid: String,
    /// The object's resource version.
    pub(crate) resource_version: String,
    /// When the files were last written, in seconds since 1970.
    #[serde(default)]
    pub(crate) written: u64,
    /// Whether the removal is held back: the object is gone, and the folder stays until the object is back or the
    /// operator releases the folder.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub(crate) held: bool,
}

fn is_secret(kind: &Kind) -> bool {
    *kind == Kind::Secret
}

impl Manifest {
    /// The object's place in the cluster.
    pub(crate) fn id(&self) -> Id {
        Id {
            kind: self.kind,
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

    /// Parses a manifest; `None` if it is not one.
    pub(crate) fn from_bytes(bytes: &[u8]) -> Option<Self> {
        serde_json::from_slice(bytes).ok()
    }
}

/// An entry of the output folder.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Found {
    /// A folder that the mirror made, with its manifest.
    Ours(Manifest),
    /// Anything else. It is never changed.
    Foreign,
    /// It can't be read, so its origin is unknown. It is never changed either.
    Unreadable(String),
}
