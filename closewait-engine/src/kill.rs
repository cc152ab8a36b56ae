//! Conditions under which `closewait kill` may destroy a socket, and the outcomes.
//!
//! A destroyed socket (`SOCK_DESTROY`) cannot be restored, so each unknown fact is a reason to refuse.

use std::{borrow::Cow, fmt, time::Duration};

use closewait_common::tcp::state;

use super::{
    diagnose::{AROUND_FIN, STREAM_OVER},
    model::{Class, Dwell, Endpoint, Exit, Owner, Protocol, Socket, TimerKind, Verdict},
    snapshot::query::Filter,
    snapshot::view::Row,
    text::duration,
    time::BootTime,
};

/// Maximum error of the kernel's ages of a socket: ticks of its clock may be late.
const TICKS: Duration = Duration::from_millis(100);

/// Selected socket, as of the time of the list.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Selected {
    /// Time at which the socket was listed.
    pub at: BootTime,
    /// Facts about the socket.
    pub socket: Socket,
    /// Dwell time at `at`; `None` if unknown.
    pub dwell: Option<Dwell>,
    /// Exit of the socket, if it had exited CLOSE_WAIT.
    pub gone: Option<Exit>,
    /// Descriptors of the socket, sorted by process; `None` if no scan for owners was possible.
    pub owners: Option<Vec<Owner>>,
    /// Diagnosis of the socket.
    pub verdict: Verdict,
}

impl Selected {
    /// Copies a row that was listed at `at`.
    pub fn new(row: &Row<'_>, at: BootTime) -> Self {
        Self {
            at,
            socket: row.socket.clone().into_owned(),
            dwell: row.dwell,
            gone: row.gone.cloned(),
            owners: row.owners.as_deref().map(<[_]>::to_vec),
            verdict: row.verdict.clone(),
        }
    }

    /// Returns the socket as a row of a table.
    pub fn row(&self) -> Row<'_> {
        Row {
            socket: Cow::Borrowed(&self.socket),
            dwell: self.dwell,
            gone: self.gone.as_ref(),
            owners: self.owners.as_deref().map(Cow::Borrowed),
            listener: None,
            workload: None,
            conntrack: None,
            proxy_peer: None,
            process: None,
            verdict: self.verdict.clone(),
        }
    }

    /// Returns the arrival time of the peer's FIN, if the agent saw it.
    fn entered(&self) -> Option<BootTime> {
        match self.dwell? {
            Dwell::Exact(dwell) => Some(self.at - dwell),
            Dwell::Between { .. } => None,
        }
    }
}

/// State of a socket in the kernel just before it is destroyed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CurrentSocket {
    /// Kernel's number of the TCP state.
    pub state: u8,
    /// Local endpoint.
    pub local: Endpoint,
    /// Remote endpoint.
    pub remote: Endpoint,
    /// Cookie of the socket.
    pub cookie: u64,
    /// Inode of the socket; 0 if no program has ever owned it.
    pub inode: u32,
    /// Index of the interface to which the socket is bound; 0 if it is not bound.
    pub interface: u32,
    /// Number of written bytes that the peer has not acknowledged.
    pub send_queue_bytes: u32,
    /// Running timer; `None` if no timer runs.
    pub timer: Option<TimerKind>,
    /// Sent data; `None` if the kernel does not report it.
    pub sent: Option<Sent>,
}

/// Data that a socket has sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Sent {
    /// Number of bytes.
    pub bytes: u64,
    /// Time since the socket last sent data.
    pub ago: Duration,
    /// Time since the socket last received data.
    pub received_ago: Duration,
}

/// Socket to destroy, with the identity that the kernel's facts must still match.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Target {
    /// Network namespace of the socket.
    pub netns: u32,
    /// Local endpoint.
    pub local: Endpoint,
    /// Remote endpoint.
    pub remote: Endpoint,
    /// Cookie of the socket.
    pub cookie: u64,
    /// Inode of the socket.
    pub inode: u32,
    /// Index of the interface to which the socket is bound; 0 if it is not bound.
    pub interface: u32,
    /// Time of the entry, if the agent saw it.
    pub entered: Option<BootTime>,
    /// Whether the peer can still read, by the verdict.
    pub peer_reads: bool,
}

