//! What the threads of a group's owners wait for.

use crate::{
    process::{Process, ProgramRuntime, ThreadState, WaitKind, WaitLimit},
    time::BootTime,
};

/// Number of threads of all owners of a group, by what they wait for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Waits {
    /// Threads that were inspected.
    pub threads: u32,
    /// Whether these are all threads, and of each what it waits for.
    pub complete: bool,
    /// Threads that a signal or a debugger has stopped, or whose cgroup is frozen.
    pub stopped: u32,
    /// Threads that run or want to run.
    pub running: u32,
    /// CPU time of all threads, in thousandths of one CPU.
    pub cpu_permille: u32,
    /// Threads that wait for any of several descriptors.
    pub events: u32,
    /// Threads that wait in `accept`.
    pub accepting: u32,
    /// Threads that wait for a lock, a file lock, a child or data, without a timeout.
    pub blocked: u32,
    /// Threads that wait with a timeout, in whatever call: they sleep, poll or are idle in a pool.
    pub limited: u32,
    /// Threads that write to a socket or a pipe.
    pub writing: u32,
    /// Event loops: whether the thread that serves all connections waits for events. `None` if the program is none.
    pub idle_loop: Option<bool>,
    /// Whether the runtime runs many tasks on each of its threads, so that threads tell nothing of single connections.
    pub multiplexes: bool,
    /// Whether there are as many threads that wait with a timeout as sockets, and more of them with each socket; `None` if that
    /// cannot be told.
    pub follows: Option<bool>,
}

/// Threads with a timeout at an earlier inspection, and the sockets of the group at that time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct WaitsSample {
    /// Time of the inspection.
    pub at: BootTime,
    /// Threads that waited with a timeout.
    pub limited: u32,
}

impl WaitsSample {
    /// Reads it of a process that was inspected at `at`.
    pub(crate) fn of(process: &Process, at: BootTime) -> Self {
        let mut waits = Waits::default();
        waits.add(process);
        Self { at, limited: waits.limited }
    }
}

/// If fewer than one part in this number of the threads is unknown, all are as good as known.
const UNKNOWN_PART: u64 = 10;

/// Runtimes whose single thread serves all connections.
fn is_event_loop(process: &Process) -> bool {
    let single = process.threads == Some(1);
    process.is_event_loop_runtime() || single
}

impl Waits {
    /// Adds the threads of one owner.
    pub(crate) fn add(&mut self, process: &Process) {
        let frozen = process.frozen == Some(true);
        let first = self.threads == 0;
        self.cpu_permille = self.cpu_permille.saturating_add(process.cpu_permille.unwrap_or(0));
        let mut unknown = process.threads.map_or(u32::MAX, |threads| threads.saturating_sub(process.threads_seen));
        for group in &process.groups {
            let count = group.count;
            self.threads += count;
            match group.state {
                _ if frozen => self.stopped += count,
                ThreadState::Stopped => self.stopped += count,
                ThreadState::Running => self.running += count,
                ThreadState::Zombie => self.threads -= count,
                ThreadState::Sleeping | ThreadState::DiskSleep | ThreadState::Other => {
                    match (group.wait(), group.limit) {
                        (Some(WaitKind::Accept), _) => self.accepting += count,
                        (Some(WaitKind::Write), _) => self.writing += count,
                        // A backend of PostgreSQL waits for a lock in the same call as for its client, without a timeout.
                        (Some(WaitKind::Events), Some(WaitLimit::Unlimited)) if is_postgres(process) => {
                            self.blocked += count;
                        }
                        (Some(WaitKind::Events), _) => self.events += count,
                        (Some(WaitKind::FileLock), _) => self.blocked += count,
                        (Some(WaitKind::Sleep | WaitKind::Signal), _)
                        | (Some(WaitKind::Lock | WaitKind::Child | WaitKind::Read(_)), Some(WaitLimit::Limited)) => {}
                        (Some(WaitKind::Lock | WaitKind::Child | WaitKind::Read(_)), _) => self.blocked += count,
                        (Some(WaitKind::Other) | None, _) => unknown = unknown.saturating_add(count),
                    }
                    if group.limit == Some(WaitLimit::Limited) {
                        self.limited += count;
                    }
                }
            }
        }
        // Threads come and go while they are read.
        let complete = u64::from(unknown) * UNKNOWN_PART <= u64::from(process.threads_seen);
        self.complete = complete && (first || self.complete);
        if is_event_loop(process) && !is_postgres(process) {
            let main = process.groups.iter().find(|group| group.has_main);
            // A program of one thread that waits in accept() has no loop.
            let main = main.filter(|group| group.wait() != Some(WaitKind::Accept));
            let idle = main.map(|group| group.wait() == Some(WaitKind::Events));
            self.idle_loop = idle.map(|idle| idle && self.idle_loop.unwrap_or(true));
        }
        self.multiplexes |= matches!(process.runtime, Some(ProgramRuntime::Go | ProgramRuntime::Beam));
    }

    /// Number of threads that do something, or wait for something other than new work.
    pub fn working(&self) -> u32 {
        self.blocked + self.limited + self.running + self.writing
    }

    /// Whether all threads are stopped or frozen.
    pub fn all_stopped(&self) -> bool {
        self.threads > 0 && self.stopped == self.threads
    }

    /// Whether the number of threads that wait with a timeout rises with the number of sockets: each of them works on one, and
    /// will be done. `samples` are earlier inspections with the number of sockets of the group then, the oldest first. `None` if
    /// that cannot be told.
    pub(crate) fn follows(&self, sockets: u32, samples: impl Iterator<Item = (u32, u32)>) -> Option<bool> {
        if sockets == 0 || !self.complete {
            return None;
        }
        // Whatever number there was before: there are too few now.
        if u64::from(self.limited) * 10 < u64::from(sockets) * 7 {
            return Some(false);
        }
        // Every thread of it: there can have been none before.
        if self.threads <= sockets.saturating_add(1) {
            return Some(true);
        }
        for (limited, before) in samples {
            let more = sockets.saturating_sub(before);
            if more >= 2.max(sockets / 3) {
                let rise = u64::from(self.limited.saturating_sub(limited));
                // Fewer prove nothing: a thread begins to wait before its client leaves.
                return (rise * 10 >= u64::from(more) * 7).then_some(true);
            }
        }
        None
    }
}

fn is_postgres(process: &Process) -> bool {
    process.runtime == Some(ProgramRuntime::Postgres)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn waits(threads: u32, limited: u32) -> Waits {
        Waits { threads, limited, complete: true, ..Waits::default() }
    }

    #[test]
    fn threads_follow_the_sockets_if_both_rise_alike() {
        // Four idle threads of a pool, whatever the number of sockets.
        assert_eq!(waits(40, 4).follows(4, [(4, 1)].into_iter()), None);
        assert_eq!(waits(40, 4).follows(12, std::iter::empty()), Some(false), "too few, whatever there was before");
        // Four idle ones, and one for each socket.
        assert_eq!(waits(40, 24).follows(20, [(5, 1), (14, 10)].into_iter()), Some(true));
        assert_eq!(waits(40, 24).follows(20, std::iter::empty()), None, "they can have been there before");
        assert_eq!(waits(1, 1).follows(1, std::iter::empty()), Some(true), "it has no other thread");
        assert_eq!(Waits { complete: false, ..waits(1, 1) }.follows(1, std::iter::empty()), None);
    }
}
