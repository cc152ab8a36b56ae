//! Memory limits of an agent, from the user's options and the available memory. Pure.

use closewait_engine::text::harmless_path;

use super::{memory_limit::MemoryLimit, plan::Degraded};

/// Default number of sockets whose times of entry the kernel stores.
pub const DEFAULT_MAX_SOCKETS: u32 = 262_144;
/// Maximum of `--max-sockets`: reading a larger map keeps a CPU busy in the kernel for too long
/// (docs/kernel-safety.md).
pub const MAX_MAX_SOCKETS: u32 = 1 << 20;
/// Default number of tracked sockets: some 530 MB.
pub const DEFAULT_MAX_TRACKED: u32 = 1_000_000;
/// Default size of the ring buffer, bytes.
pub const DEFAULT_RING_BUFFER: u32 = 4 << 20;
/// Default size of the queue of lines for a slow reader, bytes.
const DEFAULT_LINES: u64 = 16 << 20;

/// Memory of an agent that tracks nothing, bytes: 25 MB at its start, while it reads the kernel's types, and the
/// kernel's charge for programs, counters and threads. Later the agent itself uses 13 MB, and the rest is for lines
/// to a slow reader.
const FIXED_BYTES: u64 = 32 << 20;
/// Memory of an entry in the kernel's map, bytes: 64 for the entry, and a bucket for each.
const ENTRY_BYTES: u64 = 80;
/// Memory of a tracked socket, bytes, while a JSON answer has all of them: with 50,000, measured 3,130 above an idle
/// agent. Between answers it is 550.
const TRACKED_BYTES: u64 = 3_400;
/// Lower bound of tracked sockets: with fewer, an agent is useless.
const MIN_TRACKED: u64 = 256;
const MIN_RING_BUFFER: u64 = 256 << 10;
const MIN_LINES: u64 = 256 << 10;
/// Length of a line about a socket, bytes: lines for all sockets can be due at the same time.
const LINE_BYTES: u64 = 1600;

/// Limits from the command line; `None` for an option without a value.
#[derive(Clone, Copy, Debug, Default)]
pub struct RequestedLimits {
    /// Number of sockets whose times of entry the kernel stores.
    pub max_sockets: Option<u32>,
    /// Number of tracked sockets.
    pub max_tracked: Option<u32>,
    /// Size of the ring buffer, bytes.
    pub ring_buffer: Option<u32>,
}

/// Limits of an agent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Number of sockets whose times of entry the kernel stores.
    pub max_sockets: u32,
    /// Number of tracked sockets.
    pub max_tracked: u32,
    /// Size of the ring buffer, bytes.
    pub ring_buffer: u32,
    /// Size of the queue of lines for a slow reader, bytes.
    pub lines: usize,
    /// Consequences of a memory limit that is too low, if it is.
    pub degraded: Option<Degraded>,
}

/// Computes the limits of an agent under `memory`, the memory limit of its cgroup if there is one. The user's values
/// always apply.
pub fn limits(asked: RequestedLimits, memory: Option<&MemoryLimit>) -> Limits {
    let defaults = Limits {
        max_sockets: asked.max_sockets.unwrap_or(DEFAULT_MAX_SOCKETS),
        max_tracked: asked.max_tracked.unwrap_or(DEFAULT_MAX_TRACKED),
        ring_buffer: asked.ring_buffer.unwrap_or(DEFAULT_RING_BUFFER),
        lines: usize::try_from(DEFAULT_LINES).unwrap_or(usize::MAX),
        degraded: None,
    };
    let Some(memory) = memory.filter(|memory| defaults.need() > memory.left) else { return defaults };
    let left = memory.left;
    let ring_buffer = asked.ring_buffer.map_or_else(
        || previous_power_of_two((left / 64).clamp(MIN_RING_BUFFER, DEFAULT_RING_BUFFER.into())),
        u64::from,
    );
    let rest = left.saturating_sub(FIXED_BYTES + ring_buffer);
    let (max_sockets, max_tracked) = match (asked.max_sockets.map(u64::from), asked.max_tracked.map(u64::from)) {
        (Some(sockets), Some(tracked)) => (sockets, tracked),
        (Some(sockets), None) => (sockets, rest.saturating_sub(sockets * ENTRY_BYTES) / TRACKED_BYTES),
        (None, Some(tracked)) => (rest.saturating_sub(tracked * TRACKED_BYTES) / ENTRY_BYTES, tracked),
        // The kernel's map also has sockets that closed before the agent has read their records.
        (None, None) => {
            let both = rest / (TRACKED_BYTES + 2 * ENTRY_BYTES);
            let sockets = (2 * both).min(DEFAULT_MAX_SOCKETS.into());
            (sockets, rest.saturating_sub(sockets * ENTRY_BYTES) / TRACKED_BYTES)
        }
    };
    let lowered = |value: u64, asked: Option<u32>, default: u32| {
        // For readers: two digits and zeros.
        let lowered = round_down(value).clamp(MIN_TRACKED, default.into());
        asked.unwrap_or_else(|| u32::try_from(lowered).unwrap_or(default))
    };
    let mut limits = Limits {
        max_sockets: lowered(max_sockets, asked.max_sockets, DEFAULT_MAX_SOCKETS),
        max_tracked: lowered(max_tracked, asked.max_tracked, DEFAULT_MAX_TRACKED),
        ring_buffer: u32::try_from(ring_buffer).unwrap_or(DEFAULT_RING_BUFFER),
        lines: 0,
        degraded: None,
    };
    let lines = (u64::from(limits.max_tracked) * LINE_BYTES).clamp(MIN_LINES, DEFAULT_LINES);
    limits.lines = usize::try_from(lines).unwrap_or(usize::MAX);
    limits.degraded = Some(limits.under(memory));
    limits
}

