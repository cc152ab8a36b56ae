//! Counts of keys, most of which follow equal ones.

use std::collections::BTreeMap;

/// Counts by key. Equal keys that follow each other take one access to the tree.
#[derive(Debug)]
pub(super) struct RunCounts<K> {
    counts: BTreeMap<K, u64>,
    /// Last key, and the number of times in a row.
    run: Option<(K, u64)>,
}

impl<K> Default for RunCounts<K> {
    fn default() -> Self {
        Self { counts: BTreeMap::new(), run: None }
    }
}

impl<K: Ord> RunCounts<K> {
    /// Counts a key.
    pub(super) fn add(&mut self, key: K) {
        match &mut self.run {
            Some((last, count)) if *last == key => *count += 1,
            run => {
                let ended = run.replace((key, 1));
                self.end(ended);
            }
        }
    }

    /// Returns the count of each key.
    pub(super) fn into_counts(mut self) -> BTreeMap<K, u64> {
        let last = self.run.take();
        self.end(last);
        self.counts
    }

    fn end(&mut self, run: Option<(K, u64)>) {
        if let Some((key, count)) = run {
            *self.counts.entry(key).or_default() += count;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_are_counted_in_any_order() {
        assert!(RunCounts::<u8>::default().into_counts().is_empty());
        let mut counts = RunCounts::default();
        [3, 3, 1, 3, 2, 2, 1].into_iter().for_each(|key| counts.add(key));
        assert_eq!(counts.into_counts(), BTreeMap::from([(1, 2), (2, 2), (3, 3)]));
    }
}
