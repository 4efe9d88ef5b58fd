//! Credential folders → the names that they are served under, and which of several has a name.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::time::Instant;

use super::folder::Parts;
use crate::config::{Absent, Config};
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
    /// By rank of the root: the answer to names that it had and has no more.
    absent: Vec<Absent>,
}

impl Catalog {
    /// Publishes to `store`.
    pub(crate) fn new(store: Arc<Store>) -> Self {
        Self {
            store,
            folders: HashMap::new(),
            absent: Vec::new(),
        }
    }

    /// Goes by this configuration for names that are gone.
    pub(crate) fn configure(&mut self, config: &Config) {
        self.store.answer_unknown(config.absent);
        self.absent = config.roots.iter().map(|root| root.absent).collect();
    }

    /// Makes `parts` what the folder `name` of the root of that rank serves. The change was noticed
    /// at `noticed`.
    pub(crate) fn set(&mut self, name: &Arc<str>, rank: usize, parts: Parts, noticed: Instant) {
        if let Some(answer) = self.absent.get(rank).filter(|_| parts.is_empty()) {
            self.store.answer_departed(name, *answer);
            self.store.answer_departed(&bundle_name(name), *answer);
        }
        let ranks = self.folders.entry(name.clone()).or_default();
        if parts.is_empty() {
            ranks.remove(&rank);
        } else {
            ranks.insert(rank, parts);
        }
        if ranks.is_empty() {
            self.folders.remove(name);
        }
        self.publish_all(name, noticed);
    }

    /// Makes these the folders there are, by name, rank and parts. What stays the same is not
    /// published again.
    pub(crate) fn replace(&mut self, folders: impl Iterator<Item = (Arc<str>, usize, Parts)>) {
        let before: Vec<_> = self.folders.drain().map(|(name, _)| name).collect();
        for (name, rank, parts) in folders.filter(|(_, _, parts)| !parts.is_empty()) {
            self.folders.entry(name).or_default().insert(rank, parts);
        }
        let now: Vec<_> = self.folders.keys().cloned().collect();
        let noticed = Instant::now();
        before
            .iter()
            .chain(&now)
            .for_each(|name| self.publish_all(name, noticed));
    }

    /// The rank of the root whose folder of that name is served.
    pub(crate) fn winner(&self, name: &str) -> Option<usize> {
        Some(*self.folders.get(name)?.first_key_value()?.0)
    }

    /// Publishes every secret that a folder of that name has a say in.
    fn publish_all(&self, name: &Arc<str>, noticed: Instant) {
        self.publish(name, noticed);
        if !name.ends_with(CACERT) {
            self.publish(&bundle_name(name), noticed);
        }
    }

