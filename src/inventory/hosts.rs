//! Host → the credentials whose certificate covers it, the best first.

use std::cmp::{Ordering, Reverse};
use std::hash::{BuildHasher, RandomState};
use std::sync::Arc;
use std::time::SystemTime;

use super::Credential;
use super::sorted::{Entry, Sorted};
use crate::credential::PairFacts;
use crate::name::{Coverage, Host};

/// The credentials by the hosts that their certificates cover. Cloning is cheap, and the cost of a change is
/// proportional to the number of names in the certificate.
#[derive(Clone, Default)]
pub(super) struct Hosts {
    candidates: Sorted<Candidate>,
    /// Its keys are random, so that no certificate can be made with names that have the same hash.
    hasher: RandomState,
}

/// A name in the certificate of a credential. Those with the same hash are in the order of preference among those
/// that are valid now: the one that expires last, then by name.
#[derive(Clone)]
struct Candidate {
    /// The hash of what the name covers: it takes less memory than that, and is compared faster.
    hash: u32,
    /// The index of the name in the certificate.
    index: u32,
    credential: Arc<Credential>,
}

impl Candidate {
    fn pair(&self) -> Option<&PairFacts> {
        self.credential.pair()
    }

    fn coverage(&self) -> Option<Coverage> {
        let name = names(self.pair()?).nth(self.index as usize)?;
        Coverage::parse(name)
    }

    fn rank(&self) -> impl Ord {
        let not_after = self.pair().map(|pair| pair.leaf.not_after);
        (Reverse(not_after), &*self.credential.name, self.index)
    }

    fn is_valid(&self, now: SystemTime) -> bool {
        let is_valid =
            |pair: &PairFacts| (pair.leaf.not_before..=pair.leaf.not_after).contains(&now);
        self.pair().is_some_and(is_valid)
    }
}

impl Entry for Candidate {
    fn order(&self, other: &Self) -> Ordering {
        let hash = self.hash.cmp(&other.hash);
        hash.then_with(|| self.rank().cmp(&other.rank()))
    }
}

impl Hosts {
    /// Adds the certificate of a credential, or replaces the credential that serves this certificate.
    pub(super) fn insert(&mut self, credential: &Arc<Credential>) {
        for candidate in self.candidates_of(credential) {
            self.candidates.insert(candidate);
        }
    }

    /// Removes what [`Self::insert`] added.
    pub(super) fn remove(&mut self, credential: &Arc<Credential>) {
        for candidate in self.candidates_of(credential) {
            self.candidates.remove(|one| one.order(&candidate));
        }
    }

    /// The credentials that cover `host`: exact names before wildcards, those that are valid at `now`
    /// before the others. Each is repeated for each name in its certificate that covers it.
    pub(super) fn covering<'a>(
        &'a self,
        host: &Host,
        now: SystemTime,
    ) -> impl Iterator<Item = &'a Arc<Credential>> {
        let exact = Coverage::Exact(host.clone());
        let wildcard = host
            .parent()
            .map(|parent| Coverage::Wildcard(parent.to_owned()));
        [Some(exact), wildcard]
            .into_iter()
            .flatten()
            .flat_map(move |coverage| {
                let candidates = self.candidates(coverage);
                let valid = candidates.clone().filter(move |one| one.is_valid(now));
                let others = candidates.filter(move |one| !one.is_valid(now));
                valid.chain(others)
            })
            .map(|candidate| &candidate.credential)
    }

    /// Those with that coverage, in the order of preference.
    fn candidates(&self, coverage: Coverage) -> impl Iterator<Item = &Candidate> + Clone {
        let hash = self.hash(&coverage);
        let first = self.candidates.position(|one| one.hash < hash);
        let from = self.candidates.iter_from(first);
        from.take_while(move |one| one.hash == hash)
            .filter(move |one| one.coverage().as_ref() == Some(&coverage))
    }

    fn candidates_of(&self, credential: &Arc<Credential>) -> Vec<Candidate> {
        let names = credential.pair().into_iter().flat_map(names);
        let coverages = (0..).zip(names.map(Coverage::parse));
        coverages
            .filter_map(|(index, coverage)| {
                Some(Candidate {
                    hash: self.hash(&coverage?),
                    index,
                    credential: credential.clone(),
                })
            })
            .collect()
    }

    fn hash(&self, coverage: &Coverage) -> u32 {
        // Half of it is enough: different names with the same hash are compared.
        self.hasher.hash_one(coverage) as u32
    }
}

