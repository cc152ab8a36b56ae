//! Abilities of this kernel, by its version: tests check each boundary from both sides.
//!
//! The version is the one in which the kernel's sources got the ability. The agent detects it in other ways, so that
//! each checks the other.

use std::{
    env, fs,
    io::{Write as _, stdout},
    path::Path,
};

/// Ability that not every kernel has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ability {
    /// The kernel's types are readable (`CONFIG_DEBUG_INFO_BTF`).
    Types,
    /// `iter/task_file`.
    Files,
    /// Programs run when a function of the kernel returns (fexit). On arm64 they can be attached since
    /// 6.4, with direct calls of ftrace (`HAVE_DYNAMIC_FTRACE_WITH_DIRECT_CALLS` in arch/arm64/Kconfig).
    FunctionExits,
    /// `bpf_sk_storage_get` in tracing programs.
    Openers,
    /// `bpf_get_socket_cookie` in tracing programs.
    Cookie,
    /// `bpf_task_pt_regs` in tracing programs.
    UserStacks,
    /// `iter/task_file` of one process.
    Legs,
    /// The size of `/proc/PID/fd` is the number of its descriptors.
    FdCount,
    /// Maps count against the memory of the cgroup, and no more against the limit of locked memory.
    Memcg,
    /// The kernel shows the number of instructions that the verifier processed (`verified_insns` in fdinfo).
    VerifiedCount,
    /// `wchan` has the function of the kernel in which a thread waits. On x86_64 it needed frame pointers, which kernels that unwind
    /// with ORC have none of, until 5.16 (`get_wchan` in arch/x86/kernel/process.c; 0 was observed on 5.10).
    WaitChannels,
}

/// Whether this kernel has the ability.
pub fn can(ability: Ability) -> bool {
    let since = match ability {
        Ability::Types | Ability::Files => (0, 0),
        Ability::FunctionExits if cfg!(target_arch = "aarch64") => (6, 4),
        Ability::FunctionExits => (5, 5),
        Ability::Openers | Ability::Memcg => (5, 11),
        Ability::Cookie => (5, 12),
        Ability::UserStacks => (5, 15),
        Ability::WaitChannels if cfg!(target_arch = "aarch64") => (0, 0),
        Ability::VerifiedCount | Ability::WaitChannels => (5, 16),
        Ability::Legs => (6, 1),
        Ability::FdCount => (6, 2),
    };
    let has_types = Path::new("/sys/kernel/btf/vmlinux").exists();
    let needs_types =
        !matches!(ability, Ability::Memcg | Ability::FdCount | Ability::VerifiedCount | Ability::WaitChannels);
    (has_types || !needs_types) && version() >= since
}

/// Prints a finding for the table of `cargo xtask vm`.
pub fn tell(what: &str, found: &str) {
    if env::var_os("CLOSEWAIT_TEST_TELL").is_some() {
        // Not println!: libtest suppresses it when a test passes.
        writeln!(stdout(), "closewait-can: {what}: {found}").expect("stdout");
    }
}

/// Prints a boolean finding for the same table.
pub fn tell_whether(what: &str, found: bool) {
    tell(what, if found { "yes" } else { "no" });
}

/// Returns the major and minor version of this kernel.
pub fn version() -> (u32, u32) {
    let release = fs::read_to_string("/proc/sys/kernel/osrelease").expect("the release");
    let mut numbers = release.split(['.', '-', '+']).map(|number| number.trim().parse().expect("a number"));
    (numbers.next().expect("a major version"), numbers.next().expect("a minor version"))
}
