use super::*;
use crate::diagnose::{
    evidence::{Backends, LateExits, PeersRead, Siblings, StackEvidence},
    testing::{Scene, secs},
};

#[test]
fn threads_that_wait_for_a_signal_may_wait_for_an_event() {
    let certainty = |stacks| {
        let mut scene = hung(240);
        scene.group.evidence.stacks = Some(stacks);
        scene.verdict().certainty
    };
    let of = |at_lines| StackEvidence { threads: 20, inside: 20, at_lines, active: 1, ..StackEvidence::default() };
    assert_eq!(certainty(of(9)), Certainty::Medium);
    assert_eq!(certainty(of(10)), Certainty::High);
}

/// Returns a thread pool whose 20 threads wait for one lock, with all evidence read.
pub(in crate::diagnose::rules) fn hung(age: u64) -> Scene {
    let mut scene = Scene::server().of(20).aged(age);
    scene.socket.send_queue_bytes = Some(0);
    scene.group.awaiting = scene.group.count;
    let evidence = &mut scene.group.evidence;
    evidence.demand = 12;
    evidence.late_exits = Some(LateExits::default());
    evidence.siblings = Some(Siblings::default());
    evidence.closes = Some(crate::model::PortCloses {
        port: crate::model::WatchedPort { netns: None, port: 8080, remote: false, since: crate::time::BootTime(0) },
        count: 0,
        last: None,
    });
    evidence.peer_ends = PeersRead { read: 20, half_closed: 0, ended: 0 };
    evidence.backends = Some(Backends::default());
    evidence.eof_unread = 20;
    evidence.waits = Some(Waits {
        threads: 24,
        complete: true,
        accepting: 1,
        blocked: 20,
        locked: 20,
        limited: 3,
        follows: Some(false),
        ..Waits::default()
    });
    scene
}

pub(in crate::diagnose::rules) fn result(scene: &Scene) -> (Class, Certainty) {
    let verdict = scene.verdict();
    (verdict.class, verdict.certainty)
}

#[test]
fn threads_that_wait_for_a_pool_with_a_timeout_are_blocked_until_connections_come_back() {
    let mut scene = hung(190);
    let waits = Waits { blocked: 4, locked: 4, limited: 18, ..scene.group.evidence.waits.unwrap() };
    scene.group.evidence.waits = Some(waits);
    assert_eq!(scene.check(&Blocked), None, "each may finish");
    let stacks = StackEvidence { threads: 24, idle: 2, pool: 16, ..StackEvidence::default() };
    scene.group.evidence.stacks = Some(stacks);
    let verdict = scene.verdict();
    assert_eq!((verdict.rule, verdict.certainty), ("blocked", Certainty::Medium));
    assert!(verdict.text.contains("16 of 24 stacks have waited for a connection of a pool"), "{}", verdict.text);
    assert!(verdict.next.text.contains(super::super::FIND_POOL_USER), "{}", verdict.next.text);
    scene.group.evidence.stacks = Some(StackEvidence { pool: 9, ..stacks });
    assert_eq!(scene.check(&Blocked), None, "most threads do something else");
    scene.group.evidence.stacks = Some(stacks);
    scene.group.evidence.demand = 1;
    assert_eq!(scene.check(&Blocked), None, "it may serve others");
}

#[test]
fn threads_that_wait_for_each_other_are_blocked() {
    let mut scene = hung(190);
    let waits = scene.group.evidence.waits.as_mut().unwrap();
    (waits.multiplexes, waits.blocked, waits.locked) = (true, 3, 0);
    let stacks = StackEvidence { threads: 24, idle: 14, inside: 10, complete: true, ..StackEvidence::default() };
    scene.group.evidence.stacks = Some(stacks);
    assert_eq!(result(&scene), (Class::Hung, Certainty::Medium));
    let text = scene.verdict().text;
    assert!(text.contains("10 of 24 stacks have waited for other threads of the program"), "{text}");
    let mut certainty = |stacks| {
        scene.group.evidence.stacks = Some(stacks);
        result(&scene).1
    };
    assert_eq!(certainty(StackEvidence { active: 1, ..stacks }), Certainty::Low, "one may wake them");
    assert_eq!(certainty(StackEvidence { inside: 9, ..stacks }), Certainty::Low, "too few for 20 sockets");
    assert_eq!(certainty(StackEvidence { networked: 1, ..stacks }), Certainty::Medium, "no backend owes an answer");
    scene.group.evidence.backends = None;
    assert_eq!(result(&scene).1, Certainty::Low, "one may owe an answer");
}

#[test]
fn a_hang_is_reported_at_once_and_its_certainty_rises() {
    let certainties: Vec<_> = [4, 70, 190].map(|age| result(&hung(age))).into();
    let hung_with = |certainty| (Class::Hung, certainty);
    assert_eq!(certainties, [Certainty::Low, Certainty::Medium, Certainty::High].map(hung_with));
    assert!(hung(4).verdict().text.starts_with("too early to be sure"), "{}", hung(4).verdict().text);
}

