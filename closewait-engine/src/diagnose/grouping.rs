//! Groups of all sockets at one time. Rules judge each socket as part of its group.

use std::{
    collections::{BTreeMap, HashMap},
    net::IpAddr,
    time::Duration,
};

use crate::{
    context::host_context::HostContext,
    context::pairing,
    diagnose::{
        self, Case, Group, ProxyPeers, Seen,
        evidence::{GroupEvidence, OwnerClients, OwnerConnections, Sources},
    },
    flow::flows::Flows,
    flow::group_key::{FlowKey, GroupKey, GroupKeys, GroupOwner},
    model::{Class, Listener, Owner, ProxyPeer, ReadState, Role, RuleName, Socket, SocketKey, Verdict},
    process::Process,
    time::BootTime,
    track::hashing::KeyedState,
    track::lingering::Lingering,
    track::socket_view::SocketView,
    track::tracker::Tracker,
};

/// Maximum number of groups, at about 600 bytes each. Sockets of any further group, which entered later, are judged as groups of
/// one.
const MAX_GROUPS: usize = 65_536;

/// Listeners that a socket can have come from.
#[derive(Clone, Copy, Default)]
pub(crate) struct Origins<'a> {
    /// The listener that the socket came from or waits at; `None` if it can be one of several.
    pub(crate) listener: Option<&'a Seen<Listener>>,
    /// Number of listeners that the socket can have come from (`SO_REUSEPORT`).
    pub(crate) count: usize,
}

/// Returns the only one of several listeners (`SO_REUSEPORT`) in whose backlog an unaccepted socket can wait.
fn waiting<'a>(socket: &Socket, listeners: impl Iterator<Item = &'a Seen<Listener>>) -> Option<&'a Seen<Listener>> {
    let mut waiting = listeners.filter(|seen| socket.accepted == Some(false) && seen.what.backlog > 0);
    waiting.next().filter(|_| waiting.next().is_none())
}

/// Sockets and counts of a group while it is built.
#[derive(Default)]
struct GroupBuilder<'a> {
    members: Vec<SocketView<'a>>,
    reads: BTreeMap<ReadState, u32>,
    unanswered: u32,
    answered: u32,
    awaiting: u32,
}

impl<'a> GroupBuilder<'a> {
    fn add(&mut self, tracked: SocketView<'a>) {
        let socket = tracked.socket();
        self.members.push(tracked);
        if let Some(state) = socket.read_state() {
            *self.reads.entry(state).or_default() += 1;
        }
        self.unanswered += u32::from(socket.sent_bytes == Some(0));
        let answered = socket.answered();
        self.answered += u32::from(answered == Some(true));
        self.awaiting += u32::from(answered == Some(false));
    }

    /// Builds the group as of `now`, without its flow.
    fn group(&mut self, stuck_after: Duration, now: BootTime) -> Group {
        // For one group at a time, because there can be a million sockets.
        let mut ages: Vec<Duration> = self.members.iter().map(|one| one.dwell(now).at_least()).collect();
        ages.sort_unstable();
        let remotes = self.remotes();
        let age = |index: usize| ages.get(index).copied().unwrap_or_default();
        let number = |of: usize| u32::try_from(of).unwrap_or(u32::MAX);
        Group {
            count: number(ages.len()),
            stuck: number(ages.len() - ages.partition_point(|age| *age < stuck_after)),
            oldest: age(ages.len().saturating_sub(1)),
            median: age(ages.len() / 2),
            youngest: age(0),
            reads: std::mem::take(&mut self.reads).into_iter().collect(),
            unanswered: self.unanswered,
            answered: self.answered,
            awaiting: self.awaiting,
            remotes: number(remotes),
            oldest_unaccepted: None,
            flow: None,
            evidence: GroupEvidence::default(),
        }
    }
}

impl GroupBuilder<'_> {
    /// Returns the number of remote addresses.
    fn remotes(&self) -> usize {
        let mut remotes: Vec<IpAddr> = self.members.iter().map(|one| one.ends().1.address).collect();
        remotes.sort_unstable();
        remotes.dedup();
        remotes.len()
    }
}

