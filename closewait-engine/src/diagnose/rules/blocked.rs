//! Servers whose threads wait without a timeout.

use crate::diagnose::{
    About, Case, Explanation, Judgement, Rule,
    evidence::{CounterEvidence, MIN_DEMAND, OwnLoops, StackEvidence, Stall, Waits},
    text,
};
use crate::model::{Certainty, Class};

use super::sure_from;

/// Detects a server that makes no progress on a port while the threads that should serve it wait without a timeout.
pub(super) struct Blocked;

/// CPU use of all threads, in thousandths of one CPU, at which one of them may be doing the work that the others wait for.
const SOME_CPU: u32 = 50;

impl Rule for Blocked {
    fn about(&self) -> &'static About {
        &About {
            name: "blocked",
            when: "the socket is a server's; since the oldest of the port entered, or since the last progress after that, 2 or more new \
                   connections arrived, and the program served or closed no other connection and finished no socket late; its threads wait without a \
                   timeout, at least half as many as the group has sockets or without any thread that waits for events, or all but those \
                   that accept (or would, if the program had a free descriptor) while most sockets were never read, or they \
                   only wait in accept() and have not read most of the sockets, or they show nothing about single connections \
                   because there are fewer threads than sockets or the runtime runs many tasks on each thread; or stacks show that threads \
                   have waited for a lock at one line for 30 s or longer, at least half as many as the group has sockets or most of those \
                   that work, or most of these at up to three lines, or for a connection of a pool, or for other threads while no thread can \
                   continue, or that as many tasks of an event loop without a timer, to which no other program owes an answer, have \
                   waited for a result at one line for 30 s or longer, and do not show that all threads wait for work",
            class: &[Class::Hung],
            certainty: &[
                (
                    Certainty::High,
                    "after 3 min or longer without progress, with 5 or more new connections, if threads wait for locks",
                ),
                (
                    Certainty::Medium,
                    "after 60 s or longer without progress; also later if half of the peers on this host can still read, if threads \
                     wait for a connection of a pool, which may come back, or if all threads wait for each other, which a timeout may end, or \
                     if stacks show that most of those that wait for other threads wait for a signal, and not for a lock",
                ),
                (
                    Certainty::Low,
                    "sooner; if most threads wait for another program, or one for a child: a pipe, a UNIX socket, a file lock or a \
                     process, which may still finish; if the program has answered most of the sockets, or may have; if \
                     the owner does not listen itself; if a thread works, which the others may wait for; if the other connections \
                     of the program could not be read; if the threads show nothing about single connections and the program has \
                     read most of the sockets (Go); if threads of the runtime's own may be the ones that wait (JVM); or if an \
                     event loop leaves connections in the backlog; or if tasks wait for a result, which the next request may bring",
                ),
            ],
            says: "the program has hung since its last progress",
            next: "see where its threads are, and what happened at the onset",
            not: &[
                "a slow server: its threads wait with a timeout, or for a backend",
                "a server whose clients wait for events (long polling): it has answered, or serves other connections",
                "a server without new connections: it might still serve them",
                "an event loop that waits for events: it is idle, not hung",
                "an idle pool of the program's own: see `own_pool`",
            ],
            seen: &["gevent/gevent#464", "Netflix, Java 21 virtual threads (2024)", "gin-gonic/gin#596"],
        }
    }

    fn counter_evidence(&self) -> &'static [CounterEvidence] {
        &[
            CounterEvidence::LateExits,
            CounterEvidence::OtherConnections,
            CounterEvidence::Closes,
            CounterEvidence::PeersWait,
            CounterEvidence::BackendsWait,
            CounterEvidence::Sending,
            CounterEvidence::Threads,
        ]
    }

    fn check<'c>(&self, case: &'c Case<'_>) -> Option<Judgement<'c>> {
        let evidence = &case.group.evidence;
        let waits = evidence.waits?;
        if !case.is_server() || evidence.demand < MIN_DEMAND || evidence.progresses(case.now) == Some(true) {
            return None;
        }
        let loops = super::own_loops(case);
        let is_idle = |stacks: StackEvidence| match stacks.loops {
            Some(OwnLoops::Workers) => loops.is_some() && stacks.all_idle(),
            _ => stacks.all_idle(),
        };
        if evidence.stacks.is_some_and(is_idle) && !only_accepts(case) {
            return None;
        }
        let stall = evidence.stall(case.group.count, case.now);
        match loops.filter(|_| stall.is_none()) {
            Some(OwnLoops::Workers | OwnLoops::Undecided) => return None,
            Some(OwnLoops::Handlers | OwnLoops::AsMany) | None => {}
        }
        let count = u64::from(case.group.count);
        let blocked = u64::from(waits.blocked);
        // Each socket may have a thread with a timeout, which will finish.
        let may_work = waits.follows.is_none() && u64::from(waits.limited) * 10 >= count * 7;
        if may_work && waits.idle_loop != Some(false) && stall.is_none() {
            return None;
        }
        let serves_nothing = waits.events == 0 && waits.accepting == 0 && blocked > 0;
        let enough = blocked * 2 >= count && blocked > 0;
        let (surest, what) = match waits.idle_loop {
            _ if let Some(stall) = stall => {
                let surest = match stall {
                    Stall::AtLines(_) => Certainty::High,
                    // The connections of a pool may come back with requests that end.
                    Stall::ForPool(_) | Stall::ForEachOther(_) => Certainty::Medium,
                    // A client of a chat waits so for what another client says.
                    Stall::ForResult(_) => Certainty::Low,
                };
                (surest, stall.words())
            }
            Some(true) if leaves_backlog(case) => (
                Certainty::Low,
                "the event loop waits for events, but accepts no connection of those that wait in the backlog"
                    .to_owned(),
            ),
            Some(true) => return None,
            Some(false) if blocked > 0 && waits.threads > 1 => (
                Certainty::High,
                format!(
                    "{} without a timeout, and the first one not for events",
                    text::threads_wait(&waits, waits.blocked)
                ),
            ),
            Some(false) if blocked > 0 => {
                (Certainty::High, format!("{} without a timeout", text::threads_wait(&waits, waits.blocked)))
            }
            None if all_workers_wait(case, &waits) => {
                let workers = text::threads_wait(&waits, waits.blocked);
                (Certainty::High, format!("{workers} without a timeout, and most of the sockets were never read"))
            }
            None if only_accepts(case) => (
                Certainty::Medium,
                "the listening thread accepts connections, but no other thread works on the accepted ones".to_owned(),
            ),
            // Such a runtime parks its idle threads without a timeout.
            Some(false) | None if !waits.multiplexes && (serves_nothing || enough) => {
                // The runtime's own threads prove nothing.
                let of_program = u64::from(waits.blocked_of_program());
                let surest = if of_program * 2 >= count { Certainty::High } else { Certainty::Low };
                (surest, format!("{} without a timeout", text::threads_wait(&waits, waits.blocked)))
            }
            // The threads of such a runtime do not show its tasks.
            _ if (waits.multiplexes || u64::from(waits.threads) < count) && case.group.oldest >= super::SOME_AGE => {
                // Such a runtime has read the requests that it works on, and a thread with a timeout may work on one.
                let unread = case.group.is_mostly_unread() && waits.limited * 2 < waits.threads;
                let sure = case.group.oldest >= super::SURE_AGE && unread;
                (
                    if sure { Certainty::Medium } else { Certainty::Low },
                    "the threads do not show which connections they work on".to_owned(),
                )
            }
            _ => return None,
        };
        // The waiting threads may wait for one that works.
        let works = waits.running > 0 || waits.cpu_permille >= SOME_CPU;
        let guess = works
            || loops == Some(OwnLoops::AsMany)
            || evidence.progresses(case.now).is_none()
            || !(stall.is_some() || waits.for_itself())
            || !case.group.is_most(case.group.awaiting)
            || case.is_passed_to_owner();
        // Clients that have closed one direction only would also wait for a slow server.
        // Threads that wait for a signal may wait for an event that their clients want, as in long polling.
        let awaits_event = stall.is_none() && evidence.stacks.is_some_and(|stacks| stacks.wait_mostly_for_signals());
        let may_go_on = evidence.peer_ends.wait() || awaits_event;
        let surest = if may_go_on { surest.max(Certainty::Medium) } else { surest };
        let certainty = if guess { Certainty::Low } else { sure_from(case, surest) };
        Some(Judgement::new(Class::Hung, certainty, move || {
            let owner = text::owner(case);
            Explanation {
                text: format!(
                    "{early}{owner} {has} served no other connection of port {port} for {stalled}, while {demand} arrived, and \
                     {has} not closed {count}, the oldest for {since}; {what}.{doing}",
                    early = super::early(case, certainty, "hung"),
                    has = owner.has(),
                    count = text::count(case.group.count.max(1), "socket"),
                    since = text::duration(case.group.oldest),
                    stalled = text::duration(case.stalled()),
                    port = text::port(case),
                    demand = evidence.demand,
                    doing = text::doing(case),
                ),
                next: text::dump(case).and(&match stall {
                    Some(Stall::ForPool(_)) => super::FIND_POOL_USER.to_owned(),
                    Some(Stall::ForResult(_)) => super::FIND_TASK.to_owned(),
                    Some(Stall::AtLines(_) | Stall::ForEachOther(_)) | None => {
                        format!("see what happened {} ago", text::duration(case.stalled()))
                    }
                }),
            }
        }))
    }
}

