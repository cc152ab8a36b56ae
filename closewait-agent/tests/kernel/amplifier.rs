//! Kernel program of a test guest that widens one race: only for guests of `cargo xtask vm`.
//!
//! `reqsk_queue_hash_req` (net/ipv4/inet_connection_sock.c at v6.18) adds a request socket to the table of
//! connections and sets its reference count afterwards. The program runs in between and waits 100 µs. Then any
//! unchecked reference to such a socket fails in most scans instead of in a few of a hundred (CVE-2026-74714).

use std::{
    env, fs, io,
    os::fd::{AsRawFd as _, FromRawFd as _, OwnedFd},
};

use crate::ability::{Ability, can};

/// Environment variable that `cargo xtask vm` sets in guests.
const GUEST: &str = "CLOSEWAIT_TEST_GUEST";

/// Running program. It is detached when this is dropped.
pub(crate) struct Amplifier {
    _program: OwnedFd,
    _link: OwnedFd,
}

impl Amplifier {
    /// Attaches the program in a guest; returns `None` elsewhere, and if the guest's kernel cannot attach it.
    pub(crate) fn in_guest() -> Option<Self> {
        if !Self::wanted() {
            return None;
        }
        let attached = Self::attach();
        if can(Ability::FunctionExits) {
            return Some(attached.expect("the amplifier"));
        }
        let refused = attached.err().and_then(|error| error.raw_os_error());
        assert_eq!(refused, Some(ENOTSUPP), "such a kernel refuses it");
        None
    }

    /// Whether this kernel runs in a guest.
    pub(crate) fn wanted() -> bool {
        env::var_os(GUEST).is_some()
    }

    fn attach() -> io::Result<Self> {
        lift_locked_memory()?;
        let types = fs::read("/sys/kernel/btf/vmlinux")?;
        let function = function_id(&types, b"inet_ehash_insert").ok_or(io::ErrorKind::NotFound)?;
        let (code, license) = (program(), c"GPL");
        let load = Load {
            prog_type: BPF_PROG_TYPE_TRACING,
            insn_cnt: code.len() as u32,
            insns: code.as_ptr() as u64,
            license: license.as_ptr() as u64,
            prog_name: *b"amplifier\0\0\0\0\0\0\0",
            expected_attach_type: BPF_TRACE_FEXIT,
            attach_btf_id: function,
            ..Load::default()
        };
        let program = new_fd(BPF_PROG_LOAD, &load)?;
        let open = Open { name: 0, prog_fd: program.as_raw_fd().cast_unsigned(), _pad: 0 };
        let link = new_fd(BPF_RAW_TRACEPOINT_OPEN, &open)?;
        Ok(Self { _program: program, _link: link })
    }
}

const BPF_PROG_LOAD: libc::c_long = 5;
const BPF_RAW_TRACEPOINT_OPEN: libc::c_long = 17;
const BPF_PROG_TYPE_TRACING: u32 = 26;
const BPF_TRACE_FEXIT: u32 = 25;
/// What `register_fentry` returns without direct calls of ftrace (kernel/bpf/trampoline.c at v6.1, include/linux/errno.h).
const ENOTSUPP: i32 = 524;

/// Fields of `union bpf_attr` that `BPF_PROG_LOAD` reads (include/uapi/linux/bpf.h at v5.10).
#[repr(C)]
#[derive(Default)]
struct Load {
    prog_type: u32,
    insn_cnt: u32,
    insns: u64,
    license: u64,
    log_level: u32,
    log_size: u32,
    log_buf: u64,
    kern_version: u32,
    prog_flags: u32,
    prog_name: [u8; 16],
    prog_ifindex: u32,
    expected_attach_type: u32,
    prog_btf_fd: u32,
    func_info_rec_size: u32,
    func_info: u64,
    func_info_cnt: u32,
    line_info_rec_size: u32,
    line_info: u64,
    line_info_cnt: u32,
    attach_btf_id: u32,
}

/// Fields of `union bpf_attr` that `BPF_RAW_TRACEPOINT_OPEN` reads (include/uapi/linux/bpf.h at v5.10).
#[repr(C)]
struct Open {
    name: u64,
    prog_fd: u32,
    _pad: u32,
}