/// Only owner of the sockets of a port; `None` for a port with several.
type SoleOwners = BTreeMap<FlowKey, Option<GroupOwner>>;

fn sole_owners<'k>(keys: impl Iterator<Item = &'k GroupKey>) -> SoleOwners {
    let mut sole = SoleOwners::new();
    for (owner, flow_key) in keys {
        if let (GroupOwner::Held(..), FlowKey::Port(..)) = (owner, flow_key) {
            sole.entry(*flow_key).and_modify(|sole| *sole = None).or_insert(Some(*owner));
        }
    }
    sole
}

/// Whether the owner of an accepted socket is unknown because no scan has ended since its entry.
fn is_unscanned(owner: GroupOwner, tracked: SocketView<'_>) -> bool {
    owner == GroupOwner::Unknown && !tracked.is_scanned()
}

/// Moves sockets that are newer than the last scan to the group of their port's only owner: one cause has one verdict.
fn join_sole_owners(gathered: &mut HashMap<GroupKey, GroupBuilder<'_>, KeyedState>, sole_owners: &SoleOwners) {
    for (flow_key, owner) in sole_owners {
        let Some(owner) = owner else { continue };
        let Some(unknown) = gathered.remove(&(GroupOwner::Unknown, *flow_key)) else { continue };
        for tracked in unknown.members {
            let owner = if is_unscanned(GroupOwner::Unknown, tracked) { *owner } else { GroupOwner::Unknown };
            gathered.entry((owner, *flow_key)).or_default().add(tracked);
        }
    }
}

/// Returns the connections in CLOSE_WAIT of each owner that opened some.
fn owner_clients(gathered: &HashMap<GroupKey, GroupBuilder<'_>, KeyedState>) -> BTreeMap<GroupOwner, OwnerClients> {
    let mut clients = BTreeMap::<GroupOwner, (u32, Vec<BootTime>)>::new();
    for ((owner, flow_key), group) in gathered {
        if let (GroupOwner::Held(..), FlowKey::Remote(..)) = (owner, flow_key) {
            let (groups, entries) = clients.entry(*owner).or_default();
            *groups += 1;
            entries.extend(group.members.iter().map(|one| one.latest()));
        }
    }
    let of = |(groups, entries): (u32, Vec<BootTime>)| {
        let (first, last) = (entries.iter().min().copied(), entries.iter().max().copied());
        OwnerClients {
            count: u32::try_from(entries.len()).unwrap_or(u32::MAX),
            groups,
            span: last.unwrap_or_default().since(first.unwrap_or_default()),
        }
    };
    clients.into_iter().map(|(owner, found)| (owner, of(found))).collect()
}

/// Group with the proxied connections of its sockets.
#[derive(Default)]
struct GroupedSockets<'a> {
    group: Group,
    pairs: BTreeMap<SocketKey, &'a ProxyPeer>,
    /// Counts of the proxied connections, without [`ProxyPeers::own`].
    proxy_peers: ProxyPeers,
}

/// All groups at one time.
pub(crate) struct Grouping<'a> {
    now: BootTime,
    stuck_after: Duration,
    host_context: &'a HostContext,
    keys: &'a GroupKeys,
    groups: HashMap<GroupKey, GroupedSockets<'a>, KeyedState>,
    sole_owners: SoleOwners,
    listeners: BTreeMap<u16, Vec<&'a Seen<Listener>>>,
}

