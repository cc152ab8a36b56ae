//! Limits on what the agent makes processes do, which its helper keeps: a program that has taken over the agent can have it ask no process
//! more often.

use std::{collections::BTreeMap, time::Duration};

use super::wire::{DumpKind, DumpRequest};
use closewait_engine::time::BootTime;

/// Minimum time between two questions to a process.
pub(super) const QUESTION_INTERVAL: Duration = Duration::from_secs(60);
/// Time for the second dump of a process after its first one.
const SECOND_WITHIN: Duration = Duration::from_secs(30);
/// Maximum number of processes that are asked within [`QUESTION_INTERVAL`].
const MAX_PROCESSES: usize = 1024;

/// Questions of the last minute.
#[derive(Debug, Default)]
pub(super) struct QuestionLimits {
    asked: BTreeMap<(u32, u64), AskedProcess>,
}

/// Process that was asked.
#[derive(Debug)]
struct AskedProcess {
    at: BootTime,
    /// Whether it may be asked for its second dump.
    has_second: bool,
}

impl QuestionLimits {
    /// Notes a question at `now`.
    ///
    /// # Errors
    ///
    /// If the process was asked too recently, or too many were.
    pub(super) fn ask(&mut self, request: DumpRequest, now: BootTime) -> Result<(), &'static str> {
        self.asked.retain(|_, asked| now.since(asked.at) < QUESTION_INTERVAL);
        let is_full = self.asked.len() >= MAX_PROCESSES;
        let process = (request.pid, request.started_ns);
        match (request.kind, self.asked.get_mut(&process)) {
            (DumpKind::Threads, Some(_)) => Err("it was asked less than a minute ago"),
            (DumpKind::Threads, None) if is_full => Err("too many others were asked in the last minute"),
            (DumpKind::Threads, None) => {
                self.asked.insert(process, AskedProcess { at: now, has_second: true });
                Ok(())
            }
            (DumpKind::Virtual, Some(asked)) if asked.has_second && now.since(asked.at) < SECOND_WITHIN => {
                asked.has_second = false;
                Ok(())
            }
            (DumpKind::Virtual, _) => Err("its other threads were not asked for"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn second(n: u64) -> BootTime {
        BootTime(0) + Duration::from_secs(n)
    }

    #[test]
    fn a_process_is_asked_once_a_minute_for_each_dump() {
        let mut limits = QuestionLimits::default();
        let threads = DumpRequest { kind: DumpKind::Threads, pid: 7, started_ns: 70 };
        let all = DumpRequest { kind: DumpKind::Virtual, ..threads };
        assert!(limits.ask(all, second(1)).is_err(), "only after the first dump");
        assert_eq!(limits.ask(threads, second(1)), Ok(()));
        assert_eq!(limits.ask(all, second(2)), Ok(()));
        assert!(limits.ask(all, second(3)).is_err(), "once");
        assert!(limits.ask(threads, second(60)).is_err());
        assert_eq!(limits.ask(DumpRequest { started_ns: 71, ..threads }, second(60)), Ok(()), "another process");
        assert_eq!(limits.ask(threads, second(61)), Ok(()));
        assert!(limits.ask(all, second(91)).is_err(), "too late");
    }

    #[test]
    fn the_number_of_processes_is_limited() {
        let mut limits = QuestionLimits::default();
        let request = |pid| DumpRequest { kind: DumpKind::Threads, pid, started_ns: 1 };
        for pid in 1..=1024 {
            assert_eq!(limits.ask(request(pid), second(1)), Ok(()));
        }
        assert!(limits.ask(request(2000), second(60)).is_err());
        assert_eq!(limits.ask(request(2000), second(61)), Ok(()));
    }
}
