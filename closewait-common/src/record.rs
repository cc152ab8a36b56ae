//! Record of one event, as the kernel program writes it and the agent's decoder reads it.

/// Version of the layout of [`Record`] and [`Detailed`]; a decoder refuses any other.
pub const FORMAT: u16 = 4;

/// Size of a [`Record`], bytes.
pub const SIZE: usize = size_of::<Record>();

/// Size of a [`Detailed`] record, bytes.
pub const DETAILED_SIZE: usize = size_of::<Detailed>();

/// Type of a [`Record`].
pub mod kind {
    /// A socket entered CLOSE_WAIT.
    pub const ENTER: u8 = 1;
    /// A socket exited CLOSE_WAIT.
    pub const LEAVE: u8 = 2;
    /// An iterator found a socket in CLOSE_WAIT.
    pub const PRESENT: u8 = 3;
    /// An iterator found an open file that is a socket in CLOSE_WAIT.
    pub const HELD: u8 = 4;
    /// The agent refreshed a socket, which is still in CLOSE_WAIT.
    pub const REFRESHED: u8 = 5;
    /// A listener; with `fd` and `pid` if an iterator over open files found it.
    pub const LISTENING: u8 = 6;
    /// A socket whose connection has ended while a program still has a descriptor for it: it has exited CLOSE_WAIT,
    /// or was found like that. With `fd` and `pid` if an iterator over open files found it.
    pub const LINGERING: u8 = 7;
    /// Another connection of a process that the agent inspects. Without cookie, cgroup, send queue and timer, and without
    /// the fields of [`super::flag::SOCK`].
    pub const PROXY_PEER: u8 = 8;
    /// A descriptor of a CLOSE_WAIT socket that the agent knows already: a [`super::Hold`].
    pub const HOLDS: u8 = 9;
}

/// Bits of [`Record::flags`]: valid fields, and boolean facts.
pub mod flag {
    /// `sk_err`, `shutdown`, `inode` and the bits [`ACCEPTED`], [`KEEPALIVE`] and [`FIN_SEEN`] were read from the
    /// socket. Not set in the records of healthy sockets ([`crate::config::Abilities::healthy_below_ns`]), or if the
    /// offsets are unknown.
    pub const SOCK: u32 = 1;
    /// The fields of `struct tcp_sock` were read: `unread_bytes`, `received_bytes`, `sent_bytes`.
    pub const TCP: u32 = 1 << 1;
    /// `pid` and `comm` are set: those of the task that made the change, or of the owner.
    pub const TASK: u32 = 1 << 2;
    /// `last_ack_ticks` and `last_data_ticks` are set.
    pub const AGES: u32 = 1 << 3;
    /// `cgroup` is set.
    pub const CGROUP: u32 = 1 << 4;
    /// `sk_socket` is set: a program has, or had, a descriptor for it.
    pub const ACCEPTED: u32 = 1 << 5;
    /// `sk_max_ack_backlog` is not 0: inherited from the listener, so this is the accepting side.
    pub const BACKLOG: u32 = 1 << 6;
    /// `SO_KEEPALIVE` is on.
    pub const KEEPALIVE: u32 = 1 << 7;
    /// [`FILE_GONE`] is valid.
    pub const FILE: u32 = 1 << 8;
    /// The socket's file has no descriptor left: the last close made the change.
    pub const FILE_GONE: u32 = 1 << 9;
    /// `last_sent_ticks` is set.
    pub const SENT: u32 = 1 << 12;
    /// `acked_bytes` and `send_queue_bytes` are set.
    pub const SEND_QUEUE: u32 = 1 << 13;
    /// `timer` is set.
    pub const TIMER: u32 = 1 << 14;
    /// `backlog` and `backlog_max` are set.
    pub const LISTENER: u32 = 1 << 15;
    /// In a record of [`super::kind::ENTER`]: `pid` and `comm` are those of the task that connected the socket, and
    /// `opened_ns` is set.
    pub const OPENER: u32 = 1 << 16;
    /// The kernel has processed the peer's FIN (`SOCK_DONE`, which only `tcp_fin` sets: net/ipv4/tcp_input.c at
    /// v5.10).
    pub const FIN_SEEN: u32 = 1 << 17;
    /// [`WROTE`] is valid.
    pub const WROTE_KNOWN: u32 = 1 << 18;
    /// In a record of [`super::kind::LEAVE`]: the program sent data after the entry.
    pub const WROTE: u32 = 1 << 19;
    /// [`TASK_ENDS`] is valid.
    pub const TASK_ENDS_KNOWN: u32 = 1 << 20;
    /// The task of `pid` ends, and the kernel closes its descriptors (`PF_EXITING`, which `exit_signals` sets before
    /// `exit_files`: kernel/exit.c, `do_exit`, at v5.10).
    pub const TASK_ENDS: u32 = 1 << 21;
    /// In a record of [`super::kind::LEAVE`]: the entry has no record of its own.
    pub const ENTERED: u32 = 1 << 22;
    /// In a record of [`super::kind::ENTER`]: the agent had it written after the entry. `time_ns` is the time of the entry.
    pub const ANNOUNCED: u32 = 1 << 23;
}

