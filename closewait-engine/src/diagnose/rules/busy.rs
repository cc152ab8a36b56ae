//! Servers with a busy thread.

use crate::diagnose::{
    About, Case, Explanation, Judgement, Rule,
    evidence::CounterEvidence,
    text::{self, Busy},
};
use crate::model::{Certainty, Class};

use super::sure_from;

/// Detects a busy thread: while the thread that serves a connection computes, it does not read the FIN.
pub(super) struct BusyThread;

impl Rule for BusyThread {
    fn about(&self) -> &'static About {
        &About {
            name: "busy_thread",
            when: "the socket is a server's; the FIN is unread on at least one socket of the group; a thread of the owner runs, \
                   or is ready to run, nearly all of the time, and gets at least 2 % of a CPU; the program does not serve other connections of the port",
            class: &[Class::Hung],
            certainty: &[
                (
                    Certainty::High,
                    "after 3 min or longer without progress, with 5 or more new connections, if one thread serves all connections",
                ),
                (Certainty::Medium, "after 60 s or longer without progress, with 2 or more new connections"),
                (Certainty::Low, "sooner, or with fewer new connections"),
            ],
            says: "the thread that should read the FIN is busy",
            next: "see where the busy thread is",
            not: &["a busy program that serves other connections: any progress on the port excludes this rule"],
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

    fn check<'c>(&self, case: &'c Case<'_>) -> Option<Judgement<'c>> {
        let evidence = &case.group.evidence;
        if !case.is_server() || evidence.eof_unread == 0 {
            return None;
        }
        let Busy { process, percent, event_loop } = text::busy(case)?;
        // Other threads may serve connections.
        if !event_loop && evidence.progresses(case.now) != Some(false) {
            return None;
        }
        let alone = if event_loop { ", and one thread serves all of its connections" } else { "" };
        let surest = if event_loop { Certainty::High } else { Certainty::Medium };
        Some(Judgement::new(Class::Hung, sure_from(case, surest), move || Explanation {
            text: format!(
                "a thread of {comm}[{pid}] uses {percent} % of a CPU{alone}; it has not read {unread} of {count} in the group, the \
                 oldest for {age}",
                comm = process.comm,
                pid = process.pid,
                unread = evidence.eof_unread,
                count = text::count(case.group.count.max(1), "socket"),
                age = text::duration(case.group.oldest),
            ),
            next: text::dump(case),
        }))
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
    fn a_busy_event_loop_is_hung_unless_it_serves_others() {
        let mut scene = busy(Some(ProgramRuntime::Node));
        assert_eq!(scene.check(&BusyThread).map(|judgement| judgement.class), Some(Class::Hung));
        assert_eq!(scene.verdict().certainty, Certainty::Medium, "other connections were not read");
        scene.group.evidence.siblings = Some(Siblings { last_served: Some(scene.now), waiting: 0 });
        assert_ne!(scene.verdict().class, Class::Hung);
    }

    #[test]
    fn a_busy_thread_among_several_needs_proof_that_no_connection_is_served() {
        let mut scene = busy(None);
        assert_eq!(scene.check(&BusyThread), None);
        scene.group.evidence.siblings = Some(Siblings::default());
        assert_eq!(scene.check(&BusyThread).unwrap().certainty, Certainty::Medium);
    }
}
