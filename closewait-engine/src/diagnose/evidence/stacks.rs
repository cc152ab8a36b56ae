//! Work of the threads of a group's owners, as their stacks show it.

use std::time::Duration;

use crate::{
    stacks::{CodeWait, EVENTS, ProcessStacks, StackGroup, ThreadWork},
    text::count,
    time::BootTime,
};

/// Minimum time between the first and the last sample in which threads are at one line, for evidence that they are blocked there. One
/// sample is an indication.
const STEADY: Duration = Duration::from_secs(30);

/// Threads or goroutines of all owners of a group, by what their stacks show.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct StackEvidence {
    /// Number of stacks.
    pub threads: u32,
    /// Number of threads that wait for work: in an idle pool or in `accept`.
    pub idle: u32,
    /// Number of threads that have waited for a connection of a pool in two samples at least 30 s apart.
    pub pool: u32,
    /// Number of threads of the largest group that has waited for a lock at one line of the application in two such samples. Threads that
    /// wait for a signal there can be the idle ones of a pool that the application has written itself.
    pub at_line: u32,
    /// Number of virtual threads that cannot run, because all carriers have waited for a lock at one line in two such samples.
    pub stopped: u32,
    /// Whether all stacks were read, and show what each thread does. An event loop's do not: its tasks wait without a stack.
    pub complete: bool,
}

impl StackEvidence {
    /// Counts the stacks of all owners, `None` for one that was not read. Returns `None` if none was read.
    pub(crate) fn of<'s>(owners: impl Iterator<Item = Option<&'s ProcessStacks>>) -> Option<Self> {
        let mut evidence = Self { complete: true, ..Self::default() };
        for owner in owners {
            match owner {
                Some(stacks) => evidence.add(stacks),
                None => evidence.complete = false,
            }
        }
        (evidence.threads > 0).then_some(evidence)
    }

    fn add(&mut self, stacks: &ProcessStacks) {
        let is_known = |group: &StackGroup| !matches!(group.work, ThreadWork::Unknown) && !runs_tasks(group.work);
        self.complete &= stacks.ungrouped == 0 && stacks.unread.is_empty() && stacks.groups.iter().all(is_known);
        let is_steady = |since: Option<BootTime>| since.is_some_and(|since| stacks.at.since(since) >= STEADY);
        if let Some(pinned) = stacks.pinned_carriers()
            && pinned.work == ThreadWork::Waits(CodeWait::Lock)
            && is_steady(pinned.since)
        {
            self.stopped = self.stopped.saturating_add(pinned.unmounted);
        }
        for group in &stacks.groups {
            let is_steady = is_steady(group.since);
            self.threads = self.threads.saturating_add(group.count);
            match group.work {
                work if runs_tasks(work) => {}
                ThreadWork::Idle(_) | ThreadWork::Waits(CodeWait::Accept) => {
                    self.idle = self.idle.saturating_add(group.count);
                }
                ThreadWork::Waits(CodeWait::Pool) if is_steady => self.pool = self.pool.saturating_add(group.count),
                ThreadWork::Waits(CodeWait::Lock) if is_steady && group.place.is_some() => {
                    self.at_line = self.at_line.max(group.count);
                }
                ThreadWork::Waits(
                    CodeWait::Pool
                    | CodeWait::Lock
                    | CodeWait::Signal
                    | CodeWait::Events
                    | CodeWait::Interpreter
                    | CodeWait::Receive
                    | CodeWait::Send
                    | CodeWait::Connect
                    | CodeWait::Resolve
                    | CodeWait::Sleep
                    | CodeWait::Join
                    | CodeWait::Process
                    | CodeWait::File,
                )
                | ThreadWork::Unknown => {}
            }
        }
    }

    /// Returns the number of threads that do something, or wait for something other than work.
    pub fn working(&self) -> u32 {
        self.threads.saturating_sub(self.idle)
    }

    /// Whether every thread waits for work: none of them will close a socket that it has forgotten.
    pub fn all_idle(&self) -> bool {
        self.complete && self.threads > 0 && self.idle == self.threads
    }

    /// Returns what the threads at one line do, in words.
    pub fn blocked(&self) -> String {
        let Self { at_line, threads, stopped, .. } = self;
        let stopped = match stopped {
            0 => String::new(),
            stopped => format!(", and keep {} from running", count(*stopped, "virtual thread")),
        };
        format!("{at_line} of {threads} stacks have waited for a lock at one line for at least 30s{stopped}")
    }

    /// Whether the threads at one line explain why `sockets` are not closed: with those that they keep from running, they are at least
    /// half as many as the sockets, or most of the threads that work.
    pub fn blocks(&self, sockets: u32) -> bool {
        let at_line = if self.at_line > 0 { u64::from(self.at_line) + u64::from(self.stopped) } else { 0 };
        at_line > 0 && (at_line * 2 >= u64::from(sockets) || at_line * 10 >= u64::from(self.working()) * 7)
    }
}

