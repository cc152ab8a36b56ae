//! A connection on which nothing was ever sent to the program: a health check, or somebody who looks for open ports.

use crate::diagnose::{
    About, Judgement, Rule,
    pace::{self, Pace},
    text,
};
use crate::{
    diagnose::Case,
    model::{Certainty, Class, ReadState},
};

/// Nothing came in but the FIN.
pub(super) struct Probe;

impl Rule for Probe {
    fn about(&self) -> &'static About {
        &About {
            name: "probe",
            when: "a server accepted it, nothing but the FIN ever came in, and that is unread",
            class: &[Class::Leak, Class::Unknown],
            certainty: &[
                (Certainty::Medium, "a leak: the program closed others of the port since, and needs far less for them"),
                (Certainty::Low, "unknown: a program that hangs and one that forgets look alike here"),
            ],
            says: "the peer connected, sent nothing and left, and the program has not noticed",
            next: "see who the prober is; give the program a time-out for the first request",
            not: &[
                "health checks accumulate before a hung server too: the signs of a hang are asked first, and without them \
                 the rule blames no program unless the port makes progress",
            ],
            seen: &["adoptium/adoptium-support#116", "netty/netty#13463"],
        }
    }

    fn check(&self, case: &Case<'_>) -> Option<Judgement> {
        if !case.is_server() || !case.socket.accepted? || case.socket.read_state()? != ReadState::Probe {
            return None;
        }
        let owner = text::owner(case);
        let (class, certainty, others) = match pace::of(case) {
            Pace::GoesOn => {
                (Class::Leak, Certainty::Medium, "; others of the port were closed since, it was forgotten")
            }
            Pace::Stands { .. } => (Class::Unknown, Certainty::Low, "; nothing of the port was closed since"),
            Pace::Unwatched | Pace::Slow { .. } => (Class::Unknown, Certainty::Low, ""),
        };
        let alike = case.group.in_state(ReadState::Probe);
        let from = match (alike, case.group.remotes) {
            (2.., 1) => format!(" {alike} of {} are like that, all from there.", case.group.count),
            (2.., _) => format!(" {alike} of {} are like that.", case.group.count),
            _ => String::new(),
        };
        Some(Judgement {
            class,
            certainty,
            text: format!(
                "{remote} connected, sent nothing and left {age} ago, as health checks and port scans do, and {owner} has \
                 not noticed{others}.{from}",
                remote = case.socket.remote.address,
                age = text::age(case),
            ),
            next: format!(
                "see what {remote} is: if it checks port {port}, let it send a request; a time-out for the first \
                 request in {owner} would end it",
                remote = case.socket.remote.address,
                port = text::port(case),
            ),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::diagnose::testing::{Scene, secs};

    fn said(scene: &Scene) -> Option<(Class, Certainty)> {
        scene.ask(&Probe).map(|said| (said.class, said.certainty))
    }

    #[test]
    fn a_probe_that_a_living_program_forgets_is_a_leak_and_names_the_prober() {
        let scene = Scene::server().of(4).aged(300).reading(ReadState::Probe).closed_before(10, secs(1));
        assert_eq!(said(&scene), Some((Class::Leak, Certainty::Medium)));
        let text = scene.ask(&Probe).unwrap().text;
        assert!(text.starts_with("10.0.0.9 connected") && text.contains("4 of 4 are like that, all from"), "{text}");
    }

    #[test]
    fn without_a_sign_of_life_nobody_is_blamed() {
        let scene = Scene::server().aged(300).reading(ReadState::Probe);
        assert_eq!(said(&scene), Some((Class::Unknown, Certainty::Low)));
        assert_eq!(said(&scene.flowing(|_| ())), Some((Class::Unknown, Certainty::Low)));
    }

    #[test]
    fn a_request_is_no_probe_nor_is_a_clients_or_a_waiting_one() {
        assert_eq!(said(&Scene::server().reading(ReadState::IdleFin)), None);
        assert_eq!(said(&Scene::client().reading(ReadState::Probe)), None);
        assert_eq!(said(&Scene::server().reading(ReadState::Probe).unaccepted()), None);
    }
}
