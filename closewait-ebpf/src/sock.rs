//! The only reader of kernel structs.
//!
//! Every read is at an address from the kernel plus an offset from its own BTF. There are two types of pointers:
//!
//! - [`Probed`]: any address. `bpf_probe_read_kernel` reads it, a call of some 20 ns that fails instead of faulting.
//! - [`Typed`]: a pointer whose type the verifier knows, because it came as an argument or from a helper. A read is
//!   one instruction, checked against the kernel's BTF when the program is loaded; on a bad address it returns 0. So is a
//!   pointer that such a read returns ([`Pointer::descend`]).
//!
//! The tracepoint's program runs in the path of every connection, so it uses the second type.

use core::{ffi::c_void, mem::MaybeUninit};

use aya_ebpf::helpers::generated::{bpf_get_socket_cookie, bpf_probe_read_kernel, bpf_skc_to_tcp_sock};
use closewait_common::{
    Detailed, Record,
    config::MISSING,
    passes,
    record::{Detail, FORMAT, flag, timer},
    tcp::{AF_INET, IPPROTO_TCP},
};

use crate::{
    globals::{ability, layout},
    time,
};

/// Empty record.
pub(crate) const EMPTY: Record = Record {
    format: FORMAT,
    kind: 0,
    old_state: 0,
    new_state: 0,
    shutdown: 0,
    family: 0,
    protocol: 0,
    local_port: 0,
    remote_port: 0,
    _pad: 0,
    flags: 0,
    sk_err: 0,
    time_ns: 0,
    entered_ns: 0,
    sk: 0,
    cookie: 0,
    inode: 0,
    cgroup: 0,
    received_bytes: 0,
    sent_bytes: 0,
    netns: 0,
    unread_bytes: 0,
    opened_ns: 0,
    pid: 0,
    fd: -1,
    local_address: [0; 16],
    remote_address: [0; 16],
    comm: [0; 16],
};

/// Empty record with details.
pub(crate) const EMPTY_DETAILED: Detailed = Detailed { record: EMPTY, detail: Detail::EMPTY };

/// A pointer into kernel memory.
pub(crate) trait Pointer: Copy {
    fn raw(self) -> *const c_void;

    /// Reads the value at `offset` bytes; `None` if the offset is unknown or the read fails.
    fn read<T: Copy>(self, offset: u32) -> Option<T>;

    /// Returns the same socket as a `struct tcp_sock`, if it is one.
    fn tcp(self, protocol: u16) -> Option<Self>;

    fn address(self) -> u64 {
        self.raw() as u64
    }

    /// Returns the same address, for reads that the verifier cannot check.
    fn probed(self) -> Probed {
        Probed(self.raw())
    }

    /// Reads the pointer at `offset` bytes; `None` if it is null. Never by a typed read.
    #[inline(always)]
    fn follow(self, offset: u32) -> Option<Probed> {
        let pointer = self.probed().read::<*const c_void>(offset)?;
        (!pointer.is_null()).then_some(Probed(pointer))
    }

    /// Reads the pointer at `offset` bytes, of the same kind as this one; `None` if it is null.
    ///
    /// Of the typed pointers, call it only for one that a helper returned, or that this function did. For a pointer out of an
    /// argument of the program, which is trusted, the verifier of 6.18 searches the names of all the kernel's types up to three
    /// times (`btf_nested_type_is_trusted`, kernel/bpf/btf.c), and three of them made the start 45 ms longer.
    fn descend(self, offset: u32) -> Option<Self>;

    /// Wraps a pointer. A typed one must be an argument of the program or read from its context, else the verifier
    /// refuses the program.
    fn new(pointer: *const c_void) -> Self;
}

/// Pointer to any address.
#[derive(Clone, Copy)]
pub(crate) struct Probed(*const c_void);

