//! Sockets that no thread works on.

use std::time::Duration;

use crate::diagnose::{About, Case, Explanation, Judgement, Rule, evidence::CounterEvidence, text};
use crate::{
    model::{Certainty, Class},
    stacks::HiddenTasks,
};

/// Detects a program whose threads wait for new work only, so that no thread will close these sockets.
pub(super) struct Forgotten;

/// Minimum number of sockets for a certainty above `low`.
const MIN_SOCKETS: u32 = 3;
/// Minimum number of sockets that no timer is for: a program that serves others and sets a timer for each of these would have finished some.
const MIN_WITHOUT_TIMER: u32 = 8;
/// Minimum age of the oldest of these.
const NO_TIMER: Duration = Duration::from_secs(120);

impl Rule for Forgotten {
    fn about(&self) -> &'static About {
        &About {
            name: "forgotten",
            when: "the socket is a server's; its program waits for events or in accept(), an event loop without a timeout, or with one if it serves \
                   others, has not finished any late, and has 8 or more sockets, the oldest for 120 s or longer, and tasks for fewer than half of them; at \
                   most half of the threads, and at most one for every four sockets, do anything else; no connection to another \
                   program waits for an answer, and, if an event loop serves no others, none has got one in the last 10 s; the program has read from most of the sockets, or one event loop serves them; stacks, if all were read, count instead of \
                   system calls, except those of an event loop; workers of the program's own wait for work if they are fewer than half of \
                   the sockets, or if their number stays while that of the sockets rises",
            class: &[Class::Leak],
            certainty: &[
                (
                    Certainty::Medium,
                    "the group has 3 or more sockets, the oldest entered 60 s ago or longer, no thread waits for events or with a \
                     timeout (with stacks: each waits for work), and the program has sent something on most of the sockets, or serves other connections",
                ),
                (
                    Certainty::Low,
                    "otherwise: an event loop can wait for a pipe, a child or a UNIX socket, which closewait does not read",
                ),
            ],
            says: "the program is idle while these sockets are open: it has forgotten to close them",
            next: "see which requests leave sockets behind",
            not: &[
                "a program that waits for a timer: its wait has a timeout, and it finishes some of the sockets within two minutes",
                "a program that waits for another program: its connection to that program waits for an answer",
                "an event loop that passes on what it has received, bit by bit: another program answers it all the time",
                "a program that got the connection as one of its descriptors 0 to 3: it ends with the connection, or after it",
                "an event loop that leaves connections in the backlog: it waits for something else",
                "threads or tasks that wait for a lock, for room in a queue or for a pool, at least half as many as sockets: see `partly_blocked`",
                "greenlets of gevent and eventlet, or tasks of tokio, that have not answered: see `partly_blocked`",
                "a runtime that runs many tasks on each thread (Go): its threads show nothing about single connections",
            ],
            seen: &["http-kit/http-kit#326", "websockets/ws#180", "icing/mod_h2#79", "nodejs/node#31106"],
        }
    }

    fn counter_evidence(&self) -> &'static [CounterEvidence] {
        &[
            CounterEvidence::LateExits,
            CounterEvidence::PeersWait,
            CounterEvidence::BackendsWait,
            CounterEvidence::Sending,
        ]
    }

    fn check<'c>(&self, case: &'c Case<'_>) -> Option<Judgement<'c>> {
        let evidence = &case.group.evidence;
        let waits = evidence.waits?;
        // The tasks of an event loop have no stacks.
        let stacks = evidence.stacks.filter(|stacks| stacks.complete && waits.idle_loop.is_none());
        if !waits.show_connections() && stacks.is_none() {
            return None;
        }
        // Tasks that wait for a lock or a queue work on these, and so do hidden ones, whose end closes the connection.
        if evidence.stall_beside_others(case.group.count).is_some() || hidden_tasks(case).is_some() {
            return None;
        }
        let backends = evidence.backends?;
        let idle = match waits.idle_loop {
            _ if let Some(stacks) = stacks => stacks.waiting_for_work() > 0,
            Some(idle) => idle && (waits.limited == 0 || waits_for_no_timer(case)),
            // A thread for each connection may wait for an event of something else.
            None if waits.events >= 2 && waits.events * 10 >= case.group.count * 7 => false,
            None => waits.events + waits.accepting > 0,
        };
        let (working, threads) =
            stacks.map_or((waits.working(), waits.threads), |stacks| (stacks.working(), stacks.threads));
        let works = if waits.idle_loop == Some(true) { 0 } else { working };
        if !case.is_server()
            || !idle
            || backends.waiting > 0
            || works * 4 > case.group.count
            || super::blocked::only_accepts(case)
            || super::blocked::leaves_backlog(case)
            || super::is_handed_over(case) == Some(true)
        {
            return None;
        }
        // If most threads work, all sockets may wait for them.
        if works * 2 > threads {
            return None;
        }
        // A socket that was never read is not forgotten: it waits for a thread.
        if case.group.is_mostly_unread() && waits.idle_loop != Some(true) {
            return None;
        }
        let serves = evidence.progresses(case.now) == Some(true);
        // What another program answers may be work on these sockets, bit by bit: an upload that is passed on in batches.
        if waits.idle_loop == Some(true) && !serves && backends.answered {
            return None;
        }
        // A thread with a timeout may be the one that closes them all, as one that sends a heartbeat. If no request is served, the
        // threads that have read these may have ended, as in a hung program.
        let sure = (serves || case.group.unanswered * 2 < case.group.count)
            && stacks.map_or(waits.events == 0 && waits.limited == 0, |stacks| stacks.all_idle())
            && case.group.count >= MIN_SOCKETS
            && case.group.oldest >= super::SURE_AGE;
        Some(Judgement::new(Class::Leak, if sure { Certainty::Medium } else { Certainty::Low }, move || {
            let owner = text::owner(case);
            let last = text::last_served(case);
            // What is closed on the port need not be its own: a child of the server can have copies.
            let subject = if evidence.serves_others(case.now) == Some(true) {
                format!("{owner} {} other connections{last} and", owner.word("serves", "serve"))
            } else if serves {
                format!("other connections of port {} are served{last}, and {owner}", text::port(case))
            } else {
                format!("{owner} {} idle and", owner.is())
            };
            let has_tasks =
                evidence.stacks.is_some_and(|stacks| stacks.tasks > 0 && !stacks.has_few_tasks(case.group.count));
            // Of a task that waits for a lock or a queue of the program, threads show nothing.
            let tasks = if has_tasks {
                "; or the tasks of the event loop work on them, and wait for something inside the program"
            } else if waits.idle_loop == Some(true) && case.group.unanswered * 2 >= case.group.count {
                "; or tasks of the event loop, which have not answered, wait for something inside the program, such as a lock"
            } else {
                ""
            };
            Explanation {
                text: format!(
                    "{subject} {has} {count} open whose peers closed up to {age} ago: {its} threads wait for new work \
                     only, and none works on these{tasks}{doing}",
                    has = owner.has(),
                    its = owner.its(),
                    count = text::count(case.group.count.max(1), "socket"),
                    age = text::duration(case.group.oldest),
                    // Idle threads say no more than the sentence.
                    doing = if has_tasks { format!(".{}", text::doing(case)) } else { String::new() },
                ),
                next: match has_tasks {
                    true => text::dump(case),
                    false => format!(
                        "find the code path in {owner} that skips close(): see which requests leave a socket behind, and what \
                         happens when the peer closes first"
                    )
                    .into(),
                },
            }
        }))
    }
}

