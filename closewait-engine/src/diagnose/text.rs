//! Phrases that rules share: the owner, the activity of its threads, the next step.
//!
//! No other file of this folder reads the activity of a [`Process`].

use std::{cmp::Reverse, time::Duration};

pub(super) use super::owner_names::OwnerNames;
use super::{Case, evidence::Waits};
pub(super) use crate::text::{count, duration};
use crate::{
    model::{Dwell, Owner, Task, UnixBackend},
    process::{NextStep, Process, Tool},
    time::BootTime,
};

/// Thread that uses nearly all of a CPU.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Busy<'a> {
    /// Process of the thread.
    pub(super) process: &'a Process,
    /// CPU use, in percent of one CPU.
    pub(super) percent: u32,
    /// Whether one thread of the process does all work on sockets.
    pub(super) event_loop: bool,
}

/// Formats the age of a socket: `3m`, or `at least 3m` if the agent did not see the entry.
pub(super) fn age(case: &Case<'_>) -> String {
    match case.dwell {
        Dwell::Exact(age) => duration(age),
        Dwell::Between { at_least, .. } => format!("at least {}", duration(at_least)),
    }
}

/// Returns the distinct processes that own the socket, or its listener while no program has accepted the socket.
pub(super) fn tasks<'a>(case: &Case<'a>) -> Vec<&'a Task> {
    let owners = if case.socket.accepted == Some(false) {
        case.listener.map(|listener| listener.owners.as_slice())
    } else {
        case.owners
    };
    distinct(owners.unwrap_or_default())
}

/// Returns the distinct processes of descriptors, which are sorted by process.
pub(super) fn distinct(owners: &[Owner]) -> Vec<&Task> {
    let mut tasks: Vec<&Task> = owners.iter().map(|owner| &owner.task).collect();
    tasks.dedup_by_key(|task| task.pid);
    tasks
}

/// Returns the subject of a sentence about the owners: their names, or `its program`.
pub(super) fn owner(case: &Case<'_>) -> OwnerNames {
    OwnerNames::new(&tasks(case)).unwrap_or_else(|| OwnerNames::program("its program"))
}

/// Returns the time since other connections were last served, in parentheses and with a leading blank, if that is no longer now.
pub(super) fn last_served(case: &Case<'_>) -> String {
    /// A program with few clients serves none for some seconds.
    const NOW: Duration = Duration::from_secs(60);
    let since = case.group.evidence.last_progress().map(|last| case.now.since(last));
    since.filter(|since| *since > NOW).map_or_else(String::new, |since| format!(" (the last {} ago)", duration(since)))
}

/// Returns a sentence about the activity of an owner, with a leading blank; empty if it is unknown.
pub(super) fn doing(case: &Case<'_>) -> String {
    owners(case).find_map(|process| doing_of(process, case.now)).unwrap_or_default()
}

/// Returns a sentence about the activity of a process at `now`, with a leading blank; `None` if it is unknown.
pub(super) fn doing_of(process: &Process, now: BootTime) -> Option<String> {
    Some(format!(" {}[{}]: {}.", process.comm, process.pid, activity(process, now)?))
}

/// Returns the subject and the verb of a sentence about `count` threads that wait.
pub(super) fn threads_wait(waits: &Waits, count: u32) -> String {
    let wait = if count == 1 { "waits" } else { "wait" };
    if waits.threads == 1 {
        "its only thread waits".to_owned()
    } else {
        format!("{count} of {} threads {wait}", waits.threads)
    }
}

/// Returns the activity of a process at `now`, without its name; `None` if it is unknown.
pub(super) fn activity(process: &Process, now: BootTime) -> Option<String> {
    process.activity_beside(process.stacks.as_deref(), now)
}

/// Returns a sentence about the activity of the program behind a UNIX socket, with a leading blank; empty if it is unknown.
pub(super) fn unix_doing(backend: &UnixBackend) -> String {
    let sentence = |(task, activity): (&Task, &String)| format!(" {task}: {activity}.");
    backend.program.as_ref().zip(backend.activity.as_ref()).map(sentence).unwrap_or_default()
}

/// Returns the next step that shows where the threads of the program behind a UNIX socket are; `what` if that is unknown.
pub(super) fn unix_dump(backend: &UnixBackend, what: String) -> NextStep {
    match &backend.program {
        Some(task) => NextStep::stacks(&task.to_string(), task.pid),
        None => what.into(),
    }
}

