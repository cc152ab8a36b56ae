//! Counts of the sockets of a flow for a report.

use std::{cmp::Reverse, collections::BTreeMap, net::IpAddr};

use crate::{
    model::{AgeCounts, Oldest, ReadState, Task, count_age},
    time::BootTime,
    track::socket_view::{Owners, SocketView},
};

/// Maximum number of reported owners; those with the most sockets come first.
const MAX_OWNERS: usize = 8;

/// Counts of the sockets of a flow, made in one pass.
pub(super) struct FlowCounts {
    /// Owners of the sockets that belong to the growth, with the number of these of each, in descending order; `None` if no scan for
    /// owners was possible.
    pub(super) owners: Option<Vec<(Task, u32)>>,
    /// Number of the sockets that belong to the growth and were there at a scan for owners.
    pub(super) scanned: usize,
    /// Number of sockets in each state of reading.
    pub(super) reads: Vec<(ReadState, u32)>,
    /// All remote addresses with their numbers of sockets, the most frequent first.
    pub(super) remotes: Vec<(IpAddr, u32)>,
    /// Number of sockets that no program has accepted.
    pub(super) unaccepted: usize,
    /// Entry of the oldest of them.
    pub(super) unaccepted_since: Option<BootTime>,
    /// Number of sockets whose connections the peers have ended.
    pub(super) ended: usize,
    /// Number of sockets in each age bucket.
    pub(super) ages: AgeCounts,
}

impl FlowCounts {
    /// Counts sockets, the oldest first. Those from `first` on belong to the growth.
    pub(super) fn of(members: &[SocketView<'_>], first: usize, now: BootTime) -> Self {
        let (mut owners, mut reads) = (BTreeMap::<u32, (Task, u32)>::new(), BTreeMap::<ReadState, u32>::new());
        let mut remotes = Vec::with_capacity(members.len());
        let (mut scanned, mut unaccepted, mut unaccepted_since, mut ended) = (0, 0, None, 0);
        let mut ages = AgeCounts::default();
        for (index, one) in members.iter().enumerate() {
            if let Some(state) = one.read_state() {
                *reads.entry(state).or_default() += 1;
            }
            remotes.push(one.ends().1.address);
            count_age(&mut ages, one.dwell(now).at_least(), 1);
            ended += usize::from(one.exit().is_some());
            if one.accepted() == Some(false) {
                unaccepted += 1;
                unaccepted_since = unaccepted_since.or(Some(one.latest()));
            }
            if let Some(of_socket) = one.owners().filter(|_| index >= first) {
                scanned += 1;
                let mut last = None;
                for owner in &*of_socket {
                    if last.replace(owner.task.pid) != Some(owner.task.pid) {
                        owners.entry(owner.task.pid).or_insert_with(|| (owner.task.clone(), 0)).1 += 1;
                    }
                }
            }
        }
        let mut owners: Vec<_> = owners.into_values().collect();
        owners.sort_by_key(|(task, count)| (Reverse(*count), task.pid));
        owners.truncate(MAX_OWNERS);
        Self {
            owners: (scanned > 0).then_some(owners),
            scanned,
            reads: reads.into_iter().collect(),
            remotes: most_frequent(remotes),
            unaccepted,
            unaccepted_since,
            ended,
            ages,
        }
    }
}

/// Returns addresses with their numbers, the most frequent first.
fn most_frequent(mut addresses: Vec<IpAddr>) -> Vec<(IpAddr, u32)> {
    addresses.sort_unstable();
    let count = |same: &[IpAddr]| Some((*same.first()?, u32::try_from(same.len()).unwrap_or(u32::MAX)));
    let mut counted: Vec<_> = addresses.chunk_by(|one, next| one == next).filter_map(count).collect();
    counted.sort_by_key(|(address, count)| (Reverse(*count), *address));
    counted
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
