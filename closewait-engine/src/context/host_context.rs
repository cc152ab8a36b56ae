//! Facts about the host: listeners, owners, cgroups, namespaces.

mod closes;
#[cfg(test)]
mod tests;

use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    time::Duration,
};

use serde::{Deserialize, Serialize};

use super::{
    connect_log::ConnectLog, connections::Connections, peer_ends::PeerEnds, run_counts::RunCounts,
    stack_samples::StackSamples, unix_log::UnixLog, unread_log::UnreadLog,
};
use crate::{
    diagnose::{Seen, evidence::WaitsSample},
    flow::group_key::FlowKey,
    limits::{Quota, keep_owner, some_are_of, sort_owners},
    model::{
        InspectionFact, InspectionRequest, Listener, Owner, PeerEnd, PeerQuestion, PortCloses, ProxyPeer, Role, Socket,
        SocketKey, SocketLocation, UnixConnections, UnreadQuestion, WatchedPort,
    },
    process::{Process, Tool},
    text::harmless_field,
    time::BootTime,
    track::socket_view::{InspectedSocket, SocketView},
    unread::UnreadRequest,
    workload::Workload,
};

/// Maximum number of inspected processes; those that own the most sockets come first.
pub(crate) const MAX_PROCESSES: usize = 64;
/// Maximum number of samples of a process's waiting threads, one for each of the latest inspections.
const MAX_WAIT_SAMPLES: usize = 16;
/// Maximum number of known cgroups, and of cgroups in one inspection.
const MAX_CGROUPS: usize = 4096;
/// Maximum number of known network namespaces, and of namespaces in one inspection.
const MAX_NAMESPACES: usize = 4096;
/// Maximum number of known listeners of the whole host, at about 200 bytes each.
const MAX_LISTENERS: usize = 65_536;
/// Maximum number of stored descriptors of listeners, without the first of each listener.
const MAX_MORE_OWNERS: usize = 65_536;
/// Maximum number of sockets without an owner that one inspection locates, each with a list of processes.
const MAX_UNHELD: usize = 4096;
/// Age at which an inspection reads the state of a process again.
const PROCESS_REFRESH_INTERVAL: Duration = Duration::from_secs(5);
/// Maximum age of a process's state that is kept if a newer read did not end in time, or if no inspection requests it.
const MAX_PROCESS_AGE: Duration = Duration::from_secs(15);
/// Age at which an inspection searches for the tools of the host again.
const TOOLS_REFRESH_INTERVAL: Duration = Duration::from_secs(60);

/// Facts about the host: listeners, owners, cgroups, namespaces.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct HostContext {
    listeners: BTreeMap<SocketKey, Seen<Listener>>,
    /// Listeners that the running scan has found so far.
    found: BTreeMap<SocketKey, Seen<Listener>>,
    #[serde(deserialize_with = "harmless_field")]
    blind: Option<String>,
    processes: BTreeMap<u32, Process>,
    inspected: BTreeMap<u32, BootTime>,
    /// Processes that had ended when the running inspection wanted to read them.
    #[serde(default)]
    ended: BTreeSet<u32>,
    connections: Connections,
    /// Watched ports, each with the time at which the engine requested it.
    watched: BTreeMap<WatchedPort, BootTime>,
    closes: BTreeMap<(Option<u32>, u16), PortCloses>,
    /// Number of threads that waited with a timeout at the latest inspections of each process, oldest first.
    wait_samples: BTreeMap<u32, VecDeque<WaitsSample>>,
    peer_ends: PeerEnds,
    #[serde(default)]
    stacks: StackSamples,
    #[serde(default)]
    unread: UnreadLog,
    #[serde(default)]
    unix: UnixLog,
    #[serde(default)]
    pub(super) connects: ConnectLog,
    cgroups: BTreeMap<u64, Workload>,
    namespaces: BTreeMap<u32, Option<Duration>>,
    places: BTreeMap<u64, SocketLocation>,
    /// Time of the last search for tools; `None` before the first.
    tools_searched: Option<BootTime>,
    /// Tools that exist on this host; `None` before the first search.
    tools: Option<BTreeSet<Tool>>,
    /// Tools that the last search did not find.
    missing_tools: BTreeSet<Tool>,
    owner_quota: Quota,
    /// Numbers of facts that the last scan and the last inspection dropped.
    dropped: [u64; 2],
}

