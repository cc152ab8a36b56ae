//! Programs whose threads are all stopped.

use crate::diagnose::{About, Case, Judgement, Rule, text};
use crate::model::{Certainty, Class};

/// Detects owners whose threads are all stopped, by a signal, a debugger or the freezer of their cgroup.
pub(super) struct OwnerStopped;

impl Rule for OwnerStopped {
    fn about(&self) -> &'static About {
        &About {
            name: "owner_stopped",
            when: "a signal, a debugger or the freezer of a cgroup has stopped every thread of every owner",
            class: &[Class::Hung],
            certainty: &[(Certainty::Fact, "the kernel reports the state of each thread")],
            says: "the program cannot do anything until it is continued",
            next: "continue the program, and find out who stopped it",
            not: &["one stopped thread among others: all threads have to be stopped"],
            seen: &["cylc/cylc-flow#2060", "longhorn/longhorn#4772"],
        }
    }

    fn check(&self, case: &Case<'_>) -> Option<Judgement> {
        let waits = case.group.evidence.waits.filter(|waits| waits.all_stopped())?;
        let (owner, frozen) = (text::owner(case), text::is_frozen(case));
        let (state, next) = match (frozen, text::tasks(case).first()) {
            (true, _) => ("frozen with its cgroup", "thaw the cgroup, and find out who froze it".to_owned()),
            (false, Some(task)) => {
                ("stopped", format!("continue it: `kill -CONT {}`, and find out who stopped it", task.pid))
            }
            (false, None) => ("stopped", "continue it, and find out who stopped it".to_owned()),
        };
        let threads = match waits.threads {
            1 => "its only thread".to_owned(),
            threads => format!("all {threads} threads"),
        };
        Some(Judgement {
            class: Class::Hung,
            certainty: Certainty::Fact,
            text: format!("{owner} is {state} ({threads}): it cannot run until somebody continues it"),
            next,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::diagnose::{evidence::Waits, testing::Scene};

    #[test]
    fn a_program_is_stopped_only_if_all_threads_are() {
        let mut scene = Scene::server();
        assert_eq!(scene.check(&OwnerStopped), None);
        scene.group.evidence.waits = Some(Waits { threads: 4, stopped: 3, complete: true, ..Waits::default() });
        assert_eq!(scene.check(&OwnerStopped), None);
        scene.group.evidence.waits = Some(Waits { threads: 4, stopped: 4, complete: true, ..Waits::default() });
        let judgement = scene.check(&OwnerStopped).unwrap();
        assert_eq!((judgement.class, judgement.certainty), (Class::Hung, Certainty::Fact));
        assert!(judgement.next.contains("kill -CONT 42"), "{}", judgement.next);
    }
}
