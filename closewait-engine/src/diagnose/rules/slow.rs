//! A program that is slow, and finishes.

use crate::diagnose::{About, Case, Judgement, Rule, text};
use crate::model::{Certainty, Class};

/// A client with a short timeout makes a socket that stays for as long as the handler takes.
pub(super) struct Slow;

impl Rule for Slow {
    fn about(&self) -> &'static About {
        &About {
            name: "slow",
            when: "the program ended 2 or more sockets of the port or the remote endpoint that had stayed for 3 s or longer, the \
                   last one no longer ago than 10 s or the longest of them took",
            class: &[Class::Transient],
            certainty: &[(Certainty::Medium, "sockets that took as long did exit; this one may not")],
            says: "slow, not stuck: the client gave up before the answer came",
            next: "compare how long requests take with the timeout of the clients",
            not: &[
                "a hung program: it ends none",
                "an exit that the program did not cause, as by a timeout of the kernel, does not count",
            ],
            seen: &["revel/revel#1194"],
        }
    }

    fn check(&self, case: &Case<'_>) -> Option<Judgement> {
        let exits = case.group.evidence.late_exits.filter(|exits| exits.is_current(case.now))?;
        let owner = text::owner(case);
        let port = if case.is_client() {
            format!("to {}", case.socket.remote)
        } else {
            format!("of port {}", text::port(case))
        };
        Some(Judgement {
            class: Class::Transient,
            certainty: Certainty::Medium,
            text: format!(
                "{owner} is slow, not stuck: it ended {count} other sockets {port} after up to {longest}, the last one \
                 {last} ago",
                count = exits.count,
                longest = text::duration(exits.longest),
                last = text::duration(case.now.since(exits.last?)),
            ),
            next: format!("see which requests {port} take so long: their clients give up sooner"),
        })
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
    fn a_program_that_finished_two_of_late_is_slow_and_one_that_has_stopped_to_is_not() {
        let mut scene = Scene::server();
        let exits = |count, ago| Some(LateExits { count, last: Some(scene.now - secs(ago)), longest: secs(8) });
        let (one, two, old) = (exits(1, 1), exits(2, 9), exits(2, 11));
        scene.group.evidence.late_exits = one;
        assert_eq!(scene.ask(&Slow), None);
        scene.group.evidence.late_exits = two;
        assert_eq!(scene.ask(&Slow).unwrap().class, Class::Transient);
        scene.group.evidence.late_exits = old;
        assert_eq!(scene.ask(&Slow), None);
    }
}
