//! A program that does not run at all.

use crate::diagnose::{About, Case, Judgement, Rule, text};
use crate::model::{Certainty, Class};

/// A signal, a debugger or the freezer of its cgroup has stopped every thread.
pub(super) struct OwnerStopped;

impl Rule for OwnerStopped {
    fn about(&self) -> &'static About {
        &About {
            name: "owner_stopped",
            when: "every thread of every owner is stopped, by a signal, a debugger or the freezer of its cgroup",
            class: &[Class::Hung],
            certainty: &[(Certainty::Fact, "the kernel reports the state of each thread")],
            says: "the program cannot do anything until it is continued",
            next: "continue the program, or find who stopped it",
            not: &["one stopped thread among others: the rule asks for all of them"],
            seen: &["cylc/cylc-flow#2060", "longhorn/longhorn#4772"],
        }
    }

    fn check(&self, case: &Case<'_>) -> Option<Judgement> {
        let waits = case.group.evidence.waits.filter(|waits| waits.all_stopped())?;
        let (owner, frozen) = (text::owner(case), text::is_frozen(case));
        let (state, next) = match (frozen, text::tasks(case).first()) {
            (true, _) => ("frozen with its cgroup", "thaw the cgroup, and see who froze it".to_owned()),
            (false, Some(task)) => {
                ("stopped", format!("continue it: `kill -CONT {}`, and see who stopped it", task.pid))
            }
            (false, None) => ("stopped", "continue it, and see who stopped it".to_owned()),
        };
        let threads = match waits.threads {
            1 => "its only thread is".to_owned(),
            threads => format!("all {threads} threads are"),
        };
        Some(Judgement {
            class: Class::Hung,
            certainty: Certainty::Fact,
            text: format!("{owner} is {state}: {threads}. Nothing of it runs until it is continued"),
            next,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::diagnose::{evidence::Waits, testing::Scene};

    #[test]
    fn only_a_program_of_which_every_thread_is_stopped_is_told_so() {
        let mut scene = Scene::server();
        assert_eq!(scene.ask(&OwnerStopped), None);
        scene.group.evidence.waits = Some(Waits { threads: 4, stopped: 3, complete: true, ..Waits::default() });
        assert_eq!(scene.ask(&OwnerStopped), None);
        scene.group.evidence.waits = Some(Waits { threads: 4, stopped: 4, complete: true, ..Waits::default() });
        let said = scene.ask(&OwnerStopped).unwrap();
        assert_eq!((said.class, said.certainty), (Class::Hung, Certainty::Fact));
        assert!(said.next.contains("kill -CONT 42"), "{}", said.next);
    }
}
