//! Sockets by flow and group, before rules judge them.

use std::{
    collections::{BTreeMap, HashMap},
    time::Duration,
};

use crate::{
    diagnose::{
        Group,
        evidence::{GroupEvidence, OwnerClients},
    },
    flow::group_key::{FlowKey, GroupKey, GroupKeys, GroupOwner},
    model::ReadState,
    time::BootTime,
    track::hashing::KeyedState,
    track::socket_view::SocketView,
};

/// Maximum number of groups, at about 600 bytes each. Sockets of any further group, which entered later, are judged as groups of
/// one.
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

/// Only owner of the sockets of a port; `None` for a port with several.
type SoleOwners = BTreeMap<FlowKey, Option<GroupOwner>>;

/// Sockets of a group, and what was computed about them.
type MembersOf<'a, T> = (Vec<GroupMember<'a>>, T);

/// All tracked sockets, by flow and group. `T` is what the caller computes about a group.
pub(crate) struct SortedMembers<'a, T> {
    groups: HashMap<GroupKey, MembersOf<'a, T>, KeyedState>,
    flows: HashMap<FlowKey, FlowSockets, KeyedState>,
    sole_owners: SoleOwners,
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
        let mut groups = HashMap::<GroupKey, MembersOf<'a, T>, KeyedState>::default();
        let mut flows = HashMap::<FlowKey, FlowSockets, KeyedState>::default();
        for tracked in sockets {
            let of @ (owner, flow_key) = keys.group(tracked);
            let flow = flows.entry(flow_key).or_default();
            if owner == GroupOwner::Backlog {
                flow.oldest_unaccepted = flow.oldest_unaccepted.max(Some(tracked.dwell(now).at_least()));
            }
            flow.entries.push(tracked.latest());
            if groups.len() < MAX_GROUPS || groups.contains_key(&of) {
                groups.entry(of).or_default().0.push(tracked);
            }
        }
        #[expect(clippy::disallowed_methods, reason = "the result does not depend on the order")]
        let (of_groups, of_flows) = (groups.keys(), flows.values_mut());
        of_flows.for_each(|flow| flow.entries.sort_unstable());
        let sole_owners = if joins { sole_owners(of_groups) } else { SoleOwners::new() };
        join_sole_owners(&mut groups, &sole_owners);
        let clients = owner_clients(&groups);
        Self { groups, flows, sole_owners, clients }
    }

    /// Returns the number of groups.
    #[cfg(test)]
    pub(crate) fn len(&self) -> usize {
        self.groups.len()
    }

    /// Returns the sockets of a group; `None` if it has none, or if a limit was reached before it.
    pub(crate) fn of_group(&self, key: GroupKey) -> Option<(&[GroupMember<'a>], &T)> {
        self.groups.get(&key).map(|(members, computed)| (members.as_slice(), computed))
    }

    /// Returns facts about all sockets of a flow.
    pub(crate) fn of_flow(&self, key: FlowKey) -> &FlowSockets {
        self.flows.get(&key).unwrap_or(&NO_SOCKETS)
    }

    /// Returns the connections in CLOSE_WAIT that an owner opened.
    pub(crate) fn clients_of(&self, owner: GroupOwner) -> OwnerClients {
        self.clients.get(&owner).copied().unwrap_or_default()
    }

    /// Returns the group of a socket.
    pub(crate) fn group_key(&self, keys: &GroupKeys, tracked: SocketView<'_>) -> GroupKey {
        let (owner, flow_key) = keys.group(tracked);
        if !is_unscanned(owner, tracked) {
            return (owner, flow_key);
        }
        (self.sole_owners.get(&flow_key).copied().flatten().unwrap_or(owner), flow_key)
    }
}

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
fn join_sole_owners<T: Default>(
    groups: &mut HashMap<GroupKey, MembersOf<'_, T>, KeyedState>,
    sole_owners: &SoleOwners,
) {
    for (flow_key, owner) in sole_owners {
        let Some(owner) = owner else { continue };
        let Some((unknown, _)) = groups.remove(&(GroupOwner::Unknown, *flow_key)) else { continue };
        for tracked in unknown {
            let owner = if is_unscanned(GroupOwner::Unknown, tracked) { *owner } else { GroupOwner::Unknown };
            groups.entry((owner, *flow_key)).or_default().0.push(tracked);
        }
    }
}

/// Returns the connections in CLOSE_WAIT of each owner that opened some.
fn owner_clients<T>(groups: &HashMap<GroupKey, MembersOf<'_, T>, KeyedState>) -> BTreeMap<GroupOwner, OwnerClients> {
    let mut clients = BTreeMap::<GroupOwner, (u32, Vec<BootTime>)>::new();
    for ((owner, flow_key), (members, _)) in groups {
        if let (GroupOwner::Held(..), FlowKey::Remote(..)) = (owner, flow_key) {
            let (groups, entries) = clients.entry(*owner).or_default();
            *groups += 1;
            entries.extend(members.iter().map(|one| one.latest()));
        }
    }
    let of = |(groups, entries): (u32, Vec<BootTime>)| {
        let (first, last) = (entries.iter().min().copied(), entries.iter().max().copied());
        OwnerClients {
            count: number(entries.len()),
            groups,
            span: last.unwrap_or_default().since(first.unwrap_or_default()),
        }
    };
    clients.into_iter().map(|(owner, found)| (owner, of(found))).collect()
}

/// Counts the sockets of a group. The result has neither evidence nor facts about the flow.
pub(crate) fn group_of(members: &[GroupMember<'_>], now: BootTime, stuck_after: Duration) -> Group {
    let mut ages: Vec<_> = members.iter().map(|one| one.dwell(now).at_least()).collect();
    ages.sort_unstable();
    let age = |index: usize| ages.get(index).copied().unwrap_or_default();
    let mut remotes: Vec<_> = members.iter().map(|one| one.ends().1.address).collect();
    remotes.sort_unstable();
    remotes.dedup();
    let mut reads = BTreeMap::<ReadState, u32>::new();
    let (mut unanswered, mut asked_nothing, mut answered, mut replied, mut awaiting) = (0, 0, 0, 0, 0);
    for one in members {
        let socket = one.socket();
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
