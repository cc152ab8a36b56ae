//! The connections of processes that are not in CLOSE_WAIT, as of the last read of each process.
//!
//! A read that goes on changes nothing until it has ended: what was read before stays, with its time.

use std::collections::{BTreeMap, BTreeSet};

use crate::{limits::Quota, model::ProxyPeer, time::BootTime};

/// Number of processes that are read at a time.
const MAX_PROCESSES: usize = 32;
/// Number of connections that are kept, at some 300 bytes each.
pub(super) const MAX_CONNECTIONS: usize = 65_536;

/// The connections of processes that are not in CLOSE_WAIT.
#[derive(Debug)]
pub(super) struct Connections {
    processes: BTreeMap<u32, ProcessConnections>,
    /// What the reads that go on have found so far.
    found: BTreeMap<u32, PeersFound>,
    /// Processes that were asked for, and whose read has not ended.
    reading: BTreeSet<u32>,
    /// Time at which each process was last asked for.
    asked: BTreeMap<u32, BootTime>,
    quota: Quota,
}

/// What the last read of one process found.
#[derive(Debug, Default)]
struct ProcessConnections {
    peers: Vec<ProxyPeer>,
    /// Time of the read; `None` if some of what it found was dropped, or nothing tells that it was possible.
    read: Option<BootTime>,
}

/// What a read has found so far.
#[derive(Debug, Default)]
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
    /// A read found a connection of a process.
    pub(super) fn found(&mut self, pid: u32, peer: ProxyPeer) {
        let found = self.found.entry(pid).or_default();
        if self.quota.take() {
            found.peers.push(peer);
        } else {
            found.dropped = true;
        }
    }

    /// All connections of a process were read at `at`.
    pub(super) fn read(&mut self, pid: u32, at: BootTime) {
        let PeersFound { peers, dropped } = self.found.remove(&pid).unwrap_or_default();
        self.reading.remove(&pid);
        self.processes.insert(pid, ProcessConnections { peers, read: (!dropped).then_some(at) });
    }

    /// An inspection ended. Where nothing told that the read was possible, as in older recordings, what it found counts, and a
    /// process that was never read has no connections.
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

    /// Returns those of `owners` whose connections are to be read at `now`, those read longest ago first. Of processes that are
    /// not `wanted` any more, nothing is kept.
    pub(super) fn request(
        &mut self,
        now: BootTime,
        owners: impl Iterator<Item = u32>,
        is_stale: impl Fn(BootTime) -> bool,
        wanted: &BTreeSet<u32>,
    ) -> Vec<u32> {
        self.processes.retain(|pid, _| wanted.contains(pid));
        self.asked.retain(|pid, _| wanted.contains(pid));
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

    /// Restarts the count of what is dropped. Returns how many connections were dropped since the last time.
    pub(super) fn count_dropped(&mut self) -> u64 {
        self.quota.reset(self.processes.values().map(|known| known.peers.len()).sum())
    }

    /// Returns the connections of a process.
    pub(super) fn of(&self, pid: u32) -> &[ProxyPeer] {
        self.processes.get(&pid).map_or(&[], |known| known.peers.as_slice())
    }

    /// Returns the time at which the connections of a process were last read; `None` if that is not known.
    pub(super) fn read_at(&self, pid: u32) -> Option<BootTime> {
        self.processes.get(&pid)?.read
    }
}
