//! Peer end of a connection, if it is on this host: a `sock_diag` query by its endpoints, in each network namespace
//! that the agent could enter at its start.
//!
//! The same sockets also show that a socket without a kernel address no longer exists. Its exit can be missed, and no other
//! source tells that once the agent can no longer enter the namespace.
//!
//! The query does not request `struct tcp_info`: see [`super`]. One lookup takes some microseconds.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
    time::Duration,
};

use closewait_common::tcp::{AF_INET, AF_INET6, state};
use rustix::process::{Resource, getrlimit};

use super::{
    DiagError, DiagQuery, Netlink,
    exact::{self, Requested},
    unix::UnixTable,
    wire::DiagSocket,
};
use crate::{clock, host::netns};
use closewait_engine::{
    model::{InspectionFact, Observation, PeerEnd, PeerQuestion, RefreshFact, SocketKey},
    time::BootTime,
};

/// Maximum number of network namespaces to search.
const MAX_NAMESPACES: usize = 64;
/// Divisor of the limit on open descriptors: the part of it that namespaces may use.
const DESCRIPTORS_PART: u64 = 16;
/// Maximum time for all lookups of one inspection.
const PATIENCE: Duration = Duration::from_millis(50);
/// Interval at which the agent closes sockets of namespaces that are gone: an open one keeps its namespace alive.
const RELEASE_INTERVAL: Duration = Duration::from_secs(30);

/// Minimum time between the first look-up that does not find a socket in CLOSE_WAIT and the report that it is gone. By then, the
/// record of its exit has been read, unless it was lost.
const GONE_AFTER: Duration = Duration::from_secs(5);

/// Finds the peer ends of connections.
#[derive(Debug, Default)]
pub struct PeerLookup {
    /// Sockets by the inode of their network namespace.
    namespaces: BTreeMap<u32, Netlink>,
    /// Time of the last check for namespaces that are gone; `None` before the first socket.
    released: Option<BootTime>,
    /// Whether namespaces can be entered at any time, and not only at the start.
    enters: bool,
    /// Namespace in which the last peer end with this address was found.
    found: BTreeMap<IpAddr, u32>,
    /// Time of the first look-up that did not find a socket itself, of those that have no kernel address.
    missing: BTreeMap<SocketKey, BootTime>,
}

impl PeerLookup {
    /// Opens a socket to the namespace of this process and to others that can be entered.
    pub fn open(&mut self) {
        self.released = Some(clock::now());
        let descriptors = getrlimit(Resource::Nofile).current.unwrap_or(u64::MAX);
        let most = usize::try_from(descriptors / DESCRIPTORS_PART).unwrap_or(usize::MAX).min(MAX_NAMESPACES);
        for namespace in netns::all() {
            if self.namespaces.len() >= most {
                log::debug!("cannot search some network namespaces for the other ends of connections");
                return;
            }
            if self.namespaces.contains_key(&namespace.inode) {
                continue;
            }
            if let Ok(Ok(netlink)) = namespace.enter_and(Netlink::open) {
                self.namespaces.insert(namespace.inode, netlink);
            }
        }
    }

    /// Opens the namespaces at the first use, and closes those that are gone.
    fn prepare(&mut self) {
        if self.released.is_none() {
            self.enters = true;
            self.open();
        }
        self.release_gone();
    }

    /// Hands the peer end of each socket to `each`, and sockets without a kernel address that are gone. Skips the rest when the time
    /// is over.
    pub fn look_up(&mut self, questions: &[PeerQuestion], mut each: impl FnMut(Observation)) {
        if questions.is_empty() {
            return;
        }
        self.prepare();
        let began = clock::now();
        for question in questions {
            let at = clock::now();
            if at.since(began) > PATIENCE {
                log::debug!("ran out of time to find the other ends of some connections");
                return;
            }
            match self.find(question) {
                Ok(end) => each(InspectionFact::PeerEnd { key: question.key, at, end }.into()),
                Err(error) => log::debug!("cannot find the other end of a connection: {error}"),
            }
        }
        let of_ends: Vec<_> = questions.iter().filter(|question| question.key.is_of_ends()).collect();
        self.missing.retain(|key, _| of_ends.iter().any(|question| question.key == *key));
        for question in of_ends {
            match self.is_gone(question, clock::now()) {
                Ok(Some(at)) => each(RefreshFact::Gone { key: question.key, at }.into()),
                Ok(None) => {}
                Err(error) => log::debug!("cannot tell whether a socket still exists: {error}"),
            }
        }
    }

