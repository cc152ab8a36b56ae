//! Groups of rows, for `closewait list --by`.

use std::{cmp::Reverse, collections::BTreeMap, net::IpAddr, time::Duration};

use serde::{Deserialize, Serialize};

use crate::{
    model::{Class, Dwell, Endpoint, Role, Task},
    process::Process,
    snapshot::query::GroupBy,
    snapshot::view::{Row, RowFacts},
    workload::Workload,
};

/// Common property of the rows of a group.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub enum Key {
    /// PID of the owner of the sockets, or of the listener that they wait at.
    Process(u32),
    /// Sockets without an owner.
    NoProcess,
    /// Sockets whose owners are unknown, because no scan for owners was possible.
    AnyProcess,
    /// Listener that created the sockets; all zeros is a listener on every address.
    Listener {
        /// Network namespace of the listener.
        netns: Option<u32>,
        /// Local endpoint of the listener, or remote endpoint of the connections.
        local: Endpoint,
    },
    /// Sockets without a known listener.
    NoListener,
    /// Remote address, with the port if the peer is the server.
    Peer(IpAddr, Option<u16>),
    /// Id of the cgroup of the first socket. The group has a workload, or its path is unknown, as with the root cgroup.
    Cgroup(u64),
    /// Sockets whose cgroup is unknown.
    NoCgroup,
}

/// Rows of a list with the same key.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ListedGroup {
    /// Common property of the rows.
    pub key: Key,
    /// Number of sockets in CLOSE_WAIT.
    pub count: u32,
    /// Number of sockets that have exited CLOSE_WAIT and still have a descriptor.
    pub gone: u32,
    /// Minimum age of the oldest socket in CLOSE_WAIT; `None` without one.
    pub oldest: Option<Duration>,
    /// Median of the minimum ages of the sockets in CLOSE_WAIT; `None` without one.
    pub median: Option<Duration>,
    /// Number of sockets with each verdict, the most frequent first.
    pub verdicts: Vec<(Class, u32)>,
    /// Owners of the sockets, and of the listeners that they wait at.
    pub owners: Vec<Task>,
    /// Unit, container or pod of the cgroup, for groups by cgroup.
    pub workload: Option<Workload>,
    /// Number of open descriptors and their limit, if the group has one owner.
    pub fds: (Option<u64>, Option<u64>),
}

#[derive(Debug, Default)]
struct Tally<'a> {
    ages: Vec<Duration>,
    gone: u32,
    verdicts: BTreeMap<Class, u32>,
    owners: BTreeMap<u32, Task>,
    workload: Option<&'a Workload>,
    /// Id of the first row's cgroup.
    cgroup: Option<u64>,
}

/// Key of the rows of a tally: the path of their cgroup if it is known, otherwise the key of the group.
type TallyKey<'a> = (Option<&'a str>, Key);

/// Builder of groups, which gets one row after the other and does not store them. A socket with several owners is in the group of
/// each.
#[derive(Debug)]
pub struct ListedGroupBuilder<'a> {
    by: GroupBy,
    tallies: BTreeMap<TallyKey<'a>, Tally<'a>>,
    /// Keys of the current row.
    keys: Vec<Key>,
}

impl<'a> ListedGroupBuilder<'a> {
    /// Returns a builder without rows.
    pub fn new(by: GroupBy) -> Self {
        Self { by, tallies: BTreeMap::new(), keys: Vec::new() }
    }

    /// Adds a row to its groups.
    pub fn add(&mut self, row: &Row<'a>) {
        self.keys.clear();
        keys_of(row, self.by, &mut self.keys);
        // A socket in the root cgroup has the workload of its owner, as in the table of sockets and for filters.
        let path = match (self.by, row.workload) {
            (GroupBy::Cgroup, Some(workload)) => Some(workload.cgroup_path.as_str()),
            _ => None,
        };
        for key in &self.keys {
            let of_tally = if path.is_some() { Key::NoCgroup } else { *key };
            self.tallies.entry((path, of_tally)).or_default().add(row, *key);
        }
    }

    /// Returns the groups by size, then by age, in descending order. `processes` are the inspected owners, by pid.
    pub fn finish(self, processes: &BTreeMap<u32, Process>) -> Vec<ListedGroup> {
        let mut groups: Vec<_> =
            self.tallies.into_iter().map(|((_path, key), tally)| tally.group(processes, key)).collect();
        groups.sort_by_key(|group| Reverse((group.count, group.oldest, group.gone)));
        groups
    }
}

