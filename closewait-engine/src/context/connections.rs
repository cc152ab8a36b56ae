//! Connections of processes that are not in CLOSE_WAIT, as of the last read of each process.
//!
//! A running read changes nothing until it ends: the result of the previous read remains, with its time.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};

use crate::{limits::Quota, model::ProxyPeer, time::BootTime};

/// Maximum number of processes in one read.
const MAX_PROCESSES: usize = 32;
/// Maximum number of stored connections, at about 300 bytes each.
pub(super) const MAX_CONNECTIONS: usize = 65_536;

/// Connections of processes that are not in CLOSE_WAIT.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct Connections {
    processes: BTreeMap<u32, ProcessConnections>,
    /// Connections that the running reads have found so far, by process.
    found: BTreeMap<u32, PeersFound>,
    /// Requested processes whose read has not ended.
    reading: BTreeSet<u32>,
    /// Time of the last request for each process.
    asked: BTreeMap<u32, BootTime>,
    quota: Quota,
}

/// Result of the last read of one process.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
struct ProcessConnections {
    peers: Vec<ProxyPeer>,
    /// Time of the read; `None` if some connections were dropped, or if it is unknown whether the read was possible.
    read: Option<BootTime>,
}

/// Connections of one process that a running read has found so far.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
struct PeersFound {
    peers: Vec<ProxyPeer>,
    dropped: bool,
}

impl Default for Connections {
    fn default() -> Self {
        Self {
            processes: BTreeMap::new(),
            found: BTreeMap::new(),
            reading: BTreeSet::new(),
            asked: BTreeMap::new(),
            quota: Quota::new(MAX_CONNECTIONS),
        }
    }
}

impl Connections {
    /// Adds a connection that a running read found.
    pub(super) fn found(&mut self, pid: u32, peer: ProxyPeer) {
        let found = self.found.entry(pid).or_default();
        if self.quota.take() {
            found.peers.push(peer);
        } else {
            found.dropped = true;
        }
    }

    /// Ends the read of a process at `at`.
    pub(super) fn read(&mut self, pid: u32, at: BootTime) {
        let PeersFound { mut peers, dropped } = self.found.remove(&pid).unwrap_or_default();
        // The kernel lists a connection several times if it has several descriptors, or if the first thread of the process has ended.
        let mut known = BTreeSet::new();
        peers.retain(|ProxyPeer { socket, .. }| known.insert((socket.netns, socket.local, socket.remote)));
        self.reading.remove(&pid);
        self.processes.insert(pid, ProcessConnections { peers, read: (!dropped).then_some(at) });
    }

    /// Ends an inspection. If a read has no end, as in older recordings, the connections that it found count, and a process that
    /// was never read has no connections.
    pub(super) fn inspection_ended(&mut self) {
        for pid in std::mem::take(&mut self.reading) {
            if let Some(PeersFound { peers, .. }) = self.found.remove(&pid) {
                self.processes.insert(pid, ProcessConnections { peers, read: None });
            } else if self.read_at(pid).is_none() {
                self.processes.remove(&pid);
            }
        }
        self.found.clear();
    }

    /// Returns the `owners` whose connections an inspection at `now` reads; the least recently read come first. Forgets the
    /// connections of processes for which `is_wanted` is false.
    pub(super) fn request(
        &mut self,
        now: BootTime,
        owners: impl Iterator<Item = u32>,
        is_stale: impl Fn(BootTime) -> bool,
        is_wanted: impl Fn(u32) -> bool,
    ) -> Vec<u32> {
        self.processes.retain(|pid, _| is_wanted(*pid));
        self.asked.retain(|pid, _| is_wanted(*pid));
        let asked = |pid: &u32| self.asked.get(pid).copied();
        let mut owners: Vec<u32> = owners.filter(|pid| asked(pid).is_none_or(&is_stale)).collect();
        owners.sort_by_key(asked);
        owners.truncate(MAX_PROCESSES);
        for pid in &owners {
            self.asked.insert(*pid, now);
            self.reading.insert(*pid);
        }
        owners
    }

    /// Returns the number of connections that were dropped since the last call, and restarts the count.
    pub(super) fn count_dropped(&mut self) -> u64 {
        self.quota.reset(self.processes.values().map(|known| known.peers.len()).sum())
    }

    /// Returns the connections of all processes, each with the pid and the time of the read, as far as it is known.
    pub(super) fn all(&self) -> impl Iterator<Item = (u32, Option<BootTime>, &[ProxyPeer])> {
        self.processes.iter().map(|(pid, known)| (*pid, known.read, known.peers.as_slice()))
    }

    /// Returns the time at which the connections of a process were last read; `None` if unknown.
    fn read_at(&self, pid: u32) -> Option<BootTime> {
        self.processes.get(&pid)?.read
    }
}