#[test]
fn progress_excludes_a_hang_and_missing_evidence_lowers_the_certainty() {
    let mut scene = hung(190);
    scene.group.evidence.siblings = Some(Siblings { last_served: Some(scene.now), waiting: 0 });
    assert_ne!(result(&scene).1, Certainty::High);
    let mut scene = hung(190);
    scene.group.evidence.late_exits = Some(LateExits { count: 2, last: Some(scene.now), longest: secs(48) });
    assert_eq!(result(&scene).0, Class::Transient);
    let mut scene = hung(190);
    scene.group.evidence.peer_ends.half_closed = 20;
    assert_eq!(result(&scene).0, Class::HalfClose);
    let mut scene = hung(190);
    scene.group.evidence.backends = Some(Backends { waiting: 20, answered: false });
    assert_ne!(result(&scene).0, Class::Hung);
    let mut scene = hung(190);
    scene.group.evidence.closes = None;
    assert_eq!(result(&scene), (Class::Hung, Certainty::Medium));
}

#[test]
fn a_pool_whose_threads_are_all_blocked_is_hung() {
    let mut scene = hung(190).of(400).reading(crate::model::ReadState::NeverRead);
    scene.socket.send_queue_bytes = Some(0);
    let waits =
        Waits { threads: 9, complete: true, accepting: 1, blocked: 8, follows: Some(false), ..Waits::default() };
    scene.group.evidence.waits = Some(Waits { locked: 8, ..waits });
    scene.group.awaiting = scene.group.count;
    assert_eq!(result(&scene), (Class::Hung, Certainty::High));
    let mut full = scene.clone();
    full.group.evidence.waits = Some(Waits { locked: 8, accepting: 0, limited: 1, ..waits });
    assert_eq!(result(&full), (Class::Hung, Certainty::Low), "a thread may work");
    full.processes = vec![crate::testing::process("app", 7, Some((1024, 1024)))];
    assert_eq!(result(&full), (Class::Hung, Certainty::High), "it cannot accept");
    scene.group.evidence.siblings = None;
    assert_eq!(result(&scene), (Class::Hung, Certainty::Low), "other connections were not read");
}

#[test]
fn an_idle_server_that_has_read_these_has_forgotten_them_and_else_it_is_hung() {
    let mut scene = hung(70).reading(crate::model::ReadState::NeverRead);
    scene.group.evidence.waits = Some(Waits { threads: 1, complete: true, accepting: 1, ..Waits::default() });
    assert_eq!(result(&scene), (Class::Hung, Certainty::Medium));
    scene = scene.reading(crate::model::ReadState::IdleFin);
    scene.group.unanswered = scene.group.count;
    assert_eq!(result(&scene), (Class::Leak, Certainty::Low), "its threads may have ended");
    scene.group.unanswered = 0;
    assert_eq!(result(&scene), (Class::Leak, Certainty::Medium));
}

#[test]
fn the_own_threads_of_a_runtime_do_not_blame() {
    let mut scene = hung(190);
    let waits = scene.group.evidence.waits.as_mut().unwrap();
    (waits.blocked, waits.of_runtime) = (10, 12);
    assert_eq!(result(&scene), (Class::Hung, Certainty::Low));
    scene.group.evidence.waits.as_mut().unwrap().blocked = 22;
    assert_eq!(result(&scene), (Class::Hung, Certainty::High));
}

/// Returns a hang of three minutes after a change to what its threads wait for.
fn waiting(change: impl FnOnce(&mut Waits)) -> Scene {
    let mut scene = hung(190);
    change(scene.group.evidence.waits.as_mut().unwrap());
    scene
}

#[test]
fn what_another_program_can_end_does_not_blame() {
    let low = (Class::Hung, Certainty::Low);
    assert_eq!(result(&waiting(|waits| waits.locked = 0)), low, "pipes, UNIX sockets, file locks");
    assert_eq!(result(&waiting(|waits| waits.locked = 9)), low, "most threads wait for another program");
    assert_eq!(result(&waiting(|waits| waits.children = 1)), low, "the others may wait for this thread");
    assert_eq!(result(&waiting(|waits| waits.locked = 10)), (Class::Hung, Certainty::High));
}

#[test]
fn a_program_that_has_answered_or_may_have_does_not_blame() {
    let mut scene = hung(190);
    scene.group.awaiting = 9;
    assert_eq!(result(&scene), (Class::Hung, Certainty::Low), "a stream of events, or a handshake with the request");
    scene.group.awaiting = 10;
    assert_eq!(result(&scene), (Class::Hung, Certainty::High));
}

#[test]
fn a_process_that_does_not_listen_serves_no_others_anyway() {
    use crate::diagnose::testing::owned_by;
    assert_eq!(result(&hung(190).listened_by(&[owned_by(42, "app", 3)])), (Class::Hung, Certainty::High));
    assert_eq!(result(&hung(190).listened_by(&[owned_by(7, "app", 3)])), (Class::Hung, Certainty::Low));
}