    fn publish(&self, name: &Name, noticed: Instant) {
        match self.secret(name) {
            Some(secret) => {
                self.store.set(Arc::new(secret.noticed(noticed)));
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

/// The name of the bundle in a folder that has a pair too.
fn bundle_name(folder: &str) -> Name {
    format!("{folder}{CACERT}").into()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::secret::Kind;
    use crate::secret::tests::{bundle, pair};

    fn parts(pair_content: Option<&str>, bundle_content: Option<&str>, alone: bool) -> Parts {
        Parts {
            pair: pair_content.map(|content| Arc::new(pair(content))),
            bundle: bundle_content.map(|content| Arc::new(bundle(content))),
            alone,
        }
    }

    /// The kind and version of a published secret.
    type Published = Option<(Kind, Arc<str>)>;

    /// A catalog, and a look at what it published.
    fn catalog() -> (Catalog, impl Fn(&str) -> Published) {
        let store = Arc::new(Store::default());
        let look = {
            let store = store.clone();
            move |name: &str| store.get(name).map(|s| (s.kind(), s.version().clone()))
        };
        (Catalog::new(store), look)
    }

    fn kind(secret: Published) -> Option<Kind> {
        secret.map(|(kind, _)| kind)
    }

    #[test]
    fn a_pair_has_the_folders_name_and_its_bundle_that_name_with_cacert() {
        let (mut catalog, look) = catalog();
        catalog.set(
            &"site".into(),
            0,
            parts(Some("1"), Some("ca"), false),
            Instant::now(),
        );
        assert_eq!(kind(look("site")), Some(Kind::Certificate));
        assert_eq!(kind(look("site-cacert")), Some(Kind::TrustBundle));
        catalog.set(&"site".into(), 0, Parts::default(), Instant::now());
        assert_eq!((look("site"), look("site-cacert")), (None, None));
    }

    #[test]
    fn a_bundle_has_the_folders_own_name_when_it_is_alone_or_the_name_says_so() {
        let (mut catalog, look) = catalog();
        catalog.set(
            &"ca".into(),
            0,
            parts(None, Some("ca"), false),
            Instant::now(),
        );
        assert_eq!(
            (look("ca"), kind(look("ca-cacert"))),
            (None, Some(Kind::TrustBundle))
        );
        catalog.set(
            &"ca".into(),
            0,
            parts(None, Some("ca"), true),
            Instant::now(),
        );
        assert_eq!(kind(look("ca")), Some(Kind::TrustBundle));
        catalog.set(
            &"site-cacert".into(),
            0,
            parts(Some("1"), Some("ca"), false),
            Instant::now(),
        );
        assert_eq!(kind(look("site-cacert")), Some(Kind::TrustBundle));
        assert_eq!(look("site-cacert-cacert"), None);
    }

    #[test]
    fn a_folder_of_its_own_wins_over_a_bundle_inside() {
        let (mut catalog, look) = catalog();
        catalog.set(
            &"site".into(),
            0,
            parts(Some("1"), Some("inside"), false),
            Instant::now(),
        );
        let inside = look("site-cacert");
        catalog.set(
            &"site-cacert".into(),
            1,
            parts(None, Some("own"), false),
            Instant::now(),
        );
        assert_ne!(look("site-cacert"), inside);
        catalog.set(&"site-cacert".into(), 1, Parts::default(), Instant::now());
        assert_eq!(look("site-cacert"), inside);
    }

    #[test]
    fn the_first_root_that_has_something_to_serve_has_the_name() {
        let (mut catalog, look) = catalog();
        catalog.set(
            &"site".into(),
            1,
            parts(Some("second"), None, false),
            Instant::now(),
        );
        let second = look("site");
        catalog.set(&"site".into(), 0, Parts::default(), Instant::now());
        assert_eq!(
            (look("site"), catalog.winner("site")),
            (second.clone(), Some(1))
        );
        catalog.set(
            &"site".into(),
            0,
            parts(Some("first"), None, false),
            Instant::now(),
        );
        assert_ne!(look("site"), second);
        assert_eq!(catalog.winner("site"), Some(0));
        catalog.set(&"site".into(), 0, Parts::default(), Instant::now());
        assert_eq!(look("site"), second);
    }

    #[test]
    fn another_order_of_the_roots_publishes_what_differs_alone() {
        let (mut catalog, look) = catalog();
        catalog.set(
            &"both".into(),
            0,
            parts(Some("first"), None, false),
            Instant::now(),
        );
        catalog.set(
            &"both".into(),
            1,
            parts(Some("second"), None, false),
            Instant::now(),
        );
        catalog.set(
            &"gone".into(),
            0,
            parts(Some("gone"), Some("ca"), false),
            Instant::now(),
        );
        let first = look("both");
        let swapped = [
            ("both".into(), 1, parts(Some("first"), None, false)),
            ("both".into(), 0, parts(Some("second"), None, false)),
        ];
        catalog.replace(swapped.into_iter());
        assert!(look("both").is_some() && look("both") != first);
        assert_eq!((look("gone"), look("gone-cacert")), (None, None));
    }
}
