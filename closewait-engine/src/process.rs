//! Identity of a process, and the state of its threads.

mod next_step;
mod runtime;
mod syscall;
mod thread;

use std::collections::BTreeSet;

use serde::{Deserialize, Serialize};

pub use self::{
    next_step::{NextStep, Tool},
    runtime::ProgramRuntime,
    syscall::{Syscall, SyscallArgs, WaitKind, WaitLimit},
    thread::{Thread, ThreadGroup, ThreadState, group},
};
use super::{
    text::{Comm, harmless_field},
    workload::Workload,
};

/// From this share of a CPU on, in thousandths, a busy thread is not said to get less than it wants.
const ALL_PERMILLE: u32 = 900;
/// Parts of the description of what a process does.
const PARTS: usize = 2;

/// Process at the time of its inspection. An unknown fact is `None`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Process {
    /// PID in the agent's pid namespace.
    pub pid: u32,
    /// Name of the first thread.
    pub comm: Comm,
    /// Start time, nanoseconds since boot on `CLOCK_BOOTTIME`, to the tick of 10 ms (`do_task_stat`, fs/proc/array.c at
    /// v5.10).
    pub started_ns: Option<u64>,
    /// The pid of its parent; `None` also if that is in another pid namespace.
    pub parent: Option<u32>,
    /// The file that it runs, with ` (deleted)` behind it if it is there no more.
    #[serde(default, deserialize_with = "harmless_field")]
    pub exe: Option<String>,
    /// Runtime of the program, if it is a known one.
    pub runtime: Option<ProgramRuntime>,
    /// The version of its runtime, as that writes it; `None` where it is not read.
    #[serde(default, deserialize_with = "harmless_field")]
    pub runtime_version: Option<String>,
    /// The signals that it catches: bit 0 is signal 1.
    #[serde(default)]
    pub signals_caught: Option<u64>,
    /// The tools that exist on its host: the engine adds them to each process that it takes in.
    #[serde(skip)]
    pub tools: Option<BTreeSet<Tool>>,
    /// Descriptors that it has open.
    pub fds_open: Option<u64>,
    /// The descriptor at which opening more fails: the soft limit `RLIMIT_NOFILE`.
    pub fds_limit: Option<u64>,
    /// Number of threads.
    pub threads: Option<u32>,
    /// Unit, container or pod of the cgroup.
    pub workload: Option<Box<Workload>>,
    /// Number of inspected threads.
    pub threads_seen: u32,
    /// The threads that were inspected, those that do the same together, the largest group first.
    pub groups: Vec<ThreadGroup>,
    /// CPU time of the threads that were inspected, in thousandths of one CPU.
    pub cpu_permille: Option<u32>,
    /// Whether its cgroup is frozen, by `cgroup.freeze` or the freezer of cgroup v1; `None` if that was not read.
    #[serde(default)]
    pub frozen: Option<bool>,
    /// The file into which a state was written that freezes it: `cgroup.freeze`, or `freezer.state` of cgroup v1; `None` if
    /// that is unknown, or it is not frozen.
    #[serde(default, deserialize_with = "harmless_field")]
    pub frozen_by: Option<String>,
    /// Facts that could not be read, with the reason, one sentence each.
    #[serde(deserialize_with = "harmless_field")]
    pub unseen: Vec<String>,
}

impl Process {
    /// A process of which only pid and name are known.
    pub fn unread(pid: u32, comm: Comm) -> Self {
        Self {
            pid,
            comm,
            started_ns: None,
            parent: None,
            exe: None,
            runtime: None,
            runtime_version: None,
            signals_caught: None,
            tools: None,
            fds_open: None,
            fds_limit: None,
            threads: None,
            workload: None,
            threads_seen: 0,
            groups: Vec::new(),
            cpu_permille: None,
            frozen: None,
            frozen_by: None,
            unseen: Vec::new(),
        }
    }

    /// Describes the state of the threads with the two most telling statements; `None` if there is none.
    pub fn activity(&self) -> Option<String> {
        if self.frozen == Some(true) {
            return Some("its cgroup is frozen".to_owned());
        }
        if self.is_stopped() {
            return Some("it is stopped, by a signal or a debugger".to_owned());
        }
        let parts: Vec<String> =
            [self.some_stopped(), self.busy(), self.stuck_in_kernel(), self.event_loop(), self.most_threads()]
                .into_iter()
                .flatten()
                .take(PARTS)
                .collect();
        (!parts.is_empty()).then(|| parts.join("; "))
    }

