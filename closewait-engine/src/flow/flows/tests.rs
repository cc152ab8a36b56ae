use std::iter;

use super::*;
use crate::{
    diagnose::Trend,
    flow::group_key::GroupKeys,
    model::{Endpoint, Role, Socket},
    testing::{socket, socket_on_port},
};

const STUCK_AFTER: Duration = Duration::from_secs(10);

fn at(seconds: u64) -> BootTime {
    BootTime(seconds * 1_000_000_000)
}

fn flows() -> Flows {
    Flows::new(at(0), STUCK_AFTER)
}

fn key(socket: &Socket) -> FlowKey {
    GroupKeys::default().flow(socket)
}

/// Returns a client socket with this remote port.
fn towards(port: usize) -> Socket {
    let remote = Endpoint { port: u16::try_from(port).unwrap(), ..socket().remote };
    Socket { role: None, remote, ..socket() }
}

/// Counts these sockets at a time.
fn count(flows: &mut Flows, seconds: u64, sockets: &[Socket]) {
    let since = Since::Exact(at(1));
    assert_eq!(
        flows.handle_timeout(
            at(seconds),
            sockets.iter().map(|socket| (key(socket), since, SocketKey(1))),
            iter::empty()
        ),
        []
    );
}

fn enter(flows: &mut Flows, seconds: u64) {
    flows.entered(key(&socket()), at(seconds));
}

fn close(flows: &mut Flows, entered: u64, left: u64) {
    let dwell = Dwell::Exact(Duration::from_secs(left - entered));
    flows.left(key(&socket()), at(left), Some(at(entered)), Some(dwell), (true, None, false));
}

#[test]
fn sockets_that_the_peer_has_ended_are_present_until_their_descriptors_are_closed() {
    let mut flows = flows();
    let key = key(&socket());
    for second in 1..=3 {
        enter(&mut flows, second);
    }
    let dwell = Some(Dwell::Exact(Duration::from_secs(60)));
    for second in 1..=2 {
        flows.left(key, at(second + 60), Some(at(second)), dwell, (false, None, true));
    }
    let mut point = |seconds, abandoned: &[u64]| {
        let present = [(key, Since::Exact(at(3)), SocketKey(1))].into_iter();
        let abandoned = abandoned.iter().map(|entered| (key, at(*entered)));
        flows.handle_timeout(at(seconds), present, abandoned);
        let latest = flows.flows[&key].latest;
        (latest.present, latest.mature.present, latest.left)
    };
    assert_eq!(point(64, &[1, 2]), (3, 3, 0));
    assert_eq!(point(74, &[2]), (2, 2, 0));
}

#[test]
fn all_sockets_of_a_hung_server_since_the_onset_are_present() {
    let mut flows = flows();
    for second in 0..100 {
        enter(&mut flows, second);
        if second < 50 {
            close(&mut flows, second, second + 1);
        }
    }
    let flow = flows.flow(key(&socket()), Some(at(50)), at(100)).unwrap();
    assert_eq!((flow.entered, flow.closed, flow.last_closed), (100, 50, Some(at(50))));
    assert_eq!(flow.longest_closed, Some(Duration::from_secs(1)));
    assert_eq!(flow.stuck_permille_since_onset(), Some(1000));
    let share = flow.stuck_permille().unwrap();
    assert!((400..500).contains(&share), "{share}");
}

#[test]
fn only_a_process_that_ends_with_one_socket_has_closed_it() {
    let ends = |flows: &mut Flows, pid, second| {
        enter(flows, second - 1);
        let dwell = Some(Dwell::Exact(Duration::from_secs(1)));
        let ended = Some(EndedBy(Some(pid)));
        flows.left(key(&socket()), at(second), Some(at(second - 1)), dwell, (true, ended, false));
        let flow = flows.flow(key(&socket()), None, at(second)).unwrap();
        (flow.closed, flow.last_closed)
    };
    let mut flows = flows();
    enter(&mut flows, 1);
    close(&mut flows, 1, 2);
    assert_eq!(ends(&mut flows, 7, 10), (2, Some(at(10))), "a process for one connection");
    assert_eq!(ends(&mut flows, 8, 20), (3, Some(at(20))));
    assert_eq!(ends(&mut flows, 8, 21), (2, Some(at(10))), "a process with several");
    assert_eq!(ends(&mut flows, 8, 22), (2, Some(at(10))));
    assert_eq!(ends(&mut flows, 9, 30), (3, Some(at(30))));
    close(&mut flows, 1, 31);
    assert_eq!(ends(&mut flows, 9, 32), (3, Some(at(31))), "another program has closed one since");
}

#[test]
fn young_sockets_do_not_count_as_stuck() {
    let mut flows = flows();
    for second in 90..100 {
        enter(&mut flows, second);
    }
    let flow = flows.flow(key(&socket()), Some(at(90)), at(100)).unwrap();
    assert_eq!((flow.old_entered, flow.stuck_permille()), (0, None));
}

#[test]
fn a_long_dwell_time_expires() {
    let mut flows = flows();
    enter(&mut flows, 1);
    close(&mut flows, 1, 9);
    let mut longest = Vec::new();
    for window in 1..=2 * WINDOWS_PER_SPAN as u64 {
        enter(&mut flows, window * 10 - 1);
        count(&mut flows, window * 10, &[]);
        longest.push(flows.flow(key(&socket()), None, at(window * 10)).unwrap().longest_closed);
    }
    assert!(longest[..2 * WINDOWS_PER_SPAN - 1].iter().all(|longest| *longest == Some(Duration::from_secs(8))));
    assert_eq!(longest[2 * WINDOWS_PER_SPAN - 1], None);
}

