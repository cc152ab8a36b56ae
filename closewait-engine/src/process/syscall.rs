//! System calls that block: the object of the wait, and its longest possible duration.

use std::fmt;

use serde::{Deserialize, Serialize};

/// Number of a system call on x86_64 (arch/x86/entry/syscalls/syscall_64.tbl at v6.12).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Syscall(pub i64);

/// Arguments of a system call, as `/proc/PID/task/TID/syscall` has them (`proc_pid_syscall`, fs/proc/base.c at v5.10).
pub type SyscallArgs = [u64; 6];

/// Longest possible wait of a thread in its system call.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub enum WaitLimit {
    /// The call has a timeout: the thread is idle in a pool, sleeps, or polls.
    Limited,
    /// The call has no timeout: the thread waits for a lock, for another thread, for data, or in an event loop. Calls that read,
    /// write and accept have no argument for a timeout; a timeout of the socket (`SO_RCVTIMEO`, `SO_SNDTIMEO`) is unknown.
    Unlimited,
}

/// Object of a thread's wait in its system call.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum WaitKind {
    /// Event on any of several descriptors: epoll, poll, select, io_uring.
    Events,
    /// Event on one descriptor, which is unknown: poll, as client libraries of databases read an answer and simple servers wait
    /// for a connection.
    Event,
    /// Lock, condition or another thread: futex, semop.
    Lock,
    /// End of a fixed time.
    Sleep,
    /// End of a child process.
    Child,
    /// Signal. The first processes of some servers wait for one.
    Signal,
    /// New connection of a client.
    Accept,
    /// Data from this descriptor; `None` if each of several threads reads from a descriptor of its own.
    Read(Option<u64>),
    /// Connection to another program, which has not answered.
    Connect,
    /// Space in a send buffer, or the end of a write.
    Write,
    /// File lock: flock, or fcntl, whose other commands do not wait.
    FileLock,
    /// Other end of a named pipe (`fifo_open`, fs/pipe.c at v5.10), or a file system that does not answer.
    Open,
    /// Any other object.
    Other,
}

/// Meaning of the argument that says what a system call waits for: the first, of poll the second.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Awaited {
    Descriptor,
    Address,
    /// Number of descriptors.
    Number,
    /// A value that threads cannot have in common.
    Own,
}

/// Place of a wait's timeout in the arguments of a call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum LimitArgument {
    /// The call always has a timeout.
    Always,
    /// The call has no argument for a timeout.
    Never,
    /// The argument with this index points to the timeout; a null pointer means none.
    Pointer(usize),
    /// The argument with this index is an `int` of milliseconds; a negative value means no timeout.
    Milliseconds(usize),
    /// The argument with this index has flags: with one of them, the call does not wait; without, it waits without a timeout.
    Unless(usize, u64),
    /// The waiting operations of futex(2), such as `FUTEX_WAIT`, have a pointer to the timeout.
    Futex,
    /// fcntl(2) waits only for a lock, without a timeout.
    Fcntl,
    /// The arguments do not show whether there is a timeout.
    Unknown,
}

