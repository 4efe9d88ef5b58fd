//! Certificates that were served earlier, and when they were replaced. `sds-agent probe` uses them to identify
//! what a listener still presents.

use std::cmp::Ordering;
use std::sync::Arc;
use std::time::SystemTime;

use super::sorted::{Entry, Sorted};
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
    by_leaf: Sorted<ByLeaf>,
    /// The same ones, the oldest first.
    by_age: Sorted<ByAge>,
    /// How many were ever added.
    count: u64,
}

/// A certificate in the history.
struct Remembered {
    leaf: Fingerprint,
    /// Its number among all that were ever added.
    number: u64,
    replaced: Replaced,
}

#[derive(Clone)]
struct ByLeaf(Arc<Remembered>);

#[derive(Clone)]
struct ByAge(Arc<Remembered>);

impl History {
    /// Adds a replaced certificate, and drops the oldest ones beyond the limit for this number of folders.
    pub(super) fn push(&mut self, leaf: Fingerprint, replaced: Replaced, folders: usize) {
        self.count += 1;
        let remembered = Arc::new(Remembered {
            leaf,
            number: self.count,
            replaced,
        });
        self.by_age.insert(ByAge(remembered.clone()));
        if let Some(ByLeaf(earlier)) = self.by_leaf.insert(ByLeaf(remembered)) {
            self.by_age.remove(|one| one.0.number.cmp(&earlier.number));
        }
        let excess = self
            .by_age
            .len()
            .saturating_sub(AT_LEAST + PER_FOLDER * folders);
        let oldest: Vec<_> = self.by_age.iter().take(excess).cloned().collect();
        for ByAge(oldest) in oldest {
            self.by_age.remove(|one| one.0.number.cmp(&oldest.number));
            self.by_leaf.remove(|one| one.0.leaf.cmp(&oldest.leaf));
        }
    }

    pub(super) fn get(&self, leaf: &Fingerprint) -> Option<&Replaced> {
        let found = self.by_leaf.get(|one| one.0.leaf.cmp(leaf))?;
        Some(&found.0.replaced)
    }
}

impl Entry for ByLeaf {
    fn order(&self, other: &Self) -> Ordering {
        self.0.leaf.cmp(&other.0.leaf)
    }
}

impl Entry for ByAge {
    fn order(&self, other: &Self) -> Ordering {
        self.0.number.cmp(&other.0.number)
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
    fn only_the_oldest_are_dropped() {
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
        assert_eq!(history.by_age.len(), limit);
    }
}