    /// Returns `now` if a socket has not been in CLOSE_WAIT since an earlier look-up, [`GONE_AFTER`] ago or longer. `None` also if
    /// its namespace cannot be read.
    fn is_gone(&mut self, question: &PeerQuestion, now: BootTime) -> Result<Option<BootTime>, DiagError> {
        let Some(netlink) = question.netns.and_then(|netns| self.namespaces.get(&netns)) else { return Ok(None) };
        let ends = (question.local, question.remote);
        let is_waiting = |found: &DiagSocket| found.state == state::CLOSE_WAIT && (found.local, found.remote) == ends;
        if exact::find(netlink, ends, Requested::Nothing)?.is_some_and(|found| is_waiting(&found)) {
            self.missing.remove(&question.key);
            return Ok(None);
        }
        let first = *self.missing.entry(question.key).or_insert(now);
        if now.since(first) < GONE_AFTER {
            return Ok(None);
        }
        // A look-up by ends does not find a socket that is bound to an interface (`INET_MATCH`, include/net/inet_hashtables.h at
        // v5.10).
        for family in [AF_INET, AF_INET6] {
            if netlink.dump(family, DiagQuery::Waiting)?.iter().any(is_waiting) {
                self.missing.remove(&question.key);
                return Ok(None);
            }
        }
        self.missing.remove(&question.key);
        Ok(Some(now))
    }

    fn find(&mut self, question: &PeerQuestion) -> Result<PeerEnd, DiagError> {
        let ends = (question.remote, question.local);
        // Most peer ends are in the same namespace, or in that of the last one with this address.
        let first = [question.netns, self.found.get(&question.remote.address).copied()];
        let first: Vec<u32> = first.into_iter().flatten().collect();
        let others = self.namespaces.keys().copied().filter(|inode| !first.contains(inode));
        for inode in first.iter().copied().chain(others) {
            let Some(netlink) = self.namespaces.get(&inode) else { continue };
            if let Some(end) = exact::find(netlink, ends, Requested::Nothing)?.as_ref().and_then(peer_end) {
                if self.found.len() >= MAX_NAMESPACES {
                    self.found.clear();
                }
                self.found.insert(question.remote.address, inode);
                return Ok(end);
            }
        }
        Ok(PeerEnd::NotFound)
    }

    /// Returns the UNIX sockets of the network namespace `netns`; of all if `wants_more` returns `true` for these: a path leads to a socket
    /// in any namespace. `None` if the kernel lists none of this namespace.
    pub(in crate::source) fn unix(&mut self, netns: u32, wants_more: impl Fn(&UnixTable) -> bool) -> Option<UnixTable> {
        self.prepare();
        let began = clock::now();
        let mut table = UnixTable::default();
        if self.enters && !self.namespaces.contains_key(&netns) {
            self.open();
        }
        let Some(own) = self.namespaces.get(&netns) else {
            log::debug!("cannot list the UNIX sockets of network namespace {netns}, which is not open");
            return None;
        };
        if let Err(error) = table.add(own) {
            log::debug!("cannot list UNIX sockets: {error}");
            return None;
        }
        for (_, netlink) in self.namespaces.iter().filter(|(inode, _)| **inode != netns) {
            if clock::now().since(began) > PATIENCE || !wants_more(&table) {
                break;
            }
            if let Err(error) = table.add(netlink) {
                log::debug!("cannot list UNIX sockets of another namespace: {error}");
            }
        }
        Some(table)
    }

    /// Closes the sockets of namespaces that are gone.
    pub fn release_gone(&mut self) {
        let now = clock::now();
        let others = self.enters || self.namespaces.len() > 1;
        if !others || self.released.is_none_or(|at| now.since(at) < RELEASE_INTERVAL) {
            return;
        }
        self.released = Some(now);
        let scan = netns::find();
        if scan.denied.is_some() {
            return;
        }
        let there: BTreeSet<u32> = scan.namespaces.iter().map(|namespace| namespace.inode).collect();
        self.namespaces.retain(|inode, _| there.contains(inode));
        self.found.retain(|_, inode| there.contains(inode));
        if self.enters {
            self.open();
        }
    }
}

