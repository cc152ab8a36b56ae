//! Descriptors in processes that did not open them.

use crate::diagnose::{
    About, Explanation, Judgement, Rule,
    evidence::{CounterEvidence, STARTED},
    text::{self, OwnerNames},
};
use crate::{
    diagnose::Case,
    model::{Certainty, Class, Task},
    process::{NextStep, Process},
    time::BootTime,
};

/// Detects copies of a descriptor in other processes. The kernel sends the FIN when the last copy is closed (`__fput` calls
/// `sock_close`; fs/file_table.c, net/socket.c at v5.10), so a copy that a child got by accident keeps the connection open.
pub(super) struct Inherited;

/// Detects a child process that keeps a connection on which its parent, or it, has answered already.
pub(super) struct ChildKeeps;

impl Rule for Inherited {
    fn about(&self) -> &'static About {
        &About {
            name: "inherited",
            when: "the process that opened the socket has closed its descriptor and another process still has one, or processes of \
                   different programs have one, except for children of the listener that has not answered yet, or several processes of a \
                   client have one, or only processes that are not the listener's have one: they run another program, or another script and \
                   started for the request, or one started after the connection had received data, or one is a child of the listener and \
                   stacks show that it serves no client, while others serve the port; such processes may have a copy of the \
                   listener, too",
            class: &[Class::Inherited],
            certainty: &[
                (
                    Certainty::High,
                    "the opener is known and has no descriptor, and the owner has another name and started later; or another program is the \
                     listener, the owner started after the connection had received data, and the request was answered",
                ),
                (
                    Certainty::Medium,
                    "the owner has the opener's name (a daemon that went to the background), or its start is unknown; or the request was \
                     answered, and another program is the listener, or the connection is older than the owner, or the owner runs another \
                     script than the listener",
                ),
                (
                    Certainty::Low,
                    "several processes have it, of different programs or of a client, or only two or more of the owner's connections are older \
                     than it, or a child of the server has several and serves no client, or a process that a service left behind has \
                     it from its start, or another program has it before it was answered: passing a descriptor on is not a leak in \
                     itself",
                ),
            ],
            says: "a copy of the descriptor keeps the connection open after its owner closed it",
            next: "open sockets with SOCK_CLOEXEC, or close them between fork and exec; end the process that has the copy",
            not: &[
                "a process for each connection (sshd, PostgreSQL): it runs the listener's program, or one whose name begins with \
                 the listener's (sshd, sshd-session)",
                "inetd and systemd with Accept=yes: the connection is one of the descriptors 0 to 3, and the owner's parent \
                 listens or also owns it",
                "an old process that a new one replaces: both run the same program, or the listener started after the entry",
                "an owner that closewait cannot inspect: the rule concludes that a process closed its descriptor only if closewait \
                 could inspect all processes",
                "workers of a server that share a connection: see `shared`",
                "a process that is older than the connection: it got it in a message (SCM_RIGHTS), to serve it",
            ],
            seen: &["oracle/odpi#152", "splitio/ruby-client#199", "apache/guacamole-server#698"],
        }
    }

    fn counter_evidence(&self) -> &'static [CounterEvidence] {
        &[CounterEvidence::PeersWait, CounterEvidence::Sending]
    }

    fn check<'c>(&self, case: &'c Case<'_>) -> Option<Judgement<'c>> {
        let tasks = text::tasks(case);
        // The tasks of an unaccepted socket are those of the listener.
        if tasks.is_empty() || case.socket.accepted == Some(false) {
            return None;
        }
        let (certainty, text) = original_closed(case, &tasks)
            .or_else(|| child_serves_no_client(case, &tasks))
            .or_else(|| shared(case, &tasks))?;
        Some(Judgement::new(Class::Inherited, certainty, move || {
            let who = text::owner(case);
            Explanation {
                text: format!("{text}. The kernel sends the FIN when the last copy is closed"),
                next: end_copy(&who),
            }
        }))
    }
}

