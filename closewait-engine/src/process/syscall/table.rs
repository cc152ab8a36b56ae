//! System calls that block, with their numbers.

use super::WaitKind;

/// Architecture whose numbers a system call has.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Architecture {
    /// x86_64 (arch/x86/entry/syscalls/syscall_64.tbl at v6.12).
    X86_64,
    /// aarch64, which has the numbers of newer architectures (include/uapi/asm-generic/unistd.h at v6.12).
    Aarch64,
}

/// Meaning of the argument that says what a system call waits for: the first, of poll the second.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::process) enum Awaited {
    Descriptor,
    Address,
    /// Number of descriptors.
    Number,
    /// A value that threads cannot have in common.
    Own,
}

/// Place of a wait's timeout in the arguments of a call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum LimitArgument {
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

/// Numbers of a call, in the order of [`Architecture`]; `None` where it does not exist.
type SyscallNumbers = [Option<i32>; 2];

/// Row of [`TABLE`]: numbers, name, meaning of the argument that says what it waits for, object of the wait, place of the timeout.
/// The arguments of a call are the same on all architectures.
pub(super) type SyscallRow = (SyscallNumbers, &'static str, Awaited, WaitKind, LimitArgument);

/// `WNOHANG` (include/uapi/linux/wait.h at v5.10).
const WNOHANG: u64 = 1;
/// `LOCK_NB` (include/uapi/asm-generic/fcntl.h at v5.10).
const LOCK_NB: u64 = 4;

/// System calls that block, by number on x86_64.
pub(super) const TABLE: [SyscallRow; 45] = {
    use Awaited::{Address, Descriptor, Number, Own};
    use LimitArgument::{Always, Fcntl, Futex, Milliseconds, Never, Pointer, Unknown, Unless};
    use WaitKind::{Accept, Child, Connect, Events, FileLock, Lock, Open, Other, Read, Signal, Sleep, Write};
    [
        (both(0, 63), "read", Descriptor, Read(None), Never),
        (both(1, 64), "write", Descriptor, Write, Never),
        (both(3, 57), "close", Descriptor, Other, Unknown),
        // `if (timeout_msecs >= 0)` in `SYSCALL_DEFINE3(poll)`, fs/select.c at v5.10.
        (x86_64(7), "poll", Number, Events, Milliseconds(2)),
        (both(17, 67), "pread64", Descriptor, Read(None), Never),
        (both(18, 68), "pwrite64", Descriptor, Write, Never),
        (both(19, 65), "readv", Descriptor, Read(None), Never),
        (both(20, 66), "writev", Descriptor, Write, Never),
        // `if (tvp)` in `kern_select`, fs/select.c at v5.10.
        (x86_64(23), "select", Own, Events, Pointer(4)),
        (x86_64(34), "pause", Own, Signal, Never),
        (both(35, 101), "nanosleep", Own, Sleep, Always),
        (both(40, 71), "sendfile", Descriptor, Write, Never),
        // The retries of a SYN limit it, but not a connect to a UNIX socket.
        (both(42, 203), "connect", Descriptor, Connect, Unknown),
        (both(43, 202), "accept", Descriptor, Accept, Never),
        (both(44, 206), "sendto", Descriptor, Write, Never),
        (both(45, 207), "recvfrom", Descriptor, Read(None), Never),
        (both(46, 211), "sendmsg", Descriptor, Write, Never),
        (both(47, 212), "recvmsg", Descriptor, Read(None), Never),
        // `kernel_wait4` and `SYSCALL_DEFINE5(waitid)`, kernel/exit.c at v5.10.
        (both(61, 260), "wait4", Own, Child, Unless(2, WNOHANG)),
        (both(65, 193), "semop", Own, Lock, Never),
        (both(70, 188), "msgrcv", Own, Other, Never),
        // `fcntl_setlk`, fs/locks.c at v5.10.
        (both(72, 25), "fcntl", Descriptor, FileLock, Fcntl),
        // `can_sleep` in `SYSCALL_DEFINE2(flock)`, fs/locks.c at v5.10.
        (both(73, 32), "flock", Descriptor, FileLock, Unless(1, LOCK_NB)),
        (both(74, 82), "fsync", Descriptor, Write, Unknown),
        (both(75, 83), "fdatasync", Descriptor, Write, Unknown),
        // `if (uts)` in `SYSCALL_DEFINE4(rt_sigtimedwait)`, kernel/signal.c at v5.10.
        (both(128, 137), "rt_sigtimedwait", Own, Signal, Pointer(2)),
        (both(130, 133), "rt_sigsuspend", Own, Signal, Never),
        (both(202, 98), "futex", Address, Lock, Futex),
        // What was interrupted continues: see `restarted`.
        (both(219, 128), "restart_syscall", Own, Other, Unknown),
        // `ksys_semtimedop`, ipc/sem.c at v5.10; semop(3) of the C library is this with a null pointer.
        (both(220, 192), "semtimedop", Own, Lock, Pointer(3)),
        (both(230, 115), "clock_nanosleep", Own, Sleep, Always),
        // `ep_poll`, fs/eventpoll.c at v5.10: positive a time, 0 no wait, negative no limit.
        (x86_64(232), "epoll_wait", Descriptor, Events, Milliseconds(3)),
        // `SYSCALL_DEFINE5(mq_timedreceive)`, ipc/mqueue.c at v5.10.
        (both(243, 183), "mq_timedreceive", Descriptor, Read(None), Pointer(4)),
        (both(247, 95), "waitid", Own, Child, Unless(3, WNOHANG)),
        (both(257, 56), "openat", Own, Open, Never),
        // `if (tsp)` in `do_pselect` and `SYSCALL_DEFINE5(ppoll)`, fs/select.c at v5.10.
        (both(270, 72), "pselect6", Own, Events, Pointer(4)),
        (both(271, 73), "ppoll", Number, Events, Pointer(2)),
        (both(275, 76), "splice", Descriptor, Other, Never),
        (both(281, 22), "epoll_pwait", Descriptor, Events, Milliseconds(3)),
        (both(288, 242), "accept4", Descriptor, Accept, Never),
        // Its timeout ends no wait: `do_recvmmsg` compares it after each message (net/socket.c at v5.10).
        (both(299, 243), "recvmmsg", Descriptor, Read(None), Never),
        // The timeouts of requests are in shared memory (`io_timeout`, fs/io_uring.c at v5.10).
        (both(426, 426), "io_uring_enter", Descriptor, Events, Unknown),
        // `if (timeout)` in `SYSCALL_DEFINE6(epoll_pwait2)`, fs/eventpoll.c at v5.11.
        (both(441, 441), "epoll_pwait2", Descriptor, Events, Pointer(3)),
        // `SYSCALL_DEFINE5(futex_waitv)`, kernel/futex/syscalls.c at v5.16.
        (both(449, 449), "futex_waitv", Own, Lock, Pointer(3)),
        // `SYSCALL_DEFINE6(futex_wait)`, kernel/futex/syscalls.c at v6.7.
        (both(455, 455), "futex_wait", Address, Lock, Pointer(4)),
    ]
};

impl Architecture {
    /// Returns the row of the call with this number; `None` if it is no call that blocks.
    pub(super) fn row(self, number: i32) -> Option<&'static SyscallRow> {
        TABLE.iter().find(|(numbers, ..)| numbers[self as usize] == Some(number))
    }
}

