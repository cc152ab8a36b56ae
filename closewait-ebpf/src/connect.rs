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
    connect::{CHUNK_BYTES, STACK_BYTES, key},
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
    let pid = (task >> 32) as u32;
    let Some(watch) = maps::connect_watch(key(pid, port)) else { return };
    let now_ns = time::boot_ns();
    if !maps::may_sample(watch, now_ns) {
        return;
    }
    let mut address = [0; 16];
    if sk.read::<u16>(layout!(sock_family)).unwrap_or(0) == AF_INET {
        sock::map_v4(&mut address, sk.read(layout!(sock_daddr)).unwrap_or(0));
    } else {
        let _unread: Option<()> = sk.probed().read_into(layout!(sock_v6_daddr), &raw mut address);
    }
    let netns = sock::netns(sk).unwrap_or(0);
    // SAFETY: helpers that take no pointer but the one that the first returns, which is the current task.
    let registers = unsafe { bpf_task_pt_regs(bpf_get_current_task_btf()) };
    let registers = Probed::new(registers as *const c_void);
    let sp = registers.read::<u64>(layout!(regs_sp)).unwrap_or(0);
    // Without space, the agent sees that it got fewer records than connections.
    let Some(mut entry) = maps::reserve_connect() else { return };
    let record = entry.as_mut_ptr();
    // SAFETY: `record` points to the whole reserved record, which this program alone writes until it submits it.
    unsafe {
        (&raw mut (*record).time_ns).write(now_ns);
        (&raw mut (*record).pc).write(registers.read(layout!(regs_pc)).unwrap_or(0));
        (&raw mut (*record).sp).write(sp);
        (&raw mut (*record).fp).write(registers.read(layout!(regs_fp)).unwrap_or(0));
        (&raw mut (*record).lr).write(registers.read(layout!(regs_lr)).unwrap_or(0));
        (&raw mut (*record).pid).write(pid);
        (&raw mut (*record).tid).write(task as u32);
        (&raw mut (*record).netns).write(netns);
        (&raw mut (*record).remote_port).write(port);
        (&raw mut (*record).remote_address).write(address);
    }
    // SAFETY: as above.
    let stack: *mut u8 = unsafe { (&raw mut (*record).stack).cast() };
    let mut len = 0;
    while len < STACK_BYTES {
        let from = sp.wrapping_add(len as u64) as *const c_void;
        // SAFETY: the chunk at `len` is inside of the record's stack; the helper fails instead of faulting.
        let failed = unsafe { bpf_probe_read_user(stack.add(len).cast(), CHUNK_BYTES as u32, from) };
        if failed != 0 {
            break;
        }
        len += CHUNK_BYTES;
    }
    // SAFETY: as above.
    unsafe { (&raw mut (*record).stack_len).write(len as u16) };
    maps::submit_connect(entry);
}