impl Probed {
    /// Reads the value at `offset` bytes directly to its destination.
    #[inline(always)]
    pub(crate) fn read_into<T: Copy>(self, offset: u32, to: *mut T) -> Option<()> {
        if offset == MISSING {
            return None;
        }
        let from = self.0.wrapping_byte_add(offset as usize);
        // SAFETY: `to` is valid for a `T`; any `from` is: the helper fails instead of faulting.
        let failed = unsafe { bpf_probe_read_kernel(to.cast(), size_of::<T>() as u32, from) };
        (failed == 0).then_some(())
    }
}

impl Pointer for Probed {
    #[inline(always)]
    fn new(pointer: *const c_void) -> Self {
        Self(pointer)
    }

    #[inline(always)]
    fn raw(self) -> *const c_void {
        self.0
    }

    #[inline(always)]
    fn read<T: Copy>(self, offset: u32) -> Option<T> {
        let mut value = MaybeUninit::<T>::uninit();
        self.read_into(offset, value.as_mut_ptr())?;
        // SAFETY: the helper filled all of it, and every `T` used here is made of integers or is a raw pointer.
        Some(unsafe { value.assume_init() })
    }

    #[inline(always)]
    fn descend(self, offset: u32) -> Option<Self> {
        self.follow(offset)
    }

    #[inline(always)]
    fn tcp(self, protocol: u16) -> Option<Self> {
        (protocol == IPPROTO_TCP).then_some(self)
    }
}

/// Pointer whose type the verifier knows.
#[derive(Clone, Copy)]
pub(crate) struct Typed(*const c_void);

impl Pointer for Typed {
    #[inline(always)]
    fn new(pointer: *const c_void) -> Self {
        Self(pointer)
    }

    #[inline(always)]
    fn raw(self) -> *const c_void {
        self.0
    }

    #[inline(always)]
    fn read<T: Copy>(self, offset: u32) -> Option<T> {
        if offset == MISSING {
            return None;
        }
        let from = self.0.wrapping_byte_add(offset as usize).cast::<T>();
        // SAFETY: the verifier has checked that a member of this size is there; the kernel makes a fault read as 0.
        // Volatile, so that the compiler neither splits nor moves it past the check of `offset`.
        Some(unsafe { from.read_volatile() })
    }

    #[inline(always)]
    fn descend(self, offset: u32) -> Option<Self> {
        let pointer = self.read::<*const c_void>(offset)?;
        (!pointer.is_null()).then_some(Self(pointer))
    }

    #[inline(always)]
    fn tcp(self, _protocol: u16) -> Option<Self> {
        // SAFETY: `self` is a socket by its type; the helper returns null for anything but TCP (Linux 5.9).
        let tcp = unsafe { bpf_skc_to_tcp_sock(self.0.cast_mut()) };
        (!tcp.is_null()).then_some(Self(tcp.cast()))
    }
}

/// Returns the protocol. A program's socket of a Multipath TCP connection is no `struct tcp_sock`, and neither is
/// SCTP's.
#[inline(always)]
pub(crate) fn protocol(sk: impl Pointer) -> Option<u16> {
    sk.read(layout!(sock_protocol))
}

/// Sets the identity of the socket: addresses, ports, side, namespace, and on the connecting side the cgroup.
#[inline(always)]
pub(crate) fn identify<P: Pointer>(sk: P, tcp: Option<P>, record: &mut Record) {
    identify_connection(sk, tcp, record);
    if record.flags & flag::BACKLOG == 0 {
        // A port has one listener. Programs that connect to the same remote endpoint differ by their cgroups.
        describe_cgroup(sk, record);
    }
}

