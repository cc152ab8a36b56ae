//! Limits of collections, and functions that free their memory after a peak.

use std::{
    collections::{BTreeSet, HashMap, VecDeque},
    hash::{BuildHasher, Hash},
};

use serde::{Deserialize, Serialize};

use super::model::Owner;

/// Capacity up to which a collection keeps its memory.
const SMALL: usize = 4096;

/// Limit of a collection, with the number of items that count against it and the number of dropped items.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub(super) struct Quota {
    limit: usize,
    used: usize,
    dropped: u64,
}

impl Quota {
    /// Returns a quota of `limit` items.
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

    /// Restarts the counts with `used` items. Returns the number of items that were dropped before.
    pub(super) fn reset(&mut self, used: usize) -> u64 {
        self.used = used;
        std::mem::take(&mut self.dropped)
    }
}

/// Stores a descriptor of a socket: always the first one, further ones if `quota` allows it. Nearly all sockets have one
/// descriptor, so the Vec starts with a capacity of one instead of four.
///
/// A scan can find a descriptor several times: for a process whose first thread has ended, the iterator over open files visits all of
/// its threads (`task_seq_get_next` in kernel/bpf/task_iter.c compares their tables with that of the first one, at v5.11).
pub(super) fn keep_owner(found: &mut Vec<Owner>, owner: Owner, quota: &mut Quota) {
    /// Number of descriptors before it among which the same one is searched: a scan finds those of a socket in a process one soon after
    /// another, and a socket can have thousands.
    const COMPARED: usize = 8;
    if found.is_empty() {
        found.reserve_exact(1);
        found.push(owner);
        return;
    }
    let is_same = |other: &Owner| (other.task.pid, other.fd) == (owner.task.pid, owner.fd);
    if !found.iter().rev().take(COMPARED).any(is_same) && quota.take() {
        found.push(owner);
    }
}

/// Sorts the descriptors that a scan has found, and drops those that it found several times.
pub(super) fn sort_owners(owners: &mut Vec<Owner>) {
    owners.sort_by_key(|owner| (owner.task.pid, owner.fd));
    owners.dedup_by_key(|owner| (owner.task.pid, owner.fd));
}

/// Whether some of the descriptors, but not all, are those of these processes.
pub(super) fn some_are_of(owners: &[Owner], pids: &BTreeSet<u32>) -> bool {
    let is_of = |owner: &Owner| pids.contains(&owner.task.pid);
    owners.len() > 1 && owners.iter().any(is_of) && !owners.iter().all(is_of)
}

/// Frees the memory of a map that is nearly empty.
pub(super) fn shrink<K: Eq + Hash, V, S: BuildHasher>(map: &mut HashMap<K, V, S>) {
    if map.capacity() > SMALL && map.len() < map.capacity() / 8 {
        map.shrink_to(2 * map.len());
    }
}

/// Frees the memory of an empty queue.
pub(super) fn shrink_queue<T>(queue: &mut VecDeque<T>) {
    if queue.is_empty() && queue.capacity() > SMALL {
        *queue = VecDeque::new();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::owner;

    #[test]
    fn the_first_owner_is_always_stored_and_dropped_ones_are_counted() {
        let mut quota = Quota::new(2);
        let (mut one, mut two) = (Vec::new(), Vec::new());
        for fd in 0..5 {
            keep_owner(&mut one, owner("x", 1, fd), &mut quota);
        }
        keep_owner(&mut one, owner("thread", 1, 2), &mut quota);
        keep_owner(&mut two, owner("x", 2, 0), &mut quota);
        assert_eq!((one.len(), two.len(), two.capacity()), (3, 1, 1));
        assert_eq!((quota.reset(0), quota.reset(0)), (2, 0));
        assert!(quota.take(), "the quota is free again");
    }

    #[test]
    fn a_descriptor_that_is_found_several_times_counts_once() {
        let (mut quota, mut found) = (Quota::new(100), Vec::new());
        let fds = |found: &[Owner]| found.iter().map(|owner| owner.fd).collect::<Vec<_>>();
        for fd in [7, 9, 7, 9] {
            keep_owner(&mut found, owner("x", 1, fd), &mut quota);
        }
        assert_eq!(fds(&found), [7, 9]);
        (20..40).chain([7]).for_each(|fd| keep_owner(&mut found, owner("x", 1, fd), &mut quota));
        sort_owners(&mut found);
        assert_eq!(fds(&found), [7, 9].into_iter().chain(20..40).collect::<Vec<_>>());
    }

    #[test]
    fn memory_is_freed_after_a_peak_and_not_before() {
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
