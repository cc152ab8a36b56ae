//! Collects the evidence of a group from facts about its owners and its port.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
    time::Duration,
};

use super::{
    AFTER_ONSET, Backends, ClientFacts, GroupEvidence, OwnerClients, PeersRead, RECENT, Siblings, StackEvidence, Waits,
};
use crate::{
    context::{host_context::HostContext, pairing},
    diagnose::Seen,
    flow::{flows::Flows, group_key::FlowKey},
    model::{Connection, Endpoint, Listener, Owner, PeerEnd, ProxyPeer, Role, Socket},
    process::Process,
    time::{BootTime, TICK},
    track::socket_view::SocketView,
};

/// Maximum age of facts about owners that count as evidence.
pub(super) const MAX_AGE: Duration = Duration::from_secs(60);
/// Tolerance of a process's start time: its resolution, and the time that a process for one connection needs to start.
pub(crate) const STARTED: Duration = Duration::from_millis(20);

/// Maximum number of owners of a group whose facts are read.
const MAX_OWNERS: usize = 64;

/// Connections of one process, by what the groups of its sockets need. A process may have many groups and many connections, so they
/// are classified once for all groups.
#[derive(Debug)]
pub(crate) struct OwnerConnections<'a> {
    /// Time of the read; `None` if it is unknown, or if some connections were dropped.
    read: Option<BootTime>,
    /// Connections that wait, as [`pairing::pair`] takes them.
    pub(crate) waiting: Vec<&'a ProxyPeer>,
    /// Open connections that the process accepted, by local port.
    accepted: BTreeMap<u16, Vec<&'a ProxyPeer>>,
    /// Number of waiting connections that the process did not accept, by remote endpoint.
    backends: BTreeMap<Endpoint, u32>,
    /// Latest data on open connections that the process did not accept, by remote endpoint.
    answers: BTreeMap<Endpoint, BootTime>,
}

impl<'a> OwnerConnections<'a> {
    /// Classifies the connections of a process, which were read at `read`.
    pub(crate) fn of(read: Option<BootTime>, peers: &'a [ProxyPeer]) -> Self {
        let waiting = pairing::waiting(peers);
        let mut accepted = BTreeMap::<u16, Vec<&ProxyPeer>>::new();
        let is_accepted = |peer: &ProxyPeer| peer.socket.role == Some(Role::Server);
        for peer in peers.iter().filter(|peer| is_accepted(peer) && peer.state == Connection::Established) {
            accepted.entry(peer.socket.local.port).or_default().push(peer);
        }
        let mut backends = BTreeMap::new();
        for peer in waiting.iter().filter(|peer| !is_accepted(peer)) {
            *backends.entry(peer.socket.remote).or_default() += 1;
        }
        let mut answers = BTreeMap::new();
        for peer in peers.iter().filter(|peer| !is_accepted(peer) && peer.state == Connection::Established) {
            if let Some(last) =
                peer.socket.last_received.filter(|_| peer.socket.received_bytes.is_some_and(|bytes| bytes > 0))
            {
                let latest = answers.entry(peer.socket.remote).or_insert(last);
                *latest = last.max(*latest);
            }
        }
        Self { read, waiting, accepted, backends, answers }
    }
}

/// Counts of a group's sockets, made in one pass.
#[derive(Debug, Default)]
pub(crate) struct MemberCounts {
    /// The first entry.
    onset: Option<BootTime>,
    /// Owners of the first [`MAX_OWNERS`] descriptors.
    pids: BTreeSet<u32>,
    descriptors: usize,
    /// Local addresses.
    locals: BTreeSet<IpAddr>,
    /// Times of entry of the sockets that are served ([`Socket::is_served`]).
    served: Vec<BootTime>,
    /// Number of sockets with data that the peer has not acknowledged.
    sending: u32,
    /// Number of sockets whose FIN the program has not read.
    eof_unread: u32,
    /// Number of sockets that received data before their only owner started: it inherited them, or another process passed them on.
    older_than_owner: u32,
}

