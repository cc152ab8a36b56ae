//! State of the running scans.
//!
//! A scan runs beside the event loop, so its facts arrive later than younger records. Times decide: a fact about a
//! socket that has left since, or that another one has replaced, is dropped. A scan by `sock_diag` knows no kernel
//! addresses, so sockets are found by their ends.

use std::collections::HashMap;

use crate::{
    model::{Endpoint, Socket, SocketKey},
    time::BootTime,
    track::hashing::{FastState, KeyedState},
};

/// Number of exits that are remembered during one scan, at some 100 bytes. Beyond that, sockets that the scan finds and that
/// are not tracked yet are left to the next scan.
const MAX_EXITS: usize = 65_536;

/// Network namespace, local end, remote end.
type Ends = (Option<u32>, Endpoint, Endpoint);

/// Latest exits of sockets with the same ends.
#[derive(Clone, Copy, Debug)]
struct Exits {
    any: BootTime,
    /// Latest exit of a socket whose cookie is unknown.
    without_cookie: Option<BootTime>,
}

/// State of the scans that are running. It is empty while none is.
#[derive(Debug, Default)]
pub(crate) struct Scans {
    running: u32,
    asked: Option<BootTime>,
    exits: HashMap<Ends, Exits, KeyedState>,
    exits_by_cookie: HashMap<u64, BootTime, FastState>,
    /// Exits of sockets without a cookie whose own exits were missed, by inode.
    exits_by_inode: HashMap<u64, BootTime, FastState>,
    /// Exits were dropped: it is not known which sockets of the scan are still there.
    overflow: bool,
    /// Keys of tracked sockets by their ends, built when the first fact needs it.
    by_ends: Option<HashMap<Ends, SocketKey, KeyedState>>,
}

impl Scans {
    /// A scan begins at `now` or later.
    pub(crate) fn begin(&mut self, now: BootTime) {
        self.running = self.running.saturating_add(1);
        self.asked.get_or_insert(now);
    }

    /// Returns the start time of the oldest running scan.
    pub(crate) fn asked(&self) -> Option<BootTime> {
        self.asked
    }

    /// A scan has ended: what only scans need goes away with the last one.
    pub(crate) fn end(&mut self) {
        self.running = self.running.saturating_sub(1);
        if self.running == 0 {
            *self = Self::default();
        }
    }

    /// A socket left.
    pub(crate) fn left(&mut self, socket: &Socket, at: BootTime) {
        if !self.can_remember() {
            return;
        }
        let exits = self.exits.entry(ends(socket)).or_insert(Exits { any: at, without_cookie: None });
        exits.any = exits.any.max(at);
        match socket.cookie {
            Some(cookie) => drop(self.exits_by_cookie.insert(cookie, at)),
            None => exits.without_cookie = Some(at),
        }
    }

    /// A socket had left at `at`, and when is not known: others with the same ends can have come since.
    pub(crate) fn missed(&mut self, socket: &Socket, at: BootTime) {
        if !self.can_remember() {
            return;
        }
        match (socket.cookie, socket.inode) {
            (Some(cookie), _) => drop(self.exits_by_cookie.insert(cookie, at)),
            (None, Some(inode)) => drop(self.exits_by_inode.insert(inode, at)),
            (None, None) => {}
        }
    }

    /// Returns whether one more exit can be remembered. At the limit, all are forgotten.
    fn can_remember(&mut self) -> bool {
        if self.running == 0 || self.overflow {
            return false;
        }
        let most = self.exits.len().max(self.exits_by_cookie.len()).max(self.exits_by_inode.len());
        if most >= MAX_EXITS {
            self.overflow = true;
            (self.exits, self.exits_by_cookie, self.exits_by_inode) = Default::default();
        }
        !self.overflow
    }

    /// Whether a socket that a scan found at `at`, and that is not tracked, may have left since: after too many exits that is not known.
    pub(crate) fn may_have_left(&self, socket: &Socket, at: BootTime) -> bool {
        self.overflow || self.has_left(socket, at)
    }

