use super::*;
use crate::{
    context::connections::MAX_CONNECTIONS,
    model::Connection,
    testing::{listener, owner, process, socket},
    track::socket_view::InspectedSocket,
};

impl HostContext {
    fn of(&self, pid: u32) -> Option<(Option<BootTime>, &[ProxyPeer])> {
        self.all_connections().find(|(of, ..)| *of == pid).map(|(_, read, peers)| (read, peers))
    }

    /// Returns the connections of a process.
    fn connections(&self, pid: u32) -> &[ProxyPeer] {
        self.of(pid).map_or(&[], |(_, peers)| peers)
    }

    /// Returns the time at which the connections of a process were last read.
    fn connections_read(&self, pid: u32) -> Option<BootTime> {
        self.of(pid)?.0
    }
}

fn proxy_peer(host_context: &mut HostContext, pid: u32) {
    proxy_peer_of(host_context, pid, socket());
}

fn proxy_peer_of(host_context: &mut HostContext, pid: u32, socket: Socket) {
    let proxy_peer = ProxyPeer { state: Connection::Established, socket };
    host_context.learn(InspectionFact::ProxyPeer { peer: Box::new(proxy_peer), owner: owner("x", pid, 3) });
}

#[test]
fn tools_are_searched_for_once_a_minute_and_known_to_every_process() {
    let mut host_context = HostContext::default();
    let owners = [owner("x", 1, 3)];
    let asks = |host_context: &mut HostContext, now| {
        host_context.inspection_request(BootTime(now), false, [(&socket(), Some(&owners[..]))].into_iter()).tools
    };
    assert!(asks(&mut host_context, 0));
    let process = |pid| InspectionFact::Process { at: BootTime(0), process: Box::new(process("x", pid, None)) };
    host_context.learn(process(1));
    assert_eq!(host_context.processes()[&1].tools, None);
    host_context.learn(InspectionFact::Tools {
        at: BootTime(0),
        tools: [Tool::Jcmd].into(),
        missing: [Tool::Ss].into(),
    });
    host_context.learn(process(2));
    for pid in [1, 2] {
        assert_eq!(host_context.processes()[&pid].tools, Some([Tool::Jcmd].into()));
    }
    assert!(!asks(&mut host_context, 59_999_999_999) && asks(&mut host_context, 60_000_000_000));
    assert!(
        !HostContext::default().inspection_request(BootTime(0), false, std::iter::empty::<InspectedSocket<'_>>()).tools
    );
}

#[test]
fn a_read_that_did_not_end_in_time_keeps_the_state_of_a_short_time_ago() {
    let mut host_context = HostContext::default();
    let mut read = |at, threads_seen, started_ns| {
        let process = Process { threads_seen, started_ns, ..process("x", 1, None) };
        host_context.learn(InspectionFact::Process { at: BootTime(at), process: Box::new(process) });
        (host_context.processes()[&1].threads_seen, host_context.inspected_at(1))
    };
    let second = 1_000_000_000;
    assert_eq!(read(0, 0, Some(7)), (0, Some(BootTime(0))), "nothing else is known");
    let full = (4, Some(BootTime(second)));
    assert_eq!(read(second, 4, Some(7)), full);
    assert_eq!(read(6 * second, 0, Some(7)), full);
    assert_eq!(read(16 * second, 0, None), full);
    assert_eq!(read(17 * second, 0, None), (0, Some(BootTime(17 * second))), "the old state is too old");
    read(18 * second, 4, Some(7));
    assert_eq!(read(19 * second, 0, Some(8)), (0, Some(BootTime(19 * second))), "another process has the pid");
}

#[test]
fn an_inspection_of_other_sockets_keeps_what_a_query_has_read() {
    let mut host_context = HostContext::default();
    let second = 1_000_000_000;
    let (socket, young, stuck) = (socket(), [owner("x", 1, 3)], [owner("y", 2, 3)]);
    let request = |host_context: &mut HostContext, at, owners: &[Owner]| {
        let request = host_context.inspection_request(BootTime(at), false, std::iter::once((&socket, Some(owners))));
        for pid in request.processes {
            let process = Box::new(process("x", pid, None));
            host_context.learn(InspectionFact::Process { at: BootTime(at), process });
        }
        for pid in request.connections_of {
            proxy_peer(host_context, pid);
            host_context.learn(InspectionFact::ConnectionsRead { pid, at: BootTime(at) });
        }
        host_context.inspection_ended();
    };
    let known = |host_context: &HostContext| (host_context.inspected_at(1), host_context.connections(1).len());
    request(&mut host_context, 0, &young);
    request(&mut host_context, 5 * second, &stuck);
    request(&mut host_context, 15 * second, &stuck);
    assert_eq!(known(&host_context), (Some(BootTime(0)), 1));
    request(&mut host_context, 16 * second, &stuck);
    assert_eq!(known(&host_context), (None, 0), "too old");
}

#[test]
fn listeners_over_the_limit_are_dropped_and_counted_until_the_next_scan() {
    let mut host_context = HostContext::default();
    for key in 0..MAX_LISTENERS as u64 + 3 {
        host_context.listening(SocketKey(key), BootTime(0), listener(80, 0, 1), Some(owner("x", 1, 3)));
    }
    host_context.listening(SocketKey(0), BootTime(0), listener(80, 0, 1), Some(owner("y", 2, 3)));
    host_context.scan_ended(None);
    assert_eq!((host_context.listeners.len(), host_context.dropped()), (MAX_LISTENERS, 3));
    assert_eq!(host_context.listeners[&SocketKey(0)].owners.len(), 2, "a known listener may have more owners");
    host_context.scan_ended(None);
    assert_eq!((host_context.listeners.len(), host_context.dropped()), (0, 0));
}

#[test]
fn descriptors_of_a_listener_over_the_limit_are_dropped_and_counted() {
    let mut host_context = HostContext::default();
    for fd in 0..MAX_MORE_OWNERS as u32 + 6 {
        host_context.listening(SocketKey(1), BootTime(0), listener(80, 0, 1), Some(owner("x", 1, fd)));
    }
    host_context.scan_ended(None);
    assert_eq!((host_context.listeners[&SocketKey(1)].owners.len(), host_context.dropped()), (MAX_MORE_OWNERS + 1, 5));
}

#[test]
fn connections_over_the_limit_are_dropped_until_a_process_has_ended() {
    let mut host_context = HostContext::default();
    let (socket, owners) = (socket(), [owner("x", 5, 3)]);
    host_context.inspection_request(BootTime(0), false, std::iter::once((&socket, Some(&owners[..]))));
    for netns in 0..MAX_CONNECTIONS as u32 + 7 {
        proxy_peer_of(&mut host_context, 5, Socket { netns: Some(netns), ..socket.clone() });
    }
    host_context.learn(InspectionFact::ConnectionsRead { pid: 5, at: BootTime(1) });
    assert_eq!(host_context.connections(5).len(), MAX_CONNECTIONS);
    assert_eq!(host_context.connections_read(5), None, "some were dropped");
    host_context.inspection_request(BootTime(0), false, std::iter::empty::<InspectedSocket<'_>>());
    assert_eq!((host_context.connections(5).len(), host_context.dropped()), (0, 7));
    proxy_peer(&mut host_context, 6);
    host_context.inspection_request(BootTime(0), false, std::iter::empty::<InspectedSocket<'_>>());
    assert_eq!(host_context.dropped(), 0);
}

#[test]
fn a_connection_that_is_found_by_two_descriptors_or_threads_counts_once() {
    let mut host_context = HostContext::default();
    (0..3).for_each(|_| proxy_peer(&mut host_context, 5));
    proxy_peer_of(&mut host_context, 5, Socket { netns: Some(7), ..socket() });
    host_context.learn(InspectionFact::ConnectionsRead { pid: 5, at: BootTime(1) });
    assert_eq!(host_context.connections(5).len(), 2);
}

#[test]
fn the_connections_of_many_owners_are_read_in_turn() {
    let at = |seconds: u64| BootTime(seconds * 1_000_000_000);
    let mut host_context = HostContext::default();
    let socket = socket();
    let owners: Vec<_> = (1..=64).map(|pid| [owner("x", pid, 3)]).collect();
    let mut read = Vec::new();
    for round in 0..2 {
        let sockets = owners.iter().map(|owners| (&socket, Some(&owners[..])));
        let asked = host_context.inspection_request(at(round * 5), false, sockets).connections_of;
        assert_eq!(asked.len(), 32);
        for pid in &asked {
            proxy_peer(&mut host_context, *pid);
            host_context.learn(InspectionFact::ConnectionsRead { pid: *pid, at: at(round * 5) });
        }
        host_context.inspection_ended();
        read.extend(asked);
    }
    read.sort_unstable();
    assert_eq!(read, (1..=64).collect::<Vec<u32>>());
    assert!((1..=64).all(|pid| host_context.connections(pid).len() == 1));
    assert_eq!((host_context.connections_read(1), host_context.connections_read(64)), (Some(at(0)), Some(at(5))));
    let again = |host_context: &mut HostContext, now| {
        let sockets = owners.iter().map(|owners| (&socket, Some(&owners[..])));
        host_context.inspection_request(now, false, sockets).connections_of
    };
    assert_eq!(again(&mut host_context, at(10)), (1..=32).collect::<Vec<u32>>(), "the least recently read owners");
    assert_eq!(again(&mut host_context, at(11)), (33..=64).collect::<Vec<u32>>(), "not twice in five seconds");
}

#[test]
fn a_failed_read_keeps_the_previous_connections_and_their_time() {
    let (socket, owners) = (socket(), [owner("x", 5, 3)]);
    let mut host_context = HostContext::default();
    let ask = |host_context: &mut HostContext, now| {
        host_context.inspection_request(BootTime(now), false, std::iter::once((&socket, Some(&owners[..]))));
    };
    ask(&mut host_context, 0);
    host_context.inspection_ended();
    assert_eq!((host_context.connections(5).len(), host_context.connections_read(5)), (0, None), "never read");
    ask(&mut host_context, 10_000_000_000);
    proxy_peer(&mut host_context, 5);
    assert_eq!(host_context.connections(5).len(), 0, "the read has not ended");
    host_context.learn(InspectionFact::ConnectionsRead { pid: 5, at: BootTime(11) });
    host_context.inspection_ended();
    ask(&mut host_context, 20_000_000_000);
    host_context.inspection_ended();
    assert_eq!((host_context.connections(5).len(), host_context.connections_read(5)), (1, Some(BootTime(11))));
    ask(&mut host_context, 30_000_000_000);
    proxy_peer(&mut host_context, 5);
    proxy_peer(&mut host_context, 5);
    host_context.inspection_ended();
    assert_eq!((host_context.connections(5).len(), host_context.connections_read(5)), (2, None), "cut off");
}

#[test]
fn the_lowest_cgroups_and_namespaces_are_dropped_first() {
    let mut host_context = HostContext::default();
    for netns in 0..MAX_NAMESPACES as u32 + 2 {
        host_context.learn(InspectionFact::Namespace { netns, conntrack_close_wait: Some(Duration::from_secs(60)) });
    }
    assert_eq!((host_context.namespaces.len(), host_context.conntrack(Some(1))), (MAX_NAMESPACES, None));
    assert!(host_context.conntrack(Some(2)).is_some());
}

#[test]
fn a_limited_request_leaves_the_rest_to_the_next_one() {
    let sockets: Vec<Socket> = (0..MAX_UNHELD as u64 + 9)
        .map(|number| Socket { inode: Some(number), cgroup: Some(number), ..socket() })
        .collect();
    let mut host_context = HostContext::default();
    let none: &[Owner] = &[];
    let request =
        host_context.inspection_request(BootTime(0), false, sockets.iter().map(|socket| (socket, Some(none))));
    assert_eq!((request.unheld.len(), request.cgroups.len(), host_context.dropped()), (MAX_UNHELD, MAX_CGROUPS, 9));
    for inode in request.unheld {
        host_context.learn(InspectionFact::Location { inode, place: SocketLocation::InFlight(Vec::new()) });
    }
    let request =
        host_context.inspection_request(BootTime(0), false, sockets.iter().map(|socket| (socket, Some(none))));
    assert_eq!((request.unheld.len(), host_context.dropped()), (9, 0));
}