impl Default for HostContext {
    fn default() -> Self {
        Self {
            listeners: BTreeMap::new(),
            found: BTreeMap::new(),
            blind: None,
            processes: BTreeMap::new(),
            inspected: BTreeMap::new(),
            ended: BTreeSet::new(),
            connections: Connections::default(),
            watched: BTreeMap::new(),
            closes: BTreeMap::new(),
            wait_samples: BTreeMap::new(),
            peer_ends: PeerEnds::default(),
            stacks: StackSamples::default(),
            unread: UnreadLog::default(),
            unix: UnixLog::default(),
            connects: ConnectLog::default(),
            cgroups: BTreeMap::new(),
            namespaces: BTreeMap::new(),
            places: BTreeMap::new(),
            tools_searched: None,
            tools: None,
            missing_tools: BTreeSet::new(),
            owner_quota: Quota::new(MAX_MORE_OWNERS),
            dropped: [0; 2],
        }
    }
}

impl HostContext {
    /// Restores the fields of processes that a checkpoint does not contain, because other fields of it determine them.
    pub(crate) fn restored(&mut self) {
        let Self { processes, inspected, tools, missing_tools, stacks, .. } = self;
        for process in processes.values_mut() {
            process.tools.clone_from(tools);
            process.missing_tools.clone_from(missing_tools);
            process.stacks = inspected.get(&process.pid).and_then(|at| stacks.of(process, *at));
        }
    }

    /// Adds a listener that the running scan found.
    pub(crate) fn listening(&mut self, key: SocketKey, at: BootTime, listener: Listener, owner: Option<Owner>) {
        if self.found.len() >= MAX_LISTENERS && !self.found.contains_key(&key) {
            self.owner_quota.count_dropped();
            return;
        }
        let seen = self.found.entry(key).or_insert_with(|| Seen { what: listener.clone(), at, owners: Vec::new() });
        seen.what = listener;
        seen.at = at;
        if let Some(owner) = owner {
            keep_owner(&mut seen.owners, owner, &mut self.owner_quota);
        }
    }

    /// Adds a descriptor from a scan that knows only the socket's inode, which may be a listener's.
    pub(crate) fn held_inode(&mut self, inode: u64, owner: &Owner) {
        for seen in self.found.values_mut().filter(|seen| seen.what.inode == Some(inode)) {
            keep_owner(&mut seen.owners, owner.clone(), &mut self.owner_quota);
        }
    }

    /// Takes over the result of a scan of the open files of all processes.
    pub(crate) fn scan_ended(&mut self, blind: Option<String>) {
        self.listeners = std::mem::take(&mut self.found);
        self.dropped[0] = self.owner_quota.reset(0);
        for seen in self.listeners.values_mut() {
            sort_owners(&mut seen.owners);
        }
        self.blind = blind;
        self.places.clear();
    }

    /// Keeps the listeners of the previous scan, because a scan of open files failed for the reason `why`.
    pub(crate) fn scan_failed(&mut self, why: String) {
        self.found.clear();
        self.owner_quota.reset(0);
        self.blind = Some(why);
    }

    /// Returns the reason why the last scan could not read all processes; `None` if it read all.
    pub(crate) fn blind(&self) -> Option<&str> {
        self.blind.as_deref()
    }

