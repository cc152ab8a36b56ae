use super::*;
use crate::{
    Config,
    model::{ScanEnd, ScanFact, Since, Socket, SocketEvent},
    testing::{owner, socket, socket_on_port},
};

const KEY: SocketKey = SocketKey(0xffff_8880_0000_1000);
const QUERY: QueryId = QueryId(1);

fn at(millis: u64) -> BootTime {
    BootTime(millis * 1_000_000)
}

/// Returns an agent's engine with one socket that entered at the start.
fn engine(socket: Socket) -> Engine {
    let mut engine = Engine::new(Config { watching: true, ..Config::default() }, at(0));
    engine.handle(SocketEvent::Enter { key: KEY, at: at(0), socket });
    engine
}

fn ask(engine: &mut Engine, query: QueryId, millis: u64, owner_ended: bool) {
    engine.handle(QueryEvent::Asked { query, at: at(millis), owner_ended, needs: AnswerNeeds::LastingOwners });
}

/// Returns the commands for queries, and the scans for owners.
fn commands(engine: &mut Engine) -> Vec<Output> {
    let outputs = std::iter::from_fn(|| engine.poll_output());
    outputs.filter(|output| matches!(output, Output::Query(_) | Output::ScanOwners { .. })).collect()
}

fn scan_ended(engine: &mut Engine, millis: u64) {
    let owner = owner("x", 7, 3);
    engine.handle(ScanFact::Descriptor { key: KEY, at: Some(at(millis)), inode: 99, owner });
    engine.handle(ScanEnd::Descriptors { began: at(millis), blind: None, saw_listeners: true });
    engine.handle(ScanEnd::Owners);
}

fn answer(query: QueryId) -> Output {
    Output::Query(QueryCommand::Answer { query })
}

fn is_scan(output: &Output) -> bool {
    matches!(output, Output::ScanOwners { .. })
}

#[test]
fn sockets_are_refreshed_and_owners_searched_before_the_answer() {
    let mut engine = engine(socket());
    ask(&mut engine, QUERY, 60_000, false);
    let first = commands(&mut engine);
    let refresh = QueryCommand::Refresh { query: QUERY, present: vec![KEY], lingering: vec![] };
    assert!(first[0] == Output::Query(refresh) && is_scan(&first[1]) && first.len() == 2, "{first:?}");
    engine.handle(QueryEvent::Refreshed { query: QUERY });
    assert_eq!(commands(&mut engine), [], "the scan has not ended");
    scan_ended(&mut engine, 60_100);
    assert_eq!(commands(&mut engine), [answer(QUERY)]);
    // The facts are recent enough now.
    ask(&mut engine, QueryId(2), 60_200, false);
    let next: Vec<_> = commands(&mut engine).into_iter().filter(is_scan).collect();
    assert_eq!(next, []);
}

#[test]
fn a_new_cgroup_is_inspected_before_the_answer() {
    let mut engine = engine(Socket { cgroup: Some(5), ..socket() });
    ask(&mut engine, QUERY, 60_000, false);
    let _first = commands(&mut engine);
    engine.handle(QueryEvent::Refreshed { query: QUERY });
    scan_ended(&mut engine, 60_100);
    let request = Box::new(InspectionRequest { cgroups: vec![5], ..InspectionRequest::default() });
    assert_eq!(commands(&mut engine), [Output::Query(QueryCommand::Inspect { query: QUERY, request })]);
    engine.handle(QueryEvent::Inspected { query: QUERY });
    assert_eq!(commands(&mut engine), [answer(QUERY)]);
}

#[test]
fn a_query_that_has_waited_for_too_long_is_answered_once() {
    let mut engine = engine(socket());
    ask(&mut engine, QUERY, 1_000, false);
    let _first = commands(&mut engine);
    engine.handle_timeout(at(2_999));
    assert_eq!(commands(&mut engine), []);
    assert!(engine.poll_timeout().is_some_and(|due| due <= at(3_000)));
    engine.handle_timeout(at(3_000));
    assert_eq!(commands(&mut engine), [answer(QUERY)]);
    engine.handle(QueryEvent::Refreshed { query: QUERY });
    scan_ended(&mut engine, 3_100);
    assert_eq!(commands(&mut engine), []);
}

