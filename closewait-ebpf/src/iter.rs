//! The sockets that are in CLOSE_WAIT now: iterators over all, and a look at one.
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
    Record,
    record::{SIZE, flag, kind},
    tcp::{IPPROTO_MPTCP, IPPROTO_TCP, state},
};

use crate::{
    globals::layout,
    maps::{self, CLOSEWAIT_SINCE},
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
    let Some(record) = maps::work() else { return };
    // By type it is a `struct sock_common`, which is only the beginning.
    if fill(Probed::new(sk), record).is_some() {
        record.kind = kind::PRESENT;
        record.cookie = sock::cookie(Typed::new(sk));
        // SAFETY: as above.
        let meta = unsafe { (*ctx).meta };
        write(meta, record);
    }
}

/// One open file of the walk over all processes.
#[inline(always)]
pub(crate) fn task_file(ctx: *mut c_void) {
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
    let Some(sk) = Probed::new(socket.cast()).follow(layout!(socket_sk)) else { return };
    let Some(record) = maps::work() else { return };
    if fill(sk, record).is_some() {
        record.kind = kind::HELD;
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
        write(meta, record);
    }
}

/// The socket whose address the agent gives as the first argument. It may be gone, and its memory another's: the reads
/// cannot fault, and the agent compares the ends.
#[inline(always)]
pub(crate) fn look(ctx: &RawTracePointContext) {
    let sk = Probed::new(ctx.arg::<*const c_void>(0));
    let Some(found) = maps::work() else { return };
    if fill(sk, found).is_some() {
        found.kind = kind::LOOKED;
        found.cookie = sock::known_cookie(sk);
        maps::emit(|record| *record = *found);
    }
}

/// Fills the record of a socket in CLOSE_WAIT; `None` for any other.
#[inline(always)]
fn fill(sk: Probed, record: &mut Record) -> Option<()> {
    // Before the state is read: the socket was certainly still there at this time.
    record.time_ns = time::boot_ns();
    if sk.read::<u8>(layout!(sock_state))? != state::CLOSE_WAIT {
        return None;
    }
    record.protocol = sock::protocol(sk)?;
    if record.protocol != IPPROTO_TCP && record.protocol != IPPROTO_MPTCP {
        return None;
    }
    record.old_state = state::CLOSE_WAIT;
    record.new_state = state::CLOSE_WAIT;
    let tcp = sk.tcp(record.protocol);
    sock::identify(sk, tcp, record);
    record.entered_ns = maps::peek_entry(&CLOSEWAIT_SINCE, record.sk).unwrap_or(0);
    sock::describe(sk, sock::socket(sk), record);
    sock::describe_tcp(tcp, record);
    sock::describe_ages(sk, record);
    Some(())
}

/// Hands the record to the reader of the iterator. If its buffer is full, the kernel calls the program again for the
/// same object, so the result needs no look.
#[inline(always)]
fn write(meta: *const Meta, record: &Record) {
    // SAFETY: `meta` is the pointer of the context; the verifier checks the read.
    let seq = unsafe { (*meta).seq };
    // SAFETY: `seq` is the file of this walk, and the record is `SIZE` bytes long.
    let _full: i64 = unsafe { bpf_seq_write(seq, core::ptr::from_ref(record).cast(), SIZE as u32) };
}
