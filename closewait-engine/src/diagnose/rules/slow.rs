//! Programs that are slow but finish.

use crate::diagnose::{About, Case, Explanation, Judgement, Rule, text};
use crate::model::{Certainty, Class};

/// Detects a slow program: if a client has a short timeout, the socket remains in CLOSE_WAIT until the handler finishes.
pub(super) struct Slow;

impl Rule for Slow {
    fn about(&self) -> &'static About {
        &About {
            name: "slow",
            when: "the program has ended 2 or more sockets of the port or remote endpoint after 3 s or longer in CLOSE_WAIT; \
                   the latest of these exits was at most 10 s ago, or at most twice as long ago as the longest of them took; the median \
                   age of the group is at most four times as long as the longest that the program kept a socket before it closed it, or \
                   at most 60 s",
            class: &[Class::Transient],
            certainty: &[(Certainty::Medium, "other sockets exited after as long; this one may not")],
            says: "slow, not hung: the client gave up before the answer came",
            next: "compare the duration of requests with the timeout of the clients",
            not: &[
                "a hung program: it ends no sockets",
                "a leak beside slow requests: its sockets are many times older than those that the program ends",
                "an exit that the program did not cause, such as a timeout of the kernel: it does not count",
                "a crash or restart: exits by the end of a process with two or more such sockets do not count",
            ],
            seen: &["revel/revel#1194"],
        }
    }

    fn check<'c>(&self, case: &'c Case<'_>) -> Option<Judgement<'c>> {
        let exits = case.group.evidence.late_exits.filter(|_| case.finishes_late() == Some(true))?;
        let last = exits.last?;
        Some(Judgement::new(Class::Transient, Certainty::Medium, move || {
            let owner = text::owner(case);
            let port = if case.is_client() {
                format!("to {}", case.socket.remote)
            } else {
                format!("on port {}", text::port(case))
            };
            Explanation {
                text: format!(
                    "{owner} {is} slow, not hung: {it} ended {count} other sockets {port} after up to {longest}, the last one \
                 {last} ago",
                    is = owner.is(),
                    it = owner.it(),
                    count = exits.number(),
                    longest = text::duration(exits.longest),
                    last = text::duration(case.now.since(last)),
                ),
                next: format!("see which requests {port} take longer than their clients wait").into(),
            }
        }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::diagnose::{
        Flow,
        evidence::{CounterEvidence, EvidenceReading, LateExits},
        testing::{Scene, secs},
    };

    #[test]
    fn two_recent_late_exits_make_a_program_slow() {
        let mut scene = Scene::server().aged(30);
        let exits = |count, ago| Some(LateExits { count, last: Some(scene.now - secs(ago)), longest: secs(8) });
        let (one, two, old) = (exits(1, 1), exits(2, 15), exits(2, 17));
        scene.group.evidence.late_exits = one;
        assert_eq!(scene.check(&Slow), None);
        scene.group.evidence.late_exits = two;
        assert_eq!(scene.check(&Slow).unwrap().class, Class::Transient);
        scene.group.evidence.late_exits = old;
        assert_eq!(scene.check(&Slow), None);
    }

    #[test]
    fn sockets_many_times_older_than_those_that_it_ends_are_others() {
        let aged = |age, longest_closed| {
            let mut scene = Scene::server().of(8).aged(age);
            scene.group.evidence.late_exits =
                Some(LateExits { count: 8, last: Some(scene.now - secs(1)), longest: secs(5) });
            scene.group.flow = Some(Flow { longest_closed: Some(secs(longest_closed)), ..Flow::default() });
            (scene.check(&Slow).is_some(), scene.case(|case| CounterEvidence::LateExits.read(case)))
        };
        assert_eq!(aged(60, 5), (true, EvidenceReading::Present));
        assert_eq!(aged(61, 5), (false, EvidenceReading::NotRead));
        assert_eq!(aged(61, 20), (true, EvidenceReading::Present), "it closed one after as long");
    }
}
