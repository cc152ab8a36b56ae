//! Copies of many sockets in one run. The agent compares them with its knowledge, and needs records of those that changed only.

use aya_ebpf::{helpers::generated::bpf_probe_read_kernel, programs::RawTracePointContext};
use closewait_common::batch::{SOCKETS, WINDOWS, WORD, Window};

use crate::{globals, maps, time};

/// Copies the first sockets of the batch; their number is the first argument. Any of them may be gone, and its memory reused: the
/// reads cannot fault, and the agent compares what identifies a socket.
#[inline(always)]
pub(crate) fn copy(ctx: &RawTracePointContext) {
    let count = ctx.arg::<u64>(0);
    let Some(batch) = maps::batch() else { return };
    // Before the first socket is read: each was certainly in its state at this time or later.
    // SAFETY: `batch` points to a map value of that type, as below.
    let time_ns = unsafe { &raw mut (*batch).time_ns };
    // SAFETY: as above. Only the agent reads it, after the run.
    unsafe { time_ns.write(time::boot_ns()) };
    for index in 0..SOCKETS {
        if index as u64 >= count {
            return;
        }
        // SAFETY: as above, and `index` is below the length of the arrays.
        let socket = unsafe { &raw const (*batch).sockets[index] };
        // SAFETY: as above. Volatile, because the agent writes it.
        let sk = unsafe { socket.read_volatile() };
        // SAFETY: as above.
        let to = unsafe { &raw mut (*batch).copies[index] }.cast::<u64>();
        // No branch for each read: the verifier follows each combination of branches.
        let mut failed = 0;
        for number in 0..WINDOWS {
            failed |= copy_window(sk, number, to);
        }
        // SAFETY: as above.
        let result = unsafe { &raw mut (*batch).failed[index] };
        // SAFETY: as above.
        unsafe { result.write_volatile(failed as u64) };
    }
}

/// Copies one part of a socket. Returns 0, or the helper's error.
#[inline(always)]
fn copy_window(sk: u64, number: usize, to: *mut u64) -> i64 {
    let Window { offset, words, to: first } = window(number);
    if words == 0 {
        return 0;
    }
    let from = (sk as *const u8).wrapping_add(offset as usize);
    let to = to.wrapping_add(first as usize);
    // SAFETY: the windows lie in a copy, which the verifier checks: it knows their numbers. Any `from` is allowed: the helper fails
    // instead of faulting.
    unsafe { bpf_probe_read_kernel(to.cast(), words * WORD as u32, from.cast()) as i64 }
}

/// Returns a part, of which the verifier knows the numbers.
#[inline(always)]
fn window(number: usize) -> Window {
    let windows = (&raw const globals::WINDOWS).cast::<Window>();
    let window = windows.wrapping_add(number);
    // SAFETY: `Global<T>` is transparent over `MaybeUninit<T>`, the static is initialized, and `number` is below its length. Volatile,
    // because the agent changes the value after compilation.
    unsafe { window.read_volatile() }
}
