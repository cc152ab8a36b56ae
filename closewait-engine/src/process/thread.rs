//! State of threads.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::syscall::{First, Syscall, WaitKind, WaitLimit};
use crate::text::Comm;

/// Names of threads that a group keeps.
const NAMES: usize = 3;
/// A thread that uses or wants this share of one CPU, in thousandths, has no time for anything else.
const BUSY_PERMILLE: u32 = 900;

/// State of a thread in the scheduler (`task_state_array`, fs/proc/array.c at v5.10).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub enum ThreadState {
    /// `R`: it runs, or would if a CPU was free.
    Running,
    /// `S`, or `I` for a thread of the kernel: it waits, and a signal wakes it.
    Sleeping,
    /// `D`: it waits, and no signal wakes it.
    DiskSleep,
    /// `T`, `t`: a signal or a debugger has stopped it.
    Stopped,
    /// `Z`, `X`: it has ended.
    Zombie,
    /// Something else.
    Other,
}

impl ThreadState {
    /// Converts the letter in `/proc/PID/stat`.
    pub fn from_letter(letter: u8) -> Self {
        match letter {
            b'R' => Self::Running,
            b'S' | b'I' => Self::Sleeping,
            b'D' => Self::DiskSleep,
            b'T' | b't' => Self::Stopped,
            b'Z' | b'X' | b'x' => Self::Zombie,
            _ => Self::Other,
        }
    }
}

/// Thread at the time of its inspection. An unknown fact is `None`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Thread {
    /// Name of the thread.
    pub comm: Comm,
    /// State in the scheduler.
    pub state: ThreadState,
    /// The system call that it is in; `None` also if it is in none.
    pub syscall: Option<Syscall>,
    /// First argument of the system call: a futex's address, or a descriptor.
    pub arg: Option<u64>,
    /// Longest possible wait in the call; `None` if unknown.
    #[serde(default)]
    pub limit: Option<WaitLimit>,
    /// The function of the kernel in which it waits.
    pub wchan: Option<String>,
    /// CPU time, in thousandths of one CPU.
    pub cpu_permille: Option<u32>,
    /// The time in which it was runnable, on a CPU or not, in thousandths: what it would have used of a CPU of its own.
    #[serde(default)]
    pub wanted_permille: Option<u32>,
    /// Whether it is the first one of its process.
    pub main: bool,
}

/// Threads that do the same.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ThreadGroup {
    /// Number of threads.
    pub count: u32,
    /// State in the scheduler.
    pub state: ThreadState,
    /// The system call that they are in; `None` also if they are in none.
    pub syscall: Option<Syscall>,
    /// Futex address or descriptor that all of the threads wait for; `None` also if each waits for one of its own.
    pub arg: Option<u64>,
    /// Longest possible wait in the call; `None` if unknown.
    #[serde(default)]
    pub limit: Option<WaitLimit>,
    /// Whether each waits for an address or a descriptor of its own, as the threads of a JVM do.
    pub own: bool,
    /// Function of the kernel in which the first of the threads waits.
    pub wchan: Option<String>,
    /// Some of their names, different ones.
    pub comms: Vec<Comm>,
    /// CPU time of the one that used most, in thousandths of one CPU.
    pub busiest_permille: Option<u32>,
    /// CPU time of the process's first thread, if it is in the group.
    pub main_permille: Option<u32>,
    /// Whether the process's first thread is in the group.
    pub has_main: bool,
    /// Time in which the one was runnable that was so longest, in thousandths; `None` if it is unknown of all of them.
    #[serde(default)]
    pub busiest_wanted_permille: Option<u32>,
    /// Time in which the first thread of the process was runnable, in thousandths, if that is one of them.
    #[serde(default)]
    pub main_wanted_permille: Option<u32>,
}

impl ThreadGroup {
    /// Returns the place of the wait: a system call, otherwise a function of the kernel.
    pub fn place(&self) -> Option<String> {
        self.syscall.map(|call| call.to_string()).or_else(|| self.wchan.clone())
    }

