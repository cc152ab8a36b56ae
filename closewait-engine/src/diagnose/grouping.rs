//! Groups of all sockets at one time. Rules judge each socket as part of its group.

use std::{cell::OnceCell, collections::BTreeMap, time::Duration};

use crate::{
    context::{host_context::HostContext, pairing},
    diagnose::{
        self, Case, Group, ProxyPeers, Seen,
        evidence::{MemberCounts, OwnerConnections, Sources},
        members::{FlowSockets, GroupMember, SortedMembers, group_of},
    },
    flow::flows::Flows,
    flow::group_key::{FlowKey, GroupKey, GroupKeys, GroupOwner},
    model::{Class, Dwell, Listener, Owner, ProxyPeer, Role, RuleName, Socket, SocketKey, UnixBackend, Verdict},
    process::Process,
    time::BootTime,
    track::lingering::{Lingering, LingeringSockets},
    track::socket_view::SocketView,
    track::tracker::Tracker,
};

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

/// Group with the proxied connections of its sockets.
#[derive(Default)]
struct GroupedSockets<'a> {
    group: Group,
    pairs: BTreeMap<SocketKey, &'a ProxyPeer>,
    /// Counts of the proxied connections, without [`ProxyPeers::own`].
    proxy_peers: ProxyPeers,
}

/// All groups at one time. Each part is computed when it is first needed: a query that no socket matches needs none, and one on a
/// few sockets needs the evidence of their groups only.
pub(crate) struct Grouping<'a> {
    now: BootTime,
    stuck_after: Duration,
    tracker: &'a Tracker,
    host_context: &'a HostContext,
    keys: &'a GroupKeys,
    flows: Option<&'a Flows>,
    lingering: Option<&'a LingeringSockets>,
    listeners: OnceCell<BTreeMap<u16, Vec<&'a Seen<Listener>>>>,
    connections: OnceCell<BTreeMap<u32, OwnerConnections<'a>>>,
    members: OnceCell<SortedMembers<'a, OnceCell<GroupedSockets<'a>>>>,
}

impl<'a> Grouping<'a> {
    /// Creates the groups of all tracked sockets. `flows` is `None` without a watching agent.
    pub(crate) fn new(
        now: BootTime,
        stuck_after: Duration,
        tracker: &'a Tracker,
        host_context: &'a HostContext,
        keys: &'a GroupKeys,
        flows: Option<&'a Flows>,
    ) -> Self {
        let (listeners, connections, members) = (OnceCell::new(), OnceCell::new(), OnceCell::new());
        Self { now, stuck_after, tracker, host_context, keys, flows, lingering: None, listeners, connections, members }
    }

    /// Adds sockets that have exited while a program still has a descriptor of them. A program that is stuck is so as before when the
    /// peer's keepalive, or its own, ends the connections: Go's does that after a minute, and would empty the group.
    #[must_use]
    pub(crate) fn with_lingering(self, lingering: &'a LingeringSockets) -> Self {
        Self { lingering: Some(lingering), ..self }
    }

    /// Returns the sockets by group.
    fn members(&self) -> &SortedMembers<'a, OnceCell<GroupedSockets<'a>>> {
        let joins = self.host_context.blind().is_none();
        self.members.get_or_init(|| {
            let abandoned = self.lingering.into_iter().flat_map(LingeringSockets::abandoned);
            SortedMembers::new(self.tracker.stored().chain(abandoned), self.keys, joins, self.now)
        })
    }

    /// Returns the sockets of each flow, in no order.
    pub(crate) fn flows(&self) -> impl Iterator<Item = (FlowKey, impl Iterator<Item = GroupMember<'a>>)> {
        self.members().flows()
    }

    /// Returns the listeners of a port, in all network namespaces.
    fn on_port(&self, port: u16) -> &[&'a Seen<Listener>] {
        let listeners = self.listeners.get_or_init(|| {
            let mut listeners = BTreeMap::<u16, Vec<_>>::new();
            for seen in self.host_context.listeners() {
                listeners.entry(seen.what.local.port).or_default().push(seen);
            }
            listeners
        });
        listeners.get(&port).map(Vec::as_slice).unwrap_or_default()
    }

