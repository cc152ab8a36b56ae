//! Present sockets: an iterator over open files, and a refresh of one socket.
//!
//! There is no program for the iterator over TCP sockets: on many kernels it has a use-after-free (docs/kernel-safety.md).
//!
//! The context is `struct bpf_iter__task_file` (kernel/bpf/task_iter.c), the same from Linux 5.10 to 7.3. The
//! programs read its pointers directly, so that the verifier keeps their types.

use core::ffi::c_void;

use aya_ebpf::{
    bindings::{file, seq_file},
    helpers::generated::{bpf_seq_write, bpf_sock_from_file},
    programs::RawTracePointContext,
};
use closewait_common::{
    Detailed,
    record::{FORMAT, Hold, flag, kind},
    refresh,
    tcp::{IPPROTO_MPTCP, IPPROTO_TCP, state},
};

use crate::{
    globals::{ability, layout},
    maps::{self, RecordSlot},
    progress,
    sock::{self, Pointer, Probed, Typed},
    time,
};

/// `struct bpf_iter_meta`; only the first member is used.
#[repr(C)]
struct Meta {
    seq: *mut seq_file,
}

#[repr(C)]
struct TaskFileContext {
    meta: *const Meta,
    /// Task of the file; null at the end of the scan.
    task: *const c_void,
    fd: u32,
    _pad: u32,
    file: *mut file,
}

/// Handles one open file of the scan over all processes.
#[inline(always)]
pub(crate) fn task_file(ctx: *mut c_void) {
    of_file(ctx, RecordSlot::Files, |sk, state| match state {
        state::CLOSE | state::LAST_ACK => Some(kind::LINGERING),
        // sock_diag does not list Multipath TCP sockets together with those of TCP.
        state::CLOSE_WAIT if sock::protocol(sk) == Some(IPPROTO_TCP) && sock::netns(sk).is_some_and(maps::is_known) => {
            Some(kind::HOLDS)
        }
        state::CLOSE_WAIT => Some(kind::HELD),
        state::LISTEN => Some(kind::LISTENING),
        _ => None,
    });
}

/// Handles one open file of the scan over one process: reports a connection that its program closed first, that waits
/// for an answer, or that was used recently.
#[inline(always)]
pub(crate) fn proxy_peers(ctx: *mut c_void) {
    of_file(ctx, RecordSlot::ProxyPeers, |sk, state| match state {
        state::FIN_WAIT1 | state::FIN_WAIT2 => Some(kind::PROXY_PEER),
        state::ESTABLISHED if progress::is_busy(sk) => Some(kind::PROXY_PEER),
        _ => None,
    });
}

/// Reports the socket whose address is the first argument, if it is in the state that the second argument names
/// ([`closewait_common::refresh`]). The kernel may have freed and reused the memory: the reads cannot fault, and the agent compares the
/// endpoints.
#[inline(always)]
pub(crate) fn refresh(ctx: &RawTracePointContext) -> i32 {
    let sk = Probed::new(ctx.arg::<*const c_void>(0));
    let wanted = ctx.arg::<u64>(1);
    let Some(state) = sk.read::<u8>(layout!(sock_state)) else { return refresh::ABSENT };
    let kind = match (state, wanted) {
        (state::CLOSE_WAIT, refresh::ENTERED) => return announce(sk),
        (state::CLOSE_WAIT, refresh::WAITING) => kind::REFRESHED,
        (state::CLOSE | state::LAST_ACK, refresh::LINGERING) => kind::LINGERING,
        _ => return refresh::ABSENT,
    };
    let Some(found) = maps::work(RecordSlot::Refresh) else { return refresh::ABSENT };
    if fill_probed(sk, kind, found).is_none() {
        return refresh::ABSENT;
    }
    if kind == kind::REFRESHED {
        found.record.entered_ns = entered_ns(sk);
    }
    found.record.cookie = sock::known_cookie(sk);
    if maps::emit_from(*found, |_record| {}) { refresh::WRITTEN } else { refresh::FULL }
}

/// Writes the record of the entry of a socket that has a slot. The agent takes the record only if it announces the same stay after
/// this. So all reads here, which begin with that of the stay, were reads of this socket.
#[inline(always)]
fn announce(sk: Probed) -> i32 {
    let Some(entered_ns) = maps::peek_slot(sk.address()) else { return refresh::ABSENT };
    let Some(protocol) = sock::protocol(sk) else { return refresh::ABSENT };
    let is_written = maps::try_emit(sock::EMPTY, |record| {
        record.kind = kind::ENTER;
        record.flags = flag::ANNOUNCED;
        record.old_state = state::CLOSE_WAIT;
        record.new_state = state::CLOSE_WAIT;
        record.protocol = protocol;
        record.time_ns = entered_ns;
        record.entered_ns = entered_ns;
        sock::identify(sk, sk.tcp(protocol), record);
        record.cookie = sock::known_cookie(sk);
    });
    if is_written { refresh::WRITTEN } else { refresh::FULL }
}

