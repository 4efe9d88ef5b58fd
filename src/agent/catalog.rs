//! Credential folders → the names that they are served under, and which of several has a name.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use super::folder::Parts;
use crate::secret::{Name, Secret};
use crate::store::Store;

/// What a trust bundle's name ends in, as with Istio's gateway.
const CACERT: &str = "-cacert";

/// Publishes what folders serve. Of folders with the same name in several roots, the first one
/// that has something to serve has the name.
pub(crate) struct Catalog {
    store: Arc<Store>,
    /// Folder name → rank of its root, the lowest first → parts.
    folders: HashMap<Arc<str>, BTreeMap<usize, Parts>>,
}

impl Catalog {
    /// Publishes to `store`.
    pub(crate) fn new(store: Arc<Store>) -> Self {
        Self {
            store,
            folders: HashMap::new(),
        }
    }

    /// Makes `parts` what the folder `name` of the root of that rank serves.
    pub(crate) fn set(&mut self, name: &Arc<str>, rank: usize, parts: Parts) {
        let ranks = self.folders.entry(name.clone()).or_default();
        if parts.is_empty() {
            ranks.remove(&rank);
        } else {
            ranks.insert(rank, parts);
        }
        if ranks.is_empty() {
            self.folders.remove(name);
        }
        self.publish_all(name);
    }

    /// Makes these the folders there are, by name, rank and parts. What stays the same is not
    /// published again.
    pub(crate) fn replace(&mut self, folders: impl Iterator<Item = (Arc<str>, usize, Parts)>) {
        let before: Vec<_> = self.folders.drain().map(|(name, _)| name).collect();
        for (name, rank, parts) in folders.filter(|(_, _, parts)| !parts.is_empty()) {
            self.folders.entry(name).or_default().insert(rank, parts);
        }
        let now: Vec<_> = self.folders.keys().cloned().collect();
        before
            .iter()
            .chain(&now)
            .for_each(|name| self.publish_all(name));
    }

    /// The rank of the root whose folder of that name is served.
    pub(crate) fn winner(&self, name: &str) -> Option<usize> {
        Some(*self.folders.get(name)?.first_key_value()?.0)
    }

    /// Publishes every secret that a folder of that name has a say in.
    fn publish_all(&self, name: &Arc<str>) {
        self.publish(name);
        if !name.ends_with(CACERT) {
            self.publish(&format!("{name}{CACERT}").into());
        }
    }

    fn publish(&self, name: &Name) {
        match self.secret(name) {
            Some(secret) => {
                self.store.set(Arc::new(secret));
            }
            None => {
                self.store.remove(name);
            }
        }
    }

    /// The secret of that name. A folder of its own named `NAME-cacert` wins over a bundle in `NAME`.
    fn secret(&self, name: &Name) -> Option<Secret> {
        let stem = name.strip_suffix(CACERT);
        let own = self.parts(name).and_then(|parts| {
            let pair = || {
                parts
                    .pair
                    .as_ref()
                    .map(|pair| Secret::certificate(name.clone(), pair))
            };
            let bundle = || Some(Secret::trust_bundle(name.clone(), parts.bundle.as_ref()?));
            match stem {
                Some(_) => bundle().or_else(pair),
                None => pair().or_else(|| parts.alone.then(bundle).flatten()),
            }
        });
        own.or_else(|| {
            let bundle = self.parts(stem?)?.bundle.as_ref()?;
            Some(Secret::trust_bundle(name.clone(), bundle))
        })
    }

    fn parts(&self, name: &str) -> Option<&Parts> {
        Some(self.folders.get(name)?.first_key_value()?.1)
    }
}
