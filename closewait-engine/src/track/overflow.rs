//! Sockets in CLOSE_WAIT over the limit of tracked ones. The engine counts them and stores no facts about them.

use std::collections::HashSet;

use serde::{Deserialize, Serialize};

use crate::{
    model::{KeySecret, Socket, SocketKey},
    track::hashing::{FastState, by_key},
};

/// Maximum number of dropped sockets that are stored by key, in a table of 2^20 slots and at most 10 MB. Further sockets count
/// only if a record reported their entry, because a scan cannot recognize sockets that it has found before.
const MAX_NAMED: usize = (1 << 20) / 8 * 7;

/// Sockets over the limit of tracked ones, by the key of their endpoints. Kernel addresses do not help, because a scan by
/// `sock_diag` has none.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Overflow {
    #[serde(with = "by_key::set")]
    named: HashSet<SocketKey, FastState>,
    nameless: u64,
    total: u64,
    key_secret: KeySecret,
}

impl Overflow {
    /// Returns an empty overflow. `key_secret` is the secret of the keys.
    pub(crate) fn new(key_secret: KeySecret) -> Self {
        Self { named: HashSet::default(), nameless: 0, total: 0, key_secret }
    }

    /// Counts a dropped socket that entered.
    pub(crate) fn entered(&mut self, socket: &Socket) {
        self.total += 1;
        let [name, _] = self.names(socket);
        if self.named.contains(&name) {
            return;
        }
        if self.named.len() < MAX_NAMED {
            self.named.insert(name);
        } else {
            self.nameless += 1;
        }
    }

    /// Counts a dropped socket that a scan found. Returns whether it is new.
    pub(crate) fn found(&mut self, socket: &Socket) -> bool {
        let [name, without_netns] = self.names(socket);
        let is_new = self.named.len() < MAX_NAMED && !self.named.contains(&without_netns) && self.named.insert(name);
        self.total += u64::from(is_new);
        is_new
    }

    /// Removes an untracked socket that exited, if it is one of the dropped sockets.
    pub(crate) fn left(&mut self, socket: &Socket) {
        if self.count() > 0 && !self.remove(socket) {
            self.nameless = self.nameless.saturating_sub(1);
        }
    }

    /// Removes a socket that is tracked now. Returns whether it was a dropped socket.
    pub(crate) fn remove(&mut self, socket: &Socket) -> bool {
        if self.named.is_empty() {
            return false;
        }
        let was_one = self.names(socket).iter().any(|name| self.named.remove(name));
        if was_one && self.named.len() < self.named.capacity() / 8 {
            self.named.shrink_to(2 * self.named.len());
        }
        was_one
    }

    /// Returns the key of a socket, and its key in records that lack its namespace.
    fn names(&self, socket: &Socket) -> [SocketKey; 2] {
        let Socket { netns, local, remote, .. } = *socket;
        [netns, None].map(|netns| self.key_secret.key(netns, local, remote))
    }

    /// Returns the current number of dropped sockets.
    pub(crate) fn count(&self) -> u64 {
        self.named.len() as u64 + self.nameless
    }

    /// Returns the number of dropped sockets since the start.
    pub(crate) fn total(&self) -> u64 {
        self.total
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::socket;

    fn numbered(number: u64) -> Socket {
        Socket { netns: Some(u32::try_from(number).unwrap()), ..socket() }
    }

    #[test]
    fn a_socket_counts_once_for_all_scans_and_again_for_each_entry() {
        let mut overflow = Overflow::new(KeySecret::default());
        assert!(overflow.found(&socket()) && !overflow.found(&socket()));
        overflow.entered(&socket());
        assert_eq!((overflow.count(), overflow.total()), (1, 2));
        overflow.left(&socket());
        overflow.left(&socket());
        assert_eq!((overflow.count(), overflow.total()), (0, 2));
    }

    #[test]
    fn a_socket_that_entered_is_not_new_to_a_scan() {
        for netns in [Some(1), None] {
            let mut overflow = Overflow::new(KeySecret([3, 4]));
            overflow.entered(&Socket { netns, ..socket() });
            assert!(!overflow.found(&Socket { netns: Some(1), ..socket() }), "{netns:?}");
            assert!(overflow.found(&socket()) == netns.is_some(), "in another namespace, {netns:?}");
            overflow.left(&Socket { netns, ..socket() });
            assert_eq!(overflow.count(), u64::from(netns.is_some()));
        }
    }

    #[test]
    fn over_the_limit_of_keys_sockets_are_only_counted() {
        let mut overflow = Overflow::new(KeySecret::default());
        for number in 0..MAX_NAMED as u64 + 10 {
            overflow.entered(&numbered(number));
        }
        assert!(!overflow.found(&socket()), "it may have been found before");
        assert_eq!((overflow.named.len(), overflow.count()), (MAX_NAMED, MAX_NAMED as u64 + 10));
        for number in 0..MAX_NAMED as u64 + 10 {
            overflow.left(&numbered(number));
        }
        assert_eq!((overflow.count(), overflow.total()), (0, MAX_NAMED as u64 + 10));
        assert!(overflow.named.capacity() < 1000, "{}", overflow.named.capacity());
    }
}