/// Sets the identity of the connection: addresses, ports, side and namespace.
#[inline(always)]
pub(crate) fn identify_connection<P: Pointer>(sk: P, tcp: Option<P>, record: &mut Record) {
    record.sk = sk.address();
    record.family = sk.read(layout!(sock_family)).unwrap_or(0);
    // The port is beyond `struct sock`; for MPTCP the verifier knows no type with it.
    let local_port = match tcp {
        Some(tcp) => tcp.read(layout!(inet_sport)),
        None => sk.probed().read(layout!(inet_sport)),
    };
    record.local_port = u16::from_be(local_port.unwrap_or(0));
    record.remote_port = u16::from_be(sk.read(layout!(sock_dport)).unwrap_or(0));
    if record.family == AF_INET {
        map_v4(&mut record.local_address, sk.read(layout!(sock_rcv_saddr)).unwrap_or(0));
        map_v4(&mut record.remote_address, sk.read(layout!(sock_daddr)).unwrap_or(0));
    } else {
        let _unread: Option<()> = sk.probed().read_into(layout!(sock_v6_rcv_saddr), &raw mut record.local_address);
        let _unread: Option<()> = sk.probed().read_into(layout!(sock_v6_daddr), &raw mut record.remote_address);
    }
    if is_accepted(sk) {
        record.flags |= flag::BACKLOG;
    }
    record.netns = match tcp {
        Some(tcp) => typed_netns(tcp),
        None => netns(sk),
    }
    .unwrap_or(0);
}

/// Whether the socket has inherited a backlog from a listener: it was accepted, or will be.
#[inline(always)]
pub(crate) fn is_accepted(sk: impl Pointer) -> bool {
    sk.read::<u32>(layout!(sock_max_ack_backlog)).unwrap_or(0) != 0
}

/// Whether the socket has an error that its program has not read.
#[inline(always)]
pub(crate) fn has_error(sk: impl Pointer) -> bool {
    sk.read::<i32>(layout!(sock_err)).unwrap_or(0) != 0
}

/// Returns the inode of the network namespace.
#[inline(always)]
pub(crate) fn netns(sk: impl Pointer) -> Option<u32> {
    sk.follow(layout!(sock_net))?.read(layout!(net_inum))
}

/// Returns the inode of the network namespace, by reads of the kind of the pointer: see [`Pointer::descend`].
#[inline(always)]
pub(crate) fn typed_netns(tcp: impl Pointer) -> Option<u32> {
    tcp.descend(layout!(sock_net))?.read(layout!(net_inum))
}

/// Writes an IPv4 address, in network byte order, as an IPv4-mapped IPv6 address.
#[inline(always)]
pub(crate) fn map_v4(to: &mut [u8; 16], address: u32) {
    to[10] = 0xff;
    to[11] = 0xff;
    [to[12], to[13], to[14], to[15]] = address.to_ne_bytes();
}

/// Sets the socket's error, shutdown, inode and options, and its cgroup if that is not set yet.
#[inline(always)]
pub(crate) fn describe(sk: impl Pointer, socket: Option<Probed>, record: &mut Record) {
    let Some(shutdown) = sk.read::<u8>(layout!(sock_shutdown)) else { return };
    record.flags |= flag::SOCK;
    record.shutdown = shutdown & 3;
    record.sk_err = sk.read(layout!(sock_err)).unwrap_or(0);
    if let Some(socket) = socket {
        record.flags |= flag::ACCEPTED;
        record.inode = socket.read(layout!(socket_ino)).unwrap_or(0);
    }
    if let Some(flags) = sk.read::<u64>(layout!(sock_flags)) {
        let is_set = |bit: u32| bit < 64 && flags & (1 << bit) != 0;
        if is_set(ability!(keepopen_bit)) {
            record.flags |= flag::KEEPALIVE;
        }
        if is_set(ability!(done_bit)) {
            record.flags |= flag::FIN_SEEN;
        }
    }
    if record.flags & flag::CGROUP == 0 {
        describe_cgroup(sk, record);
    }
}

/// Sets the cgroup v2 of the program.
#[inline(always)]
fn describe_cgroup(sk: impl Pointer, record: &mut Record) {
    if let Some(id) = cgroup(sk) {
        record.cgroup = id;
        record.flags |= flag::CGROUP;
    }
}

/// Returns the cgroup v2 of the program at the time when it created the socket, or its listener.
#[inline(always)]
pub(crate) fn cgroup(sk: impl Pointer) -> Option<u64> {
    sk.follow(layout!(sock_cgroup))?.follow(layout!(cgroup_kn))?.read(layout!(kernfs_id))
}

