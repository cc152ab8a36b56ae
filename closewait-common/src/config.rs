//! Read-only globals that the agent sets before the object is loaded.
//!
//! Rust emits no CO-RE relocations, so the agent resolves the offsets from the running kernel's BTF. The verifier
//! treats a read of a frozen read-only map as a constant: a branch on a missing offset is dead code.

/// Offset of a member that this kernel lacks, or that is unknown. A comparison with it is one instruction, as with any number that fits into
/// a signed word.
pub const MISSING: u32 = i32::MAX as u32;

/// Declares a struct of `u32` offsets, with its field names as data.
macro_rules! offsets {
    ($(#[$meta:meta])* $name:ident { $($(#[$field_meta:meta])* $field:ident,)* }) => {
        $(#[$meta])*
        #[repr(C)]
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub struct $name {
            $($(#[$field_meta])* pub $field: u32,)*
        }

        impl $name {
            /// No offset is known.
            pub const NONE: Self = Self { $($field: MISSING,)* };
        }
    };
}

offsets! {
    /// Offsets of kernel struct members, in bytes from the start of the struct that the field's first part names.
    Layout {
        /// `struct sock`: `__sk_common.skc_family`.
        sock_family,
        /// `struct sock`: `__sk_common.skc_state`.
        sock_state,
        /// `struct inet_sock`: `inet_sport`, network byte order. Unlike `skc_num`, it outlives `inet_put_port`, which a
        /// change to CLOSE calls before the tracepoint (`tcp_set_state`, net/ipv4/tcp.c at v5.10).
        inet_sport,
        /// `struct sock`: `__sk_common.skc_dport`, network byte order.
        sock_dport,
        /// `struct sock`: `__sk_common.skc_rcv_saddr`.
        sock_rcv_saddr,
        /// `struct sock`: `__sk_common.skc_daddr`.
        sock_daddr,
        /// `struct sock`: `__sk_common.skc_v6_rcv_saddr`.
        sock_v6_rcv_saddr,
        /// `struct sock`: `__sk_common.skc_v6_daddr`.
        sock_v6_daddr,
        /// `struct sock`: `__sk_common.skc_cookie`.
        sock_cookie,
        /// `struct sock`: `__sk_common.skc_net.net`.
        sock_net,
        /// `struct sock`: `__sk_common.skc_flags`, bits of `enum sock_flags`.
        sock_flags,
        /// `struct sock`: `sk_err`.
        sock_err,
        /// `struct sock`: `sk_shutdown`.
        sock_shutdown,
        /// `struct sock`: `sk_socket`.
        sock_socket,
        /// `struct sock`: `sk_protocol`.
        sock_protocol,
        /// `struct sock`: `sk_cgrp_data.cgroup`.
        sock_cgroup,
        /// `struct sock`: `sk_max_ack_backlog`.
        sock_max_ack_backlog,
        /// `struct net`: `ns.inum`.
        net_inum,
        /// `struct cgroup`: `kn`.
        cgroup_kn,
        /// `struct kernfs_node`: `id`.
        kernfs_id,
        /// `struct socket`: `sk`.
        socket_sk,
        /// `struct socket`: `file`.
        socket_file,
        /// From a `struct socket` to `i_ino` of the inode allocated with it (`struct socket_alloc`).
        socket_ino,
        /// `struct file`: `f_count`, an `atomic_long_t` that is 0 while the last reference is being released (until 6.12).
        file_count,
        /// `struct file`: `f_ref`, a `file_ref_t` (from 6.13).
        file_ref,
        /// `struct file`: `f_inode`.
        file_inode,
        /// `struct file`: `private_data`, of a socket's file its `struct socket`.
        file_private_data,
        /// `struct inode`: `i_mode`.
        inode_mode,
        /// `struct tcp_sock`: `rcv_nxt`.
        tcp_rcv_nxt,
        /// `struct tcp_sock`: `copied_seq`.
        tcp_copied_seq,
        /// `struct tcp_sock`: `bytes_received`.
        tcp_bytes_received,
        /// `struct tcp_sock`: `bytes_sent`.
        tcp_bytes_sent,
        /// `struct tcp_sock`: `rcv_tstamp`, ticks.
        tcp_rcv_tstamp,
        /// `struct tcp_sock`: `inet_conn.icsk_ack.lrcvtime`, ticks.
        tcp_lrcvtime,
        /// `struct sock`: `sk_ack_backlog`.
        sock_ack_backlog,
        /// `struct sock`: `sk_timer.expires`, ticks; from 6.19 the one of the keepalive timer.
        sock_timer_expires,
        /// `struct sock`: `sk_timer.entry.pprev`, null while the timer does not run; from 6.19 as above.
        sock_timer_pprev,
        /// `struct tcp_sock`: `write_seq`.
        tcp_write_seq,
        /// `struct tcp_sock`: `snd_una`.
        tcp_snd_una,
        /// `struct tcp_sock`: `bytes_acked`.
        tcp_bytes_acked,
        /// `struct tcp_sock`: `lsndtime`, ticks.
        tcp_lsndtime,
        /// `struct tcp_sock`: `inet_conn.icsk_pending`, which timer runs.
        tcp_pending,
        /// `struct tcp_sock`: `inet_conn.icsk_timeout`, ticks; from 6.19 `expires` of the retransmission timer.
        tcp_timeout,
        /// `struct tcp_sock`: `inet_conn.icsk_retransmits`.
        tcp_retransmits,
        /// `struct tcp_sock`: `inet_conn.icsk_probes_out`.
        tcp_probes_out,
        /// `struct task_struct`: `tgid`.
        task_tgid,
        /// `struct task_struct`: `comm`.
        task_comm,
        /// `struct task_struct`: `flags`, the bits `PF_*` of include/linux/sched.h.
        task_flags,
        /// `struct pt_regs`: address of the next instruction.
        regs_pc,
        /// `struct pt_regs`: stack pointer.
        regs_sp,
        /// `struct pt_regs`: frame pointer.
        regs_fp,
        /// `struct pt_regs`: link register, which x86_64 lacks.
        regs_lr,
    }
}

offsets! {
    /// Offsets of the tracepoint's fields in its record, from tracefs' `format` file.
    TraceLayout {
        /// `const void * skaddr`.
        skaddr,
        /// `int oldstate`.
        oldstate,
        /// `int newstate`.
        newstate,
        /// `__u16 sport`, host byte order.
        sport,
        /// `__u16 dport`, host byte order.
        dport,
        /// `__u16 family`.
        family,
        /// `__u16 protocol` (`__u8` before 5.6).
        protocol,
        /// `__u8 saddr[4]`.
        saddr,
        /// `__u8 daddr[4]`.
        daddr,
        /// `__u8 saddr_v6[16]`.
        saddr_v6,
        /// `__u8 daddr_v6[16]`.
        daddr_v6,
    }
}

/// Values of [`Abilities::openers`].
pub mod openers {
    /// No sockets: the kernel lacks support, or the program is not loaded to watch.
    pub const NONE: u32 = 0;
    /// All sockets.
    pub const ALL: u32 = 1;
    /// Sockets connected to a watched remote port ([`crate::watched`]).
    pub const WATCHED: u32 = 2;
}

/// Abilities of the running kernel, and requests of the agent.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Abilities {
    /// 1 where `bpf_get_socket_cookie` may be called from tracing programs (Linux 5.12).
    pub socket_cookie: u32,
    /// Bit number of `SOCK_KEEPOPEN` in `enum sock_flags`; [`MISSING`] if unknown.
    pub keepopen_bit: u32,
    /// Bit number of `SOCK_DONE` in `enum sock_flags`; [`MISSING`] if unknown.
    pub done_bit: u32,
    /// 1 where iterators may call `bpf_sock_from_file` (Linux 5.11).
    pub socket_of_file: u32,
    /// Sockets whose opener the program stores, one of [`openers`] (`bpf_sk_storage_get` in tracing programs, Linux
    /// 5.11).
    pub openers: u32,
    /// Duration of a tick, the unit of TCP's times, nanoseconds; 0 if unknown.
    pub tick_ns: u32,
    /// 1 if the program samples the stacks of watched processes in their `connect(2)` ([`crate::connect`]).
    pub connects: u32,
    /// Number of slots for entry times, a power of two, minus one ([`crate::slots`]).
    pub slot_mask: u32,
    /// 1 if the program writes no record of an entry whose time is in a slot: the record of the exit reports both, or the agent
    /// has the record written ([`crate::slots::PENDING`]).
    pub defers: u32,
    /// Number of parts of each flow's counts, a power of two, minus one ([`crate::passes`]).
    pub part_mask: u32,
    /// Dwell time below which no output shows a socket, nanoseconds: the records of such sockets only identify them.
    /// With 0, every record has all fields.
    pub healthy_below_ns: u64,
}

impl Abilities {
    /// Nothing is known about this kernel.
    pub const NONE: Self = Self {
        socket_cookie: 0,
        keepopen_bit: MISSING,
        done_bit: MISSING,
        socket_of_file: 0,
        openers: openers::NONE,
        tick_ns: 0,
        connects: 0,
        slot_mask: 0,
        defers: 0,
        part_mask: 0,
        healthy_below_ns: 0,
    };
}

const _: () = assert!(size_of::<Layout>() == 52 * 4);
const _: () = assert!(size_of::<TraceLayout>() == 11 * 4);
const _: () = assert!(size_of::<Abilities>() == 10 * 4 + 8);

// SAFETY: `repr(C)` structs of integers in an order that leaves no padding: every bit pattern is valid.
#[cfg(feature = "user")]
unsafe impl aya::Pod for Layout {}
// SAFETY: as above.
#[cfg(feature = "user")]
unsafe impl aya::Pod for TraceLayout {}
// SAFETY: as above.
#[cfg(feature = "user")]
unsafe impl aya::Pod for Abilities {}
