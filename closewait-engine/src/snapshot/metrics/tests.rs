use std::net::Ipv4Addr;

use super::*;
use crate::{
    Config,
    model::{Output, RefreshEnd, ScanEnd, ScanFact, Socket, SocketEvent, SocketKey},
    testing::{listener, owner, socket, socket_on_port},
};

fn at(seconds: u64) -> BootTime {
    BootTime(seconds * 1_000_000_000)
}

fn key(number: u64) -> SocketKey {
    SocketKey((1 << 63) + number)
}

/// Plays sockets that enter at 1 s and stay, each with the name of its owner. Returns the engine at `end` seconds.
fn play(sockets: &[(Socket, &str)], end: u64) -> Engine {
    let mut engine = Engine::new(Config { stuck_after: Duration::from_secs(10), ..Config::default() }, at(0));
    for (number, (socket, _)) in (0..).zip(sockets) {
        engine.handle(SocketEvent::Enter { key: key(number), at: at(1), socket: socket.clone() });
    }
    for second in 2..=end {
        tick(&mut engine, sockets, at(second));
    }
    engine
}

/// Executes the engine's work at one time.
fn tick(engine: &mut Engine, sockets: &[(Socket, &str)], at: BootTime) {
    engine.handle_timeout(at);
    while let Some(output) = engine.poll_output() {
        match output {
            Output::Refresh(_) => engine.handle(RefreshEnd::Inspection { at, lingering: true }),
            Output::ScanOwners { .. } => {
                for (number, (socket, comm)) in (0..).zip(sockets) {
                    let (key, inode, owner) = (key(number), socket.inode.unwrap(), owner(comm, 7, 9));
                    engine.handle(ScanFact::Descriptor { key, at: None, inode, owner });
                }
                let what = listener(80, 3, 128);
                engine.handle(ScanFact::Listening { key: key(1 << 40), at, listener: what, owner: None });
                let what = listener(99, 3, 128);
                engine.handle(ScanFact::Listening { key: key(1 << 41), at, listener: what, owner: None });
                engine.handle(ScanEnd::Descriptors { began: at, blind: None, saw_listeners: true });
            }
            Output::Finding(_)
            | Output::StillStuck { .. }
            | Output::RefreshLingering(_)
            | Output::RefreshSuspects(_)
            | Output::ReadCounters
            | Output::InspectOwners(_)
            | Output::Audit { .. }
            | Output::Query(_)
            | Output::Forget(_)
            | Output::WatchPorts(_) => {}
        }
    }
}

fn towards(number: u32) -> Socket {
    let remote = Endpoint { address: Ipv4Addr::from_bits(0x0a00_0000 + number).into(), port: 443 };
    Socket { role: Some(Role::Client), remote, ..socket() }
}

#[test]
fn groups_have_the_name_of_their_owner_and_their_port_or_remote_endpoint() {
    let engine = play(&[(socket_on_port(80), "web"), (socket_on_port(80), "web"), (towards(7), "app")], 40);
    let metrics = engine.metrics(at(40));
    let web = GroupLabels { service: Some("web".to_owned()), place: MetricPlace::Port(80) };
    let app = GroupLabels { service: Some("app".to_owned()), place: MetricPlace::Remote(towards(7).remote) };
    let numbers = |stuck| StuckNumbers { stuck, oldest: Some(at(1)) };
    assert_eq!(metrics.stuck.each, [(app.clone(), numbers(1)), (web.clone(), numbers(2))]);
    assert_eq!((web.role(), app.role()), (Role::Server, Role::Client));
    assert_eq!((metrics.sockets, metrics.totals.tracked), (3, 3));
    assert_eq!(metrics.backlogs.each, [(web, BacklogNumbers { waiting: 3, limit: 128 })], "of shown ports only");
}

#[test]
fn groups_of_several_namespaces_with_the_same_labels_count_together() {
    let other = Socket { netns: Some(5), ..socket_on_port(80) };
    let engine = play(&[(socket_on_port(80), "web"), (other, "web")], 40);
    let stuck = engine.metrics(at(40)).stuck;
    assert_eq!(stuck.each.iter().map(|(_, numbers)| numbers.stuck).collect::<Vec<_>>(), [2]);
}

