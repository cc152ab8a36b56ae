//! Parts of sentences that rules share: who has it, what that program does, how to see more.
//!
//! The only place that asks a [`Process`] what it does.

use std::cmp::Reverse;

use super::Case;
pub(super) use crate::text::duration;
use crate::{
    model::{Dwell, Task},
    process::{NextStep, Process},
};

/// Processes named before the rest is only counted.
const NAMED: usize = 3;

/// A thread that uses nearly all of a CPU.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Busy {
    /// `name[pid]` of its process.
    pub(super) who: String,
    /// The share of one CPU that it uses.
    pub(super) percent: u32,
    /// Whether the process does all of its work on sockets in one thread.
    pub(super) event_loop: bool,
}

/// `3m`, or `at least 3m` where the entry was not seen.
pub(super) fn age(case: &Case<'_>) -> String {
    match case.dwell {
        Dwell::Exact(age) => duration(age),
        Dwell::Between { at_least, .. } => format!("at least {}", duration(at_least)),
    }
}

/// `1 socket`, `3 sockets`.
pub(super) fn count(number: impl Into<u64>, one: &str) -> String {
    match number.into() {
        1 => format!("1 {one}"),
        many => format!("{many} {one}s"),
    }
}

/// The distinct processes that hold it; for one that was never accepted, those that hold its listener.
pub(super) fn tasks<'a>(case: &Case<'a>) -> Vec<&'a Task> {
    let owners = if case.socket.accepted == Some(false) {
        case.listener.map(|listener| listener.owners.as_slice())
    } else {
        case.owners
    };
    let mut tasks: Vec<&Task> = owners.unwrap_or_default().iter().map(|owner| &owner.task).collect();
    tasks.dedup_by_key(|task| task.pid);
    tasks
}

/// `name[pid]`, of several the first ones and how many more; `None` of none.
pub(super) fn names(tasks: &[&Task]) -> Option<String> {
    if tasks.is_empty() {
        return None;
    }
    let shown: Vec<_> = tasks.iter().take(NAMED).map(|task| format!("{}[{}]", task.comm, task.pid)).collect();
    Some(match tasks.len() - shown.len() {
        0 => shown.join(", "),
        more => format!("{} and {more} more", shown.join(", ")),
    })
}

/// Who has to act.
pub(super) fn owner(case: &Case<'_>) -> String {
    names(&tasks(case)).unwrap_or_else(|| "its program".to_owned())
}

/// What the owner does, as a sentence with a blank before it; empty if that is not known.
pub(super) fn doing(case: &Case<'_>) -> String {
    owners(case).find_map(doing_of).unwrap_or_default()
}

/// The same of one process.
pub(super) fn doing_of(process: &Process) -> Option<String> {
    Some(format!(" {}[{}]: {}.", process.comm, process.pid, process.activity()?))
}

/// The owner that has a thread which uses nearly all of a CPU.
pub(super) fn busy(case: &Case<'_>) -> Option<Busy> {
    owners(case).find_map(|process| {
        Some(Busy {
            who: format!("{}[{}]", process.comm, process.pid),
            percent: process.busy_thread()? / 10,
            event_loop: process.is_event_loop_runtime(),
        })
    })
}

/// Whether the cgroup of an owner is frozen.
pub(super) fn is_frozen(case: &Case<'_>) -> bool {
    owners(case).any(|process| process.frozen == Some(true))
}

/// How to see where the owner is.
pub(super) fn dump(case: &Case<'_>) -> String {
    let tasks = tasks(case);
    let Some(first) = tasks.first().copied() else {
        return format!("find the process that holds it: `closewait list --port {}`", port(case));
    };
    // The first process of a server that forks may only wait for the others.
    let process = owners(case).next();
    let of = process.and_then(|process| tasks.iter().find(|task| task.pid == process.pid).copied());
    dump_of(of.unwrap_or(first), process)
}

/// How to see where one process is; `process` is what is known of it.
pub(super) fn dump_of(task: &Task, process: Option<&Process>) -> String {
    let of_unknown = || NextStep::of_unknown(&format!("{}[{}]", task.comm, task.pid), task.pid);
    process.map_or_else(of_unknown, Process::next_step).joined()
}