/// Returns the owners of a socket, one task of each process; while no program has accepted the socket, those of its listener.
pub fn owners<'a>(facts: &RowFacts<'a>) -> impl Iterator<Item = &'a Task> + use<'a> {
    let RowFacts { socket, owners, listener, .. } = *facts;
    let waits_at = listener.filter(|_| socket.accepted == Some(false));
    let owners = waits_at.map_or_else(|| owners.unwrap_or_default(), |listener| &listener.owners);
    let mut last = None;
    let tasks = owners.iter().map(|owner| &owner.task);
    tasks.filter(move |task| last.replace(task.pid) != Some(task.pid))
}

fn keys_of(row: &Row<'_>, by: GroupBy, keys: &mut Vec<Key>) {
    let socket = &row.socket;
    match by {
        GroupBy::Process if socket.accepted == Some(false) => {
            // Workers of a server inherit its listener, so the socket counts only for the first of them.
            keys.push(owners(&row.facts()).next().map_or(Key::AnyProcess, |task| Key::Process(task.pid)));
        }
        GroupBy::Process => {
            keys.extend(owners(&row.facts()).map(|task| Key::Process(task.pid)));
            if keys.is_empty() {
                keys.push(if row.owners.is_some() { Key::NoProcess } else { Key::AnyProcess });
            }
        }
        GroupBy::Listener => keys.push(match row.listener {
            Some(listener) => Key::Listener { netns: listener.what.netns, local: listener.what.local },
            None if socket.role == Some(Role::Server) => Key::Listener { netns: socket.netns, local: socket.local },
            None => Key::NoListener,
        }),
        GroupBy::Peer => {
            let is_server = socket.role == Some(Role::Client);
            keys.push(Key::Peer(socket.remote.address, is_server.then_some(socket.remote.port)));
        }
        GroupBy::Cgroup => keys.push(socket.cgroup.map_or(Key::NoCgroup, Key::Cgroup)),
    }
}

impl<'a> Tally<'a> {
    fn add(&mut self, row: &Row<'a>, key: Key) {
        if row.gone.is_some() {
            self.gone += 1;
        } else {
            self.ages.push(row.dwell.map_or(Duration::ZERO, Dwell::at_least));
        }
        *self.verdicts.entry(row.verdict.class).or_default() += 1;
        for task in owners(&row.facts()) {
            match key {
                Key::Process(pid) if pid != task.pid => {}
                Key::Process(_)
                | Key::NoProcess
                | Key::AnyProcess
                | Key::Listener { .. }
                | Key::NoListener
                | Key::Peer(..)
                | Key::Cgroup(_)
                | Key::NoCgroup => {
                    self.owners.entry(task.pid).or_insert_with(|| task.clone());
                }
            }
        }
        self.workload = self.workload.or(row.workload);
        self.cgroup = self.cgroup.or(row.socket.cgroup);
    }

    fn group(mut self, processes: &BTreeMap<u32, Process>, key: Key) -> ListedGroup {
        self.ages.sort_unstable();
        let mut verdicts: Vec<_> = self.verdicts.into_iter().collect();
        verdicts.sort_by_key(|(_class, count)| Reverse(*count));
        let owners: Vec<Task> = self.owners.into_values().collect();
        let process = match &owners[..] {
            [one] => processes.get(&one.pid),
            [] | [_, ..] => None,
        };
        let key = match (key, self.cgroup) {
            (Key::NoCgroup, Some(id)) => Key::Cgroup(id),
            (key, _) => key,
        };
        ListedGroup {
            key,
            count: u32::try_from(self.ages.len()).unwrap_or(u32::MAX),
            gone: self.gone,
            oldest: self.ages.last().copied(),
            median: self.ages.get(self.ages.len().saturating_sub(1) / 2).copied(),
            verdicts,
            workload: self.workload.filter(|_| matches!(key, Key::Cgroup(_) | Key::NoCgroup)).cloned(),
            fds: (process.and_then(|process| process.fds_open), process.and_then(|process| process.fds_limit)),
            owners,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::borrow::Cow;

    use super::*;
    use crate::{
        diagnose::Seen,
        model::{Exit, ExitCause, Socket},
        snapshot::view::View,
        testing::{listener, owner, process, row, socket, socket_on_port},
        time::BootTime,
    };

    fn grouped(view: &View<'_>, by: GroupBy) -> Vec<ListedGroup> {
        let mut groups = ListedGroupBuilder::new(by);
        view.rows.iter().for_each(|row| groups.add(row));
        groups.finish(view.processes)
    }

    fn counts(groups: &[ListedGroup]) -> Vec<(Key, u32)> {
        groups.iter().map(|group| (group.key, group.count)).collect()
    }

    fn aged<'v>(socket: &'v Socket, seconds: u64) -> Row<'v> {
        Row { dwell: Some(Dwell::Exact(Duration::from_secs(seconds))), ..row(socket) }
    }

