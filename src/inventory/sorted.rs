//! A sorted list whose clones are cheap and share everything that is not changed later.

use std::cmp::Ordering;
use std::sync::Arc;

use crate::secret::Name;

/// The maximum number of entries in a chunk. A change of a list that has clones copies one chunk and the list of
/// chunks: with this size, about as many pointers of one as of the other in a list of 20,000 entries.
const MAX: usize = 128;
/// For how many more entries a full allocation of a chunk grows.
const GROWTH: usize = 8;

/// An entry of a [`Sorted`] list.
pub(super) trait Entry: Clone {
    /// The order of two entries. A list holds one of those that are equal by it.
    fn order(&self, other: &Self) -> Ordering;
}

/// A sorted list, in chunks of up to [`MAX`] entries. Clones share the chunks; a change copies the shared chunk that
/// it concerns.
///
/// Compared with a tree or a hash table of single nodes, an entry costs little more memory than its own size.
#[derive(Clone)]
pub(super) struct Sorted<T> {
    /// None of them is empty.
    chunks: Arc<Vec<Arc<Vec<T>>>>,
    len: usize,
}

/// A position in a list: the index of the chunk, and the index in the chunk.
#[derive(Clone, Copy)]
pub(super) struct Position(usize, usize);

impl<T> Default for Sorted<T> {
    fn default() -> Self {
        Self {
            chunks: Arc::default(),
            len: 0,
        }
    }
}

impl<T: Entry> Sorted<T> {
    /// The number of entries.
    pub(super) fn len(&self) -> usize {
        self.len
    }

    /// All entries, in order.
    pub(super) fn iter(&self) -> impl Iterator<Item = &T> {
        self.chunks.iter().flat_map(|chunk| chunk.iter())
    }

    /// The entries from that position on, in order.
    pub(super) fn iter_from(
        &self,
        Position(chunk, at): Position,
    ) -> impl Iterator<Item = &T> + Clone {
        let chunks = self.chunks.iter().skip(chunk);
        chunks.flat_map(|chunk| chunk.iter()).skip(at)
    }

    /// The position of the first entry that does not come before what is searched.
    pub(super) fn position(&self, is_before: impl Fn(&T) -> bool) -> Position {
        let ends_before = |chunk: &Arc<Vec<T>>| chunk.last().is_some_and(&is_before);
        // What is after all entries is at the end of the last chunk.
        let last = self.chunks.len().saturating_sub(1);
        let at = self.chunks.partition_point(ends_before).min(last);
        let chunk = self.chunks.get(at);
        let in_chunk = chunk.map_or(0, |chunk| chunk.partition_point(is_before));
        Position(at, in_chunk)
    }

    /// The entry for which `compare`, the order of an entry and what is searched, is equal.
    pub(super) fn get(&self, compare: impl Fn(&T) -> Ordering) -> Option<&T> {
        self.find(compare).1
    }

    /// Adds an entry, and returns the equal one that it replaces.
    pub(super) fn insert(&mut self, entry: T) -> Option<T> {
        let (Position(mut at, mut in_chunk), equal) = self.find(|one| one.order(&entry));
        let is_replaced = equal.is_some();
        let chunks = Arc::make_mut(&mut self.chunks);
        if is_replaced {
            let chunk = Arc::make_mut(&mut chunks[at]);
            return Some(std::mem::replace(&mut chunk[in_chunk], entry));
        }
        self.len += 1;
        if chunks.is_empty() {
            chunks.push(Arc::default());
        }
        if chunks[at].len() == MAX {
            // A list that is filled in order is left with full chunks.
            let is_end = at + 1 == chunks.len() && in_chunk == MAX;
            let middle = if is_end { MAX } else { MAX / 2 };
            let chunk = Arc::make_mut(&mut chunks[at]);
            let rest = chunk.split_off(middle);
            chunk.shrink_to_fit();
            chunks.insert(at + 1, Arc::new(rest));
            if in_chunk >= middle {
                (at, in_chunk) = (at + 1, in_chunk - middle);
            }
        }
        let chunk = Arc::make_mut(&mut chunks[at]);
        if chunk.len() == chunk.capacity() {
            // By itself, it would double.
            chunk.reserve_exact(GROWTH);
        }
        chunk.insert(in_chunk, entry);
        None
    }

