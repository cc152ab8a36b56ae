//! Requests that a program has not read, and the agent's own descriptors of its sockets.

use super::*;
use crate::{
    model::{InspectionFact, Owner, Task, UnreadQuestion, Verdict},
    testing::owner,
    unread::{HttpMethod, UnreadRequest},
};

/// Process id of the agent.
const AGENT: u32 = 99;
/// Process id of its helper.
const PEEKS: u32 = 100;

fn server() -> Socket {
    let (unread_bytes, received_bytes) = (Some(40), Some(40));
    Socket { role: Some(Role::Server), inode: Some(1234), unread_bytes, received_bytes, ..socket() }
}

fn post() -> UnreadRequest {
    UnreadRequest::Http { method: HttpMethod::Post, path: "/orders".to_owned() }
}

/// Returns an engine that has a stuck socket, of which the scan has found these descriptors, and the requests that it asks for.
fn with_descriptors(reads_requests: bool, owners: &[Owner]) -> (Engine, Vec<UnreadQuestion>) {
    let mut engine = Engine::new(
        Config { reads_requests, agent_pid: Some(AGENT), peek_pid: Some(PEEKS), ..config(Events::Stuck) },
        at(0),
    );
    engine.handle(SocketEvent::Enter { key: KEY, at: at(0), socket: server() });
    engine.handle_timeout(at(10_000));
    let questions = scanned(&mut engine, 10_000, owners);
    (engine, questions)
}

/// Does an inspection whose scan finds these descriptors.
fn scanned(engine: &mut Engine, millis: u64, owners: &[Owner]) -> Vec<UnreadQuestion> {
    let now = at(millis);
    engine.handle(RefreshFact::Present { key: KEY, at: now, since: None, socket: server() });
    engine.handle(RefreshEnd::Inspection { at: now, lingering: true });
    for owner in owners {
        engine.handle(ScanFact::Descriptor { key: KEY, at: Some(now), inode: 1234, owner: owner.clone() });
    }
    engine.handle(ScanEnd::Descriptors { began: now, blind: None, saw_listeners: true });
    let asked = |output| if let Output::InspectOwners(request) = output { Some(request.unread_of) } else { None };
    outputs(engine).into_iter().find_map(asked).expect("an inspection")
}

/// Returns the closer and the verdict of an exit, which `closer` has caused.
fn left(engine: &mut Engine, closer: u32) -> (Option<u32>, Option<Verdict>) {
    let closer = Some(Task { pid: closer, ..owner("app", closer, 3).task });
    let SocketEvent::Leave { key, at, entered, socket, fd_open, wrote, .. } = leave_of(server(), 12_000, Some(0))
    else {
        panic!("an exit");
    };
    let (how, ended) = (ExitCause::Aborted, Some(false));
    engine.handle(SocketEvent::Leave { key, at, entered, socket, how, closer, fd_open, wrote, ended });
    let of = |output| {
        let Output::Finding(Finding::Leave { closer, verdict, how, .. }) = output else { return None };
        (how == ExitCause::Aborted).then_some((closer, verdict))
    };
    let (closer, verdict) = outputs(engine).into_iter().find_map(of).expect("an exit");
    (closer.map(|closer| closer.pid), verdict.map(|verdict| *verdict))
}

#[test]
fn an_inspection_asks_for_the_request_and_a_report_has_it() {
    let (mut engine, questions) = with_descriptors(true, &[owner("app", 7, 5)]);
    let question = UnreadQuestion { key: KEY, pid: 7, fd: 5, inode: 1234, cookie: Some(7) };
    assert_eq!(questions, [question]);
    engine.handle(InspectionFact::Unread { key: KEY, at: at(10_010), request: Some(post()) });
    engine.handle(InspectionEnd::Owners { at: at(10_020), worked: Duration::ZERO });
    let report = engine.report(at(10_030));
    let unread = report.groups[0].pileup.evidence.unread.as_ref().expect("requests");
    assert_eq!(unread.text(), "POST /orders 1");
    // The restored engine has it, too.
    let _taken = outputs(&mut engine);
    let restored = engine.checkpoint().expect("a checkpoint").restore().expect("an engine");
    assert_eq!(restored.report(at(10_030)), report);
    // Another socket at the same address has none.
    engine.handle(leave_of(server(), 11_000, Some(0)));
    engine.handle(SocketEvent::Enter { key: KEY, at: at(11_500), socket: server() });
    assert_eq!(engine.report(at(12_000)).groups[0].pileup.evidence.unread, None);
}