    /// Stores a fact of an inspection.
    pub(crate) fn learn(&mut self, fact: InspectionFact) {
        match fact {
            InspectionFact::Process { at, process } if self.knows_more(&process, at) => {}
            InspectionFact::Process { at, mut process } => {
                process.tools.clone_from(&self.tools);
                process.missing_tools.clone_from(&self.missing_tools);
                process.stacks = self.stacks.of(&process, at);
                self.inspected.insert(process.pid, at);
                let samples = self.wait_samples.entry(process.pid).or_default();
                if samples.len() >= MAX_WAIT_SAMPLES {
                    samples.pop_front();
                }
                samples.push_back(WaitsSample::of(&process, at));
                self.processes.insert(process.pid, *process);
            }
            InspectionFact::Tools { at, tools, missing } => {
                (self.tools_searched, self.tools, self.missing_tools) = (Some(at), Some(tools), missing);
                for process in self.processes.values_mut() {
                    process.tools.clone_from(&self.tools);
                    process.missing_tools.clone_from(&self.missing_tools);
                }
            }
            InspectionFact::Ended { pid } => drop(self.ended.insert(pid)),
            InspectionFact::Stacks(stacks) => {
                let (pid, at) = (stacks.pid, stacks.at);
                self.stacks.learn(*stacks);
                if let Some(process) = self.processes.get_mut(&pid) {
                    process.stacks = self.stacks.of(process, at);
                }
            }
            InspectionFact::ProxyPeer { peer, owner } => self.connections.found(owner.task.pid, *peer),
            InspectionFact::ConnectionsRead { pid, at } => self.connections.read(pid, at),
            InspectionFact::Closes(closes) => self.learn_closes(closes),
            InspectionFact::PeerEnd { key, at, end } => self.peer_ends.learn(key, at, end),
            InspectionFact::Cgroup { id, workload } => remember(&mut self.cgroups, id, *workload, MAX_CGROUPS),
            InspectionFact::Namespace { netns, conntrack_close_wait } => {
                remember(&mut self.namespaces, netns, conntrack_close_wait, MAX_NAMESPACES);
            }
            InspectionFact::Unread { key, at: _, request } => self.unread.learn(key, request),
            InspectionFact::Connects(samples) => self.connects.learn(*samples),
            InspectionFact::UnixConnections(connections) => self.unix.learn(*connections),
            InspectionFact::Location { inode, place } => {
                self.places.insert(inode, place);
            }
        }
    }

    /// Whether a process that was read at `at` lacks its threads, and they are known from a read a short time ago. On a crowded host
    /// a read may not end in time, and one such read must not change a verdict. The next inspection reads the process again.
    fn knows_more(&self, process: &Process, at: BootTime) -> bool {
        let Process { pid, started_ns, .. } = *process;
        let is_recent = self.inspected.get(&pid).is_some_and(|known| at.since(*known) <= MAX_PROCESS_AGE);
        let is_same = |known: &Process| started_ns.is_none() || known.started_ns == started_ns;
        let known = self.processes.get(&pid).filter(|known| !known.lacks_threads() && is_same(known));
        process.lacks_threads() && process.frozen != Some(true) && is_recent && known.is_some()
    }

    /// Returns the sockets whose peers an inspection at `now` looks up.
    pub(crate) fn peer_request<'a>(
        &mut self,
        now: BootTime,
        sockets: impl Iterator<Item = (FlowKey, SocketView<'a>)>,
    ) -> Vec<PeerQuestion> {
        self.peer_ends.request(now, sockets)
    }

    /// Returns the sockets whose unread requests an inspection peeks at, and forgets those that are no longer `tracked`.
    pub(crate) fn unread_request<'a>(
        &mut self,
        agent: Option<u32>,
        tracked: impl Fn(SocketKey) -> bool,
        sockets: impl Iterator<Item = (FlowKey, SocketView<'a>)>,
    ) -> Vec<UnreadQuestion> {
        self.unread.request(agent, tracked, sockets)
    }

    /// Returns the request that no program has read from a socket, or `None` for bytes of no known protocol. `None` if the agent did not
    /// peek.
    pub(crate) fn unread(&self, one: SocketView<'_>) -> Option<Option<&UnreadRequest>> {
        self.unread.answer(one)
    }

