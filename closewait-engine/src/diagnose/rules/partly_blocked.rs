//! Servers some of whose threads wait without a timeout.

use crate::diagnose::{
    About, Case, Explanation, Judgement, Rule,
    evidence::{CounterEvidence, OwnLoops, Stall},
    text,
};
use crate::{
    model::{Certainty, Class},
    stacks::HiddenTasks,
};

/// Detects threads that wait without a timeout while other threads of the program serve connections.
pub(super) struct PartlyBlocked;

impl Rule for PartlyBlocked {
    fn about(&self) -> &'static About {
        &About {
            name: "partly_blocked",
            when: "the socket is a server's; the program serves other connections of the port; the oldest of the group entered 15 s \
                   ago or longer; the FIN is unread on at least half of the sockets; all threads of the owner wait without a \
                   timeout, while other processes serve the port, or the group has 3 or more sockets, at least as many threads \
                   wait without a timeout, and the number of threads with a timeout has not risen with the number of sockets; or stacks \
                   show that threads have waited for locks or for room in queues at up to three lines, or for a connection of a pool, or for \
                   other threads while no thread can continue, or tasks of an event loop without a timer for a result, for 30 s or longer, at \
                   least half as many as sockets, and the oldest entered 60 s ago or longer; or stacks show an event loop of greenlets \
                   (gevent, eventlet) or of tokio, which has read most of 8 or more requests and not answered them, the oldest for 2 min, finished \
                   none late and waits for no other program",
            class: &[Class::Hung],
            certainty: &[(Certainty::Low, "the program works; a slow lock or a leak can look the same")],
            says: "some requests hang, while the program serves others",
            next: "see what the waiting threads wait for",
            not: &[
                "a slow path: its threads wait with a timeout, one for each socket",
                "idle workers of the program's own, whose stacks were read",
            ],
            seen: &["jetty/jetty.project#8908"],
        }
    }

    fn counter_evidence(&self) -> &'static [CounterEvidence] {
        &[
            CounterEvidence::LateExits,
            CounterEvidence::PeersWait,
            CounterEvidence::BackendsWait,
            CounterEvidence::Sending,
            CounterEvidence::Threads,
        ]
    }

    fn check<'c>(&self, case: &'c Case<'_>) -> Option<Judgement<'c>> {
        let evidence = &case.group.evidence;
        let count = case.group.count;
        if let Some(stall) = evidence.stall_beside_others(count) {
            return stalled(case, stall);
        }
        let waits = evidence.waits?;
        if let Some(tasks) = super::forgotten::hidden_tasks(case).filter(|_| case.is_server()) {
            return hidden(case, tasks);
        }
        let applies = case.is_server()
            && evidence.progresses(case.now) == Some(true)
            && case.group.oldest >= super::SOME_AGE
            && evidence.eof_unread * 2 >= count
            && !waits.multiplexes
            && waits.idle_loop != Some(true)
            // Idle workers of the program's own, perhaps.
            && !matches!(super::own_loops(case), Some(OwnLoops::Workers | OwnLoops::Undecided));
        let all_wait = waits.complete && waits.blocked == waits.threads;
        let enough_wait = count >= 3 && waits.blocked >= count && waits.follows == Some(false);
        if !applies || !(all_wait || enough_wait) {
            return None;
        }
        Some(Judgement::new(Class::Hung, Certainty::Low, move || {
            let owner = text::owner(case);
            Explanation {
                text: format!(
                    "other connections of port {port} are served{last}, but {owner} {has} not closed {count}, the oldest for {since}; \
                     {threads} without a timeout.{doing}",
                    port = text::port(case),
                    last = text::last_served(case),
                    has = owner.has(),
                    count = text::count(count, "socket"),
                    since = text::duration(case.group.oldest),
                    threads = text::threads_wait(&waits, waits.blocked),
                    doing = text::doing(case),
                ),
                next: text::dump(case),
            }
        }))
    }
}