/// Writes a record of the file of this context, if it is a socket in a relevant state.
#[inline(always)]
fn of_file(ctx: *mut c_void, worker: RecordSlot, kind_of: impl Fn(Probed, u8) -> Option<u8>) {
    let ctx = ctx.cast::<TaskFileContext>();
    // SAFETY: the kernel calls this program with a context of that type, and the verifier checks the read.
    let task = unsafe { (*ctx).task };
    // SAFETY: as above.
    let file = unsafe { (*ctx).file };
    if task.is_null() || file.is_null() {
        return;
    }
    let Some(socket) = socket_of(file) else { return };
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
        let (sk, time_ns) = (sk.address(), time::boot_ns());
        write(meta, &Hold { format: FORMAT, kind, _pad: 0, fd, sk, inode, time_ns, pid, _more_pad: 0, comm });
        return;
    }
    let Some(found) = maps::work(worker) else { return };
    if fill_probed(sk, kind, found).is_some() {
        let record = &mut found.record;
        if kind == kind::HELD {
            record.entered_ns = entered_ns(sk);
        }
        if kind != kind::PROXY_PEER {
            record.cookie = sock::known_cookie(sk);
        }
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

/// Returns the `struct socket` of an open file, if the file is a socket.
#[inline(always)]
fn socket_of(file: *mut file) -> Option<Probed> {
    if ability!(socket_of_file) == 1 {
        // SAFETY: `file` is the pointer of the context, not null.
        let socket = unsafe { bpf_sock_from_file(file) };
        return (!socket.is_null()).then_some(Probed::new(socket.cast()));
    }
    // This helper came with Linux 5.11. It compares `f_op` with an address that no program knows. So on older kernels
    // this checks that the inode of the file is a socket's, and that the private data points back to the file
    // (`sock_alloc_file`, net/socket.c at v5.10).
    const FORMAT_BITS: u16 = 0o170_000;
    const SOCKET: u16 = 0o140_000;
    let of = Probed::new(file.cast());
    let mode: u16 = of.follow(layout!(file_inode))?.read(layout!(inode_mode))?;
    let socket = of.follow(layout!(file_private_data)).filter(|_| mode & FORMAT_BITS == SOCKET)?;
    let back = socket.follow(layout!(socket_file))?;
    (back.address() == of.address()).then_some(socket)
}

/// Fills the record of an untyped socket, as [`fill`] does.
#[inline(always)]
fn fill_probed(sk: Probed, kind: u8, found: &mut Detailed) -> Option<()> {
    let tcp = sk.tcp(sock::protocol(sk)?);
    fill(sk, tcp, kind, found)
}

/// Fills the record of a socket; `None` if it is not relevant.
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
    if kind == kind::PROXY_PEER {
        // The engine finds the other side of a proxied connection by its endpoints, its side and its times of use, and
        // shows nothing else of it. A process may have thousands of them, and each read takes 20 ns.
        sock::identify_connection(sk, tcp, record);
        sock::describe_tcp(tcp, record);
        sock::describe_ages(tcp, record, detail);
        return Some(());
    }
    sock::identify(sk, tcp, record);
    let socket = sock::socket(sk);
    sock::describe(sk, socket, record);
    if kind == kind::LISTENING {
        sock::describe_listener(sk, record, detail);
        return Some(());
    }
    if kind == kind::LINGERING {
        // Other sockets have never been connected, or this side has closed first.
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

/// Returns the time of entry of a socket, nanoseconds of `CLOCK_BOOTTIME`; 0 if the entry was not observed.
#[inline(always)]
fn entered_ns(sk: impl Pointer) -> u64 {
    maps::peek_entry(sk.address()).unwrap_or(0)
}

/// Hands the record to the reader of the iterator. If its buffer is full, the kernel calls the program again for the
/// same object, so the result does not matter.
#[inline(always)]
fn write<T: Copy>(meta: *const Meta, found: &T) {
    // SAFETY: `meta` is the pointer of the context; the verifier checks the read.
    let seq = unsafe { (*meta).seq };
    // SAFETY: `seq` is the file of this scan, and the record is as long as its type.
    let _full: i64 = unsafe { bpf_seq_write(seq, core::ptr::from_ref(found).cast(), size_of::<T>() as u32) };
}