/// Returns the key of the socket's flow among the counted ones, without the cgroup; `None` if a part of it is unknown.
#[inline(always)]
pub(crate) fn pass_key(sk: Typed, tcp: Typed) -> Option<passes::PassKey> {
    let netns = typed_netns(tcp).filter(|netns| *netns != 0)?;
    if is_accepted(sk) {
        return Some(passes::PassKey::server(netns, u16::from_be(tcp.read(layout!(inet_sport))?)));
    }
    let mut remote = [0; 16];
    if sk.read(layout!(sock_family)) == Some(AF_INET) {
        map_v4(&mut remote, sk.read(layout!(sock_daddr))?);
    } else {
        sk.probed().read_into(layout!(sock_v6_daddr), &raw mut remote)?;
    }
    Some(passes::PassKey::client(netns, 0, remote, u16::from_be(sk.read(layout!(sock_dport))?)))
}

/// Returns the `struct socket`; none until a program accepts the connection. The inode is allocated with it, behind
/// its end.
#[inline(always)]
pub(crate) fn socket(sk: impl Pointer) -> Option<Probed> {
    sk.follow(layout!(sock_socket))
}

/// Returns the same by reads of the kind of the pointer: see [`Pointer::descend`]. Its inode is beyond its type.
#[inline(always)]
pub(crate) fn typed_socket<P: Pointer>(tcp: P) -> Option<P> {
    tcp.descend(layout!(sock_socket))
}

/// Sets counters and sequence numbers of `struct tcp_sock`.
#[inline(always)]
pub(crate) fn describe_tcp(tcp: Option<impl Pointer>, record: &mut Record) {
    let Some(tcp) = tcp else { return };
    let Some(next) = tcp.read::<u32>(layout!(tcp_rcv_nxt)) else { return };
    let Some(copied) = tcp.read::<u32>(layout!(tcp_copied_seq)) else { return };
    let Some(received) = tcp.read(layout!(tcp_bytes_received)) else { return };
    let Some(sent) = tcp.read(layout!(tcp_bytes_sent)) else { return };
    record.unread_bytes = next.wrapping_sub(copied);
    record.received_bytes = received;
    record.sent_bytes = sent;
    record.flags |= flag::TCP;
}

/// Sets the time since the last ACK and since the last data: the FIN lies between.
#[inline(always)]
pub(crate) fn describe_ages(tcp: Option<impl Pointer>, record: &mut Record, detail: &mut Detail) {
    let Some(tcp) = tcp else { return };
    let now = time::ticks();
    let Some(ack) = tcp.read::<u32>(layout!(tcp_rcv_tstamp)) else { return };
    let Some(data) = tcp.read::<u32>(layout!(tcp_lrcvtime)) else { return };
    detail.last_ack_ticks = now.wrapping_sub(ack);
    detail.last_data_ticks = now.wrapping_sub(data);
    record.flags |= flag::AGES;
    if let Some(sent) = tcp.read::<u32>(layout!(tcp_lsndtime)) {
        detail.last_sent_ticks = now.wrapping_sub(sent);
        record.flags |= flag::SENT;
    }
}

/// Sets the sent and the acknowledged bytes.
#[inline(always)]
pub(crate) fn describe_sending(tcp: Option<impl Pointer>, record: &mut Record, detail: &mut Detail) {
    let Some(tcp) = tcp else { return };
    let Some(written) = tcp.read::<u32>(layout!(tcp_write_seq)) else { return };
    let Some(unacked) = tcp.read::<u32>(layout!(tcp_snd_una)) else { return };
    let Some(acked) = tcp.read(layout!(tcp_bytes_acked)) else { return };
    detail.send_queue_bytes = written.wrapping_sub(unacked);
    detail.acked_bytes = acked;
    record.flags |= flag::SEND_QUEUE;
}

