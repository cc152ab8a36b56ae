//! State of the running scans.
//!
//! A scan runs concurrently with the event loop, so its facts can arrive after younger records. Times decide: the engine drops a
//! fact about a socket that has exited since, or that another one has replaced. A scan by `sock_diag` has no kernel addresses, so
//! the engine finds its sockets by their endpoints.

use std::{collections::HashMap, time::Duration};

use serde::{Deserialize, Serialize};

use crate::{
    model::{Endpoint, Socket, SocketKey},
    time::BootTime,
    track::hashing::{FastState, KeyedState, by_key},
};

/// Maximum number of exits that are stored during one scan, at about 100 bytes each. Over the limit, untracked sockets that the
/// scan finds are left to the next scan.
const MAX_EXITS: usize = 65_536;
/// Maximum time between the time of an exit's record and the change of the socket's state: the kernel program reads the time first. A scan
/// between them still finds the socket in CLOSE_WAIT.
const MAX_STATE_DELAY: Duration = Duration::from_millis(100);

/// Network namespace, local endpoint, remote endpoint.
pub(super) type Ends = (Option<u32>, Endpoint, Endpoint);

/// Latest exits of sockets with the same endpoints.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
struct Exits {
    any: BootTime,
    /// Latest exit of a socket whose cookie is unknown.
    without_cookie: Option<BootTime>,
}

/// State of the running scans, empty without one.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub(crate) struct Scans {
    running: u32,
    asked: Option<BootTime>,
    #[serde(with = "by_key")]
    exits: HashMap<Ends, Exits, KeyedState>,
    #[serde(with = "by_key")]
    exits_by_cookie: HashMap<u64, BootTime, FastState>,
    /// Missed exits of sockets without a cookie, by inode.
    #[serde(with = "by_key")]
    exits_by_inode: HashMap<u64, BootTime, FastState>,
    /// Whether exits were dropped, so that it is unknown which sockets of the scan are still in CLOSE_WAIT.
    overflow: bool,
    /// Keys of tracked sockets by endpoints, built when the first fact needs them.
    #[serde(with = "by_key::optional")]
    by_ends: Option<HashMap<Ends, SocketKey, KeyedState>>,
}

impl Scans {
    /// Begins a scan, which starts at `now` or later.
    pub(crate) fn begin(&mut self, now: BootTime) {
        self.running = self.running.saturating_add(1);
        self.asked.get_or_insert(now);
    }

    /// Returns the start time of the oldest running scan.
    pub(crate) fn asked(&self) -> Option<BootTime> {
        self.asked
    }

    /// Ends a scan. The last one clears the state.
    pub(crate) fn end(&mut self) {
        self.running = self.running.saturating_sub(1);
        if self.running == 0 {
            *self = Self::default();
        }
    }

    /// Records an exit.
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

    /// Records a missed exit at an unknown time before `at`; other sockets with the same endpoints can have entered since.
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

    /// Whether one more exit can be stored. At the limit, all exits are dropped.
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

    /// Whether an untracked socket that a scan found at `at` may have exited since. Over the limit of exits, this is unknown for
    /// all sockets.
    pub(crate) fn may_have_left(&self, socket: &Socket, at: BootTime) -> bool {
        self.overflow || self.has_left(socket, at)
    }

    /// Whether a socket that a scan found at `at` is known to have exited since.
    pub(crate) fn has_left(&self, socket: &Socket, at: BootTime) -> bool {
        let by_cookie = socket.cookie.and_then(|cookie| self.exits_by_cookie.get(&cookie));
        let by_inode = socket.inode.and_then(|inode| self.exits_by_inode.get(&inode));
        let of = |ends: Ends| {
            let exits = self.exits.get(&ends)?;
            if socket.cookie.is_some() { exits.without_cookie } else { Some(exits.any) }
        };
        let (netns, local, remote) = ends(socket);
        let same = [by_cookie, by_inode].into_iter().flatten().any(|exit| *exit + MAX_STATE_DELAY >= at);
        let exits = [of((netns, local, remote)), of((None, local, remote))];
        same || exits.into_iter().flatten().any(|exit| exit >= at)
    }

    /// Adds a newly tracked socket.
    pub(crate) fn tracked(&mut self, key: SocketKey, socket: &Socket) {
        if let Some(by_ends) = &mut self.by_ends {
            by_ends.insert(ends(socket), key);
        }
    }

    /// Returns the key under which a socket with the same endpoints is tracked. `all` gives every tracked socket, for the first
    /// call.
    pub(crate) fn find(&mut self, socket: &Socket, all: impl Iterator<Item = (SocketKey, Ends)>) -> Option<SocketKey> {
        let by_ends = self.by_ends.get_or_insert_with(|| all.map(|(key, ends)| (ends, key)).collect());
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
        let later = BootTime(6) + MAX_STATE_DELAY;
        assert!(scans.has_left(&socket(), BootTime(4)) && !scans.has_left(&socket(), later));
        assert!(scans.has_left(&socket(), BootTime(6)), "the time of an exit is read before the state changes");
        let unnamed = Socket { cookie: None, ..socket() };
        assert!(!scans.has_left(&unnamed, BootTime(6)), "another socket can have these endpoints by then");
        let other = Socket { cookie: Some(u64::MAX), ..socket() };
        assert!(!scans.has_left(&other, BootTime(4)), "another socket with the same endpoints");
        scans.end();
        assert!(!scans.has_left(&socket(), BootTime(4)));
    }

    #[test]
    fn a_missed_exit_counts_only_for_its_socket() {
        let one = Socket { cookie: None, inode: Some(3), ..socket() };
        let mut scans = Scans::default();
        scans.begin(BootTime(0));
        scans.missed(&one, BootTime(5));
        assert!(scans.has_left(&one, BootTime(4)));
        assert!(!scans.has_left(&Socket { inode: Some(4), ..one }, BootTime(4)));
    }

    #[test]
    fn over_the_limit_of_exits_every_socket_may_have_exited() {
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
    fn a_socket_is_found_by_its_endpoints_in_its_namespace_or_an_unknown_one() {
        let (one, other) = (Socket { netns: Some(1), ..socket() }, Socket { netns: Some(2), ..socket() });
        let mut scans = Scans::default();
        let tracked = [(SocketKey(7), ends(&one))];
        assert_eq!(scans.find(&one, tracked.into_iter()), Some(SocketKey(7)));
        assert_eq!(scans.find(&other, std::iter::empty()), None);
        scans.tracked(SocketKey(8), &Socket { netns: None, ..socket() });
        assert_eq!(scans.find(&other, std::iter::empty()), Some(SocketKey(8)));
    }
}
