//! Stacks of owners, as of the last read of each.

use std::{
    cmp::Reverse,
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::Duration,
};

use serde::{Deserialize, Serialize};

use crate::{
    diagnose::evidence::STEADY,
    process::Process,
    stacks::{CodeLanguage, CodeWait, ProcessStacks, ThreadWork},
    time::BootTime,
};

/// Minimum time between two reads of the stacks of a process.
const INTERVAL: Duration = Duration::from_secs(60);
/// Time to the second read of a process whose threads may be blocked, so that a hang is known for sure a minute and a half after its onset.
const CONFIRMATION: Duration = STEADY;
/// Time to the next read after the first one without any frame: the host may have been busy. Other reasons stay.
const RETRY: Duration = Duration::from_secs(10);
/// Maximum age of stacks that say what a process does.
const MAX_AGE: Duration = Duration::from_secs(120);
/// Maximum number of kept frames of all processes, at about 200 bytes each, and less than 500.
const MAX_FRAMES: usize = 16_384;

/// Stacks of owners, as of the last read of each.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub(super) struct StackSamples {
    samples: BTreeMap<u32, Arc<ProcessStacks>>,
    /// Time from which each process waits for its next read. Recordings have it under an earlier name.
    #[serde(rename = "asked")]
    due: BTreeMap<u32, BootTime>,
    /// Requested processes that were not read yet.
    reading: BTreeSet<u32>,
}

impl StackSamples {
    /// Returns the `owners` whose stacks an inspection at `now` reads; those that have waited longest come first, so that
    /// new processes cannot keep others waiting. Forgets the stacks of other processes after [`MAX_AGE`]: one whose sockets are no longer
    /// suspect may soon have stuck ones.
    pub(super) fn request(&mut self, now: BootTime, owners: &BTreeSet<u32>) -> Vec<u32> {
        self.samples.retain(|pid, stacks| owners.contains(pid) || now.since(stacks.at) <= MAX_AGE);
        self.due.retain(|pid, _| owners.contains(pid) || self.samples.contains_key(pid));
        for pid in owners {
            self.due.entry(*pid).or_insert(now);
        }
        let is_due =
            |(pid, since): &(&u32, &BootTime)| **since <= now && owners.contains(pid) && !self.reading.contains(pid);
        let mut due: Vec<(BootTime, u32)> = self.due.iter().filter(is_due).map(|(pid, since)| (*since, *pid)).collect();
        due.sort_unstable();
        self.reading.extend(due.iter().map(|(_, pid)| *pid));
        due.into_iter().map(|(_, pid)| pid).collect()
    }

    /// Stores the stacks of a process. A sample without any frame does not replace one with frames of the last two minutes.
    pub(super) fn learn(&mut self, mut stacks: ProcessStacks) {
        self.reading.remove(&stacks.pid);
        // Another process may have its number now, or the process another program.
        let previous = self.samples.get(&stacks.pid).filter(|previous| previous.is_of(stacks.image));
        let (is_empty, was_empty) = (stacks.shows_nothing(), previous.map(|previous| previous.shows_nothing()));
        let next = match (is_empty, was_empty) {
            (true, None | Some(false)) => RETRY,
            (false, None | Some(true)) if needs_confirmation(&stacks) => CONFIRMATION,
            (true, Some(true)) | (false, _) => INTERVAL,
        };
        self.due.insert(stacks.pid, stacks.at + next);
        if let Some(previous) = previous {
            if is_empty && was_empty == Some(false) && stacks.at.since(previous.at) <= MAX_AGE {
                return;
            }
            stacks.continue_from(previous);
        }
        self.samples.insert(stacks.pid, Arc::new(stacks));
        let mut frames = self.frames();
        while frames > MAX_FRAMES {
            // A few programs with large stacks must not take the place of all others.
            let largest = self.samples.values().max_by_key(|stacks| (stacks.frames(), Reverse(stacks.at)));
            let Some(dropped) = largest.map(|stacks| stacks.pid).and_then(|pid| self.samples.remove(&pid)) else {
                return;
            };
            frames = frames.saturating_sub(dropped.frames());
        }
    }

    /// Ends an inspection: a process that it had no time for is requested again, and keeps its place.
    pub(super) fn inspection_ended(&mut self) {
        self.reading.clear();
    }

    /// Returns the number of kept frames, [`MAX_FRAMES`] at most.
    pub(super) fn frames(&self) -> usize {
        self.samples.values().map(|stacks| stacks.frames()).sum()
    }

