//! What is known of everything around the sockets: listeners, owners, cgroups, namespaces.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use super::{
    diagnose::Seen,
    model::{Holder, Inquiry, Leg, Listener, Observation, Place, ReadState, Role, Socket, SocketKey},
    process::Process,
    room::{Room, keep_holder},
    time::Boot,
    workload::Workload,
};

/// So many processes are looked at; those that hold most come first.
const PROCESSES: usize = 64;
/// So many processes are asked for their other connections.
const LEGS_OF: usize = 16;
/// Cgroups that are remembered, and asked for at a time.
const CGROUPS: usize = 4096;
/// Network namespaces that are remembered, and asked for at a time.
const NAMESPACES: usize = 4096;
/// Listeners of the whole host that are known, at some 200 bytes.
const LISTENERS: usize = 65_536;
/// Descriptors of listeners beside the first of each.
const MORE_HOLDERS: usize = 65_536;
/// Other connections of owners, at some 300 bytes.
const LEGS: usize = 65_536;
/// Sockets without a holder that are searched for elsewhere at a time: the processes named for each make a list.
const UNHELD: usize = 4096;
/// What a process does is looked at again after this time.
const STALE: Duration = Duration::from_secs(5);

/// All of it.
#[derive(Debug)]
pub(super) struct World {
    listeners: BTreeMap<SocketKey, Seen<Listener>>,
    /// What the walk that goes on has found so far.
    found: BTreeMap<SocketKey, Seen<Listener>>,
    blind: Option<String>,
    processes: BTreeMap<u32, Process>,
    looked: BTreeMap<u32, Boot>,
    legs: BTreeMap<u32, Vec<Leg>>,
    cgroups: BTreeMap<u64, Workload>,
    namespaces: BTreeMap<u32, Option<Duration>>,
    places: BTreeMap<u64, Place>,
    more_holders: Room,
    more_legs: Room,
    /// What found no room in the last walk, and in the last inquiry.
    unkept: [u64; 2],
}

impl Default for World {
    fn default() -> Self {
        Self {
            listeners: BTreeMap::new(),
            found: BTreeMap::new(),
            blind: None,
            processes: BTreeMap::new(),
            looked: BTreeMap::new(),
            legs: BTreeMap::new(),
            cgroups: BTreeMap::new(),
            namespaces: BTreeMap::new(),
            places: BTreeMap::new(),
            more_holders: Room::new(MORE_HOLDERS),
            more_legs: Room::new(LEGS),
            unkept: [0; 2],
        }
    }
}

impl World {
    /// A listener was found.
    pub(super) fn listening(&mut self, key: SocketKey, at: Boot, listener: Listener, holder: Option<Holder>) {
        if self.found.len() >= LISTENERS && !self.found.contains_key(&key) {
            self.more_holders.refuse();
            return;
        }
        let seen = self.found.entry(key).or_insert_with(|| Seen { what: listener.clone(), at, holders: Vec::new() });
        seen.what = listener;
        seen.at = at;
        if let Some(holder) = holder {
            keep_holder(&mut seen.holders, holder, &mut self.more_holders);
        }
    }

    /// A walk that knows no more of a socket than its inode found a descriptor: perhaps a listener's.
    pub(super) fn held_inode(&mut self, inode: u64, holder: &Holder) {
        for seen in self.found.values_mut().filter(|seen| seen.what.inode == Some(inode)) {
            keep_holder(&mut seen.holders, holder.clone(), &mut self.more_holders);
        }
    }

    /// A walk over the open files of all processes is over.
    pub(super) fn walk_ended(&mut self, blind: Option<String>) {
        self.listeners = std::mem::take(&mut self.found);
        self.unkept[0] = self.more_holders.renew(0);
        for seen in self.listeners.values_mut() {
            seen.holders.sort_by_key(|holder| (holder.task.pid, holder.fd));
        }
        self.blind = blind;
        self.places.clear();
    }

