//! Certificates that were served earlier, and when they were replaced. `sds-agent probe` uses them to identify
//! what a listener still presents.

use std::sync::Arc;
use std::time::SystemTime;

use rpds::{HashTrieMapSync, QueueSync};

use crate::credential::Fingerprint;
use crate::secret::{Name, Version};

/// How many certificates are remembered at least.
const AT_LEAST: usize = 1000;

/// How many more are remembered for each folder: some months of weekly renewals.
const PER_FOLDER: usize = 4;

/// A certificate that is no longer served.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Replaced {
    /// Its credential.
    pub credential: Name,
    /// Its serial number, in lower-case hexadecimal.
    pub serial: String,
    /// The version of the secret that it was last served in.
    pub version: Version,
    /// When it was replaced, or its credential was removed.
    pub until: SystemTime,
}

/// The most recent of the certificates that were replaced or removed since the start. Cloning is cheap.
#[derive(Clone, Default)]
pub(super) struct History {
    by_leaf: HashTrieMapSync<Fingerprint, Arc<Replaced>>,
    /// The oldest first. A leaf that was served and replaced again is in it twice.
    order: QueueSync<(Fingerprint, Arc<Replaced>)>,
}

impl History {
    /// Adds a replaced certificate, and drops the oldest ones beyond the limit for this number of folders.
    pub(super) fn push(&mut self, leaf: Fingerprint, replaced: Replaced, folders: usize) {
        let replaced = Arc::new(replaced);
        self.by_leaf.insert_mut(leaf, replaced.clone());
        self.order.enqueue_mut((leaf, replaced));
        while self.order.len() > AT_LEAST + PER_FOLDER * folders {
            self.forget_oldest();
        }
    }

    pub(super) fn get(&self, leaf: &Fingerprint) -> Option<&Replaced> {
        self.by_leaf.get(leaf).map(|replaced| &**replaced)
    }

    fn forget_oldest(&mut self) {
        let Some((leaf, replaced)) = self.order.peek().cloned() else {
            return;
        };
        self.order.dequeue_mut();
        let is_latest = |latest: &Arc<Replaced>| Arc::ptr_eq(latest, &replaced);
        if self.by_leaf.get(&leaf).is_some_and(is_latest) {
            self.by_leaf.remove_mut(&leaf);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn replaced(serial: usize) -> (Fingerprint, Replaced) {
        let replaced = Replaced {
            credential: "site".into(),
            serial: serial.to_string(),
            version: Version::of(Default::default()),
            until: SystemTime::UNIX_EPOCH,
        };
        (Fingerprint::of(&serial.to_le_bytes()), replaced)
    }

    #[test]
    fn the_oldest_are_forgotten_and_no_more_than_that() {
        let mut history = History::default();
        let limit = AT_LEAST + PER_FOLDER;
        for serial in 0..limit {
            let (leaf, entry) = replaced(serial);
            history.push(leaf, entry, 1);
        }
        // The first one comes back, and is replaced again.
        let (first, entry) = replaced(0);
        history.push(first, entry.clone(), 1);
        assert_eq!(history.get(&first), Some(&entry));
        assert!(history.get(&replaced(1).0).is_some());
        let (leaf, entry) = replaced(limit);
        history.push(leaf, entry, 1);
        assert!(history.get(&replaced(1).0).is_none());
        assert!(history.get(&first).is_some() && history.get(&leaf).is_some());
        assert_eq!(history.order.len(), limit);
    }
}