    #[test]
    fn the_largest_group_comes_first_then_the_oldest() {
        let sockets = [1, 2, 2, 3].map(socket_on_port);
        let rows = sockets.iter().zip([5, 7, 9, 6]).map(|(socket, age)| aged(socket, age)).collect();
        let processes = BTreeMap::new();
        let view = View { now: BootTime(0), untracked: 0, unseen: None, rows, processes: &processes };
        let groups = grouped(&view, GroupBy::Listener);
        let port =
            |group: &ListedGroup| if let Key::Listener { local, .. } = group.key { Some(local.port) } else { None };
        let ports: Vec<_> = groups.iter().filter_map(port).collect();
        assert_eq!(ports, [2, 3, 1]);
        let seconds = |age: Option<Duration>| age.unwrap().as_secs();
        assert_eq!((seconds(groups[0].oldest), seconds(groups[0].median)), (9, 7));
    }

    #[test]
    fn a_shared_socket_counts_for_each_of_its_processes_and_a_backlog_for_one() {
        let shared = [owner("a", 1, 3), owner("a", 1, 4), owner("b", 2, 3)];
        let socket = socket();
        let waits = Socket { accepted: Some(false), ..socket.clone() };
        let listener = Seen { what: listener(8080, 1, 128), at: BootTime(0), owners: shared.to_vec() };
        let rows = vec![
            Row { owners: Some(Cow::Borrowed(&shared)), ..row(&socket) },
            Row { owners: Some(Cow::Borrowed(&[])), listener: Some(&listener), ..row(&waits) },
            Row { owners: Some(Cow::Borrowed(&[])), ..row(&socket) },
            row(&socket),
        ];
        let processes = BTreeMap::from([(1, process("a", 1, Some((812, 1024))))]);
        let view = View { now: BootTime(0), untracked: 0, unseen: None, rows, processes: &processes };
        let groups = grouped(&view, GroupBy::Process);
        let expected = [(Key::Process(1), 2), (Key::Process(2), 1), (Key::NoProcess, 1), (Key::AnyProcess, 1)];
        assert_eq!(counts(&groups), expected);
        assert_eq!(groups[0].fds, (Some(812), Some(1024)));
        assert_eq!(groups[1].fds, (None, None));
    }

    #[test]
    fn an_ended_connection_is_counted_apart_and_has_no_age() {
        let socket = socket();
        let gone = Exit { at: BootTime(0), seen: true, how: ExitCause::Reset, closer: None, dwell: None };
        let rows = vec![Row { gone: Some(&gone), dwell: None, ..row(&socket) }];
        let processes = BTreeMap::new();
        let view = View { now: BootTime(0), untracked: 0, unseen: None, rows, processes: &processes };
        let groups = grouped(&view, GroupBy::Cgroup);
        let one = &groups[0];
        assert_eq!((one.key, one.count, one.gone, one.oldest), (Key::NoCgroup, 0, 1, None));
    }

    #[test]
    fn the_port_of_a_peer_counts_if_the_peer_is_the_server() {
        let socket = socket();
        let client = Socket { role: Some(Role::Client), ..socket.clone() };
        let rows = vec![row(&socket), row(&client)];
        let processes = BTreeMap::new();
        let view = View { now: BootTime(0), untracked: 0, unseen: None, rows, processes: &processes };
        let address = socket.remote.address;
        let expected = [(Key::Peer(address, None), 1), (Key::Peer(address, Some(51_234)), 1)];
        let mut counts = counts(&grouped(&view, GroupBy::Peer));
        counts.sort_unstable();
        assert_eq!(counts, expected);
    }
}
