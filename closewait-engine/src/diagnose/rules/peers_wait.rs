//! Peers on this host that wait for an answer.

use crate::diagnose::{
    About, Case, Explanation, Judgement, Rule,
    evidence::{CounterEvidence, EvidenceReading},
    text,
};
use crate::model::{Certainty, Class};

/// Detects half-closed peers on this host: a peer socket in FIN_WAIT2 with a descriptor can still read.
pub(super) struct PeersWait;

impl Rule for PeersWait {
    fn about(&self) -> &'static About {
        &About {
            name: "peers_wait",
            when: "the socket is a server's; at least half of the peers that closewait looked up on this host have closed their \
                   sending side only and still have a descriptor",
            class: &[Class::HalfClose],
            certainty: &[(Certainty::Medium, "the peers can still read; a program that hangs looks the same")],
            says: "the clients have sent everything and wait for the answer",
            next: "nothing while the program works; see what the peers wait for",
            not: &[
                "a peer that is not on this host: its state is unknown",
                "a server without progress whose threads wait for a lock or a connection of a pool: it answers no client",
            ],
            seen: &["jpillora/chisel#535"],
        }
    }

    fn check<'c>(&self, case: &'c Case<'_>) -> Option<Judgement<'c>> {
        if !case.is_server() || CounterEvidence::PeersWait.read(case) != EvidenceReading::Present {
            return None;
        }
        Some(Judgement::new(Class::HalfClose, Certainty::Medium, move || {
            let ends = case.group.evidence.peer_ends;
            let owner = text::owner(case);
            Explanation {
                text: format!(
                    "{} of {} peers on this host {} for {owner} to answer",
                    ends.half_closed,
                    ends.read,
                    if ends.half_closed == 1 {
                        "has closed only its sending side and still waits"
                    } else {
                        "have closed only their sending side and still wait"
                    },
                ),
                next: format!(
                    "nothing while {owner} {works} on it; a timeout for half-closed connections would limit the wait",
                    works = owner.word("works", "work"),
                )
                .into(),
            }
        }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::diagnose::{
        evidence::{PeersRead, StackEvidence},
        testing::Scene,
    };

    #[test]
    fn peers_that_can_still_read_are_half_closed() {
        let mut scene = Scene::server();
        scene.group.evidence.peer_ends = PeersRead { read: 4, half_closed: 1, ended: 0 };
        assert_eq!(scene.check(&PeersWait), None);
        scene.group.evidence.peer_ends.half_closed = 2;
        assert_eq!(scene.check(&PeersWait).unwrap().class, Class::HalfClose);
    }

    #[test]
    fn a_server_whose_threads_wait_for_a_lock_answers_nobody() {
        let mut scene = super::super::blocked::tests::hung(190);
        scene.group.evidence.peer_ends = PeersRead { read: 20, half_closed: 20, ended: 0 };
        assert_eq!(scene.verdict().rule, "peers_wait");
        let stacks = StackEvidence { threads: 24, at_line: 20, at_lines: 20, lines: 1, ..StackEvidence::default() };
        scene.group.evidence.stacks = Some(stacks);
        let verdict = scene.verdict();
        assert_eq!((verdict.class, verdict.certainty), (Class::Hung, Certainty::Medium));
        scene.group.evidence.demand = 1;
        assert_eq!(scene.verdict().rule, "peers_wait", "it may serve others");
    }
}