    /// The share of a CPU that its busiest thread uses, in thousandths, if it uses nearly all of one, or wanted one nearly all
    /// the time and got less: other threads or a limit of its cgroup took the rest. Where one thread serves all connections,
    /// only that one counts.
    pub fn busy_thread(&self) -> Option<u32> {
        let shares = |group: &ThreadGroup| {
            if self.is_event_loop_runtime() {
                (group.main_permille, group.main_wanted_permille)
            } else {
                (group.busiest_permille, group.busiest_wanted_permille)
            }
        };
        let busy = |group: &ThreadGroup| {
            let (used, wanted) = shares(group);
            used.filter(|_| thread::is_busy(used, wanted))
        };
        self.groups.iter().filter_map(busy).max()
    }

    /// What it does that could explain why its sockets stay.
    pub fn occupation(&self) -> Occupation {
        if self.frozen == Some(true) || self.is_stopped() {
            return Occupation::Halted;
        }
        if self.busy_thread().is_some() {
            return Occupation::Busy;
        }
        // Where the first thread only waits for the others, as in a JVM, the others count.
        let main = self.groups.iter().find(|group| group.has_main).map_or(Occupation::Unknown, occupation_of);
        let in_kernel = self.groups.iter().any(|group| group.state == ThreadState::DiskSleep);
        main.max(if in_kernel { Occupation::Blocked } else { Occupation::Unknown })
    }

    /// Whether a signal or a debugger has stopped all of its threads, as far as they were inspected. Threads that have ended
    /// do not count.
    pub fn is_stopped(&self) -> bool {
        let stopped = self.in_state(ThreadState::Stopped);
        stopped > 0 && stopped + self.in_state(ThreadState::Zombie) == self.threads_seen
    }

    /// Whether its first thread does all of the work on its sockets.
    pub fn is_event_loop_runtime(&self) -> bool {
        match self.runtime {
            Some(
                ProgramRuntime::Node
                | ProgramRuntime::Nginx
                | ProgramRuntime::Redis
                | ProgramRuntime::PgBouncer
                | ProgramRuntime::Squid,
            ) => true,
            // One loop for each thread.
            Some(ProgramRuntime::HaProxy) => self.threads == Some(1),
            Some(
                ProgramRuntime::Jvm
                | ProgramRuntime::Go
                | ProgramRuntime::CPython
                | ProgramRuntime::DotNet
                | ProgramRuntime::Ruby
                | ProgramRuntime::Php
                | ProgramRuntime::Envoy
                | ProgramRuntime::Postgres
                | ProgramRuntime::Beam
                | ProgramRuntime::Perl
                | ProgramRuntime::MySql
                | ProgramRuntime::Memcached
                | ProgramRuntime::Apache
                | ProgramRuntime::Varnish
                | ProgramRuntime::Inetd,
            )
            | None => false,
        }
    }

    fn some_stopped(&self) -> Option<String> {
        let count = self.in_state(ThreadState::Stopped);
        let are = || self.threads_are(count, "is", "are");
        (count > 0).then(|| format!("{} stopped, by a signal or a debugger", are()))
    }

    /// Threads that were inspected in this state.
    fn in_state(&self, state: ThreadState) -> u32 {
        self.groups.iter().filter(|group| group.state == state).map(|group| group.count).sum()
    }

    fn busy(&self) -> Option<String> {
        let share = self.busy_thread()?.min(1000);
        let percent = share / 10;
        let who = if self.is_event_loop_runtime() { "the thread of its event loop" } else { "a thread" };
        Some(if share >= ALL_PERMILLE {
            format!("{who} runs at {percent} % of a CPU")
        } else {
            format!("{who} wants a CPU all the time and gets {percent} % of one")
        })
    }

    fn stuck_in_kernel(&self) -> Option<String> {
        let group = self.groups.iter().find(|group| group.state == ThreadState::DiskSleep)?;
        let threads = self.threads_are(group.count, "waits", "wait");
        let place = group.place().map(|place| format!(" in {place}")).unwrap_or_default();
        Some(format!("{threads} without a way to be interrupted{place}"))
    }

    fn event_loop(&self) -> Option<String> {
        let group = self.groups.iter().find(|group| group.has_main && group.state == ThreadState::Sleeping)?;
        let polls = group.syscall.is_some_and(Syscall::waits_for_many);
        if self.is_event_loop_runtime() {
            return Some(format!("its event loop waits in {}", group.place()?));
        }
        if polls && self.threads == Some(1) {
            Some(format!("its only thread waits in {}", group.place()?))
        } else {
            None
        }
    }