/// Returns the first thread of an owner that uses nearly all of a CPU.
pub(super) fn busy<'a>(case: &Case<'a>) -> Option<Busy<'a>> {
    // This is asked for every socket, and hardly any program is busy.
    if case.processes.iter().all(|process| process.busy_thread().is_none()) {
        return None;
    }
    owners(case).find_map(|process| {
        Some(Busy { process, percent: process.busy_thread()? / 10, event_loop: process.is_event_loop_runtime() })
    })
}

/// Whether the cgroup of an owner is frozen.
pub(super) fn is_frozen(case: &Case<'_>) -> bool {
    owners(case).any(|process| process.frozen == Some(true))
}

/// Returns the next step that shows where the owner's threads are.
pub(super) fn dump(case: &Case<'_>) -> NextStep {
    let tasks = tasks(case);
    let Some(first) = tasks.first().copied() else { return list(case, "find the process that owns it") };
    // The first process of a forking server may only wait for the others.
    let process = owners(case).next();
    let of = process.and_then(|process| tasks.iter().find(|task| task.pid == process.pid).copied());
    let port = (!case.is_client()).then_some(case.socket.local.port);
    dump_of(of.unwrap_or(first), process, port)
}

/// Returns the next step that shows where the threads of a task's process are; `process` has the known facts about it, `port` is
/// the local port of its service.
pub(super) fn dump_of(task: &Task, process: Option<&Process>, port: Option<u16>) -> NextStep {
    let of_unknown = || NextStep::stacks(&task.to_string(), task.pid);
    process.map_or_else(of_unknown, |process| process.next_step(port))
}

/// Returns a next step that lists the sockets of the same port.
pub(super) fn list(case: &Case<'_>, what: &str) -> NextStep {
    NextStep::command(what, format!("closewait list --port {}", port(case)))
}

/// Returns a next step that shows the listeners of the port.
pub(super) fn ss_listeners(case: &Case<'_>, what: String) -> NextStep {
    let port = case.socket.local.port;
    match inside(case) {
        Ok(inside) => NextStep::command(what, format!("{inside}ss -ltnp 'sport = :{port}'")),
        Err(_) => NextStep::command(what, format!("closewait list --by listener --port {port}")),
    }
}

/// Returns a next step that shows the established connections of the first owner.
pub(super) fn ss_connections(case: &Case<'_>, what: String) -> NextStep {
    ss_in_state(case, what, "established")
}

/// Returns a next step that shows the connections of the first owner that no program has answered.
pub(super) fn ss_connecting(case: &Case<'_>, what: String) -> NextStep {
    ss_in_state(case, what, "syn-sent")
}

fn ss_in_state(case: &Case<'_>, what: String, state: &str) -> NextStep {
    let Some(task) = tasks(case).first().copied() else { return what.into() };
    match inside(case) {
        Ok(inside) => NextStep::command(
            format!("{what} (as root)"),
            format!("{inside}ss -tnp state {state} | grep pid={},", task.pid),
        ),
        Err(missing) => format!("{what} ({} is not installed here)", missing.name()).into(),
    }
}

/// Returns the beginning of a command that runs ss in the network namespace of an owner; empty in the agent's, the missing tool if
/// the host lacks one for it.
fn inside(case: &Case<'_>) -> Result<String, Tool> {
    if case.processes.iter().any(|process| process.lacks(Tool::Ss)) {
        return Err(Tool::Ss);
    }
    owners(case).next().map_or_else(|| Ok(String::new()), |process| process.in_netns().ok_or(Tool::Nsenter))
}

/// Returns the port of the service: the remote port of a client, the local port otherwise.
pub(super) fn port(case: &Case<'_>) -> u16 {
    if case.is_client() { case.socket.remote.port } else { case.socket.local.port }
}

