//! CPU time, memory and BPF maps of a process, from /proc.

use std::collections::BTreeMap;

use crate::prelude::*;

/// CPU time of all threads during the next `time`.
pub(super) fn cpu_during(pid: u32, time: Duration) -> Result<Duration> {
    let before = cpu_time(pid)?;
    thread::sleep(time);
    Ok(cpu_time(pid)?.saturating_sub(before))
}

/// CPU time of all threads since their start. The clock ticks of /proc/PID/stat are too coarse for a process that does next to nothing.
pub(super) fn cpu_time(pid: u32) -> Result<Duration> {
    let mut nanos = 0;
    for task in fs::read_dir(format!("/proc/{pid}/task"))? {
        match fs::read_to_string(task?.path().join("schedstat")) {
            Ok(text) => nanos += on_cpu(&text)?,
            // The thread has ended since it was listed (ESRCH), or since its folder was (ENOENT).
            Err(error) if matches!(error.raw_os_error(), Some(libc::ESRCH | libc::ENOENT)) => {}
            Err(error) => return Err(error).context("the kernel needs CONFIG_SCHED_INFO"),
        }
    }
    Ok(Duration::from_nanos(nanos))
}

/// CPU time of the machine since its boot, except that of programs with a lower priority than normal: user, system, interrupts
/// and their deferred work (`show_stat`, fs/proc/stat.c at v6.18).
pub(super) fn busy() -> Result<Duration> {
    busy_in(&fs::read_to_string("/proc/stat")?)
}

/// A number of /proc/PID/status, KiB: `VmRSS` is the resident memory, `RssAnon` its part that no file backs.
pub(crate) fn status_kib(pid: u32, name: &str) -> Result<u64> {
    kib(&fs::read_to_string(format!("/proc/{pid}/status"))?, name)
}

/// Memory of the BPF maps that the process has descriptors of, each map once, as the kernel accounts for it: with the entries
/// of maps that grow since Linux 6.4 (`htab_map_mem_usage`, kernel/bpf/hashtab.c at v6.4).
pub(super) fn map_bytes(pid: u32) -> Result<u64> {
    let mut maps = BTreeMap::new();
    for entry in fs::read_dir(format!("/proc/{pid}/fdinfo"))?.flatten() {
        // A descriptor may have been closed since it was listed.
        maps.extend(map(&fs::read_to_string(entry.path()).unwrap_or_default()));
    }
    Ok(maps.values().sum())
}

fn busy_in(stat: &str) -> Result<Duration> {
    // User, nice, system, idle, waiting for I/O, interrupts, deferred work; the unit is 1/100 s on all architectures.
    let all = stat.lines().next().and_then(|line| line.strip_prefix("cpu "));
    let numbers = all.into_iter().flat_map(str::split_whitespace).map_while(|text| text.parse::<u64>().ok());
    let numbers = numbers.collect::<Vec<_>>();
    let ticks = [0, 2, 5, 6].iter().map(|at| numbers.get(*at).copied()).sum::<Option<u64>>();
    ticks.map(|ticks| Duration::from_millis(ticks * 10)).context("/proc/stat begins with no CPU times")
}

/// The first number of /proc/PID/schedstat: nanoseconds on a CPU.
fn on_cpu(schedstat: &str) -> Result<u64> {
    let first = schedstat.split_whitespace().next().and_then(|text| text.parse().ok());
    first.context("/proc/PID/schedstat begins with no number; is /proc mounted?")
}

/// Id and bytes of the map that a descriptor refers to.
fn map(fdinfo: &str) -> Option<(u64, u64)> {
    Some((field(fdinfo, "map_id")?.parse().ok()?, field(fdinfo, "memlock")?.parse().ok()?))
}

fn kib(status: &str, name: &str) -> Result<u64> {
    let number = field(status, name).and_then(|value| value.strip_suffix("kB")?.trim().parse().ok());
    number.with_context(|| format!("/proc/PID/status has no {name}; has the agent ended?"))
}

/// The value in a line `NAME:VALUE`.
fn field<'a>(text: &'a str, name: &str) -> Option<&'a str> {
    text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':')).map(str::trim)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_what_the_kernel_writes() {
        assert_eq!(on_cpu("12345 678 9\n").unwrap(), 12_345);
        assert!(on_cpu("").is_err());
        let stat = "cpu  100 20000 30 40000 50000 6 7 80000 0 0\ncpu0 9 9 9 9 9 9 9\n";
        assert_eq!(busy_in(stat).unwrap(), Duration::from_millis(1430));
        assert!(busy_in("cpu  1 2 3\n").is_err() && busy_in("").is_err());
        assert_eq!(kib("Name:\tx\nVmRSS:\t    5120 kB\n", "VmRSS").unwrap(), 5120);
        assert!(kib("Name:\tx\n", "VmRSS").is_err());
        assert_eq!(map("pos:\t0\nmap_type:\t1\nmemlock:\t4096\nmap_id:\t17\n"), Some((17, 4096)));
        assert_eq!(map("pos:\t0\nprog_type:\t1\nmemlock:\t4096\nprog_id:\t17\n"), None);
    }

    #[test]
    fn this_process_can_be_read() {
        let pid = std::process::id();
        assert!(cpu_time(pid).unwrap() > Duration::ZERO && status_kib(pid, "VmRSS").unwrap() > 0);
    }
}
