//! Pairs a socket in CLOSE_WAIT with the other connection of its proxy: the one that was used right after the socket.
//!
//! A proxy that has forwarded a request sends on the other connection within moments of receiving it, and then waits.
//! The other connection of a proxy that has forwarded the FIN is in FIN_WAIT2, acknowledged within moments of the FIN.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use crate::{
    diagnose::ProxyPeers,
    model::{Connection, ProxyPeer, Role, Since, Socket, SocketKey},
};

/// Longest tick of the kernel's times, at 100 Hz.
const TICK: Duration = Duration::from_millis(10);
/// Time after which an ACK without data is one that was delayed.
const MIN_DELAYED_ACK: Duration = Duration::from_millis(8);
/// Longest delay of an ACK, and a tick at each end.
const MAX_DELAYED_ACK: Duration = Duration::from_millis(500);
/// Longest time between the arrival of a request and its forwarding: the proxy may have to connect first.
const MAX_REQUEST_DELAY: Duration = Duration::from_secs(3);
/// Longest time between the arrival of a FIN and its forwarding.
const MAX_FIN_DELAY: Duration = Duration::from_secs(2);
/// Error of the kernel's TCP timestamps: some ticks.
const TCP_TIME_ERROR: Duration = Duration::from_millis(50);

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
            // Nothing was ever received: the kernel has the time of the set-up in its place.
            if socket.received_bytes == Some(0) {
                return sent;
            }
            let (Some(last_sent), Some(last_received)) = (socket.last_sent, socket.last_received) else { return false };
            // Within a tick, the order is unknown. An end that sent last and gets no answer gets a delayed ACK
            // (`TCP_DELACK_MIN` and `TCP_DELACK_MAX`, include/net/tcp.h at v5.10).
            let tie = last_sent <= last_received + TICK && last_received <= last_sent + TICK;
            let delay = socket.last_ack.map(|ack| ack.since(last_received));
            let got_delayed_ack = delay.is_some_and(|delay| delay >= MIN_DELAYED_ACK && delay <= MAX_DELAYED_ACK);
            sent && if tie { got_delayed_ack } else { last_sent > last_received }
        }
    }
}

/// Whether one side was accepted and the other connected, as by a proxy.
fn opposite(socket: &Socket, peer: &Socket) -> bool {
    (socket.role == Some(Role::Server)) != (peer.role == Some(Role::Server))
}

/// Whether the other connection sent right after the socket had received.
fn asked_for(socket: &Socket, peer: &ProxyPeer) -> bool {
    let (Some(received), Some(sent)) = (socket.last_received, peer.socket.last_sent) else { return false };
    // The opposite roles are a client that is slow to read an answer, which proves nothing.
    socket.role == Some(Role::Server)
        && peer.state == Connection::Established
        && sent + TCP_TIME_ERROR >= received
        && sent <= received + MAX_REQUEST_DELAY
}

/// Whether the other connection's FIN was acknowledged right after the socket's had arrived.
fn passed_on(since: Since, peer: &ProxyPeer) -> bool {
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

    /// A moment after which nothing is waited for any more.
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
    fn the_group_s_legs_lead_to_where_most_go() {
        let proxy_peers = [outbound(at(11), at(9)), outbound(at(11), at(9))];
        let (a, b) = (inbound(10), inbound(10));
        let sockets = [(SocketKey(1), &a, Since::Exact(at(20))), (SocketKey(2), &b, Since::Exact(at(20)))];
        let proxy_peers = super::proxy_peers(&pair(&sockets, &proxy_peers));
        assert_eq!((proxy_peers.paired, proxy_peers.towards.map(|(_, count)| count)), (2, Some(2)));
    }
}