    /// A scan of open files gave up, for this reason: the listeners of the one before stay.
    pub(super) fn scan_failed(&mut self, why: String) {
        self.found.clear();
        self.more_holders.renew(0);
        self.blind = Some(why);
    }

    /// Why the last walk could not see all processes, if so.
    pub(super) fn blind(&self) -> Option<&str> {
        self.blind.as_deref()
    }

    /// Takes in part of the answer to an inquiry.
    pub(super) fn learn(&mut self, observation: Observation) {
        match observation {
            Observation::Process { at, process } => {
                self.looked.insert(process.pid, at);
                self.processes.insert(process.pid, *process);
            }
            Observation::Leg { leg, holder, .. } => {
                if self.more_legs.take() {
                    self.legs.entry(holder.task.pid).or_default().push(leg);
                }
            }
            Observation::Cgroup { id, workload } => remember(&mut self.cgroups, id, *workload, CGROUPS),
            Observation::Namespace { netns, conntrack_close_wait } => {
                remember(&mut self.namespaces, netns, conntrack_close_wait, NAMESPACES);
            }
            Observation::Placed { inode, place } => {
                self.places.insert(inode, place);
            }
            Observation::Enter { .. }
            | Observation::Leave { .. }
            | Observation::Present { .. }
            | Observation::Held { .. }
            | Observation::Holds { .. }
            | Observation::HeldInode { .. }
            | Observation::Lingering { .. }
            | Observation::Listening { .. }
            | Observation::WalkEnded { .. }
            | Observation::ScanFailed { .. }
            | Observation::InquiredAll { .. }
            | Observation::Looked { .. }
            | Observation::LookedAtAll { .. }
            | Observation::LookedAtGone { .. }
            | Observation::Resumed { .. }
            | Observation::Stored { .. }
            | Observation::Audited { .. }
            | Observation::LookedAtSuspects { .. }
            | Observation::Counters { .. } => {}
        }
    }