impl Rule for ChildKeeps {
    fn about(&self) -> &'static About {
        &About {
            name: "child_keeps",
            when: "the socket is a server's and its only owner is a child of the listener, which started when the last data had \
                   arrived; the connection was answered, and nothing was sent in the last 15 s; the threads of the child wait with a \
                   timeout",
            class: &[Class::Inherited],
            certainty: &[(
                Certainty::Low,
                "a process for each connection that works on after its answer looks the same",
            )],
            says: "the child of a server has a copy of the descriptor, perhaps without need: the request was answered",
            next: "close the connection in children that do other work; end the process that has the copy",
            not: &[
                "a process for each connection: it sends its answer when it is done, and serves more than one request",
            ],
            seen: &[],
        }
    }

    fn counter_evidence(&self) -> &'static [CounterEvidence] {
        &[CounterEvidence::PeersWait, CounterEvidence::Sending]
    }

    fn check<'c>(&self, case: &'c Case<'_>) -> Option<Judgement<'c>> {
        let tasks = text::tasks(case);
        let [owner] = tasks[..] else { return None };
        let sleeps = case.group.evidence.waits?.follows == Some(true);
        if !case.is_server() || super::is_handed_over(case)? || case.group.unanswered > 0 || !sleeps {
            return None;
        }
        let child = process(case, owner.pid)?;
        let parent = child.parent.filter(|parent| case.listens(*parent))?;
        let sent = case.socket.last_sent?;
        if !started_for_it(case, owner.pid)
            || case.socket.replied() != Some(true)
            || case.now.since(sent) < super::SOME_AGE
        {
            return None;
        }
        Some(Judgement::new(Class::Inherited, Certainty::Low, move || {
            let (who, age) = (text::owner(case), text::duration(case.now.since(sent)));
            Explanation {
                text: format!(
                    "the request was answered {age} ago, and nothing was sent since, but {who} still has the connection: its parent, \
                     process {parent}, started it when the request had arrived, and has no descriptor of it any more"
                ),
                next: end_copy(&who),
            }
        }))
    }
}

/// Returns the next step against a copy of a descriptor in these processes.
fn end_copy(who: &OwnerNames) -> NextStep {
    format!(
        "see whether {who} {uses} it; if not, end the {process} to close the connection. To fix the cause, open the socket with \
         SOCK_CLOEXEC (or receive it with MSG_CMSG_CLOEXEC), or close it between fork and exec",
        uses = who.word("uses", "use"),
        process = who.word("process", "processes"),
    )
    .into()
}

/// Returns the evidence that the process to which the socket belongs has closed its own descriptor.
fn original_closed(case: &Case<'_>, tasks: &[&Task]) -> Option<(Certainty, String)> {
    // A process that the agent could not inspect may still have the original descriptor. One that is older than the connection has got it
    // in a message (SCM_RIGHTS), to serve it.
    if case.blind || tasks.iter().any(|task| is_older_than_opening(case, task.pid) == Some(true)) {
        return None;
    }
    opener_closed(case, tasks)
        .or_else(|| another_program_listens(case, tasks))
        .or_else(|| connection_is_older(case, tasks))
        .or_else(|| started_by_ended_process(case, tasks))
}

fn opener_closed(case: &Case<'_>, tasks: &[&Task]) -> Option<(Certainty, String)> {
    let opener = &case.socket.opener.as_ref()?.task;
    if tasks.iter().any(|task| task.pid == opener.pid) {
        return None;
    }
    // The opener's name is a thread's, so a different name proves less than an equal one.
    let same = tasks.iter().any(|task| task.comm == opener.comm);
    let are_younger = tasks.iter().all(|task| is_older_than_opening(case, task.pid) == Some(false));
    let certainty = if same || !are_younger { Certainty::Medium } else { Certainty::High };
    let who = OwnerNames::new(tasks)?;
    let text = format!("{opener} opened it and no longer has a descriptor of it, but {who} {}", who.does());
    Some((certainty, text))
}

/// Returns the evidence that a service has left a process behind: the process has the connection as descriptors of its start, but
/// its parent is neither the listener nor another owner, so the process that a super-server started for the connection has ended.
fn started_by_ended_process(case: &Case<'_>, tasks: &[&Task]) -> Option<(Certainty, String)> {
    let listener = case.listener.filter(|listener| !listener.owners.is_empty())?;
    if !case.is_server() || !super::is_handed_over(case)? {
        return None;
    }
    for task in tasks {
        let parent = process(case, task.pid)?.parent?;
        if case.listens(task.pid) || case.listens(parent) || tasks.iter().any(|task| task.pid == parent) {
            return None;
        }
    }
    let (who, from) = (OwnerNames::new(tasks)?, OwnerNames::new(&text::distinct(&listener.owners))?);
    Some((
        Certainty::Low,
        format!(
            "{who} {has} it since {it} started, but {its} parent is neither {from}, which {listens} on {local}, nor another \
             owner",
            has = who.has(),
            it = who.it(),
            its = who.its(),
            listens = from.word("listens", "listen"),
            local = listener.what.local,
        ),
    ))
}

fn shared(case: &Case<'_>, tasks: &[&Task]) -> Option<(Certainty, String)> {
    let (first, others) = tasks.split_first()?;
    if others.is_empty() {
        return None;
    }
    if super::is_passed_on(case)? {
        return None;
    }
    let program = |task: &Task| program(case, task.pid);
    let different = program(first)
        .is_some_and(|one| others.iter().any(|other| program(other).is_some_and(|other| !related(one, other))));
    let (count, who) = (tasks.len(), OwnerNames::new(tasks)?);
    if different && is_of_waiting_parent(case, tasks) {
        return None;
    }
    if different {
        return Some((Certainty::Low, format!("{count} processes of different programs have it: {who}")));
    }
    // An idle connection would be in CLOSE_WAIT with one copy, too.
    let idle = case.group.evidence.clients.idle * 2 >= case.group.count.max(1);
    (case.is_client() && !idle).then(|| (Certainty::Low, format!("{count} processes have it: {who}")))
}