/// Returns the kind of the tasks without readable stacks that have read most of these requests and not answered them: each of these has a
/// task, which waits.
pub(super) fn hidden_tasks(case: &Case<'_>) -> Option<HiddenTasks> {
    case.group.evidence.stacks?.hidden_tasks.filter(|_| case.group.was_read_without_answer())
}

/// Whether an event loop with a timeout, which any timer of the program can be the reason for, has none for these sockets.
pub(super) fn waits_for_no_timer(case: &Case<'_>) -> bool {
    let evidence = &case.group.evidence;
    evidence.progresses(case.now) == Some(true)
        && evidence.late_exits.is_some_and(|exits| exits.count == 0)
        && evidence.backends.is_some_and(|backends| !backends.answered)
        && evidence.stacks.is_none_or(|stacks| stacks.has_few_tasks(case.group.count))
        && case.group.count >= MIN_WITHOUT_TIMER
        && case.group.oldest >= NO_TIMER
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::diagnose::{
        evidence::{Backends, LateExits, OwnLoops, Siblings, StackEvidence, Waits},
        testing::Scene,
    };

    #[test]
    fn an_idle_program_with_open_sockets_has_forgotten_them() {
        let mut scene = Scene::server().of(12).aged(20);
        let idle = Waits { threads: 1, complete: true, events: 1, idle_loop: Some(true), ..Waits::default() };
        scene.group.evidence.waits = Some(idle);
        assert_eq!(scene.check(&Forgotten), None, "its backends were not read");
        scene.group.evidence.backends = Some(Backends::default());
        assert_eq!(scene.check(&Forgotten).unwrap().certainty, Certainty::Low);
        scene.group.evidence.backends = Some(Backends { waiting: 0, answered: true });
        assert_eq!(scene.check(&Forgotten), None, "it works with another program");
        scene.group.evidence.siblings = Some(Siblings { last_served: Some(scene.now), waiting: 0 });
        assert_eq!(scene.check(&Forgotten).unwrap().certainty, Certainty::Low, "for others");
        scene.group.oldest_unaccepted = Some(crate::diagnose::testing::secs(5));
        assert_eq!(scene.check(&Forgotten), None, "it does not come back to its listener");
        scene.group.oldest_unaccepted = None;
        let owners = scene.owners.replace(vec![crate::diagnose::testing::owned_by(42, "tail", 0)]);
        assert_eq!(scene.check(&Forgotten), None, "the connection is its standard input");
        scene.owners = owners;
        scene.group.evidence.waits = Some(Waits { events: 0, accepting: 1, idle_loop: None, ..idle });
        assert_eq!(scene.check(&Forgotten).unwrap().certainty, Certainty::Low, "a timer that is not seen may wake it");
        scene.group.oldest = crate::diagnose::testing::secs(60);
        assert_eq!(scene.check(&Forgotten).unwrap().certainty, Certainty::Medium);
        scene.group.evidence.waits = Some(Waits { limited: 1, ..idle });
        assert_eq!(scene.check(&Forgotten), None, "it waits for a timer");
        scene.group.evidence.waits = Some(Waits { blocked: 12, idle_loop: None, threads: 13, ..idle });
        assert_eq!(scene.check(&Forgotten), None, "threads work on them");
    }

    #[test]
    fn tasks_that_may_work_on_the_sockets_are_named() {
        let mut scene = Scene::server().of(12).aged(20);
        let idle = Waits { threads: 1, complete: true, events: 1, idle_loop: Some(true), ..Waits::default() };
        scene.group.evidence.waits = Some(idle);
        scene.group.evidence.backends = Some(Backends::default());
        let text = |scene: &Scene| scene.check(&Forgotten).unwrap().text;
        assert!(text(&scene).ends_with("none works on these"), "{}", text(&scene));
        scene.group.evidence.stacks = Some(StackEvidence { threads: 13, tasks: 12, ..StackEvidence::default() });
        assert!(text(&scene).contains("or the tasks of the event loop work on them"), "{}", text(&scene));
    }

    #[test]
    fn a_timer_that_finishes_none_of_many_sockets_is_for_something_else() {
        let mut scene = Scene::server().of(8).aged(120);
        let waits =
            Waits { threads: 1, complete: true, events: 1, limited: 1, idle_loop: Some(true), ..Waits::default() };
        scene.group.evidence.waits = Some(waits);
        scene.group.evidence.backends = Some(Backends::default());
        scene.group.evidence.siblings = Some(Siblings { last_served: Some(scene.now), waiting: 0 });
        scene.group.evidence.late_exits = Some(LateExits::default());
        assert_eq!(scene.check(&Forgotten).unwrap().certainty, Certainty::Low);
        let tasks = StackEvidence { threads: 5, tasks: 4, ..StackEvidence::default() };
        scene.group.evidence.stacks = Some(StackEvidence { tasks: 3, ..tasks });
        assert!(scene.check(&Forgotten).is_some());
        scene.group.evidence.stacks = Some(tasks);
        assert_eq!(scene.check(&Forgotten), None, "the tasks may work on them");
        scene.group.evidence.stacks = None;
        let changes: [fn(&mut Scene); 5] = [
            |scene| scene.group.count = 7,
            |scene| scene.group.oldest = crate::diagnose::testing::secs(119),
            |scene| scene.group.evidence.late_exits.as_mut().unwrap().count = 1,
            |scene| scene.group.evidence.siblings = None,
            |scene| scene.group.evidence.backends = Some(Backends { waiting: 0, answered: true }),
        ];
        for change in changes {
            let mut other = scene.clone();
            change(&mut other);
            assert_eq!(other.check(&Forgotten), None);
        }
    }

    #[test]
    fn stacks_show_an_idle_program_whose_threads_do_not() {
        let mut scene = Scene::server().of(12).aged(90);
        scene.group.evidence.waits = Some(Waits { threads: 6, complete: true, multiplexes: true, ..Waits::default() });
        scene.group.evidence.backends = Some(Backends::default());
        scene.group.evidence.siblings = Some(Siblings { last_served: Some(scene.now), waiting: 0 });
        assert_eq!(scene.check(&Forgotten), None);
        let idle = StackEvidence { threads: 9, idle: 9, complete: true, ..StackEvidence::default() };
        scene.group.evidence.stacks = Some(idle);
        assert_eq!(scene.check(&Forgotten).unwrap().certainty, Certainty::Medium);
        scene.group.evidence.stacks = Some(StackEvidence { idle: 6, ..idle });
        assert_eq!(scene.check(&Forgotten).unwrap().certainty, Certainty::Low, "some do something");
        scene.group.evidence.stacks = Some(StackEvidence { idle: 5, ..idle });
        assert_eq!(scene.check(&Forgotten), None, "four may work on the twelve sockets");
        scene.group.evidence.stacks = Some(StackEvidence { complete: false, ..idle });
        assert_eq!(scene.check(&Forgotten), None);
    }

    #[test]
    fn workers_of_the_programs_own_wait_for_work_if_their_number_shows_it() {
        let mut scene = Scene::server().of(12).aged(90).reading(crate::model::ReadState::IdleFin).replied(true);
        scene.group.evidence.waits =
            Some(Waits { threads: 9, complete: true, accepting: 1, blocked: 8, locked: 8, ..Waits::default() });
        scene.group.evidence.backends = Some(Backends::default());
        assert_eq!(scene.check(&Forgotten), None, "eight threads may work on them");
        let stacks = StackEvidence { threads: 9, idle: 1, in_loops: 8, complete: true, ..StackEvidence::default() };
        let mut check = |loops| {
            scene.group.evidence.stacks = Some(StackEvidence { loops: Some(loops), ..stacks });
            scene.check(&Forgotten).map(|judgement| judgement.certainty)
        };
        assert_eq!(check(OwnLoops::Workers), Some(Certainty::Medium));
        for loops in [OwnLoops::Handlers, OwnLoops::AsMany, OwnLoops::Undecided] {
            assert_eq!(check(loops), None, "{loops:?}");
        }
    }

    #[test]
    fn a_healthy_pool_with_a_few_young_sockets_is_not_blamed() {
        let mut scene = Scene::server().of(2).aged(8).reading(crate::model::ReadState::IdleFin).replied(true);
        scene.group.evidence.waits =
            Some(Waits { threads: 9, complete: true, accepting: 1, blocked: 8, locked: 8, ..Waits::default() });
        scene.group.evidence.backends = Some(Backends::default());
        let stacks = StackEvidence { threads: 9, idle: 1, in_loops: 8, complete: true, ..StackEvidence::default() };
        for loops in [OwnLoops::Workers, OwnLoops::Undecided] {
            scene.group.evidence.stacks = Some(StackEvidence { loops: Some(loops), ..stacks });
            assert_eq!(scene.verdict().certainty, Certainty::Low, "{loops:?}");
        }
    }
}
