//! Accepted or connected sockets of which no process has a descriptor.

use crate::diagnose::{About, Explanation, Judgement, Rule, text::OwnerNames};
use crate::process::NextStep;
use crate::{
    diagnose::Case,
    model::{Certainty, Class, SocketLocation},
};

/// Detects a socket without a descriptor. Its file can live in a message in flight, in a table of io_uring, or inside the kernel.
pub(super) struct Unheld;

impl Rule for Unheld {
    fn about(&self) -> &'static About {
        &About {
            name: "unheld",
            when: "a program accepted or connected the socket; closewait scanned the processes, and none has a descriptor of it",
            class: &[Class::Unknown],
            certainty: &[
                (
                    Certainty::Fact,
                    "closewait found its location: a direct descriptor of io_uring, or a message between processes",
                ),
                (Certainty::Low, "closewait did not find its location, and several explanations are possible"),
            ],
            says: "something other than a descriptor keeps the socket, for an unknown reason",
            next: "inspect the process that the text names, or find one that uses io_uring or passes descriptors",
            not: &[
                "a socket in a backlog, which has no owner either: see `never_accepted`",
                "an owner that closewait may not inspect, or a subflow of Multipath TCP: the text lists both",
            ],
            seen: &[],
        }
    }

    fn check<'c>(&self, case: &'c Case<'_>) -> Option<Judgement<'c>> {
        if !(case.socket.accepted? && case.owners?.is_empty()) {
            return None;
        }
        let (certainty, text, next) = match case.place {
            Some(SocketLocation::IoUring(task)) => {
                let who = task.to_string();
                let next = format!("see why {who} submits no close request for it; no list of descriptors shows it");
                (Certainty::Fact, format!("{who} has it as a direct descriptor of io_uring"), next.into())
            }
            Some(SocketLocation::InFlight(tasks)) => {
                let who = OwnerNames::new(&tasks.iter().collect::<Vec<_>>());
                let by = who.as_ref().map_or_else(String::new, |who| format!(", perhaps of {who}"));
                let receiver = who.unwrap_or_else(|| OwnerNames::program("the receiver"));
                (
                    Certainty::Fact,
                    format!("it is in a message (SCM_RIGHTS) in a UNIX socket{by}: the message was sent but not received"),
                    format!("see why {receiver} {} not receive it", receiver.does()).into(),
                )
            }
            None => (
                Certainty::Low,
                "no process that could be scanned has a descriptor of it: it may be in a message between processes \
                 (SCM_RIGHTS), a direct descriptor of io_uring, in use by an unfinished request of io_uring or by a thread \
                 inside a system call that began before the close, a socket of the kernel itself, a subflow of Multipath \
                 TCP, or owned by a process that could not be read"
                    .to_owned(),
                NextStep::command("see whether all processes could be scanned", "closewait doctor"),
            ),
        };
        Some(Judgement::new(Class::Unknown, certainty, move || Explanation { text, next }))
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
    fn a_location_that_was_found_is_a_fact() {
        let judgement = unheld(Some(SocketLocation::IoUring(task(8, "ring")))).check(&Unheld).unwrap();
        assert_eq!((judgement.class, judgement.certainty), (Class::Unknown, Certainty::Fact));
        assert!(judgement.text.contains("ring[8]"), "{}", judgement.text);
        let judgement = unheld(Some(SocketLocation::InFlight(vec![task(9, "broker")]))).check(&Unheld).unwrap();
        assert!(judgement.text.contains("SCM_RIGHTS") && judgement.next.text.contains("broker[9]"), "{judgement:?}");
    }

    #[test]
    fn without_a_location_the_certainty_is_low() {
        assert_eq!(unheld(None).check(&Unheld).unwrap().certainty, Certainty::Low);
    }

    #[test]
    fn an_owner_a_missing_scan_or_a_backlog_excludes_it() {
        assert_eq!(Scene::server().check(&Unheld), None);
        assert_eq!(Scene { owners: None, ..Scene::server() }.check(&Unheld), None);
        for accepted in [Some(false), None] {
            let mut scene = unheld(None);
            scene.socket.accepted = accepted;
            assert_eq!(scene.check(&Unheld), None);
        }
    }
}
