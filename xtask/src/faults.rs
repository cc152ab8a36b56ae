//! Whether the kernel reports a fault while something runs.

use std::{
    io,
    sync::mpsc::{self, Receiver, RecvTimeoutError},
};

use tests_support::kmsg::KernelLog;

use crate::prelude::*;

/// How often the log is read: its oldest records are overwritten when it is full.
const INTERVAL: Duration = Duration::from_secs(1);

/// Runs `work`, and fails if the kernel has reported a fault meanwhile, whoever caused it.
///
/// Where the log cannot be read, `work` runs all the same, and a warning says so.
pub(crate) fn watched<T>(work: impl FnOnce() -> Result<T>) -> Result<T> {
    let log = match KernelLog::from_now() {
        Ok(log) => log,
        Err(error) => {
            eprintln!("xtask: the kernel's log is not watched: /dev/kmsg: {error}; run this as root to watch it");
            return work();
        }
    };
    let (end, ended) = mpsc::channel::<()>();
    let watcher = thread::spawn(move || read_until(log, &ended));
    let result = work();
    drop(end);
    let faults = watcher.join().ok().context("the thread that reads the kernel's log has panicked")?;
    let faults = faults.context("cannot read the kernel's log to its end; run this again")?;
    if faults.is_empty() {
        return result;
    }
    let faults = format!("the kernel has reported {} faults; `dmesg` has more:\n{}", faults.len(), faults.join("\n"));
    match result {
        Ok(_done) => bail!("{faults}"),
        Err(error) => Err(error.context(faults)),
    }
}

/// The faults until the other end of `ended` is dropped.
fn read_until(mut log: KernelLog, ended: &Receiver<()>) -> io::Result<Vec<String>> {
    let mut faults = Vec::new();
    loop {
        let last = ended.recv_timeout(INTERVAL) != Err(RecvTimeoutError::Timeout);
        faults.extend(log.new_faults()?);
        if last {
            return Ok(faults);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_result_of_the_work_comes_through() {
        assert_eq!(watched(|| Ok(7)).unwrap(), 7);
        assert_eq!(watched(|| -> Result<()> { bail!("it failed") }).unwrap_err().to_string(), "it failed");
    }
}
