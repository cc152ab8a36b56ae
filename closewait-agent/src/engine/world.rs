//! What is known of everything around the sockets: listeners, owners, cgroups, namespaces.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use super::{
    diagnose::Seen,
    model::{Holder, Inquiry, Leg, Listener, Observation, Place, ReadState, Role, Socket, SocketKey},
    process::Process,
    time::Boot,
    workload::Workload,
};

/// So many processes are looked at; those that hold most come first.
const PROCESSES: usize = 64;
/// So many processes are asked for their other connections.
const LEGS_OF: usize = 16;
/// Cgroups that are remembered.
const CGROUPS: usize = 4096;
/// What a process does is looked at again after this time.
const STALE: Duration = Duration::from_secs(5);

/// All of it.
#[derive(Debug, Default)]
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
}

impl World {
    /// A listener was found.
    pub(super) fn listening(&mut self, key: SocketKey, at: Boot, listener: Listener, holder: Option<Holder>) {
        let seen = self.found.entry(key).or_insert_with(|| Seen { what: listener.clone(), at, holders: Vec::new() });
        seen.what = listener;
        seen.at = at;
        seen.holders.extend(holder);
    }

    /// A walk that knows no more of a socket than its inode found a descriptor: perhaps a listener's.
    pub(super) fn held_inode(&mut self, inode: u64, holder: &Holder) {
        for seen in self.found.values_mut().filter(|seen| seen.what.inode == Some(inode)) {
            seen.holders.push(holder.clone());
        }
    }

    /// A walk over the open files of all processes is over.
    pub(super) fn walk_ended(&mut self, blind: Option<String>) {
        self.listeners = std::mem::take(&mut self.found);
        for seen in self.listeners.values_mut() {
            seen.holders.sort_by_key(|holder| (holder.task.pid, holder.fd));
        }
        self.blind = blind;
        self.places.clear();
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
            Observation::Leg { leg, holder, .. } => self.legs.entry(holder.task.pid).or_default().push(leg),
            Observation::Cgroup { id, workload } => {
                if self.cgroups.len() >= CGROUPS {
                    self.cgroups.pop_first();
                }
                self.cgroups.insert(id, *workload);
            }
            Observation::Namespace { netns, conntrack_close_wait } => {
                self.namespaces.insert(netns, conntrack_close_wait);
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
            | Observation::InquiredAll { .. }
            | Observation::Looked { .. }
            | Observation::LookedAtAll { .. }
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
        Inquiry {
            processes,
            legs_of,
            cgroups: cgroups.into_iter().collect(),
            unheld: unheld.into_iter().collect(),
            namespaces: namespaces.into_iter().collect(),
        }
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

    /// The processes that were looked at.
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
