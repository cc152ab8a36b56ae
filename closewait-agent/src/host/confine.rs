//! Drops the capabilities that only the start of an agent needs, permanently.
//!
//! Capabilities belong to a thread, and threads that it starts inherit them. So this has to run before the first
//! thread that outlives the start.

mod filter;

use std::io;

use ::caps::{CapSet, CapsHashSet};

use super::{
    caps::{Capability, implied_by},
    plan::Degraded,
};

/// State after [`confine`].
#[derive(Debug)]
pub struct Confined {
    /// Names of the remaining capabilities; `None` if they cannot be read.
    pub kept: Option<Vec<String>>,
    /// Privileges that could not be dropped, or had to stay.
    pub degraded: Vec<Degraded>,
}

/// Privileges that the agent keeps.
#[derive(Clone, Copy, Debug)]
pub struct Keep {
    /// Whether to keep `CAP_SYS_ADMIN`, to enter network namespaces.
    pub enter_namespaces: bool,
    /// Whether the kernel has filters for system calls.
    pub seccomp: bool,
}

impl Keep {
    /// Returns the system calls of the filter that this agent makes.
    fn allowed(self) -> Vec<libc::c_long> {
        self.enter_namespaces.then_some(libc::SYS_setns).into_iter().collect()
    }
}

/// Drops all capabilities except those of [`Capability::LASTING`] that this thread has, in every set; the
/// capabilities that `execve` could gain; and the system calls that the agent never makes after its start. A failure
/// is reported, and does not end the agent.
pub fn confine(keep: Keep) -> Confined {
    let Keep { enter_namespaces, seccomp, .. } = keep;
    let allowed = keep.allowed();
    confine_to(
        |permitted| lasting(permitted, enter_namespaces),
        seccomp.then_some(&allowed),
        |kept| substitutes(kept, enter_namespaces),
    )
}

/// Drops everything that a helper does not need which asks Java virtual machines: all capabilities except those of
/// [`Capability::JVM_HELPER`] that this thread has, and the system calls that [`confine`] refuses, except those with which one thread acts
/// as another user. To be another user gives it no capability.
pub fn confine_jvm_helper() -> Confined {
    let kept = Capability::JVM_HELPER.into_iter().fold(0, |all, one| all | one.bit());
    let allowed: &[libc::c_long] = &[libc::SYS_setresuid, libc::SYS_setresgid];
    confine_to(|permitted| permitted & kept, Some(allowed), |_kept| None)
}

/// Drops everything that a helper does not need which peeks at unread requests: the capabilities for kernel programs and namespaces, and
/// the system calls that [`confine`] refuses, except the one that duplicates descriptors.
pub fn confine_peek_helper() -> Confined {
    let dropped =
        [Capability::Bpf, Capability::Perfmon, Capability::SysAdmin].into_iter().fold(0, |all, one| all | one.bit());
    confine_to(|permitted| lasting(permitted, false) & !dropped, Some(&[libc::SYS_pidfd_getfd]), |_kept| None)
}

/// Drops all capabilities but those that `choose` returns of the permitted ones, and the system calls of the filter except `allowed`, if
/// there is to be a filter.
fn confine_to(
    choose: impl FnOnce(u64) -> u64,
    allowed: Option<&[libc::c_long]>,
    substitutes: impl FnOnce(u64) -> Option<Degraded>,
) -> Confined {
    let report = "report this with the output of `closewait doctor`";
    let mut degraded = Vec::new();
    let permitted = ::caps::read(None, CapSet::Permitted).map_err(|error| format!("capget failed: {error}"));
    match permitted.and_then(|permitted| {
        let kept = choose(bits(&permitted));
        drop_capabilities(kept).map(|()| substitutes(kept))
    }) {
        Ok(substitutes) => degraded.extend(substitutes),
        Err(why) => degraded.push(refused("capabilities", &why, report)),
    }
    if let Err(error) = no_new_privileges() {
        degraded.push(refused("no_new_privs", &format!("prctl(PR_SET_NO_NEW_PRIVS) failed: {error}"), report));
    }
    if let Some(allowed) = allowed
        && let Err(error) = filter::install(allowed)
    {
        let fix = "allow seccomp(2) where a container's or a service's own filter forbids it";
        degraded.push(refused("system call filter", &error.to_string(), fix));
    }
    let kept = ::caps::read(None, CapSet::Permitted).ok().map(|kept| names(&kept));
    Confined { kept, degraded }
}