/// Returns the judgement on requests that hidden tasks have read and not answered, while others are served and no timer ends the wait.
fn hidden<'c>(case: &'c Case<'_>, tasks: HiddenTasks) -> Option<Judgement<'c>> {
    let waits_outside = case.group.evidence.backends.is_none_or(|backends| backends.waiting > 0);
    if waits_outside || !super::forgotten::waits_for_no_timer(case) {
        return None;
    }
    Some(Judgement::new(Class::Hung, Certainty::Low, move || {
        let owner = text::owner(case);
        let (tasks, next) = match tasks {
            HiddenTasks::Greenlets => (
                "greenlets",
                "have the program print its greenlets (`gevent.util.print_run_info`), and see where they wait",
            ),
            HiddenTasks::Tokio => (
                "tasks",
                "see the program's log of that time for a panic, which leaves other tasks waiting; `tokio-console` shows where tasks wait",
            ),
        };
        Explanation {
            text: format!(
                "other connections of port {port} are served{last}, but {owner} {has} not answered {count}, the oldest for {since}: \
                 their {tasks}, which closewait cannot read, wait for something inside the program, such as a lock, a queue \
                 or a connection of a pool",
                port = text::port(case),
                last = text::last_served(case),
                has = owner.has(),
                count = text::count(case.group.count, "socket"),
                since = text::duration(case.group.oldest),
            ),
            next: next.into(),
        }
    }))
}

/// Returns the judgement on requests whose threads or tasks wait for a lock, a queue or a pool, as stacks show, while others are served.
fn stalled<'c>(case: &'c Case<'_>, stall: Stall) -> Option<Judgement<'c>> {
    let evidence = &case.group.evidence;
    if !case.is_server() || evidence.progresses(case.now) != Some(true) || case.group.oldest < super::SURE_AGE {
        return None;
    }
    Some(Judgement::new(Class::Hung, Certainty::Low, move || {
        let next = match stall {
            Stall::AtLines(_) => "see which one holds the lock, or should take the items of the queue",
            Stall::ForPool(_) => super::FIND_POOL_USER,
            Stall::ForResult(_) => super::FIND_TASK,
            Stall::ForEachOther(_) => "see which one should have woken them, and why it did not",
        };
        let owner = text::owner(case);
        Explanation {
            text: format!(
                "other connections of port {port} are served{last}, but {owner} {has} not closed {count}, the oldest for {since}; {what}.{doing}",
                what = stall.words(),
                port = text::port(case),
                last = text::last_served(case),
                has = owner.has(),
                count = text::count(case.group.count, "socket"),
                since = text::duration(case.group.oldest),
                doing = text::doing(case),
            ),
            next: text::dump(case).and(next),
        }
    }))
}

#[cfg(test)]
mod tests {
    use super::super::blocked::tests::{hung, result};
    use crate::{
        diagnose::evidence::{Backends, OwnLoops, Siblings, StackEvidence, Waits},
        diagnose::testing::secs,
        model::{Certainty, Class, ReadState},
        stacks::HiddenTasks,
    };

    #[test]
    fn blocked_threads_beside_served_connections_are_a_guess() {
        let mut scene = hung(20);
        scene.group.evidence.siblings = Some(Siblings { last_served: Some(scene.now), waiting: 0 });
        assert_eq!((result(&scene), scene.verdict().rule), ((Class::Hung, Certainty::Low), "partly_blocked"));
    }

