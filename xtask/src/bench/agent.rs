//! closewait by itself: how fast it starts, and what it costs while nothing happens.

use std::{fs, thread, time::Duration};

use anyhow::{Context as _, Result};

use super::tracer::Tracer;

/// What an idle agent used.
pub(super) struct Idle {
    pub(super) time: Duration,
    /// CPU time, in clock ticks.
    pub(super) ticks: u64,
    pub(super) ticks_per_second: u64,
    pub(super) resident_kib: u64,
}

/// Times from the start of the process to its `start` event.
pub(super) fn start_times(closewait: &Tracer, count: u32) -> Result<Vec<Duration>> {
    (0..count).map(|_| closewait.time_to_start()).collect()
}

/// Watches an agent that has nothing to do but what the machine itself does.
pub(super) fn idle(closewait: &Tracer, time: Duration) -> Result<Idle> {
    let running = closewait.attach()?;
    let pid = running.pid();
    let before = cpu_ticks(&read(pid, "stat")?)?;
    thread::sleep(time);
    let ticks = cpu_ticks(&read(pid, "stat")?)? - before;
    let resident_kib = resident_kib(&read(pid, "status")?)?;
    running.stop()?;
    // SAFETY: sysconf takes a number and touches no memory of ours.
    let hertz = unsafe { libc::sysconf(libc::_SC_CLK_TCK) };
    let ticks_per_second = u64::try_from(hertz).context("sysconf(_SC_CLK_TCK) failed; this is a bug")?;
    Ok(Idle { time, ticks, ticks_per_second, resident_kib })
}

fn read(pid: u32, file: &str) -> Result<String> {
    let path = format!("/proc/{pid}/{file}");
    fs::read_to_string(&path).with_context(|| format!("cannot read {path}; has the agent ended?"))
}

/// utime and stime of /proc/PID/stat.
fn cpu_ticks(stat: &str) -> Result<u64> {
    // The command's name may have blanks and parentheses of its own; the last one ends it.
    let (_name, rest) = stat.rsplit_once(')').context("/proc/PID/stat has no name; is /proc mounted?")?;
    let fields: Vec<_> = rest.split_whitespace().collect();
    // proc(5) counts from the pid: state is field 3, utime 14, stime 15.
    let field = |number: usize| fields.get(number - 3).and_then(|text| text.parse::<u64>().ok());
    let (user, system) = field(14).zip(field(15)).context("/proc/PID/stat has no CPU times; is /proc mounted?")?;
    Ok(user + system)
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
    fn cpu_times_come_after_whatever_the_name_is() {
        let stat = "42 (a) b (c) S 1 42 42 0 -1 4194560 100 0 0 0 7 5 0 0 20 0 1 0 100 1 1 1\n";
        assert_eq!(cpu_ticks(stat).unwrap(), 12);
        assert!(cpu_ticks("42").is_err());
    }

    #[test]
    fn resident_memory_is_in_kib() {
        assert_eq!(resident_kib("Name:\tx\nVmRSS:\t    5120 kB\n").unwrap(), 5120);
        assert!(resident_kib("Name:\tx\n").is_err());
    }

    #[test]
    fn this_process_can_be_read() {
        let pid = std::process::id();
        cpu_ticks(&read(pid, "stat").unwrap()).unwrap();
        assert!(resident_kib(&read(pid, "status").unwrap()).unwrap() > 0);
    }
}
