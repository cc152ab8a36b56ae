//! Counter-evidence: evidence against blaming a program, and whether the agent could read it.

use crate::diagnose::Case;

/// Kind of evidence against blaming a program. A rule that blames declares which kinds it checks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CounterEvidence {
    /// The program finishes sockets of the port late.
    LateExits,
    /// The program serves other connections of the port.
    OtherConnections,
    /// The program closes connections of the port that it has answered.
    Closes,
    /// The peers have closed one direction only and can still read an answer.
    PeersWait,
    /// The program waits for answers from other programs.
    BackendsWait,
    /// The peers have not acknowledged data that the program sent.
    Sending,
    /// A thread with a timeout works on each socket.
    Threads,
}

/// Result of reading one kind of counter-evidence.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum EvidenceReading {
    /// The agent did not or could not read the evidence.
    NotRead,
    /// The agent read the facts and found no such evidence.
    Absent,
    /// The agent found such evidence.
    Present,
}

impl EvidenceReading {
    fn of(present: Option<bool>) -> Self {
        match present {
            None => Self::NotRead,
            Some(false) => Self::Absent,
            Some(true) => Self::Present,
        }
    }
}

impl CounterEvidence {
    /// Returns the name in `docs/diagnoses.md`.
    pub const fn name(self) -> &'static str {
        match self {
            Self::LateExits => "late exits",
            Self::OtherConnections => "other connections",
            Self::Closes => "closes",
            Self::PeersWait => "peers that wait",
            Self::BackendsWait => "backends",
            Self::Sending => "data to send",
            Self::Threads => "threads",
        }
    }

    /// Reads this kind of evidence from a case.
    pub fn read(self, case: &Case<'_>) -> EvidenceReading {
        let evidence = &case.group.evidence;
        match self {
            Self::LateExits => EvidenceReading::of(evidence.finishes_late(case.now)),
            Self::OtherConnections => EvidenceReading::of(evidence.serves_others(case.now)),
            Self::Closes => EvidenceReading::of(evidence.closes_others(case.now)),
            Self::PeersWait => {
                let ends = evidence.peer_ends;
                EvidenceReading::of((ends.read > 0).then(|| ends.half_closed * 2 >= ends.read))
            }
            Self::BackendsWait => EvidenceReading::of(evidence.backends_wait(case.group.count)),
            Self::Sending => {
                EvidenceReading::of(case.socket.send_queue_bytes.map(|_read| evidence.sending * 2 > case.group.count))
            }
            Self::Threads => EvidenceReading::of(evidence.waits.map(|waits| waits.follows == Some(true))),
        }
    }
}
