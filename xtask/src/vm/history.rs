//! Which of the kernel's bugs a kernel of the matrix has, by its version.

/// A kernel's version, as `6.18.15`.
pub(super) type Version = (u32, u32, u32);

/// The first version that has CVE-2026-74714, and the first of each series that has it no more (docs/kernel-safety.md).
const SINCE: Version = (5, 15, 0);
const FIXED: [Version; 5] = [(6, 1, 183), (6, 6, 152), (6, 12, 104), (6, 18, 45), (7, 1, 9)];

/// Whether `bpf_iter_tcp_established_batch` (net/ipv4/tcp_ipv4.c) of this kernel frees sockets that are in use.
pub(super) fn iterator_is_broken(version: Version) -> bool {
    let (major, minor, _patch) = version;
    let newest = FIXED[FIXED.len() - 1];
    let fix = FIXED.iter().find(|(of, series, _first)| (*of, *series) == (major, minor));
    match fix {
        _ if version < SINCE => false,
        Some(first) => version < *first,
        None => version < newest,
    }
}

/// The version that Debian's kernels name in `uname -v`: `#1 SMP PREEMPT_DYNAMIC Debian 6.1.192-1 (2026-11-01)`.
pub(super) fn version(build: &str) -> Option<Version> {
    let (_before, version) = build.split_once("Debian ")?;
    let mut numbers = version.split(|c: char| !c.is_ascii_digit()).map(str::parse);
    let mut next = || numbers.next()?.ok();
    Some((next()?, next()?, next()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_the_version_that_debian_names() {
        assert_eq!(version("#1 SMP PREEMPT_DYNAMIC Debian 6.18.15-1~bpo13+1 (2026-03-01)"), Some((6, 18, 15)));
        assert_eq!(version("#1 SMP Debian 5.10.262-1 (2026-11-01)"), Some((5, 10, 262)));
        assert_eq!(version("#1 SMP PREEMPT_DYNAMIC @0"), None);
    }

    #[test]
    fn the_iterator_is_broken_from_5_15_to_the_fix_of_each_series() {
        for broken in [(5, 15, 0), (5, 15, 300), (6, 1, 182), (6, 12, 103), (6, 18, 44), (7, 0, 12), (7, 1, 8)] {
            assert!(iterator_is_broken(broken), "{broken:?}");
        }
        for sound in [(5, 10, 262), (6, 1, 183), (6, 1, 192), (6, 12, 107), (6, 18, 45), (7, 1, 9), (7, 3, 4)] {
            assert!(!iterator_is_broken(sound), "{sound:?}");
        }
    }
}
