//! Programs behind UNIX sockets that a group's owners are connected to.

use std::{
    cmp::Reverse,
    collections::{BTreeMap, BTreeSet},
};

use super::gather::{MAX_AGE, Sources};
use crate::{
    diagnose::text,
    model::{Task, UnixBackend, UnixListener},
};

/// Maximum number of programs behind UNIX sockets in the evidence of a group.
const MAX_BACKENDS: usize = 4;

impl Sources<'_> {
    /// Returns the programs behind UNIX sockets; `None` if the connections of one owner were not read in the last [`MAX_AGE`].
    pub(super) fn unix(&self, pids: &BTreeSet<u32>) -> Option<Vec<UnixBackend>> {
        let fresh = |pid: &u32| {
            let read = self.host_context.unix_connections(*pid)?;
            (self.now.since(read.at) <= MAX_AGE).then_some(read)
        };
        let reads: Vec<_> = pids.iter().map(fresh).collect::<Option<_>>()?;
        let mut paths = BTreeMap::<&str, Vec<&UnixListener>>::new();
        for listener in reads.iter().flat_map(|read| &read.listeners) {
            paths.entry(&listener.path).or_default().push(listener);
        }
        let mut paths: Vec<_> = paths.into_iter().collect();
        let sum = |of: &[&UnixListener], count: fn(&UnixListener) -> u32| {
            of.iter().fold(0, |sum: u32, listener| sum.saturating_add(count(listener)))
        };
        let rank = |of: &[&UnixListener]| Reverse((sum(of, UnixListener::waiting), sum(of, |one| one.connections)));
        paths.sort_by_key(|(_, of)| rank(of));
        paths.truncate(MAX_BACKENDS);
        let backend = |(path, of): (&str, Vec<&UnixListener>)| {
            let tasks: BTreeMap<u32, &Task> =
                of.iter().flat_map(|listener| &listener.owners).map(|task| (task.pid, task)).collect();
            let process = |pid: &u32| self.host_context.processes().get(pid);
            // The first process of a forking server may only wait for the others.
            let first =
                tasks.keys().copied().min_by_key(|pid| Reverse(process(pid).map(|process| process.occupation())));
            UnixBackend {
                path: path.to_owned(),
                connections: sum(&of, |one| one.connections),
                queued: sum(&of, |one| one.queued),
                waiting: sum(&of, UnixListener::waiting),
                program: first.and_then(|pid| tasks.get(&pid)).map(|task| (*task).clone()),
                processes: u32::try_from(tasks.len()).unwrap_or(u32::MAX),
                activity: first.and_then(|pid| text::activity(process(&pid)?, self.now)),
            }
        };
        (!reads.is_empty()).then(|| paths.into_iter().map(backend).collect())
    }
}
