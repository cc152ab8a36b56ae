//! Which other connection of a proxy belongs to a socket in CLOSE_WAIT: the one that was used right after it.
//!
//! A proxy that has passed a request on sends on the other leg within moments of having received it, and then waits. One
//! that has passed the FIN on has its other leg in FIN_WAIT2, acknowledged within moments of the FIN.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use crate::{
    diagnose::ProxyPeers,
    model::{Connection, ProxyPeer, Role, Since, Socket, SocketKey},
};

/// A request is passed on so soon after it has come; the other connection may have to be made first.
const REQUEST: Duration = Duration::from_secs(3);
/// A FIN is passed on so soon after it has come.
const FIN: Duration = Duration::from_secs(2);
/// Times of the kernel's TCP are within some ticks.
const TICKS: Duration = Duration::from_millis(50);

/// Finds the proxy peer of each of a group's sockets. No connection is the peer of two sockets.
pub(crate) fn pair<'a>(
    sockets: &[(SocketKey, &Socket, Since)],
    connections: &'a [ProxyPeer],
) -> BTreeMap<SocketKey, &'a ProxyPeer> {
    let mut waiting: Vec<&ProxyPeer> = connections.iter().filter(|peer| waits(peer)).collect();
    waiting.sort_by_key(|peer| (peer.socket.last_sent, peer.socket.local, peer.socket.remote));
    let mut sockets = sockets.to_vec();
    sockets.sort_by_key(|(key, socket, since)| (socket.last_received, since.latest(), *key));
    let mut used = BTreeSet::new();
    let mut pairs = BTreeMap::new();
    for (key, socket, since) in sockets {
        let fits = |peer: &ProxyPeer| {
            let other = opposite(socket, &peer.socket);
            other && (asked_for(socket, peer) || passed_on(since, peer))
        };
        let found = waiting.iter().enumerate().find(|(index, peer)| !used.contains(index) && fits(peer));
        if let Some((index, peer)) = found {
            used.insert(index);
            pairs.insert(key, *peer);
        }
    }
    pairs
}

/// What the pairs of a group say of all of its sockets.
pub(crate) fn proxy_peers(pairs: &BTreeMap<SocketKey, &ProxyPeer>) -> ProxyPeers {
    let mut towards = BTreeMap::<_, u32>::new();
    for peer in pairs.values() {
        *towards.entry(peer.socket.remote).or_default() += 1;
    }
    let most = towards.into_iter().max_by_key(|(remote, count)| (*count, std::cmp::Reverse(*remote)));
    ProxyPeers { paired: u32::try_from(pairs.len()).unwrap_or(u32::MAX), own: None, towards: most }
}

/// Whether it waits for somebody: for an answer to what it has sent last, or for the other side's FIN.
fn waits(peer: &ProxyPeer) -> bool {
    match peer.state {
        Connection::FinWait1 | Connection::FinWait2 => true,
        Connection::Established => {
            let sent = peer.socket.sent_bytes.is_some_and(|sent| sent > 0);
            sent && peer.socket.last_sent >= peer.socket.last_received
        }
    }
}

/// A proxy accepts the one and connects the other.
fn opposite(socket: &Socket, peer: &Socket) -> bool {
    (socket.role == Some(Role::Server)) != (peer.role == Some(Role::Server))
}

/// Whether the leg was sent on right after the socket had received.
fn asked_for(socket: &Socket, peer: &ProxyPeer) -> bool {
    let (Some(received), Some(sent)) = (socket.last_received, peer.socket.last_sent) else { return false };
    // The other way round it is a client that is slow to read an answer, and says nothing.
    socket.role == Some(Role::Server)
        && peer.state == Connection::Established
        && sent + TICKS >= received
        && sent <= received + REQUEST
}