/// The port that people know the connection by.
pub(super) fn port(case: &Case<'_>) -> u16 {
    if case.is_client() { case.socket.remote.port } else { case.socket.local.port }
}

/// Those of the owners that were inspected, first those whose threads explain most.
fn owners<'a>(case: &Case<'a>) -> impl Iterator<Item = &'a Process> {
    let pids: Vec<u32> = tasks(case).iter().map(|task| task.pid).collect();
    let mut owners: Vec<&Process> =
        case.processes.iter().copied().filter(|process| pids.contains(&process.pid)).collect();
    // A master's workers have the work.
    let is_worker = |process: &&&Process| {
        let parent = process.parent.filter(|_| !pids.contains(&process.pid));
        parent.is_some_and(|parent| pids.contains(&parent)) && process.is_event_loop_runtime()
    };
    owners.extend(case.processes.iter().filter(is_worker).copied());
    owners.sort_by_key(|process| Reverse(process.occupation()));
    owners.into_iter()
}

#[cfg(test)]
mod tests {
    use super::{
        super::testing::{Scene, owned_by, process, secs},
        *,
    };
    use crate::process::{Syscall, Thread, ThreadState, group};

    #[test]
    fn many_owners_are_counted() {
        let mut scene = Scene::server();
        scene.owners = Some((1..=5).map(|pid| owned_by(pid, "nginx", 9)).collect());
        assert_eq!(scene.case(owner), "nginx[1], nginx[2], nginx[3] and 2 more");
        scene.owners = None;
        assert_eq!(scene.case(owner), "its program");
    }

    #[test]
    fn the_owner_of_one_that_was_never_accepted_has_the_listener() {
        let scene = Scene::server().unaccepted().listened_by(&[owned_by(7, "uwsgi", 3)]);
        assert_eq!(scene.case(owner), "uwsgi[7]");
    }

    #[test]
    fn a_bound_is_not_told_as_an_age() {
        let mut scene = Scene::server().aged(90);
        assert_eq!(scene.case(age), "1m30s");
        scene.dwell = Dwell::Between { at_least: secs(90), at_most: None };
        assert_eq!(scene.case(age), "at least 1m30s");
    }

    #[test]
    fn of_several_owners_the_next_step_names_the_one_that_has_the_work() {
        let waits = |pid, number| {
            let limit = None;
            let (state, syscall, arg) = (ThreadState::Sleeping, Some(Syscall(number)), Some(3));
            let process = process(pid, "unicorn", "/usr/bin/unicorn");
            let comm = process.comm.clone();
            let (wchan, cpu_permille, wanted_permille) = (None, None, None);
            let main = Thread { comm, state, syscall, arg, limit, wchan, cpu_permille, wanted_permille, main: true };
            Process { threads_seen: 1, threads: Some(1), groups: group(&[main]), ..process }
        };
        let owners = [1, 2, 3].map(|pid| owned_by(pid, "unicorn", 3));
        let mut scene = Scene::server().unaccepted().listened_by(&owners);
        // The first waits for its children, the next for connections, the last for a lock on a file.
        scene.processes = vec![waits(1, 61), waits(2, 288), waits(3, 73)];
        assert_eq!(scene.case(dump), "see where the threads of unicorn[3] are: `grep . /proc/3/task/*/wchan`");
        assert_eq!(scene.case(doing), " unicorn[3]: its only thread waits in flock.");
        scene.processes = vec![waits(1, 61)];
        assert!(scene.case(dump).contains("unicorn[1]"));
        scene.processes = Vec::new();
        assert!(scene.case(dump).contains("unicorn[1]"), "none was inspected");
    }

    #[test]
    fn without_a_holder_the_next_step_is_to_find_one() {
        let mut scene = Scene::server();
        assert!(scene.case(dump).contains("/proc/42/task/*/wchan"), "{}", scene.case(dump));
        scene.owners = None;
        assert_eq!(scene.case(dump), "find the process that holds it: `closewait list --port 8080`");
    }
}
