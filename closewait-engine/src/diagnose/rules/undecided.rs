//! What is said where nothing decides.

use std::time::Duration;

use crate::diagnose::{About, Case, Judgement, Rule, text};
use crate::model::{Certainty, Class, Dwell};

/// A socket that has just entered.
pub(super) struct Fresh;

/// A group of which too little is known, or too early.
pub(super) struct TooEarly;

/// A server of which nobody has wanted anything since.
pub(super) struct NoDemand;

/// Age below which nothing is said of a group: every connection passes CLOSE_WAIT whose peer closes first.
const FRESH: Duration = Duration::from_secs(3);

impl Rule for Fresh {
    fn about(&self) -> &'static About {
        &About {
            name: "fresh",
            when: "the oldest socket of its group entered less than 3 s ago",
            class: &[Class::Transient],
            certainty: &[
                (Certainty::High, "its entry was seen, the program closes others, and none of them stayed"),
                (Certainty::Medium, "its entry was seen"),
                (Certainty::Low, "its entry was not seen: it may be older"),
            ],
            says: "the peer has just closed, and the program will",
            next: "nothing",
            not: &["the first sockets of a hang are as young: they are judged again"],
            seen: &[],
        }
    }

    fn check(&self, case: &Case<'_>) -> Option<Judgement> {
        if case.group.oldest.max(case.age()) >= FRESH {
            return None;
        }
        let flow = case.group.flow.as_ref();
        let keeps_up = flow.filter(|flow| flow.closed > 0 && flow.old_present == 0);
        let (certainty, others) = match (case.dwell, keeps_up) {
            (Dwell::Between { .. }, _) => (Certainty::Low, String::new()),
            (Dwell::Exact(_), Some(flow)) => {
                (Certainty::High, format!("; {} like it were closed, none stayed", flow.closed))
            }
            (Dwell::Exact(_), None) => (Certainty::Medium, String::new()),
        };
        Some(Judgement {
            class: Class::Transient,
            certainty,
            text: format!("the peer closed {} ago, which is not long{others}", text::age(case)),
            next: format!("nothing, unless it is still there after {}", text::duration(case.stuck_after)),
        })
    }
}

impl Rule for TooEarly {
    fn about(&self) -> &'static About {
        &About {
            name: "too_early",
            when: "the oldest socket of its group entered less than 60 s ago, and no rule above applies",
            class: &[Class::Unknown],
            certainty: &[(Certainty::Low, "too early to tell")],
            says: "too early to tell",
            next: "check again",
            not: &["what is certain sooner: the rules above need no minimum age"],
            seen: &[],
        }
    }

    fn check(&self, case: &Case<'_>) -> Option<Judgement> {
        if case.group.oldest.max(case.age()) >= super::SURE_AGE {
            return None;
        }
        Some(Judgement {
            class: Class::Unknown,
            certainty: Certainty::Low,
            text: format!(
                "too early to tell: the oldest of {count} in its group entered {age} ago, and {owner} has not closed it",
                count = text::count(case.group.count.max(1), "socket"),
                age = text::duration(case.group.oldest.max(case.age())),
                owner = text::owner(case),
            ),
            next: format!("check again: `closewait list --port {}`", text::port(case)),
        })
    }
}

impl Rule for NoDemand {
    fn about(&self) -> &'static About {
        &About {
            name: "no_demand",
            when: "of a server, nothing entered since the oldest of the group, no connection waits for an answer, and no rule above \
                   applies",
            class: &[Class::Unknown],
            certainty: &[(
                Certainty::Low,
                "a program that hangs and one that forgot these sockets look alike until it is asked again",
            )],
            says: "no client has asked the program for anything since",
            next: "send a request and see whether it is answered",
            not: &["a program that does not answer new connections: `blocked`"],
            seen: &[],
        }
    }

    fn check(&self, case: &Case<'_>) -> Option<Judgement> {
        let evidence = &case.group.evidence;
        if !case.is_server() || evidence.demand > 0 || evidence.late_exits.is_none() {
            return None;
        }
        let (owner, port) = (text::owner(case), text::port(case));
        Some(Judgement {
            class: Class::Unknown,
            certainty: Certainty::Low,
            text: format!(
                "nothing has entered on port {port} since {age} ago, so whether {owner} still serves is unknown.{doing}",
                age = text::duration(case.group.oldest),
                doing = text::doing(case),
            ),
            next: format!("send a request to port {port} and see whether it is answered"),
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
    fn what_has_just_entered_is_transient_surely_if_the_program_keeps_up() {
        let scene = Scene::server().aged(2);
        assert_eq!(scene.ask(&Fresh).unwrap().certainty, Certainty::Medium);
        assert_eq!(scene.clone().closed_before(1, secs(1)).ask(&Fresh).unwrap().certainty, Certainty::High);
        assert_eq!(scene.clone().bounded().ask(&Fresh).unwrap().certainty, Certainty::Low);
        assert_eq!(scene.aged(3).ask(&Fresh), None);
    }

    #[test]
    fn the_first_minute_is_too_early_and_a_port_that_nobody_uses_tells_nothing() {
        assert_eq!(Scene::server().aged(59).ask(&TooEarly).unwrap().class, Class::Unknown);
        assert_eq!(Scene::server().aged(60).ask(&TooEarly), None);
        let mut scene = Scene::server();
        assert_eq!(scene.ask(&NoDemand), None, "it was not watched");
        scene.group.evidence.late_exits = Some(LateExits::default());
        assert_eq!(scene.ask(&NoDemand).unwrap().class, Class::Unknown);
        scene.group.evidence.demand = 1;
        assert_eq!(scene.ask(&NoDemand), None);
    }
}