    /// Returns the object of the wait; `None` if the threads do not wait, or it is unknown.
    pub fn wait(&self) -> Option<WaitKind> {
        match self.state {
            ThreadState::Sleeping | ThreadState::DiskSleep => {}
            ThreadState::Running | ThreadState::Stopped | ThreadState::Zombie | ThreadState::Other => return None,
        }
        match (self.syscall, self.wchan.as_deref()) {
            (Some(call), wchan) => Some(call.wait(self.arg, wchan)),
            (None, wchan) => WaitKind::in_function(wchan?),
        }
    }

    /// Names the object that all threads of the group wait for.
    pub(super) fn same(&self) -> Option<&'static str> {
        self.arg?;
        self.waited_for()
    }

    /// Names the kind of object of which each thread waits for its own.
    pub(super) fn own(&self) -> Option<&'static str> {
        self.waited_for().filter(|_| self.own)
    }

    fn waited_for(&self) -> Option<&'static str> {
        match self.syscall?.first() {
            First::Descriptor => Some("descriptor"),
            First::Address => Some("address"),
            First::Own => None,
        }
    }
}

/// Whether a thread that used this share of a CPU and wanted that one has no time for anything else, in thousandths. Where
/// the latter is unknown, the CPU may have been another's.
pub(super) fn is_busy(used: Option<u32>, wanted: Option<u32>) -> bool {
    used.max(wanted).is_some_and(|share| share >= BUSY_PERMILLE)
}

/// Puts those together that are in the same state and system call and wait for the same; the largest group comes first.
pub fn group(threads: &[Thread]) -> Vec<ThreadGroup> {
    let mut groups = BTreeMap::new();
    for thread in threads {
        let arg = thread.arg.filter(|_| thread.syscall.is_some_and(|call| call.first() != First::Own));
        // Where the system call is known, the function in it tells no more.
        let wchan = thread.wchan.as_deref().filter(|_| thread.syscall.is_none());
        // Else the share that one uses would be told of another that wants a CPU all the time.
        let busy = is_busy(thread.cpu_permille, thread.wanted_permille);
        let key = (thread.state, thread.syscall, arg, thread.limit, wchan, busy);
        let group = groups.entry(key).or_insert_with(|| ThreadGroup {
            count: 0,
            state: thread.state,
            syscall: thread.syscall,
            arg,
            limit: thread.limit,
            own: false,
            wchan: thread.wchan.clone(),
            comms: Vec::new(),
            busiest_permille: None,
            main_permille: None,
            has_main: false,
            busiest_wanted_permille: None,
            main_wanted_permille: None,
        });
        group.count += 1;
        group.busiest_permille = group.busiest_permille.max(thread.cpu_permille);
        group.busiest_wanted_permille = group.busiest_wanted_permille.max(thread.wanted_permille);
        if thread.main {
            (group.has_main, group.main_permille) = (true, thread.cpu_permille);
            group.main_wanted_permille = thread.wanted_permille;
        }
        if group.comms.len() < NAMES && !group.comms.contains(&thread.comm) {
            group.comms.push(thread.comm.clone());
        }
    }
    let mut groups = with_those_alone_together(groups.into_values().collect());
    groups.sort_by_key(|group| u32::MAX - group.count);
    groups
}

/// Puts those groups of one thread together that differ only in what they wait for: else a pool of threads that each wait
/// for a futex of their own would be as many groups.
fn with_those_alone_together(groups: Vec<ThreadGroup>) -> Vec<ThreadGroup> {
    let (alone, mut groups): (Vec<_>, Vec<_>) =
        groups.into_iter().partition(|group| group.count == 1 && group.same().is_some());
    let mut together = BTreeMap::<_, ThreadGroup>::new();
    for one in alone {
        let Some(group) = together.get_mut(&(one.state, one.syscall, one.limit)) else {
            together.insert((one.state, one.syscall, one.limit), one);
            continue;
        };
        group.count += 1;
        (group.arg, group.own) = (None, true);
        group.busiest_permille = group.busiest_permille.max(one.busiest_permille);
        group.busiest_wanted_permille = group.busiest_wanted_permille.max(one.busiest_wanted_permille);
        if one.has_main {
            (group.has_main, group.main_permille) = (true, one.main_permille);
            group.main_wanted_permille = one.main_wanted_permille;
        }
        for comm in one.comms {
            if group.comms.len() < NAMES && !group.comms.contains(&comm) {
                group.comms.push(comm);
            }
        }
    }
    groups.extend(together.into_values());
    groups
}

