//! `bpf(BPF_PROG_TEST_RUN)`, which aya does not offer for raw tracepoints.

use std::{
    io,
    os::fd::{AsRawFd as _, BorrowedFd},
};

/// The part of `union bpf_attr` that the command reads (include/uapi/linux/bpf.h at v5.10).
#[repr(C)]
#[derive(Default)]
struct TestRun {
    prog_fd: u32,
    retval: u32,
    data_size_in: u32,
    data_size_out: u32,
    data_in: u64,
    data_out: u64,
    repeat: u32,
    duration: u32,
    ctx_size_in: u32,
    ctx_size_out: u32,
    ctx_in: u64,
    ctx_out: u64,
    flags: u32,
    cpu: u32,
}

const BPF_PROG_TEST_RUN: libc::c_long = 10;

/// Runs a raw tracepoint's program once, here and now, with `argument` as the first of the tracepoint's arguments
/// (`bpf_prog_test_run_raw_tp`, net/bpf/test_run.c at v5.10).
///
/// # Errors
///
/// If the kernel refuses.
pub(super) fn raw_tracepoint(program: BorrowedFd<'_>, argument: u64) -> io::Result<()> {
    let context = [argument];
    let attributes = TestRun {
        prog_fd: program.as_raw_fd().cast_unsigned(),
        ctx_size_in: size_of_val(&context) as u32,
        ctx_in: context.as_ptr() as u64,
        ..TestRun::default()
    };
    // SAFETY: the attributes are those of the command, of the size given, and what they point to outlives the call, which
    // only reads it.
    let failed = unsafe {
        libc::syscall(libc::SYS_bpf, BPF_PROG_TEST_RUN, &raw const attributes, size_of::<TestRun>() as libc::c_long)
    };
    if failed == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}
