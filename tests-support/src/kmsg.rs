//! The kernel's log: new records, and those that report a fault of the kernel.
//!
//! The kernel tests and `cargo xtask` share this definition of a fault.

use std::{
    fs::File,
    io::{self, Read as _, Seek as _, SeekFrom},
    os::unix::fs::OpenOptionsExt as _,
};

/// Text in a record that reports a fault of the kernel.
const FAULTS: [&str; 25] = [
    "WARNING",
    "BUG",
    "Oops",
    "refcount_t",
    "use-after-free",
    "double free",
    "double-free",
    "list_add corruption",
    "list_del corruption",
    "general protection",
    "unable to handle",
    "Kernel panic",
    "KASAN",
    "KFENCE",
    "KCSAN",
    "KMSAN",
    "UBSAN",
    "soft lockup",
    "hard LOCKUP",
    "rcu: INFO",
    "self-detected stall",
    "hung task",
    "blocked for more than",
    "scheduling while atomic",
    // A reference to a network namespace was leaked.
    "unregister_netdevice: waiting for",
];

/// Start of records of the audit subsystem, which quote text of programs.
const AUDIT: &str = "audit:";

/// Position in the kernel's log.
pub struct KernelLog(File);

impl KernelLog {
    /// Returns the log's end: only later records are new.
    ///
    /// # Errors
    ///
    /// If `/dev/kmsg` cannot be opened: with `kernel.dmesg_restrict=1`, that takes `CAP_SYSLOG`.
    pub fn from_now() -> io::Result<Self> {
        let mut device = File::options().read(true).custom_flags(libc::O_NONBLOCK).open("/dev/kmsg")?;
        device.seek(SeekFrom::End(0))?;
        Ok(Self(device))
    }

    /// Returns all records since the last call.
    ///
    /// # Errors
    ///
    /// If the log cannot be read, or if the kernel has overwritten records before they were read.
    pub fn new_records(&mut self) -> io::Result<Vec<String>> {
        /// Maximum length of a record (`PRINTKRB_RECORD_MAX`, kernel/printk/internal.h at v6.18, and its prefix).
        const LONGEST: usize = 8192;
        let (mut records, mut buffer) = (Vec::new(), vec![0; LONGEST]);
        loop {
            match self.0.read(&mut buffer) {
                Ok(length) => records.push(String::from_utf8_lossy(&buffer[..length]).into_owned()),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(records),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                // `EPIPE` means that the oldest unread records are gone.
                Err(error) => return Err(error),
            }
        }
    }

    /// Returns the text of each fault that the kernel has reported since the last call.
    ///
    /// # Errors
    ///
    /// As for [`KernelLog::new_records`].
    pub fn new_faults(&mut self) -> io::Result<Vec<String>> {
        let records = self.new_records()?;
        Ok(records.iter().filter_map(|record| fault_in(record)).map(str::to_owned).collect())
    }
}

/// Returns the text of a record of `/dev/kmsg`, if the kernel itself reports a fault in it.
///
/// The format is `PRIORITY,SEQUENCE,MICROSECONDS,FLAGS[,..];TEXT` (Documentation/ABI/testing/dev-kmsg at v6.18); the
/// facility is in the priority's upper bits, and 0 is the kernel.
pub fn fault_in(record: &str) -> Option<&str> {
    let (head, text) = record.split_once(';')?;
    let priority: u32 = head.split(',').next()?.parse().ok()?;
    // Programs can write to the log, too.
    if priority >> 3 != 0 {
        return None;
    }
    // Lines after the first one name the device.
    let text = text.lines().next()?;
    reports_fault(text).then_some(text)
}

/// Whether this text of the kernel reports a fault.
pub fn reports_fault(text: &str) -> bool {
    !text.starts_with(AUDIT) && FAULTS.iter().any(|fault| has_word(text, fault))
}

/// Whether `text` has `word` as a whole word: `DEBUG` has no `BUG`.
fn has_word(text: &str, word: &str) -> bool {
    let part_of_word = |c: char| c.is_alphanumeric();
    text.match_indices(word)
        .any(|(at, _word)| !text[..at].ends_with(part_of_word) && !text[at + word.len()..].starts_with(part_of_word))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_kernel_prints_of_a_fault_is_found() {
        for text in [
            "WARNING: CPU: 1 PID: 513 at lib/refcount.c:25 refcount_warn_saturate+0x74/0x110",
            "WARNING: lib/refcount.c:25 at refcount_warn_saturate+0x48/0x90, CPU#1: closewait/513",
            "refcount_t: addition on 0; use-after-free.",
            "BUG: KASAN: slab-use-after-free in bpf_iter_tcp_established_batch+0x14e/0x170",
            "kernel BUG at mm/slub.c:440!",
            "Oops: general protection fault, probably for non-canonical address",
            "watchdog: BUG: soft lockup - CPU#1 stuck for 26s! [closewait:513]",
            "rcu: INFO: rcu_preempt self-detected stall on CPU",
            "INFO: task closewait:513 blocked for more than 120 seconds.",
            "unregister_netdevice: waiting for lo to become free. Usage count = 2",
        ] {
            let record = format!("4,339,5140900,-;{text}\n SUBSYSTEM=x\n");
            assert_eq!(fault_in(&record), Some(text));
            assert!(reports_fault(text), "{text}");
        }
    }

    #[test]
    fn other_records_are_no_fault() {
        for record in [
            "6,1,2,-;DEBUG_PAGEALLOC is off",
            "6,1,2,-;TCP: request_sock_TCP: Possible SYN flooding on port 41000. Sending cookies.",
            "5,1,2,-;audit: type=1400 apparmor=\"DENIED\" comm=\"BUG: Oops\"",
            // Facility 1 is for programs.
            "12,1,2,-;a program's WARNING: BUG: Oops",
            "no record: BUG",
        ] {
            assert_eq!(fault_in(record), None, "{record}");
        }
    }
}
