//! A socket that is young, in a group in which none is stuck.

use crate::diagnose::{About, Judgement, Rule, text};
use crate::{
    diagnose::Case,
    model::{Certainty, Class, Dwell},
};

/// CLOSE_WAIT is a state that every connection passes whose peer closes first.
pub(super) struct Transient;

impl Rule for Transient {
    fn about(&self) -> &'static About {
        &About {
            name: "transient",
            when: "it is younger than `--stuck-after`, and so are all of its group",
            class: &[Class::Transient],
            certainty: &[
                (Certainty::High, "its entry was seen, the program closes others, and none of them stayed"),
                (Certainty::Medium, "nothing was seen of others"),
                (Certainty::Low, "its entry was not seen, so that it may be older than is certain"),
            ],
            says: "the peer has just closed, and the program will",
            next: "nothing",
            not: &["the first sockets of a hang are as young: they are judged again when they are stuck"],
            seen: &[],
        }
    }

    fn check(&self, case: &Case<'_>) -> Option<Judgement> {
        if case.is_old() || case.group.stuck > 0 {
            return None;
        }
        let age = text::age(case);
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
            text: format!("the peer closed {age} ago, which is not long{others}"),
            next: format!("nothing, unless it is still there after {}", text::duration(case.stuck_after)),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::diagnose::testing::{Scene, secs};

    #[test]
    fn a_young_socket_is_no_finding() {
        let said = Scene::server().aged(5).ask(&Transient).unwrap();
        assert_eq!((said.class, said.certainty), (Class::Transient, Certainty::Medium));
        let said = Scene::server().aged(5).closed_before(1, secs(2)).ask(&Transient).unwrap();
        assert_eq!(said.certainty, Certainty::High);
        assert!(said.text.contains("5s ago") && said.text.contains("340 like it"), "{}", said.text);
    }

    #[test]
    fn one_that_may_be_older_is_not_called_young_with_certainty() {
        let said = Scene::server().aged(5).closed_before(1, secs(2)).bounded().ask(&Transient).unwrap();
        assert_eq!(said.certainty, Certainty::Low);
    }

    #[test]
    fn it_says_nothing_of_an_old_one_or_where_others_are_stuck() {
        assert_eq!(Scene::server().aged(60).ask(&Transient), None);
        let mut scene = Scene::server().aged(5);
        scene.group.stuck = 1;
        assert_eq!(scene.ask(&Transient), None);
    }
}
