//! Progress of a program: recent use of its connections, and watched ports.

use closewait_common::{Record, record::flag, watched};

use crate::{
    globals::{ability, layout},
    sock::{Pointer, is_accepted, netns, typed_netns},
    time,
};

/// Whether an open connection was used recently, or its program has connected it, has sent data and received none
/// since, as far as this is known.
#[inline(always)]
pub(crate) fn is_busy(sk: impl Pointer) -> bool {
    let is_accepted = is_accepted(sk);
    let Some(sent) = sk.read::<u32>(layout!(tcp_lsndtime)) else { return !is_accepted };
    let Some(received) = sk.read::<u32>(layout!(tcp_lrcvtime)) else { return !is_accepted };
    (!is_accepted && sent.wrapping_sub(received) as i32 >= 0) || is_recent(sent) || is_recent(received)
}

/// Whether a time of TCP, in ticks, is less than a minute ago. Another CPU with a later clock may have written it
/// just now.
#[inline(always)]
fn is_recent(at: u32) -> bool {
    const AHEAD: u32 = 16;
    const RECENT_NS: u64 = 60_000_000_000;
    let Some(recent) = RECENT_NS.checked_div(u64::from(ability!(tick_ns))) else { return false };
    u64::from(time::ticks().wrapping_sub(at).wrapping_add(AHEAD)) < recent + u64::from(AHEAD)
}

/// Returns the key of a socket's local port among the watched ones.
#[inline(always)]
pub(crate) fn port_key(tcp: impl Pointer) -> Option<u64> {
    let port = u16::from_be(tcp.read(layout!(inet_sport))?);
    Some(watched::key(typed_netns(tcp)?, port, false))
}

/// Returns the key of a socket's remote port among the watched ones.
#[inline(always)]
pub(crate) fn remote_port_key(sk: impl Pointer) -> Option<u64> {
    let port = u16::from_be(sk.read(layout!(sock_dport))?);
    Some(watched::key(netns(sk)?, port, true))
}

/// Whether the program has certainly sent data within the last `time_ns` nanoseconds: times of TCP are in ticks,
/// rounded down.
#[inline(always)]
pub(crate) fn has_sent_for(tcp: impl Pointer, time_ns: u64) -> bool {
    let tick_ns = u64::from(ability!(tick_ns));
    let Some(sent_bytes) = tcp.read::<u64>(layout!(tcp_bytes_sent)) else { return false };
    let Some(sent) = tcp.read::<u32>(layout!(tcp_lsndtime)) else { return false };
    // Upper bound of the time since then; another CPU may be a tick ahead.
    let ticks = u64::from(time::ticks().wrapping_sub(sent).wrapping_add(1));
    sent_bytes > 0 && tick_ns != 0 && ticks.wrapping_mul(tick_ns) <= time_ns
}

/// Sets whether the program sent data after the entry, as one that answers a peer which has gone does.
#[inline(always)]
pub(crate) fn describe_writing(tcp: Option<impl Pointer>, record: &mut Record) {
    let Some(tcp) = tcp else { return };
    if record.entered_ns == 0 || ability!(tick_ns) == 0 {
        return;
    }
    record.flags |= flag::WROTE_KNOWN;
    if has_sent_for(tcp, record.time_ns.saturating_sub(record.entered_ns)) {
        record.flags |= flag::WROTE;
    }
}
