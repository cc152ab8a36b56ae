//! Capabilities of this process.

use std::fs;

/// Capability that a part of the agent needs. Numbers: `include/uapi/linux/capability.h`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Capability {
    /// Load programs and maps (Linux 5.8).
    Bpf,
    /// Attach to tracepoints and read kernel memory from programs (Linux 5.8).
    Perfmon,
    /// Read other users' processes.
    SysPtrace,
    /// Read directories of other users, such as `/proc/PID/fd` and tracefs.
    DacReadSearch,
    /// Enter network namespaces, mount tracefs.
    SysAdmin,
    /// Raise the limit of locked memory, which maps count against before Linux 5.11.
    SysResource,
    /// Destroy sockets.
    NetAdmin,
    /// Act as another user, towards a Java virtual machine.
    SetUid,
    /// Act as another group, towards a Java virtual machine.
    SetGid,
}

impl Capability {
    /// All capabilities that `run` can use, in display order.
    pub const ALL: [Self; 6] =
        [Self::Bpf, Self::Perfmon, Self::SysPtrace, Self::DacReadSearch, Self::SysAdmin, Self::SysResource];

    /// Capabilities retained after the start.
    pub const LASTING: [Self; 4] = [Self::Bpf, Self::Perfmon, Self::SysPtrace, Self::DacReadSearch];

    /// Capabilities of the helper that asks Java virtual machines: it finds their files, and acts as their users.
    pub const JVM_HELPER: [Self; 4] = [Self::SetUid, Self::SetGid, Self::SysPtrace, Self::DacReadSearch];

    /// Returns the name as in manual pages and systemd units.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Bpf => "CAP_BPF",
            Self::Perfmon => "CAP_PERFMON",
            Self::SysPtrace => "CAP_SYS_PTRACE",
            Self::DacReadSearch => "CAP_DAC_READ_SEARCH",
            Self::SysAdmin => "CAP_SYS_ADMIN",
            Self::SysResource => "CAP_SYS_RESOURCE",
            Self::NetAdmin => "CAP_NET_ADMIN",
            Self::SetUid => "CAP_SETUID",
            Self::SetGid => "CAP_SETGID",
        }
    }

    pub(super) const fn bit(self) -> u64 {
        1 << match self {
            Self::DacReadSearch => 2,
            Self::SetGid => 6,
            Self::SetUid => 7,
            Self::NetAdmin => 12,
            Self::SysPtrace => 19,
            Self::SysAdmin => 21,
            Self::SysResource => 24,
            Self::Perfmon => 38,
            Self::Bpf => 39,
        }
    }
}

/// Set of effective capabilities.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Capabilities {
    effective: u64,
}

impl Capabilities {
    /// Reads the capabilities of this process: the line `CapEff` of `/proc/self/status`. `None` if it cannot be read.
    pub fn read() -> Option<Self> {
        Self::parse(&fs::read_to_string("/proc/self/status").ok()?)
    }

    /// Parses the text of a `status` file.
    pub fn parse(status: &str) -> Option<Self> {
        let line = status.lines().find_map(|line| line.strip_prefix("CapEff:"))?;
        u64::from_str_radix(line.trim(), 16).ok().map(Self::from_bits)
    }

    /// Creates a set from the bits of the kernel's set.
    pub const fn from_bits(effective: u64) -> Self {
        Self { effective }
    }

    /// Returns the set without one capability and without those that imply it.
    #[must_use]
    pub const fn without(self, capability: Capability) -> Self {
        Self { effective: self.effective & !capability.bit() & !implied_by(capability) }
    }

    /// Whether the kernel grants `capability`, directly or through another capability.
    pub const fn has(self, capability: Capability) -> bool {
        self.effective & (capability.bit() | implied_by(capability)) != 0
    }
}

/// Returns the ending of a message that a process cannot be read: the capabilities to grant, or if all are granted,
/// another possible reason.
pub fn fix_for_unreadable() -> String {
    fix_for(Capabilities::read())
}

fn fix_for(granted: Option<Capabilities>) -> String {
    let wanted = [Capability::SysPtrace, Capability::DacReadSearch];
    let missing: Vec<_> = wanted
        .into_iter()
        .filter(|&capability| granted.is_none_or(|granted| !granted.has(capability)))
        .map(Capability::name)
        .collect();
    if missing.is_empty() {
        let [one, other] = wanted.map(Capability::name);
        return format!(
            " although {one} and {other} are granted; a security module or the process's user namespace may refuse it"
        );
    }
    format!("; grant {}", missing.join(" and "))
}

/// `CAP_DAC_OVERRIDE`, which also reads and searches (`generic_permission` in fs/namei.c, v6.18).
const DAC_OVERRIDE: u64 = 1 << 1;

/// Returns the bits of other capabilities that grant the same (`bpf_capable`, `perfmon_capable` in
/// include/linux/capability.h, v6.18).
pub(super) const fn implied_by(capability: Capability) -> u64 {
    match capability {
        Capability::Bpf | Capability::Perfmon => Capability::SysAdmin.bit(),
        Capability::DacReadSearch => DAC_OVERRIDE,
        Capability::SysPtrace
        | Capability::SysAdmin
        | Capability::SysResource
        | Capability::NetAdmin
        | Capability::SetUid
        | Capability::SetGid => 0,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_the_effective_set_of_a_status_file() {
        let caps = Capabilities::parse("Name:\tx\nCapPrm:\t0000000000000000\nCapEff:\t0000008000000004\n").unwrap();
        assert!(caps.has(Capability::Bpf));
        assert!(caps.has(Capability::DacReadSearch));
        assert!(!caps.has(Capability::Perfmon));
    }

    #[test]
    fn sys_admin_implies_bpf_and_perfmon_but_no_other() {
        let caps = Capabilities::from_bits(1 << 21);
        let granted: Vec<_> = Capability::ALL.into_iter().filter(|&capability| caps.has(capability)).collect();
        assert_eq!(granted, [Capability::Bpf, Capability::Perfmon, Capability::SysAdmin]);
    }

    #[test]
    fn dac_override_reads_too() {
        assert!(Capabilities::from_bits(1 << 1).has(Capability::DacReadSearch));
    }

    #[test]
    fn without_takes_away_what_implies_it() {
        assert!(!Capabilities::from_bits(u64::MAX).without(Capability::Bpf).has(Capability::Bpf));
    }

    #[test]
    fn what_is_granted_is_not_advised() {
        let all = Capabilities::from_bits(u64::MAX);
        assert_eq!(fix_for(None), "; grant CAP_SYS_PTRACE and CAP_DAC_READ_SEARCH");
        assert_eq!(fix_for(Some(Capabilities::from_bits(0))), fix_for(None));
        assert_eq!(fix_for(Some(all.without(Capability::SysPtrace))), "; grant CAP_SYS_PTRACE");
        assert_eq!(fix_for(Some(all.without(Capability::DacReadSearch))), "; grant CAP_DAC_READ_SEARCH");
        assert!(fix_for(Some(all)).contains("are granted") && !fix_for(Some(all)).contains("; grant "));
    }

    #[test]
    fn nonsense_is_unknown() {
        for text in ["", "CapEff:", "CapEff:\txyz", "CapEff:\t11111111111111111111"] {
            assert_eq!(Capabilities::parse(text), None, "{text:?}");
        }
    }
}
