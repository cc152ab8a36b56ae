//! A server that takes its time, and gets there.

use crate::diagnose::{
    About, Judgement, Rule,
    pace::{self, Pace},
    text,
};
use crate::{
    diagnose::Case,
    model::{Certainty, Class},
};

/// A client with a short time-out makes a socket that stays for just as long as the handler takes.
pub(super) struct Slow;

impl Rule for Slow {
    fn about(&self) -> &'static About {
        &About {
            name: "slow",
            when: "a server closed others of the port since it entered, and needed at least half as long for one of them",
            class: &[Class::Transient],
            certainty: &[(Certainty::Medium, "what took as long before ended; whether this one will is to be seen")],
            says: "a slow handler: the client gave up before the answer came",
            next: "compare how long requests take with the time-out of the clients",
            not: &["a hang: the program closes others", "a leak: it stays longer than twice the longest that ended"],
            seen: &["revel/revel#1194"],
        }
    }

    fn check(&self, case: &Case<'_>) -> Option<Judgement> {
        let Pace::Slow { longest } = pace::of(case) else { return None };
        if !case.is_server() {
            return None;
        }
        let closed = case.group.flow.as_ref()?.closed;
        Some(Judgement {
            class: Class::Transient,
            certainty: Certainty::Medium,
            text: format!(
                "it stays for {age}, and others of port {port} stayed for up to {longest} until {owner} closed them ({} \
                 closed, some since this one entered): slow, not stuck",
                closed,
                age = text::age(case),
                port = text::port(case),
                longest = text::duration(longest),
                owner = text::owner(case),
            ),
            next: format!("see which requests on port {} take so long; their clients give up sooner", text::port(case)),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        diagnose::testing::{Scene, secs},
        model::ReadState,
    };

    #[test]
    fn a_slow_handler_is_not_hung() {
        for state in [ReadState::NeverRead, ReadState::IdleFin, ReadState::FinConsumed] {
            let scene = Scene::server().aged(240).reading(state).replied(false).closed_before(20, secs(280));
            let verdict = scene.verdict();
            assert_eq!((verdict.rule, verdict.class), ("slow", Class::Transient));
            assert!(verdict.text.contains("4m") && verdict.text.contains("4m40s"), "{}", verdict.text);
        }
    }

    #[test]
    fn it_says_nothing_of_what_stays_far_longer_or_where_nothing_is_closed() {
        assert_eq!(Scene::server().aged(600).closed_before(20, secs(280)).ask(&Slow), None);
        assert_eq!(Scene::server().aged(240).closed_before(300, secs(280)).ask(&Slow), None);
        assert_eq!(Scene::server().ask(&Slow), None);
        assert_eq!(Scene::client().aged(240).closed_before(20, secs(280)).ask(&Slow), None);
    }
}
