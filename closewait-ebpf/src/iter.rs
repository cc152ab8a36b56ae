//! The sockets that are there now: iterators over all, and a look at one.
//!
//! Contexts are `struct bpf_iter__tcp` (net/ipv4/tcp_ipv4.c) and `struct bpf_iter__task_file` (kernel/bpf/task_iter.c),
//! the same from Linux 5.10 to 7.3. Pointers in them are read directly, so that the verifier keeps their types.

use core::ffi::c_void;

use aya_ebpf::{
    bindings::{file, seq_file},
    helpers::generated::{bpf_seq_write, bpf_sock_from_file},
    programs::RawTracePointContext,
};
use closewait_common::{
    Detailed,
    record::{FORMAT, Hold, flag, kind},
    tcp::{IPPROTO_MPTCP, IPPROTO_TCP, state},
};

use crate::{
    globals::layout,
    maps::{self, CLOSEWAIT_SINCE, Worker},
    sock::{self, Pointer, Probed, Typed},
    time,
};

/// `struct bpf_iter_meta`; only the first member is used.
#[repr(C)]
struct Meta {
    seq: *mut seq_file,
}

#[repr(C)]
struct TcpContext {
    meta: *const Meta,
    /// Null at the end of the walk.
    sk: *const c_void,
}

#[repr(C)]
struct TaskFileContext {
    meta: *const Meta,
    /// Null at the end of the walk.
    task: *const c_void,
    fd: u32,
    _pad: u32,
    file: *mut file,
}

/// One socket of the walk over the TCP sockets of a network namespace.
#[inline(always)]
pub(crate) fn tcp(ctx: *mut c_void) {
    let ctx = ctx.cast::<TcpContext>();
    // SAFETY: the kernel calls this program with a context of that type, and the verifier checks the read.
    let sk = unsafe { (*ctx).sk };
    if sk.is_null() {
        return;
    }
    // By type it is a `struct sock_common`, which is only the beginning.
    let sk = Typed::new(sk);
    let Some(kind) = sk.read(layout!(sock_state)).and_then(kind_in_state) else { return };
    let Some(tcp) = sk.tcp(IPPROTO_TCP) else { return };
    let Some(found) = maps::work(Worker::Sockets) else { return };
    if fill(tcp, Some(tcp), kind, found).is_some() {
        if kind == kind::PRESENT {
            found.record.entered_ns = entered_ns(sk);
            found.record.cookie = sock::cookie(sk);
        }
        // SAFETY: as above.
        let meta = unsafe { (*ctx).meta };
        write(meta, found);
    }
}

/// One open file of the walk over all processes.
#[inline(always)]
pub(crate) fn task_file(ctx: *mut c_void) {
    of_file(ctx, |sk, state| match state {
        state::CLOSE | state::LAST_ACK => Some(kind::LINGERING),
        // The walk over TCP sockets does not show those of Multipath TCP.
        state::CLOSE_WAIT if sock::protocol(sk) == Some(IPPROTO_TCP) && sock::netns(sk).is_some_and(maps::is_known) => {
            Some(kind::HOLDS)
        }
        state::CLOSE_WAIT => Some(kind::HELD),
        state => kind_in_state(state),
    });
}

/// One open file of the walk over one process.
#[inline(always)]
pub(crate) fn legs(ctx: *mut c_void) {
    of_file(ctx, |sk, state| match state {
        state::FIN_WAIT1 | state::FIN_WAIT2 => Some(kind::LEG),
        state::ESTABLISHED if sock::awaits_answer(sk) => Some(kind::LEG),
        _ => None,
    });
}

/// The socket whose address the agent gives as the first argument, if it is in CLOSE_WAIT; with a second argument that is
/// not 0, if its connection is over and it has a descriptor. It may be gone, and its memory another's: the reads cannot
/// fault, and the agent compares the ends.
#[inline(always)]
pub(crate) fn look(ctx: &RawTracePointContext) {
    let sk = Probed::new(ctx.arg::<*const c_void>(0));
    let lingering = ctx.arg::<u64>(1) != 0;
    let Some(state) = sk.read::<u8>(layout!(sock_state)) else { return };
    let kind = match state {
        state::CLOSE_WAIT if !lingering => kind::LOOKED,
        state::CLOSE | state::LAST_ACK if lingering => kind::LINGERING,
        _ => return,
    };
    let Some(found) = maps::work(Worker::Files) else { return };
    if fill_probed(sk, kind, found).is_some() {
        found.record.cookie = sock::known_cookie(sk);
        maps::emit_from(*found, |_record| {});
    }
}

#[inline(always)]
fn kind_in_state(state: u8) -> Option<u8> {
    match state {
        state::CLOSE_WAIT => Some(kind::PRESENT),
        state::LISTEN => Some(kind::LISTENING),
        _ => None,
    }
}