/// Whether the listener's process has not closed its own descriptor of a request that it has not answered, and all other owners are its
/// children: they have copies because it started them for the request, and what matters is why it does not go on.
fn is_of_waiting_parent(case: &Case<'_>, tasks: &[&Task]) -> bool {
    let parent = |pid| process(case, pid).and_then(|process| process.parent);
    let is_of = |first: &Task| {
        tasks.iter().all(|task| {
            let above = parent(task.pid);
            // A shell between them is a child, too.
            task.pid == first.pid || above == Some(first.pid) || above.and_then(parent) == Some(first.pid)
        })
    };
    case.is_server()
        && case.socket.replied() != Some(true)
        && tasks.iter().any(|task| case.listens(task.pid) && is_of(task))
}

/// Returns the evidence that only processes of another program than the listener's have the connection. They can have a copy of the listener,
/// too, if they do not serve: they neither wait for events nor accept, or they are younger than the request.
fn another_program_listens(case: &Case<'_>, tasks: &[&Task]) -> Option<(Certainty, String)> {
    let listener = case.listener?;
    let from_its_start = case.owners?.iter().any(|descriptor| descriptor.fd <= super::HANDED_OVER);
    if !case.is_server() || from_its_start {
        return None;
    }
    let are_for_it = tasks.iter().all(|task| started_for_it(case, task.pid));
    let mut others = text::distinct(&listener.owners);
    if tasks.iter().any(|task| case.listens(task.pid)) {
        let waits = case.group.evidence.waits.filter(|waits| waits.complete);
        let serves = waits.is_none_or(|waits| waits.accepting > 0 || (waits.events > 0 && !are_for_it));
        let first = others.iter().copied().min_by_key(|other| process(case, other.pid).and_then(|one| one.started_ns));
        others = vec![first.filter(|first| !serves && tasks.iter().all(|task| task.pid != first.pid))?];
    }
    // The connection can have come from a listener whose program is unknown or related, or which started after the entry.
    let foreign = |is_foreign: &dyn Fn(u32, u32) -> bool| {
        others.iter().all(|other| {
            let started = process(case, other.pid).and_then(|process| process.started_ns);
            started.is_none_or(|at| at <= case.entered.0) && tasks.iter().all(|task| is_foreign(task.pid, other.pid))
        })
    };
    let runs_another = foreign(&|one, other| {
        program(case, one).zip(program(case, other)).is_some_and(|(one, other)| !related(one, other))
    });
    // An older process with another script is a worker that gets connections from the listener, as those of Node's cluster.
    let runs_another_script = || are_for_it && foreign(&|one, other| differ_in_script(case, one, other));
    let from = OwnerNames::new(&others).filter(|_| runs_another || runs_another_script())?;
    // A program that gets a connection to serve it has not answered yet.
    let answered = case.socket.replied() == Some(true);
    let certainty = match (answered, runs_another) {
        // An older process may have got the connection in a message, and have answered itself.
        (true, true) if are_for_it => Certainty::High,
        (true, _) => Certainty::Medium,
        (false, _) => Certainty::Low,
    };
    let local = listener.what.local;
    let without = format!(
        "{from} {listens} on {local} and {has} no descriptor of the connection",
        listens = from.word("listens", "listen"),
        has = from.has(),
    );
    let text = match tasks {
        [owner] => {
            let script = process(case, owner.pid).and_then(|process| process.script.as_deref());
            let script = script.filter(|_| !runs_another).map(|script| format!(" {script}")).unwrap_or_default();
            let fd = case.owners?.first()?.fd;
            format!("{without}; {}[{}]{script}, another program, has the only one (fd {fd})", owner.comm, owner.pid)
        }
        _ => format!("{without}; {} processes of another program have it: {}", tasks.len(), OwnerNames::new(tasks)?),
    };
    Some((certainty, text))
}

/// Whether a process started before the socket was opened, so that no fork can have given it a copy; `None` if one of the times is unknown.
fn is_older_than_opening(case: &Case<'_>, pid: u32) -> Option<bool> {
    let opened = case.socket.opener.as_ref()?.at;
    Some(BootTime(process(case, pid)?.started_ns?) + STARTED < opened)
}

