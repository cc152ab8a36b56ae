//! System calls that block: the object of the wait, and its longest possible duration.

mod table;

use std::fmt;

use serde::{Deserialize, Serialize};

pub use self::table::Architecture;
pub(super) use self::table::Awaited;
use self::table::{LimitArgument, SyscallRow};

/// System call, by its number on an architecture.
///
/// Recordings contain it as one number: the upper half is 0 for x86_64, the only architecture of earlier agents, and 1 for aarch64.
/// To an agent that knows no other architecture than x86_64, a call of aarch64 is an unknown call, and not another one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "i64", into = "i64")]
pub struct Syscall {
    architecture: Architecture,
    number: i32,
}

/// Error for a recorded number of an architecture that this agent does not know.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the system call {0:#x} is of an unknown architecture")]
pub struct UnknownArchitecture(i64);

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

/// `FUTEX_CMD_MASK` and the operations with a timeout (include/uapi/linux/futex.h at v6.12).
const FUTEX_FLAGS: u64 = 128 | 256;
const FUTEX_WAIT: u64 = 0;
const FUTEX_LOCK_PI: u64 = 6;
const FUTEX_WAIT_BITSET: u64 = 9;
const FUTEX_WAIT_REQUEUE_PI: u64 = 11;
const FUTEX_LOCK_PI2: u64 = 13;
/// `F_SETLKW` (include/uapi/asm-generic/fcntl.h at v5.10) and `F_OFD_SETLKW`.
const LOCK_COMMANDS: [u64; 2] = [7, 38];

/// Number of poll(2) on x86_64.
const POLL: i32 = 7;
/// Name of restart_syscall(2).
const RESTART: &str = "restart_syscall";
/// Upper half of the recorded number of a call of aarch64.
const AARCH64_HALF: i64 = 1;
/// Functions through which the kernel enters a system call: those of x86_64, and those of aarch64 (arch/arm64/kernel/syscall.c at
/// v5.10). Which of them is the first one depends on the compiler.
const ENTRY_POINTS: [&str; 8] = [
    "do_syscall_64",
    "__x64_sys_restart_syscall",
    "__do_sys_restart_syscall",
    "__arm64_sys_restart_syscall",
    "__invoke_syscall",
    "invoke_syscall",
    "el0_svc_common",
    "do_el0_svc",
];

/// Objects of waits in kernel functions. `/proc/PID/wchan` has the first function that is not part of the scheduler (`get_wchan`,
/// arch/x86/kernel/process.c and arch/arm64/kernel/process.c at v5.10).
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
    /// Returns the call with this number on an architecture.
    pub const fn new(architecture: Architecture, number: i32) -> Self {
        Self { architecture, number }
    }

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
    /// restart_syscall(2). The registers still have its arguments (`arch_do_signal_or_restart`, arch/x86/kernel/signal.c, and
    /// `do_signal`, arch/arm64/kernel/signal.c, at v5.10). Of the calls that continue in this way, futex(2) and nanosleep(2) always have a limit (`if (!abs_time)` in
    /// `futex_wait`, kernel/futex.c at v5.10); poll(2) may have none (`do_restart_poll`, fs/select.c at v5.10).
    fn restarted(self, args: &SyscallArgs, wchan: Option<&str>) -> Option<WaitLimit> {
        match self.restarted_kind(wchan?)? {
            WaitKind::Lock | WaitKind::Sleep => Some(WaitLimit::Limited),
            WaitKind::Events => match self.architecture {
                Architecture::X86_64 => Self::new(self.architecture, POLL).wait_limit(args, None),
                // Only poll(2) continues in this way, and ppoll(2) does not (`poll_select_finish`, fs/select.c at v5.10).
                Architecture::Aarch64 => None,
            },
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
        if self.name() != Some(RESTART) {
            return None;
        }
        let function = wchan.split('.').next()?;
        if ENTRY_POINTS.contains(&function) { Some(WaitKind::Sleep) } else { WaitKind::in_function(wchan) }
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
        self.architecture.row(self.number)
    }
}

impl TryFrom<i64> for Syscall {
    type Error = UnknownArchitecture;

    /// Converts a recorded number.
    fn try_from(recorded: i64) -> Result<Self, UnknownArchitecture> {
        if let Ok(number) = i32::try_from(recorded) {
            return Ok(Self::new(Architecture::X86_64, number));
        }
        if recorded >> 32 == AARCH64_HALF {
            // The lower half is the number.
            return Ok(Self::new(Architecture::Aarch64, recorded as i32));
        }
        Err(UnknownArchitecture(recorded))
    }
}

impl From<Syscall> for i64 {
    /// Returns the number to record.
    fn from(call: Syscall) -> Self {
        match call.architecture {
            Architecture::X86_64 => call.number.into(),
            Architecture::Aarch64 => AARCH64_HALF << 32 | Self::from(call.number.cast_unsigned()),
        }
    }
}

