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
                   the latest of these exits was at most 10 s ago, or at most twice as long ago as the longest of them took",
            class: &[Class::Transient],
            certainty: &[(Certainty::Medium, "other sockets exited after as long; this one may not")],
            says: "slow, not hung: the client gave up before the answer came",
            next: "compare the duration of requests with the timeout of the clients",
            not: &[
                "a hung program: it ends no sockets",
                "an exit that the program did not cause, such as a timeout of the kernel: it does not count",
                "a crash or restart: exits by the end of a process with two or more such sockets do not count",
            ],
            seen: &["revel/revel#1194"],
        }
    }

    fn check<'c>(&self, case: &'c Case<'_>) -> Option<Judgement<'c>> {
        let exits = case.group.evidence.late_exits.filter(|exits| exits.is_current(case.now))?;
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
        evidence::LateExits,
        testing::{Scene, secs},
    };

    #[test]
    fn two_recent_late_exits_make_a_program_slow() {
        let mut scene = Scene::server();
        let exits = |count, ago| Some(LateExits { count, last: Some(scene.now - secs(ago)), longest: secs(8) });
        let (one, two, old) = (exits(1, 1), exits(2, 15), exits(2, 17));
        scene.group.evidence.late_exits = one;
        assert_eq!(scene.check(&Slow), None);
        scene.group.evidence.late_exits = two;
        assert_eq!(scene.check(&Slow).unwrap().class, Class::Transient);
        scene.group.evidence.late_exits = old;
        assert_eq!(scene.check(&Slow), None);
    }
}