/// Returns the size in bytes that a ring buffer has if `bytes`, a power of two, are asked for: whole pages
/// (`ringbuf_map_alloc` in kernel/bpf/ringbuf.c at v5.10), which have 16 or 64 KiB on some kernels of aarch64.
pub fn whole_pages(bytes: u32) -> u32 {
    u32::try_from(rustix::param::page_size()).map_or(bytes, |page| bytes.max(page))
}

/// Returns the number of sockets that a one-off scan tracks under `memory`: it has neither a map nor a ring buffer.
pub fn of_one_off_scan(memory: Option<&MemoryLimit>) -> u32 {
    let Some(memory) = memory else { return DEFAULT_MAX_TRACKED };
    let fits = round_down(memory.left.saturating_sub(FIXED_BYTES) / TRACKED_BYTES);
    u32::try_from(fits.max(MIN_TRACKED)).unwrap_or(u32::MAX).min(DEFAULT_MAX_TRACKED)
}

impl Limits {
    /// Returns the peak memory of an agent with these limits, bytes.
    fn need(&self) -> u64 {
        let (sockets, tracked) =
            (u64::from(self.max_sockets) * ENTRY_BYTES, u64::from(self.max_tracked) * TRACKED_BYTES);
        FIXED_BYTES + sockets + tracked + u64::from(self.ring_buffer)
    }

    fn under(&self, memory: &MemoryLimit) -> Degraded {
        let Limits { max_sockets, max_tracked, .. } = self;
        let MemoryLimit { bytes, left, cgroup } = memory;
        let limit = format!(
            "the memory limit of {} MiB ({})",
            bytes >> 20,
            harmless_path(cgroup.as_os_str().as_encoded_bytes())
        );
        let used = if left < bytes { format!(", of which {} MiB are left,", left >> 20) } else { String::new() };
        let need = self.need() >> 20;
        let (why, fix) = if self.need() > *left {
            (
                format!(
                    "{limit}{used} may be too low: to track {max_tracked} sockets and keep {max_sockets} times of entry takes \
                     up to {need} MiB, and the kernel kills what uses more"
                ),
                "raise the memory limit, or lower --max-tracked, --max-sockets and --ring-buffer",
            )
        } else {
            (
                format!(
                    "{limit}{used} is enough for {max_tracked} tracked sockets and {max_sockets} times of entry; further \
                     sockets are counted only"
                ),
                "raise the memory limit (MemoryMax= of the systemd unit, that of the container), or set --max-tracked",
            )
        };
        Degraded { what: "limits", why, fix: Some(fix.to_owned()) }
    }
}

/// Rounds down to the first two digits.
fn round_down(value: u64) -> u64 {
    let unit = 10_u64.pow(value.checked_ilog10().unwrap_or(0).saturating_sub(1));
    value / unit * unit
}

