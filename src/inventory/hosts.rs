//! Host → the credentials whose certificate covers it, the best first.

use std::cmp::Reverse;
use std::time::SystemTime;

use rpds::RedBlackTreeSetSync;

use crate::credential::PairFacts;
use crate::name::{Coverage, Host};
use crate::secret::Name;

/// The credentials by the hosts that their certificates cover. Cloning is cheap, and the cost of a change is
/// proportional to the number of names in the certificate.
#[derive(Clone, Default)]
pub(super) struct Hosts {
    /// `None`, which is never inserted, comes before all candidates of a coverage.
    candidates: RedBlackTreeSetSync<(Coverage, Option<Candidate>)>,
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
            let candidate = Candidate::new(name, facts);
            self.candidates.insert_mut((coverage, Some(candidate)));
        }
    }

    /// Removes what [`Self::insert`] added.
    pub(super) fn remove(&mut self, name: &Name, facts: &PairFacts) {
        for coverage in coverages(facts) {
            let candidate = Candidate::new(name, facts);
            self.candidates.remove_mut(&(coverage, Some(candidate)));
        }
    }

    /// All that is covered, sorted.
    pub(super) fn covered(&self) -> Vec<Coverage> {
        let candidates = self.candidates.iter();
        let mut covered: Vec<_> = candidates.map(|(coverage, _)| coverage.clone()).collect();
        covered.dedup();
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
        [Some(exact), wildcard]
            .into_iter()
            .flatten()
            .flat_map(move |coverage| {
                let valid = self
                    .candidates(&coverage)
                    .filter(move |one| one.is_valid(now));
                let others = self
                    .candidates(&coverage)
                    .filter(move |one| !one.is_valid(now));
                valid.chain(others)
            })
            .map(|candidate| &candidate.name)
    }

    /// Those with that coverage, in the order of preference.
    fn candidates(&self, coverage: &Coverage) -> impl Iterator<Item = &Candidate> + use<'_> {
        let coverage = coverage.clone();
        let from = self.candidates.range((coverage.clone(), None)..);
        from.take_while(move |(other, _)| *other == coverage)
            .filter_map(|(_, candidate)| candidate.as_ref())
    }
}

/// What the certificate of a pair covers: its alternative names, or the common name where it has none.
pub(super) fn coverages(facts: &PairFacts) -> impl Iterator<Item = Coverage> {
    let names = facts.leaf.names().chain(facts.leaf.common_name());
    names.filter_map(Coverage::parse)
}
