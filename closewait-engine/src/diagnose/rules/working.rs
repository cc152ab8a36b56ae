//! Servers that work, and may finish these sockets.

use crate::diagnose::{
    About, Case, Explanation, Judgement, Rule,
    evidence::{CounterEvidence, Waits},
    text,
};
use crate::model::{Certainty, Class, ReadState};

/// Detects a server with a thread for each socket that waits with a timeout, and so will finish.
pub(super) struct Working;

/// Covers servers that serve other connections while their work on these sockets is unknown.
pub(super) struct ServesOthers;

/// Minimum number of threads for which one thread per socket is no coincidence.
const MANY: u32 = 8;

impl Rule for Working {
    fn about(&self) -> &'static About {
        &About {
            name: "working",
            when: "the socket is a server's; the number of threads that wait with a timeout has risen with the number of \
                   sockets, by one for each; stacks do not show that half as many have waited for a lock, or for a connection of a pool, \
                   for 30 s or longer, with an oldest socket of 60 s or older",
            class: &[Class::Transient, Class::Unknown],
            certainty: &[
                (
                    Certainty::Medium,
                    "transient: the program serves other connections, and 8 or more threads wait with a timeout",
                ),
                (
                    Certainty::Low,
                    "transient: fewer threads do; unknown: nothing shows that the program serves other connections",
                ),
            ],
            says: "each socket has a thread that sleeps or polls: slow, not hung",
            next: "compare the duration of requests with the timeout of the clients",
            not: &["idle threads of a pool: their number does not rise with the number of sockets"],
            seen: &[],
        }
    }

    fn check<'c>(&self, case: &'c Case<'_>) -> Option<Judgement<'c>> {
        let evidence = &case.group.evidence;
        let waits = evidence.waits.filter(|waits| waits.follows == Some(true))?;
        // A thread that tries again and again to get a lock waits with a timeout, too.
        let is_stuck = evidence.stops(case.group.count) && case.group.oldest >= super::SURE_AGE;
        if !case.is_server() || is_stuck {
            return None;
        }
        let serves = evidence.progresses(case.now) == Some(true);
        let (class, certainty) = match (serves, waits.limited >= MANY) {
            (true, true) => (Class::Transient, Certainty::Medium),
            (true, false) => (Class::Transient, Certainty::Low),
            (false, _) => (Class::Unknown, Certainty::Low),
        };
        Some(Judgement::new(class, certainty, move || {
            let owner = text::owner(case);
            Explanation {
                text: format!(
                    "{limited} with a timeout, one for each new socket: each thread seems to work on one socket{others}",
                    limited = match waits.limited {
                        1 => format!("1 thread of {owner} waits"),
                        many => format!("{many} threads of {owner} wait"),
                    },
                    others = if serves {
                        format!(", and other connections are served{}", text::last_served(case))
                    } else {
                        String::new()
                    },
                ),
                next: format!("see which requests on port {} take longer than their clients wait", text::port(case))
                    .into(),
            }
        }))
    }
}