    /// Returns the stacks of a process that was read at `at`; `None` if they are older than [`MAX_AGE`], or of an earlier process with
    /// its number, or of the program that it ran before.
    pub(super) fn of(&self, process: &Process, at: BootTime) -> Option<Arc<ProcessStacks>> {
        let stacks = self.samples.get(&process.pid)?;
        let is_same =
            process.started_ns.is_some_and(|started| BootTime(started) <= stacks.at) && stacks.is_of(process.image());
        (is_same && at.since(stacks.at) <= MAX_AGE).then(|| Arc::clone(stacks))
    }
}

/// Whether threads wait at a line of the application for a lock, room in a queue, a connection or work, which is evidence only if another
/// sample agrees. A JVM is not read again so soon, because its dumps stop it.
fn needs_confirmation(stacks: &ProcessStacks) -> bool {
    stacks.groups.iter().any(|group| {
        let waits = matches!(group.work, ThreadWork::Waits(CodeWait::Lock | CodeWait::Room | CodeWait::Pool))
            || group.in_own_loop;
        waits && group.place.is_some() && group.language != CodeLanguage::Jvm
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        process::ProcessImage,
        stacks::{CodeFrame, CodeLanguage, CodeStack},
        testing::python_stack,
        text::Comm,
    };

    fn second(n: u64) -> BootTime {
        BootTime(0) + Duration::from_secs(n)
    }

    fn sample(pid: u32, at: BootTime, depth: usize) -> ProcessStacks {
        let stack = |tid| CodeStack {
            language: CodeLanguage::Native,
            tid: Some(tid),
            name: None,
            state: None,
            lock_owner: None,
            frames: vec![CodeFrame { line: Some(tid), ..CodeFrame::default() }; depth],
            cut: None,
        };
        ProcessStacks::new(pid, at, &(0..32).map(stack).collect::<Vec<_>>(), Vec::new())
    }

    #[test]
    fn a_process_is_read_once_a_minute_and_again_if_there_was_no_time() {
        let mut samples = StackSamples::default();
        let owners = BTreeSet::from([1, 2]);
        assert_eq!(samples.request(second(0), &owners), [1, 2]);
        samples.learn(sample(1, second(0), 1));
        samples.inspection_ended();
        assert_eq!(samples.request(second(5), &owners), [2]);
        samples.learn(sample(2, second(5), 1));
        samples.inspection_ended();
        assert!(samples.request(second(59), &owners).is_empty());
        assert_eq!(samples.request(second(65), &owners), [1, 2]);
        assert_eq!(samples.request(second(65), &BTreeSet::from([3])), [3]);
        assert!(!samples.samples.is_empty(), "they may own sockets again");
        samples.inspection_ended();
        assert_eq!(samples.request(second(126), &BTreeSet::from([3])), [3]);
        assert!(samples.samples.is_empty(), "no owners any more");
    }

    #[test]
    fn threads_that_wait_for_a_lock_or_for_room_are_read_a_second_time_after_half_a_minute() {
        use CodeWait::{Lock, Room};
        let python = [("__enter__", "/usr/lib/python3.11/threading.py", 270), ("reserve", "/srv/orders.py", 5)];
        let full = [("Queue.put", "/usr/lib/python3.11/queue.py", 140), ("extract", "/srv/etl.py", 28)];
        let java = [
            ("java.util.concurrent.locks.ReentrantLock.lock", "ReentrantLock.java", 1),
            ("shop.Orders.add", "Orders.java", 9),
        ];
        let owners = BTreeSet::from([1]);
        for (language, lines, wait, reads) in [
            (CodeLanguage::Python, python, Lock, [0, 30, 90, 150]),
            (CodeLanguage::Python, full, Room, [0, 30, 90, 150]),
            (CodeLanguage::Jvm, java, Lock, [0, 60, 120, 180]),
        ] {
            let stack = CodeStack { language, ..python_stack(1, &lines) };
            let locked = |at| ProcessStacks::new(1, at, std::slice::from_ref(&stack), Vec::new());
            assert_eq!(locked(second(0)).groups[0].work, ThreadWork::Waits(wait));
            let mut samples = StackSamples::default();
            let mut read = Vec::new();
            for at in 0..=200 {
                if !samples.request(second(at), &owners).is_empty() {
                    read.push(at);
                    samples.learn(locked(second(at)));
                    samples.inspection_ended();
                }
            }
            assert_eq!(read, reads, "{language:?} {wait:?}");
        }
    }

    #[test]
    fn a_read_that_showed_nothing_is_repeated_once_and_does_not_replace_what_is_known() {
        let nothing = |at| sample(1, at, 0);
        let owners = BTreeSet::from([1]);
        let reads = |shown: &[u64]| {
            let mut samples = StackSamples::default();
            let mut read = Vec::new();
            for at in 0..200 {
                if !samples.request(second(at), &owners).is_empty() {
                    read.push(at);
                    samples.learn(if shown.contains(&at) { sample(1, second(at), 1) } else { nothing(second(at)) });
                    samples.inspection_ended();
                }
            }
            let kept = &samples.samples[&1];
            (read, kept.at)
        };
        assert_eq!(reads(&[]), (vec![0, 10, 70, 130, 190], second(190)));
        assert_eq!(reads(&[10, 70, 130, 190]), (vec![0, 10, 70, 130, 190], second(190)));
        assert_eq!(reads(&[0, 60, 130]), (vec![0, 60, 120, 130, 190], second(130)));
        // For two minutes, what is known is still true enough.
        let repeated: Vec<u64> = [0].into_iter().chain((60..=140).step_by(10)).collect();
        assert_eq!(reads(&[0]), (repeated, second(140)));
    }

    #[test]
    fn old_stacks_and_those_of_an_earlier_process_say_nothing() {
        let mut samples = StackSamples::default();
        samples.learn(sample(1, second(100), 1));
        let started =
            |at: u64| Process { started_ns: Some(second(at).0), ..Process::unread(1, Comm::from_name(b"app")) };
        assert!(samples.of(&started(90), second(220)).is_some());
        assert!(samples.of(&started(90), second(221)).is_none());
        assert!(samples.of(&started(101), second(110)).is_none());
    }

    #[test]
    fn stacks_of_the_program_before_an_execve_say_nothing() {
        let image = |exec_id| Some(ProcessImage { started_ns: 5, exec_id });
        let process = |exec_id| Process { started_ns: Some(5), exec_id, ..Process::unread(1, Comm::from_name(b"app")) };
        let read = |at, start| sample(1, second(at), 1).of_image(image(start));
        let mut samples = StackSamples::default();
        samples.learn(read(100, Some(7)));
        assert!(samples.of(&process(Some(7)), second(110)).is_some());
        assert!(samples.of(&process(None), second(110)).is_some(), "it may be the same");
        assert!(samples.of(&process(Some(8)), second(110)).is_none());
        // The lines of one program are not those of another, nor kept in place of what could not be read.
        samples.learn(read(130, Some(8)));
        assert_eq!(samples.samples[&1].groups[0].since, Some(second(130)));
        samples.learn(read(160, Some(8)));
        assert_eq!(samples.samples[&1].groups[0].since, Some(second(130)));
        samples.learn(sample(1, second(190), 0).of_image(image(Some(9))));
        assert!(samples.samples[&1].shows_nothing());
    }

    #[test]
    fn the_largest_samples_are_dropped_over_the_limit_and_of_those_the_oldest() {
        let mut samples = StackSamples::default();
        samples.learn(sample(99, second(0), 30));
        for pid in 1..=20 {
            samples.learn(sample(pid, second(u64::from(100 - pid)), 40));
        }
        // 32 groups of 40 frames are 1,280 frames. The small sample stays, although it is the oldest.
        assert_eq!(samples.frames(), 12 * 1280 + 960);
        assert!(samples.samples.keys().copied().eq((1..=12).chain([99])), "{:?}", samples.samples.keys());
    }

    #[test]
    fn new_processes_keep_nobody_waiting() {
        let mut samples = StackSamples::default();
        samples.request(second(0), &BTreeSet::from([7]));
        // There was no time for it, and meanwhile others have come.
        samples.inspection_ended();
        let mut owners = BTreeSet::from([1, 2, 7]);
        assert_eq!(samples.request(second(5), &owners), [7, 1, 2]);
        samples.learn(sample(1, second(5), 1));
        samples.inspection_ended();
        owners.insert(3);
        assert_eq!(samples.request(second(10), &owners), [7, 2, 3]);
        assert!(samples.request(second(10), &owners).is_empty(), "they are being read");
        samples.learn(sample(7, second(10), 1));
        samples.inspection_ended();
        assert_eq!(samples.request(second(70), &owners), [2, 3, 1, 7]);
    }
}