const fn both(x86_64: i32, aarch64: i32) -> SyscallNumbers {
    [Some(x86_64), Some(aarch64)]
}

/// Returns the numbers of a call of which newer architectures have only the variant with more arguments.
const fn x86_64(number: i32) -> SyscallNumbers {
    [Some(number), None]
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn no_number_and_no_name_is_twice_in_the_table() {
        assert!(TABLE.is_sorted_by_key(|row| row.0[0]), "all exist on x86_64");
        for architecture in [Architecture::X86_64, Architecture::Aarch64] {
            let numbers: Vec<_> = TABLE.iter().filter_map(|row| row.0[architecture as usize]).collect();
            assert_eq!(numbers.iter().collect::<BTreeSet<_>>().len(), numbers.len());
            for number in numbers {
                let row = architecture.row(number).unwrap();
                assert_eq!(row.0[architecture as usize], Some(number));
            }
        }
        assert_eq!(TABLE.iter().map(|row| row.1).collect::<BTreeSet<_>>().len(), TABLE.len());
    }

    #[test]
    fn calls_of_x86_64_alone_have_a_variant_on_aarch64() {
        let only: Vec<_> = TABLE.iter().filter(|row| row.0[1].is_none()).map(|row| row.1).collect();
        // The C library makes these calls in their place; it calls ppoll(2) for pause(3), without descriptors.
        assert_eq!(only, ["poll", "select", "pause", "epoll_wait"]);
        for variant in ["ppoll", "pselect6", "epoll_pwait"] {
            assert!(TABLE.iter().any(|row| row.1 == variant && row.0[1].is_some()), "{variant}");
        }
    }
}
