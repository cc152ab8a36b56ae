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
    /// Every kind, in the order of the documentation.
    pub const ALL: [Self; 7] = [
        Self::LateExits,
        Self::OtherConnections,
        Self::Closes,
        Self::PeersWait,
        Self::BackendsWait,
        Self::Sending,
        Self::Threads,
    ];

    /// Returns the meaning, one sentence without its end.
    pub const fn meaning(self) -> &'static str {
        match self {
            Self::LateExits => {
                "the program ended sockets of the port or remote endpoint that it had kept for 3 s or longer: it closed them, or \
                 wrote to a peer that had closed; it decides nothing while the group's median age is more than 60 s, and more than four times \
                 as long as the longest time for which the program kept one"
            }
            Self::OtherConnections => {
                "the owner has other open connections to the port, on which it received and sent data after the onset, and sent \
                 some in the last 10 s"
            }
            Self::Closes => {
                "the program closed connections of the port, in any state, on which it had sent data after the onset; the last one \
                 within 10 s"
            }
            Self::PeersWait => {
                "half of the peers are on this host, have closed one direction only, and still have a program that can read; and no \
                 stacks show that the threads of a program without progress wait for a lock at one line"
            }
            Self::BackendsWait => {
                "connections to other programs wait for an answer, at least half as many as the group has sockets; of those over UNIX sockets, \
                 the ones that are certain to wait count"
            }
            Self::Sending => "on most of the sockets, the peer has not acknowledged data",
            Self::Threads => {
                "as many threads as sockets wait with a timeout, and their number has risen with the number of sockets; and no stacks \
                 show that half as many have waited for locks or for a connection of a pool"
            }
        }
    }

    /// Returns the kernel interface that the agent reads the evidence from.
    pub const fn source(self) -> &'static str {
        match self {
            Self::LateExits => "records of the kernel program",
            Self::OtherConnections => "an iterator over the owner's files (Linux 6.1)",
            Self::Closes => "a counter of the kernel program (with BTF)",
            Self::PeersWait => "`sock_diag`, in all network namespaces that could be opened",
            Self::BackendsWait => "the iterator over the owner's files; `sock_diag` for UNIX sockets",
            Self::Sending => "a refresh of each socket",
            Self::Threads => "`/proc/PID/task/TID/syscall`",
        }
    }

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
            Self::LateExits => EvidenceReading::of(case.finishes_late()),
            Self::OtherConnections => EvidenceReading::of(evidence.serves_others(case.now)),
            Self::Closes => EvidenceReading::of(evidence.closes_others(case.now)),
            Self::PeersWait => {
                let ends = evidence.peer_ends;
                let waits = || ends.wait() && evidence.stall(case.group.count, case.now).is_none();
                EvidenceReading::of((ends.read > 0).then(waits))
            }
            Self::BackendsWait => EvidenceReading::of(evidence.backends_wait(case.group.count)),
            Self::Sending => {
                EvidenceReading::of(case.socket.send_queue_bytes.map(|_read| evidence.sending * 2 > case.group.count))
            }
            Self::Threads => EvidenceReading::of(
                evidence.waits.map(|waits| waits.follows == Some(true) && !evidence.stops(case.group.count)),
            ),
        }
    }
}
