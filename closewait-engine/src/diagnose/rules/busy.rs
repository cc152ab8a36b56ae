//! A thread that computes, while sockets wait for it.

use crate::diagnose::{
    About, Case, Judgement, Rule,
    evidence::CounterEvidence,
    text::{self, Busy},
};
use crate::model::{Certainty, Class};

use super::sure_from;

/// While the thread that serves a connection computes, nothing is read from it.
pub(super) struct BusyThread;

impl Rule for BusyThread {
    fn about(&self) -> &'static About {
        &About {
            name: "busy_thread",
            when: "of a server, the FIN is unread, a thread of its owner wants a CPU all the time, and the program does not serve \
                   other connections of the port",
            class: &[Class::Hung],
            certainty: &[
                (
                    Certainty::High,
                    "one thread serves all connections, for 60 s or longer, with 5 or more new connections",
                ),
                (Certainty::Medium, "the same for less long, or a program with several threads"),
                (Certainty::Low, "for less than 15 s, or with fewer than 2 new connections"),
            ],
            says: "the thread that would read the FIN is busy",
            next: "see where the busy thread is",
            not: &["a busy program that serves others: any progress of the port excludes this rule"],
            seen: &["netty/netty#10220", "nodejs/node#11307", "istio/istio#31229"],
        }
    }

    fn counter_evidence(&self) -> &'static [CounterEvidence] {
        &[
            CounterEvidence::LateExits,
            CounterEvidence::OtherConnections,
            CounterEvidence::Closes,
            CounterEvidence::PeersWait,
        ]
    }

    fn check(&self, case: &Case<'_>) -> Option<Judgement> {
        let evidence = &case.group.evidence;
        if !case.is_server() || evidence.eof_unread == 0 {
            return None;
        }
        let Busy { who, percent, event_loop } = text::busy(case)?;
        // What other threads do is not known.
        if !event_loop && evidence.progresses(case.now) != Some(false) {
            return None;
        }
        let alone = if event_loop { ", and one thread serves all of its connections" } else { "" };
        let surest = if event_loop { Certainty::High } else { Certainty::Medium };
        Some(Judgement {
            class: Class::Hung,
            certainty: sure_from(case, surest),
            text: format!(
                "a thread of {who} uses {percent} % of a CPU{alone}; {unread} of {count} in its group wait to be read, the \
                 oldest for {age}",
                unread = evidence.eof_unread,
                count = text::count(case.group.count.max(1), "socket"),
                age = text::duration(case.group.oldest),
            ),
            next: text::dump(case),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        diagnose::{
            evidence::Siblings,
            testing::{Scene, process, running},
        },
        process::{ProgramRuntime, group},
    };

    fn busy(runtime: Option<ProgramRuntime>) -> Scene {
        let mut scene = Scene::server().of(6).aged(90);
        let group = group(&[running(990)]);
        let one = process(42, "app", "/usr/bin/app");
        scene.processes =
            vec![crate::process::Process { runtime, threads: Some(1), threads_seen: 1, groups: group, ..one }];
        (scene.group.evidence.eof_unread, scene.group.evidence.demand) = (6, 9);
        scene
    }

    #[test]
    fn an_event_loop_that_computes_is_hung_unless_others_are_served() {
        let mut scene = busy(Some(ProgramRuntime::Node));
        assert_eq!(scene.ask(&BusyThread).map(|said| said.class), Some(Class::Hung));
        assert_eq!(scene.verdict().certainty, Certainty::Medium, "what else it serves was not read");
        scene.group.evidence.siblings = Some(Siblings { served: 1, waiting: 0 });
        assert_ne!(scene.verdict().class, Class::Hung);
    }

    #[test]
    fn a_thread_of_a_program_with_several_says_nothing_until_it_is_read_that_none_is_served() {
        let mut scene = busy(None);
        assert_eq!(scene.ask(&BusyThread), None);
        scene.group.evidence.siblings = Some(Siblings::default());
        assert_eq!(scene.ask(&BusyThread).unwrap().certainty, Certainty::Medium);
    }
}