impl<'a> Grouping<'a> {
    /// Groups all tracked sockets. `flows` is `None` without a watching agent. The result refers to no socket, so that sockets can
    /// change while it is there.
    pub(crate) fn new(
        now: BootTime,
        stuck_after: Duration,
        tracker: &Tracker,
        host_context: &'a HostContext,
        keys: &'a GroupKeys,
        flows: Option<&'a Flows>,
    ) -> Self {
        let mut gathered = HashMap::<GroupKey, GroupBuilder<'_>, KeyedState>::default();
        let mut oldest_unaccepted = BTreeMap::<FlowKey, Duration>::new();
        let mut entries = BTreeMap::<FlowKey, Vec<BootTime>>::new();
        for tracked in tracker.iter() {
            let (owner, flow_key) = keys.group(tracked);
            if owner == GroupOwner::Backlog {
                let oldest = oldest_unaccepted.entry(flow_key).or_default();
                *oldest = tracked.dwell(now).at_least().max(*oldest);
            }
            entries.entry(flow_key).or_default().push(tracked.latest());
            if gathered.len() < MAX_GROUPS || gathered.contains_key(&(owner, flow_key)) {
                gathered.entry((owner, flow_key)).or_default().add(tracked);
            }
        }
        #[expect(clippy::disallowed_methods, reason = "the result does not depend on the order")]
        let keys_of_groups = gathered.keys();
        let sole_owners = if host_context.blind().is_some() { SoleOwners::new() } else { sole_owners(keys_of_groups) };
        join_sole_owners(&mut gathered, &sole_owners);
        let owner_clients = owner_clients(&gathered);
        entries.values_mut().for_each(|entries| entries.sort_unstable());
        let mut listeners = BTreeMap::<u16, Vec<_>>::new();
        for seen in host_context.listeners() {
            listeners.entry(seen.what.local.port).or_default().push(seen);
        }
        let connections: BTreeMap<u32, OwnerConnections<'a>> =
            host_context.all_connections().map(|(pid, read, peers)| (pid, OwnerConnections::of(read, peers))).collect();
        let groups = gathered.into_iter().map(|(key, mut gathered)| {
            let (owner, flow_key) = key;
            let entries = entries.get(&flow_key).map(Vec::as_slice).unwrap_or_default();
            let flow = flows.and_then(|flows| flows.flow(flow_key, entries.first().copied(), now));
            let on_port = match flow_key {
                FlowKey::Port(_, port) => listeners.get(&port).map(Vec::as_slice).unwrap_or_default(),
                FlowKey::Remote(..) | FlowKey::Rest => &[],
            };
            let of_owner = owner_clients.get(&owner).copied().unwrap_or_default();
            let sources = Sources {
                now,
                host_context,
                connections: &connections,
                flows,
                flow_key,
                entries,
                listeners: on_port,
                of_owner,
            };
            let evidence = sources.evidence(&gathered.members);
            let oldest_unaccepted = oldest_unaccepted.get(&flow_key).copied();
            let group = Group { oldest_unaccepted, flow, evidence, ..gathered.group(stuck_after, now) };
            let pairs = match owner {
                GroupOwner::Held(pid, _) => {
                    let waiting = connections.get(&pid).map_or(&[][..], |of| of.waiting.as_slice());
                    let sockets = gathered.members.iter().map(|one| (one.key(), one.socket(), one.since()));
                    pairing::pair(sockets, waiting)
                }
                GroupOwner::Backlog | GroupOwner::Unknown => BTreeMap::new(),
            };
            let proxy_peers = pairing::proxy_peers(&pairs);
            (key, GroupedSockets { group, pairs, proxy_peers })
        });
        let groups = groups.collect();
        Self { now, stuck_after, host_context, keys, groups, sole_owners, listeners }
    }

    /// Judges a socket in CLOSE_WAIT.
    pub(crate) fn verdict(&self, tracked: SocketView<'_>) -> Verdict {
        self.judge(tracked, self.origins(&tracked.socket()), |_, _| true).0
    }

