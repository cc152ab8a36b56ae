//! Sockets in CLOSE_WAIT that found no room among those that are tracked: that they are there is all that is known of them.

use std::collections::HashSet;

use super::{
    hashing::FastState,
    model::{KeySecret, Socket, SocketKey},
};

/// So many are told apart, by 10 MB of keys at most: as many as fill a table of 2^20 places. Of further ones only those that
/// were seen to enter are counted, for a walk cannot tell which of them it has found before.
const NAMED: usize = (1 << 20) / 8 * 7;

/// All of them.
#[derive(Debug)]
pub(super) struct Untracked {
    named: HashSet<SocketKey, FastState>,
    nameless: u64,
    total: u64,
    key_secret: KeySecret,
}

impl Untracked {
    /// Keys that are made of ends have this secret.
    pub(super) fn new(key_secret: KeySecret) -> Self {
        Self { named: HashSet::default(), nameless: 0, total: 0, key_secret }
    }

    /// One entered.
    pub(super) fn entered(&mut self, key: SocketKey) {
        self.total += 1;
        if self.named.contains(&key) {
            return;
        }
        if self.named.len() < NAMED {
            self.named.insert(key);
        } else {
            self.nameless += 1;
        }
    }

    /// A walk found one. Returns whether it is new.
    pub(super) fn found(&mut self, key: SocketKey) -> bool {
        let is_new = self.named.len() < NAMED && self.named.insert(key);
        self.total += u64::from(is_new);
        is_new
    }

    /// One left that is not tracked: perhaps one of these.
    pub(super) fn left(&mut self, key: SocketKey, socket: &Socket) {
        if self.count() == 0 || self.remove(key) {
            return;
        }
        // A walk without the kernel's names called it so.
        if !self.remove(self.key_secret.key(socket.netns, socket.local, socket.remote)) {
            self.nameless = self.nameless.saturating_sub(1);
        }
    }

    /// One of them is tracked from now on, or is not there. Returns whether it was one.
    pub(super) fn remove(&mut self, key: SocketKey) -> bool {
        let was_one = self.named.remove(&key);
        if was_one && self.named.len() < self.named.capacity() / 8 {
            self.named.shrink_to(2 * self.named.len());
        }
        was_one
    }

    /// How many are there now.
    pub(super) fn count(&self) -> u64 {
        self.named.len() as u64 + self.nameless
    }

    /// How many there ever were.
    pub(super) fn total(&self) -> u64 {
        self.total
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::testing::socket;

    const KEY: SocketKey = SocketKey(1 << 63);

    #[test]
    fn one_that_is_found_again_and_again_counts_once_and_one_that_enters_again_twice() {
        let mut untracked = Untracked::new(KeySecret::default());
        assert!(untracked.found(KEY) && !untracked.found(KEY));
        untracked.entered(KEY);
        assert_eq!((untracked.count(), untracked.total()), (1, 2));
        untracked.left(KEY, &socket());
        untracked.left(KEY, &socket());
        assert_eq!((untracked.count(), untracked.total()), (0, 2));
    }

    #[test]
    fn one_that_a_walk_named_by_its_ends_is_known_by_the_kernel_s_name_too() {
        let secret = KeySecret([3, 4]);
        let mut untracked = Untracked::new(secret);
        let socket = socket();
        untracked.found(secret.key(socket.netns, socket.local, socket.remote));
        untracked.left(KEY, &socket);
        assert_eq!(untracked.count(), 0);
    }

    #[test]
    fn beyond_the_names_there_is_a_number_and_no_key_takes_memory() {
        let mut untracked = Untracked::new(KeySecret::default());
        for number in 0..NAMED as u64 + 10 {
            untracked.entered(SocketKey(number));
        }
        assert!(!untracked.found(KEY), "it may have been found before");
        assert_eq!((untracked.named.len(), untracked.count()), (NAMED, NAMED as u64 + 10));
        for number in 0..NAMED as u64 + 10 {
            untracked.left(SocketKey(number), &socket());
        }
        assert_eq!((untracked.count(), untracked.total()), (0, NAMED as u64 + 10));
        assert!(untracked.named.capacity() < 1000, "{}", untracked.named.capacity());
    }
}
