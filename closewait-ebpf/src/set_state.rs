//! `inet_sock_set_state`: sockets that enter and exit CLOSE_WAIT.
//!
//! The tracepoint fires before `sk_state` changes, for every TCP state change in every network namespace
//! (`inet_sk_set_state`, net/ipv4/af_inet.c at v5.10).

use core::ffi::c_void;

use aya_ebpf::{
    EbpfContext,
    programs::{BtfTracePointContext, TracePointContext},
};
use aya_log_ebpf::debug;
use closewait_common::{
    Record,
    config::openers as keeps,
    histogram,
    record::{flag, kind},
    slots::Stay,
    stats::Counter,
    tcp::{AF_INET, IPPROTO_MPTCP, IPPROTO_TCP, state},
};

use crate::{
    connect,
    globals::{ability, trace_layout},
    maps, progress,
    sock::{self, Pointer, Probed, Typed},
    task, time,
};

/// Change of state that begins or ends CLOSE_WAIT.
struct Change {
    /// Address of the socket.
    sk: u64,
    old: u8,
    new: u8,
    protocol: u16,
}

impl Change {
    /// Creates a change; `None` for a socket of another protocol. SCTP shares the tracepoint and uses the same numbers for other states.
    #[inline(always)]
    fn new(sk: impl Pointer, old: u64, new: u64, protocol: Option<u16>) -> Option<Self> {
        let protocol = protocol.filter(|protocol| *protocol == IPPROTO_TCP || *protocol == IPPROTO_MPTCP)?;
        Some(Self { sk: sk.address(), old: old as u8, new: new as u8, protocol })
    }
}

/// Handles the BTF-typed tracepoint: its arguments are the socket and the two states.
#[inline(always)]
pub(crate) fn btf(ctx: &BtfTracePointContext) {
    let (sk, old, new) = (Typed::new(ctx.arg::<*const c_void>(0)), ctx.arg::<u64>(1), ctx.arg::<u64>(2));
    // First: four of five changes are none of these.
    if !is_of_close_wait(old, new) {
        other_change(sk, old, new);
        return;
    }
    let openers = ability!(openers);
    let Some(change) = Change::new(sk, old, new, sock::protocol(sk)) else { return };
    // A client that closes first leaves no other sign that it was served.
    if change.new == state::LAST_ACK && maps::watches_any() {
        count_close(sk);
    }
    let defers = || {
        if ability!(defers) == 0 {
            return false;
        }
        // Only this program can assign one: later ones have the address of the socket, but not its type.
        sock::cookie(sk);
        // The same is true for the opener.
        openers == keeps::NONE || (openers == keeps::WATCHED && !(maps::watches_any() && task::has_opener(sk)))
    };
    // Only where the program defers: else the agent counts nothing there, and the exit of a socket that is not pending needs its record.
    let counts = |dwell, now_ns| change.new == state::LAST_ACK && counts_pass(sk, change.protocol, dwell, now_ns);
    record(ctx, &change, defers, counts, |record| {
        let tcp = sk.tcp(change.protocol);
        sock::identify(sk, tcp, record);
        if record.kind == kind::ENTER {
            record.cookie = sock::cookie(sk);
            if openers == keeps::ALL || (openers != 0 && maps::watches_any()) {
                task::describe_opener(sk, record);
            }
        } else {
            // Assigned at the entry, or by the scan of older sockets.
            record.cookie = sock::known_cookie(sk);
        }
        let healthy = is_healthy(record);
        if healthy && record.kind == kind::ENTER {
            return;
        }
        if record.kind == kind::LEAVE {
            match tcp {
                Some(tcp) => sock::describe_file(sock::typed_socket(tcp), record),
                None => sock::describe_file(sock::socket(sk), record),
            }
        }
        if healthy {
            return;
        }
        sock::describe(sk, sock::socket(sk), record);
        sock::describe_tcp(tcp, record);
        if record.kind == kind::LEAVE {
            progress::describe_writing(tcp, record);
            // Without an error, the current task made the change: it closed the socket or its listener. With one, a
            // packet or a timer made it, and the current task was only interrupted.
            if record.sk_err == 0 {
                task::describe_task(record);
            }
        }
    });
}

