//! Keys of flows.

use std::hash::{Hash, Hasher};

use crate::model::{Endpoint, PileupGroup, Role, Socket};

/// Network namespace and cgroup of connecting programs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct ClientScope {
    pub(super) netns: Option<u32>,
    /// Tells the programs of a namespace apart: which of them leaks, among others with the same remote end that close.
    pub(super) cgroup: Option<u64>,
}

/// Key of a flow: a local port that is listened on in one network namespace, or a remote endpoint that programs of one
/// scope connect to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum FlowKey {
    /// Accepting side.
    Port(Option<u32>, u16),
    /// Connecting side.
    Remote(ClientScope, Endpoint),
    /// Everything beyond the limit of flows.
    Rest,
}

/// In one word for a port: it is hashed for every record, and each piece of a derived hash costs as much as a word.
impl Hash for FlowKey {
    fn hash<H: Hasher>(&self, state: &mut H) {
        match self {
            // Less than 2^51: no other kind begins like that.
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
    /// The one of a socket.
    pub(crate) fn of(socket: &Socket) -> Self {
        let Socket { netns, cgroup, .. } = *socket;
        match socket.role {
            Some(Role::Server) => Self::Port(netns, socket.local.port),
            Some(Role::Client) | None => Self::Remote(ClientScope { netns, cgroup }, socket.remote),
        }
    }

    pub(super) fn is_remote(self) -> bool {
        matches!(self, Self::Remote(..))
    }

    /// As events describe it.
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
