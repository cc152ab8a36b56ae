//! Keys of flows and groups, and [`GroupKeys`], the only code that assigns sockets to them.
//!
//! A *flow* ([`FlowKey`]) is one local port or remote endpoint with the sockets of all owners: incidents and counts of entries
//! and exits belong to a flow. A *group* ([`GroupKey`]) is the set of sockets of one owner in one flow: verdicts compare the
//! sockets of a group.

use std::{
    hash::{Hash, Hasher},
    ops::RangeInclusive,
};

use serde::{Deserialize, Serialize};

use crate::{
    model::{Endpoint, PileupGroup, Role, Socket},
    track::socket_view::SocketView,
};

/// Assigns sockets to groups.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub(crate) struct GroupKeys {
    /// Local ports that the kernel assigns to connecting sockets; set only if records lack namespace and role.
    connecting_ports: Option<RangeInclusive<u16>>,
}

impl GroupKeys {
    /// Creates the assignment. `connecting_ports` are the ports of connecting sockets, if records lack namespace and role.
    pub(crate) fn new(connecting_ports: Option<RangeInclusive<u16>>) -> Self {
        Self { connecting_ports }
    }

    /// Returns the flow of a socket. Only facts of its records decide, not facts that a scan finds later; otherwise its entry
    /// would be counted in one flow, and the socket in another.
    pub(crate) fn flow(&self, socket: &Socket) -> FlowKey {
        self.flow_of_facts((socket.netns, socket.cgroup), socket.role, (socket.local, socket.remote))
    }

    /// Does what [`Self::flow`] does for a tracked socket.
    pub(crate) fn flow_of(&self, one: SocketView<'_>) -> FlowKey {
        let (netns_and_cgroup, ends) = one.site_and_ends();
        self.flow_of_facts(netns_and_cgroup, one.role(), ends)
    }

    fn flow_of_facts(
        &self,
        (netns, cgroup): (Option<u32>, Option<u64>),
        role: Option<Role>,
        (local, remote): (Endpoint, Endpoint),
    ) -> FlowKey {
        match (&self.connecting_ports, role) {
            (None, Some(Role::Server)) => FlowKey::Port(netns, local.port),
            (None, Some(Role::Client) | None) => FlowKey::Remote(ClientScope { netns, cgroup }, remote),
            (Some(connecting), _) if connecting.contains(&local.port) => {
                FlowKey::Remote(ClientScope { netns: None, cgroup: None }, remote)
            }
            (Some(_), _) => FlowKey::Port(None, local.port),
        }
    }

    /// Returns the group of a socket.
    pub(crate) fn group(&self, tracked: SocketView<'_>) -> GroupKey {
        let owner = match tracked.owning_processes() {
            _ if tracked.accepted() == Some(false) => GroupOwner::Backlog,
            None => GroupOwner::Unknown,
            Some((first, count)) => GroupOwner::Held(first, count),
        };
        (owner, self.flow_of(tracked))
    }
}

/// Key of a group: sockets with the same owner and flow.
pub(crate) type GroupKey = (GroupOwner, FlowKey);

/// Owner of the sockets of a group.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) enum GroupOwner {
    /// No process: the sockets wait in a backlog.
    Backlog,
    /// Unknown owner.
    Unknown,
    /// PID of the first process, and number of processes.
    Held(u32, u32),
}

/// Network namespace and cgroup of connecting programs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub(crate) struct ClientScope {
    pub(crate) netns: Option<u32>,
    /// Cgroup of the program: programs of one namespace that connect to the same remote endpoint differ in it.
    pub(crate) cgroup: Option<u64>,
}

/// Key of a flow: a local port of servers in one network namespace, or a remote endpoint of clients in one scope.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub(crate) enum FlowKey {
    /// Network namespace and local port of servers.
    Port(Option<u32>, u16),
    /// Scope and remote endpoint of clients.
    Remote(ClientScope, Endpoint),
    /// All flows over the limit.
    Rest,
}

impl FlowKey {
    /// Returns the network namespace and the remote endpoint of clients.
    pub(crate) fn remote(self) -> Option<(Option<u32>, Endpoint)> {
        match self {
            Self::Remote(scope, remote) => Some((scope.netns, remote)),
            Self::Port(..) | Self::Rest => None,
        }
    }
}

/// Returns the flow that [`FlowKey::group`] describes.
impl From<&PileupGroup> for FlowKey {
    fn from(group: &PileupGroup) -> Self {
        let PileupGroup { role: _, netns, cgroup, local_port, remote } = *group;
        match (local_port, remote) {
            (Some(port), _) => Self::Port(netns, port),
            (None, Some(remote)) => Self::Remote(ClientScope { netns, cgroup }, remote),
            (None, None) => Self::Rest,
        }
    }
}

/// Hashes a port as one word: the engine computes the hash for every record, and each part of a derived hash costs as much as a
/// word.
impl Hash for FlowKey {
    fn hash<H: Hasher>(&self, state: &mut H) {
        match self {
            // The word is less than 2^51, unlike those of the other variants.
            Self::Port(netns, port) => {
                let netns = netns.map_or(0, |netns| u64::from(netns) + 1);
                state.write_u64(netns << 16 | u64::from(*port));
            }
            Self::Remote(place, remote) => {
                state.write_u64(u64::MAX);
                (place, remote).hash(state);
            }
            Self::Rest => state.write_u64(u64::MAX - 1),
        }
    }
}

impl FlowKey {
    pub(crate) fn is_remote(self) -> bool {
        matches!(self, Self::Remote(..))
    }

    /// Returns the flow as events describe it.
    pub(crate) fn group(self) -> PileupGroup {
        let none = PileupGroup { role: None, netns: None, cgroup: None, local_port: None, remote: None };
        match self {
            Self::Port(netns, port) => PileupGroup { role: Some(Role::Server), netns, local_port: Some(port), ..none },
            Self::Remote(ClientScope { netns, cgroup }, remote) => {
                PileupGroup { netns, cgroup, remote: Some(remote), ..none }
            }
            Self::Rest => none,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::socket;

    #[test]
    fn the_description_of_a_flow_has_its_key() {
        let remote = socket().remote;
        let scopes = [(None, None), (Some(1), None), (None, Some(2)), (Some(1), Some(2))];
        let clients = scopes.map(|(netns, cgroup)| FlowKey::Remote(ClientScope { netns, cgroup }, remote));
        let others = [FlowKey::Port(None, 80), FlowKey::Port(Some(1), 0), FlowKey::Rest];
        for key in clients.into_iter().chain(others) {
            assert_eq!(FlowKey::from(&key.group()), key);
        }
    }
}