/// Writes a record of the file of this context, if it is a socket in a state that matters.
#[inline(always)]
fn of_file(ctx: *mut c_void, kind_of: impl Fn(Probed, u8) -> Option<u8>) {
    let ctx = ctx.cast::<TaskFileContext>();
    // SAFETY: the kernel calls this program with a context of that type, and the verifier checks the read.
    let task = unsafe { (*ctx).task };
    // SAFETY: as above.
    let file = unsafe { (*ctx).file };
    if task.is_null() || file.is_null() {
        return;
    }
    // SAFETY: `file` is the pointer of the context, not null.
    let socket = unsafe { bpf_sock_from_file(file) };
    if socket.is_null() {
        return;
    }
    let socket = Probed::new(socket.cast());
    let Some(sk) = socket.follow(layout!(socket_sk)) else { return };
    let Some(kind) = sk.read(layout!(sock_state)).and_then(|state| kind_of(sk, state)) else { return };
    if kind == kind::HOLDS {
        // SAFETY: as above.
        let meta = unsafe { (*ctx).meta };
        // SAFETY: as above.
        let fd = unsafe { (*ctx).fd } as i32;
        let Some(pid) = Typed::new(task).read(layout!(task_tgid)) else { return };
        let inode = socket.read(layout!(socket_ino)).unwrap_or(0);
        let comm = Probed::new(task).read(layout!(task_comm)).unwrap_or([0; 16]);
        write(meta, &Hold { format: FORMAT, kind, _pad: 0, fd, sk: sk.address(), inode, pid, _more_pad: 0, comm });
        return;
    }
    let Some(found) = maps::work(Worker::Files) else { return };
    if fill_probed(sk, kind, found).is_some() {
        let record = &mut found.record;
        if kind == kind::HELD {
            record.entered_ns = entered_ns(sk);
        }
        record.cookie = sock::known_cookie(sk);
        // SAFETY: as above.
        record.fd = unsafe { (*ctx).fd } as i32;
        let task = Probed::new(task);
        if let Some(pid) = task.read(layout!(task_tgid)) {
            record.pid = pid;
            record.flags |= flag::TASK;
            record.comm = task.read(layout!(task_comm)).unwrap_or([0; 16]);
        }
        // SAFETY: as above.
        let meta = unsafe { (*ctx).meta };
        write(meta, found);
    }
}

/// As [`fill`], of a socket that may be any.
#[inline(always)]
fn fill_probed(sk: Probed, kind: u8, found: &mut Detailed) -> Option<()> {
    let tcp = sk.tcp(sock::protocol(sk)?);
    fill(sk, tcp, kind, found)
}

/// Fills the record of a socket; `None` if it is none of those that matter.
#[inline(always)]
fn fill<P: Pointer>(sk: P, tcp: Option<P>, kind: u8, found: &mut Detailed) -> Option<()> {
    let Detailed { record, detail } = found;
    // Before the state is read again: the socket was certainly still in it at this time.
    record.time_ns = time::boot_ns();
    record.kind = kind;
    record.old_state = sk.read(layout!(sock_state))?;
    record.new_state = record.old_state;
    record.protocol = sock::protocol(sk)?;
    if record.protocol != IPPROTO_TCP && record.protocol != IPPROTO_MPTCP {
        return None;
    }
    sock::identify(sk, tcp, record);
    let socket = sock::socket(sk);
    sock::describe(sk, socket, record);
    if kind == kind::LISTENING {
        sock::describe_listener(sk, record, detail);
        return Some(());
    }
    if kind == kind::LINGERING {
        // Others have never been connected, or were closed by this side first.
        if record.remote_port == 0 || !record.has(flag::FIN_SEEN) {
            return None;
        }
        socket.and_then(|socket| socket.follow(layout!(socket_file)))?;
    }
    sock::describe_tcp(tcp, record);
    sock::describe_ages(tcp, record, detail);
    sock::describe_sending(tcp, record, detail);
    sock::describe_timer(tcp, record, detail);
    Some(())
}

/// When a socket has entered, 0 if that was not seen. Not for [`look`]: the map is not preallocated, and kernels before 6.1
/// print a warning with a stack trace for a raw tracepoint that names such a map (see [`maps`]).
#[inline(always)]
fn entered_ns(sk: impl Pointer) -> u64 {
    maps::peek_entry(&CLOSEWAIT_SINCE, sk.address()).unwrap_or(0)
}

/// Hands the record to the reader of the iterator. If its buffer is full, the kernel calls the program again for the
/// same object, so the result needs no look.
#[inline(always)]
fn write<T: Copy>(meta: *const Meta, found: &T) {
    // SAFETY: `meta` is the pointer of the context; the verifier checks the read.
    let seq = unsafe { (*meta).seq };
    // SAFETY: `seq` is the file of this walk, and the record is as long as its type.
    let _full: i64 = unsafe { bpf_seq_write(seq, core::ptr::from_ref(found).cast(), size_of::<T>() as u32) };
}