    /// Whether the agent peeks at the request of a socket, or has, for which it duplicates a descriptor.
    pub(crate) fn is_duplicated(&self, key: SocketKey) -> bool {
        self.unread.has(key)
    }

    /// Does what [`Self::is_duplicated`] does for a socket of which only the inode is known.
    pub(crate) fn is_duplicated_inode(&self, inode: u64) -> bool {
        self.unread.has_inode(inode)
    }

    /// Forgets the peer and the request of a socket, because another socket has this key.
    pub(crate) fn forget_socket(&mut self, key: SocketKey) {
        self.peer_ends.forget(key);
        self.unread.forget(key);
    }

    /// Ends an inspection, after all of its facts.
    pub(crate) fn inspection_ended(&mut self) {
        self.connections.inspection_ended();
        self.stacks.inspection_ended();
    }

    /// Returns the owners that had ended when the inspection wanted to read them, and drops them from listeners that another process also
    /// owns.
    pub(crate) fn drop_ended(&mut self) -> BTreeSet<u32> {
        let ended = std::mem::take(&mut self.ended);
        for seen in self.listeners.values_mut().filter(|seen| some_are_of(&seen.owners, &ended)) {
            seen.owners.retain(|owner| !ended.contains(&owner.task.pid));
        }
        ended
    }

