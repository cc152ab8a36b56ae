//! Entry points of closewait's kernel programs.
//!
//! | program | hook | output |
//! |---|---|---|
//! | [`cw_state_btf`] | `tp_btf/inet_sock_set_state` | one record for each socket that enters or exits CLOSE_WAIT, or for both, or a count in place of that |
//! | [`cw_state_tp`] | the same tracepoint, classic | the same, where the kernel has no BTF |
//! | [`cw_refresh`] | none: the agent runs it | one record for one socket, if it is still in CLOSE_WAIT: of its state, or of its entry |
//! | [`cw_copy`] | none: the agent runs it | the facts of up to 64 sockets, in memory that the agent reads |
//! | [`cw_files`] | iterator `task_file` | one record for each descriptor of a CLOSE_WAIT socket, all namespaces |
//! | [`cw_peers`] | the same, for one process | one record for each of its other connections |

// Outside of the kernel this crate is an ordinary program that does nothing, so that rust-analyzer and `cargo check
// --workspace` can check it.
#![cfg_attr(target_arch = "bpf", no_std, no_main, feature(asm_experimental_arch))]

mod batch;
mod connect;
mod globals;
mod iter;
mod maps;
mod progress;
mod set_state;
mod sock;
mod task;
mod time;

use core::ffi::c_void;

use aya_ebpf::{
    macros::{btf_tracepoint, raw_tracepoint, tracepoint},
    programs::{BtfTracePointContext, RawTracePointContext, TracePointContext},
};

#[btf_tracepoint(function = "inet_sock_set_state")]
pub(crate) fn cw_state_btf(ctx: BtfTracePointContext) -> i32 {
    set_state::btf(&ctx);
    0
}

#[tracepoint]
pub(crate) fn cw_state_tp(ctx: TracePointContext) -> u32 {
    set_state::classic(&ctx);
    0
}

/// Handles one known socket. The macro of aya-ebpf would drop the result, which the agent needs.
#[unsafe(no_mangle)]
#[unsafe(link_section = "raw_tp")]
pub extern "C" fn cw_refresh(ctx: *mut c_void) -> i32 {
    iter::refresh(&RawTracePointContext::new(ctx))
}

#[raw_tracepoint]
pub(crate) fn cw_copy(ctx: RawTracePointContext) -> i32 {
    batch::copy(&ctx);
    0
}

/// Handles an open file. aya-ebpf has no macro for iterators; it would only add the section name.
#[unsafe(no_mangle)]
#[unsafe(link_section = "iter/task_file")]
pub extern "C" fn cw_files(ctx: *mut c_void) -> i32 {
    iter::task_file(ctx);
    0
}

#[unsafe(no_mangle)]
#[unsafe(link_section = "iter/task_file")]
pub extern "C" fn cw_peers(ctx: *mut c_void) -> i32 {
    iter::proxy_peers(ctx);
    0
}

/// Only GPL-compatible programs may call the helpers that read kernel memory. This crate is MIT OR GPL-2.0-only.
#[unsafe(link_section = "license")]
#[unsafe(no_mangle)]
static LICENSE: [u8; 13] = *b"Dual MIT/GPL\0";

#[cfg(target_arch = "bpf")]
#[panic_handler]
fn panic(_info: &core::panic::PanicInfo<'_>) -> ! {
    // The verifier refuses any program that could reach this.
    loop {}
}

#[cfg(not(target_arch = "bpf"))]
fn main() {}
