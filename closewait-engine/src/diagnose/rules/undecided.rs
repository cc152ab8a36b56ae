//! Cases that the evidence does not decide.

use std::time::Duration;

use crate::diagnose::{About, Case, Explanation, Judgement, Rule, evidence::OwnLoops, text};
use crate::model::{Certainty, Class, Dwell};

/// Covers groups whose sockets have just entered CLOSE_WAIT.
pub(super) struct Fresh;

/// Covers young groups to which no other rule applies.
pub(super) struct TooEarly;

/// Covers servers that got no request after the onset.
pub(super) struct NoDemand;

/// Minimum age of a group that is judged. Every connection whose peer closes first passes through CLOSE_WAIT.
pub(super) const FRESH: Duration = Duration::from_secs(3);

impl Rule for Fresh {
    fn about(&self) -> &'static About {
        &About {
            name: "fresh",
            when: "the oldest socket of the group entered less than 3 s ago, as far as is known",
            class: &[Class::Transient, Class::Unknown],
            certainty: &[
                (
                    Certainty::High,
                    "transient: the agent saw the entry, the program closes other sockets, and none of them is stuck",
                ),
                (Certainty::Medium, "transient: the agent saw the entry"),
                (
                    Certainty::Low,
                    "the agent did not see the entry: transient if the socket's last data came less than 3 s ago, otherwise \
                     unknown, because the socket may be much older",
                ),
            ],
            says: "the peer has just closed, and the program is about to",
            next: "nothing",
            not: &["the first sockets of a hang: they are as young, and are judged again later"],
            seen: &[],
        }
    }

    fn check<'c>(&self, case: &'c Case<'_>) -> Option<Judgement<'c>> {
        if case.group.oldest.max(case.age()) >= FRESH {
            return None;
        }
        let flow = case.group.flow.as_ref();
        let keeps_up = flow.filter(|flow| flow.closed > 0 && flow.old_present == 0);
        let (certainty, others) = match (case.dwell, keeps_up) {
            (Dwell::Between { at_most, .. }, _) if at_most.is_none_or(|at_most| at_most >= FRESH) => {
                return Some(age_unknown(case));
            }
            (Dwell::Between { .. }, _) => (Certainty::Low, String::new()),
            (Dwell::Exact(_), Some(flow)) => {
                (Certainty::High, format!("; the program closed {} others, and none is stuck", flow.closed))
            }
            (Dwell::Exact(_), None) => (Certainty::Medium, String::new()),
        };
        Some(Judgement::new(Class::Transient, certainty, move || Explanation {
            text: format!("the peer closed {} ago, too recently to judge{others}", text::age(case)),
            next: format!("nothing, unless it is still in CLOSE_WAIT after {}", text::duration(case.stuck_after))
                .into(),
        }))
    }
}

/// Judges a socket whose entry the agent did not see, and that may be much older than it is known to be. It gets no cause, because all
/// other rules suppose the minimum age.
fn age_unknown<'c>(case: &'c Case<'_>) -> Judgement<'c> {
    let at_most = match case.dwell {
        Dwell::Between { at_most: Some(at_most), .. } => format!(" and at most {} ago", text::duration(at_most)),
        Dwell::Between { at_most: None, .. } | Dwell::Exact(_) => String::new(),
    };
    Judgement::new(Class::Unknown, Certainty::Low, move || Explanation {
        text: format!("it is unknown when the peer closed: {} ago{at_most}", text::age(case)),
        // Without a running agent, it stays unknown.
        next: text::dump(case),
    })
}

impl Rule for TooEarly {
    fn about(&self) -> &'static About {
        &About {
            name: "too_early",
            when: "the oldest socket of the group entered less than 60 s ago; no rule above applies",
            class: &[Class::Unknown],
            certainty: &[(Certainty::Low, "too early to tell")],
            says: "too early to tell",
            next: "check again",
            not: &["causes that are certain sooner: the rules above need no minimum age"],
            seen: &[],
        }
    }

    fn check<'c>(&self, case: &'c Case<'_>) -> Option<Judgement<'c>> {
        if case.group.oldest.max(case.age()) >= super::SURE_AGE {
            return None;
        }
        Some(Judgement::new(Class::Unknown, Certainty::Low, move || {
            let owner = text::owner(case);
            Explanation {
                text: format!(
                    "too early to tell: the oldest of {count} in its group entered {age} ago, and {owner} {has} not closed it",
                    count = text::count(case.group.count.max(1), "socket"),
                    age = text::duration(case.group.oldest.max(case.age())),
                    has = owner.has(),
                ),
                next: text::list(case, "check again"),
            }
        }))
    }
}

