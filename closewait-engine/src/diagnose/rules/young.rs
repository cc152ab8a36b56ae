//! A socket that is young, in a group in which others are stuck.

use crate::diagnose::{About, Judgement, Rule, text};
use crate::{
    diagnose::Case,
    model::{Certainty, Class, Dwell},
};

/// Others may be stuck for a reason that is not this one's.
pub(super) struct Young;

impl Rule for Young {
    fn about(&self) -> &'static About {
        &About {
            name: "young",
            when: "it is younger than `--stuck-after`, while others of its group are not",
            class: &[Class::Transient],
            certainty: &[
                (Certainty::Medium, "its entry was seen"),
                (Certainty::Low, "its entry was not seen, so that it may be older than is certain"),
            ],
            says: "it is too young to tell; the cause is to be seen at the oldest of its group",
            next: "inspect the oldest of the group",
            not: &["a leak beside healthy traffic: the healthy ones pass through here"],
            seen: &[],
        }
    }

    fn check(&self, case: &Case<'_>) -> Option<Judgement> {
        if case.is_old() {
            return None;
        }
        let certainty = match case.dwell {
            Dwell::Exact(_) => Certainty::Medium,
            Dwell::Between { .. } => Certainty::Low,
        };
        let (count, stuck) = (text::count(case.group.count, "socket"), case.group.stuck);
        Some(Judgement {
            class: Class::Transient,
            certainty,
            text: format!(
                "the peer closed {} ago, too short to tell; of {count} in its group, {stuck} are stuck, the oldest for {}",
                text::age(case),
                text::duration(case.group.oldest)
            ),
            next: format!("inspect the oldest: `closewait list --port {}`", text::port(case)),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::diagnose::testing::{Scene, secs};

    #[test]
    fn a_young_one_of_a_stuck_group_points_at_the_oldest() {
        let mut scene = Scene::server().of(9).aged(5);
        (scene.group.stuck, scene.group.oldest) = (8, secs(900));
        let verdict = scene.verdict();
        assert_eq!((verdict.rule, verdict.class), ("young", Class::Transient));
        assert!(
            verdict.text.contains("of 9 sockets in its group, 8 are stuck, the oldest for 15m"),
            "{}",
            verdict.text
        );
    }

    #[test]
    fn it_says_nothing_of_one_that_is_stuck_itself() {
        assert_eq!(Scene::server().aged(60).ask(&Young), None);
    }
}
