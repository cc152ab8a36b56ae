//! closewait by itself: how fast it starts, and what it costs while nothing happens.

use std::{collections::BTreeMap, fs, thread, time::Duration};

use anyhow::{Context as _, Result};

use super::tracer::Tracer;

/// What an idle agent used.
pub(super) struct Idle {
    pub(super) time: Duration,
    /// CPU time of all its threads.
    pub(super) cpu: Duration,
    pub(super) resident_kib: u64,
}

/// Times from the start of the process until it was attached.
pub(super) fn start_times(closewait: &Tracer, count: u32) -> Result<Vec<Duration>> {
    (0..count).map(|_| closewait.time_to_start()).collect()
}

/// Watches an agent that has nothing to do but what the machine itself does.
pub(super) fn idle(closewait: &Tracer, time: Duration) -> Result<Idle> {
    let running = closewait.attach()?;
    let pid = running.pid();
    // What it does once after its start is not idleness.
    thread::sleep(Duration::from_secs(2));
    let before = cpu_time(pid)?;
    thread::sleep(time);
    let cpu = cpu_time(pid)?.saturating_sub(before);
    let resident_kib = resident_kib(&read(pid, "status")?)?;
    running.stop()?;
    Ok(Idle { time, cpu, resident_kib })
}

fn read(pid: u32, file: &str) -> Result<String> {
    let path = format!("/proc/{pid}/{file}");
    fs::read_to_string(&path).with_context(|| format!("cannot read {path}; has the agent ended?"))
}

/// Time on a CPU of all threads. The clock ticks of /proc/PID/stat are too coarse for a process that does next to nothing.
pub(super) fn cpu_time(pid: u32) -> Result<Duration> {
    let tasks = format!("/proc/{pid}/task");
    let mut nanos = 0;
    for task in fs::read_dir(&tasks).with_context(|| format!("cannot list {tasks}; has the agent ended?"))? {
        let path = task.with_context(|| format!("cannot list {tasks}; has the agent ended?"))?.path().join("schedstat");
        match fs::read_to_string(&path) {
            Ok(text) => nanos += on_cpu(&text)?,
            // The thread has ended since it was listed (ESRCH), or since its folder was (ENOENT).
            Err(error) if matches!(error.raw_os_error(), Some(libc::ESRCH | libc::ENOENT)) => {}
            Err(error) => {
                let context = format!("cannot read {}; the kernel needs CONFIG_SCHED_INFO", path.display());
                return Err(error).context(context);
            }
        }
    }
    Ok(Duration::from_nanos(nanos))
}

/// The first number of /proc/PID/schedstat: nanoseconds on a CPU.
fn on_cpu(schedstat: &str) -> Result<u64> {
    let first = schedstat.split_whitespace().next().and_then(|text| text.parse().ok());
    first.context("/proc/PID/schedstat begins with no number; is /proc mounted?")
}

/// Memory of the process that no file backs: what it has asked for itself.
pub(super) fn anonymous_kib(pid: u32) -> Result<u64> {
    kib(&read(pid, "status")?, "RssAnon")
}

/// Memory of the BPF maps that the process has descriptors of, each map once, as the kernel accounts for it: with the entries
/// of maps that grow since Linux 6.4 (`htab_map_mem_usage`, kernel/bpf/hashtab.c at v6.4).
pub(super) fn map_bytes(pid: u32) -> Result<u64> {
    let folder = format!("/proc/{pid}/fdinfo");
    let mut maps = BTreeMap::new();
    for entry in fs::read_dir(&folder).with_context(|| format!("cannot list {folder}; has the agent ended?"))?.flatten()
    {
        // A descriptor may be closed meanwhile.
        let text = fs::read_to_string(entry.path()).unwrap_or_default();
        maps.extend(map(&text));
    }
    Ok(maps.values().sum())
}

/// Id and bytes of the map that a descriptor is of.
fn map(fdinfo: &str) -> Option<(u64, u64)> {
    let number = |name: &str| {
        let line = fdinfo.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'))?;
        line.trim().parse().ok()
    };
    Some((number("map_id")?, number("memlock")?))
}

fn resident_kib(status: &str) -> Result<u64> {
    kib(status, "VmRSS")
}

fn kib(status: &str, name: &str) -> Result<u64> {
    let line = status.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
    let number = line.and_then(|line| line.trim().strip_suffix("kB")?.trim().parse().ok());
    number.with_context(|| format!("/proc/PID/status has no {name}; has the agent ended?"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn time_on_the_cpu_comes_first() {
        assert_eq!(on_cpu("12345 678 9\n").unwrap(), 12_345);
        assert!(on_cpu("").is_err());
    }

    #[test]
    fn resident_memory_is_in_kib() {
        assert_eq!(resident_kib("Name:\tx\nVmRSS:\t    5120 kB\n").unwrap(), 5120);
        assert!(resident_kib("Name:\tx\n").is_err());
    }

    #[test]
    fn a_map_has_an_id_and_bytes_and_a_program_is_none() {
        assert_eq!(map("pos:\t0\nmap_type:\t1\nmemlock:\t4096\nmap_id:\t17\n"), Some((17, 4096)));
        assert_eq!(map("pos:\t0\nprog_type:\t1\nmemlock:\t4096\nprog_id:\t17\n"), None);
    }

    #[test]
    fn this_process_can_be_read() {
        let pid = std::process::id();
        assert!(cpu_time(pid).unwrap() > Duration::ZERO);
        assert!(resident_kib(&read(pid, "status").unwrap()).unwrap() > 0);
    }
}