impl Rule for NoDemand {
    fn about(&self) -> &'static About {
        &About {
            name: "no_demand",
            when: "the socket is a server's; the program has answered on each socket of the port that has entered since the onset, if \
                   there is one, and no connection waits for an answer; no rule above applies",
            class: &[Class::Unknown, Class::Hung],
            certainty: &[(
                Certainty::Low,
                "hung if at least as many threads as sockets wait without a timeout, and stacks do not show that they may be idle \
                 workers, otherwise unknown: a program that hangs and one \
                 that has forgotten these sockets look the same until a request waits",
            )],
            says: "no request waits for the program",
            next: "send a request and see whether the program answers; if it has answered, see what its threads do",
            not: &["a program that does not answer new connections: see `blocked`"],
            seen: &[],
        }
    }

    fn check<'c>(&self, case: &'c Case<'_>) -> Option<Judgement<'c>> {
        let evidence = &case.group.evidence;
        if !case.is_server() || evidence.demand > 0 || evidence.late_exits.is_none() {
            return None;
        }
        // The threads that a runtime has for itself, and those that wait for work, prove nothing.
        let blocked = evidence.waits.filter(|waits| waits.show_connections() && waits.idle_loop != Some(true));
        let count = case.group.count;
        let are_workers = matches!(super::own_loops(case), Some(OwnLoops::Workers | OwnLoops::Undecided));
        let hangs = blocked.is_some_and(|waits| count >= 2 && waits.blocked_of_program() >= count) && !are_workers;
        Some(Judgement::new(if hangs { Class::Hung } else { Class::Unknown }, Certainty::Low, move || {
            let (owner, port) = (text::owner(case), text::port(case));
            if evidence.answered > 0 {
                return Explanation { text: answered(case, hangs), next: text::dump(case) };
            }
            Explanation {
                text: format!(
                    "no other socket has entered on port {port} since the onset, {age} ago, so it is unknown whether {owner} still \
                     {answers} requests{looks}.{doing}",
                    answers = owner.word("answers", "answer"),
                    looks = match hangs {
                        true => format!("; it looks hung, because {} threads wait without a timeout", owner.its()),
                        false => String::new(),
                    },
                    age = text::duration(case.group.oldest),
                    doing = text::doing(case),
                ),
                next: format!(
                    "send a request to port {port} and see whether {owner} {}",
                    owner.word("answers", "answer")
                )
                .into(),
            }
        }))
    }
}

/// Returns the text about a program that has answered all requests and closed none of their connections.
fn answered(case: &Case<'_>, hangs: bool) -> String {
    let (owner, port, number) = (text::owner(case), text::port(case), case.group.evidence.answered);
    let (have, which, them) = if number == 1 { ("has", "which", "it") } else { ("have", "all of which", "them") };
    let looks = if hangs { format!("; {} threads wait without a timeout", owner.its()) } else { String::new() };
    format!(
        "{sockets} {have} entered on port {port} since the onset, {age} ago, {which} got an answer, so it is unknown why {owner} {owns} \
         not closed {them}{looks}.{doing}",
        sockets = text::count(number, "socket"),
        age = text::duration(case.group.oldest),
        owns = owner.has(),
        doing = text::doing(case),
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::diagnose::{
        evidence::LateExits,
        testing::{Scene, secs},
    };

    #[test]
    fn a_fresh_socket_is_surely_transient_if_the_program_closes_others() {
        let scene = Scene::server().aged(2);
        assert_eq!(scene.check(&Fresh).unwrap().certainty, Certainty::Medium);
        assert_eq!(scene.clone().closed_before(1, secs(1)).check(&Fresh).unwrap().certainty, Certainty::High);
        let mut seen_late = scene.clone();
        seen_late.dwell = Dwell::Between { at_least: secs(1), at_most: Some(secs(2)) };
        let judged = seen_late.check(&Fresh).unwrap();
        assert_eq!((judged.class, judged.certainty), (Class::Transient, Certainty::Low));
        assert_eq!(scene.aged(3).check(&Fresh), None);
    }

    #[test]
    fn a_socket_that_may_be_old_is_not_called_transient() {
        let mut scene = Scene::server().aged(2);
        for at_most in [None, Some(secs(3)), Some(secs(86_400))] {
            scene.dwell = Dwell::Between { at_least: secs(2), at_most };
            let judged = scene.check(&Fresh).unwrap();
            assert_eq!((judged.class, judged.certainty), (Class::Unknown, Certainty::Low), "{at_most:?}");
        }
    }

    #[test]
    fn the_first_minute_is_too_early_and_a_port_without_demand_is_undecided() {
        assert_eq!(Scene::server().aged(59).check(&TooEarly).unwrap().class, Class::Unknown);
        assert_eq!(Scene::server().aged(60).check(&TooEarly), None);
        let mut scene = Scene::server();
        assert_eq!(scene.check(&NoDemand), None, "the agent has not watched");
        scene.group.evidence.late_exits = Some(LateExits::default());
        let judged = scene.check(&NoDemand).unwrap();
        assert_eq!(judged.class, Class::Unknown);
        assert!(judged.text.starts_with("no other socket has entered on port"), "{}", judged.text);
        for (answered, sockets) in [(1, "1 socket has entered"), (34, "34 sockets have entered")] {
            scene.group.evidence.answered = answered;
            let text = scene.check(&NoDemand).unwrap().text;
            assert!(text.starts_with(sockets) && text.contains("it is unknown why app[42] has not closed"), "{text}");
        }
        scene.group.evidence.demand = 1;
        assert_eq!(scene.check(&NoDemand), None);
    }
}
