//! closewait by itself: how fast it starts, and what it costs while nothing happens.

use std::{fs, thread, time::Duration};

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

fn resident_kib(status: &str) -> Result<u64> {
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    let number = line.and_then(|line| line.trim().strip_suffix("kB")?.trim().parse().ok());
    number.context("/proc/PID/status has no VmRSS; has the agent ended?")
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
    fn this_process_can_be_read() {
        let pid = std::process::id();
        assert!(cpu_time(pid).unwrap() > Duration::ZERO);
        assert!(resident_kib(&read(pid, "status").unwrap()).unwrap() > 0);
    }
}