fn previous_power_of_two(value: u64) -> u64 {
    1 << value.max(1).ilog2()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const MIB: u64 = 1 << 20;

    fn memory(mib: u64) -> MemoryLimit {
        MemoryLimit { bytes: mib * MIB, left: mib * MIB, cgroup: "/sys/fs/cgroup/x".into() }
    }

    #[test]
    fn without_a_memory_limit_the_defaults_or_what_the_user_says_stand() {
        let limits = |asked| limits(asked, None);
        let all = limits(RequestedLimits::default());
        assert_eq!((all.max_sockets, all.max_tracked, all.ring_buffer), (262_144, 1_000_000, 4 << 20));
        let own = limits(RequestedLimits { max_sockets: Some(1), max_tracked: Some(2), ring_buffer: Some(4096) });
        assert_eq!((own.max_sockets, own.max_tracked, own.ring_buffer, own.degraded), (1, 2, 4096, None));
        assert_eq!(of_one_off_scan(None), 1_000_000);
    }

    #[test]
    fn the_name_of_a_cgroup_is_harmless() {
        let cgroup = "/sys/fs/cgroup/x\u{1b}[31m\u{202e}".into();
        let memory = MemoryLimit { bytes: 64 * MIB, left: 64 * MIB, cgroup };
        let why = limits(RequestedLimits::default(), Some(&memory)).degraded.unwrap().why;
        assert!(why.contains("/sys/fs/cgroup/x\\u{1b}[31m\\u{202e}"), "{why}");
    }

    #[test]
    fn under_64_mib_a_few_thousand_are_tracked_and_that_is_reported() {
        let limits = limits(RequestedLimits::default(), Some(&memory(64)));
        assert!((5000..10_000).contains(&limits.max_tracked), "{limits:?}");
        assert!((10_000..20_000).contains(&limits.max_sockets) && limits.ring_buffer == 1 << 20, "{limits:?}");
        let degraded = limits.degraded.unwrap();
        assert!(degraded.why.contains("limit of 64 MiB (/sys/fs/cgroup/x) is enough for "), "{degraded:?}");
        assert!(degraded.why.contains(&limits.max_tracked.to_string()), "{degraded:?}");
        assert!(degraded.fix.unwrap().contains("MemoryMax="));
    }

    #[test]
    fn what_the_user_says_stands_and_is_warned_of() {
        let asked = RequestedLimits { max_tracked: Some(500_000), ..RequestedLimits::default() };
        let limits = limits(asked, Some(&memory(64)));
        assert_eq!(limits.max_tracked, 500_000);
        let degraded = limits.degraded.unwrap();
        assert!(degraded.why.contains("may be too low") && degraded.why.contains("500000"), "{degraded:?}");
    }

    #[test]
    fn memory_of_others_in_the_cgroup_is_reported() {
        let limits = limits(RequestedLimits::default(), Some(&MemoryLimit { left: 80 * MIB, ..memory(100) }));
        assert!(
            limits.degraded.unwrap().why.contains("100 MiB (/sys/fs/cgroup/x), of which 80 MiB are left, is enough")
        );
    }

    #[test]
    fn in_much_too_little_memory_an_agent_starts_all_the_same() {
        let limits = limits(RequestedLimits::default(), Some(&memory(8)));
        assert_eq!((limits.max_sockets, limits.max_tracked, limits.ring_buffer), (256, 256, 256 << 10));
        assert!(limits.degraded.unwrap().why.contains("may be too low"));
        assert_eq!(of_one_off_scan(Some(&memory(8))), 256);
    }

    #[test]
    fn the_numbers_of_the_unit_fit_its_memory() {
        let unit = include_str!("../../../contrib/systemd/closewait.service");
        let memory_max = unit.lines().find_map(|line| line.strip_prefix("MemoryMax=")?.strip_suffix('M')?.parse().ok());
        let tracked =
            unit.lines().find_map(|line| line.split_once("--max-tracked ")?.1.split(' ').next()?.parse().ok());
        let asked = RequestedLimits { max_tracked: tracked, ..RequestedLimits::default() };
        assert!(asked.max_tracked.is_some());
        assert_eq!(limits(asked, Some(&memory(memory_max.unwrap()))).degraded, None);
    }

    #[test]
    fn a_ring_buffer_has_one_page_at_least() {
        let page = u32::try_from(rustix::param::page_size()).unwrap();
        assert!(page.is_power_of_two() && page >= 4096, "{page}");
        assert_eq!([1, page, 2 * page].map(whole_pages), [page, page, 2 * page]);
    }

    proptest! {
        #[test]
        fn limits_fit_into_any_memory_or_a_warning_says_that_they_do_not(
            left in 0..8 * 1024 * MIB,
            sockets in prop::option::of(1..=MAX_MAX_SOCKETS),
            tracked in prop::option::of(1..16_777_216_u32),
            ring in prop::option::of((12..=30_u32).prop_map(|bits| 1 << bits)),
        ) {
            let asked = RequestedLimits { max_sockets: sockets, max_tracked: tracked, ring_buffer: ring };
            let memory = MemoryLimit { bytes: left, left, cgroup: "/x".into() };
            let limits = limits(asked, Some(&memory));
            prop_assert!(sockets.is_none_or(|asked| asked == limits.max_sockets));
            prop_assert!(tracked.is_none_or(|asked| asked == limits.max_tracked));
            prop_assert!(ring.is_none_or(|asked| asked == limits.ring_buffer));
            prop_assert!(limits.max_sockets > 0 && limits.max_tracked > 0 && limits.ring_buffer.is_power_of_two());
            let too_much = limits.need() > left;
            prop_assert_eq!(too_much, limits.degraded.as_ref().is_some_and(|one| one.why.contains("may be too low")));
        }

        #[test]
        fn more_memory_never_means_less(left in 0..8 * 1024 * MIB, more in 0..1024 * MIB) {
            let of = |left| limits(RequestedLimits::default(), Some(&MemoryLimit { bytes: left, left, cgroup: "/x".into() }));
            prop_assert!(of(left).max_tracked <= of(left + more).max_tracked.max(of(left).max_tracked / 100 * 99));
        }
    }
}