impl Rule for ServesOthers {
    fn about(&self) -> &'static About {
        &About {
            name: "serves_others",
            when: "the socket is a server's; the program serves other connections of the port; no rule above applies",
            class: &[Class::Unknown, Class::Leak],
            certainty: &[(
                Certainty::Low,
                "unknown; a leak if fewer threads work than half of the number of sockets (stacks, if all were read, count instead of \
                 system calls), or its event loop has fewer tasks than that, or the program has answered most of \
                 them, also with those on which it has read the FIN and no request, and stacks do not show as many threads that wait for others: after 60 s or longer, or after 15 s if the program has read the FIN of most, or has sent something on most",
            )],
            says: "the program works: it is slow with these sockets, or has forgotten them",
            next: "see whether the sockets exit",
            not: &["a hung program: it serves no other connection"],
            seen: &[],
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
        if !case.is_server() || evidence.progresses(case.now) != Some(true) {
            return None;
        }
        let most = |number| case.group.is_most(number);
        let waits = evidence.waits.filter(Waits::show_connections);
        // Those of a runtime with many tasks on each thread show only in stacks. The tasks of an event loop have none.
        let stacks = evidence.stacks.filter(|stacks| stacks.complete && !case.group.is_mostly_unread());
        // Threads show nothing of them.
        let hidden = super::forgotten::hidden_tasks(case).is_some();
        let idle_threads = !hidden
            && match stacks {
                Some(stacks) => u64::from(stacks.working()) * 2 < u64::from(case.group.count),
                None => {
                    evidence.stacks.is_some_and(|stacks| stacks.lacks_tasks(case.group.count))
                        || waits.is_some_and(|waits| {
                            waits.idle_loop.is_none() && (waits.working() + waits.events) * 2 < case.group.count
                        })
                }
            };
        // A program that has read the FIN, and has nothing to answer, has nothing to do for the socket.
        let consumed = most(case.group.in_state(ReadState::FinConsumed));
        let owes_nothing =
            most(case.group.answered) || (consumed && most(case.group.replied + case.group.asked_nothing));
        // A program reads the FIN when it is done with the request, or about to be.
        let done = consumed
            || most(case.group.answered)
            || most(case.group.count - case.group.unanswered.min(case.group.count));
        let old = case.group.oldest >= if done { super::SOME_AGE } else { super::SURE_AGE };
        // A program that has answered is not done with a socket if its threads wait before they close it.
        let may_wait = evidence.stacks.is_some_and(|stacks| stacks.may_wait_for_itself(case.group.count));
        let class = if old && (idle_threads || owes_nothing && !may_wait) { Class::Leak } else { Class::Unknown };
        Some(Judgement::new(class, Certainty::Low, move || {
            let (owner, port, age) = (text::owner(case), text::port(case), text::duration(case.group.oldest));
            let (count, last) = (text::count(case.group.count.max(1), "socket"), text::last_served(case));
            let (is, has) = (owner.is(), owner.has());
            let forgotten = format!("{has} probably forgotten these sockets");
            let slow = format!("{is} slow with these sockets, or {has} forgotten them");
            let what = match (class, old, idle_threads) {
                (Class::Leak, _, true) => format!("{forgotten}: no thread seems to work on most of them"),
                (Class::Leak, _, false) => format!(
                    "{forgotten}: {} {has} answered most of them, or {} asked nothing on them",
                    owner.it(),
                    owner.word("was", "were"),
                ),
                (_, true, _) => format!("{slow}; {} threads do not show which", owner.its()),
                (_, false, _) => slow,
            };
            let subject = if evidence.serves_others(case.now) == Some(true) {
                format!("{owner} {} other connections of port {port}{last} and", owner.word("serves", "serve"))
            } else {
                format!("other connections of port {port} are served{last}, and {owner}")
            };
            Explanation {
                text: format!("{subject} {what}: {count}, the oldest for {age}"),
                next: text::list(
                    case,
                    if class == Class::Leak {
                        "see which requests leave these sockets behind, and whether they exit"
                    } else {
                        "see whether they exit, or only become more"
                    },
                ),
            }
        }))
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::diagnose::{
        evidence::{Siblings, StackEvidence},
        testing::Scene,
    };

    #[test]
    fn one_sleeping_thread_for_each_socket_is_slow() {
        let mut scene = Scene::server().of(9).aged(20);
        scene.group.evidence.waits = Some(Waits { threads: 9, limited: 9, follows: Some(true), ..Waits::default() });
        assert_eq!(scene.check(&Working).unwrap().class, Class::Unknown);
        scene.group.evidence.siblings = Some(Siblings { last_served: Some(scene.now), waiting: 0 });
        let judgement = scene.check(&Working).unwrap();
        assert_eq!((judgement.class, judgement.certainty), (Class::Transient, Certainty::Medium));
    }

    #[test]
    fn connections_that_were_served_long_ago_are_not_said_to_be_served_now() {
        let mut scene = Scene::server().aged(600);
        for (ago, said) in [(30, "serves other connections of port 8080 and"), (300, "port 8080 (the last 5m ago) and")]
        {
            let last_served = Some(scene.now - Duration::from_secs(ago));
            scene.group.evidence.siblings = Some(Siblings { last_served, waiting: 0 });
            let text = scene.check(&ServesOthers).unwrap().text;
            assert!(text.contains(said), "{text}");
        }
    }

    #[test]
    fn threads_that_try_again_to_get_a_lock_do_not_work() {
        let rule = |age, at_lines| {
            let mut scene = Scene::server().of(9).aged(age);
            let evidence = &mut scene.group.evidence;
            evidence.waits = Some(Waits { threads: 9, limited: 9, follows: Some(true), ..Waits::default() });
            evidence.siblings = Some(Siblings { last_served: Some(scene.now), waiting: 0 });
            evidence.stacks =
                Some(StackEvidence { threads: 9, at_lines, inside: at_lines, ..StackEvidence::default() });
            scene.verdict().rule
        };
        assert_eq!((rule(59, 9), rule(60, 4)), ("working", "working"));
        assert_eq!(rule(60, 9), "partly_blocked");
    }

    #[test]
    fn a_program_that_serves_others_is_slow_or_forgetful() {
        let mut scene = Scene::server().of(9).aged(20);
        assert_eq!(scene.check(&ServesOthers), None);
        scene.group.evidence.siblings = Some(Siblings { last_served: Some(scene.now), waiting: 0 });
        assert_eq!(scene.check(&ServesOthers).unwrap().class, Class::Unknown);
        let threads = scene.group.evidence.waits;
        scene = scene.reading(ReadState::FinConsumed);
        scene.group.evidence.waits = Some(Waits { threads: 1, complete: true, accepting: 1, ..Waits::default() });
        assert_eq!(scene.check(&ServesOthers).unwrap().class, Class::Leak, "it has read the FIN");
        let idle_loop =
            Waits { threads: 1, complete: true, events: 1, limited: 1, idle_loop: Some(true), ..Waits::default() };
        scene.group.evidence.waits = Some(idle_loop);
        assert_eq!(scene.check(&ServesOthers).unwrap().class, Class::Unknown, "it may wait for something else");
        (scene.group.replied, scene.group.asked_nothing) = (3, 6);
        assert_eq!(scene.check(&ServesOthers).unwrap().class, Class::Leak, "on the others, it was asked nothing");
        (scene.group.answered, scene.group.replied, scene.group.asked_nothing) = (9, 0, 0);
        assert_eq!(scene.check(&ServesOthers).unwrap().class, Class::Leak, "it has answered them");
        (scene.group.evidence.waits, scene.group.answered) = (threads, 0);
        scene = scene.aged(70);
        assert_eq!(scene.check(&ServesOthers).unwrap().class, Class::Unknown);
        scene.group.evidence.waits = Some(Waits { threads: 1, complete: true, accepting: 1, ..Waits::default() });
        assert_eq!(scene.check(&ServesOthers).unwrap().class, Class::Leak);
    }

    #[test]
    fn stacks_show_a_forgetful_program_whose_threads_do_not() {
        let mut scene = Scene::server().of(9).aged(70).reading(ReadState::IdleFin);
        scene.group.evidence.siblings = Some(Siblings { last_served: Some(scene.now), waiting: 0 });
        scene.group.evidence.waits = Some(Waits { threads: 6, complete: true, multiplexes: true, ..Waits::default() });
        let mut class = |idle, complete| {
            let stacks = StackEvidence { threads: 20, idle, complete, ..StackEvidence::default() };
            scene.group.evidence.stacks = Some(stacks);
            scene.check(&ServesOthers).unwrap().class
        };
        assert_eq!(class(16, true), Class::Leak, "four goroutines work");
        assert_eq!(class(15, true), Class::Unknown, "five may work on most of them");
        assert_eq!(class(16, false), Class::Unknown, "some stacks are unknown");
        (scene.group.answered, scene.group.evidence.stacks) = (9, None);
        assert_eq!(scene.check(&ServesOthers).unwrap().class, Class::Leak, "it has answered them");
        let waits = StackEvidence { threads: 20, inside_once: 5, ..StackEvidence::default() };
        scene.group.evidence.stacks = Some(waits);
        assert_eq!(scene.check(&ServesOthers).unwrap().class, Class::Unknown, "five may be about to close them");
        scene.group.answered = 0;
        let tasks = StackEvidence { threads: 3, tasks: 2, ..StackEvidence::default() };
        scene.group.evidence.stacks = Some(tasks);
        assert_eq!(scene.check(&ServesOthers).unwrap().class, Class::Leak, "two tasks for nine sockets");
        scene.group.evidence.stacks = Some(StackEvidence { tasks: 5, ..tasks });
        assert_eq!(scene.check(&ServesOthers).unwrap().class, Class::Unknown);
    }
}
