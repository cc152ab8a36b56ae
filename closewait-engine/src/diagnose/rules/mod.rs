//! Rules in their order of evaluation.

mod accept_stopped;
mod accumulates;
mod backend_stuck;
mod blocked;
mod busy;
mod client_blocked;
mod forgotten;
mod gone;
mod half_close;
mod inherited;
mod never_accepted;
mod own_pool;
mod owner_stopped;
mod partly_blocked;
mod peers_wait;
mod pool;
mod proxy_wait;
mod queue;
mod reads_slowly;
mod sending;
mod shared;
mod slow;
mod undecided;
mod unheld;
mod working;

use std::time::Duration;

use super::{
    Case, Rule,
    evidence::{MIN_DEMAND, OwnLoops},
};
use crate::{model::Certainty, process::ProgramRuntime};

pub use self::{backend_stuck::BACKEND_STUCK, half_close::SILENT as STREAM_OVER};

/// All rules in their order of evaluation. A rule relies on the rules before it:
///
/// - Facts about one socket come first: the connection has ended, no program has accepted the socket or has a descriptor of it, the
///   peer still reads.
/// - `fresh` excludes groups that are too young to judge.
/// - Facts about the whole group follow, equal for all of its sockets: the owner is stopped, the peers wait, the program sends.
/// - Causes that do not blame the program that serves the socket alone precede those that do: a copy of the descriptor in another
///   process, a program that is slow but finishes, a backend that a server or a proxy waits for.
/// - Rules that blame a program come after all of these; each declares the counter-evidence that it checks.
/// - The last rules report that the evidence does not decide, and which evidence would.
pub const RULES: &[&dyn Rule] = &[
    &gone::Gone,
    &accept_stopped::AcceptStopped,
    &never_accepted::NeverAccepted,
    &unheld::Unheld,
    &half_close::HalfClose,
    &undecided::Fresh,
    &owner_stopped::OwnerStopped,
    &inherited::Inherited,
    &sending::Sending,
    &peers_wait::PeersWait,
    &reads_slowly::ReadsSlowly,
    &pool::Pool,
    &slow::Slow,
    &backend_stuck::BackendStuck,
    &proxy_wait::ProxyWait,
    &busy::BusyThread,
    &queue::Queue,
    &inherited::ChildKeeps,
    &working::Working,
    &forgotten::Forgotten,
    &blocked::Blocked,
    &own_pool::OwnPool,
    &partly_blocked::PartlyBlocked,
    &client_blocked::ClientBlocked,
    &accumulates::Accumulates,
    &shared::Shared,
    &working::ServesOthers,
    &accumulates::UnreadResponse,
    &undecided::NoDemand,
    &undecided::TooEarly,
    &accumulates::ClientUndecided,
];

/// Minimum age of a group's oldest socket for a certainty above `low` where a slow program looks the same until then.
const SURE_AGE: Duration = Duration::from_secs(60);
/// Minimum age of a group's oldest socket for a guess that a healthy program would contradict by then.
const SOME_AGE: Duration = Duration::from_secs(15);
/// Highest descriptor that a super-server passes to the program that it starts: a connection is standard input, output and error,
/// or for systemd the descriptor after these (`SD_LISTEN_FDS_START`).
const HANDED_OVER: u32 = 3;
/// The same for a connection that a program opened and passes on, as `socat` and the proxy commands of `ssh` do.
const STANDARD_ERROR: u32 = 2;

/// Next step for threads that wait for a connection of a pool.
const FIND_POOL_USER: &str = "see which code takes connections of the pool and does not return them";
/// Next step if tasks wait for a result that does not come.
const FIND_TASK: &str = "see which task should bring what they wait for, and whether it has ended with an error";

/// Whether at most one process has a connection as another descriptor than these: a super-server, a shell or a server of CGI
/// programs passes it on intentionally. `None` if the descriptors are unknown.
fn is_passed_on(case: &Case<'_>) -> Option<bool> {
    // Only a super-server uses the descriptor after these.
    let last = if case.is_client() { STANDARD_ERROR } else { HANDED_OVER };
    let mut own = case.owners?.iter().filter(|owner| owner.fd > last).map(|owner| owner.task.pid);
    let first = own.next();
    Some(own.all(|pid| Some(pid) == first))
}

/// Whether a program got a connection from the program that started it: all of its descriptors are at most [`HANDED_OVER`].
/// `None` if the descriptors are unknown.
fn is_handed_over(case: &Case<'_>) -> Option<bool> {
    Some(case.owners?.iter().all(|descriptor| descriptor.fd <= HANDED_OVER))
}

/// Whether an owner, or the process of the listener, is a known proxy.
fn is_known_proxy(case: &Case<'_>) -> bool {
    case.processes.iter().any(|process| process.runtime.is_some_and(ProgramRuntime::is_proxy))
}

/// Returns what threads mean that wait in loops of the program's own; `None` if there are none, if other threads may work on the sockets,
/// or if the program has not read most of the sockets: workers without work would have.
fn own_loops(case: &Case<'_>) -> Option<OwnLoops> {
    let loops = case.group.evidence.stacks?.only_loops(case.group.count);
    loops.filter(|_| !case.group.is_mostly_unread())
}

/// Minimum time without progress for a certainty of `medium`: jobs of half a minute are common.
const STALLED: Duration = Duration::from_secs(60);
/// Minimum time without progress for a certainty of `high`.
const LONG_STALLED: Duration = Duration::from_secs(180);
/// Minimum number of new connections that a program has not served for a certainty of `high`.
const SURE_DEMAND: u32 = 5;

/// Returns the certainty of a verdict, `surest` at most: `low` before [`STALLED`] or with fewer than [`MIN_DEMAND`] unserved
/// connections, `high` only after [`LONG_STALLED`] and with [`SURE_DEMAND`] of them.
fn sure_from(case: &Case<'_>, surest: Certainty) -> Certainty {
    let (stalled, demand) = (case.stalled(), case.group.evidence.demand);
    let most = if stalled < STALLED || demand < MIN_DEMAND {
        Certainty::Low
    } else if stalled >= LONG_STALLED && demand >= SURE_DEMAND {
        Certainty::High
    } else {
        Certainty::Medium
    };
    // The highest certainty compares as the least.
    most.max(surest)
}

/// Returns the beginning of the text of a verdict that is a guess because it comes early; empty for any other.
fn early(case: &Case<'_>, certainty: Certainty, class: &str) -> String {
    if certainty == Certainty::Low && case.group.oldest < SURE_AGE {
        format!("too early to be sure; it looks {class}: ")
    } else {
        String::new()
    }
}
