//! Pairing of sockets in CLOSE_WAIT with the other connections of their proxy, by times of use.
//!
//! A proxy that has forwarded a request sends on the other connection within moments of receiving it, and then waits.
//! The other connection of a proxy that has forwarded the FIN is in FIN_WAIT2, acknowledged within moments of the FIN.

use std::{
    borrow::Borrow,
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use crate::{
    diagnose::ProxyPeers,
    model::{Connection, ProxyPeer, Role, Since, Socket, SocketKey},
    time::TICK,
};

/// Minimum delay of a delayed ACK.
const MIN_DELAYED_ACK: Duration = Duration::from_millis(8);
/// Maximum delay of a delayed ACK, plus a tick at each end.
const MAX_DELAYED_ACK: Duration = Duration::from_millis(500);
/// Maximum time between the arrival of a request and its forwarding; the proxy may have to connect first.
const MAX_REQUEST_DELAY: Duration = Duration::from_secs(3);
/// Maximum time between the arrival of a FIN and its forwarding.
const MAX_FIN_DELAY: Duration = Duration::from_secs(2);
/// Maximum error of the kernel's TCP timestamps, a few ticks.
const TCP_TIME_ERROR: Duration = Duration::from_millis(50);

/// Returns the connections that wait, in the order in which [`pair`] takes them.
pub(crate) fn waiting(connections: &[ProxyPeer]) -> Vec<&ProxyPeer> {
    let mut waiting: Vec<&ProxyPeer> = connections.iter().filter(|peer| waits(peer)).collect();
    waiting.sort_by_key(|peer| (peer.socket.last_sent, peer.socket.local, peer.socket.remote));
    waiting
}

/// Finds the proxy peer of each of a group's sockets among the connections of [`waiting`]. No connection is the peer of two sockets.
pub(crate) fn pair<'a, S: Borrow<Socket>>(
    sockets: impl Iterator<Item = (SocketKey, S, Since)>,
    waiting: &[&'a ProxyPeer],
) -> BTreeMap<SocketKey, &'a ProxyPeer> {
    if waiting.is_empty() {
        return BTreeMap::new();
    }
    let mut sockets: Vec<_> = sockets.collect();
    sockets.sort_by_key(|(key, socket, since)| (socket.borrow().last_received, since.latest(), *key));
    let mut used = BTreeSet::new();
    let mut pairs = BTreeMap::new();
    for (key, socket, since) in sockets {
        let socket = socket.borrow();
        let fits = |peer: &ProxyPeer| {
            let other = opposite(socket, &peer.socket);
            other && (forwarded_request(socket, peer) || forwarded_fin(since, peer))
        };
        let found = waiting.iter().enumerate().find(|(index, peer)| !used.contains(index) && fits(peer));
        if let Some((index, peer)) = found {
            used.insert(index);
            pairs.insert(key, *peer);
        }
    }
    pairs
}

/// Summarizes the pairs of a group for all of its sockets.
pub(crate) fn proxy_peers(pairs: &BTreeMap<SocketKey, &ProxyPeer>) -> ProxyPeers {
    let mut towards = BTreeMap::<_, u32>::new();
    for peer in pairs.values() {
        *towards.entry(peer.socket.remote).or_default() += 1;
    }
    let most = towards.into_iter().max_by_key(|(remote, count)| (*count, std::cmp::Reverse(*remote)));
    ProxyPeers { paired: u32::try_from(pairs.len()).unwrap_or(u32::MAX), own: None, towards: most }
}

/// Whether the connection waits: for an answer to its last data, or for the other side's FIN.
pub(crate) fn waits(peer: &ProxyPeer) -> bool {
    match peer.state {
        Connection::FinWait1 | Connection::FinWait2 => true,
        Connection::Established => {
            let socket = &peer.socket;
            let sent = socket.sent_bytes.is_some_and(|sent| sent > 0);
            // On a connection that received nothing, the kernel's time of receiving is that of the handshake.
            if socket.received_bytes == Some(0) {
                return sent;
            }
            let (Some(last_sent), Some(last_received)) = (socket.last_sent, socket.last_received) else { return false };
            // Within a tick, the order is unknown. If this end sent last, the peer has acknowledged with a delayed ACK instead of
            // an answer (`TCP_DELACK_MIN` and `TCP_DELACK_MAX`, include/net/tcp.h at v5.10).
            let tie = last_sent <= last_received + TICK && last_received <= last_sent + TICK;
            let delay = socket.last_ack.map(|ack| ack.since(last_received));
            let got_delayed_ack = delay.is_some_and(|delay| delay >= MIN_DELAYED_ACK && delay <= MAX_DELAYED_ACK);
            sent && if tie { got_delayed_ack } else { last_sent > last_received }
        }
    }
}