/// Whether a change begins or ends CLOSE_WAIT.
#[inline(always)]
fn is_of_close_wait(old: u64, new: u64) -> bool {
    old == u64::from(state::CLOSE_WAIT) || new == u64::from(state::CLOSE_WAIT)
}

/// Handles a change that neither begins nor ends CLOSE_WAIT: a program connects or closes a socket.
#[inline(always)]
fn other_change(sk: Typed, old: u64, new: u64) {
    if old == u64::from(state::ESTABLISHED) {
        if ends_own_side(new) && maps::watches_any() {
            count_close(sk);
        }
        return;
    }
    let (openers, samples) = (ability!(openers), ability!(connects) != 0);
    if (openers == 0 && !samples) || !connects(old, new) {
        return;
    }
    // `tcp_v4_connect` runs in the connecting task, and has set the remote port (net/ipv4/tcp_ipv4.c at v5.10).
    let is_kept = openers == keeps::ALL || (openers != 0 && connects_to_watched(sk));
    if is_kept && sock::protocol(sk) == Some(IPPROTO_TCP) {
        task::keep_opener(sk);
    }
    if samples && sock::protocol(sk) == Some(IPPROTO_TCP) {
        connect::sample(sk);
    }
}

/// Whether a program connects a socket.
#[inline(always)]
fn connects(old: u64, new: u64) -> bool {
    old == u64::from(state::CLOSE) && new == u64::from(state::SYN_SENT)
}

/// Whether the remote port of a new connection is watched.
#[inline(always)]
fn connects_to_watched(sk: Typed) -> bool {
    maps::watches_any() && progress::remote_port_key(sk).and_then(maps::watched).is_some()
}

/// Whether a change to this state means that the own program closes the connection, or that either side resets it.
#[inline(always)]
fn ends_own_side(new: u64) -> bool {
    new == u64::from(state::FIN_WAIT1) || new == u64::from(state::CLOSE)
}

/// Counts the close of an accepted connection of a watched port by its program, if that has sent data since the start
/// of the watch.
#[inline(always)]
fn count_close(sk: Typed) {
    // A reset by the peer, a timeout and SOCK_DESTROY leave an error (`tcp_reset`, net/ipv4/tcp_input.c at v5.10).
    if !sock::is_accepted(sk) || sock::protocol(sk) != Some(IPPROTO_TCP) || sock::has_error(sk) {
        return;
    }
    let Some(tcp) = sk.tcp(IPPROTO_TCP) else { return };
    let Some(key) = progress::port_key(tcp) else { return };
    let Some(watched) = maps::watched(key) else { return };
    let now_ns = time::boot_ns();
    // SAFETY: `watched` points to a map value of that type.
    let since_ns = unsafe { &raw const (*watched).since_ns };
    // SAFETY: as above. The agent replaces a value as a whole, and 8 aligned bytes do not tear.
    let since_ns = unsafe { since_ns.read() };
    if progress::has_sent_for(tcp, now_ns.saturating_sub(since_ns)) {
        maps::count_close(watched, now_ns);
    }
}

/// Counts the pass of a socket instead of a record, if its program has closed it and the agent has the flow counted. Returns whether it
/// was counted.
#[inline(always)]
fn counts_pass(sk: Typed, protocol: u16, dwell: (usize, u64), now_ns: u64) -> bool {
    let Some(tcp) = sk.tcp(protocol) else { return false };
    // One that still has a descriptor needs its record.
    if sock::typed_socket(tcp).and_then(sock::file_is_gone) != Some(true) {
        return false;
    }
    let Some(key) = sock::pass_key(sk, tcp) else { return false };
    maps::count_pass(key, || sock::cgroup(sk).unwrap_or(0), dwell, now_ns)
}

