//! The only reader of clocks.

use std::{
    fs,
    sync::OnceLock,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use rustix::time::{ClockId, clock_gettime};
use serde::{Deserialize, Serialize};

use closewait_engine::time::BootTime;

/// Returns the time on the kernel program's clock.
pub fn now() -> BootTime {
    BootTime(closewait_engine::time::nanos(since_boot()))
}

/// Converts nanoseconds since boot, as `/proc` shows them to this process (`do_task_stat`, fs/proc/array.c at v5.10),
/// to the kernel program's clock.
pub fn of_proc(boottime_ns: u64) -> BootTime {
    let shifted = offsets().boottime.remove_from(Duration::from_nanos(boottime_ns));
    BootTime(closewait_engine::time::nanos(shifted))
}

/// Returns the CPU time that this thread has used.
pub fn thread_cpu() -> Duration {
    read(ClockId::ThreadCPUTime)
}

/// Returns the CPU time that all threads of this process have used.
pub fn process_cpu() -> Duration {
    read(ClockId::ProcessCPUTime)
}

/// Returns the time that the machine has been suspended since boot.
pub fn suspended() -> Duration {
    since_boot().saturating_sub(offsets().monotonic.remove_from(read(ClockId::Monotonic)))
}

/// Relation between the kernel program's clock and the wall clock.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(from = "u64", into = "u64")]
pub struct TimeAnchor {
    /// Wall clock time at boot, by the latest reading of both clocks.
    booted: SystemTime,
}

impl TimeAnchor {
    /// Reads both clocks. A later step of the wall clock needs a new anchor.
    pub fn now() -> Self {
        let wall = UNIX_EPOCH + read(ClockId::Realtime);
        Self { booted: wall.checked_sub(since_boot()).unwrap_or(UNIX_EPOCH) }
    }

    /// Creates an anchor with boot at a given time, for tests and recordings.
    pub const fn booted_at(booted: SystemTime) -> Self {
        Self { booted }
    }

    /// Returns the wall clock time at `moment`.
    pub fn wall(self, moment: BootTime) -> SystemTime {
        self.booted.checked_add(Duration::from_nanos(moment.0)).unwrap_or(UNIX_EPOCH)
    }

    /// Returns the moment of a wall clock time; boot for an earlier time.
    pub fn boot(self, wall: SystemTime) -> BootTime {
        BootTime(closewait_engine::time::nanos(wall.duration_since(self.booted).unwrap_or_default()))
    }
}

/// Converts nanoseconds since 1970, as in a recording. Any number is valid: every time that depends on it can be
/// written.
impl From<u64> for TimeAnchor {
    fn from(booted_ns: u64) -> Self {
        Self::booted_at(UNIX_EPOCH + Duration::from_nanos(booted_ns))
    }
}

impl From<TimeAnchor> for u64 {
    fn from(anchor: TimeAnchor) -> Self {
        closewait_engine::time::nanos(anchor.booted.duration_since(UNIX_EPOCH).unwrap_or_default())
    }
}

/// Returns `CLOCK_BOOTTIME` as the kernel and its programs read it (`bpf_ktime_get_boot_ns`, kernel/bpf/helpers.c at
/// v5.10).
fn since_boot() -> Duration {
    offsets().boottime.remove_from(read(ClockId::Boottime))
}

/// Offsets that the time namespace of this process adds to its clocks (Linux 5.6).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Offsets {
    monotonic: Offset,
    boottime: Offset,
}

/// Offset of a clock, nanoseconds; below zero if the clock is behind.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Offset(i128);

/// Returns the offsets, which never change: a process stays in its first time namespace.
fn offsets() -> Offsets {
    static OFFSETS: OnceLock<Offsets> = OnceLock::new();
    // Without this file the kernel has no time namespaces.
    *OFFSETS.get_or_init(|| fs::read("/proc/self/timens_offsets").map(|text| Offsets::parse(&text)).unwrap_or_default())
}

impl Offsets {
    /// Parses lines of a clock, seconds and nanoseconds (`proc_timens_show_offsets`, kernel/time/namespace.c at
    /// v5.10).
    fn parse(text: &[u8]) -> Self {
        let text = String::from_utf8_lossy(text);
        let offset = |clock: &str| {
            let line = text.lines().find_map(|line| line.strip_prefix(clock)).unwrap_or_default();
            let mut numbers = line.split_ascii_whitespace().map(str::parse::<i64>);
            match (numbers.next(), numbers.next()) {
                (Some(Ok(seconds)), Some(Ok(nanos))) => Offset(i128::from(seconds) * 1_000_000_000 + i128::from(nanos)),
                _ => Offset::default(),
            }
        };
        Self { monotonic: offset("monotonic "), boottime: offset("boottime ") }
    }
}

impl Offset {
    fn remove_from(self, time: Duration) -> Duration {
        let nanos = i128::try_from(time.as_nanos()).unwrap_or(i128::MAX).saturating_sub(self.0);
        Duration::from_nanos(u64::try_from(nanos.max(0)).unwrap_or(u64::MAX))
    }
}

fn read(clock: ClockId) -> Duration {
    let time = clock_gettime(clock);
    Duration::new(u64::try_from(time.tv_sec).unwrap_or(0), u32::try_from(time.tv_nsec).unwrap_or(0))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_time_namespace_shifts_each_clock_by_itself() {
        let offsets = Offsets::parse(b"monotonic        2000         0\nboottime      -86400 500000000\n");
        assert_eq!(offsets.monotonic.remove_from(Duration::from_secs(2005)), Duration::from_secs(5));
        assert_eq!(offsets.boottime.remove_from(Duration::from_secs(1)), Duration::from_millis(86_400_500));
        assert_eq!(offsets.monotonic.remove_from(Duration::from_secs(1)), Duration::ZERO);
    }

    #[test]
    fn without_one_clocks_are_as_they_are() {
        for text in [&b"monotonic           0         0\nboottime            0         0\n"[..], b"", b"boottime x 1\n"]
        {
            assert_eq!(Offsets::parse(text), Offsets::default());
        }
    }

    #[test]
    fn a_step_of_the_wall_clock_needs_a_new_anchor_and_moves_no_other_time() {
        let hour = Duration::from_secs(3600);
        let (before, after) = (TimeAnchor::booted_at(UNIX_EPOCH + hour), TimeAnchor::booted_at(UNIX_EPOCH));
        let (first, second) = (BootTime(1_000_000_000), BootTime(3_000_000_000));
        assert_eq!(before.wall(second).duration_since(after.wall(second)).unwrap(), hour);
        for anchor in [before, after] {
            let between = anchor.wall(second).duration_since(anchor.wall(first)).unwrap();
            assert_eq!(between, Duration::from_secs(2));
            assert_eq!(before.boot(before.wall(second)), second, "there and back");
        }
    }

    proptest! {
        #[test]
        fn any_text_of_offsets_is_survived(text in "(monotonic |boottime |-?[0-9]{1,22}|[ \n]){0,9}", seconds: u64) {
            let offsets = Offsets::parse(text.as_bytes());
            let _shifted = offsets.boottime.remove_from(Duration::from_secs(seconds));
        }
    }
}
