//! Requests of the engine for evidence of progress.

use super::*;
use crate::{
    model::{
        AnswerNeeds, InspectionFact, InspectionRequest, QueryCommand, QueryEvent, QueryId, UnixConnections,
        UnixListener, WatchedPort,
    },
    testing::owner,
};

fn engine_of(config: Config) -> Engine {
    Engine::new(Config { reads_progress: true, ..config }, at(0))
}

/// Returns a server's socket, owned by process 7.
fn server() -> Socket {
    Socket { role: Some(Role::Server), ..socket() }
}

fn watched(engine: &mut Engine) -> Vec<Vec<(u16, BootTime)>> {
    let ports = |output| if let Output::WatchPorts(ports) = output { Some(ports) } else { None };
    let of = |ports: Vec<WatchedPort>| ports.iter().map(|port| (port.port, port.since)).collect();
    outputs(engine).into_iter().filter_map(ports).map(of).collect()
}

fn requests(engine: &mut Engine) -> Vec<InspectionRequest> {
    let request = |output| if let Output::InspectOwners(request) = output { Some(request) } else { None };
    outputs(engine).into_iter().filter_map(request).collect()
}

/// Advances the time to `millis`, in steps in which the engine counts.
fn until(engine: &mut Engine, from: u64, millis: u64) {
    (from..=millis).step_by(500).for_each(|millis| engine.handle_timeout(at(millis)));
}

#[test]
fn the_port_of_a_server_is_watched_while_a_socket_is_older_than_a_second() {
    let mut engine = engine_of(config(Events::Stuck));
    engine.handle(SocketEvent::Enter { key: KEY, at: at(0), socket: server() });
    until(&mut engine, 500, 3000);
    let port = server().local.port;
    assert_eq!(watched(&mut engine), [[(port, at(0))]]);
    until(&mut engine, 3500, 8000);
    assert!(watched(&mut engine).is_empty(), "the ports are the same");
    engine.handle(leave_of(server(), 8100, Some(0)));
    until(&mut engine, 8500, 20_000);
    assert_eq!(watched(&mut engine), [[]]);

    let mut engine = Engine::new(Config { reads_progress: false, ..config(Events::Stuck) }, at(0));
    engine.handle(SocketEvent::Enter { key: KEY, at: at(0), socket: server() });
    until(&mut engine, 500, 8000);
    assert!(watched(&mut engine).is_empty(), "as in older recordings");
}

#[test]
fn without_namespaces_in_records_no_port_is_watched() {
    let mut engine = engine_of(Config { named: false, ..config(Events::Stuck) });
    engine.handle(SocketEvent::Enter { key: KEY, at: at(0), socket: server() });
    until(&mut engine, 500, 8000);
    assert!(watched(&mut engine).is_empty());
}

/// Returns an engine that has reported a socket of process 7 as stuck at 10 s.
fn with_one_stuck() -> Engine {
    let mut engine = engine_of(config(Events::Stuck));
    engine.handle(SocketEvent::Enter { key: KEY, at: at(0), socket: Socket { inode: Some(99), ..server() } });
    until(&mut engine, 500, 10_000);
    engine.handle(RefreshEnd::Inspection { at: at(10_000), lingering: true });
    engine.handle(ScanFact::Descriptor { key: KEY, at: Some(at(10_000)), inode: 99, owner: owner("x", 7, 3) });
    engine.handle(ScanEnd::Descriptors { began: at(10_000), blind: None, saw_listeners: true });
    engine
}

#[test]
fn an_inspection_requests_closes_and_peers() {
    let mut engine = with_one_stuck();
    let request = requests(&mut engine).remove(0);
    assert_eq!((request.processes, request.connections_of), (vec![7], vec![7]));
    let Socket { netns, local, remote, .. } = server();
    assert_eq!(request.closes_of, [WatchedPort { netns, port: local.port, remote: false, since: at(0) }]);
    let question = request.peer_ends_of[0];
    assert_eq!((question.key, question.netns, question.local, question.remote), (KEY, netns, local, remote));
}

#[test]
fn the_program_behind_a_unix_socket_is_inspected_and_belongs_to_the_evidence() {
    let mut engine = with_one_stuck();
    assert_eq!(requests(&mut engine).remove(0).unix_of, [7]);
    let owners = vec![owner("php-fpm", 100, 3).task, owner("php-fpm", 101, 3).task];
    let path = "/run/php.sock".to_owned();
    let listener = UnixListener { path, connections: 3, queued: 2, queued_idle: 0, unread: 2, owners };
    let found = UnixConnections { pid: 7, at: at(10_100), listeners: vec![listener] };
    engine.handle(InspectionFact::UnixConnections(Box::new(found)));
    engine.handle(InspectionEnd::Owners { at: at(10_200), worked: Duration::ZERO });
    let request = engine.owner_request(at(16_000));
    assert!([7, 100, 101].iter().all(|pid| request.processes.contains(pid)), "{:?}", request.processes);
    assert_eq!((request.connections_of, request.unix_of), (vec![7], vec![7]));
    let report = engine.report(at(16_000));
    let unix = report.groups[0].pileup.evidence.unix.as_deref().unwrap();
    assert_eq!((unix[0].connections, unix[0].queued, unix[0].waiting, unix[0].processes), (3, 2, 3, 2));
    assert_eq!(unix[0].to_string(), "/run/php.sock (php-fpm[100])");
    let report = engine.report(at(80_000));
    assert_eq!(report.groups[0].pileup.evidence.unix, None, "the read is too old");
}

#[test]
fn owners_are_inspected_at_each_refresh_without_a_scan() {
    let mut engine = with_one_stuck();
    engine.handle(InspectionFact::ConnectionsRead { pid: 7, at: at(10_100) });
    engine.handle(InspectionEnd::Owners { at: at(10_200), worked: Duration::ZERO });
    let _stuck = outputs(&mut engine);
    engine.handle_timeout(at(16_000));
    engine.handle(RefreshEnd::Inspection { at: at(16_000), lingering: true });
    let after = words(&mut engine);
    assert!(after.contains(&"inspect owners".to_owned()), "{after:?}");
    assert!(!after.contains(&"scan for owners".to_owned()), "{after:?}");
    engine.handle(InspectionEnd::Owners { at: at(16_200), worked: Duration::ZERO });
    let _rest = outputs(&mut engine);
    engine.handle_timeout(at(17_000));
    assert!(
        !words(&mut engine).iter().any(|word| word.starts_with("refresh 1")),
        "not before five seconds have passed"
    );
}

#[test]
fn an_answer_waits_for_an_inspection_if_the_last_one_is_old() {
    let mut engine = with_one_stuck();
    engine.handle(InspectionEnd::Owners { at: at(10_200), worked: Duration::ZERO });
    let _stuck = outputs(&mut engine);
    let mut ask = |query, millis| {
        engine.handle_timeout(at(millis));
        engine.handle(QueryEvent::Asked {
            query,
            at: at(millis),
            owner_ended: false,
            needs: AnswerNeeds::LastingOwners,
        });
        engine.handle(QueryEvent::Refreshed { query });
        engine.handle(ScanEnd::Owners);
        let processes = |output| {
            if let Output::Query(QueryCommand::Inspect { request, .. }) = output {
                Some(request.processes)
            } else {
                None
            }
        };
        outputs(&mut engine).into_iter().filter_map(processes).collect::<Vec<_>>()
    };
    assert_eq!(ask(QueryId(1), 11_000), Vec::<Vec<u32>>::new(), "the last inspection is recent");
    assert_eq!(ask(QueryId(2), 21_000), [[7]]);
}
