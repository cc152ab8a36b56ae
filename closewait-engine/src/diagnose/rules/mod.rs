//! The rules, one file each, and their order.

mod abandoned_response;
mod accept_stopped;
mod close_missing;
mod event_loop_blocked;
mod gone;
mod half_close;
mod hung_since;
mod inherited;
mod never_accepted;
mod never_read;
mod peer_event;
mod pool;
mod probe;
mod proxy_wait;
mod response_leaked;
mod shared;
mod slow;
mod transient;
mod unanswered;
mod unheld;
mod young;

pub use self::half_close::SILENT as STREAM_OVER;
use super::Rule;

/// All rules, in the order in which they are asked. The order is part of what they mean:
///
/// - What the kernel says of this very socket comes first: that it is gone, was never accepted, is held by nobody, that
///   its peer still reads.
/// - `transient` and `young` take what is younger than the age at which a socket counts as stuck, so that no rule below
///   them accuses a program of what may be over in a moment.
/// - Reasons outside of the program that could be blamed come before it: a descriptor that another process keeps, another
///   connection that a proxy waits for.
/// - `event_loop_blocked` comes before the other signs of a hang, as it names the reason and they only the fact.
/// - `slow` comes before everything that calls a server hung or a leak.
/// - `probe` comes after the signs of a hang: a health check that a hung server does not notice is not the cause.
pub const RULES: &[&dyn Rule] = &[
    &gone::Gone,
    &accept_stopped::AcceptStopped,
    &never_accepted::NeverAccepted,
    &unheld::Unheld,
    &half_close::HalfClose,
    &transient::Transient,
    &young::Young,
    &inherited::Inherited,
    &proxy_wait::ProxyWait,
    &event_loop_blocked::EventLoopBlocked,
    &slow::Slow,
    &never_read::NeverRead,
    &hung_since::HungSince,
    &probe::Probe,
    &shared::Shared,
    &unanswered::UnansweredRequest,
    &close_missing::CloseMissing,
    &abandoned_response::AbandonedResponse,
    &pool::GrowingPool,
    &pool::Pool,
    &response_leaked::ResponseLeaked,
    &peer_event::PeerEvent,
];
