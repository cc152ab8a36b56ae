//! Wait reasons of the threads of a group's owners.

use serde::{Deserialize, Serialize};

use crate::{
    process::{Process, ProgramRuntime, ThreadState, WaitKind, WaitLimit},
    time::BootTime,
};

/// Number of threads of all owners of a group, by wait reason.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Waits {
    /// Number of inspected threads.
    pub threads: u32,
    /// Whether all threads were inspected and the wait reason of each is known.
    pub complete: bool,
    /// Number of threads that a signal or a debugger has stopped, or whose cgroup is frozen.
    pub stopped: u32,
    /// Number of threads that run or are ready to run.
    pub running: u32,
    /// CPU use of all threads, in thousandths of one CPU.
    pub cpu_permille: u32,
    /// Number of threads that wait for events, in poll or the like.
    pub events: u32,
    /// Number of these threads that wait for one descriptor without a timeout: the answer of another program, or a connection.
    pub single: u32,
    /// Number of threads that wait in `accept`.
    pub accepting: u32,
    /// Number of threads that wait for a lock, a file lock, an open(), a child or data, without a timeout.
    pub blocked: u32,
    /// Number of the blocked threads that wait for a lock, a condition or another thread of the program.
    pub locked: u32,
    /// Number of threads that wait for the end of a child process, without a timeout.
    pub children: u32,
    /// Number of threads that wait with a timeout in any call: they sleep, poll or are idle in a pool.
    pub limited: u32,
    /// Number of threads that write to a socket or a pipe.
    pub writing: u32,
    /// Number of threads without a timeout that a runtime has for itself, and that wait while it is idle.
    pub of_runtime: u32,
    /// Number of threads that wait in `connect`, for another program.
    pub connecting: u32,
    /// Whether the event loop's thread, which serves all connections, waits for events; `None` if the program has no event loop.
    pub idle_loop: Option<bool>,
    /// Whether the runtime runs many tasks on each thread, so that a thread shows nothing about a single connection.
    pub multiplexes: bool,
    /// Whether as many threads as sockets wait with a timeout, and their number has risen with the number of sockets; `None` if
    /// unknown.
    pub follows: Option<bool>,
}

/// Number of threads with a timeout at an earlier inspection.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct WaitsSample {
    /// Time of the inspection.
    pub at: BootTime,
    /// Number of threads that waited with a timeout.
    pub limited: u32,
}

impl WaitsSample {
    /// Takes the sample of a process that was inspected at `at`.
    pub(crate) fn of(process: &Process, at: BootTime) -> Self {
        let mut waits = Waits::default();
        waits.add(process);
        Self { at, limited: waits.limited }
    }
}

/// Divisor for the tolerated share of threads with an unknown wait reason: one in ten.
const UNKNOWN_PART: u64 = 10;