    /// Judges a socket in CLOSE_WAIT. The texts of the verdict are empty unless `explained` returns true for its class and rule.
    /// Returns the other side of a proxied connection, for which the socket waits, too.
    pub(crate) fn judge(
        &self,
        tracked: SocketView<'_>,
        origins: Origins<'a>,
        explained: impl FnOnce(Class, RuleName) -> bool,
    ) -> (Verdict, Option<&'a ProxyPeer>) {
        let of = self.group_key(tracked);
        let alone;
        let GroupedSockets { group, pairs, proxy_peers } = match self.groups.get(&of) {
            Some(grouped) => grouped,
            None => {
                alone = self.alone(tracked);
                &alone
            }
        };
        let own = pairs.get(&tracked.key()).copied();
        let proxy_peers = ProxyPeers { own: own.cloned(), ..proxy_peers.clone() };
        let (socket, owners) = (tracked.socket(), tracked.owners());
        let owners = owners.as_deref();
        let processes = self.processes(origins.listener, owners);
        let case = Case {
            now: self.now,
            stuck_after: self.stuck_after,
            socket: &socket,
            dwell: tracked.dwell(self.now),
            entered: tracked.latest(),
            gone: None,
            owners,
            blind: self.host_context.blind().is_some(),
            place: self.host_context.place(socket.inode),
            untouched: self.now.since(tracked.touched()),
            group,
            listener: origins.listener,
            listeners: origins.count,
            proxy_peers: &proxy_peers,
            processes: &processes,
            conntrack: self.host_context.conntrack(socket.netns),
        };
        (diagnose::verdict(&case, explained), own)
    }

    fn group_key(&self, tracked: SocketView<'_>) -> GroupKey {
        let (owner, flow_key) = self.keys.group(tracked);
        let sole = self.sole_owners.get(&flow_key).filter(|_| is_unscanned(owner, tracked));
        (sole.copied().flatten().unwrap_or(owner), flow_key)
    }

    /// Returns a group of one socket.
    fn alone(&self, tracked: SocketView<'_>) -> GroupedSockets<'a> {
        let mut gathered = GroupBuilder::default();
        gathered.add(tracked);
        let is_unaccepted = tracked.accepted() == Some(false);
        let oldest_unaccepted = is_unaccepted.then(|| tracked.dwell(self.now).at_least());
        GroupedSockets {
            group: Group { oldest_unaccepted, ..gathered.group(self.stuck_after, self.now) },
            ..GroupedSockets::default()
        }
    }

    /// Judges a socket that has exited CLOSE_WAIT but still has a descriptor. The texts of the verdict are empty unless `explained`
    /// returns true for its class and rule.
    pub(crate) fn judge_lingering(
        &self,
        lingering: &Lingering,
        origins: Origins<'a>,
        explained: impl FnOnce(Class, RuleName) -> bool,
    ) -> Verdict {
        let Lingering { socket, gone, owners, .. } = lingering;
        let (group, proxy_peers) = (Group::default(), ProxyPeers::default());
        let processes = self.processes(origins.listener, owners.as_deref());
        let case = Case {
            now: self.now,
            stuck_after: self.stuck_after,
            socket,
            dwell: crate::model::Dwell::Between { at_least: Duration::ZERO, at_most: None },
            entered: gone.at,
            gone: Some(gone),
            owners: owners.as_deref(),
            blind: self.host_context.blind().is_some(),
            place: None,
            untouched: self.now.since(gone.at),
            group: &group,
            listener: origins.listener,
            listeners: origins.count,
            proxy_peers: &proxy_peers,
            processes: &processes,
            conntrack: None,
        };
        diagnose::verdict(&case, explained)
    }

    /// Returns the listeners that a socket can have come from.
    pub(crate) fn origins(&self, socket: &Socket) -> Origins<'a> {
        let Some(on_port) = self.listeners.get(&socket.local.port) else { return Origins::default() };
        let serving = || on_port.iter().copied().filter(|seen| seen.what.serves(socket.netns, socket.local));
        // The kernel prefers a listener that is bound to the exact address (`compute_score`, net/ipv4/inet_hashtables.c).
        let exact = || serving().filter(|seen| seen.what.local.address == socket.local.address);
        let one = |first: Option<&'a Seen<Listener>>, count: usize| if count == 1 { first } else { None };
        let count = serving().count();
        let listener = match exact().count() {
            _ if socket.role != Some(Role::Server) => None,
            0 => one(serving().next(), count).or_else(|| waiting(socket, serving())),
            exactly => one(exact().next(), exactly).or_else(|| waiting(socket, exact())),
        };
        Origins { listener, count }
    }