    /// Describes the wait of more than half of the threads.
    fn most_threads(&self) -> Option<String> {
        let group = self.groups.first().filter(|group| group.count * 2 > self.threads_seen)?;
        // Said already, or nothing that can be named.
        let told = group.count == 1 && self.event_loop().is_some();
        if told || group.state != ThreadState::Sleeping {
            return None;
        }
        let same = match (group.count, group.same()) {
            (2.., Some(what)) => format!(" on the same {what}"),
            _ => group.own().map(|what| format!(", each on its own {what}")).unwrap_or_default(),
        };
        Some(format!("{} in {}{same}", self.threads_are(group.count, "waits", "wait"), group.place()?))
    }

    /// `its only thread is`, `1 of 4 threads is`, `184 of 200 threads are`.
    fn threads_are(&self, count: u32, one: &str, many: &str) -> String {
        let verb = if count == 1 { one } else { many };
        match self.threads {
            Some(1) => format!("its only thread {verb}"),
            Some(all) if all > self.threads_seen => {
                format!("{count} of {} inspected threads {verb}", self.threads_seen)
            }
            Some(_) | None => format!("{count} of {} threads {verb}", self.threads_seen),
        }
    }
}

/// What a process does that could explain why its sockets stay; what explains more comes later.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Occupation {
    /// Nothing tells.
    Unknown,
    /// Its first thread waits for an event, a connection, a child process or a signal, as the first process of a server does
    /// that others work for.
    Idle,
    /// Its first thread sleeps, or waits for something else.
    Waits,
    /// Its first thread waits for a lock or for one descriptor, or a thread cannot be interrupted.
    Blocked,
    /// A thread has no time for anything else.
    Busy,
    /// It is stopped or frozen.
    Halted,
}