/// Whether a single thread of the process serves all connections.
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
                        (Some(WaitKind::Connect), _) => self.connecting += count,
                        // A PostgreSQL backend waits for a lock in the same call as for its client, without a timeout.
                        (Some(WaitKind::Events), Some(WaitLimit::Unlimited)) if is_postgres(process) => {
                            self.blocked += count;
                            self.locked += count;
                        }
                        (Some(WaitKind::Event), limit) => {
                            self.events += count;
                            self.single += if limit == Some(WaitLimit::Unlimited) { count } else { 0 };
                        }
                        (Some(WaitKind::Events), _) => self.events += count,
                        (Some(WaitKind::FileLock | WaitKind::Open), _) => self.blocked += count,
                        (Some(WaitKind::Sleep | WaitKind::Signal), _)
                        | (Some(WaitKind::Lock | WaitKind::Child | WaitKind::Read(_)), Some(WaitLimit::Limited)) => {}
                        (Some(wait @ (WaitKind::Lock | WaitKind::Child | WaitKind::Read(_))), _) => {
                            self.blocked += count;
                            self.locked += if wait == WaitKind::Lock { count } else { 0 };
                            self.children += if wait == WaitKind::Child { count } else { 0 };
                        }
                        (Some(WaitKind::Other) | None, _) => unknown = unknown.saturating_add(count),
                    }
                    if group.limit == Some(WaitLimit::Limited) {
                        self.limited += count;
                    }
                }
            }
        }
        // Threads can start and end during the inspection.
        let complete = u64::from(unknown) * UNKNOWN_PART <= u64::from(process.threads_seen);
        self.complete = complete && (first || self.complete);
        if is_event_loop(process) && !is_postgres(process) {
            let main = process.groups.iter().find(|group| group.has_main);
            // A single-threaded program that waits in accept() has no event loop.
            let main = main.filter(|group| group.wait() != Some(WaitKind::Accept));
            let idle = main.map(|group| matches!(group.wait(), Some(WaitKind::Events | WaitKind::Event)));
            self.idle_loop = idle.map(|idle| idle && self.idle_loop.unwrap_or(true));
        }
        self.multiplexes |= matches!(process.runtime, Some(ProgramRuntime::Go | ProgramRuntime::Beam));
        self.multiplexes |= has_carriers(process);
        if process.runtime == Some(ProgramRuntime::Jvm) {
            self.of_runtime = self.of_runtime.saturating_add(JVM_THREADS);
        }
    }

    /// Returns the number of threads that do something, or wait for something other than new work.
    pub fn working(&self) -> u32 {
        self.blocked + self.limited + self.running + self.writing + self.connecting
    }

    /// Returns the number of blocked threads that are not the runtime's own.
    pub fn blocked_of_program(&self) -> u32 {
        self.blocked.saturating_sub(self.of_runtime)
    }

    /// Whether most of the blocked threads wait for the program itself, and no thread waits for a child: a pipe, a UNIX socket, a file
    /// lock or a child belongs to another program, which may still finish its work.
    pub fn for_itself(&self) -> bool {
        self.children == 0 && self.locked.saturating_sub(self.of_runtime) * 2 >= self.blocked_of_program()
    }

    /// Whether the threads show what single connections wait for: the wait reason of each is known, and each has one task.
    pub fn show_connections(&self) -> bool {
        self.complete && !self.multiplexes
    }

    /// Whether all threads are stopped or frozen.
    pub fn all_stopped(&self) -> bool {
        self.threads > 0 && self.stopped == self.threads
    }

    /// Whether the number of threads that wait with a timeout rises with the number of sockets: then each thread works on one
    /// socket and will finish. `samples` has the number of such threads and of the group's sockets at earlier inspections, oldest
    /// first. `None` if unknown.
    pub(crate) fn follows(&self, sockets: u32, samples: impl Iterator<Item = (u32, u32)>) -> Option<bool> {
        if sockets == 0 || !self.complete {
            return None;
        }
        // There are too few threads now, so the earlier numbers do not matter.
        if u64::from(self.limited) * 10 < u64::from(sockets) * 7 {
            return Some(false);
        }
        // Nearly all threads of the program wait with a timeout, so hardly any of them did so before.
        if self.threads <= sockets.saturating_add(1) {
            return Some(true);
        }
        for (limited, before) in samples {
            let more = sockets.saturating_sub(before);
            if more >= 2.max(sockets / 3) {
                let rise = u64::from(self.limited.saturating_sub(limited));
                // A smaller rise proves nothing: a thread starts to wait before its client closes.
                return (rise * 10 >= u64::from(more) * 7).then_some(true);
            }
        }
        None
    }
}

/// Number of threads of an idle JVM that wait without a timeout: of the garbage collector, the compilers, references, signals, and of
/// its libraries. 7 to 10 with JDK 17 to 25 on two CPUs.
const JVM_THREADS: u32 = 12;

/// Whether a JVM has threads that can carry virtual ones. The first virtual thread starts them, as workers of a fork-join pool.
fn has_carriers(process: &Process) -> bool {
    let mut names = process.groups.iter().flat_map(|group| &group.comms);
    process.runtime == Some(ProgramRuntime::Jvm) && names.any(|name| name.as_str().starts_with("ForkJoinPool-"))
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
    fn threads_follow_the_sockets_if_both_numbers_rise() {
        // Four idle threads of a pool, independent of the number of sockets.
        assert_eq!(waits(40, 4).follows(4, [(4, 1)].into_iter()), None);
        assert_eq!(waits(40, 4).follows(12, std::iter::empty()), Some(false), "too few threads");
        // Four idle threads, and one for each socket.
        assert_eq!(waits(40, 24).follows(20, [(5, 1), (14, 10)].into_iter()), Some(true));
        assert_eq!(waits(40, 24).follows(20, std::iter::empty()), None, "no earlier sample");
        assert_eq!(waits(1, 1).follows(1, std::iter::empty()), Some(true), "it has no other thread");
        assert_eq!(Waits { complete: false, ..waits(1, 1) }.follows(1, std::iter::empty()), None);
    }
}
