//! The rules, one file each, and their order.

mod accept_stopped;
mod accumulates;
mod blocked;
mod busy;
mod forgotten;
mod gone;
mod half_close;
mod inherited;
mod never_accepted;
mod owner_stopped;
mod peers_wait;
mod pool;
mod proxy_wait;
mod queue;
mod sending;
mod shared;
mod slow;
mod undecided;
mod unheld;
mod working;

use std::time::Duration;

use super::{Case, Rule};
use crate::model::Certainty;

pub use self::half_close::SILENT as STREAM_OVER;

/// All rules, in the order in which they are checked. The order is part of what they mean:
///
/// - Facts of one socket come first: that its connection is over, that no program accepted it or has it, that its peer reads.
/// - What is `fresh` is not judged.
/// - Facts of the whole group follow, each the same for all of its sockets: its owner is stopped, its peers wait, it sends.
/// - Reasons outside of the program that could be blamed come before it: a descriptor that another process has, a program that
///   is slow and finishes, a backend that a proxy waits for.
/// - Rules that blame come after all of these; each declares the evidence that would speak against it.
/// - The last ones say that nothing decides, and what would.
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
    &pool::Pool,
    &slow::Slow,
    &proxy_wait::ProxyWait,
    &busy::BusyThread,
    &queue::Queue,
    &working::Working,
    &forgotten::Forgotten,
    &blocked::Blocked,
    &blocked::PartlyBlocked,
    &accumulates::Accumulates,
    &shared::Shared,
    &working::ServesOthers,
    &accumulates::UnreadResponse,
    &undecided::NoDemand,
    &undecided::TooEarly,
    &accumulates::ClientUndecided,
];

/// Age of the oldest socket of a group from which on a verdict can be sure.
const SURE_AGE: Duration = Duration::from_secs(60);
/// Age of the oldest socket of a group from which on a verdict can be more than a guess.
const SOME_AGE: Duration = Duration::from_secs(15);
/// Super-servers hand a connection to the program that they start as standard input, output and error, systemd as the
/// descriptor after these (`SD_LISTEN_FDS_START`).
const HANDED_OVER: u32 = 3;

/// Whether a program got a connection as one of these descriptors from the program that started it; `None` if its descriptors are
/// not known.
fn is_handed_over(case: &Case<'_>) -> Option<bool> {
    Some(case.owners?.iter().all(|descriptor| descriptor.fd <= HANDED_OVER))
}

/// New connections that a program has to leave unserved so that a verdict is sure.
const SURE_DEMAND: u32 = 5;

/// Certainty of a verdict that could be as sure as `surest`: too early it is a guess, and sure only after a minute and with several
/// connections that were not served.
fn sure_from(case: &Case<'_>, surest: Certainty) -> Certainty {
    let (age, demand) = (case.group.oldest, case.group.evidence.demand);
    let most = if age < SOME_AGE || demand < 2 {
        Certainty::Low
    } else if age >= SURE_AGE && demand >= SURE_DEMAND {
        Certainty::High
    } else {
        Certainty::Medium
    };
    // The surest comes first.
    most.max(surest)
}

/// Beginning of a text for a verdict that is a guess because it is given early.
fn early(case: &Case<'_>, certainty: Certainty, class: &str) -> String {
    if certainty == Certainty::Low && case.group.oldest < SURE_AGE {
        format!("too early to be sure; it looks {class}: ")
    } else {
        String::new()
    }
}