    #[test]
    fn tasks_that_wait_for_a_lock_or_a_queue_beside_served_connections_are_hung() {
        let mut scene = hung(70).of(12);
        scene.group.evidence.siblings = Some(Siblings { last_served: Some(scene.now), waiting: 0 });
        let event_loop = Waits { threads: 1, complete: true, events: 1, idle_loop: Some(true), ..Waits::default() };
        scene.group.evidence.waits = Some(event_loop);
        assert_eq!(scene.verdict().rule, "forgotten", "the event loop is idle");
        let stacks = StackEvidence { threads: 9, at_line: 6, at_lines: 6, lines: 1, ..StackEvidence::default() };
        scene.group.evidence.stacks = Some(stacks);
        assert_eq!((result(&scene), scene.verdict().rule), ((Class::Hung, Certainty::Low), "partly_blocked"));
        let text = scene.verdict().text;
        assert!(text.contains("6 of 9 stacks have waited for a lock at one line for at least 30s"), "{text}");
        scene.group.evidence.stacks = Some(StackEvidence { for_room: true, ..stacks });
        assert!(scene.verdict().text.contains("have waited for room in a queue at one line"));
        let pooled = StackEvidence { threads: 9, pool: 6, ..StackEvidence::default() };
        scene.group.evidence.stacks = Some(pooled);
        let verdict = scene.verdict();
        assert_eq!(
            ((verdict.class, verdict.certainty), verdict.rule),
            ((Class::Hung, Certainty::Low), "partly_blocked")
        );
        assert!(verdict.text.contains("6 of 9 stacks have waited for a connection of a pool"), "{}", verdict.text);
        assert_eq!(result(&scene.of(40)).0, Class::Leak, "too few for the sockets");
    }

    #[test]
    fn goroutines_that_wait_for_each_other_beside_served_connections_are_hung() {
        let mut scene = hung(70).of(12);
        let evidence = &mut scene.group.evidence;
        evidence.siblings = Some(Siblings { last_served: Some(scene.now), waiting: 0 });
        evidence.waits = Some(Waits { threads: 6, complete: true, multiplexes: true, ..Waits::default() });
        let stacks = StackEvidence { threads: 19, idle: 13, inside: 6, complete: true, ..StackEvidence::default() };
        evidence.stacks = Some(stacks);
        let verdict = scene.verdict();
        assert_eq!((result(&scene), verdict.rule), ((Class::Hung, Certainty::Low), "partly_blocked"));
        assert!(verdict.text.contains("6 of 19 stacks have waited for other threads"), "{}", verdict.text);
        assert!(verdict.next.text.contains("should have woken them"), "{}", verdict.next.text);
        scene.group.evidence.stacks = Some(StackEvidence { active: 1, ..stacks });
        assert_ne!(result(&scene).0, Class::Hung, "one may wake them");
    }

    #[test]
    fn tasks_that_nothing_will_continue_are_hung() {
        let mut scene = hung(70).of(12);
        let evidence = &mut scene.group.evidence;
        evidence.waits =
            Some(Waits { threads: 1, complete: true, events: 1, idle_loop: Some(true), ..Waits::default() });
        evidence.stacks = Some(StackEvidence { threads: 9, tasks: 8, awaiting: 6, ..StackEvidence::default() });
        let verdict = scene.verdict();
        assert_eq!((verdict.rule, result(&scene)), ("blocked", (Class::Hung, Certainty::Low)));
        assert!(verdict.text.contains("6 of 9 stacks have waited for another task or a result"), "{}", verdict.text);
        assert!(verdict.next.text.contains("ended with an error"), "{}", verdict.next.text);
        let mut others = scene.clone();
        others.group.evidence.siblings = Some(Siblings { last_served: Some(scene.now), waiting: 0 });
        assert_eq!((others.verdict().rule, result(&others)), ("partly_blocked", (Class::Hung, Certainty::Low)));
        let changes: [fn(&mut crate::diagnose::testing::Scene); 4] = [
            |scene| scene.group.evidence.stacks.as_mut().unwrap().awaiting = 5,
            |scene| scene.group.evidence.waits.as_mut().unwrap().limited = 1,
            |scene| scene.group.evidence.backends = Some(Backends { waiting: 1, answered: false }),
            |scene| scene.group.evidence.backends = Some(Backends { waiting: 0, answered: true }),
        ];
        for (at, change) in changes.into_iter().enumerate() {
            let mut other = scene.clone();
            change(&mut other);
            assert_ne!(other.verdict().rule, "blocked", "{at}");
        }
    }

