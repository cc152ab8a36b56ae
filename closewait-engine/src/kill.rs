//! Sockets that `closewait kill` may destroy: the conditions, and the outcome for each.
//!
//! A destroyed socket (`SOCK_DESTROY`) cannot be restored, so each unknown fact is a reason to refuse.

use std::{fmt, time::Duration};

use closewait_common::tcp::state;

use super::{
    diagnose::{AROUND_FIN, STREAM_OVER},
    model::{Dwell, Endpoint, Exit, Owner, Protocol, Socket, TimerKind, Verdict},
    snapshot::query::Filter,
    snapshot::view::Row,
    text::duration,
    time::BootTime,
};

/// Largest delay of the kernel's ages of a socket, in ticks of its clock, behind the true ones.
const TICKS: Duration = Duration::from_millis(100);

/// A socket that was selected, as it was listed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Selected {
    /// Time at which the socket was listed.
    pub at: BootTime,
    /// Facts about the socket.
    pub socket: Socket,
    /// Dwell time at `at`; `None` if unknown.
    pub dwell: Option<Dwell>,
    /// Exit of the socket, if it had left CLOSE_WAIT.
    pub gone: Option<Exit>,
    /// Descriptors of the socket, sorted by process; `None` if no scan for owners was possible.
    pub owners: Option<Vec<Owner>>,
    /// Reason why the socket stays in CLOSE_WAIT.
    pub verdict: Verdict,
}

impl Selected {
    /// Copies a row that was listed at `at`.
    pub fn new(row: &Row<'_>, at: BootTime) -> Self {
        Self {
            at,
            socket: row.socket.clone(),
            dwell: row.dwell,
            gone: row.gone.cloned(),
            owners: row.owners.map(<[_]>::to_vec),
            verdict: row.verdict.clone(),
        }
    }

    /// Returns the socket as a row of a table.
    pub fn row(&self) -> Row<'_> {
        Row {
            socket: &self.socket,
            dwell: self.dwell,
            gone: self.gone.as_ref(),
            owners: self.owners.as_deref(),
            listener: None,
            workload: None,
            conntrack: None,
            proxy_peer: None,
            process: None,
            verdict: self.verdict.clone(),
        }
    }

    /// Returns the arrival time of the peer's FIN, if that was seen.
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
    /// Number of its state.
    pub state: u8,
    /// Local endpoint.
    pub local: Endpoint,
    /// The peer.
    pub remote: Endpoint,
    /// Cookie of the socket.
    pub cookie: u64,
    /// Inode of the socket; 0: no program has ever owned it.
    pub inode: u32,
    /// Index of the interface that it is bound to; 0: none.
    pub interface: u32,
    /// Bytes that it has written and the peer has not acknowledged.
    pub send_queue_bytes: u32,
    /// The timer that runs, if one does.
    pub timer: Option<TimerKind>,
    /// Sent data; `None` if the kernel does not report it.
    pub sent: Option<Sent>,
}

/// Data that a socket has sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Sent {
    /// Number of bytes.
    pub bytes: u64,
    /// Time since it last sent data.
    pub ago: Duration,
    /// Time since it last received data.
    pub received_ago: Duration,
}

/// Socket that may be destroyed, with the conditions that must still hold at that moment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Target {
    /// Network namespace of the socket.
    pub netns: u32,
    /// Local endpoint.
    pub local: Endpoint,
    /// The peer.
    pub remote: Endpoint,
    /// Cookie of the socket.
    pub cookie: u64,
    /// Inode of the socket.
    pub inode: u32,
    /// Index of the interface that it is bound to; 0: none.
    pub interface: u32,
    /// Time of the entry, if that was seen.
    pub entered: Option<BootTime>,
}