    /// Removes the entry for which `compare`, the order of an entry and what is searched, is equal.
    pub(super) fn remove(&mut self, compare: impl Fn(&T) -> Ordering) -> Option<T> {
        let (Position(at, in_chunk), found) = self.find(compare);
        found?;
        let chunks = Arc::make_mut(&mut self.chunks);
        let chunk = Arc::make_mut(&mut chunks[at]);
        let entry = chunk.remove(in_chunk);
        if chunk.is_empty() {
            chunks.remove(at);
        }
        self.len -= 1;
        Some(entry)
    }

    /// The position of that entry, or where it would be, and the entry if there is one.
    fn find(&self, compare: impl Fn(&T) -> Ordering) -> (Position, Option<&T>) {
        let position = self.position(|one| compare(one).is_lt());
        let entry = self.chunks.get(position.0);
        let entry = entry.and_then(|chunk| chunk.get(position.1));
        (position, entry.filter(|one| compare(one).is_eq()))
    }
}

impl Entry for Name {
    fn order(&self, other: &Self) -> Ordering {
        self.cmp(other)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;

    use super::*;

    #[derive(Clone, Debug, PartialEq)]
    struct Numbered(u16, u32);

    impl Entry for Numbered {
        fn order(&self, other: &Self) -> Ordering {
            self.0.cmp(&other.0)
        }
    }

    #[derive(Clone, Debug)]
    enum Step {
        Insert(u16),
        /// This many, each after the one before it.
        Fill(u16, u16),
        Remove(u16),
        /// All in this range.
        Clear(u16, u16),
        Clone,
    }

    fn step() -> impl Strategy<Value = Step> {
        let number = || 0..2000_u16;
        prop_oneof![
            10 => number().prop_map(Step::Insert),
            2 => (number(), 0..400_u16).prop_map(|(from, count)| Step::Fill(from, count)),
            10 => number().prop_map(Step::Remove),
            1 => (number(), 0..400_u16).prop_map(|(from, count)| Step::Clear(from, count)),
            2 => Just(Step::Clone),
        ]
    }

    fn all(list: &Sorted<Numbered>) -> Vec<Numbered> {
        list.iter().cloned().collect()
    }

    fn all_of(model: &BTreeMap<u16, u32>) -> Vec<Numbered> {
        let entries = model.iter();
        entries.map(|(key, value)| Numbered(*key, *value)).collect()
    }

    proptest! {
        #[test]
        fn a_list_is_like_a_map_and_its_clones_stay_as_they_were(
            steps in proptest::collection::vec(step(), 0..100),
        ) {
            let mut list = Sorted::default();
            let mut model = BTreeMap::new();
            let mut clones = Vec::new();
            for (value, step) in (0..).zip(steps) {
                let (inserted, removed) = match step {
                    Step::Insert(key) => (key..key + 1, 0..0),
                    Step::Fill(from, count) => (from..from + count, 0..0),
                    Step::Remove(key) => (0..0, key..key + 1),
                    Step::Clear(from, count) => (0..0, from..from + count),
                    Step::Clone => {
                        clones.push((list.clone(), model.clone()));
                        continue;
                    }
                };
                for key in inserted {
                    let old = list.insert(Numbered(key, value)).map(|old| old.1);
                    prop_assert_eq!(old, model.insert(key, value));
                }
                for key in removed.clone() {
                    let old = list.remove(|one| one.0.cmp(&key)).map(|old| old.1);
                    prop_assert_eq!(old, model.remove(&key));
                }
                for key in [0, removed.start, removed.end, 1000] {
                    let got = list.get(|one| one.0.cmp(&key)).map(|one| one.1);
                    prop_assert_eq!(got, model.get(&key).copied());
                    let from = list.iter_from(list.position(|one| one.0 < key));
                    let expected = model.range(key..).map(|(key, _)| *key);
                    prop_assert!(from.map(|one| one.0).eq(expected));
                }
                prop_assert_eq!(list.len(), model.len());
            }
            clones.push((list, model));
            for (list, model) in &clones {
                prop_assert_eq!(all(list), all_of(model));
                prop_assert!(list.chunks.iter().all(|chunk| (1..=MAX).contains(&chunk.len())));
            }
        }
    }
}