impl MemberCounts {
    /// Counts a socket.
    pub(crate) fn add(&mut self, one: SocketView<'_>, socket: &Socket, host_context: &HostContext) {
        let latest = one.latest();
        self.onset = Some(self.onset.map_or(latest, |onset| onset.min(latest)));
        self.locals.insert(socket.local.address);
        self.sending += u32::from(socket.send_queue_bytes.is_some_and(|bytes| bytes > 0));
        self.eof_unread += u32::from(socket.unread_bytes.is_some_and(|bytes| bytes > 0));
        if socket.is_served() {
            self.served.push(latest);
        }
        let Some(owners) = one.owners() else { return };
        let first = owners.iter().take(MAX_OWNERS - self.descriptors);
        self.pids.extend(first.clone().map(|owner| owner.task.pid));
        self.descriptors += first.len();
        self.older_than_owner += u32::from(is_older_than_owner(socket, &owners, host_context) == Some(true));
    }
}

/// Whether a socket received data before its only owner started; `None` if that is unknown, or if it has several.
fn is_older_than_owner(socket: &Socket, owners: &[Owner], host_context: &HostContext) -> Option<bool> {
    let [first, others @ ..] = owners else { return None };
    let received = socket.last_received.filter(|_| socket.received_bytes.is_some_and(|bytes| bytes > 1))?;
    let started = host_context.processes().get(&first.task.pid)?.started_ns?;
    let alone = others.iter().all(|owner| owner.task.pid == first.task.pid);
    Some(alone && received + STARTED <= BootTime(started))
}

/// Sources of a group's evidence.
pub(crate) struct Sources<'a> {
    /// Time of the judgement.
    pub(crate) now: BootTime,
    /// Facts about owners.
    pub(crate) host_context: &'a HostContext,
    /// Connections of the owners, by pid.
    pub(crate) connections: &'a BTreeMap<u32, OwnerConnections<'a>>,
    /// Facts about ports and remote endpoints; `None` without a watching agent.
    pub(crate) flows: Option<&'a Flows>,
    /// The port or remote endpoint of the group.
    pub(crate) flow_key: FlowKey,
    /// Listeners of the port, in all network namespaces; empty for clients.
    pub(crate) listeners: &'a [&'a Seen<Listener>],
    /// Times at which the sockets of that port or remote endpoint entered CLOSE_WAIT, sorted.
    pub(crate) entries: &'a [BootTime],
    /// Connections of the group's owner in CLOSE_WAIT, to any remote endpoint.
    pub(crate) of_owner: OwnerClients,
}