    /// What is to be found out at `now` of the sockets that stay, given with their holders.
    pub(super) fn inquiry<'a>(
        &mut self,
        now: Boot,
        sockets: impl Iterator<Item = (&'a Socket, Option<&'a [Holder]>)>,
    ) -> Inquiry {
        let mut owners = BTreeMap::<u32, u64>::new();
        let mut served = BTreeMap::<_, u64>::new();
        // Those that have taken something in which they may have passed on.
        let mut readers = BTreeSet::new();
        let (mut cgroups, mut unheld, mut namespaces) = (BTreeSet::new(), BTreeSet::new(), BTreeSet::new());
        for (socket, holders) in sockets {
            let has_read = match socket.read_state() {
                Some(ReadState::NeverRead | ReadState::Probe) => false,
                Some(ReadState::IdleFin | ReadState::Goodbye | ReadState::Partial | ReadState::FinConsumed) | None => {
                    true
                }
            };
            for holder in holders.unwrap_or_default() {
                *owners.entry(holder.task.pid).or_default() += 1;
                if has_read {
                    readers.insert(holder.task.pid);
                }
            }
            cgroups.extend(socket.cgroup.filter(|id| !self.cgroups.contains_key(id)));
            namespaces.extend(socket.netns.filter(|netns| !self.namespaces.contains_key(netns)));
            if holders.is_some_and(<[Holder]>::is_empty) {
                unheld.extend(socket.inode.filter(|inode| !self.places.contains_key(inode)));
            }
            if socket.role == Some(Role::Server) {
                *served.entry((socket.netns, socket.local)).or_default() += 1;
            }
        }
        // Whoever listens may have handed a socket on, or have to accept it.
        for ((netns, local), count) in served {
            for listener in self.listeners.values().filter(|seen| seen.what.serves(netns, local)) {
                for holder in &listener.holders {
                    *owners.entry(holder.task.pid).or_default() += count;
                }
            }
        }
        let mut ranked: Vec<_> = owners.into_iter().collect();
        ranked.sort_by_key(|(pid, count)| (u64::MAX - count, *pid));
        ranked.truncate(PROCESSES);
        let wanted: BTreeSet<u32> = ranked.iter().map(|(pid, _)| *pid).collect();
        self.processes.retain(|pid, _| wanted.contains(pid));
        self.looked.retain(|pid, _| wanted.contains(pid));
        self.legs.retain(|pid, _| wanted.contains(pid));
        let stale = |pid: &u32| self.looked.get(pid).is_none_or(|looked| now.since(*looked) >= STALE);
        let processes: Vec<u32> = ranked.iter().map(|(pid, _)| *pid).filter(stale).collect();
        let legs_of: Vec<u32> = processes.iter().copied().filter(|pid| readers.contains(pid)).take(LEGS_OF).collect();
        for pid in &legs_of {
            self.legs.remove(pid);
        }
        let unkept_legs = self.more_legs.renew(self.legs.values().map(Vec::len).sum());
        self.unkept[1] = unkept_legs + unheld.len().saturating_sub(UNHELD) as u64;
        Inquiry {
            processes,
            legs_of,
            cgroups: cgroups.into_iter().take(CGROUPS).collect(),
            unheld: unheld.into_iter().take(UNHELD).collect(),
            namespaces: namespaces.into_iter().take(NAMESPACES).collect(),
        }
    }

    /// Those of `cgroups` whose workloads are not known, each once and no more than are asked for at a time.
    pub(super) fn unnamed(&self, cgroups: impl Iterator<Item = u64>) -> Vec<u64> {
        let unnamed: BTreeSet<u64> = cgroups.filter(|id| !self.cgroups.contains_key(id)).collect();
        unnamed.into_iter().take(CGROUPS).collect()
    }

    /// How many facts found no room at the last look.
    pub(super) fn unkept(&self) -> u64 {
        self.unkept.iter().sum()
    }

    /// The listeners that a socket can have come from.
    pub(super) fn listeners_of(&self, socket: &Socket) -> impl Iterator<Item = &Seen<Listener>> {
        let (netns, local) = (socket.netns, socket.local);
        self.listeners.values().filter(move |seen| seen.what.serves(netns, local))
    }

    /// All listeners.
    pub(super) fn listeners(&self) -> impl Iterator<Item = &Seen<Listener>> {
        self.listeners.values()
    }

    /// When a process was looked at.
    pub(super) fn looked_at(&self, pid: u32) -> Option<Boot> {
        self.looked.get(&pid).copied()
    }

    /// The processes that were inspected.
    pub(super) fn processes(&self) -> &BTreeMap<u32, Process> {
        &self.processes
    }

    /// Other connections of a process.
    pub(super) fn legs(&self, pid: u32) -> &[Leg] {
        self.legs.get(&pid).map_or(&[], Vec::as_slice)
    }

    /// What the cgroup of a socket is; where that is the root of all, as with cgroup v1, that of its first holder.
    pub(super) fn workload(&self, socket: &Socket, holders: Option<&[Holder]>) -> Option<&Workload> {
        let own = socket.cgroup.and_then(|cgroup| self.cgroups.get(&cgroup));
        let of_holder = || self.processes.get(&holders?.first()?.task.pid)?.workload.as_deref();
        own.filter(|own| !own.is_root()).or_else(|| of_holder().filter(|of_holder| !of_holder.is_root()))
    }

    /// How long a namespace's connection tracking keeps a connection in CLOSE_WAIT.
    pub(super) fn conntrack(&self, netns: Option<u32>) -> Option<Duration> {
        *self.namespaces.get(&netns?)?
    }

    /// Where a socket is that no process holds.
    pub(super) fn place(&self, inode: Option<u64>) -> Option<&Place> {
        self.places.get(&inode?)
    }
}