/// Drops every capability of this thread, for a thread that only writes to open files. Such a thread may start before
/// [`confine`], which cannot change other threads' capabilities. The filter for system calls applies to all threads.
pub fn drop_all_capabilities() {
    if let Err(why) = drop_capabilities(0) {
        log::debug!("a thread that writes keeps its capabilities: {why}");
    }
    if let Err(error) = no_new_privileges() {
        log::debug!("prctl(PR_SET_NO_NEW_PRIVS) failed for a thread that writes: {error}");
    }
}

/// Makes every later attempt of this thread to open a file fail. It may be in vain: the kernel may have no filters. A thread with this
/// filter has to end before [`confine`], which gives all threads the same filters.
pub fn refuse_files() {
    if let Err(error) = filter::refuse_files() {
        log::debug!("{error}");
    }
}

/// Returns the capabilities to keep among the permitted ones. Where one is missing, a stronger one that implies it
/// stays: what works at the start has to continue to work.
fn lasting(permitted: u64, enter_namespaces: bool) -> u64 {
    let asked = if enter_namespaces { Capability::SysAdmin.bit() } else { 0 };
    let each = Capability::LASTING.map(|one| if permitted & one.bit() == 0 { implied_by(one) } else { one.bit() });
    permitted & each.into_iter().fold(asked, |all, one| all | one)
}

/// Reports capabilities that the agent retains because weaker ones are missing.
fn substitutes(kept: u64, enter_namespaces: bool) -> Option<Degraded> {
    let asked = if enter_namespaces { Capability::SysAdmin.bit() } else { 0 };
    let stronger = |one: Capability| implied_by(one) & kept & !asked;
    let missing: Vec<_> =
        Capability::LASTING.into_iter().filter(|one| kept & one.bit() == 0 && stronger(*one) != 0).collect();
    let stronger = names(&set(missing.iter().fold(0, |all, one| all | stronger(*one)))).join(", ");
    let missing = missing.into_iter().map(Capability::name).collect::<Vec<_>>().join(", ");
    (!missing.is_empty()).then(|| Degraded {
        what: "capabilities",
        why: format!("more than needed is kept after the start: {stronger}, in the place of {missing}"),
        fix: Some(format!("grant {missing} too")),
    })
}

/// Removes all capabilities except `kept` from every set of this thread.
fn drop_capabilities(kept: u64) -> Result<(), String> {
    // First, because it takes CAP_SETPCAP, which the others remove.
    bound(kept);
    let failed = |call: &'static str| move |error| format!("{call} failed: {error}");
    ::caps::clear(None, CapSet::Ambient).map_err(failed("prctl(PR_CAP_AMBIENT_CLEAR_ALL)"))?;
    // `execve` must inherit nothing.
    ::caps::clear(None, CapSet::Inheritable).map_err(failed("capset"))?;
    // In this order: effective capabilities have to be permitted (`cap_capset` in security/commoncap.c, v6.18).
    let kept = set(kept);
    ::caps::set(None, CapSet::Effective, &kept).map_err(failed("capset"))?;
    ::caps::set(None, CapSet::Permitted, &kept).map_err(failed("capset"))
}

/// Removes all capabilities except `kept` from the bounding set, as far as the kernel allows it. That set limits what
/// `execve` gains from files (`pP' = (X & fP) | (pI & fI)`, `bprm_caps_from_vfs_caps` in security/commoncap.c,
/// v6.18), which is nothing with `no_new_privs`. So an ordinary user's agent, which may not do this, loses nothing.
fn bound(kept: u64) {
    for one in ::caps::all() {
        // An older kernel lacks some of them.
        let bounded = ::caps::has_cap(None, CapSet::Bounding, one).unwrap_or(false);
        if bounded
            && one.bitmask() & kept == 0
            && let Err(error) = ::caps::drop(None, CapSet::Bounding, one)
        {
            log::debug!("the bounding set stays as it is: prctl(PR_CAPBSET_DROP): {error}");
            return;
        }
    }
}