    #[test]
    fn a_process_of_several_whose_threads_all_wait_is_perhaps_hung() {
        let mut scene = hung(20).of(1);
        scene.group.evidence.eof_unread = 1;
        scene.group.evidence.siblings = None;
        scene.group.evidence.closes.as_mut().unwrap().last = Some(scene.now);
        scene.group.evidence.waits =
            Some(Waits { threads: 1, complete: true, blocked: 1, idle_loop: Some(false), ..Waits::default() });
        assert_eq!((result(&scene), scene.verdict().rule), ((Class::Hung, Certainty::Low), "partly_blocked"));
        scene.group.evidence.waits.as_mut().unwrap().complete = false;
        assert_ne!(scene.verdict().rule, "partly_blocked");
    }

    #[test]
    fn idle_workers_beside_served_connections_are_not_hung() {
        let mut scene = hung(20).reading(ReadState::IdleFin);
        scene.group.evidence.siblings = Some(Siblings { last_served: Some(scene.now), waiting: 0 });
        assert_eq!(scene.verdict().rule, "partly_blocked");
        let stacks = StackEvidence { threads: 24, idle: 4, in_loops: 20, complete: true, ..StackEvidence::default() };
        for (loops, class) in [
            (OwnLoops::Workers, Class::Leak),
            (OwnLoops::Undecided, Class::Unknown),
            (OwnLoops::AsMany, Class::Hung),
            (OwnLoops::Handlers, Class::Hung),
        ] {
            scene.group.evidence.stacks = Some(StackEvidence { loops: Some(loops), ..stacks });
            assert_eq!(result(&scene).0, class, "{loops:?}");
        }
    }

    #[test]
    fn greenlets_that_never_answer_wait_inside_the_program() {
        let mut scene = hung(150);
        scene.group.unanswered = scene.group.count;
        let evidence = &mut scene.group.evidence;
        evidence.siblings = Some(Siblings { last_served: Some(scene.now), waiting: 0 });
        evidence.waits = Some(Waits {
            threads: 1,
            complete: true,
            events: 1,
            limited: 1,
            idle_loop: Some(true),
            ..Waits::default()
        });
        evidence.eof_unread = 0;
        evidence.stacks =
            Some(StackEvidence { threads: 1, hidden_tasks: Some(HiddenTasks::Greenlets), ..StackEvidence::default() });
        let scene = scene.reading(ReadState::IdleFin);
        let verdict = scene.verdict();
        assert_eq!((verdict.rule, result(&scene)), ("partly_blocked", (Class::Hung, Certainty::Low)));
        assert!(verdict.text.contains("greenlets"), "{}", verdict.text);
        let mut tokio = scene.clone();
        tokio.group.evidence.stacks.as_mut().unwrap().hidden_tasks = Some(HiddenTasks::Tokio);
        tokio.group.evidence.waits =
            Some(Waits { threads: 5, complete: true, events: 1, blocked: 4, locked: 4, ..Waits::default() });
        let verdict = tokio.verdict();
        assert_eq!((verdict.rule, result(&tokio)), ("partly_blocked", (Class::Hung, Certainty::Low)));
        assert!(verdict.next.text.contains("panic"), "{}", verdict.next.text);
        tokio.group.oldest = secs(100);
        assert_eq!(tokio.verdict().class, Class::Unknown, "a timer may end it; its threads show nothing");
        let mut answered = scene.clone();
        answered.group.unanswered = 0;
        assert_eq!(answered.verdict().rule, "forgotten", "they have ended");
        let mut asks = scene.clone();
        asks.group.evidence.backends = Some(Backends { waiting: 1, answered: false });
        assert_ne!(asks.verdict().class, Class::Hung, "another program may be slow");
        let mut young = scene;
        young.group.oldest = secs(100);
        assert_ne!(young.verdict().class, Class::Hung, "a timer may end it");
    }
}