/// Whether no output will show the details of the record's socket: it is not stuck, or not yet. When a socket gets
/// stuck, the agent reads them again.
#[inline(always)]
fn is_healthy(record: &Record) -> bool {
    let healthy_below_ns = ability!(healthy_below_ns);
    match record.kind {
        kind::ENTER => healthy_below_ns > 0,
        // A socket that exits in another way than by close() or shutdown() can leave a descriptor behind.
        _ if record.new_state != state::LAST_ACK => false,
        _ => record.entered_ns != 0 && record.time_ns.saturating_sub(record.entered_ns) < healthy_below_ns,
    }
}

/// Handles the classic tracepoint, whose record has the layout in tracefs.
#[inline(always)]
pub(crate) fn classic(ctx: &TracePointContext) {
    let fields = Probed::new(ctx.as_ptr());
    let Some(sk) = fields.follow(trace_layout!(skaddr)) else { return };
    let Some(old) = fields.read::<i32>(trace_layout!(oldstate)) else { return };
    let Some(new) = fields.read::<i32>(trace_layout!(newstate)) else { return };
    let (old, new) = (old as u64, new as u64);
    if ability!(connects) != 0 && connects(old, new) {
        if fields.read(trace_layout!(protocol)) == Some(IPPROTO_TCP) {
            connect::sample(sk);
        }
        return;
    }
    if !is_of_close_wait(old, new) {
        return;
    }
    let Some(change) = Change::new(sk, old, new, fields.read(trace_layout!(protocol))) else { return };
    // Nothing could read the socket later.
    record(
        ctx,
        &change,
        || false,
        |_dwell, _now_ns| false,
        |record| {
            record.sk = sk.address();
            record.family = fields.read(trace_layout!(family)).unwrap_or(0);
            record.local_port = fields.read(trace_layout!(sport)).unwrap_or(0);
            record.remote_port = fields.read(trace_layout!(dport)).unwrap_or(0);
            if record.family == AF_INET {
                sock::map_v4(&mut record.local_address, fields.read(trace_layout!(saddr)).unwrap_or(0));
                sock::map_v4(&mut record.remote_address, fields.read(trace_layout!(daddr)).unwrap_or(0));
            } else {
                let _unread: Option<()> = fields.read_into(trace_layout!(saddr_v6), &raw mut record.local_address);
                let _unread: Option<()> = fields.read_into(trace_layout!(daddr_v6), &raw mut record.remote_address);
            }
            if change.new == state::LAST_ACK {
                task::describe_task(record);
            }
        },
    );
}

/// Stores or removes the time of entry, counts, and writes the record, except for an entry whose record is deferred, and for the exit of
/// a socket without a record that `counts` counts with the bucket of its dwell time, that itself, and the time.
#[inline(always)]
fn record(
    ctx: &impl EbpfContext,
    change: &Change,
    defers: impl FnOnce() -> bool,
    counts: impl FnOnce((usize, u64), u64) -> bool,
    fill: impl FnOnce(&mut Record),
) {
    let now_ns = time::boot_ns();
    let sk = change.sk;
    let (kind, entered_ns, flags) = if change.new == state::CLOSE_WAIT {
        maps::count(Counter::Entered);
        if maps::store_entry(sk, now_ns, defers()) {
            return;
        }
        (kind::ENTER, now_ns, 0)
    } else {
        match maps::take_entry(sk) {
            Some(Stay { entered_ns, is_pending }) => {
                let dwell_ns = now_ns.saturating_sub(entered_ns);
                let bucket = histogram::index(dwell_ns);
                maps::count_dwell(bucket);
                if is_pending && counts((bucket, dwell_ns), now_ns) {
                    return;
                }
                (kind::LEAVE, entered_ns, if is_pending { flag::ENTERED } else { 0 })
            }
            None => {
                maps::count(Counter::LeftUnseen);
                (kind::LEAVE, 0, 0)
            }
        }
    };
    debug!(ctx, "state {} -> {}, protocol {}", change.old, change.new, change.protocol);
    maps::emit(|record| {
        record.kind = kind;
        record.flags = flags;
        record.old_state = change.old;
        record.new_state = change.new;
        record.protocol = change.protocol;
        record.time_ns = now_ns;
        record.entered_ns = entered_ns;
        fill(record);
    });
}