/// Whether a thread runs an event loop, whose tasks have no stacks while they wait.
fn runs_tasks(work: ThreadWork) -> bool {
    matches!(work, ThreadWork::Idle(EVENTS) | ThreadWork::Waits(CodeWait::Events))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        stacks::{
            CodeFrame, CodeLanguage, CodeStack,
            carriers::{FREE_CARRIER, PINNED, VIRTUAL},
        },
        testing::python_stack,
    };

    const LOCKED: (&str, &str, u32) = ("__enter__", "/usr/lib/python3.11/threading.py", 270);
    const RESERVE: (&str, &str, u32) = ("reserve", "/srv/orders.py", 5);
    const IDLE: (&str, &str, u32) = ("_worker", "/usr/lib/python3.11/concurrent/futures/thread.py", 81);
    const POOLED: (&str, &str, u32) = ("_get_conn", "/usr/lib/python3/dist-packages/urllib3/connectionpool.py", 266);
    const FETCH: (&str, &str, u32) = ("fetch", "/srv/orders.py", 9);

    const LOOP: (&str, &str, u32) = ("BaseEventLoop._run_once", "/usr/lib/python3.11/asyncio/base_events.py", 1884);

    fn sample(second: u64, lines: &[&[(&str, &str, u32)]]) -> ProcessStacks {
        let stacks: Vec<_> = lines.iter().zip(1..).map(|(lines, tid)| python_stack(tid, lines)).collect();
        ProcessStacks::new(7, BootTime(0) + Duration::from_secs(second), &stacks, Vec::new())
    }

    fn evidence(samples: &[ProcessStacks]) -> StackEvidence {
        let mut last: Option<ProcessStacks> = None;
        for sample in samples {
            let mut next = sample.clone();
            if let Some(before) = &last {
                next.continue_from(before);
            }
            last = Some(next);
        }
        StackEvidence::of([last.as_ref()].into_iter()).expect("stacks")
    }

    #[test]
    fn threads_at_one_line_are_evidence_only_if_two_samples_agree() {
        let lines: &[&[_]] = &[&[LOCKED, RESERVE], &[LOCKED, RESERVE], &[IDLE]];
        let once = evidence(&[sample(0, lines)]);
        assert_eq!((once.threads, once.idle, once.at_line, once.complete), (3, 1, 0, true));
        let twice = evidence(&[sample(0, lines), sample(60, lines)]);
        assert_eq!(twice.at_line, 2);
        assert!(twice.blocks(4) && twice.blocks(1000), "all that work");
        assert!(!evidence(&[sample(0, lines), sample(20, lines)]).blocks(1), "the samples are too close");
    }

    #[test]
    fn carriers_that_wait_for_a_lock_stop_all_virtual_threads() {
        let stack = |state: &str, functions: &[&str]| CodeStack {
            language: CodeLanguage::Jvm,
            tid: None,
            name: None,
            state: Some(state.to_owned()),
            lock_owner: None,
            frames: functions
                .iter()
                .map(|name| CodeFrame { function: Some((*name).to_owned()), ..CodeFrame::default() })
                .collect(),
            cut: None,
        };
        let lock = ["java.util.concurrent.locks.ReentrantLock.lock", "shop.Orders.finish"];
        let (pinned, blank) = (stack(PINNED, &lock), stack(VIRTUAL, &[]));
        let sample = |second, stacks: &[CodeStack]| {
            ProcessStacks::new(7, BootTime(0) + Duration::from_secs(second), stacks, Vec::new())
        };
        let stacks = [vec![pinned; 4], vec![blank; 90]].concat();
        let stopped = evidence(&[sample(0, &stacks), sample(60, &stacks)]);
        assert_eq!((stopped.threads, stopped.idle, stopped.at_line, stopped.stopped), (94, 0, 4, 90));
        assert!(stopped.blocks(100) && !stopped.complete);
        let expected = "4 of 94 stacks have waited for a lock at one line for at least 30s, and keep 90 virtual threads from running";
        assert_eq!(stopped.blocked(), expected);
        assert_eq!(evidence(&[sample(0, &stacks)]).stopped, 0, "one sample is an indication");
        let free = [&stacks[..], &[stack(FREE_CARRIER, &lock)]].concat();
        assert_eq!(evidence(&[sample(0, &free), sample(60, &free)]).stopped, 0);
    }

    #[test]
    fn threads_that_wait_for_work_are_idle_and_unread_ones_are_not() {
        let idle = evidence(&[sample(0, &[&[IDLE], &[IDLE]])]);
        assert!(idle.all_idle());
        let read = sample(0, &[&[IDLE], &[IDLE]]);
        for owners in [[Some(&read), None], [None, Some(&read)]] {
            assert!(!StackEvidence::of(owners.into_iter()).expect("stacks").all_idle(), "another owner was not read");
        }
        assert_eq!(StackEvidence::of([None].into_iter()), None);
        assert!(!evidence(&[sample(0, &[&[IDLE], &[FETCH]])]).all_idle(), "one runs");
        assert!(!evidence(&[sample(0, &[&[LOOP], &[IDLE]])]).all_idle(), "tasks of an event loop have no stack");
        let pooled: &[&[_]] = &[&[POOLED, FETCH]];
        let pool = evidence(&[sample(0, pooled), sample(60, pooled)]);
        assert_eq!((pool.pool, pool.at_line), (1, 0));
    }
}
