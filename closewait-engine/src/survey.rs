//! All sockets at one moment, put into groups, so that rules can judge each among those that are like it.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    net::IpAddr,
    time::Duration,
};

use super::{
    diagnose::{self, Case, Group, Legs, Seen},
    hashing::KeyedState,
    lingering::Lingering,
    model::{Holder, Leg, Listener, ReadState, Role, Socket, SocketKey, Verdict},
    pairing,
    process::Process,
    services::{Service, Services},
    time::Boot,
    tracked::Tracked,
    tracker::Tracker,
    world::World,
};

/// So many groups are made, at some 600 bytes; the sockets of further ones, which entered later, are judged each by itself.
const GROUPS: usize = 65_536;

/// Who has the sockets of a group.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
enum Owner {
    /// Nobody yet: they wait to be accepted.
    Backlog,
    /// Nobody knows.
    Unknown,
    /// The first process, and how many processes.
    Held(u32, u32),
}

/// What sockets have in common that are like each other.
type GroupKey = (Owner, Service);

/// The sockets of a group while it is put together.
#[derive(Default)]
struct Gathered<'a> {
    members: Vec<(SocketKey, &'a Tracked)>,
    ages: Vec<Duration>,
    reads: BTreeMap<ReadState, u32>,
    unanswered: u32,
    remotes: BTreeSet<IpAddr>,
}

impl<'a> Gathered<'a> {
    fn add(&mut self, key: SocketKey, tracked: &'a Tracked, now: Boot) {
        self.members.push((key, tracked));
        self.ages.push(tracked.since.dwell(now).at_least());
        if let Some(state) = tracked.socket.read_state() {
            *self.reads.entry(state).or_default() += 1;
        }
        self.unanswered += u32::from(tracked.socket.sent_bytes == Some(0));
        self.remotes.insert(tracked.socket.remote.address);
    }

    /// What they have in common, but for what is known of their service.
    fn group(&mut self, stuck_after: Duration) -> Group {
        self.ages.sort_unstable();
        let ages = &self.ages;
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
            remotes: number(self.remotes.len()),
            unaccepted: 0,
            flow: None,
        }
    }
}

/// A group, and the other connections of its sockets.
#[derive(Default)]
struct Surveyed<'a> {
    group: Group,
    pairs: BTreeMap<SocketKey, &'a Leg>,
    /// What is the same for all of them.
    legs: Legs,
}

/// All groups at one moment.
pub(super) struct Survey<'a> {
    now: Boot,
    stuck_after: Duration,
    world: &'a World,
    services: Option<&'a Services>,
    groups: HashMap<GroupKey, Surveyed<'a>, KeyedState>,
    listeners: BTreeMap<u16, Vec<&'a Seen<Listener>>>,
}

impl<'a> Survey<'a> {
    /// Puts everything that is tracked into groups. `services` is what was watched, if something was.
    pub(super) fn new(
        now: Boot,
        stuck_after: Duration,
        tracker: &'a Tracker,
        world: &'a World,
        services: Option<&'a Services>,
    ) -> Self {
        let mut gathered = HashMap::<GroupKey, Gathered<'a>, KeyedState>::default();
        let mut unaccepted = BTreeMap::<Service, u32>::new();
        let mut onsets = BTreeMap::<Service, Boot>::new();
        for (key, tracked) in tracker.iter() {
            let (owner, service) = group_of(services, tracked);
            if owner == Owner::Backlog {
                *unaccepted.entry(service).or_default() += 1;
            }
            let entered = tracked.since.latest();
            onsets.entry(service).and_modify(|onset| *onset = entered.min(*onset)).or_insert(entered);
            if gathered.len() < GROUPS || gathered.contains_key(&(owner, service)) {
                gathered.entry((owner, service)).or_default().add(key, tracked, now);
            }
        }
        let groups = gathered.into_iter().map(|(key, mut gathered)| {
            let (owner, service) = key;
            let flow = services.and_then(|services| services.flow(service, onsets.get(&service).copied(), now));
            let unaccepted = unaccepted.get(&service).copied().unwrap_or(0);
            let group = Group { unaccepted, flow, ..gathered.group(stuck_after) };
            let pairs = match owner {
                Owner::Held(pid, _) if !world.legs(pid).is_empty() => {
                    let sockets: Vec<_> =
                        gathered.members.iter().map(|(key, one)| (*key, &one.socket, one.since)).collect();
                    pairing::pair(&sockets, world.legs(pid))
                }
                Owner::Held(..) | Owner::Backlog | Owner::Unknown => BTreeMap::new(),
            };
            let legs = pairing::legs(&pairs);
            (key, Surveyed { group, pairs, legs })
        });
        let groups = groups.collect();
        let mut listeners = BTreeMap::<u16, Vec<_>>::new();
        for seen in world.listeners() {
            listeners.entry(seen.what.local.port).or_default().push(seen);
        }
        Self { now, stuck_after, world, services, groups, listeners }
    }

    /// Judges a socket in CLOSE_WAIT.
    pub(super) fn verdict(&self, key: SocketKey, tracked: &Tracked) -> Verdict {
        let of = group_of(self.services, tracked);
        let alone;
        let Surveyed { group, pairs, legs } = match self.groups.get(&of) {
            Some(surveyed) => surveyed,
            None => {
                alone = self.alone(key, tracked);
                &alone
            }
        };
        let legs = Legs { own: pairs.get(&key).map(|leg| (*leg).clone()), ..legs.clone() };
        let processes = self.processes(&tracked.socket, tracked.holders.as_deref());
        let case = Case {
            now: self.now,
            stuck_after: self.stuck_after,
            socket: &tracked.socket,
            dwell: tracked.since.dwell(self.now),
            entered: tracked.since.latest(),
            gone: None,
            holders: tracked.holders.as_deref(),
            blind: self.world.blind().is_some(),
            place: self.world.place(tracked.socket.inode),
            untouched: self.now.since(tracked.touched),
            group,
            listener: self.listener(&tracked.socket),
            legs: &legs,
            processes: &processes,
            conntrack: self.world.conntrack(tracked.socket.netns),
        };
        diagnose::verdict(&case)
    }