/// Row of [`TABLE`]: number, name, meaning of the argument that says what it waits for, object of the wait, place of the timeout.
type SyscallRow = (i64, &'static str, Awaited, WaitKind, LimitArgument);

/// `FUTEX_CMD_MASK` and the operations with a timeout (include/uapi/linux/futex.h at v6.12).
const FUTEX_FLAGS: u64 = 128 | 256;
const FUTEX_WAIT: u64 = 0;
const FUTEX_LOCK_PI: u64 = 6;
const FUTEX_WAIT_BITSET: u64 = 9;
const FUTEX_WAIT_REQUEUE_PI: u64 = 11;
const FUTEX_LOCK_PI2: u64 = 13;
/// `F_SETLKW` (include/uapi/asm-generic/fcntl.h at v5.10) and `F_OFD_SETLKW`.
const LOCK_COMMANDS: [u64; 2] = [7, 38];
/// `WNOHANG` (include/uapi/linux/wait.h at v5.10).
const WNOHANG: u64 = 1;
/// `LOCK_NB` (include/uapi/asm-generic/fcntl.h at v5.10).
const LOCK_NB: u64 = 4;

/// System calls that block, by number.
const TABLE: [SyscallRow; 45] = {
    use Awaited::{Address, Descriptor, Number, Own};
    use LimitArgument::{Always, Fcntl, Futex, Milliseconds, Never, Pointer, Unknown, Unless};
    use WaitKind::{Accept, Child, Connect, Events, FileLock, Lock, Open, Other, Read, Signal, Sleep, Write};
    [
        (0, "read", Descriptor, Read(None), Never),
        (1, "write", Descriptor, Write, Never),
        (3, "close", Descriptor, Other, Unknown),
        // `if (timeout_msecs >= 0)` in `SYSCALL_DEFINE3(poll)`, fs/select.c at v5.10.
        (7, "poll", Number, Events, Milliseconds(2)),
        (17, "pread64", Descriptor, Read(None), Never),
        (18, "pwrite64", Descriptor, Write, Never),
        (19, "readv", Descriptor, Read(None), Never),
        (20, "writev", Descriptor, Write, Never),
        // `if (tvp)` in `kern_select`, fs/select.c at v5.10.
        (23, "select", Own, Events, Pointer(4)),
        (34, "pause", Own, Signal, Never),
        (35, "nanosleep", Own, Sleep, Always),
        (40, "sendfile", Descriptor, Write, Never),
        // The retries of a SYN limit it, but not a connect to a UNIX socket.
        (42, "connect", Descriptor, Connect, Unknown),
        (43, "accept", Descriptor, Accept, Never),
        (44, "sendto", Descriptor, Write, Never),
        (45, "recvfrom", Descriptor, Read(None), Never),
        (46, "sendmsg", Descriptor, Write, Never),
        (47, "recvmsg", Descriptor, Read(None), Never),
        // `kernel_wait4` and `SYSCALL_DEFINE5(waitid)`, kernel/exit.c at v5.10.
        (61, "wait4", Own, Child, Unless(2, WNOHANG)),
        (65, "semop", Own, Lock, Never),
        (70, "msgrcv", Own, Other, Never),
        // `fcntl_setlk`, fs/locks.c at v5.10.
        (72, "fcntl", Descriptor, FileLock, Fcntl),
        // `can_sleep` in `SYSCALL_DEFINE2(flock)`, fs/locks.c at v5.10.
        (73, "flock", Descriptor, FileLock, Unless(1, LOCK_NB)),
        (74, "fsync", Descriptor, Write, Unknown),
        (75, "fdatasync", Descriptor, Write, Unknown),
        // `if (uts)` in `SYSCALL_DEFINE4(rt_sigtimedwait)`, kernel/signal.c at v5.10.
        (128, "rt_sigtimedwait", Own, Signal, Pointer(2)),
        (130, "rt_sigsuspend", Own, Signal, Never),
        (202, "futex", Address, Lock, Futex),
        // What was interrupted continues: see `restarted`.
        (219, "restart_syscall", Own, Other, Unknown),
        // `ksys_semtimedop`, ipc/sem.c at v5.10; semop(3) of the C library is this with a null pointer.
        (220, "semtimedop", Own, Lock, Pointer(3)),
        (230, "clock_nanosleep", Own, Sleep, Always),
        // `ep_poll`, fs/eventpoll.c at v5.10: positive a time, 0 no wait, negative no limit.
        (232, "epoll_wait", Descriptor, Events, Milliseconds(3)),
        // `SYSCALL_DEFINE5(mq_timedreceive)`, ipc/mqueue.c at v5.10.
        (243, "mq_timedreceive", Descriptor, Read(None), Pointer(4)),
        (247, "waitid", Own, Child, Unless(3, WNOHANG)),
        (257, "openat", Own, Open, Never),
        // `if (tsp)` in `do_pselect` and `SYSCALL_DEFINE5(ppoll)`, fs/select.c at v5.10.
        (270, "pselect6", Own, Events, Pointer(4)),
        (271, "ppoll", Number, Events, Pointer(2)),
        (275, "splice", Descriptor, Other, Never),
        (281, "epoll_pwait", Descriptor, Events, Milliseconds(3)),
        (288, "accept4", Descriptor, Accept, Never),
        // Its timeout ends no wait: `do_recvmmsg` compares it after each message (net/socket.c at v5.10).
        (299, "recvmmsg", Descriptor, Read(None), Never),
        // The timeouts of requests are in shared memory (`io_timeout`, fs/io_uring.c at v5.10).
        (426, "io_uring_enter", Descriptor, Events, Unknown),
        // `if (timeout)` in `SYSCALL_DEFINE6(epoll_pwait2)`, fs/eventpoll.c at v5.11.
        (441, "epoll_pwait2", Descriptor, Events, Pointer(3)),
        // `SYSCALL_DEFINE5(futex_waitv)`, kernel/futex/syscalls.c at v5.16.
        (449, "futex_waitv", Own, Lock, Pointer(3)),
        // `SYSCALL_DEFINE6(futex_wait)`, kernel/futex/syscalls.c at v6.7.
        (455, "futex_wait", Address, Lock, Pointer(4)),
    ]
};

/// Objects of waits in kernel functions. `/proc/PID/wchan` has the first function that is not part of the scheduler (`get_wchan`,
/// arch/x86/kernel/process.c at v5.10).
const WAIT_CHANNELS: [(&str, WaitKind); 18] = [
    ("ep_poll", WaitKind::Events),
    ("do_epoll_wait", WaitKind::Events),
    ("do_sys_poll", WaitKind::Events),
    ("do_poll", WaitKind::Events),
    ("do_select", WaitKind::Events),
    ("poll_schedule_timeout", WaitKind::Events),
    ("futex_wait_queue_me", WaitKind::Lock),
    ("futex_wait_queue", WaitKind::Lock),
    ("futex_do_wait", WaitKind::Lock),
    ("hrtimer_nanosleep", WaitKind::Sleep),
    ("do_nanosleep", WaitKind::Sleep),
    ("do_wait", WaitKind::Child),
    ("inet_csk_accept", WaitKind::Accept),
    ("pipe_read", WaitKind::Read(None)),
    ("anon_pipe_read", WaitKind::Read(None)),
    ("sk_wait_data", WaitKind::Read(None)),
    ("sk_stream_wait_memory", WaitKind::Write),
    ("locks_lock_inode_wait", WaitKind::FileLock),
];

impl WaitKind {
    /// Returns the object of a wait in a kernel function.
    pub(super) fn in_function(wchan: &str) -> Option<Self> {
        // The compiler appends a dot and a suffix to the names of parts and clones of a function.
        let name = wchan.split('.').next()?;
        WAIT_CHANNELS.iter().find(|(function, _)| *function == name).map(|(_, kind)| *kind)
    }
}

impl Syscall {
    const POLL: Self = Self(7);
    const RESTART: Self = Self(219);

    /// Returns the name of a call that can block.
    pub fn name(self) -> Option<&'static str> {
        Some(self.row()?.1)
    }

    /// Whether the call waits for any of several descriptors.
    pub fn waits_for_many(self) -> bool {
        self.row().is_some_and(|row| row.3 == WaitKind::Events)
    }

    /// Returns the argument that says what the call waits for: a descriptor, the address of a lock, or of poll(2) and ppoll(2) the
    /// number of descriptors.
    pub fn awaited_of(self, args: &SyscallArgs) -> u64 {
        let [first, second, ..] = *args;
        if self.awaited() == Awaited::Number { second } else { first }
    }

    /// Returns the longest possible wait in this call with these arguments; `wchan` is the kernel function in which the thread
    /// waits. `None` if unknown.
    pub fn wait_limit(self, args: &SyscallArgs, wchan: Option<&str>) -> Option<WaitLimit> {
        let limited = |limited: bool| Some(if limited { WaitLimit::Limited } else { WaitLimit::Unlimited });
        let argument = |index: usize| args.get(index).copied();
        match self.row()?.4 {
            LimitArgument::Always => limited(true),
            LimitArgument::Never => limited(false),
            LimitArgument::Pointer(index) => limited(argument(index)? != 0),
            // An `int` is the lower half of its register.
            LimitArgument::Milliseconds(index) => limited((argument(index)? as u32).cast_signed() >= 0),
            LimitArgument::Unless(index, flags) => (argument(index)? & flags == 0).then_some(WaitLimit::Unlimited),
            // `futex_cmd_has_timeout`, kernel/futex/syscalls.c at v5.16; `SYSCALL_DEFINE6(futex)`, kernel/futex.c at v5.10.
            LimitArgument::Futex => match argument(1)? & u64::from(u32::MAX) & !FUTEX_FLAGS {
                FUTEX_WAIT | FUTEX_LOCK_PI | FUTEX_WAIT_BITSET | FUTEX_WAIT_REQUEUE_PI | FUTEX_LOCK_PI2 => {
                    limited(argument(3)? != 0)
                }
                _ => None,
            },
            LimitArgument::Fcntl => LOCK_COMMANDS.contains(&argument(1)?).then_some(WaitLimit::Unlimited),
            LimitArgument::Unknown => self.restarted(args, wchan),
        }
    }

    /// Returns the longest possible wait in a call that a signal (such as a stop) interrupted and that continues as
    /// restart_syscall(2). The registers still have its arguments (`arch_do_signal_or_restart`, arch/x86/kernel/signal.c at
    /// v5.10). Of the calls that continue in this way, futex(2) and nanosleep(2) always have a limit (`if (!abs_time)` in
    /// `futex_wait`, kernel/futex.c at v5.10); poll(2) may have none (`do_restart_poll`, fs/select.c at v5.10).
    fn restarted(self, args: &SyscallArgs, wchan: Option<&str>) -> Option<WaitLimit> {
        match self.restarted_kind(wchan?)? {
            WaitKind::Lock | WaitKind::Sleep => Some(WaitLimit::Limited),
            WaitKind::Events => Self::POLL.wait_limit(args, None),
            WaitKind::Event
            | WaitKind::Child
            | WaitKind::Signal
            | WaitKind::Accept
            | WaitKind::Read(_)
            | WaitKind::Connect
            | WaitKind::Write
            | WaitKind::FileLock
            | WaitKind::Open
            | WaitKind::Other => None,
        }
    }

    /// Returns the object of a wait in a restarted call. All functions of a restarted nanosleep(2) are part of the scheduler
    /// (`hrtimer_nanosleep_restart`, kernel/time/hrtimer.c at v5.10), so the first other function is the kernel's entry point.
    fn restarted_kind(self, wchan: &str) -> Option<WaitKind> {
        if self != Self::RESTART {
            return None;
        }
        match wchan {
            "do_syscall_64" | "__x64_sys_restart_syscall" | "__do_sys_restart_syscall" => Some(WaitKind::Sleep),
            _ => WaitKind::in_function(wchan),
        }
    }

    /// Returns the object of a wait in this call.
    pub(super) fn wait(self, awaited: Option<u64>, wchan: Option<&str>) -> WaitKind {
        let kind = self.row().map_or(WaitKind::Other, |row| row.3);
        match kind {
            WaitKind::Read(_) => WaitKind::Read(awaited),
            WaitKind::Events if self.awaited() == Awaited::Number && awaited == Some(1) => WaitKind::Event,
            WaitKind::Other => wchan.and_then(|wchan| self.restarted_kind(wchan)).unwrap_or(WaitKind::Other),
            WaitKind::Events
            | WaitKind::Event
            | WaitKind::Lock
            | WaitKind::Sleep
            | WaitKind::Child
            | WaitKind::Signal
            | WaitKind::Accept
            | WaitKind::Connect
            | WaitKind::Write
            | WaitKind::FileLock
            | WaitKind::Open => kind,
        }
    }

    pub(super) fn awaited(self) -> Awaited {
        self.row().map_or(Awaited::Own, |row| row.2)
    }

    fn row(self) -> Option<&'static SyscallRow> {
        TABLE.iter().find(|row| row.0 == self.0)
    }
}