/// Returns the inspected owners; those whose threads explain most come first.
fn owners<'a>(case: &Case<'a>) -> impl Iterator<Item = &'a Process> {
    let pids: Vec<u32> = tasks(case).iter().map(|task| task.pid).collect();
    let mut owners: Vec<&Process> =
        case.processes.iter().copied().filter(|process| pids.contains(&process.pid)).collect();
    // The workers of a master process do its work.
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
    use crate::process::{Architecture, Syscall, Thread, ThreadState, group};

    #[test]
    fn many_owners_are_counted() {
        let mut scene = Scene::server();
        scene.owners = Some((1..=5).map(|pid| owned_by(pid, "nginx", 9)).collect());
        assert_eq!(scene.case(owner).to_string(), "nginx[1], nginx[2], nginx[3] and 2 more");
        scene.owners = None;
        assert_eq!(scene.case(owner).to_string(), "its program");
    }

    #[test]
    fn the_owner_of_an_unaccepted_socket_is_that_of_the_listener() {
        let scene = Scene::server().unaccepted().listened_by(&[owned_by(7, "uwsgi", 3)]);
        assert_eq!(scene.case(owner).to_string(), "uwsgi[7]");
    }

    #[test]
    fn a_lower_bound_is_marked_as_such() {
        let mut scene = Scene::server().aged(90);
        assert_eq!(scene.case(age), "1m30s");
        scene.dwell = Dwell::Between { at_least: secs(90), at_most: None };
        assert_eq!(scene.case(age), "at least 1m30s");
    }

    #[test]
    fn of_several_owners_the_next_step_names_the_one_that_works() {
        let waits = |pid, number| {
            let limit = None;
            let (state, syscall, arg) =
                (ThreadState::Sleeping, Some(Syscall::new(Architecture::X86_64, number)), Some(3));
            let process = process(pid, "unicorn", "/usr/bin/unicorn");
            let comm = process.comm.clone();
            let (wchan, cpu_permille, wanted_permille) = (None, None, None);
            let main = Thread { comm, state, syscall, arg, limit, wchan, cpu_permille, wanted_permille, main: true };
            Process { threads_seen: 1, threads: Some(1), groups: group(&[main]), ..process }
        };
        let owners = [1, 2, 3].map(|pid| owned_by(pid, "unicorn", 3));
        let mut scene = Scene::server().unaccepted().listened_by(&owners);
        // The first waits for its children, the second for connections, the third for a file lock.
        scene.processes = vec![waits(1, 61), waits(2, 288), waits(3, 73)];
        assert_eq!(scene.case(dump).command.unwrap(), "closewait stacks 3");
        assert_eq!(scene.case(dump).text, "see where the threads of unicorn[3] are (as root; does not stop it)");
        assert_eq!(scene.case(doing), " unicorn[3]: its only thread waits in flock.");
        scene.processes = vec![waits(1, 61)];
        assert!(scene.case(dump).text.contains("unicorn[1]"));
        scene.processes = Vec::new();
        assert!(scene.case(dump).text.contains("unicorn[1]"), "no process was inspected");
    }

    #[test]
    fn sockets_are_shown_in_the_namespace_of_the_owner_by_a_tool_that_exists() {
        let mut scene = Scene::server();
        let mut owner = process(42, "app", "/usr/bin/app");
        let mut commands = |owner: &Process| {
            scene.processes = vec![owner.clone()];
            let what = || "see".to_owned();
            [ss_listeners, ss_connections, ss_connecting].map(|step| scene.case(|case| step(case, what())))
        };
        let command = |step: NextStep| step.command.unwrap();
        let own = [
            "ss -ltnp 'sport = :8080'",
            "ss -tnp state established | grep pid=42,",
            "ss -tnp state syn-sent | grep pid=42,",
        ];
        assert_eq!(commands(&owner).map(command), own);
        owner.other_netns = Some(true);
        assert_eq!(commands(&owner).map(command), own.map(|own| format!("nsenter -t 42 -n {own}")));
        for (tool, name) in [(Tool::Ss, "ss"), (Tool::Nsenter, "nsenter")] {
            owner.missing_tools = [tool].into();
            let [listeners, connections, connecting] = commands(&owner);
            assert_eq!(command(listeners), "closewait list --by listener --port 8080");
            for step in [connections, connecting] {
                assert_eq!(step, NextStep::from(format!("see ({name} is not installed here)")));
            }
        }
    }

    #[test]
    fn without_an_owner_the_next_step_is_to_find_one() {
        let mut scene = Scene::server();
        assert_eq!(scene.case(dump).command.unwrap(), "closewait stacks 42");
        scene.owners = None;
        assert_eq!(scene.case(dump).command.unwrap(), "closewait list --port 8080");
    }
}