/// Reason why a socket is not destroyed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Refusal {
    /// The socket had exited CLOSE_WAIT, and only its descriptor is left.
    Left,
    /// The socket uses MPTCP.
    Mptcp,
    /// The socket waits in a backlog.
    NeverAccepted,
    /// The peer has closed one direction only, and can still read.
    PeerReads,
    /// The selection lacks facts that identify the socket in the kernel.
    Unidentified,
    /// The socket's network namespace is inaccessible, for this reason.
    Namespace(String),
    /// The socket's network namespace is inaccessible because a privilege is missing.
    Denied(String),
    /// The socket exited CLOSE_WAIT after it was selected.
    Gone,
    /// Another socket has the same endpoints now.
    Replaced,
    /// The peer has not acknowledged this number of bytes.
    Unacknowledged(u32),
    /// The socket retransmits data, or probes the peer's window.
    Sending,
    /// The socket sent data this long ago, after the peer's FIN.
    InUse(Duration),
    /// The socket sent data this long ago, perhaps after the peer's FIN, whose arrival the agent did not see.
    PerhapsInUse(Duration),
    /// The kernel does not report the sent data.
    SentUnknown,
    /// No process of the filter has a descriptor of the socket.
    NotHeld,
    /// The owners of the socket cannot be checked, for this reason.
    OwnersUnknown(String),
    /// The socket received data this long ago, which is less than the filter's age, and the FIN came later.
    TooYoung(Duration),
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Left => {
                write!(f, "it has exited CLOSE_WAIT; only its descriptor is left, which its program has to close")
            }
            Self::Mptcp => write!(f, "it uses MPTCP, of which only single subflows can be destroyed"),
            Self::NeverAccepted => {
                write!(f, "not accepted yet: destroying it hides it without freeing its backlog slot")
            }
            Self::PeerReads => {
                write!(
                    f,
                    "its verdict is half_close: the peer has closed one direction only and may wait for an answer"
                )
            }
            Self::Unidentified => {
                write!(
                    f,
                    "it cannot be identified in the kernel: its namespace, or both its cookie and its inode, are unknown; try \
                     --alone"
                )
            }
            Self::Namespace(why) | Self::Denied(why) => write!(f, "its network namespace is inaccessible: {why}"),
            Self::Gone => write!(f, "it exited CLOSE_WAIT after it was listed"),
            Self::Replaced => write!(f, "another socket has the same endpoints now, with another cookie or inode"),
            Self::Unacknowledged(bytes) => write!(
                f,
                "the peer has not acknowledged {bytes} bytes: a half-closed connection in use, or one that will end without \
                 intervention"
            ),
            Self::Sending => write!(
                f,
                "it retransmits data or probes the peer's window: a half-closed connection in use, or one that will end without \
                 intervention"
            ),
            Self::InUse(ago) => write!(
                f,
                "it sent data {} ago, after the peer's FIN, and the peer acknowledged it: a half-closed connection in use",
                duration(*ago)
            ),
            Self::PerhapsInUse(ago) => write!(
                f,
                "it sent data {} ago, and the agent did not see whether the peer's FIN came before: perhaps a half-closed \
                 connection in use. Wait until the socket has sent nothing for {}; an agent that runs when the FIN comes sees it",
                duration(*ago),
                duration(STREAM_OVER)
            ),
            Self::SentUnknown => write!(f, "the kernel does not report when it last sent data"),
            Self::NotHeld => write!(f, "no process of --pid has a descriptor of it now"),
            Self::OwnersUnknown(why) => {
                write!(f, "whether a process of --pid has a descriptor of it cannot be checked: {why}")
            }
            Self::TooYoung(ago) => write!(
                f,
                "it received data {} ago, so it entered CLOSE_WAIT after that, and is younger than --older-than",
                duration(*ago)
            ),
        }
    }
}

/// Outcome of an attempt to destroy a socket.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// The kernel destroyed the socket.
    Destroyed,
    /// The socket no longer existed.
    GoneBefore,
    /// The socket no longer existed, and another one had the same endpoints.
    Replaced,
    /// A condition no longer held.
    Refused(Refusal),
    /// The kernel did not destroy the socket.
    Failed(Failure),
}

/// Reason why the kernel did not destroy a socket.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Failure {
    /// A capability is missing.
    Denied(String),
    /// The kernel has no `SOCK_DESTROY`.
    Unsupported,
    /// The kernel reported success, but the socket still exists.
    StillThere,
    /// Any other error.
    Other(String),
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Denied(why) | Self::Other(why) => f.write_str(why),
            Self::Unsupported => f.write_str("the kernel has no SOCK_DESTROY for TCP (CONFIG_INET_DIAG_DESTROY)"),
            Self::StillThere => f.write_str("the kernel reported success, but the socket still exists"),
        }
    }
}

impl Outcome {
    /// Returns the name in JSON.
    pub const fn name(&self) -> &'static str {
        match self {
            Self::Destroyed => "destroyed",
            Self::GoneBefore => "gone_before",
            Self::Replaced => "replaced",
            Self::Refused(_) => "refused",
            Self::Failed(_) => "failed",
        }
    }

    /// Returns the reason of a failure, if there is one beyond its name.
    pub fn reason(&self) -> Option<String> {
        match self {
            Self::Destroyed | Self::GoneBefore | Self::Replaced => None,
            Self::Refused(refusal) => Some(refusal.to_string()),
            Self::Failed(failure) => Some(failure.to_string()),
        }
    }
}