#[cfg(test)]
mod tests {
    use super::*;

    fn thread(name: u8, syscall: i64, arg: u64) -> Thread {
        Thread {
            comm: Comm::from_kernel(&[name; 16]),
            state: ThreadState::Sleeping,
            syscall: Some(Syscall(syscall)),
            arg: Some(arg),
            limit: None,
            wchan: Some("futex_wait_queue".to_owned()),
            cpu_permille: Some(u32::from(name)),
            wanted_permille: None,
            main: name == b'm',
        }
    }

    #[test]
    fn different_futexes_and_descriptors_are_different_groups() {
        let threads = [thread(b'a', 202, 1), thread(b'b', 202, 2), thread(b'm', 202, 2), thread(b'd', 0, 2)];
        let groups = group(&threads);
        assert_eq!(groups.iter().map(|group| group.count).collect::<Vec<_>>(), [2, 1, 1]);
        assert_eq!((groups[0].arg, groups[0].same(), groups[0].has_main), (Some(2), Some("address"), true));
        let of_m = Some(u32::from(b'm'));
        assert_eq!((groups[0].busiest_permille, groups[0].main_permille), (of_m, of_m));
    }

    #[test]
    fn threads_that_wait_for_a_futex_each_are_one_group() {
        let threads = [thread(b'a', 202, 1), thread(b'b', 202, 2), thread(b'm', 202, 3), thread(b'd', 0, 2)];
        let groups = group(&threads);
        assert_eq!(groups.iter().map(|group| group.count).collect::<Vec<_>>(), [3, 1]);
        assert_eq!((groups[0].arg, groups[0].same(), groups[0].own()), (None, None, Some("address")));
        assert_eq!((groups[0].has_main, groups[0].comms.len()), (true, 3));
        assert_eq!((groups[1].own(), groups[1].same()), (None, Some("descriptor")));
    }

    #[test]
    fn arguments_that_mean_nothing_do_not_divide() {
        let groups = group(&[thread(b'a', 7, 1), thread(b'b', 7, 2)]);
        assert_eq!((groups.len(), groups[0].arg, groups[0].same()), (1, None, None));
    }

    #[test]
    fn a_group_names_three_of_its_threads() {
        let threads: Vec<_> = b"aabcde".iter().map(|name| thread(*name, 202, 1)).collect();
        assert_eq!(group(&threads)[0].comms.len(), 3);
    }

    #[test]
    fn only_threads_that_wait_have_something_that_they_wait_for() {
        let one = |thread: Thread| group(&[thread])[0].wait();
        assert_eq!(one(thread(b'a', 202, 1)), Some(WaitKind::Lock));
        assert_eq!(one(thread(b'a', 0, 7)), Some(WaitKind::Read(Some(7))));
        for state in [ThreadState::Running, ThreadState::Stopped, ThreadState::Zombie] {
            assert_eq!(one(Thread { state, ..thread(b'a', 202, 1) }), None, "{state:?}");
        }
        // Without the system call, as on another architecture, the function of the kernel tells.
        assert_eq!(one(Thread { syscall: None, ..thread(b'a', 0, 1) }), Some(WaitKind::Lock));
        assert_eq!(one(Thread { syscall: None, wchan: None, ..thread(b'a', 0, 1) }), None);
        let each_its_own = group(&[thread(b'a', 0, 1), thread(b'a', 0, 2)]);
        assert_eq!(each_its_own[0].wait(), Some(WaitKind::Read(None)));
    }
}