fn occupation_of(group: &ThreadGroup) -> Occupation {
    match group.wait() {
        Some(WaitKind::Events | WaitKind::Accept | WaitKind::Child | WaitKind::Signal) => Occupation::Idle,
        Some(WaitKind::Sleep | WaitKind::Other) => Occupation::Waits,
        Some(_) if group.limit == Some(WaitLimit::Limited) => Occupation::Waits,
        Some(WaitKind::Lock | WaitKind::Read(_) | WaitKind::Write | WaitKind::FileLock) => Occupation::Blocked,
        None => Occupation::Unknown,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn thread(syscall: i64, arg: u64) -> Thread {
        Thread {
            comm: Comm::from_kernel(b"worker\0\0\0\0\0\0\0\0\0\0"),
            state: ThreadState::Sleeping,
            syscall: Some(Syscall(syscall)),
            arg: Some(arg),
            limit: None,
            wchan: None,
            cpu_permille: Some(0),
            wanted_permille: Some(0),
            main: false,
        }
    }

    fn process(runtime: Option<ProgramRuntime>, threads: &[Thread]) -> Process {
        let seen = u32::try_from(threads.len()).unwrap();
        Process {
            runtime,
            threads: Some(seen),
            threads_seen: seen,
            groups: group(threads),
            ..Process::unread(42, Comm::from_kernel(b"app\0\0\0\0\0\0\0\0\0\0\0\0\0"))
        }
    }

    fn main(thread: Thread) -> Thread {
        Thread { main: true, ..thread }
    }

    #[test]
    fn a_pool_that_waits_on_one_lock_is_told_with_its_size() {
        let mut threads = vec![thread(202, 0x1000); 184];
        threads.extend((0..16).map(|n| thread(202, 0x2000 + n)));
        let process = process(Some(ProgramRuntime::Jvm), &threads);
        assert_eq!(process.activity().unwrap(), "184 of 200 threads wait in futex on the same address");
    }

    #[test]
    fn a_busy_thread_comes_before_what_the_others_wait_for() {
        let running = Thread { state: ThreadState::Running, syscall: None, cpu_permille: Some(1004), ..thread(0, 0) };
        let process = process(None, &[running, thread(0, 7), thread(0, 7)]);
        assert_eq!(process.busy_thread(), Some(1004));
        let told = process.activity().unwrap();
        assert_eq!(told, "a thread runs at 100 % of a CPU; 2 of 3 threads wait in read on the same descriptor");
    }

    #[test]
    fn an_event_loop_that_waits_is_told_and_its_pool_does_not_make_it_busy() {
        let busy = Thread { state: ThreadState::Running, syscall: None, cpu_permille: Some(990), ..thread(0, 0) };
        let mut process = process(Some(ProgramRuntime::Node), &[main(thread(232, 5)), busy]);
        assert_eq!(process.activity().unwrap(), "its event loop waits in epoll_wait");
        assert_eq!(process.busy_thread(), None);
        process.runtime = Some(ProgramRuntime::Jvm);
        assert_eq!(process.busy_thread(), Some(990));
    }

    #[test]
    fn a_thread_that_shares_its_cpu_is_busy_and_what_it_gets_is_told() {
        let runs = |used, wanted| {
            let state = ThreadState::Running;
            Thread { state, syscall: None, cpu_permille: Some(used), wanted_permille: wanted, ..thread(0, 0) }
        };
        let starved = process(None, &[runs(484, Some(990)), runs(600, Some(650))]);
        assert_eq!(starved.busy_thread(), Some(484), "the other does not want more than it gets");
        assert_eq!(starved.activity().unwrap(), "a thread wants a CPU all the time and gets 48 % of one");
        assert_eq!(process(None, &[runs(484, None)]).busy_thread(), None, "what it wanted is unknown");
        assert_eq!(process(None, &[runs(484, Some(899))]).busy_thread(), None);
        let mut node = process(Some(ProgramRuntime::Node), &[main(thread(232, 5)), runs(484, Some(1000))]);
        assert_eq!(node.busy_thread(), None);
        node.groups = group(&[main(runs(120, Some(1000)))]);
        assert_eq!(
            node.activity().unwrap(),
            "the thread of its event loop wants a CPU all the time and gets 12 % of one"
        );
    }

    #[test]
    fn one_thread_is_told_once() {
        let told = |number| process(None, &[main(thread(number, 5))]).activity().unwrap();
        assert_eq!(told(7), "its only thread waits in poll");
        assert_eq!(told(45), "its only thread waits in recvfrom");
        assert_eq!(told(9999), "its only thread waits in syscall 9999");
    }

    #[test]
    fn a_stopped_process_is_said_to_be() {
        let stopped = Thread { state: ThreadState::Stopped, ..thread(0, 3) };
        let process = process(None, &[stopped.clone(), stopped]);
        assert!(process.is_stopped());
        assert_eq!(process.activity().unwrap(), "it is stopped, by a signal or a debugger");
    }

    #[test]
    fn threads_that_were_stopped_in_different_calls_are_counted_together() {
        let in_call = |number| Thread { state: ThreadState::Stopped, ..thread(number, 3) };
        let all = [in_call(0), in_call(7), in_call(202), Thread { state: ThreadState::Zombie, ..thread(0, 0) }];
        assert!(process(None, &all).is_stopped());
        assert_eq!(process(None, &all).activity().unwrap(), "it is stopped, by a signal or a debugger");
        let some = process(None, &[in_call(0), in_call(7), thread(202, 1)]);
        assert!(!some.is_stopped() && !process(None, &[]).is_stopped());
        assert_eq!(some.activity().unwrap(), "2 of 3 threads are stopped, by a signal or a debugger");
    }

    #[test]
    fn of_a_frozen_process_nothing_else_is_told() {
        let mut process = process(None, &vec![thread(202, 1); 4]);
        process.frozen = Some(true);
        assert_eq!(process.activity().unwrap(), "its cgroup is frozen");
        process.frozen = Some(false);
        assert_eq!(process.activity().unwrap(), "4 of 4 threads wait in futex on the same address");
    }

    #[test]
    fn who_has_the_work_comes_after_who_waits_for_others() {
        let occupation = |threads: &[Thread]| process(None, threads).occupation();
        let running = Thread { state: ThreadState::Running, syscall: None, cpu_permille: Some(990), ..thread(0, 0) };
        let in_kernel = Thread { state: ThreadState::DiskSleep, ..thread(0, 3) };
        let order = [
            occupation(&[]),
            occupation(&[main(thread(61, 0)), thread(202, 1)]),
            occupation(&[main(thread(35, 0))]),
            occupation(&[main(thread(73, 5)), thread(7, 0), thread(7, 0)]),
            occupation(&[main(thread(7, 0)), running]),
            occupation(&[Thread { state: ThreadState::Stopped, ..main(thread(7, 0)) }]),
        ];
        use Occupation::{Blocked, Busy, Halted, Idle, Unknown, Waits};
        assert_eq!(order, [Unknown, Idle, Waits, Blocked, Busy, Halted]);
        assert!(order.is_sorted());
        assert_eq!(occupation(&[main(thread(7, 0)), in_kernel]), Blocked);
        for number in [34, 130, 128, 43, 232] {
            assert_eq!(occupation(&[main(thread(number, 0))]), Idle, "{number}");
        }
    }

    #[test]
    fn threads_that_were_not_looked_at_are_not_counted() {
        let mut process = process(None, &vec![thread(202, 1); 4]);
        process.threads = Some(900);
        let told = process.activity().unwrap();
        assert_eq!(told, "4 of 4 inspected threads wait in futex on the same address");
    }

    #[test]
    fn nothing_seen_tells_nothing() {
        assert_eq!(process(None, &[]).activity(), None);
        let unknown = Thread { syscall: None, arg: None, ..thread(0, 0) };
        assert_eq!(process(None, &[unknown]).activity(), None);
    }
}