impl Sources<'_> {
    /// Returns the evidence of the group with these sockets.
    pub(crate) fn evidence(&self, members: &[SocketView<'_>], counts: &MemberCounts) -> GroupEvidence {
        let MemberCounts { pids, locals, served: done, sending, eof_unread, older_than_owner, .. } = counts;
        let Some(onset) = counts.onset else { return GroupEvidence::default() };
        let is_server = matches!(self.flow_key, FlowKey::Port(..));
        let (netns, port) = match self.flow_key {
            FlowKey::Port(netns, port) => (netns, Some(port)),
            FlowKey::Remote(..) | FlowKey::Rest => (None, None),
        };
        let closes = port.and_then(|port| self.host_context.closes(netns, port, self.now)).copied();
        let siblings = if is_server { self.siblings(pids, onset) } else { None };
        // A process that serves one connection has no others: only closes show whether its siblings serve some.
        let siblings = siblings.filter(|siblings| {
            closes.is_some() || *siblings != Siblings::default() || !self.is_process_per_connection(pids, members)
        });
        // Demand counts the whole port: a server with a process for each connection has a group for each process.
        let first = self.entries.first().copied().unwrap_or(onset);
        let last_exit = self
            .flows
            .filter(|_| is_server)
            .and_then(|flows| flows.last_closed(self.flow_key))
            .filter(|last| *last > first + AFTER_ONSET);
        let served = siblings.and_then(|siblings| siblings.last_served);
        let progress = [served, closes.and_then(|closes| closes.last), last_exit].into_iter().flatten().max();
        let stalled_since = progress.map_or(first, |progress| progress.max(first));
        let late = stalled_since + AFTER_ONSET;
        let after = self.entries.len() - self.entries.partition_point(|entry| *entry <= late);
        // Nothing waits for the program on these but the close.
        let done = done.iter().filter(|entry| **entry > late).count();
        let peer_ends: Vec<PeerEnd> = if is_server {
            let present = members.iter().filter(|one| one.exit().is_none());
            present.filter_map(|one| self.host_context.peer_end(one.key())).collect()
        } else {
            Vec::new()
        };
        GroupEvidence {
            onset: Some(onset),
            stalled_since: Some(stalled_since),
            demand: number(after.saturating_sub(done)) + siblings.map_or(0, |siblings| siblings.waiting),
            answered: number(done),
            late_exits: self.flows.map(|flows| flows.late_exits(self.flow_key)),
            siblings,
            closes,
            last_exit,
            peer_ends: PeersRead {
                read: number(peer_ends.len()),
                half_closed: number(peer_ends.iter().filter(|end| **end == PeerEnd::HalfClosed).count()),
                // They have closed both directions.
                ended: number(members.iter().filter(|one| is_server && one.exit().is_some()).count()),
            },
            backends: self.backends(pids, locals),
            unix: if is_server { self.unix(pids) } else { None },
            waits: self.waits(pids, members),
            stacks: self.stacks(pids, members),
            sending: *sending,
            older_than_owner: *older_than_owner,
            eof_unread: *eof_unread,
            clients: match self.flow_key {
                FlowKey::Remote(scope, remote) => {
                    let watched = self.host_context.watches_remote(scope.netns, remote.port);
                    let sockets = members.iter().map(|one| (one.socket(), one.since(), one.touched()));
                    ClientFacts { of_owner: self.of_owner, ..ClientFacts::of(sockets, onset, watched, self.now) }
                }
                FlowKey::Port(..) | FlowKey::Rest => ClientFacts::default(),
            },
        }
    }

    /// Returns the connections of all owners; `None` if those of one owner were not read in the last [`MAX_AGE`].
    fn connections(&self, pids: &BTreeSet<u32>) -> Option<Vec<(BootTime, &OwnerConnections<'_>)>> {
        let fresh = |pid: &u32| {
            let of = self.connections.get(pid)?;
            of.read.filter(|read| self.now.since(*read) <= MAX_AGE).map(|read| (read, of))
        };
        let all: Vec<_> = pids.iter().map(fresh).collect::<Option<_>>()?;
        (!all.is_empty()).then_some(all)
    }

    /// Whether each owner has one socket of the group, and another process listens, too.
    fn is_process_per_connection(&self, pids: &BTreeSet<u32>, members: &[SocketView<'_>]) -> bool {
        let Some(first) = members.first() else { return false };
        let (netns, local) = (first.netns(), first.ends().0);
        let mut listeners = self.listeners.iter().filter(|seen| seen.what.serves(netns, local));
        members.len() <= pids.len()
            && listeners.any(|seen| seen.owners.iter().any(|owner| !pids.contains(&owner.task.pid)))
    }

    fn siblings<'s>(&'s self, pids: &BTreeSet<u32>, onset: BootTime) -> Option<Siblings> {
        let FlowKey::Port(netns, port) = self.flow_key else { return None };
        let mut siblings = Siblings::default();
        let owners = self.connections(pids)?;
        let accepted = |(read, of): &(BootTime, &'s OwnerConnections<'_>)| {
            let (read, peers) = (*read, of.accepted.get(&port));
            peers.into_iter().flatten().map(move |peer| (read, &peer.socket))
        };
        for (read, socket) in owners.iter().flat_map(accepted) {
            if netns.is_some() && socket.netns.is_some() && socket.netns != netns {
                continue;
            }
            let (Some(sent), Some(received)) = (socket.last_sent, socket.last_received) else { continue };
            let has_sent = socket.sent_bytes.is_some_and(|bytes| bytes > 0);
            let has_received = socket.received_bytes.is_some_and(|bytes| bytes > 0);
            let after = |at: BootTime| at > onset + TICK;
            if has_sent && has_received && after(sent) && after(received) {
                let served = if read.since(sent) <= RECENT { read } else { sent };
                siblings.last_served = siblings.last_served.max(Some(served));
            }
            siblings.waiting += u32::from(has_received && after(received) && (!has_sent || received > sent + TICK));
        }
        Some(siblings)
    }

    fn backends(&self, pids: &BTreeSet<u32>, locals: &BTreeSet<IpAddr>) -> Option<Backends> {
        let port = if let FlowKey::Port(_, port) = self.flow_key { Some(port) } else { None };
        // A connection of the program to itself is no backend.
        let is_other = |remote: &Endpoint| port != Some(remote.port) || !locals.contains(&remote.address);
        let mut backends = Backends::default();
        for (read, of) in self.connections(pids)? {
            let waiting = of.backends.iter().filter(|(remote, _)| is_other(remote));
            backends.waiting += waiting.map(|(_, waiting)| waiting).sum::<u32>();
            let mut answers = of.answers.iter().filter(|(remote, _)| is_other(remote));
            backends.answered |= answers.any(|(_, last)| read.since(*last) <= RECENT);
        }
        Some(backends)
    }

    fn stacks(&self, pids: &BTreeSet<u32>, members: &[SocketView<'_>]) -> Option<StackEvidence> {
        let owners = pids.iter().map(|pid| self.host_context.processes().get(pid));
        let stacks = owners.flat_map(|owner| match owner {
            Some(owner) => self.working(owner).into_iter().map(|process| process.stacks.as_deref()).collect(),
            None => vec![None],
        });
        StackEvidence::of(stacks, &|at| entered_by(members, at))
    }

    /// Returns the processes that do the work of an owner: its workers, or itself if it has none.
    fn working<'p>(&'p self, owner: &'p Process) -> Vec<&'p Process> {
        let workers: Vec<_> = self.host_context.workers(owner).collect();
        if workers.is_empty() { vec![owner] } else { workers }
    }

    fn waits(&self, pids: &BTreeSet<u32>, members: &[SocketView<'_>]) -> Option<Waits> {
        let mut waits = Waits::default();
        for pid in pids {
            let fresh = self.host_context.inspected_at(*pid).is_some_and(|at| self.now.since(at) <= MAX_AGE);
            let owner = self.host_context.processes().get(pid).filter(|_| fresh)?;
            self.working(owner).into_iter().for_each(|process| waits.add(process));
        }
        if pids.is_empty() || waits.threads == 0 {
            return None;
        }
        // Each sample covers one process.
        let sampled = pids.first().filter(|_| pids.len() == 1);
        let samples = sampled.into_iter().flat_map(|pid| self.host_context.wait_samples(*pid));
        let samples = samples.map(|sample| (sample.limited, entered_by(members, sample.at)));
        waits.follows = waits.follows(number(members.len()), samples);
        Some(waits)
    }
}

/// Returns the number of sockets that had entered at a time.
fn entered_by(members: &[SocketView<'_>], at: BootTime) -> u32 {
    number(members.iter().filter(|one| one.latest() <= at).count())
}

/// Returns a number of sockets or processes.
fn number(count: usize) -> u32 {
    u32::try_from(count).unwrap_or(u32::MAX)
}