    /// Whether a socket that a scan found at `at` is known to have left since.
    pub(crate) fn has_left(&self, socket: &Socket, at: BootTime) -> bool {
        let by_cookie = socket.cookie.and_then(|cookie| self.exits_by_cookie.get(&cookie));
        let by_inode = socket.inode.and_then(|inode| self.exits_by_inode.get(&inode));
        let of = |ends: Ends| {
            let exits = self.exits.get(&ends)?;
            if socket.cookie.is_some() { exits.without_cookie } else { Some(exits.any) }
        };
        let (netns, local, remote) = ends(socket);
        let exits = [by_cookie.copied(), by_inode.copied(), of((netns, local, remote)), of((None, local, remote))];
        exits.into_iter().flatten().any(|exit| exit >= at)
    }

    /// A socket is tracked from now on.
    pub(crate) fn tracked(&mut self, key: SocketKey, socket: &Socket) {
        if let Some(by_ends) = &mut self.by_ends {
            by_ends.insert(ends(socket), key);
        }
    }

    /// The key under which a socket may be tracked. `all` gives every tracked socket, for the first time that this is asked.
    pub(crate) fn find<'a>(
        &mut self,
        socket: &Socket,
        all: impl Iterator<Item = (SocketKey, &'a Socket)>,
    ) -> Option<SocketKey> {
        let by_ends = self.by_ends.get_or_insert_with(|| all.map(|(key, socket)| (ends(socket), key)).collect());
        let (netns, local, remote) = ends(socket);
        by_ends.get(&(netns, local, remote)).or_else(|| by_ends.get(&(None, local, remote))).copied()
    }
}

fn ends(socket: &Socket) -> Ends {
    (socket.netns, socket.local, socket.remote)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::socket;

    #[test]
    fn an_exit_after_the_scan_found_the_socket_counts_and_one_before_does_not() {
        let mut scans = Scans::default();
        scans.left(&socket(), BootTime(5));
        assert!(!scans.has_left(&socket(), BootTime(4)), "no scan is running");
        scans.begin(BootTime(0));
        scans.left(&socket(), BootTime(5));
        assert!(scans.has_left(&socket(), BootTime(4)) && !scans.has_left(&socket(), BootTime(6)));
        let other = Socket { cookie: Some(u64::MAX), ..socket() };
        assert!(!scans.has_left(&other, BootTime(4)), "another socket with the same ends");
        scans.end();
        assert!(!scans.has_left(&socket(), BootTime(4)));
    }

    #[test]
    fn an_exit_that_was_missed_counts_for_that_socket_alone() {
        let one = Socket { cookie: None, inode: Some(3), ..socket() };
        let mut scans = Scans::default();
        scans.begin(BootTime(0));
        scans.missed(&one, BootTime(5));
        assert!(scans.has_left(&one, BootTime(4)));
        assert!(!scans.has_left(&Socket { inode: Some(4), ..one }, BootTime(4)));
    }

    #[test]
    fn after_too_many_exits_no_socket_is_known_to_be_there() {
        let mut scans = Scans::default();
        scans.begin(BootTime(0));
        for netns in 0..=MAX_EXITS as u32 {
            scans.left(&Socket { netns: Some(netns), ..socket() }, BootTime(1));
        }
        let other = Socket { netns: Some(u32::MAX), ..socket() };
        assert!(scans.may_have_left(&other, BootTime(9)) && !scans.has_left(&other, BootTime(9)));
        scans.end();
        assert!(!scans.may_have_left(&socket(), BootTime(0)));
    }

    #[test]
    fn a_socket_is_found_by_its_ends_in_its_namespace_or_where_that_is_unknown() {
        let (one, other) = (Socket { netns: Some(1), ..socket() }, Socket { netns: Some(2), ..socket() });
        let mut scans = Scans::default();
        let tracked = [(SocketKey(7), &one)];
        assert_eq!(scans.find(&one, tracked.into_iter()), Some(SocketKey(7)));
        assert_eq!(scans.find(&other, std::iter::empty()), None);
        scans.tracked(SocketKey(8), &Socket { netns: None, ..socket() });
        assert_eq!(scans.find(&other, std::iter::empty()), Some(SocketKey(8)));
    }
}