/// Event. Written by the kernel program, in the byte order of the machine.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Record {
    /// Layout of this record: [`FORMAT`].
    pub format: u16,
    /// Type of the record: one of [`kind`].
    pub kind: u8,
    /// TCP state before the change (`include/net/tcp_states.h`); for iterators, the current state.
    pub old_state: u8,
    /// TCP state after the change; for iterators, the current state.
    pub new_state: u8,
    /// `sk_shutdown` at the event: bit 0 if the peer's FIN has arrived, bit 1 if the program sends no more.
    pub shutdown: u8,
    /// `AF_INET` or `AF_INET6`.
    pub family: u16,
    /// `IPPROTO_TCP` or `IPPROTO_MPTCP`.
    pub protocol: u16,
    /// Local port, host byte order.
    pub local_port: u16,
    /// Remote port, host byte order.
    pub remote_port: u16,
    /// Always 0.
    pub _pad: u16,
    /// Bits of [`flag`].
    pub flags: u32,
    /// `sk_err` at the event, a positive errno; 0 if there is no error.
    pub sk_err: i32,
    /// Time of the event, nanoseconds of `CLOCK_BOOTTIME` (`bpf_ktime_get_boot_ns`, Linux 5.8).
    pub time_ns: u64,
    /// Time of entry into CLOSE_WAIT, nanoseconds of `CLOCK_BOOTTIME`; 0 if the entry was not observed.
    pub entered_ns: u64,
    /// Address of the `struct sock`: identifies a socket within the agent, which never shows it.
    pub sk: u64,
    /// Socket cookie, the same number as `SO_COOKIE` and `ss -e`; 0 if the socket has none (before Linux 5.12),
    /// and in a record of [`kind::PROXY_PEER`].
    pub cookie: u64,
    /// Inode of the socket as in `/proc/PID/fd`; 0 until a program accepts it.
    pub inode: u64,
    /// Id of the socket's cgroup v2.
    pub cgroup: u64,
    /// `tcp_sock.bytes_received`, bytes; the FIN counts as one.
    pub received_bytes: u64,
    /// `tcp_sock.bytes_sent`, bytes, including retransmissions.
    pub sent_bytes: u64,
    /// Inode of the network namespace as in `/proc/PID/ns/net`.
    pub netns: u32,
    /// `rcv_nxt - copied_seq`, unread bytes; the FIN counts as one.
    pub unread_bytes: u32,
    /// Time at which the task of `pid` connected the socket ([`flag::OPENER`]), nanoseconds of `CLOCK_BOOTTIME`.
    pub opened_ns: u64,
    /// Process id (`tgid`) in the initial pid namespace: of the process that made the change, owns the file, or
    /// connected the socket.
    pub pid: u32,
    /// Number of the open file, if an iterator found one; else -1.
    pub fd: i32,
    /// Local address; IPv4 as an IPv4-mapped IPv6 address.
    pub local_address: [u8; 16],
    /// Remote address; IPv4 as an IPv4-mapped IPv6 address.
    pub remote_address: [u8; 16],
    /// Name of the task of `pid`, as set by the process itself: any bytes, not always with a final zero.
    pub comm: [u8; 16],
}

impl Record {
    /// Whether all of `bits` are set.
    pub const fn has(&self, bits: u32) -> bool {
        self.flags & bits == bits
    }
}

/// Values of [`Detail::timer`], those of `idiag_timer` (`inet_sk_diag_fill`, net/ipv4/inet_diag.c at v5.10).
pub mod timer {
    /// No timer runs.
    pub const OFF: u8 = 0;
    /// Retransmission, loss probe or reordering.
    pub const ON: u8 = 1;
    /// `SO_KEEPALIVE`.
    pub const KEEPALIVE: u8 = 2;
    /// Zero window probe.
    pub const PERSIST: u8 = 4;
}

