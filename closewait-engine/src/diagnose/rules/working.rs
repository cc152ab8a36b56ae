//! Servers of which it is not known whether they will finish.

use crate::diagnose::{About, Case, Judgement, Rule, evidence::CounterEvidence, text};
use crate::model::{Certainty, Class};

/// Each socket has a thread that waits with a timeout: it will be done.
pub(super) struct Working;

/// The program serves others, and what it does with these is not known.
pub(super) struct ServesOthers;

/// Number of threads from which on it is no coincidence that there is one for each socket.
const MANY: u32 = 8;

impl Rule for Working {
    fn about(&self) -> &'static About {
        &About {
            name: "working",
            when: "of a server, the threads that wait with a timeout have become more with the sockets, one for each",
            class: &[Class::Transient, Class::Unknown],
            certainty: &[
                (Certainty::Medium, "transient: the program serves others, and 8 or more threads do so"),
                (Certainty::Low, "transient: fewer threads; unknown: nothing shows that the program serves others"),
            ],
            says: "each socket has a thread that sleeps or polls: slow, not stuck",
            next: "compare how long requests take with the timeout of the clients",
            not: &["idle threads of a pool: they do not become more with the sockets"],
            seen: &[],
        }
    }

    fn check(&self, case: &Case<'_>) -> Option<Judgement> {
        let evidence = &case.group.evidence;
        let waits = evidence.waits.filter(|waits| waits.follows == Some(true))?;
        if !case.is_server() {
            return None;
        }
        let serves = evidence.progresses(case.now) == Some(true);
        let (class, certainty) = match (serves, waits.limited >= MANY) {
            (true, true) => (Class::Transient, Certainty::Medium),
            (true, false) => (Class::Transient, Certainty::Low),
            (false, _) => (Class::Unknown, Certainty::Low),
        };
        let owner = text::owner(case);
        Some(Judgement {
            class,
            certainty,
            text: format!(
                "{limited} with a timeout, one more for each socket that came: each seems to work on one{others}",
                limited = match waits.limited {
                    1 => format!("1 thread of {owner} waits"),
                    many => format!("{many} threads of {owner} wait"),
                },
                others = if serves { ", and others are served" } else { "" },
            ),
            next: format!("see which requests of port {} take so long: their clients give up sooner", text::port(case)),
        })
    }
}

impl Rule for ServesOthers {
    fn about(&self) -> &'static About {
        &About {
            name: "serves_others",
            when: "a server serves other connections of the port, and no rule above tells what it does with these",
            class: &[Class::Unknown, Class::Leak],
            certainty: &[(
                Certainty::Low,
                "unknown; from 60 s on a leak if fewer threads than half of the sockets do anything",
            )],
            says: "the program works: slow with these, or it has forgotten them",
            next: "see whether they go away",
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

    fn check(&self, case: &Case<'_>) -> Option<Judgement> {
        let evidence = &case.group.evidence;
        if !case.is_server() || evidence.progresses(case.now) != Some(true) {
            return None;
        }
        let (owner, port, age) = (text::owner(case), text::port(case), text::duration(case.group.oldest));
        let count = text::count(case.group.count.max(1), "socket");
        let idle = evidence.waits.is_some_and(|waits| {
            waits.complete && !waits.multiplexes && waits.idle_loop.is_none() && waits.working() * 2 < case.group.count
        });
        let old = case.group.oldest >= super::SURE_AGE;
        let (class, what) = match (old, idle) {
            (false, _) => (Class::Unknown, "slow with these, or it has forgotten them"),
            (true, true) => {
                (Class::Leak, "likely to have forgotten these: most have no thread that could work on them")
            }
            (true, false) => (Class::Unknown, "slow with these, or it has forgotten them; its threads do not tell"),
        };
        Some(Judgement {
            class,
            certainty: Certainty::Low,
            text: format!(
                "{serves}; {owner} is {what}: {count}, the oldest for {age}",
                serves = if evidence.serves_others() == Some(true) {
                    format!("it serves other connections of port {port}")
                } else {
                    format!("other connections of port {port} are served")
                },
            ),
            next: format!("see whether they go away: `closewait list --port {port}`; if not, {}", text::dump(case)),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::diagnose::{
        evidence::{Siblings, Waits},
        testing::Scene,
    };

    #[test]
    fn threads_that_sleep_one_for_each_socket_are_slow() {
        let mut scene = Scene::server().of(9).aged(20);
        scene.group.evidence.waits = Some(Waits { threads: 9, limited: 9, follows: Some(true), ..Waits::default() });
        assert_eq!(scene.ask(&Working).unwrap().class, Class::Unknown);
        scene.group.evidence.siblings = Some(Siblings { served: 1, waiting: 0 });
        let said = scene.ask(&Working).unwrap();
        assert_eq!((said.class, said.certainty), (Class::Transient, Certainty::Medium));
    }

    #[test]
    fn what_a_program_does_with_some_while_it_serves_others_is_unknown() {
        let mut scene = Scene::server().of(9).aged(20);
        assert_eq!(scene.ask(&ServesOthers), None);
        scene.group.evidence.siblings = Some(Siblings { served: 1, waiting: 0 });
        assert_eq!(scene.ask(&ServesOthers).unwrap().class, Class::Unknown);
        scene = scene.aged(70);
        assert_eq!(scene.ask(&ServesOthers).unwrap().class, Class::Unknown);
        scene.group.evidence.waits = Some(Waits { threads: 1, complete: true, accepting: 1, ..Waits::default() });
        assert_eq!(scene.ask(&ServesOthers).unwrap().class, Class::Leak);
    }
}
