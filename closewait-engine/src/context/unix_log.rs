//! Connections of processes over UNIX sockets, as of the last read of each process.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::model::UnixConnections;

/// Maximum number of listeners of one process that are kept.
const MAX_LISTENERS: usize = 16;
/// Maximum number of processes that are kept; without a request, a forged recording could have any number.
const MAX_PROCESSES: usize = 64;
/// Maximum number of processes with one listener that an inspection reads.
const MAX_OWNERS: usize = 8;

/// Connections of processes over UNIX sockets.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub(super) struct UnixLog {
    processes: BTreeMap<u32, UnixConnections>,
}

impl UnixLog {
    /// Stores what the agent found.
    pub(super) fn learn(&mut self, mut connections: UnixConnections) {
        if self.processes.len() >= MAX_PROCESSES && !self.processes.contains_key(&connections.pid) {
            return;
        }
        connections.listeners.truncate(MAX_LISTENERS);
        self.processes.insert(connections.pid, connections);
    }

    /// Returns the connections of a process; `None` if the agent did not read them.
    pub(super) fn of(&self, pid: u32) -> Option<&UnixConnections> {
        self.processes.get(&pid)
    }

    /// Forgets the connections of processes for which `is_wanted` is false.
    pub(super) fn retain(&mut self, is_wanted: impl Fn(u32) -> bool) {
        self.processes.retain(|pid, _| is_wanted(*pid));
    }

    /// Returns the processes behind the sockets on which a process waits.
    pub(super) fn backends(&self, pid: u32) -> impl Iterator<Item = u32> {
        let listeners = self.processes.get(&pid).into_iter().flat_map(|of| &of.listeners);
        listeners.flat_map(|listener| listener.owners.iter().take(MAX_OWNERS)).map(|owner| owner.pid)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{model::UnixListener, testing::owner, time::BootTime};

    fn connections(pid: u32, listeners: usize) -> UnixConnections {
        let owners = (100..120).map(|pid| owner("php-fpm", pid, 3).task).collect();
        let listener = UnixListener {
            path: "/run/php.sock".to_owned(),
            connections: 5,
            queued: 0,
            queued_idle: 0,
            unread: 0,
            owners,
        };
        UnixConnections { pid, at: BootTime(1), listeners: vec![listener; listeners] }
    }

    #[test]
    fn the_numbers_of_processes_and_listeners_are_limited() {
        let mut log = UnixLog::default();
        (1..=100).for_each(|pid| log.learn(connections(pid, 20)));
        assert_eq!((log.processes.len(), log.of(1).unwrap().listeners.len()), (MAX_PROCESSES, MAX_LISTENERS));
        log.learn(connections(1, 1));
        assert_eq!(log.backends(1).collect::<Vec<_>>(), (100..108).collect::<Vec<_>>());
        log.retain(|pid| pid == 2);
        assert_eq!((log.of(1).is_some(), log.of(2).is_some()), (false, true));
        log.learn(connections(200, 1));
        assert!(log.of(200).is_some(), "there is room again");
    }
}