/// Reason why a socket is not destroyed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Refusal {
    /// Only a descriptor is left of the socket.
    Left,
    /// The socket uses MPTCP.
    Mptcp,
    /// The socket waits in a backlog.
    NeverAccepted,
    /// The selection lacks facts that are needed to find the socket again.
    Unidentified,
    /// The socket's network namespace is inaccessible, for this reason.
    Namespace(String),
    /// The socket's network namespace is inaccessible because a privilege is missing.
    Denied(String),
    /// The socket left CLOSE_WAIT after it was selected.
    Gone,
    /// Another socket has its place.
    Replaced,
    /// The peer has not acknowledged this number of bytes.
    Unacknowledged(u32),
    /// The socket retransmits data, or probes the peer's window.
    Sending,
    /// The socket sent data this long ago, after the peer's FIN.
    InUse(Duration),
    /// The socket sent data this long ago, perhaps after the peer's FIN, whose arrival was not seen.
    PerhapsInUse(Duration),
    /// The kernel does not report the sent data.
    SentUnknown,
    /// No process of the filter has a descriptor of the socket.
    NotHeld,
    /// The owners of the socket cannot be checked, for this reason.
    OwnersUnknown(String),
    /// Data came in this long ago, which is less than the filter's age, and the FIN came after it.
    TooYoung(Duration),
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Left => {
                write!(f, "it has left CLOSE_WAIT; only its descriptor is left, and that its program has to close")
            }
            Self::Mptcp => write!(f, "it speaks MPTCP, of which single subflows alone can be destroyed"),
            Self::NeverAccepted => {
                write!(f, "not accepted yet: destroying it hides it without freeing its backlog slot")
            }
            Self::Unidentified => {
                write!(f, "it is not known well enough to find it again (namespace, and cookie or inode); try --alone")
            }
            Self::Namespace(why) | Self::Denied(why) => write!(f, "its network namespace cannot be looked into: {why}"),
            Self::Gone => write!(f, "it left CLOSE_WAIT after it was listed"),
            Self::Replaced => write!(f, "another socket has its place: same ends, another cookie or inode"),
            Self::Unacknowledged(bytes) => write!(
                f,
                "{bytes} bytes that it has written are on their way: a half-closed connection in use, or one that ends by itself"
            ),
            Self::Sending => {
                write!(f, "it is sending something again: a half-closed connection in use, or one that ends by itself")
            }
            Self::InUse(ago) => write!(
                f,
                "it sent data {} ago, after the peer's FIN, and the peer took it: a half-closed connection in use",
                duration(*ago)
            ),
            Self::PerhapsInUse(ago) => write!(
                f,
                "it sent data {} ago, and the agent did not see whether the peer's FIN came before: perhaps a half-closed connection in \
                 use. An agent sees that; without one, wait until it has been silent for {}",
                duration(*ago),
                duration(STREAM_OVER)
            ),
            Self::SentUnknown => write!(f, "the kernel does not say when it last sent data"),
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

/// Outcome for a socket that was to be destroyed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// The kernel destroyed the socket.
    Destroyed,
    /// The socket no longer existed.
    GoneBefore,
    /// The socket no longer existed, and another had the same ends.
    Replaced,
    /// Something has changed that speaks against it.
    Refused(Refusal),
    /// The kernel would not.
    Failed(Failure),
}

/// Reason why the kernel did not destroy a socket.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Failure {
    /// A capability is missing.
    Denied(String),
    /// The kernel has no `SOCK_DESTROY`.
    Unsupported,
    /// The kernel reported success, and the socket still exists.
    StillThere,
    /// Something else.
    Other(String),
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Denied(why) | Self::Other(why) => f.write_str(why),
            Self::Unsupported => f.write_str("the kernel has no SOCK_DESTROY for TCP (CONFIG_INET_DIAG_DESTROY)"),
            Self::StillThere => f.write_str("the kernel said that it was destroyed, and it is still there"),
        }
    }
}

impl Outcome {
    /// The word that JSON uses.
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

/// Checks whether the selection is enough to find the socket.
///
/// # Errors
///
/// Returns a refusal if it is not, or if it is itself a reason against it.
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

/// The socket that was selected, among all that have its ends: there may be one for each interface. Whether it may be
/// destroyed is for [`Target::check`].
///
/// # Errors
///
/// If it is not to be destroyed, or not there any more.
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
    Ok(Target { netns, local, remote, cookie, inode, interface, entered: selected.entered() })
}

/// Checks whether the socket can be as old as the filter requires, by the kernel's own ages: the FIN arrives after the
/// last data.
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
    /// Checks whether the socket may be destroyed at `now`, by the kernel's facts.
    ///
    /// # Errors
    ///
    /// Returns a refusal if it is another socket, or a condition does not hold.
    pub fn check(&self, facts: &CurrentSocket, now: BootTime) -> Result<(), Refusal> {
        let Self { netns: _, local, remote, cookie, inode, interface, entered } = *self;
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
        check_sent(facts.sent.ok_or(Refusal::SentUnknown)?, entered.map(|entered| now.since(entered)))
    }
}

/// All that was sent was acknowledged, and a peer that has closed answers data with a RST: so if any was sent after the FIN,
/// the peer reads still. That may be long over.
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