impl fmt::Display for Syscall {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.name() {
            Some(name) => f.pad(name),
            None => write!(f, "syscall {}", self.number),
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

    const fn x86_64(number: i32) -> Syscall {
        Syscall::new(Architecture::X86_64, number)
    }

    const fn aarch64(number: i32) -> Syscall {
        Syscall::new(Architecture::Aarch64, number)
    }

    fn limit(number: i32, args: SyscallArgs) -> Option<WaitLimit> {
        x86_64(number).wait_limit(&args, None)
    }

    #[test]
    fn a_number_has_the_name_of_its_architecture_and_other_calls_are_shown_as_numbers() {
        assert_eq!(x86_64(455).to_string(), "futex_wait");
        assert_eq!(x86_64(5000).to_string(), "syscall 5000");
        assert_eq!(limit(5000, [0; 6]), None);
        assert_eq!([x86_64(202).name(), aarch64(98).name()], [Some("futex"); 2]);
        assert_eq!([x86_64(98).name(), aarch64(202).name()], [None, Some("accept")]);
        assert_eq!(aarch64(7).to_string(), "syscall 7", "poll of x86_64");
    }

    #[test]
    fn a_recorded_number_has_its_architecture_and_alone_is_of_x86_64() {
        for call in [x86_64(0), x86_64(202), x86_64(-1), x86_64(i32::MAX), aarch64(0), aarch64(98), aarch64(-1)] {
            let recorded = i64::from(call);
            assert_eq!(Syscall::try_from(recorded), Ok(call));
            let text = serde_json::to_string(&call).unwrap();
            assert_eq!((text.parse(), serde_json::from_str(&text).ok()), (Ok(recorded), Some(call)));
        }
        assert_eq!([i64::from(x86_64(202)), i64::from(x86_64(-1))], [202, -1], "as in recordings of earlier agents");
        assert_eq!(i64::from(aarch64(98)), (1 << 32) + 98);
        for unknown in [2 << 32, i64::MIN, i64::MAX, i64::from(i32::MIN) - 1] {
            assert_eq!(Syscall::try_from(unknown), Err(UnknownArchitecture(unknown)));
            assert!(serde_json::from_str::<Syscall>(&unknown.to_string()).is_err(), "{unknown}");
        }
    }

    #[test]
    fn calls_of_both_architectures_mean_the_same() {
        let pairs = [(0, 63), (202, 98), (271, 73), (281, 22), (61, 260), (72, 25), (219, 128), (449, 449)];
        for (one, other) in pairs.map(|(one, other)| (x86_64(one), aarch64(other))) {
            assert_eq!((one.name(), one.awaited()), (other.name(), other.awaited()));
            assert_eq!(one.wait(Some(1), None), other.wait(Some(1), None), "{one}");
            for args in [[0; 6], [POINTER; 6], [5, 7, 0, POINTER, 0, 0], [5, 1, 0, MINUS_ONE, 0, 0]] {
                assert_eq!(one.wait_limit(&args, None), other.wait_limit(&args, None), "{one}");
                assert_eq!(one.awaited_of(&args), other.awaited_of(&args), "{one}");
            }
        }
        for function in ["invoke_syscall", "__arm64_sys_restart_syscall", "el0_svc_common.constprop.0"] {
            assert_eq!(aarch64(128).wait(None, Some(function)), WaitKind::Sleep);
            assert_eq!(aarch64(128).wait_limit(&[0; 6], Some(function)), LIMITED);
        }
        let polls = aarch64(128).wait_limit(&[0, 1, MINUS_ONE, 0, 0, 0], Some("do_sys_poll"));
        assert_eq!(polls, None, "poll(2) does not exist there");
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
        let restarted = |wchan| x86_64(219).wait_limit(&[0, 1, MINUS_ONE, 0, 0, 0], wchan);
        assert_eq!(restarted(Some("futex_wait_queue_me")), LIMITED);
        assert_eq!(restarted(Some("do_syscall_64")), LIMITED, "nanosleep");
        assert_eq!(restarted(Some("poll_schedule_timeout.constprop.0")), UNLIMITED);
        assert_eq!(x86_64(219).wait_limit(&[0, 1, 500, 0, 0, 0], Some("do_sys_poll")), LIMITED);
        assert_eq!([restarted(Some("vfs_read")), restarted(None)], [None, None]);
        assert_eq!(x86_64(219).wait(None, Some("do_syscall_64")), WaitKind::Sleep);
        assert_eq!(x86_64(42).wait_limit(&[0; 6], Some("futex_wait_queue_me")), None);
        assert_eq!(x86_64(219).wait(None, Some("do_sys_poll.constprop.0")), WaitKind::Events);
    }

    #[test]
    fn every_blocking_call_has_an_object_of_its_wait() {
        let kind = |number| x86_64(number).wait(Some(5), None);
        for number in [7, 23, 232, 270, 271, 281, 426, 441] {
            assert_eq!(kind(number), WaitKind::Events, "{number}");
            assert!(x86_64(number).waits_for_many());
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