/// Whether nearly all threads but those that accept connections wait without a timeout, while most sockets were never read: all threads of a
/// pool are blocked. Idle threads would have read the sockets.
fn all_workers_wait(case: &Case<'_>, waits: &Waits) -> bool {
    // Without a free descriptor, the thread that accepts pauses before it tries again.
    let accepting = waits.accepting.max(u32::from(case.is_out_of_descriptors()));
    let workers = waits.threads.saturating_sub(accepting);
    waits.complete
        && (accepting > 0 && waits.events == 0 && !waits.multiplexes)
        && waits.blocked >= 2
        && waits.blocked * 10 >= workers * 7
        && case.group.is_mostly_unread()
}

/// Whether a server without an event loop only accepts connections: most of these sockets were not read, the program serves no other
/// connection, and its threads do nothing. A thread pool that has ended looks like this. A thread that has read a request and is gone
/// has forgotten its socket.
pub(super) fn only_accepts(case: &Case<'_>) -> bool {
    let evidence = &case.group.evidence;
    let Some(waits) = evidence.waits.filter(|waits| waits.complete) else { return false };
    let working = waits.working();
    evidence.progresses(case.now) == Some(false)
        && evidence.demand >= MIN_DEMAND
        && case.group.is_mostly_unread()
        && (waits.accepting > 0 && waits.events == 0 && waits.idle_loop.is_none() && !waits.multiplexes)
        && working * 4 <= case.group.count
}

/// Whether connections have been in the backlog for longer than an event loop takes to come back to it.
pub(super) fn leaves_backlog(case: &Case<'_>) -> bool {
    case.group.oldest_unaccepted.is_some_and(|age| age >= super::undecided::FRESH)
}

#[cfg(test)]
pub(super) mod tests {
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
        assert_eq!(
            result(&scene),
            (Class::Hung, Certainty::Low),
            "a stream of events, or a handshake with the request"
        );
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
}