#[test]
fn without_the_setting_no_request_is_asked_for() {
    let (mut engine, questions) = with_descriptors(false, &[owner("app", 7, 5)]);
    assert!(questions.is_empty());
    engine.handle(InspectionFact::Unread { key: KEY, at: at(10_010), request: Some(post()) });
    assert_eq!(engine.report(at(10_030)).groups[0].pileup.evidence.unread, None, "nothing was asked for");
}

#[test]
fn the_duplicate_of_the_agent_is_no_owner() {
    let (mut engine, _) = with_descriptors(true, &[owner("app", 7, 5)]);
    engine.handle(InspectionEnd::Owners { at: at(10_020), worked: Duration::ZERO });
    let _stuck = outputs(&mut engine);
    // The next report is due at 20 s.
    engine.handle_timeout(at(20_000));
    let owners = [owner("app", 7, 5), owner("closewait-peek", PEEKS, 12), owner("other", 8, 4)];
    let questions = scanned(&mut engine, 20_000, &owners);
    assert_eq!(questions.len(), 1, "there was no answer");
    engine.handle(ScanFact::InodeDescriptor { inode: 1234, owner: owner("closewait-peek", PEEKS, 12) });
    engine.handle(InspectionEnd::Owners { at: at(20_020), worked: Duration::ZERO });
    let of = |output| if let Output::Finding(Finding::Stuck { owners, .. }) = output { owners } else { None };
    let owners = outputs(&mut engine).into_iter().find_map(of).expect("owners in a report");
    assert_eq!(owners.iter().map(|owner| owner.task.pid).collect::<Vec<_>>(), [7, 8]);
}

#[test]
fn a_descriptor_of_the_agent_that_is_no_duplicate_counts() {
    let (engine, questions) = with_descriptors(true, &[owner("closewait", AGENT, 12)]);
    assert!(questions.is_empty(), "the agent does not peek at its own sockets");
    assert_eq!(engine.owner_pids(9).into_iter().collect::<Vec<_>>(), [AGENT]);
}

#[test]
fn the_close_of_a_duplicate_says_nothing_of_the_program() {
    let stuck = || {
        let (mut engine, _) = with_descriptors(true, &[owner("app", 7, 5)]);
        engine.handle(InspectionEnd::Owners { at: at(10_020), worked: Duration::ZERO });
        let _stuck = outputs(&mut engine);
        engine
    };
    assert_eq!(left(&mut stuck(), PEEKS), (None, None));
    // A scan of open files had the last reference.
    let mut without_duplicates = with_descriptors(false, &[owner("app", 7, 5)]).0;
    without_duplicates.handle(InspectionEnd::Owners { at: at(10_020), worked: Duration::ZERO });
    let _stuck = outputs(&mut without_duplicates);
    assert_eq!(left(&mut without_duplicates, AGENT), (None, None));
    // The agent's own socket, as of its HTTP server.
    let (mut own, _) = with_descriptors(true, &[owner("closewait", AGENT, 12)]);
    own.handle(InspectionEnd::Owners { at: at(10_020), worked: Duration::ZERO });
    let _stuck = outputs(&mut own);
    assert_eq!(left(&mut own, AGENT).0, Some(AGENT));
    let (closer, verdict) = left(&mut stuck(), 7);
    assert_eq!((closer, verdict.map(|verdict| verdict.class)), (Some(7), Some(Class::Transient)));
}