#[test]
fn a_trend_needs_three_windows() {
    let of = |counts: &[u64]| trend(&counts.iter().copied().collect());
    assert_eq!(of(&[1, 5, 9]), None);
    assert_eq!(of(&[1, 5, 9, 14]), Some(Trend::Growing));
    assert_eq!(of(&[100, 104, 99, 101]), Some(Trend::Level));
    assert_eq!(of(&[1, 1, 2, 2]), Some(Trend::Level));
    assert_eq!(of(&[90, 50, 20, 3]), Some(Trend::Falling));
    assert_eq!(of(&[3, 50, 20, 90]), Some(Trend::Uneven));
}

#[test]
fn windows_end_only_while_there_are_flows() {
    let mut flows = flows();
    assert_eq!(flows.poll_timeout(), None);
    enter(&mut flows, 1);
    assert_eq!(flows.poll_timeout(), Some(at(2)));
    for window in 1..=4 {
        count(&mut flows, window * 10, &[socket()]);
    }
    assert_eq!(flows.flow(key(&socket()), None, at(41)).unwrap().trend, Some(Trend::Level));
}

#[test]
fn quiet_flows_are_evicted_and_flows_over_the_limit_are_dropped() {
    let mut flows = flows();
    enter(&mut flows, 1);
    close(&mut flows, 1, 2);
    count(&mut flows, 700, &[]);
    assert_eq!(flows.flow(key(&socket()), None, at(700)), None);
    for port in 0..MAX_FLOWS + 10 {
        flows.entered(key(&towards(port)), at(701));
    }
    // And the rest.
    assert_eq!((flows.flows.len(), flows.ungrouped()), (MAX_REMOTES + 1, (MAX_FLOWS - MAX_REMOTES + 10) as u64));
    for port in 0..MAX_FLOWS {
        flows.entered(key(&socket_on_port(u16::try_from(port + 1000).unwrap())), at(702));
    }
    assert_eq!((flows.flows.len(), flows.ungrouped()), (MAX_FLOWS, MAX_FLOWS as u64 + 11));
}

#[test]
fn the_longest_quiet_flows_are_evicted_first_and_flows_with_sockets_remain() {
    let mut flows = flows();
    let ends = |count: usize| (0..count).map(towards);
    for (number, socket) in ends(MAX_REMOTES).enumerate() {
        let entered = at(1 + number as u64 % 8);
        flows.entered(key(&socket), entered);
        // The first one remains in CLOSE_WAIT.
        if number > 0 {
            flows.left(key(&socket), entered, Some(entered), None, (true, None, false));
        }
    }
    count(&mut flows, 10, &[towards(0)]);
    assert_eq!(flows.flows.len(), MAX_QUIET_FLOWS);
    assert!(flows.flows.contains_key(&key(&towards(0))), "it has a socket");
    assert!(!flows.flows.contains_key(&key(&towards(8))), "quiet since second 1");
    assert!(flows.flows.contains_key(&key(&towards(7))), "quiet since second 8");
    flows.entered(key(&towards(9999)), at(11));
    assert_eq!((flows.flows.len(), flows.ungrouped()), (MAX_QUIET_FLOWS + 1, 0));
}

#[test]
fn the_number_of_cohorts_is_limited() {
    let mut flows = flows();
    for second in 0..2000 {
        enter(&mut flows, second);
    }
    let stats = flows.flows.values().next().unwrap();
    assert_eq!((stats.cohorts.len(), stats.cohorts.capacity()), (MAX_COHORTS, MAX_COHORTS));
    assert_eq!(size_of::<Cohort>(), 16);
}

#[test]
fn facts_found_later_do_not_count_a_socket_twice() {
    let (mut flows, keys) = (flows(), GroupKeys::new(Some(32_768..=60_999)));
    // The socket as the classic tracepoint describes it, and as a scan does.
    let named = Socket { role: Some(Role::Server), netns: Some(7), ..socket_on_port(8080) };
    let traced = Socket { role: None, netns: None, ..named.clone() };
    for second in 0..20 {
        flows.entered(keys.flow(&traced), at(second));
        if second > 0 {
            let dwell = Some(Dwell::Exact(Duration::from_secs(1)));
            flows.left(keys.flow(&traced), at(second), Some(at(second - 1)), dwell, (true, None, false));
        }
    }
    let flow_key = keys.flow(&named);
    assert_eq!(
        flows.handle_timeout(at(20), [(flow_key, Since::Exact(at(1)), SocketKey(1))].into_iter(), iter::empty()),
        []
    );
    assert_eq!((flow_key, flows.flows.len()), (FlowKey::Port(None, 8080), 1));
    let flow = flows.flow(flow_key, None, at(20)).unwrap();
    assert_eq!((flow.entered, flow.closed, flows.flows[&flow_key].latest.present), (20, 19, 1));
    // A client is recognized by its port.
    let client = Socket { local: Endpoint { port: 40_000, ..traced.local }, ..traced };
    assert!(keys.flow(&client).is_remote());
}