/// Facts of a socket beyond its [`Record`], for iterators and refreshes.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Detail {
    /// `tcp_sock.bytes_acked`, bytes.
    pub acked_bytes: u64,
    /// `write_seq - snd_una`, bytes that the program wrote and the peer has not acknowledged.
    pub send_queue_bytes: u32,
    /// Ticks since data was last sent (`tcp_sock.lsndtime`).
    pub last_sent_ticks: u32,
    /// Ticks since the last ACK arrived (`tcp_sock.rcv_tstamp`).
    pub last_ack_ticks: u32,
    /// Ticks since the last data arrived (`icsk_ack.lrcvtime`).
    pub last_data_ticks: u32,
    /// Ticks until the timer expires; below zero if it is late.
    pub timer_ticks: i32,
    /// `sk_ack_backlog` of a listener: connections in its accept queue.
    pub backlog: u32,
    /// `sk_max_ack_backlog` of a listener.
    pub backlog_max: u32,
    /// Running timer: one of [`timer`].
    pub timer: u8,
    /// Number of retransmissions or probes so far.
    pub timer_retries: u8,
    /// Always 0.
    pub _pad: [u8; 2],
}

impl Detail {
    /// Nothing is known.
    pub const EMPTY: Self = Self {
        acked_bytes: 0,
        send_queue_bytes: 0,
        last_sent_ticks: 0,
        last_ack_ticks: 0,
        last_data_ticks: 0,
        timer_ticks: 0,
        backlog: 0,
        backlog_max: 0,
        timer: timer::OFF,
        timer_retries: 0,
        _pad: [0; 2],
    };
}

/// Record with details: of every type but [`kind::ENTER`] and [`kind::LEAVE`].
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Detailed {
    /// Fields of every record.
    pub record: Record,
    /// Details.
    pub detail: Detail,
}

/// Descriptor of a socket in CLOSE_WAIT, with only the identity of the socket.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Hold {
    /// Layout of this record: [`FORMAT`].
    pub format: u16,
    /// [`kind::HOLDS`].
    pub kind: u8,
    /// Always 0.
    pub _pad: u8,
    /// Number of the open file.
    pub fd: i32,
    /// Address of the `struct sock`.
    pub sk: u64,
    /// Inode of the socket.
    pub inode: u64,
    /// Time at which it was found, nanoseconds of `CLOCK_BOOTTIME`.
    pub time_ns: u64,
    /// Process id (`tgid`) in the initial pid namespace.
    pub pid: u32,
    /// Always 0.
    pub _more_pad: u32,
    /// Name of the task, as set by the process itself.
    pub comm: [u8; 16],
}

/// Size of a [`Hold`], bytes.
pub const HOLD_SIZE: usize = size_of::<Hold>();

const _: () = assert!(HOLD_SIZE == 56);
const _: () = assert!(core::mem::offset_of!(Hold, sk) == 8);
const _: () = assert!(core::mem::offset_of!(Hold, comm) == 40);
const _: () = assert!(core::mem::offset_of!(Hold, kind) == core::mem::offset_of!(Record, kind));

/// Task that connected a socket, stored by the kernel until it frees the socket.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct OpenerRecord {
    /// Time of the connect, nanoseconds of `CLOCK_BOOTTIME`.
    pub opened_ns: u64,
    /// Process id (`tgid`) in the initial pid namespace.
    pub pid: u32,
    /// Always 0.
    pub _pad: u32,
    /// Name of the task, as set by the process itself.
    pub comm: [u8; 16],
}

const _: () = assert!(size_of::<OpenerRecord>() == 32);
const _: () = assert!(size_of::<Detailed>() == 200);
const _: () = assert!(core::mem::offset_of!(Detailed, detail) == 160);
const _: () = assert!(core::mem::offset_of!(Detail, send_queue_bytes) == 8);
const _: () = assert!(core::mem::offset_of!(Detail, timer) == 36);
const _: () = assert!(size_of::<Record>() == 160);
const _: () = assert!(align_of::<Record>() == 8);
const _: () = assert!(core::mem::offset_of!(Record, flags) == 16);
const _: () = assert!(core::mem::offset_of!(Record, time_ns) == 24);
const _: () = assert!(core::mem::offset_of!(Record, netns) == 88);
const _: () = assert!(core::mem::offset_of!(Record, opened_ns) == 96);
const _: () = assert!(core::mem::offset_of!(Record, local_address) == 112);
const _: () = assert!(core::mem::offset_of!(Record, comm) == 144);