impl fmt::Display for Syscall {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.name() {
            Some(name) => f.pad(name),
            None => write!(f, "syscall {}", self.0),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIMITED: Option<WaitLimit> = Some(WaitLimit::Limited);
    const UNLIMITED: Option<WaitLimit> = Some(WaitLimit::Unlimited);
    const POINTER: u64 = 0x7f00_1122_3344;
    const MINUS_ONE: u64 = 0xffff_ffff;

    fn limit(number: i64, args: SyscallArgs) -> Option<WaitLimit> {
        Syscall(number).wait_limit(&args, None)
    }

    #[test]
    fn the_table_is_sorted_and_other_calls_are_shown_as_numbers() {
        assert!(TABLE.is_sorted_by(|one, next| one.0 < next.0));
        assert_eq!(Syscall(455).to_string(), "futex_wait");
        assert_eq!(Syscall(5000).to_string(), "syscall 5000");
        assert_eq!(limit(5000, [0; 6]), None);
    }

    #[test]
    fn a_futex_waits_without_a_limit_if_its_time_is_a_null_pointer() {
        // FUTEX_WAIT, FUTEX_WAIT_BITSET with flags, FUTEX_LOCK_PI, FUTEX_WAIT_REQUEUE_PI, FUTEX_LOCK_PI2.
        for operation in [0, 128, 9, 9 | 128 | 256, 6, 11, 13] {
            assert_eq!(limit(202, [POINTER, operation, 2, 0, 0, 0]), UNLIMITED, "{operation}");
            assert_eq!(limit(202, [POINTER, operation, 2, POINTER, 0, 0]), LIMITED, "{operation}");
        }
        // FUTEX_WAKE and FUTEX_REQUEUE do not wait, and their fourth argument is a number.
        for operation in [1, 3, 4, 129] {
            assert_eq!(limit(202, [POINTER, operation, 2, 1, 0, 0]), None, "{operation}");
        }
        assert_eq!(limit(449, [POINTER, 2, 0, 0, 1, 0]), UNLIMITED);
        assert_eq!(limit(449, [POINTER, 2, 0, POINTER, 1, 0]), LIMITED);
        assert_eq!(limit(455, [POINTER, 2, 1, 2, 0, 0]), UNLIMITED);
        assert_eq!(limit(455, [POINTER, 2, 1, 2, POINTER, 0]), LIMITED);
    }