/// Sets the running timer, as `inet_sk_diag_fill` reports it to `ss` (net/ipv4/inet_diag.c at v5.10).
#[inline(always)]
pub(crate) fn describe_timer(tcp: Option<impl Pointer>, record: &mut Record, detail: &mut Detail) {
    /// `icsk_pending` (include/net/inet_connection_sock.h at v5.10).
    mod pending {
        pub(super) const RETRANS: u8 = 1;
        pub(super) const PROBE0: u8 = 3;
        pub(super) const LOSS_PROBE: u8 = 5;
        pub(super) const REO_TIMEOUT: u8 = 6;
    }
    let Some(tcp) = tcp else { return };
    let Some(running) = tcp.read::<u8>(layout!(tcp_pending)) else { return };
    let now = time::ticks();
    // The low half of a kernel time is enough for a difference.
    let left = |expires: Option<u32>| expires.map(|expires| expires.wrapping_sub(now) as i32);
    let by = |timer, left: Option<i32>, retries: Option<u8>, detail: &mut Detail| {
        if let Some(left) = left {
            detail.timer = timer;
            detail.timer_ticks = left;
            detail.timer_retries = retries.unwrap_or(0);
        }
    };
    match running {
        pending::RETRANS | pending::LOSS_PROBE | pending::REO_TIMEOUT => {
            by(timer::ON, left(tcp.probed().read(layout!(tcp_timeout))), tcp.read(layout!(tcp_retransmits)), detail);
        }
        pending::PROBE0 => {
            by(
                timer::PERSIST,
                left(tcp.probed().read(layout!(tcp_timeout))),
                tcp.read(layout!(tcp_probes_out)),
                detail,
            );
        }
        _ => {
            if tcp.probed().read::<u64>(layout!(sock_timer_pprev)).unwrap_or(0) != 0 {
                let expires = left(tcp.probed().read(layout!(sock_timer_expires)));
                by(timer::KEEPALIVE, expires, tcp.read(layout!(tcp_probes_out)), detail);
            }
        }
    }
    record.flags |= flag::TIMER;
}

/// Sets the length and the limit of a listener's accept queue.
#[inline(always)]
pub(crate) fn describe_listener(sk: impl Pointer, record: &mut Record, detail: &mut Detail) {
    let Some(backlog) = sk.read(layout!(sock_ack_backlog)) else { return };
    let Some(max) = sk.read(layout!(sock_max_ack_backlog)) else { return };
    detail.backlog = backlog;
    detail.backlog_max = max;
    record.flags |= flag::LISTENER;
}

/// Sets whether the last descriptor of the socket is just being closed.
#[inline(always)]
pub(crate) fn describe_file(socket: Option<impl Pointer>, record: &mut Record) {
    let Some(gone) = socket.and_then(file_is_gone) else { return };
    record.flags |= flag::FILE;
    if gone {
        record.flags |= flag::FILE_GONE;
    }
}

/// Whether the last descriptor of the socket is just being closed; `None` if this is unknown. `__fput` runs after the last reference
/// to the file is gone (fs/file_table.c); in `shutdown(2)` the caller still has one.
#[inline(always)]
pub(crate) fn file_is_gone(socket: impl Pointer) -> Option<bool> {
    /// `FILE_REF_RELEASED` of include/linux/file_ref.h at v6.13: from this value on, the file has no reference.
    const RELEASED: u64 = 0xc000_0000_0000_0000;
    let file = socket.descend(layout!(socket_file))?;
    if let Some(reference) = file.read::<u64>(layout!(file_ref)) {
        return Some(reference >= RELEASED);
    }
    file.read::<u64>(layout!(file_count)).map(|count| count == 0)
}

/// Returns the socket's cookie. Linux 5.12 and later assign one if it has none; older kernels only have an existing
/// one.
#[inline(always)]
pub(crate) fn cookie(sk: Typed) -> u64 {
    if ability!(socket_cookie) == 1 {
        // SAFETY: `sk` is a socket by its type, which the verifier checks.
        return unsafe { bpf_get_socket_cookie(sk.0.cast_mut()) };
    }
    known_cookie(sk)
}

/// Returns the existing cookie of the socket, 0 if there is none.
#[inline(always)]
pub(crate) fn known_cookie(sk: impl Pointer) -> u64 {
    sk.read(layout!(sock_cookie)).unwrap_or(0)
}
