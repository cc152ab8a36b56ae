//! The kernel's clock.

use aya_ebpf::helpers::generated::{bpf_jiffies64, bpf_ktime_get_boot_ns};

/// Returns nanoseconds of `CLOCK_BOOTTIME`, which continues while the machine is suspended.
#[inline(always)]
pub(crate) fn boot_ns() -> u64 {
    // SAFETY: a helper without arguments that cannot fault; Linux 5.8.
    unsafe { bpf_ktime_get_boot_ns() }
}

/// Returns the low half of `jiffies`, the unit of TCP's own timestamps (`tcp_jiffies32`, include/net/tcp.h).
#[inline(always)]
pub(crate) fn ticks() -> u32 {
    // SAFETY: a helper without arguments that cannot fault; Linux 5.6.
    unsafe { bpf_jiffies64() as u32 }
}