    #[test]
    fn milliseconds_below_zero_are_no_limit() {
        for (number, index) in [(7, 2), (232, 3), (281, 3)] {
            let with = |milliseconds| {
                let mut args = [POINTER; 6];
                args[index] = milliseconds;
                limit(number, args)
            };
            assert_eq!(with(MINUS_ONE), UNLIMITED, "{number}");
            assert_eq!(with(u64::MAX), UNLIMITED, "{number}");
            assert_eq!(with(0xdead_0000_0000_0064), LIMITED, "{number}: the upper half is no part of an int");
            assert_eq!([with(0), with(70_000)], [LIMITED, LIMITED], "{number}");
        }
    }

    #[test]
    fn a_null_pointer_is_no_limit() {
        for (number, index) in [(23, 4), (128, 2), (220, 3), (243, 4), (270, 4), (271, 2), (441, 3)] {
            let mut args = [POINTER; 6];
            assert_eq!(limit(number, args), LIMITED, "{number}");
            args[index] = 0;
            assert_eq!(limit(number, args), UNLIMITED, "{number}");
        }
    }

    #[test]
    fn sleeps_have_a_limit_and_calls_without_such_an_argument_have_none() {
        assert_eq!([limit(35, [0; 6]), limit(230, [0; 6])], [LIMITED, LIMITED]);
        let without = [0, 1, 17, 18, 19, 20, 34, 40, 43, 44, 45, 46, 47, 65, 70, 130, 257, 275, 288, 299];
        for number in without {
            assert_eq!(limit(number, [POINTER; 6]), UNLIMITED, "{number}");
        }
        for number in [3, 42, 74, 75, 426] {
            assert_eq!(limit(number, [0; 6]), None, "{number}");
        }
    }