#[test]
fn a_hang_begins_with_the_last_progress() {
    let mut scene = hung(400);
    let set = |scene: &mut Scene, ago, demand| {
        let last = scene.now - secs(ago);
        let evidence = &mut scene.group.evidence;
        evidence.siblings = Some(Siblings { last_served: Some(last), waiting: 0 });
        (evidence.stalled_since, evidence.demand) = (Some(last), demand);
    };
    set(&mut scene, 13, 1);
    assert_ne!(scene.verdict().rule, "blocked", "one request in 13 s says nothing");
    set(&mut scene, 13, 4);
    assert_eq!((result(&scene), scene.verdict().rule), ((Class::Hung, Certainty::Low), "blocked"));
    assert!(scene.verdict().text.contains("for 13s, while 4 arrived"), "{}", scene.verdict().text);
    set(&mut scene, 70, 9);
    assert_eq!(result(&scene), (Class::Hung, Certainty::Medium));
    set(&mut scene, 200, 9);
    assert_eq!(result(&scene), (Class::Hung, Certainty::High));
}

#[test]
fn without_new_connections_a_hang_is_a_guess() {
    let mut scene = hung(190);
    scene.group.evidence.demand = 0;
    assert_eq!((result(&scene), scene.verdict().rule), ((Class::Hung, Certainty::Low), "no_demand"));
    scene.group.evidence.waits.as_mut().unwrap().of_runtime = 12;
    assert_eq!(result(&scene).0, Class::Unknown, "threads of the runtime wait, too");
}

#[test]
fn an_event_loop_is_hung_unless_it_waits_for_events() {
    let mut scene = hung(190);
    let waits = scene.group.evidence.waits.as_mut().unwrap();
    (waits.blocked, waits.events, waits.idle_loop, waits.threads) = (4, 1, Some(true), 5);
    assert_ne!(result(&scene).0, Class::Hung);
    scene.group.oldest_unaccepted = Some(secs(5));
    assert_eq!(result(&scene), (Class::Hung, Certainty::Low), "it does not come back to its listener");
    scene.group.oldest_unaccepted = None;
    let waits = scene.group.evidence.waits.as_mut().unwrap();
    (waits.blocked, waits.events, waits.idle_loop) = (5, 0, Some(false));
    assert_eq!(result(&scene).0, Class::Hung);
}

#[test]
fn stacks_show_a_hang_that_threads_do_not_and_idle_ones_exclude_it() {
    let mut scene = hung(190);
    let waits = scene.group.evidence.waits.as_mut().unwrap();
    (waits.multiplexes, waits.blocked, waits.locked) = (true, 3, 0);
    assert_eq!(result(&scene), (Class::Hung, Certainty::Low), "threads of Go do not show what goroutines wait for");
    let stacks = StackEvidence { threads: 40, idle: 4, at_line: 10, complete: true, ..StackEvidence::default() };
    scene.group.evidence.stacks = Some(stacks);
    assert_eq!(result(&scene), (Class::Hung, Certainty::High));
    assert!(scene.verdict().text.contains("10 of 40 stacks have waited for a lock"), "{}", scene.verdict().text);
    scene.group.evidence.stacks = Some(StackEvidence { at_line: 9, ..stacks });
    assert_eq!(result(&scene), (Class::Hung, Certainty::Low), "too few for 20 sockets");
    scene.group.evidence.stacks = Some(StackEvidence { idle: 40, at_line: 0, ..stacks });
    assert_ne!(result(&scene).0, Class::Hung);
}

#[test]
fn threads_in_loops_of_the_programs_own_are_hung_only_if_they_are_handlers() {
    use crate::model::ReadState;
    let mut scene = hung(190).reading(ReadState::IdleFin);
    let stacks = StackEvidence { threads: 24, idle: 4, in_loops: 20, complete: true, ..StackEvidence::default() };
    let mut with = |loops, at_line| {
        scene.group.evidence.stacks = Some(StackEvidence { loops: Some(loops), at_line, ..stacks });
        result(&scene)
    };
    assert_eq!(with(OwnLoops::Handlers, 0), (Class::Hung, Certainty::High));
    assert_eq!(with(OwnLoops::AsMany, 0), (Class::Hung, Certainty::Low), "it may be a coincidence");
    assert_eq!(with(OwnLoops::Undecided, 0), (Class::Unknown, Certainty::Low));
    assert_eq!(with(OwnLoops::Workers, 0).0, Class::Leak);
    assert_eq!(with(OwnLoops::Undecided, 10), (Class::Hung, Certainty::High), "others wait for a lock");
    let mut scene = scene.reading(ReadState::NeverRead);
    scene.group.evidence.stacks = Some(StackEvidence { loops: Some(OwnLoops::Workers), ..stacks });
    assert_eq!(result(&scene), (Class::Hung, Certainty::High), "idle workers would have read the requests");
    scene.group.evidence.stacks = Some(StackEvidence { in_loops: 8, loops: Some(OwnLoops::Workers), ..stacks });
    assert_eq!(result(&scene), (Class::Hung, Certainty::High), "twelve others may wait for results");
}