    /// Returns the facts that an inspection at `now` reads about the given sockets and their owners, with the owners' stacks if
    /// `reads_stacks`.
    pub(crate) fn inspection_request<'a>(
        &mut self,
        now: BootTime,
        reads_stacks: bool,
        sockets: impl Iterator<Item: Into<InspectedSocket<'a>>>,
    ) -> InspectionRequest {
        let (mut owners, mut served) = (RunCounts::default(), RunCounts::default());
        let (mut cgroups, mut unheld, mut namespaces) = (BTreeSet::new(), BTreeSet::new(), BTreeSet::new());
        let mut before = None;
        for socket in sockets.map(Into::into) {
            let serves = socket.role == Some(Role::Server);
            socket.owners.as_deref().unwrap_or_default().iter().for_each(|owner| owners.add((owner.task.pid, serves)));
            if before.replace((socket.cgroup, socket.netns)) != Some((socket.cgroup, socket.netns)) {
                cgroups.extend(socket.cgroup.filter(|id| !self.cgroups.contains_key(id)));
                namespaces.extend(socket.netns.filter(|netns| !self.namespaces.contains_key(netns)));
            }
            if socket.owners.as_deref().is_some_and(<[Owner]>::is_empty) {
                unheld.extend(socket.inode.filter(|inode| !self.places.contains_key(inode)));
            }
            if serves {
                served.add((socket.netns, socket.local));
            }
        }
        let (owners, served) = (owners.into_counts(), served.into_counts());
        let serving: BTreeSet<u32> = owners.keys().filter(|(_, serves)| *serves).map(|(pid, _)| *pid).collect();
        let mut counts = BTreeMap::<u32, u64>::new();
        owners.into_iter().for_each(|((pid, _), count)| *counts.entry(pid).or_default() += count);
        let own: BTreeSet<u32> = counts.keys().copied().collect();
        let ports: BTreeSet<_> = served.keys().map(|(netns, local)| (*netns, local.port)).collect();
        let closes_of = self
            .watched
            .keys()
            .filter(|port| !port.remote && ports.contains(&(port.netns, port.port)))
            .copied()
            .collect();
        // There can be thousands of ports and of listeners.
        let mut on_ports = BTreeMap::<u16, Vec<&Seen<Listener>>>::new();
        for seen in self.listeners.values() {
            on_ports.entry(seen.what.local.port).or_default().push(seen);
        }
        // A listening process may have passed a socket on, or has to accept it.
        for ((netns, local), count) in served {
            let on_port = on_ports.get(&local.port).into_iter().flatten();
            for listener in on_port.filter(|seen| seen.what.serves(netns, local)) {
                for owner in &listener.owners {
                    *counts.entry(owner.task.pid).or_default() += count;
                }
            }
        }
        // What the program behind a UNIX socket does explains why its answer is missing.
        self.unix.retain(|pid| serving.contains(&pid));
        let backends = serving.iter().flat_map(|pid| self.unix.backends(*pid));
        let backends: BTreeSet<u32> = backends.filter(|pid| !counts.contains_key(pid)).collect();
        counts.extend(backends.iter().map(|pid| (*pid, 0)));
        let mut ranked: Vec<_> = counts.into_iter().collect();
        ranked.sort_by_key(|(pid, count)| (u64::MAX - count, *pid));
        ranked.truncate(MAX_PROCESSES);
        let wanted: BTreeSet<u32> = ranked.iter().map(|(pid, _)| *pid).collect();
        let is_wanted = |pid: &u32, process: &Process| {
            wanted.contains(pid) || process.parent.is_some_and(|parent| wanted.contains(&parent))
        };
        // Queries inspect the owners of young sockets, too, which other inspections do not request.
        let is_recent = |pid: &u32| self.inspected.get(pid).is_some_and(|at| now.since(*at) <= MAX_PROCESS_AGE);
        self.processes.retain(|pid, process| is_wanted(pid, process) || is_recent(pid));
        self.inspected.retain(|pid, _| self.processes.contains_key(pid));
        self.wait_samples.retain(|pid, _| self.processes.contains_key(pid));
        let is_stale = |at: BootTime| now.since(at) >= PROCESS_REFRESH_INTERVAL;
        let stale = |pid: &u32| self.inspected.get(pid).is_none_or(|at| is_stale(*at));
        let processes: Vec<u32> = ranked.iter().map(|(pid, _)| *pid).filter(stale).collect();
        let owners = ranked.iter().map(|(pid, _)| *pid).filter(|pid| own.contains(pid));
        let connections_of = self
            .connections
            .request(now, owners, is_stale, |pid| wanted.contains(&pid) || self.processes.contains_key(&pid));
        let stacks_of = if reads_stacks { self.stacks.request(now, &(&wanted - &backends)) } else { Vec::new() };
        let dropped_connections = self.connections.count_dropped();
        self.dropped[1] = dropped_connections + unheld.len().saturating_sub(MAX_UNHELD) as u64;
        let searched = self.tools_searched;
        let tools = !wanted.is_empty() && searched.is_none_or(|searched| now.since(searched) >= TOOLS_REFRESH_INTERVAL);
        InspectionRequest {
            processes,
            stacks_of,
            unix_of: connections_of.iter().copied().filter(|pid| serving.contains(pid)).collect(),
            connections_of,
            cgroups: cgroups.into_iter().take(MAX_CGROUPS).collect(),
            unheld: unheld.into_iter().take(MAX_UNHELD).collect(),
            namespaces: namespaces.into_iter().take(MAX_NAMESPACES).collect(),
            closes_of,
            peer_ends_of: Vec::new(),
            unread_of: Vec::new(),
            connects_of: Vec::new(),
            tools,
        }
    }

    /// Returns the distinct `cgroups` whose workloads are unknown, [`MAX_CGROUPS`] at most.
    pub(crate) fn unnamed(&self, cgroups: impl Iterator<Item = u64>) -> Vec<u64> {
        let unnamed: BTreeSet<u64> = cgroups.filter(|id| !self.cgroups.contains_key(id)).collect();
        unnamed.into_iter().take(MAX_CGROUPS).collect()
    }

    /// Returns the number of facts that the last scan and the last inspection dropped over a limit.
    pub(crate) fn dropped(&self) -> u64 {
        self.dropped.iter().sum()
    }

    /// Returns the listeners that a socket can have come from.
    pub(crate) fn listeners_of(&self, socket: &Socket) -> impl Iterator<Item = &Seen<Listener>> {
        let (netns, local) = (socket.netns, socket.local);
        self.listeners.values().filter(move |seen| seen.what.serves(netns, local))
    }

    /// Returns all listeners.
    pub(crate) fn listeners(&self) -> impl Iterator<Item = &Seen<Listener>> {
        self.listeners.values()
    }

    /// Returns the workers of a process: the children that run the same program, if they have event loops.
    pub(crate) fn workers<'a>(&'a self, master: &'a Process) -> impl Iterator<Item = &'a Process> {
        let masters = self.processes.values().filter(|_| master.is_event_loop_runtime());
        masters.filter(move |one| one.parent == Some(master.pid) && one.exe.is_some() && one.exe == master.exe)
    }

    /// Returns the time at which a process was inspected.
    pub(crate) fn inspected_at(&self, pid: u32) -> Option<BootTime> {
        self.inspected.get(&pid).copied()
    }

    /// Returns the inspected processes by pid.
    pub(crate) fn processes(&self) -> &BTreeMap<u32, Process> {
        &self.processes
    }

    /// Returns the connections that are not in CLOSE_WAIT, by process: its pid, and the time at which all of its connections were last
    /// read, `None` if they never were, or if some were dropped.
    pub(crate) fn all_connections(&self) -> impl Iterator<Item = (u32, Option<BootTime>, &[ProxyPeer])> {
        self.connections.all()
    }

    /// Returns the number of frames of all kept stacks.
    pub(crate) fn stack_frames(&self) -> usize {
        self.stacks.frames()
    }

    /// Returns the numbers of threads of a process that waited with a timeout at the latest inspections, oldest first.
    pub(crate) fn wait_samples(&self, pid: u32) -> impl Iterator<Item = WaitsSample> {
        self.wait_samples.get(&pid).into_iter().flatten().copied()
    }

    /// Whether the kernel program stores the times at which connections to a remote port are opened.
    pub(crate) fn watches_remote(&self, netns: Option<u32>, port: u16) -> bool {
        let first = WatchedPort { netns, port, remote: true, since: BootTime(0) };
        let next = self.watched.range(first..).next();
        next.is_some_and(|(watched, _)| watched.remote && (watched.netns, watched.port) == (netns, port))
    }

    /// Returns the state of a socket's peer; `None` if the agent did not look it up.
    pub(crate) fn peer_end(&self, key: SocketKey) -> Option<PeerEnd> {
        self.peer_ends.get(key)
    }

    /// Returns the workload of a socket's cgroup. If that is the root cgroup, as with cgroup v1, returns the workload of the first
    /// owner.
    pub(crate) fn workload(&self, socket: &Socket, owners: Option<&[Owner]>) -> Option<&Workload> {
        let own = socket.cgroup.and_then(|cgroup| self.cgroups.get(&cgroup));
        let of_owner = || self.processes.get(&owners?.first()?.task.pid)?.workload.as_deref();
        own.filter(|own| !own.is_root()).or_else(|| of_owner().filter(|of_owner| !of_owner.is_root()))
    }

    /// Returns the timeout after which a namespace's connection tracking forgets a connection in CLOSE_WAIT.
    pub(crate) fn conntrack(&self, netns: Option<u32>) -> Option<Duration> {
        *self.namespaces.get(&netns?)?
    }

    /// Returns the connections of a process over UNIX sockets; `None` if the agent did not read them.
    pub(crate) fn unix_connections(&self, pid: u32) -> Option<&UnixConnections> {
        self.unix.of(pid)
    }

    /// Returns the location of a socket without an owner.
    pub(crate) fn place(&self, inode: Option<u64>) -> Option<&SocketLocation> {
        self.places.get(&inode?)
    }
}

/// Inserts a value. Over the limit `most`, drops the lowest key, which is the oldest, because the kernel counts up. An inspection
/// reads it again if a socket needs it.
fn remember<K: Ord, V>(known: &mut BTreeMap<K, V>, key: K, value: V, most: usize) {
    known.insert(key, value);
    if known.len() > most {
        known.pop_first();
    }
}
