//! Programs whose threads are all stopped.

use crate::diagnose::{About, Case, Explanation, Judgement, Rule, text};
use crate::model::{Certainty, Class};
use crate::process::NextStep;

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

    fn check<'c>(&self, case: &'c Case<'_>) -> Option<Judgement<'c>> {
        let waits = case.group.evidence.waits.filter(|waits| waits.all_stopped())?;
        Some(Judgement::new(Class::Hung, Certainty::Fact, move || {
            let (owner, frozen) = (text::owner(case), text::is_frozen(case));
            let (state, next) = match (frozen, text::tasks(case).first()) {
                (true, _) => ("frozen with its cgroup", text::dump(case).and("find out who froze it")),
                (false, Some(task)) => (
                    "stopped",
                    NextStep::command(
                        "find out who stopped it, and let it continue",
                        format!("kill -CONT {}", task.pid),
                    ),
                ),
                (false, None) => ("stopped", "find out who stopped it, and let it continue".into()),
            };
            let threads = match waits.threads {
                1 => "its only thread".to_owned(),
                threads => format!("all {threads} threads"),
            };
            Explanation {
                text: format!(
                    "{owner} {is} {state} ({threads}): {it} cannot run until somebody continues {it_too}",
                    is = owner.is(),
                    it = owner.it(),
                    it_too = owner.word("it", "them"),
                ),
                next,
            }
        }))
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
        assert_eq!(judgement.next.command.as_deref(), Some("kill -CONT 42"));
    }
}