    #[test]
    fn calls_that_return_at_once_have_no_limit() {
        assert_eq!(limit(61, [MINUS_ONE, POINTER, 0, 0, 0, 0]), UNLIMITED);
        assert_eq!(limit(61, [MINUS_ONE, POINTER, 1, 0, 0, 0]), None);
        assert_eq!([limit(247, [0, 0, 0, 4, 0, 0]), limit(247, [0, 0, 0, 5, 0, 0])], [UNLIMITED, None]);
        assert_eq!([limit(73, [5, 2, 0, 0, 0, 0]), limit(73, [5, 6, 0, 0, 0, 0])], [UNLIMITED, None]);
        // F_SETLKW, F_OFD_SETLKW; F_SETLK, F_GETFL.
        let fcntl = |command| limit(72, [5, command, POINTER, 0, 0, 0]);
        assert_eq!([fcntl(7), fcntl(38), fcntl(6), fcntl(3)], [UNLIMITED, UNLIMITED, None, None]);
    }

    #[test]
    fn the_kernel_function_shows_the_object_of_a_restarted_call() {
        let restarted = |wchan| Syscall(219).wait_limit(&[0, 1, MINUS_ONE, 0, 0, 0], wchan);
        assert_eq!(restarted(Some("futex_wait_queue_me")), LIMITED);
        assert_eq!(restarted(Some("do_syscall_64")), LIMITED, "nanosleep");
        assert_eq!(restarted(Some("poll_schedule_timeout.constprop.0")), UNLIMITED);
        assert_eq!(Syscall(219).wait_limit(&[0, 1, 500, 0, 0, 0], Some("do_sys_poll")), LIMITED);
        assert_eq!([restarted(Some("vfs_read")), restarted(None)], [None, None]);
        assert_eq!(Syscall(219).wait(None, Some("do_syscall_64")), WaitKind::Sleep);
        assert_eq!(Syscall(42).wait_limit(&[0; 6], Some("futex_wait_queue_me")), None);
        assert_eq!(Syscall(219).wait(None, Some("do_sys_poll.constprop.0")), WaitKind::Events);
    }