/// What the certificate of a pair covers.
pub(super) fn coverages(facts: &PairFacts) -> impl Iterator<Item = Coverage> {
    names(facts).filter_map(Coverage::parse)
}

/// The alternative names of a pair's certificate, or the common name where it has none.
fn names(facts: &PairFacts) -> impl Iterator<Item = &str> {
    facts.leaf.names().chain(facts.leaf.common_name())
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;
    use std::path::Path;
    use std::time::{Duration, Instant};

    use proptest::prelude::*;

    use super::*;
    use crate::secret::tests::{facts, pair};
    use crate::secret::{Kind, Secret};

    const NAMES: [&str; 7] = [
        "www.example.com",
        "WWW.Example.com.",
        "api.example.com",
        "*.example.com",
        "*.com",
        "192.0.2.1",
        "not a host",
    ];

    fn day(days: u64) -> SystemTime {
        SystemTime::UNIX_EPOCH + Duration::from_secs(days * 86_400)
    }

    /// A credential whose certificate has some of [`NAMES`] and is valid from one day to another.
    fn credential() -> impl Strategy<Value = Arc<Credential>> {
        let names = proptest::sample::subsequence(&NAMES[..], 0..=NAMES.len());
        let parts = (0..6_u8, names.prop_shuffle(), 0..3_u64, 0..3_u64);
        parts.prop_map(|(name, names, start, length)| {
            let mut pair = pair("");
            pair.facts.leaf = facts(
                "",
                &names.into_iter().map(str::to_owned).collect::<Vec<_>>(),
            );
            pair.facts.leaf.not_before = day(start);
            pair.facts.leaf.not_after = day(start + length);
            let root = Path::new("/a").into();
            let mut credential = Credential::new(root, format!("site{name}").into(), false);
            let secret = Secret::new(Arc::new(pair.into()), None, Instant::now());
            credential.secrets[Kind::Certificate as usize] = Some(Arc::new(secret));
            Arc::new(credential)
        })
    }

    /// The names that [`Hosts::covering`] should give, without an index.
    fn covering<'a>(
        served: &'a BTreeMap<&str, &Arc<Credential>>,
        host: &Host,
        now: SystemTime,
    ) -> Vec<&'a str> {
        let mut all = Vec::new();
        for (credential, pair) in served.values().filter_map(|one| Some((one, one.pair()?))) {
            let is_valid = pair.leaf.not_before <= now && now <= pair.leaf.not_after;
            for coverage in coverages(pair).filter(|coverage| coverage.covers(host)) {
                let is_wildcard = matches!(coverage, Coverage::Wildcard(_));
                let end = Reverse(pair.leaf.not_after);
                all.push((is_wildcard, !is_valid, end, &*credential.name));
            }
        }
        all.sort();
        all.into_iter().map(|(.., name)| name).collect()
    }

    proptest! {
        #[test]
        fn the_best_credentials_come_first(
            steps in proptest::collection::vec((credential(), any::<bool>()), 1..40),
        ) {
            let mut hosts = Hosts::default();
            let mut served = BTreeMap::new();
            for (credential, is_removed) in &steps {
                if let Some(old) = served.remove(&*credential.name) {
                    hosts.remove(old);
                }
                if !is_removed {
                    hosts.insert(credential);
                    served.insert(&*credential.name, credential);
                }
            }
            for host in ["www.example.com", "a.example.com", "example.com", "192.0.2.1"] {
                let host = Host::parse(host).unwrap();
                for now in (0..6).map(day) {
                    let got = hosts.covering(&host, now).map(|one| &*one.name);
                    let expected = covering(&served, &host, now);
                    prop_assert_eq!(got.collect::<Vec<_>>(), expected, "{} at {:?}", host, now);
                }
            }
            served.values().for_each(|one| hosts.remove(one));
            prop_assert_eq!(hosts.candidates.len(), 0);
        }
    }
}
