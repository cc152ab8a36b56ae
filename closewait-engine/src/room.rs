//! How much is kept, and giving back what a peak has taken.

use std::{
    collections::{HashMap, VecDeque},
    hash::{BuildHasher, Hash},
};

use super::model::Holder;

/// A collection that never had more places than this gives none back.
const SMALL: usize = 4096;

/// Room for so many, and how many found none.
#[derive(Clone, Copy, Debug)]
pub(super) struct Room {
    most: usize,
    taken: usize,
    unkept: u64,
}

impl Room {
    /// For `most`.
    pub(super) const fn new(most: usize) -> Self {
        Self { most, taken: 0, unkept: 0 }
    }

    /// Takes the place of one; `false`: there is none, and that was counted.
    pub(super) fn take(&mut self) -> bool {
        let fits = self.taken < self.most;
        if fits {
            self.taken += 1;
        } else {
            self.unkept += 1;
        }
        fits
    }

    /// Counts one that finds no room for another reason.
    pub(super) fn refuse(&mut self) {
        self.unkept += 1;
    }

    /// Begins anew, with `taken` in it. Returns how many had found no room.
    pub(super) fn renew(&mut self, taken: usize) -> u64 {
        self.taken = taken;
        std::mem::take(&mut self.unkept)
    }
}

/// Keeps a descriptor that was found: always the first of a socket, further ones if there is `room`. Nearly all sockets have
/// one, and a Vec left to itself would take places for four.
pub(super) fn keep_holder(found: &mut Vec<Holder>, holder: Holder, room: &mut Room) {
    if found.is_empty() {
        found.reserve_exact(1);
        found.push(holder);
    } else if room.take() {
        found.push(holder);
    }
}

/// Gives places back when nearly all are empty.
pub(super) fn shrink<K: Eq + Hash, V, S: BuildHasher>(map: &mut HashMap<K, V, S>) {
    if map.capacity() > SMALL && map.len() < map.capacity() / 8 {
        map.shrink_to(2 * map.len());
    }
}

/// The same for a queue, once it is empty.
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
        let mut room = Room::new(2);
        let (mut one, mut two) = (Vec::new(), Vec::new());
        for fd in 0..5 {
            keep_holder(&mut one, holder("x", 1, fd), &mut room);
        }
        keep_holder(&mut two, holder("x", 2, 0), &mut room);
        assert_eq!((one.len(), two.len(), two.capacity()), (3, 1, 1));
        assert_eq!((room.renew(0), room.renew(0)), (2, 0));
        assert!(room.take(), "there is room again");
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