#[test]
fn queries_share_a_scan_unless_an_owner_has_ended_since() {
    let mut engine = engine(socket());
    for (number, owner_ended) in [(1, false), (2, false), (3, true)] {
        ask(&mut engine, QueryId(number), 1_000 + number, owner_ended);
        engine.handle(QueryEvent::Refreshed { query: QueryId(number) });
    }
    assert_eq!(commands(&mut engine).iter().filter(|output| is_scan(output)).count(), 2);
    scan_ended(&mut engine, 1_100);
    assert_eq!(commands(&mut engine), [answer(QueryId(1)), answer(QueryId(2))]);
    scan_ended(&mut engine, 1_200);
    assert_eq!(commands(&mut engine), [answer(QueryId(3))]);
}

#[test]
fn a_socket_that_entered_a_moment_ago_needs_no_scan_unless_the_answer_needs_all_owners() {
    let mut engine = engine(socket());
    ask(&mut engine, QUERY, 5_000, false);
    let _first = commands(&mut engine);
    scan_ended(&mut engine, 5_000);
    engine.handle(SocketEvent::Enter { key: SocketKey(KEY.0 + 0x1000), at: at(6_000), socket: socket_on_port(81) });
    let mut scans = |query, millis, needs| {
        let (query, at) = (QueryId(query), at(millis));
        engine.handle(QueryEvent::Asked { query, at, owner_ended: false, needs });
        commands(&mut engine).iter().filter(|output| is_scan(output)).count()
    };
    assert_eq!((scans(2, 6_999, AnswerNeeds::LastingOwners), scans(3, 6_999, AnswerNeeds::Everything)), (0, 1));
    scan_ended(&mut engine, 6_000);
    let mut scans = |query, millis| {
        engine.handle(QueryEvent::Asked {
            query: QueryId(query),
            at: at(millis),
            owner_ended: false,
            needs: AnswerNeeds::LastingOwners,
        });
        commands(&mut engine).iter().filter(|output| is_scan(output)).count()
    };
    assert_eq!((scans(4, 6_999), scans(5, 7_000)), (0, 1), "that scan began with its entry");
}

#[test]
fn an_answer_without_a_socket_needs_neither_a_refresh_nor_a_scan() {
    let mut engine = engine(socket());
    engine.handle(QueryEvent::Asked { query: QUERY, at: at(60_000), owner_ended: true, needs: AnswerNeeds::Counts });
    assert_eq!(commands(&mut engine), [answer(QUERY)]);
}

#[test]
fn only_the_ends_of_sockets_exclude_them_before_an_answer() {
    let engine = engine(socket_on_port(80));
    let port = |port| Filter { ports: vec![port], ..Filter::default() };
    assert!(engine.may_match(&Filter::default()) && engine.may_match(&port(80)) && !engine.may_match(&port(81)));
    let by_owner = Filter { pids: vec![1], older_than: Some(Duration::from_secs(60)), ..Filter::default() };
    assert!(engine.may_match(&by_owner));
}

#[test]
fn a_one_off_scan_scans_for_missing_owners_and_inspects_all() {
    for has_owner in [true, false] {
        let mut engine = Engine::new(Config { watching: false, ..Config::default() }, at(0));
        ask(&mut engine, QUERY, 0, false);
        assert_eq!(commands(&mut engine), [Output::Query(QueryCommand::ScanAll { query: QUERY })]);
        let since = Since::Between { earliest: None, latest: at(5) };
        engine.handle(ScanFact::Present { key: KEY, at: at(10), since, socket: socket() });
        if has_owner {
            engine.handle(ScanFact::Descriptor { key: KEY, at: Some(at(10)), inode: 99, owner: owner("x", 7, 3) });
        }
        engine.handle(ScanEnd::Descriptors { began: at(8), blind: None, saw_listeners: true });
        engine.handle(QueryEvent::ScannedAll { query: QUERY });
        if !has_owner {
            let scan = commands(&mut engine);
            assert!(is_scan(&scan[0]) && scan.len() == 1, "{scan:?}");
            scan_ended(&mut engine, 20);
        }
        let inspect = commands(&mut engine);
        let [Output::Query(QueryCommand::Inspect { query: QUERY, request })] = &inspect[..] else {
            panic!("{inspect:?} is no inspection");
        };
        assert_eq!(request.processes, [7]);
        engine.handle(QueryEvent::Inspected { query: QUERY });
        assert_eq!(commands(&mut engine), [answer(QUERY)]);
    }
}