    /// Returns the first owner of a socket, or of its listener while no program has accepted the socket.
    pub(crate) fn process(&self, socket: &Socket, owners: Option<&[Owner]>) -> Option<&'a Process> {
        let waits_at = || self.origins(socket).listener.filter(|_| socket.accepted == Some(false));
        let of_listener = || waits_at().map(|listener| listener.owners.as_slice());
        let first = owners.filter(|owners| !owners.is_empty()).or_else(of_listener)?.first()?;
        self.host_context.processes().get(&first.task.pid)
    }

    fn processes(&self, listener: Option<&Seen<Listener>>, owners: Option<&[Owner]>) -> Vec<&'a Process> {
        let listening = listener.map_or(&[][..], |listener| &listener.owners);
        let mut pids: Vec<u32> =
            owners.unwrap_or_default().iter().chain(listening).map(|owner| owner.task.pid).collect();
        pids.sort_unstable();
        pids.dedup();
        let known = |pid: &u32| self.host_context.processes().get(pid);
        let mut processes: Vec<&Process> = pids.iter().filter_map(known).collect();
        let workers: Vec<&Process> = processes.iter().flat_map(|process| self.host_context.workers(process)).collect();
        processes.extend(workers.into_iter().filter(|worker| !pids.contains(&worker.pid)));
        processes
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        diagnose::testing::owned_by,
        model::{Endpoint, KeySecret},
        testing::socket,
    };

    #[test]
    fn sockets_beyond_the_group_limit_are_judged_alone() {
        let (entered, now) = (BootTime(1_000_000_000), BootTime(100_000_000_000));
        let key = |number| SocketKey((1 << 63) + number);
        let last = MAX_GROUPS as u64 + 1;
        let mut tracker = Tracker::new(Duration::from_secs(60), usize::MAX, KeySecret::default());
        for number in 0..=last {
            let address = std::net::Ipv4Addr::from_bits(number as u32).into();
            let socket = Socket { role: Some(Role::Client), remote: Endpoint { address, port: 443 }, ..socket() };
            tracker.enter(key(number), entered, &socket);
        }
        let host_context = HostContext::default();
        let keys = GroupKeys::default();
        let grouping = Grouping::new(now, Duration::from_secs(60), &tracker, &host_context, &keys, None);
        assert_eq!(grouping.groups.len(), MAX_GROUPS);
        let verdict = |number| grouping.verdict(tracker.get(key(number)).unwrap());
        let judged = |number| (verdict(number).class, verdict(number).rule);
        assert_eq!(judged(last), judged(0), "each is the only socket of its group");
    }

    #[test]
    fn a_socket_without_a_scan_joins_the_only_owner_of_its_port() {
        let (entered, now) = (BootTime(1_000_000_000), BootTime(100_000_000_000));
        let mut tracker = Tracker::new(Duration::from_secs(60), usize::MAX, KeySecret::default());
        let key = |number: u64| SocketKey((1 << 63) + number);
        for number in 0..3 {
            tracker.enter(key(number), entered, &socket());
        }
        // Size of the group of each socket.
        let groups = |tracker: &Tracker| {
            let (host_context, keys) = (HostContext::default(), GroupKeys::default());
            let grouping = Grouping::new(now, Duration::from_secs(60), tracker, &host_context, &keys, None);
            let of = |number| grouping.group_key(tracker.get(key(number)).unwrap());
            [0, 1, 2].map(|number| grouping.groups[&of(number)].group.count)
        };
        assert_eq!(groups(&tracker), [3, 3, 3], "no owner is known");
        let own = |tracker: &mut Tracker, number, pid: u32| {
            tracker.held(key(number), &socket(), owned_by(pid, "api", 9));
            tracker.owner_scan_ended(entered, true, |_| None);
        };
        own(&mut tracker, 0, 7);
        assert_eq!(groups(&tracker), [3, 3, 3]);
        tracker.held(key(0), &socket(), owned_by(7, "api", 9));
        own(&mut tracker, 1, 8);
        assert_eq!(groups(&tracker), [1, 1, 1], "it can be a socket of either");
    }
}
