//! Sockets by flow and group, before rules judge them.

use std::{
    cell::OnceCell,
    collections::{BTreeMap, HashMap, btree_map::Entry},
    time::Duration,
};

use crate::{
    diagnose::{
        Group,
        evidence::{GroupEvidence, OwnerClients},
    },
    flow::group_key::{FlowKey, GroupKey, GroupKeys, GroupOwner},
    model::{ReadState, Socket},
    time::BootTime,
    track::hashing::KeyedState,
    track::socket_view::SocketView,
};

/// Maximum number of groups, at about 600 bytes each. Sockets of any further group are judged as groups of one.
pub(crate) const MAX_GROUPS: usize = 65_536;

/// Socket of a group.
pub(crate) type GroupMember<'a> = SocketView<'a>;

/// Facts about all sockets of a flow, also those of groups over the limit.
#[derive(Debug, Default)]
pub(crate) struct FlowSockets {
    /// Times of entry, sorted; the latest possible time for a socket whose entry the agent did not see.
    pub(crate) entries: Vec<BootTime>,
    /// Age of the oldest unaccepted socket; `None` without one.
    pub(crate) oldest_unaccepted: Option<Duration>,
}

/// Facts about a flow without sockets.
static NO_SOCKETS: FlowSockets = FlowSockets { entries: Vec::new(), oldest_unaccepted: None };

/// Sockets of a group, and what was computed about them.
type MembersOf<'a, T> = (Vec<GroupMember<'a>>, T);

/// Sockets of a flow by owner, and facts about all of them.
struct FlowGroups<'a, T> {
    /// Computed when they are first needed: most flows of a host with many are not judged.
    facts: OnceCell<FlowSockets>,
    groups: BTreeMap<GroupOwner, MembersOf<'a, T>>,
    /// Sockets of groups over the limit.
    ungrouped: Vec<GroupMember<'a>>,
}

impl<T> Default for FlowGroups<'_, T> {
    fn default() -> Self {
        Self { facts: OnceCell::new(), groups: BTreeMap::new(), ungrouped: Vec::new() }
    }
}

/// All tracked sockets, by flow and group. `T` is what the caller computes about a group.
pub(crate) struct SortedMembers<'a, T> {
    flows: HashMap<FlowKey, FlowGroups<'a, T>, KeyedState>,
    now: BootTime,
    /// With `joins`, a socket that is newer than the last scan belongs to the only owner of its port.
    joins: bool,
    clients: BTreeMap<GroupOwner, OwnerClients>,
}

impl<'a, T: Default> SortedMembers<'a, T> {
    /// Sorts sockets as of `now`. With `joins`, a socket that is newer than the last scan belongs to the only owner of its port.
    pub(crate) fn new(
        sockets: impl Iterator<Item = GroupMember<'a>>,
        keys: &GroupKeys,
        joins: bool,
        now: BootTime,
    ) -> Self {
        let mut flows = HashMap::<FlowKey, FlowGroups<'a, T>, KeyedState>::default();
        let mut groups = 0;
        for tracked in sockets {
            let (owner, flow_key) = keys.group(tracked);
            let flow = flows.entry(flow_key).or_default();
            match flow.groups.entry(owner) {
                Entry::Occupied(mut group) => group.get_mut().0.push(tracked),
                Entry::Vacant(none) if groups < MAX_GROUPS => {
                    groups += 1;
                    none.insert((vec![tracked], T::default()));
                }
                Entry::Vacant(_) => flow.ungrouped.push(tracked),
            }
        }
        let mut clients = BTreeMap::<GroupOwner, ClientEntries>::new();
        // In any order: no flow depends on another, and the sums and bounds of owners do not depend on it.
        for (flow_key, flow) in &mut flows {
            if joins {
                flow.join_sole_owner(*flow_key);
            }
            if flow_key.is_remote() {
                flow.add_clients(&mut clients);
            }
        }
        let clients = clients.into_iter().map(|(owner, entries)| (owner, entries.into())).collect();
        Self { flows, now, joins, clients }
    }

    /// Returns the number of groups.
    #[cfg(test)]
    pub(crate) fn len(&self) -> usize {
        #[expect(clippy::disallowed_methods, reason = "a sum")]
        self.flows.values().map(|flow| flow.groups.len()).sum()
    }

    /// Returns the sockets of a group; `None` if it has none, or if a limit was reached before it.
    pub(crate) fn of_group(&self, (owner, flow_key): GroupKey) -> Option<(&[GroupMember<'a>], &T)> {
        let (members, computed) = self.flows.get(&flow_key)?.groups.get(&owner)?;
        Some((members.as_slice(), computed))
    }

    /// Returns the sockets of each flow, also those of groups over the limit, in no order.
    pub(crate) fn flows(&self) -> impl Iterator<Item = (FlowKey, impl Iterator<Item = GroupMember<'a>>)> {
        #[expect(clippy::disallowed_methods, reason = "callers sort them")]
        let flows = self.flows.iter();
        flows.map(|(flow_key, flow)| (*flow_key, flow.iter()))
    }

    /// Returns facts about all sockets of a flow.
    pub(crate) fn of_flow(&self, key: FlowKey) -> &FlowSockets {
        self.flows.get(&key).map_or(&NO_SOCKETS, |flow| flow.facts.get_or_init(|| flow.facts(self.now)))
    }

    /// Returns the connections in CLOSE_WAIT that an owner opened.
    pub(crate) fn clients_of(&self, owner: GroupOwner) -> OwnerClients {
        self.clients.get(&owner).copied().unwrap_or_default()
    }

    /// Returns the group of a socket.
    pub(crate) fn group_key(&self, keys: &GroupKeys, tracked: SocketView<'_>) -> GroupKey {
        let (owner, flow_key) = keys.group(tracked);
        if !self.joins || !is_unscanned(owner, tracked) {
            return (owner, flow_key);
        }
        let sole_owner = self.flows.get(&flow_key).and_then(|flow| flow.sole_owner(flow_key));
        (sole_owner.unwrap_or(owner), flow_key)
    }
}

impl<'a, T> FlowGroups<'a, T> {
    /// Returns the sockets, in no order.
    fn iter(&self) -> impl Iterator<Item = GroupMember<'a>> {
        self.groups.values().flat_map(|(members, _)| members).chain(&self.ungrouped).copied()
    }