/// Returns the state of the peer end of a connection in CLOSE_WAIT. `None` for a socket that cannot be the peer end.
fn peer_end(found: &DiagSocket) -> Option<PeerEnd> {
    match found.state {
        state::FIN_WAIT1 | state::FIN_WAIT2 if found.inode != 0 => Some(PeerEnd::HalfClosed),
        state::FIN_WAIT1 | state::FIN_WAIT2 | state::TIME_WAIT => Some(PeerEnd::Closed),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use std::{
        io::Read as _,
        net::{Shutdown, TcpListener, TcpStream},
    };

    use tests_support::clock::{patience, poll_until};

    use super::*;
    use closewait_engine::model::Endpoint;

    fn question(server: &TcpStream) -> PeerQuestion {
        let end = |address: std::net::SocketAddr| Endpoint { address: address.ip(), port: address.port() };
        let (local, remote) = (end(server.local_addr().unwrap()), end(server.peer_addr().unwrap()));
        PeerQuestion { key: SocketKey(7), netns: None, local, remote }
    }

    fn ask(question: PeerQuestion) -> PeerEnd {
        let mut facts = Vec::new();
        PeerLookup::default().look_up(&[question], |fact| facts.push(fact));
        let [Observation::Inspection(InspectionFact::PeerEnd { key: SocketKey(7), end, .. })] = facts[..] else {
            panic!("{facts:?}")
        };
        end
    }

    #[test]
    fn the_other_end_is_half_closed_while_it_has_a_descriptor_and_closed_after() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let client = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let (mut server, _) = listener.accept().unwrap();
        assert_eq!(ask(question(&server)), PeerEnd::NotFound, "it has sent no FIN");
        client.shutdown(Shutdown::Write).unwrap();
        assert_eq!(server.read(&mut [0]).unwrap(), 0);
        assert_eq!(ask(question(&server)), PeerEnd::HalfClosed);
        drop(client);
        // The kernel closes it a moment later while another test reads the descriptors of this process.
        assert!(poll_until(patience(), || ask(question(&server)) == PeerEnd::Closed));
    }

    #[test]
    fn a_listener_is_no_other_end() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let end = |port| Endpoint { address: address.ip(), port };
        let question = PeerQuestion { key: SocketKey(7), netns: None, local: end(1), remote: end(address.port()) };
        assert_eq!(ask(question), PeerEnd::NotFound);
    }

    #[test]
    fn a_socket_is_gone_only_after_it_was_missing_for_a_while() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let client = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let (mut server, _) = listener.accept().unwrap();
        drop(client);
        assert_eq!(server.read(&mut [0]).unwrap(), 0);
        let netns = netns::all()[0].inode;
        let question = PeerQuestion { netns: Some(netns), ..question(&server) };
        let mut lookup = PeerLookup::default();
        let gone = |lookup: &mut PeerLookup| {
            let mut gone = 0;
            let is_gone = |fact: &Observation| matches!(fact, Observation::Refresh(RefreshFact::Gone { .. }));
            lookup.look_up(&[question], |fact| gone += usize::from(is_gone(&fact)));
            gone
        };
        assert_eq!((gone(&mut lookup), lookup.missing.len()), (0, 0), "it is in CLOSE_WAIT");
        drop(server);
        assert_eq!((gone(&mut lookup), lookup.missing.len()), (0, 1), "its exit may be on the way");
        // As if it was a while ago.
        let missed = BootTime(clock::now().0 - GONE_AFTER.as_nanos() as u64);
        lookup.missing.values_mut().for_each(|since| *since = missed);
        assert_eq!((gone(&mut lookup), lookup.missing.len()), (1, 0));
        let other = PeerQuestion { netns: Some(netns + 1), ..question };
        lookup.look_up(&[other], |fact| assert!(!matches!(fact, Observation::Refresh(_)), "an unknown namespace"));
    }
}
