//! Limits of collections, and functions that free their memory after a peak.

use std::{
    collections::{HashMap, VecDeque},
    hash::{BuildHasher, Hash},
};

use super::model::Holder;

/// A collection that never had more places than this gives none back.
const SMALL: usize = 4096;

/// Limit of a collection, the number of items that count against it, and the number that it made the engine drop.
#[derive(Clone, Copy, Debug)]
pub(super) struct Quota {
    limit: usize,
    used: usize,
    dropped: u64,
}

impl Quota {
    /// Allows `limit` items.
    pub(super) const fn new(limit: usize) -> Self {
        Self { limit, used: 0, dropped: 0 }
    }

    /// Counts one item against the limit. Returns `false` if the limit is reached; then the item counts as dropped.
    pub(super) fn take(&mut self) -> bool {
        let fits = self.used < self.limit;
        if fits {
            self.used += 1;
        } else {
            self.dropped += 1;
        }
        fits
    }

    /// Counts an item that was dropped for another reason.
    pub(super) fn count_dropped(&mut self) {
        self.dropped += 1;
    }

    /// Starts again with `used` items. Returns the number of items that were dropped before.
    pub(super) fn reset(&mut self, used: usize) -> u64 {
        self.used = used;
        std::mem::take(&mut self.dropped)
    }
}

/// Keeps a descriptor that was found: always the first of a socket, further ones if `quota` allows it. Nearly all sockets have
/// one, and a Vec left to itself would take places for four.
pub(super) fn keep_holder(found: &mut Vec<Holder>, holder: Holder, quota: &mut Quota) {
    if found.is_empty() {
        found.reserve_exact(1);
        found.push(holder);
    } else if quota.take() {
        found.push(holder);
    }
}

/// Frees the memory of a map when nearly all of its places are empty.
pub(super) fn shrink<K: Eq + Hash, V, S: BuildHasher>(map: &mut HashMap<K, V, S>) {
    if map.capacity() > SMALL && map.len() < map.capacity() / 8 {
        map.shrink_to(2 * map.len());
    }
}

/// Frees the memory of a queue once it is empty.
pub(super) fn shrink_queue<T>(queue: &mut VecDeque<T>) {
    if queue.is_empty() && queue.capacity() > SMALL {
        *queue = VecDeque::new();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::holder;

    #[test]
    fn the_first_holder_is_always_kept_and_what_is_too_much_is_counted() {
        let mut quota = Quota::new(2);
        let (mut one, mut two) = (Vec::new(), Vec::new());
        for fd in 0..5 {
            keep_holder(&mut one, holder("x", 1, fd), &mut quota);
        }
        keep_holder(&mut two, holder("x", 2, 0), &mut quota);
        assert_eq!((one.len(), two.len(), two.capacity()), (3, 1, 1));
        assert_eq!((quota.reset(0), quota.reset(0)), (2, 0));
        assert!(quota.take(), "there is room again");
    }

    #[test]
    fn memory_is_given_back_when_a_peak_is_over_and_not_before() {
        let mut map: HashMap<u32, u32> = (0..100_000).map(|number| (number, 0)).collect();
        let most = map.capacity();
        map.retain(|number, _| *number < 20_000);
        shrink(&mut map);
        assert!(map.capacity() > most / 2, "{}", map.capacity());
        map.retain(|number, _| *number < 10);
        shrink(&mut map);
        assert!(map.capacity() < 100 && map.len() == 10);
    }
}