    fn facts(&self, now: BootTime) -> FlowSockets {
        let mut facts = FlowSockets::default();
        for one in self.iter() {
            facts.entries.push(one.latest());
            if one.accepted() == Some(false) {
                facts.oldest_unaccepted = facts.oldest_unaccepted.max(Some(one.dwell(now).at_least()));
            }
        }
        facts.entries.sort_unstable();
        facts
    }
}

impl<T: Default> FlowGroups<'_, T> {
    /// Returns the only owner of the sockets of a port; `None` for a port with several.
    fn sole_owner(&self, flow_key: FlowKey) -> Option<GroupOwner> {
        if !matches!(flow_key, FlowKey::Port(..)) {
            return None;
        }
        let mut owners = self.groups.keys().filter(|owner| matches!(owner, GroupOwner::Held(..)));
        owners.next().filter(|_| owners.next().is_none()).copied()
    }

    /// Moves sockets that are newer than the last scan to the group of their port's only owner: one cause has one verdict.
    fn join_sole_owner(&mut self, flow_key: FlowKey) {
        let Some(owner) = self.sole_owner(flow_key) else { return };
        let Some((unknown, _)) = self.groups.remove(&GroupOwner::Unknown) else { return };
        for tracked in unknown {
            let owner = if is_unscanned(GroupOwner::Unknown, tracked) { owner } else { GroupOwner::Unknown };
            self.groups.entry(owner).or_default().0.push(tracked);
        }
    }

    /// Adds the entries of the sockets of a remote endpoint to those of their owners.
    fn add_clients(&self, clients: &mut BTreeMap<GroupOwner, ClientEntries>) {
        for (owner, (members, _)) in self.groups.iter().filter(|(owner, _)| matches!(owner, GroupOwner::Held(..))) {
            let entries = clients.entry(*owner).or_default();
            entries.groups += 1;
            members.iter().for_each(|one| entries.add(one.latest()));
        }
    }
}

/// Entries of the connections that an owner opened.
#[derive(Default)]
struct ClientEntries {
    count: u32,
    groups: u32,
    /// The first and the last one.
    range: Option<(BootTime, BootTime)>,
}

impl ClientEntries {
    fn add(&mut self, at: BootTime) {
        self.count = self.count.saturating_add(1);
        let (first, last) = self.range.unwrap_or((at, at));
        self.range = Some((first.min(at), last.max(at)));
    }
}

impl From<ClientEntries> for OwnerClients {
    fn from(ClientEntries { count, groups, range }: ClientEntries) -> Self {
        let span = range.map_or(Duration::ZERO, |(first, last)| last.since(first));
        Self { count, groups, span }
    }
}

/// Whether the owner of an accepted socket is unknown because no scan has ended since its entry.
fn is_unscanned(owner: GroupOwner, tracked: SocketView<'_>) -> bool {
    owner == GroupOwner::Unknown && !tracked.is_scanned()
}

/// Counts the sockets of a group, and passes each to `also`. The result has neither evidence nor facts about the flow.
pub(crate) fn group_of<'a>(
    members: &[GroupMember<'a>],
    now: BootTime,
    stuck_after: Duration,
    mut also: impl FnMut(GroupMember<'a>, &Socket),
) -> Group {
    let (mut ages, mut remotes) = (Vec::with_capacity(members.len()), Vec::with_capacity(members.len()));
    let mut reads = BTreeMap::<ReadState, u32>::new();
    let (mut unanswered, mut asked_nothing, mut answered, mut replied, mut awaiting) = (0, 0, 0, 0, 0);
    // Reading a socket takes longer than all of the counts.
    for one in members {
        let socket = one.socket();
        also(*one, &socket);
        ages.push(one.dwell(now).at_least());
        remotes.push(socket.remote.address);
        if let Some(state) = socket.read_state() {
            *reads.entry(state).or_default() += 1;
        }
        unanswered += u32::from(socket.sent_bytes == Some(0));
        replied += u32::from(socket.replied() == Some(true));
        asked_nothing += u32::from(socket.asked_nothing() == Some(true));
        match socket.answered() {
            Some(true) => answered += 1,
            Some(false) => awaiting += 1,
            None => {}
        }
    }
    ages.sort_unstable();
    let age = |index: usize| ages.get(index).copied().unwrap_or_default();
    remotes.sort_unstable();
    remotes.dedup();
    Group {
        count: number(ages.len()),
        stuck: number(ages.len() - ages.partition_point(|age| *age < stuck_after)),
        oldest: age(ages.len().saturating_sub(1)),
        median: age(ages.len() / 2),
        youngest: age(0),
        reads: reads.into_iter().collect(),
        unanswered,
        asked_nothing,
        answered,
        replied,
        awaiting,
        remotes: number(remotes.len()),
        oldest_unaccepted: None,
        flow: None,
        evidence: GroupEvidence::default(),
    }
}

/// Returns a number of sockets.
fn number(count: usize) -> u32 {
    u32::try_from(count).unwrap_or(u32::MAX)
}