/// Keeps one more; of too many the one with the lowest number goes, for the kernel counts up. It is found out again if a
/// socket asks for it.
fn remember<K: Ord, V>(known: &mut BTreeMap<K, V>, key: K, value: V, most: usize) {
    known.insert(key, value);
    if known.len() > most {
        known.pop_first();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        model::Connection,
        testing::{holder, listener, socket},
    };

    fn leg(world: &mut World, pid: u32) {
        let leg = Leg { state: Connection::Established, socket: socket() };
        world.learn(Observation::Leg { key: SocketKey(1), at: Boot(0), leg, holder: holder("x", pid, 3) });
    }

    #[test]
    fn listeners_that_come_last_are_left_out_and_counted_until_the_next_walk() {
        let mut world = World::default();
        for key in 0..LISTENERS as u64 + 3 {
            world.listening(SocketKey(key), Boot(0), listener(80, 0, 1), Some(holder("x", 1, 3)));
        }
        world.listening(SocketKey(0), Boot(0), listener(80, 0, 1), Some(holder("y", 2, 3)));
        world.walk_ended(None);
        assert_eq!((world.listeners.len(), world.unkept()), (LISTENERS, 3));
        assert_eq!(world.listeners[&SocketKey(0)].holders.len(), 2, "one that is known may have more holders");
        world.walk_ended(None);
        assert_eq!((world.listeners.len(), world.unkept()), (0, 0));
    }

    #[test]
    fn descriptors_of_one_listener_that_nobody_needs_are_left_out_and_counted() {
        let mut world = World::default();
        for fd in 0..MORE_HOLDERS as u32 + 6 {
            world.listening(SocketKey(1), Boot(0), listener(80, 0, 1), Some(holder("x", 1, fd)));
        }
        world.walk_ended(None);
        assert_eq!((world.listeners[&SocketKey(1)].holders.len(), world.unkept()), (MORE_HOLDERS + 1, 5));
    }

    #[test]
    fn other_connections_that_come_last_are_left_out_and_counted_and_make_room_when_their_process_has_gone() {
        let mut world = World::default();
        (0..LEGS + 7).for_each(|_| leg(&mut world, 5));
        assert_eq!(world.legs(5).len(), LEGS);
        world.inquiry(Boot(0), std::iter::empty());
        assert_eq!((world.legs(5).len(), world.unkept()), (0, 7));
        leg(&mut world, 6);
        world.inquiry(Boot(0), std::iter::empty());
        assert_eq!(world.unkept(), 0);
    }

    #[test]
    fn of_cgroups_and_namespaces_the_lowest_numbers_go_first() {
        let mut world = World::default();
        for netns in 0..NAMESPACES as u32 + 2 {
            world.learn(Observation::Namespace { netns, conntrack_close_wait: Some(Duration::from_secs(60)) });
        }
        assert_eq!((world.namespaces.len(), world.conntrack(Some(1))), (NAMESPACES, None));
        assert!(world.conntrack(Some(2)).is_some());
    }

    #[test]
    fn one_inquiry_asks_for_so_much_and_the_next_for_the_rest() {
        let sockets: Vec<Socket> = (0..UNHELD as u64 + 9)
            .map(|number| Socket { inode: Some(number), cgroup: Some(number), ..socket() })
            .collect();
        let mut world = World::default();
        let none: &[Holder] = &[];
        let inquiry = world.inquiry(Boot(0), sockets.iter().map(|socket| (socket, Some(none))));
        assert_eq!((inquiry.unheld.len(), inquiry.cgroups.len(), world.unkept()), (UNHELD, CGROUPS, 9));
        for inode in inquiry.unheld {
            world.learn(Observation::Placed { inode, place: Place::InFlight(Vec::new()) });
        }
        let inquiry = world.inquiry(Boot(0), sockets.iter().map(|socket| (socket, Some(none))));
        assert_eq!((inquiry.unheld.len(), world.unkept()), (9, 0));
    }
}