/// Whether the program accepted one connection and opened the other, as a proxy does.
fn opposite(socket: &Socket, peer: &Socket) -> bool {
    (socket.role == Some(Role::Server)) != (peer.role == Some(Role::Server))
}

/// Whether the other connection sent data right after the socket had received some.
fn forwarded_request(socket: &Socket, peer: &ProxyPeer) -> bool {
    let (Some(received), Some(sent)) = (socket.last_received, peer.socket.last_sent) else { return false };
    // With the opposite roles, a client is slow to read an answer, which proves nothing.
    socket.role == Some(Role::Server)
        && peer.state == Connection::Established
        && sent + TCP_TIME_ERROR >= received
        && sent <= received + MAX_REQUEST_DELAY
}

/// Whether the FIN of the other connection was acknowledged right after the socket's FIN had arrived.
fn forwarded_fin(since: Since, peer: &ProxyPeer) -> bool {
    let Some(acked) = peer.socket.last_ack.filter(|_| peer.state != Connection::Established) else { return false };
    let earliest = match since {
        Since::Exact(entered) => entered,
        Since::Between { earliest, latest } => earliest.unwrap_or(latest),
    };
    acked + TCP_TIME_ERROR >= earliest && acked <= since.latest() + MAX_FIN_DELAY
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

    /// Returns the first time at which forwarding is too late.
    fn late(at: BootTime) -> BootTime {
        at + MAX_REQUEST_DELAY + TCP_TIME_ERROR
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
        pair(sockets.into_iter(), &waiting(proxy_peers)).len()
    }

    #[test]
    fn a_connection_that_sent_right_after_and_waits_is_the_proxy_peer() {
        assert_eq!(pairs(&[10], &[outbound(at(11), at(9))]), 1);
        assert_eq!(pairs(&[10], &[outbound(late(at(10)), at(9))]), 0, "too late");
        assert_eq!(pairs(&[10], &[outbound(at(11), at(12))]), 0, "it has its answer");
        assert_eq!(pairs(&[10], &[outbound(at(5), at(4))]), 0, "it sent before");
    }

    #[test]
    fn no_connection_is_the_peer_of_two_sockets() {
        assert_eq!(pairs(&[10, 10, 10], &[outbound(at(11), at(9)), outbound(at(11), at(9))]), 2);
    }

    #[test]
    fn a_forwarded_fin_is_paired_by_its_acknowledgement() {
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
    fn accepted_connections_in_use_are_no_proxy_peers() {
        let mut sibling = outbound(at(11), at(11));
        sibling.socket.role = Some(Role::Server);
        assert_eq!(pairs(&[10], &[sibling.clone()]), 0, "the socket was accepted");
        let client = Socket { role: Some(Role::Client), ..inbound(10) };
        let sockets = [(SocketKey(1), &client, Since::Exact(at(10)))];
        assert_eq!(pair(sockets.into_iter(), &waiting(&[sibling])).len(), 0, "the socket was connected");
        assert_eq!(pairs(&[10], &[outbound(at(10), at(11))]), 0, "the connection has its answer");
    }

    #[test]
    fn the_most_frequent_remote_endpoint_is_reported() {
        let proxy_peers = [outbound(at(11), at(9)), outbound(at(11), at(9))];
        let (a, b) = (inbound(10), inbound(10));
        let sockets = [(SocketKey(1), &a, Since::Exact(at(20))), (SocketKey(2), &b, Since::Exact(at(20)))];
        let proxy_peers = super::proxy_peers(&pair(sockets.into_iter(), &waiting(&proxy_peers)));
        assert_eq!((proxy_peers.paired, proxy_peers.towards.map(|(_, count)| count)), (2, Some(2)));
    }
}