/// Lets this process lock any amount of memory.
///
/// Before Linux 5.11 a program counts as locked memory of its user, together with all that the agents of tests beside
/// this one have locked: `bpf_prog_charge_memlock` (kernel/bpf/syscall.c at v5.10) fails with EPERM beyond the limit.
fn lift_locked_memory() -> io::Result<()> {
    let limit = libc::rlimit { rlim_cur: libc::RLIM_INFINITY, rlim_max: libc::RLIM_INFINITY };
    // SAFETY: the pointer is to a whole rlimit that outlives the call, which only reads it.
    if unsafe { libc::setrlimit(libc::RLIMIT_MEMLOCK, &raw const limit) } == 0 {
        Ok(())
    } else {
        Err(io::Error::last_os_error())
    }
}

/// Calls a `bpf` command that returns a descriptor.
fn new_fd<T>(command: libc::c_long, attributes: &T) -> io::Result<OwnedFd> {
    let attributes: *const T = attributes;
    // SAFETY: the attributes are those of the command, of the size given, and what they point to outlives the call, which
    // only reads it.
    let fd = unsafe { libc::syscall(libc::SYS_bpf, command, attributes, size_of::<T>() as libc::c_long) };
    let fd = i32::try_from(fd).ok().filter(|fd| *fd >= 0).ok_or_else(io::Error::last_os_error)?;
    // SAFETY: the kernel has just returned this descriptor, and nothing else in this process uses it.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// Returns the instructions (`struct bpf_insn`). The wait is also bounded by a number of rounds.
fn program() -> [u64; 13] {
    /// Offset of `skc_state` in `struct sock_common`, the same from v5.10 to v7.3.
    const STATE: i16 = 18;
    const TCP_NEW_SYN_RECV: i32 = 12;
    const KTIME_GET_NS: i32 = 5;
    let insn = |code: u8, to: u8, from: u8, offset: i16, immediate: i32| {
        let [low, high] = offset.to_le_bytes();
        let [a, b, c, d] = immediate.to_le_bytes();
        u64::from_le_bytes([code, to | from << 4, low, high, a, b, c, d])
    };
    [
        insn(0x79, 6, 1, 0, 0),                // r6 = the function's first argument, a socket
        insn(0x71, 7, 6, STATE, 0),            // r7 = its state
        insn(0x55, 7, 0, 8, TCP_NEW_SYN_RECV), // if r7 is another state: to the end
        insn(0x85, 0, 0, 0, KTIME_GET_NS),     // r0 = now
        insn(0xbf, 8, 0, 0, 0),                // r8 = r0
        insn(0xb7, 9, 0, 0, 0),                // r9 = 0
        insn(0x85, 0, 0, 0, KTIME_GET_NS),     // again: r0 = now
        insn(0x1f, 0, 8, 0, 0),                // r0 -= r8
        insn(0x25, 0, 0, 2, 100_000),          // if r0 > 100 µs: to the end
        insn(0x07, 9, 0, 0, 1),                // r9 += 1
        insn(0xa5, 9, 0, -5, 2_000),           // if r9 < 2000: again
        insn(0xb7, 0, 0, 0, 0),                // the end: r0 = 0
        insn(0x95, 0, 0, 0, 0),
    ]
}

/// Returns the number of a function in the kernel's types (`Documentation/bpf/btf.rst` at v6.18).
fn function_id(types: &[u8], name: &[u8]) -> Option<u32> {
    const FUNC: u32 = 12;
    let word = |at: usize| Some(u32::from_le_bytes(types.get(at..at + 4)?.try_into().ok()?));
    let header = word(4)? as usize;
    let (first, strings) = (header + word(8)? as usize, header + word(16)? as usize);
    let end = first + word(12)? as usize;
    let (mut at, mut id) = (first, 1);
    while at < end {
        let (name_at, info) = (strings + word(at)? as usize, word(at + 4)?);
        let (kind, members) = (info >> 24 & 31, (info & 0xffff) as usize);
        let found = types.get(name_at..name_at + name.len() + 1)?;
        if kind == FUNC && found.strip_suffix(&[0]) == Some(name) {
            return Some(id);
        }
        at += 12
            + match kind {
                // Integer, variable, declaration tag.
                1 | 14 | 17 => 4,
                // Array.
                3 => 12,
                // Struct, union, section of data, 64-bit enumeration.
                4 | 5 | 15 | 19 => members * 12,
                // Enumeration, parameters.
                6 | 13 => members * 8,
                _ => 0,
            };
        id += 1;
    }
    None
}