/// Checks the facts of the selection. Returns the network namespace of the socket.
///
/// # Errors
///
/// Returns a refusal if the facts do not identify the socket, or if they forbid to destroy it.
pub fn preselect(selected: &Selected) -> Result<u32, Refusal> {
    let Socket { netns, cookie, inode, protocol, accepted, .. } = selected.socket;
    if selected.gone.is_some() {
        return Err(Refusal::Left);
    }
    if protocol == Protocol::Mptcp {
        return Err(Refusal::Mptcp);
    }
    if accepted == Some(false) {
        return Err(Refusal::NeverAccepted);
    }
    netns.filter(|_| cookie.or(inode).is_some()).ok_or(Refusal::Unidentified)
}

/// Finds the selected socket among all sockets with its endpoints; there may be one for each interface. [`Target::check`] decides
/// whether it may be destroyed.
///
/// # Errors
///
/// Returns a refusal if [`preselect`] does, or if the socket no longer exists.
pub fn identify(selected: &Selected, with_its_ends: &[CurrentSocket]) -> Result<Target, Refusal> {
    let netns = preselect(selected)?;
    let Socket { cookie, inode, local, remote, .. } = selected.socket;
    let is_it = |facts: &&CurrentSocket| {
        cookie.is_none_or(|cookie| cookie == facts.cookie)
            && inode.is_none_or(|inode| inode == u64::from(facts.inode))
            && (facts.local, facts.remote) == (local, remote)
    };
    let facts = with_its_ends.iter().find(is_it);
    let facts = facts.ok_or(if with_its_ends.is_empty() { Refusal::Gone } else { Refusal::Replaced })?;
    let CurrentSocket { cookie, inode, interface, .. } = *facts;
    let peer_reads = selected.verdict.class == Class::HalfClose;
    Ok(Target { netns, local, remote, cookie, inode, interface, entered: selected.entered(), peer_reads })
}

/// Checks by the kernel's ages whether the socket can be as old as the filter requires: the FIN arrives after the last data.
///
/// # Errors
///
/// Returns a refusal if the socket is younger, or the kernel does not report an age.
pub fn check_age(facts: &CurrentSocket, filter: &Filter) -> Result<(), Refusal> {
    let Some(age) = filter.older_than else { return Ok(()) };
    let Sent { received_ago, .. } = facts.sent.ok_or(Refusal::SentUnknown)?;
    if received_ago + TICKS < age { Err(Refusal::TooYoung(received_ago)) } else { Ok(()) }
}

impl Target {
    /// Checks by the kernel's facts whether the socket may be destroyed at `now`.
    ///
    /// # Errors
    ///
    /// Returns a refusal if the facts are those of another socket, or if a condition does not hold.
    pub fn check(&self, facts: &CurrentSocket, now: BootTime) -> Result<(), Refusal> {
        let Self { netns: _, local, remote, cookie, inode, interface, entered, peer_reads } = *self;
        if (facts.local, facts.remote, facts.cookie) != (local, remote, cookie) || facts.interface != interface {
            return Err(Refusal::Replaced);
        }
        if facts.state != state::CLOSE_WAIT {
            return Err(Refusal::Gone);
        }
        if facts.inode == 0 {
            return Err(Refusal::NeverAccepted);
        }
        if facts.inode != inode {
            return Err(Refusal::Replaced);
        }
        if facts.send_queue_bytes > 0 {
            return Err(Refusal::Unacknowledged(facts.send_queue_bytes));
        }
        match facts.timer {
            Some(TimerKind::On | TimerKind::Persist) => return Err(Refusal::Sending),
            Some(TimerKind::Keepalive) | None => {}
        }
        check_sent(facts.sent.ok_or(Refusal::SentUnknown)?, entered.map(|entered| now.since(entered)))?;
        if peer_reads { Err(Refusal::PeerReads) } else { Ok(()) }
    }
}

/// Refuses a socket that sent data after the FIN less than [`STREAM_OVER`] ago. The peer has acknowledged all data, and a peer
/// that has closed both directions answers data with a RST; so such a peer still reads.
fn check_sent(sent: Sent, fin_ago: Option<Duration>) -> Result<(), Refusal> {
    let Sent { bytes, ago, received_ago } = sent;
    // The FIN comes after the last data.
    let before_fin = ago >= received_ago || fin_ago.is_some_and(|fin_ago| ago + AROUND_FIN >= fin_ago);
    if bytes == 0 || before_fin || ago >= STREAM_OVER {
        return Ok(());
    }
    Err(if fin_ago.is_some() { Refusal::InUse(ago) } else { Refusal::PerhapsInUse(ago) })
}

#[cfg(test)]
mod tests;
