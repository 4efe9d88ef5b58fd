//! Host → the credentials whose certificate covers it, the best first.

use std::cmp::Reverse;
use std::time::SystemTime;

use rpds::{HashTrieMapSync, RedBlackTreeSetSync};

use crate::credential::PairFacts;
use crate::name::{Coverage, Host};
use crate::secret::Name;

/// The credentials by the hosts that their certificates cover. Cloning is cheap, and the cost of a change is
/// proportional to the number of names in the certificate.
#[derive(Clone, Default)]
pub(super) struct Hosts {
    by_coverage: HashTrieMapSync<Coverage, RedBlackTreeSetSync<Candidate>>,
}

/// A credential that covers a host. The order is that of preference among those that are valid now:
/// the one that expires last, then by name.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Candidate {
    not_after: Reverse<SystemTime>,
    name: Name,
    not_before: SystemTime,
}

impl Candidate {
    fn new(name: &Name, facts: &PairFacts) -> Self {
        Self {
            not_after: Reverse(facts.leaf.not_after),
            name: name.clone(),
            not_before: facts.leaf.not_before,
        }
    }

    fn is_valid(&self, now: SystemTime) -> bool {
        self.not_before <= now && now <= self.not_after.0
    }
}

impl Hosts {
    /// Adds the certificate of the credential `name`.
    pub(super) fn insert(&mut self, name: &Name, facts: &PairFacts) {
        for coverage in coverages(facts) {
            let mut candidates = self.by_coverage.get(&coverage).cloned().unwrap_or_default();
            candidates.insert_mut(Candidate::new(name, facts));
            self.by_coverage.insert_mut(coverage, candidates);
        }
    }

    /// Removes what [`Self::insert`] added.
    pub(super) fn remove(&mut self, name: &Name, facts: &PairFacts) {
        for coverage in coverages(facts) {
            let Some(mut candidates) = self.by_coverage.get(&coverage).cloned() else {
                continue;
            };
            candidates.remove_mut(&Candidate::new(name, facts));
            if candidates.is_empty() {
                self.by_coverage.remove_mut(&coverage);
            } else {
                self.by_coverage.insert_mut(coverage, candidates);
            }
        }
    }

    /// All that is covered, sorted.
    pub(super) fn covered(&self) -> Vec<Coverage> {
        let mut covered: Vec<_> = self.by_coverage.keys().cloned().collect();
        covered.sort_unstable();
        covered
    }

    /// The credentials that cover `host`: exact names before wildcards, those that are valid at `now`
    /// before the others.
    pub(super) fn covering<'a>(
        &'a self,
        host: &Host,
        now: SystemTime,
    ) -> impl Iterator<Item = &'a Name> {
        let exact = Coverage::Exact(host.clone());
        let wildcard = host
            .parent()
            .map(|parent| Coverage::Wildcard(parent.to_owned()));
        let sets = [Some(exact), wildcard].into_iter().flatten();
        sets.filter_map(|coverage| self.by_coverage.get(&coverage))
            .flat_map(move |set| {
                let valid = set.iter().filter(move |one| one.is_valid(now));
                let others = set.iter().filter(move |one| !one.is_valid(now));
                valid.chain(others)
            })
            .map(|candidate| &candidate.name)
    }
}

/// What the certificate of a pair covers: its alternative names, or the common name where it has none.
pub(super) fn coverages(facts: &PairFacts) -> impl Iterator<Item = Coverage> {
    let names = facts.leaf.names.iter().chain(&facts.leaf.common_name);
    names.filter_map(|name| Coverage::parse(name))
}