/// Whether a process started when the last data had arrived, so that it can be there for the request.
fn started_for_it(case: &Case<'_>, pid: u32) -> bool {
    let started = process(case, pid).and_then(|process| process.started_ns);
    started.zip(case.socket.last_received).is_some_and(|(started, received)| received <= BootTime(started) + STARTED)
}

/// Whether two processes of one interpreter run different scripts.
fn differ_in_script(case: &Case<'_>, one: u32, other: u32) -> bool {
    let script = |pid| process(case, pid)?.script.as_deref().and_then(|script| script.rsplit('/').next());
    script(one).zip(script(other)).is_some_and(|(one, other)| one != other)
}

/// Returns the evidence that the connection is older than its only owner: a fork copied the descriptor, and the process that
/// accepted the connection has closed its own. A process that serves a single connection also starts right after the accept; so
/// the owner has to run another program than the listener, or own several such connections.
fn connection_is_older(case: &Case<'_>, tasks: &[&Task]) -> Option<(Certainty, String)> {
    let ([owner], listener, older) = (tasks, case.listener?, case.group.evidence.older_than_owner) else { return None };
    // The listener's process may go on to use connections after it has started the owner: some show nothing.
    let most = older * 2 >= case.group.count;
    if !case.is_server() || super::is_handed_over(case)? || older == 0 || !(most || older >= 2) {
        return None;
    }
    let began = process(case, owner.pid)?.started_ns?;
    let before = |task: &&Task| {
        let started = process(case, task.pid).and_then(|process| process.started_ns);
        task.pid != owner.pid && started.is_some_and(|started| started < began)
    };
    let listens: Vec<&Task> = listener.owners.iter().map(|other| &other.task).filter(before).collect();
    let first = *listens.first()?;
    let foreign = match (program(case, owner.pid), program(case, first.pid)) {
        (Some(one), Some(other)) => !related(one, other),
        _ => false,
    };
    if !foreign && older < 2 {
        return None;
    }
    let answered = case.socket.replied() == Some(true);
    Some((
        if answered && most { Certainty::Medium } else { Certainty::Low },
        format!(
            "{}[{}] has the only descriptor but started after {} had received data: the descriptor is a copy from \
             {}[{}], which listens on {} and has closed its own",
            owner.comm,
            owner.pid,
            if most { "the connection".to_owned() } else { format!("{older} of its {} connections", case.group.count) },
            first.comm,
            first.pid,
            listener.what.local,
        ),
    ))
}

/// Returns the evidence that a child of the server, which has the only descriptors of several connections, serves no client: none of its
/// threads waits for one, and others than it serve the port. A worker of a server waits for clients, and a process for one connection has
/// one.
fn child_serves_no_client(case: &Case<'_>, tasks: &[&Task]) -> Option<(Certainty, String)> {
    let ([owner], listener, evidence) = (tasks, case.listener?, &case.group.evidence) else { return None };
    let parent = process(case, owner.pid)?.parent?;
    let parent = listener.owners.iter().map(|other| &other.task).find(|task| task.pid == parent)?;
    let serves_no_client = evidence.stacks?.serves_no_client()
        && evidence.serves_others(case.now) == Some(false)
        && evidence.progresses(case.now) == Some(true);
    if !case.is_server() || super::is_handed_over(case)? || case.group.count < 2 || !serves_no_client {
        return None;
    }
    Some((
        Certainty::Low,
        format!(
            "{}[{}] has {} connections, but none of its threads serves clients: it probably has copies from its \
             parent {}[{}], which listens on {} and has closed its own",
            owner.comm, owner.pid, case.group.count, parent.comm, parent.pid, listener.what.local,
        ),
    ))
}

fn process<'a>(case: &Case<'a>, pid: u32) -> Option<&'a Process> {
    case.processes.iter().copied().find(|process| process.pid == pid)
}

/// Returns the file name of a process's program, without the mark of a file that was replaced while it runs.
fn program<'a>(case: &Case<'a>, pid: u32) -> Option<&'a str> {
    let exe = process(case, pid)?.exe.as_deref()?;
    let exe = exe.strip_suffix(" (deleted)").unwrap_or(exe);
    exe.rsplit('/').next().filter(|name| !name.is_empty())
}

/// Whether two file names are those of the same program, of two versions, or of parts of it: `python3.11` and `python3.12`,
/// `sshd` and `sshd-session`.
fn related(one: &str, other: &str) -> bool {
    let stem = |name: &str| name.trim_end_matches(|c: char| c.is_ascii_digit() || ".-_".contains(c)).to_owned();
    let (one, other) = (stem(one), stem(other));
    let is_part = |whole: &str, part: &str| {
        // Not `tail` of `tailerd`.
        whole.strip_prefix(part).is_some_and(|rest| !rest.starts_with(|c: char| c.is_alphanumeric()))
    };
    is_part(&one, &other) || is_part(&other, &one)
}

#[cfg(test)]
mod tests;