#[test]
fn a_hostile_name_is_cut() {
    let labels = |service: &str| {
        let key = FlowKey::Port(None, 80);
        labels(&ShownFlow { key, service: Some(service), stuck: 1, oldest: None, incident: None }).unwrap()
    };
    assert_eq!(labels(&"ä".repeat(500)).service, Some("ä".repeat(MAX_SERVICE_CHARS)));
    assert_eq!(labels("web").service.as_deref(), Some("web"));
}

#[test]
fn of_ten_thousand_groups_those_with_the_most_stuck_sockets_have_their_own_series() {
    let mut sockets: Vec<_> = (0..10_000).map(|number| (towards(number), "app")).collect();
    sockets.extend((0..5).map(|_| (towards(0), "app")));
    let engine = play(&sockets, 40);
    let metrics = engine.metrics(at(40));
    let stuck = &metrics.stuck;
    assert_eq!(stuck.each.len() + 1, MAX_SERIES);
    assert!(stuck.each.iter().any(|(_, numbers)| numbers.stuck == 6), "the largest group is not in the rest");
    assert!(stuck.each.is_sorted_by_key(|(labels, _)| labels.clone()));
    let own: u64 = stuck.each.iter().map(|(_, numbers)| numbers.stuck).sum();
    assert_eq!((own + stuck.rest.unwrap().stuck, metrics.sockets), (10_005, 10_005), "no socket is missing");
}

#[test]
fn the_limit_keeps_the_series_of_the_least_rank() {
    let build = |count: u64| {
        let mut builder = SeriesBuilder::default();
        (0..count).for_each(|number| builder.add(Some(number), number));
        builder.finish(|_, value| Reverse(*value))
    };
    let limit = MAX_SERIES as u64;
    assert_eq!((build(limit).each.len(), build(limit).rest), (MAX_SERIES, None));
    let over = build(limit + 1);
    assert_eq!((over.each.len(), over.rest), (MAX_SERIES - 1, Some(1)), "0 and 1 are the rest");
    assert_eq!(over.each[0], (2, 2));
    let mut soonest = SeriesBuilder::default();
    [5, 3, 9].into_iter().for_each(|left| soonest.add(None::<u8>, Duration::from_secs(left)));
    assert_eq!(soonest.finish(|_, left| *left).rest, Some(Duration::from_secs(3)));
}

#[test]
fn without_sockets_the_count_is_zero_and_no_series_exists() {
    let metrics = play(&[], 5).metrics(at(5));
    assert_eq!((metrics.sockets, metrics.stuck.each.len(), metrics.stuck.rest), (0, 0, None));
}

#[test]
fn a_group_has_zero_for_one_interval_after_its_last_socket_and_keeps_its_name() {
    let sockets = [(socket_on_port(80), "web")];
    let mut engine = play(&sockets, 40);
    let (key, how, socket) = (key(0), ExitCause::Closed, sockets[0].0.clone());
    let (entered, closer, fd_open, wrote, ended) = (Some(at(1)), None, Some(false), None, None);
    engine.handle(SocketEvent::Leave { key, at: at(41), entered, socket, how, closer, fd_open, wrote, ended });
    let mut shown = Vec::new();
    for second in 42..120 {
        tick(&mut engine, &sockets, at(second));
        if let [(labels, numbers)] = &engine.metrics(at(second)).stuck.each[..] {
            assert_eq!(labels.service.as_deref(), Some("web"));
            shown.push((second, numbers.stuck));
        }
    }
    let (last, stuck) = *shown.last().unwrap();
    // Its last count with a stuck socket was at second 39 or 40, and the interval is a minute.
    assert!((99..=100).contains(&last) && stuck == 0, "{shown:?}");
    assert!(shown.iter().all(|(second, stuck)| *stuck == 0 || *second < 44), "{shown:?}");
}