/// Makes `execve` grant nothing, for any file (Documentation/userspace-api/no_new_privs.rst, v6.18).
fn no_new_privileges() -> io::Result<()> {
    Ok(rustix::thread::set_no_new_privs(true)?)
}

fn refused(what: &'static str, why: &str, fix: &str) -> Degraded {
    Degraded { what, why: format!("more than needed is kept after the start: {why}"), fix: Some(fix.to_owned()) }
}

fn bits(set: &CapsHashSet) -> u64 {
    ::caps::all().into_iter().filter(|one| set.contains(one)).fold(0, |all, one| all | one.bitmask())
}

fn set(bits: u64) -> CapsHashSet {
    ::caps::all().into_iter().filter(|one| one.bitmask() & bits != 0).collect()
}

/// Returns the names in the order of their numbers.
fn names(set: &CapsHashSet) -> Vec<String> {
    let mut all: Vec<_> = ::caps::all().into_iter().filter(|one| set.contains(one)).collect();
    all.sort_unstable_by_key(::caps::Capability::index);
    all.iter().map(ToString::to_string).collect()
}

#[cfg(test)]
mod tests {
    use std::{fs, thread};

    use super::*;

    const ROOT: u64 = u64::MAX;
    const DAC_OVERRIDE: u64 = 1 << 1;

    fn of(capabilities: &[Capability]) -> u64 {
        capabilities.iter().fold(0, |all, one| all | one.bit())
    }

    #[test]
    fn root_continues_with_the_four() {
        assert_eq!(lasting(ROOT, false), of(&Capability::LASTING));
        assert_eq!(lasting(ROOT, false), 0xc0_0008_0004);
        assert_eq!(substitutes(lasting(ROOT, false), false), None);
    }

    #[test]
    fn the_right_to_enter_namespaces_stays_if_it_is_asked_for_and_there() {
        assert_eq!(lasting(ROOT, true), of(&Capability::LASTING) | Capability::SysAdmin.bit());
        assert_eq!(lasting(of(&Capability::LASTING), true), of(&Capability::LASTING));
    }

    #[test]
    fn what_is_not_there_is_not_taken() {
        for missing in Capability::LASTING {
            let granted = of(&Capability::LASTING) & !missing.bit();
            assert_eq!(lasting(granted, false), granted, "{missing:?}");
            assert_eq!(substitutes(granted, false), None, "{missing:?}");
        }
        assert_eq!(lasting(0, true), 0);
    }

    #[test]
    fn what_grants_the_same_stays_and_is_named() {
        let old = lasting(Capability::SysAdmin.bit() | Capability::SysPtrace.bit() | DAC_OVERRIDE, false);
        assert_eq!(old, Capability::SysAdmin.bit() | Capability::SysPtrace.bit() | DAC_OVERRIDE);
        let substitute = substitutes(old, false).unwrap();
        assert!(
            substitute.why.ends_with(
                "CAP_DAC_OVERRIDE, CAP_SYS_ADMIN, in the place of CAP_BPF, CAP_PERFMON, CAP_DAC_READ_SEARCH"
            )
        );
        // A requested capability needs no explanation.
        assert_eq!(substitutes(Capability::SysAdmin.bit() | Capability::DacReadSearch.bit(), true), None);
    }

    #[test]
    fn a_thread_is_confined_and_what_it_starts_is_too() {
        // The filter would apply to all tests of this process.
        let keep = Keep { enter_namespaces: false, seccomp: false };
        let (confined, status) = thread::spawn(move || {
            let confined = confine(keep);
            let status = thread::spawn(|| fs::read_to_string("/proc/thread-self/status").unwrap()).join().unwrap();
            (confined, status)
        })
        .join()
        .unwrap();
        let line = |name: &str| status.lines().find_map(|line| line.strip_prefix(name)).unwrap().trim();
        assert_eq!(line("NoNewPrivs:"), "1", "{status}");
        assert_eq!(u64::from_str_radix(line("CapInh:"), 16), Ok(0));
        assert_eq!(u64::from_str_radix(line("CapAmb:"), 16), Ok(0));
        let left = u64::from_str_radix(line("CapPrm:"), 16).unwrap();
        assert_eq!(left & !of(&Capability::LASTING), 0, "{status}");
        assert_eq!(confined.kept.unwrap(), names(&set(left)));
    }
}
