//! Samples of the user stacks of watched processes in their `connect(2)`.
//!
//! `tcp_v4_connect` and `tcp_v6_connect` change the state to SYN_SENT in the connecting task, after they have set the remote
//! endpoint (net/ipv4/tcp_ipv4.c, net/ipv6/tcp_ipv6.c at v5.10). A thread of io_uring connects with registers of its own, which
//! lead to no function.

use core::ffi::c_void;

use aya_ebpf::helpers::{
    bpf_get_current_pid_tgid,
    generated::{bpf_get_current_task_btf, bpf_probe_read_user, bpf_task_pt_regs},
};
use closewait_common::{
    connect::{CHUNK_BYTES, ConnectHead, STACK_BYTES, key},
    tcp::AF_INET,
};

use crate::{
    globals::layout,
    maps,
    sock::{self, Pointer, Probed},
    time,
};

/// Writes a record of the current task's user stack, if its process is watched for the remote port of `sk`. Only for kernels with
/// `bpf_task_pt_regs` (Linux 5.15).
#[inline(always)]
pub(crate) fn sample(sk: impl Pointer) {
    let Some(port) = sk.read::<u16>(layout!(sock_dport)) else { return };
    let (port, task) = (u16::from_be(port), bpf_get_current_pid_tgid());
    let Some(watch) = maps::connect_watch(key((task >> 32) as u32, port)) else { return };
    let now_ns = time::boot_ns();
    if maps::may_sample(watch, now_ns) {
        copy(sk.address(), now_ns, task, port);
    }
}

/// Writes the record. A function of its own, which both programs for the tracepoint call: the object has it once.
#[inline(never)]
fn copy(sk: u64, now_ns: u64, task: u64, port: u16) {
    let sk = Probed::new(sk as *const c_void);
    // SAFETY: the helper has no arguments and cannot fail.
    let task_struct = unsafe { bpf_get_current_task_btf() };
    // SAFETY: `task_struct` is the current task.
    let registers = unsafe { bpf_task_pt_regs(task_struct) };
    let registers = Probed::new(registers as *const c_void);
    let mut head = ConnectHead {
        time_ns: now_ns,
        pc: 0,
        sp: 0,
        fp: 0,
        lr: 0,
        pid: (task >> 32) as u32,
        tid: task as u32,
        netns: sock::netns(sk).unwrap_or(0),
        remote_port: port,
        stack_len: 0,
        remote_address: [0; 16],
    };
    // The helper leaves zeros if it fails. A branch for each would double the verifier's work.
    let _pc: Option<()> = registers.read_into(layout!(regs_pc), &raw mut head.pc);
    let _sp: Option<()> = registers.read_into(layout!(regs_sp), &raw mut head.sp);
    let _fp: Option<()> = registers.read_into(layout!(regs_fp), &raw mut head.fp);
    let _lr: Option<()> = registers.read_into(layout!(regs_lr), &raw mut head.lr);
    if sk.read::<u16>(layout!(sock_family)).unwrap_or(0) == AF_INET {
        sock::map_v4(&mut head.remote_address, sk.read(layout!(sock_daddr)).unwrap_or(0));
    } else {
        let _unread: Option<()> = sk.probed().read_into(layout!(sock_v6_daddr), &raw mut head.remote_address);
    }
    // Without space, the agent sees that it got fewer records than connections.
    let Some(mut entry) = maps::reserve_connect() else { return };
    let record = entry.as_mut_ptr();
    // SAFETY: `record` points to the whole reserved record, which this program alone writes until it submits it.
    let to = unsafe { &raw mut (*record).head };
    // SAFETY: as above.
    unsafe { to.write(head) };
    // SAFETY: as above.
    let stack: *mut u8 = unsafe { (&raw mut (*record).stack).cast() };
    let mut len = 0;
    while len < STACK_BYTES {
        let from = head.sp.wrapping_add(len as u64) as *const c_void;
        let to = stack.wrapping_add(len).cast();
        // SAFETY: the chunk at `len` is inside of the record's stack; the helper fails instead of faulting.
        let failed = unsafe { bpf_probe_read_user(to, CHUNK_BYTES as u32, from) };
        if failed != 0 {
            break;
        }
        len += CHUNK_BYTES;
    }
    // SAFETY: as above.
    let to = unsafe { &raw mut (*record).head.stack_len };
    // SAFETY: as above.
    unsafe { to.write(len as u16) };
    maps::submit_connect(entry);
}
