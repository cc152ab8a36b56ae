//! A socket that was accepted or connected, and that no process has a descriptor for.

use crate::diagnose::{About, Judgement, Rule, text};
use crate::{
    diagnose::Case,
    model::{Certainty, Class, SocketLocation},
};

/// A file can live without a descriptor: in a message on its way, in a table of io_uring, or inside the kernel.
pub(super) struct Unheld;

impl Rule for Unheld {
    fn about(&self) -> &'static About {
        &About {
            name: "unheld",
            when: "it is a program's socket, all processes were scanned, and none has a descriptor of it",
            class: &[Class::Unknown],
            certainty: &[
                (
                    Certainty::Fact,
                    "where it is was found: a direct descriptor of io_uring, or a message between processes",
                ),
                (Certainty::Low, "it was not found, and several things can be behind that"),
            ],
            says: "something other than a descriptor keeps it, for an unknown reason",
            next: "inspect the process that is named, or find one that uses io_uring or passes descriptors",
            not: &[
                "one that waits in a backlog has no owner either: `never_accepted`",
                "an owner that may not be inspected, and a subflow of Multipath TCP: the text names both",
            ],
            seen: &[],
        }
    }

    fn check(&self, case: &Case<'_>) -> Option<Judgement> {
        if !(case.socket.accepted? && case.owners?.is_empty()) {
            return None;
        }
        let (certainty, text, next) = match case.place {
            Some(SocketLocation::IoUring(task)) => {
                let who = format!("{}[{}]", task.comm, task.pid);
                let next = format!("see why {who} submits no close for it; no list of descriptors shows it");
                (Certainty::Fact, format!("{who} has it as a direct descriptor of io_uring"), next)
            }
            Some(SocketLocation::InFlight(tasks)) => {
                let who = text::names(&tasks.iter().collect::<Vec<_>>());
                let by = who.as_ref().map_or_else(String::new, |who| format!(", perhaps of {who}"));
                (
                    Certainty::Fact,
                    format!("it is in a message (SCM_RIGHTS) that waits in a UNIX socket{by}: sent, not received"),
                    format!("see why {} does not receive it", who.unwrap_or_else(|| "the receiver".to_owned())),
                )
            }
            None => (
                Certainty::Low,
                "no process that could be scanned has a descriptor of it: it may be in a message between processes \
                 (SCM_RIGHTS), a direct descriptor of io_uring, in use by an unfinished request of io_uring or by a thread \
                 inside a system call that began before the close, a socket of the kernel itself, a subflow of Multipath \
                 TCP, or owned by a process that could not be read"
                    .to_owned(),
                "run `closewait doctor` to see whether all processes could be scanned".to_owned(),
            ),
        };
        Some(Judgement { class: Class::Unknown, certainty, text, next })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::diagnose::testing::{Scene, task};

    fn unheld(place: Option<SocketLocation>) -> Scene {
        Scene { owners: Some(Vec::new()), place, ..Scene::server() }
    }

    #[test]
    fn a_place_that_was_found_is_a_fact() {
        let said = unheld(Some(SocketLocation::IoUring(task(8, "ring")))).ask(&Unheld).unwrap();
        assert_eq!((said.class, said.certainty), (Class::Unknown, Certainty::Fact));
        assert!(said.text.contains("ring[8]"), "{}", said.text);
        let said = unheld(Some(SocketLocation::InFlight(vec![task(9, "broker")]))).ask(&Unheld).unwrap();
        assert!(said.text.contains("SCM_RIGHTS") && said.next.contains("broker[9]"), "{said:?}");
    }

    #[test]
    fn without_a_place_it_lists_what_it_can_be() {
        assert_eq!(unheld(None).ask(&Unheld).unwrap().certainty, Certainty::Low);
    }

    #[test]
    fn it_says_nothing_if_there_is_a_holder_or_nobody_looked_or_it_waits_in_a_backlog() {
        assert_eq!(Scene::server().ask(&Unheld), None);
        assert_eq!(Scene { owners: None, ..Scene::server() }.ask(&Unheld), None);
        for accepted in [Some(false), None] {
            let mut scene = unheld(None);
            scene.socket.accepted = accepted;
            assert_eq!(scene.ask(&Unheld), None);
        }
    }
}