    /// Returns a group; `None` if it has no sockets, or if a limit was reached before it.
    fn group(&self, key: GroupKey) -> Option<&GroupedSockets<'a>> {
        let (members, grouped) = self.members().of_group(key)?;
        Some(grouped.get_or_init(|| self.judged_by_group(key, members)))
    }

    /// Computes the facts about a group that rules compare.
    fn judged_by_group(&self, (owner, flow_key): GroupKey, members: &[GroupMember<'a>]) -> GroupedSockets<'a> {
        let FlowSockets { entries, oldest_unaccepted } = self.members().of_flow(flow_key);
        let flow = self.flows.and_then(|flows| flows.flow(flow_key, entries.first().copied(), self.now));
        let listeners = match flow_key {
            FlowKey::Port(_, port) => self.on_port(port),
            FlowKey::Remote(..) | FlowKey::Rest => &[],
        };
        let of = |(pid, read, peers): (u32, _, &'a [ProxyPeer])| (pid, OwnerConnections::of(read, peers));
        let connections = self.connections.get_or_init(|| self.host_context.all_connections().map(of).collect());
        let sources = Sources {
            now: self.now,
            host_context: self.host_context,
            connections,
            flows: self.flows,
            flow_key,
            entries,
            listeners,
            of_owner: self.members().clients_of(owner),
        };
        let mut counts = MemberCounts::default();
        let count = |one, socket: &Socket| counts.add(one, socket, self.host_context);
        let group = group_of(members, self.now, self.stuck_after, count);
        let evidence = sources.evidence(members, &counts);
        let group = Group { oldest_unaccepted: *oldest_unaccepted, flow, evidence, ..group };
        let pairs = match owner {
            GroupOwner::Held(pid, _) => {
                let waiting = connections.get(&pid).map_or(&[][..], |of| of.waiting.as_slice());
                let sockets = members.iter().map(|one| (one.key(), one.socket(), one.since()));
                pairing::pair(sockets, waiting)
            }
            GroupOwner::Backlog | GroupOwner::Unknown => BTreeMap::new(),
        };
        let proxy_peers = pairing::proxy_peers(&pairs);
        GroupedSockets { group, pairs, proxy_peers }
    }

    /// Judges a socket in CLOSE_WAIT.
    pub(crate) fn verdict(&self, tracked: SocketView<'_>) -> Verdict {
        self.judge(tracked, self.origins(&tracked.socket()), |_, _| true).0
    }

    /// Judges a socket that its program has not closed. The texts of the verdict are empty unless `explained` returns true for its class
    /// and rule. Returns the other side of a proxied connection, for which the socket waits, too.
    pub(crate) fn judge(
        &self,
        tracked: SocketView<'_>,
        origins: Origins<'a>,
        explained: impl FnOnce(Class, RuleName) -> bool,
    ) -> (Verdict, Option<&'a ProxyPeer>) {
        let alone;
        let GroupedSockets { group, pairs, proxy_peers } = match self.group(self.group_key(tracked)) {
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

    /// Returns the programs behind UNIX sockets that the owners of a socket's group are connected to; `None` if the agent did not read them.
    pub(crate) fn unix_backends(&self, tracked: SocketView<'_>) -> Option<Vec<UnixBackend>> {
        self.group(self.group_key(tracked))?.group.evidence.unix.clone()
    }

    fn group_key(&self, tracked: SocketView<'_>) -> GroupKey {
        self.members().group_key(self.keys, tracked)
    }

    /// Returns a group of one socket.
    fn alone(&self, tracked: SocketView<'_>) -> GroupedSockets<'a> {
        let is_unaccepted = tracked.accepted() == Some(false);
        let oldest_unaccepted = is_unaccepted.then(|| tracked.dwell(self.now).at_least());
        let group = group_of(&[tracked], self.now, self.stuck_after, |_, _| {});
        GroupedSockets { group: Group { oldest_unaccepted, ..group }, ..GroupedSockets::default() }
    }

    /// Judges a socket that has exited CLOSE_WAIT but still has a descriptor: as part of its group if it is as stuck as before. The texts
    /// of the verdict are empty unless `explained` returns true for its class and rule.
    pub(crate) fn judge_lingering(
        &self,
        lingering: &Lingering,
        origins: Origins<'a>,
        explained: impl FnOnce(Class, RuleName) -> bool,
    ) -> Verdict {
        if lingering.is_abandoned() {
            return self.judge(SocketView::Abandoned(lingering), origins, explained).0;
        }
        let Lingering { socket, gone, owners, .. } = lingering;
        let (group, proxy_peers) = (Group::default(), ProxyPeers::default());
        let processes = self.processes(origins.listener, owners.as_deref());
        let case = Case {
            now: self.now,
            stuck_after: self.stuck_after,
            socket,
            dwell: Dwell::Between { at_least: Duration::ZERO, at_most: None },
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
        let on_port = self.on_port(socket.local.port);
        if on_port.is_empty() {
            return Origins::default();
        }
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
        diagnose::{members::MAX_GROUPS, testing::owned_by},
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
        assert_eq!(grouping.members().len(), MAX_GROUPS);
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
            [0, 1, 2].map(|number| grouping.group(of(number)).map(|grouped| grouped.group.count))
        };
        assert_eq!(groups(&tracker), [Some(3); 3], "no owner is known");
        let own = |tracker: &mut Tracker, number, pid: u32| {
            tracker.held(key(number), &socket(), owned_by(pid, "api", 9));
            tracker.owner_scan_ended(entered, true, |_| None);
        };
        own(&mut tracker, 0, 7);
        assert_eq!(groups(&tracker), [Some(3); 3]);
        tracker.held(key(0), &socket(), owned_by(7, "api", 9));
        own(&mut tracker, 1, 8);
        assert_eq!(groups(&tracker), [Some(1); 3], "it can be a socket of either");
    }
}
