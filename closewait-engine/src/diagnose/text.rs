//! Parts of sentences that rules share: who has it, what that program does, how to see more.
//!
//! The only place that asks a [`Process`] what it does.

use super::Case;
pub(super) use crate::text::duration;
use crate::{
    model::{Dwell, Task},
    process::Process,
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
    let Some(task) = tasks(case).first().copied() else {
        return format!("find the process that holds it: `closewait list --port {}`", port(case));
    };
    let process = owners(case).find(|process| process.pid == task.pid);
    dump_of(task, process)
}

/// How to see where one process is; `process` is what is known of it.
pub(super) fn dump_of(task: &Task, process: Option<&Process>) -> String {
    let command = process
        .and_then(|process| process.runtime?.dump_command(process.pid))
        // Names the function of the kernel in which each thread waits, 0 for one that runs.
        .unwrap_or_else(|| format!("grep . /proc/{}/task/*/wchan", task.pid));
    format!("see where the threads of {}[{}] are: `{command}`", task.comm, task.pid)
}

/// The port that people know the connection by.
pub(super) fn port(case: &Case<'_>) -> u16 {
    if case.is_client() { case.socket.remote.port } else { case.socket.local.port }
}

/// Those of the owners that were inspected.
fn owners<'a>(case: &Case<'a>) -> impl Iterator<Item = &'a Process> {
    let pids: Vec<u32> = tasks(case).iter().map(|task| task.pid).collect();
    case.processes.iter().copied().filter(move |process| pids.contains(&process.pid))
}

#[cfg(test)]
mod tests {
    use super::{
        super::testing::{Scene, owned_by, secs},
        *,
    };

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
    fn without_a_holder_the_next_step_is_to_find_one() {
        let mut scene = Scene::server();
        assert!(scene.case(dump).contains("/proc/42/task/*/wchan"), "{}", scene.case(dump));
        scene.owners = None;
        assert_eq!(scene.case(dump), "find the process that holds it: `closewait list --port 8080`");
    }
}
