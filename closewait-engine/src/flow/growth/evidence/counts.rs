//! Counts of the sockets of a flow for a report.

use std::{cmp::Reverse, collections::BTreeMap, net::IpAddr};

use super::Members;
use crate::{
    model::{Oldest, ReadState, Task},
    time::BootTime,
    track::socket_view::{Owners, SocketView},
};

/// Maximum number of reported owners; those with the most sockets come first.
const MAX_OWNERS: usize = 8;

/// Returns the owners of the sockets with the number of sockets of each, in descending order; `None` if no scan for owners was
/// possible.
pub(super) fn owners(members: &[SocketView<'_>]) -> Option<Vec<(Task, u32)>> {
    let mut counts = BTreeMap::<u32, (Task, u32)>::new();
    let mut scanned = false;
    for owners in members.iter().filter_map(|one| one.owners()) {
        scanned = true;
        let mut last = None;
        for owner in &*owners {
            if last.replace(owner.task.pid) != Some(owner.task.pid) {
                counts.entry(owner.task.pid).or_insert_with(|| (owner.task.clone(), 0)).1 += 1;
            }
        }
    }
    let mut owners: Vec<_> = counts.into_values().collect();
    owners.sort_by_key(|(task, count)| (Reverse(*count), task.pid));
    owners.truncate(MAX_OWNERS);
    scanned.then_some(owners)
}

/// Returns the number of sockets in each state of reading.
pub(super) fn reads(members: &Members<'_>) -> Vec<(ReadState, u32)> {
    let mut counts = BTreeMap::<ReadState, u32>::new();
    for state in members.iter().filter_map(|one| one.socket().read_state()) {
        *counts.entry(state).or_default() += 1;
    }
    counts.into_iter().collect()
}

/// Returns all remote addresses with their numbers of sockets, the most frequent first.
pub(super) fn remotes(members: &Members<'_>) -> Vec<(IpAddr, u32)> {
    let mut counts = BTreeMap::<IpAddr, u32>::new();
    for one in members {
        *counts.entry(one.ends().1.address).or_default() += 1;
    }
    let mut remotes: Vec<_> = counts.into_iter().collect();
    remotes.sort_by_key(|(address, count)| (Reverse(*count), *address));
    remotes
}

/// Returns a socket as reports show it.
pub(super) fn shown(one: SocketView<'_>, now: BootTime) -> Oldest {
    let socket = one.socket();
    Oldest {
        remote: socket.remote,
        cookie: socket.cookie,
        dwell: one.dwell(now),
        read: socket.read_state(),
        owners: one.owners().map(Owners::into_vec),
    }
}