/// Whether the leg's FIN was acknowledged right after the socket's had come.
fn passed_on(since: Since, peer: &ProxyPeer) -> bool {
    let Some(acked) = peer.socket.last_ack.filter(|_| peer.state != Connection::Established) else { return false };
    let earliest = match since {
        Since::Exact(entered) => entered,
        Since::Between { earliest, latest } => earliest.unwrap_or(latest),
    };
    acked + TICKS >= earliest && acked <= since.latest() + FIN
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        testing::{socket, socket_on_port},
        time::BootTime,
    };

    fn at(seconds: u64) -> BootTime {
        BootTime(seconds * 1_000_000_000)
    }

    /// A moment after which nothing is waited for any more.
    fn late(at: BootTime) -> BootTime {
        at + REQUEST + TICKS
    }

    fn inbound(received: u64) -> Socket {
        Socket { last_received: Some(at(received)), ..socket() }
    }

    fn outbound(sent: BootTime, received: BootTime) -> ProxyPeer {
        let socket = Socket {
            role: None,
            sent_bytes: Some(100),
            last_sent: Some(sent),
            last_received: Some(received),
            ..socket_on_port(40_000)
        };
        ProxyPeer { state: Connection::Established, socket }
    }

    fn pairs(received: &[u64], proxy_peers: &[ProxyPeer]) -> usize {
        let sockets: Vec<_> = received.iter().map(|received| inbound(*received)).collect();
        let sockets: Vec<_> =
            (1..).zip(&sockets).map(|(key, socket)| (SocketKey(key), socket, Since::Exact(at(500)))).collect();
        pair(&sockets, proxy_peers).len()
    }

    #[test]
    fn a_leg_that_asked_right_after_and_waits_belongs_to_it() {
        assert_eq!(pairs(&[10], &[outbound(at(11), at(9))]), 1);
        assert_eq!(pairs(&[10], &[outbound(late(at(10)), at(9))]), 0, "too late");
        assert_eq!(pairs(&[10], &[outbound(at(11), at(12))]), 0, "it has its answer");
        assert_eq!(pairs(&[10], &[outbound(at(5), at(4))]), 0, "it asked before");
    }

    #[test]
    fn no_leg_belongs_to_two() {
        assert_eq!(pairs(&[10, 10, 10], &[outbound(at(11), at(9)), outbound(at(11), at(9))]), 2);
    }

    #[test]
    fn a_fin_that_was_passed_on_shows_in_fin_wait_2() {
        let peer = |acked| ProxyPeer {
            state: Connection::FinWait2,
            socket: Socket { role: None, last_ack: Some(at(acked)), ..socket_on_port(40_000) },
        };
        assert_eq!(pairs(&[10], &[peer(501)]), 1);
        assert_eq!(pairs(&[10], &[peer(490)]), 0);
        assert_eq!(pairs(&[10], &[peer(510)]), 0);
    }

    #[test]
    fn two_accepted_connections_are_no_proxy() {
        let mut peer = outbound(at(11), at(9));
        peer.socket.role = Some(Role::Server);
        assert_eq!(pairs(&[10], &[peer]), 0);
    }

    #[test]
    fn accepted_connections_in_use_are_nobody_s_legs() {
        let mut sibling = outbound(at(11), at(11));
        sibling.socket.role = Some(Role::Server);
        assert_eq!(pairs(&[10], &[sibling.clone()]), 0, "of a socket that was accepted");
        let client = Socket { role: Some(Role::Client), ..inbound(10) };
        let sockets = [(SocketKey(1), &client, Since::Exact(at(10)))];
        assert_eq!(pair(&sockets, &[sibling]).len(), 0, "of one that was connected");
        assert_eq!(pairs(&[10], &[outbound(at(10), at(11))]), 0, "a leg that has its answer");
    }

    #[test]
    fn the_group_s_legs_lead_to_where_most_go() {
        let proxy_peers = [outbound(at(11), at(9)), outbound(at(11), at(9))];
        let (a, b) = (inbound(10), inbound(10));
        let sockets = [(SocketKey(1), &a, Since::Exact(at(20))), (SocketKey(2), &b, Since::Exact(at(20)))];
        let proxy_peers = super::proxy_peers(&pair(&sockets, &proxy_peers));
        assert_eq!((proxy_peers.paired, proxy_peers.towards.map(|(_, count)| count)), (2, Some(2)));
    }
}