    /// A group of one.
    fn alone(&self, key: SocketKey, tracked: &Tracked) -> Surveyed<'a> {
        let mut gathered = Gathered::default();
        gathered.add(key, tracked, self.now);
        let unaccepted = u32::from(tracked.socket.accepted == Some(false));
        Surveyed { group: Group { unaccepted, ..gathered.group(self.stuck_after) }, ..Surveyed::default() }
    }

    /// Judges a socket of which only a descriptor is left.
    pub(super) fn verdict_on_lingering(&self, lingering: &Lingering) -> Verdict {
        let Lingering { socket, gone, holders, .. } = lingering;
        let (group, legs) = (Group::default(), Legs::default());
        let processes = self.processes(socket, holders.as_deref());
        let case = Case {
            now: self.now,
            stuck_after: self.stuck_after,
            socket,
            dwell: super::model::Dwell::Between { at_least: Duration::ZERO, at_most: None },
            entered: gone.at,
            gone: Some(gone),
            holders: holders.as_deref(),
            blind: self.world.blind().is_some(),
            place: None,
            untouched: self.now.since(gone.at),
            group: &group,
            listener: self.listener(socket),
            legs: &legs,
            processes: &processes,
            conntrack: None,
        };
        diagnose::verdict(&case)
    }

    /// The connection that a socket waits for, if it is one leg of a proxied one.
    pub(super) fn leg(&self, key: SocketKey, tracked: &Tracked) -> Option<&'a Leg> {
        let of = group_of(self.services, tracked);
        self.groups.get(&of)?.pairs.get(&key).copied()
    }

    /// The listener that a socket came out of or waits at; none if it can have been one of several.
    pub(super) fn listener(&self, socket: &Socket) -> Option<&'a Seen<Listener>> {
        if socket.role != Some(Role::Server) {
            return None;
        }
        let serving = || {
            let on_port = self.listeners.get(&socket.local.port).into_iter().flatten();
            on_port.copied().filter(|seen| seen.what.serves(socket.netns, socket.local))
        };
        // The kernel prefers the one that is bound to the very address (`compute_score`, net/ipv4/inet_hashtables.c).
        let mut exact = serving().filter(|seen| seen.what.local.address == socket.local.address);
        match (exact.next(), exact.next()) {
            (Some(one), None) => return Some(one),
            (Some(_), Some(_)) => return None,
            (None, _) => {}
        }
        let mut any = serving();
        any.next().filter(|_| any.next().is_none())
    }

    /// The first process that holds a socket, or while nobody has accepted it, its listener.
    pub(super) fn process(&self, socket: &Socket, holders: Option<&[Holder]>) -> Option<&'a Process> {
        let waits_at = || self.listener(socket).filter(|_| socket.accepted == Some(false));
        let of_listener = || waits_at().map(|listener| listener.holders.as_slice());
        let first = holders.filter(|holders| !holders.is_empty()).or_else(of_listener)?.first()?;
        self.world.processes().get(&first.task.pid)
    }

    fn processes(&self, socket: &Socket, holders: Option<&[Holder]>) -> Vec<&'a Process> {
        let listening = self.listener(socket).map_or(&[][..], |listener| &listener.holders);
        let mut pids: Vec<u32> =
            holders.unwrap_or_default().iter().chain(listening).map(|holder| holder.task.pid).collect();
        pids.sort_unstable();
        pids.dedup();
        pids.iter().filter_map(|pid| self.world.processes().get(pid)).collect()
    }
}

fn group_of(services: Option<&Services>, tracked: &Tracked) -> GroupKey {
    let socket = &tracked.socket;
    let owner = match tracked.holders.as_deref() {
        _ if socket.accepted == Some(false) => Owner::Backlog,
        None | Some([]) => Owner::Unknown,
        Some(holders @ [first, ..]) => {
            let others = holders.iter().zip(&holders[1..]).filter(|(one, next)| one.task.pid != next.task.pid);
            Owner::Held(first.task.pid, 1 + u32::try_from(others.count()).unwrap_or(u32::MAX - 1))
        }
    };
    (owner, services.map_or_else(|| Service::of(socket), |services| services.of(socket)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        model::{Endpoint, KeySecret},
        testing::socket,
    };

    #[test]
    fn sockets_of_the_groups_that_come_last_are_judged_each_by_itself() {
        let (entered, now) = (Boot(1_000_000_000), Boot(100_000_000_000));
        let key = |number| SocketKey((1 << 63) + number);
        let last = GROUPS as u64 + 1;
        let mut tracker = Tracker::new(Duration::from_secs(60), usize::MAX, KeySecret::default());
        for number in 0..=last {
            let address = std::net::Ipv4Addr::from_bits(number as u32).into();
            let socket = Socket { role: Some(Role::Client), remote: Endpoint { address, port: 443 }, ..socket() };
            tracker.enter(key(number), entered, socket);
        }
        let world = World::default();
        let survey = Survey::new(now, Duration::from_secs(60), &tracker, &world, None);
        assert_eq!(survey.groups.len(), GROUPS);
        let verdict = |number| survey.verdict(key(number), tracker.get(key(number)).unwrap());
        assert_eq!(verdict(last), verdict(0), "each is the only one in its group");
    }
}
