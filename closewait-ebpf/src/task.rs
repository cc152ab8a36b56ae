//! The current task: the opener of a socket, or the one that closes it.

use core::ffi::c_void;

use aya_ebpf::{
    bindings::BPF_SK_STORAGE_GET_F_CREATE,
    helpers::{
        bpf_get_current_pid_tgid,
        generated::{bpf_get_current_comm, bpf_get_current_task, bpf_sk_storage_get},
    },
};
use closewait_common::{
    Record,
    config::MISSING,
    record::{OpenerRecord, flag},
};

use crate::{
    globals::layout,
    maps::OPENERS,
    sock::{Pointer, Probed, Typed},
    time,
};

/// Stores the opener with the socket: the current task.
#[inline(always)]
pub(crate) fn keep_opener(sk: Typed) {
    let mut opener = OpenerRecord { opened_ns: time::boot_ns(), pid: current_pid(), _pad: 0, comm: [0; 16] };
    current_comm(&mut opener.comm);
    let map = (&raw const OPENERS).cast_mut().cast();
    let value = (&raw mut opener).cast();
    // SAFETY: `sk` is a socket by its type, which the verifier checks, and the value is of the map's type.
    let _kept = unsafe { bpf_sk_storage_get(map, sk.raw().cast_mut(), value, u64::from(BPF_SK_STORAGE_GET_F_CREATE)) };
}

/// Whether the opener of a socket was stored.
#[inline(always)]
pub(crate) fn has_opener(sk: Typed) -> bool {
    !kept_opener(sk).is_null()
}

#[inline(always)]
fn kept_opener(sk: Typed) -> *const OpenerRecord {
    let map = (&raw const OPENERS).cast_mut().cast();
    // SAFETY: as above; without a value nothing is created.
    unsafe { bpf_sk_storage_get(map, sk.raw().cast_mut(), core::ptr::null_mut(), 0) }.cast::<OpenerRecord>()
}

/// Sets the opener in the record of an entry, if it was stored.
#[inline(always)]
pub(crate) fn describe_opener(sk: Typed, record: &mut Record) {
    let kept = kept_opener(sk);
    if kept.is_null() {
        return;
    }
    // SAFETY: it points to a value of the map's type that lives as long as the socket, and is written once.
    let opener = unsafe { &*kept };
    record.pid = opener.pid;
    record.comm = opener.comm;
    record.opened_ns = opener.opened_ns;
    record.flags |= flag::OPENER;
}

/// Sets the current task. Call it only if that task made the change.
#[inline(always)]
pub(crate) fn describe_task(record: &mut Record) {
    /// `PF_EXITING` of include/linux/sched.h, the same from v5.10 to v6.18.
    const EXITING: u32 = 4;
    record.pid = current_pid();
    record.flags |= flag::TASK;
    current_comm(&mut record.comm);
    if layout!(task_flags) == MISSING {
        return;
    }
    // SAFETY: the helper has no arguments and cannot fail.
    let task = unsafe { bpf_get_current_task() };
    if let Some(flags) = Probed::new(task as *const c_void).read::<u32>(layout!(task_flags)) {
        record.flags |= flag::TASK_ENDS_KNOWN;
        if flags & EXITING != 0 {
            record.flags |= flag::TASK_ENDS;
        }
    }
}

#[inline(always)]
fn current_pid() -> u32 {
    (bpf_get_current_pid_tgid() >> 32) as u32
}

/// Writes directly to the destination: aya's wrapper first clears a buffer of its own, byte by byte.
#[inline(always)]
fn current_comm(to: &mut [u8; 16]) {
    let comm = core::ptr::from_mut(to).cast();
    // SAFETY: `comm` is valid for as many bytes as are given. It cannot fail for a buffer of this size.
    let _never: i64 = unsafe { bpf_get_current_comm(comm, 16) };
}