    #[test]
    fn every_blocking_call_has_an_object_of_its_wait() {
        let kind = |number| Syscall(number).wait(Some(5), None);
        for number in [7, 23, 232, 270, 271, 281, 426, 441] {
            assert_eq!(kind(number), WaitKind::Events, "{number}");
            assert!(Syscall(number).waits_for_many());
        }
        assert!([202, 449, 455, 65, 220].iter().all(|number| kind(*number) == WaitKind::Lock));
        assert!([35, 230].iter().all(|number| kind(*number) == WaitKind::Sleep));
        assert!([61, 247].iter().all(|number| kind(*number) == WaitKind::Child));
        assert!([43, 288].iter().all(|number| kind(*number) == WaitKind::Accept));
        assert!([0, 17, 19, 45, 47, 299].iter().all(|number| kind(*number) == WaitKind::Read(Some(5))));
        assert!([1, 18, 20, 40, 44, 46, 74, 75].iter().all(|number| kind(*number) == WaitKind::Write));
        assert!([72, 73].iter().all(|number| kind(*number) == WaitKind::FileLock));
        assert!([34, 128, 130].iter().all(|number| kind(*number) == WaitKind::Signal));
        assert!([219, 5000].iter().all(|number| kind(*number) == WaitKind::Other));
        assert_eq!(kind(42), WaitKind::Connect);
    }
}
