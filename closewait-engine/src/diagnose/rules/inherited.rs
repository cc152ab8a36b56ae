//! Descriptors in processes that did not open them.

use crate::diagnose::{
    About, Explanation, Judgement, Rule,
    evidence::{CounterEvidence, STARTED},
    text,
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
                   client have one, or the only process that has one is \
                   not the listener: it runs another program, or another script and started for the request, or it started after the \
                   connection had received data",
            class: &[Class::Inherited],
            certainty: &[
                (
                    Certainty::High,
                    "the opener is known and has no descriptor, and the owner has another name; or another program is the listener, and the \
                     request was answered",
                ),
                (
                    Certainty::Medium,
                    "the owner has the opener's name (a daemon that went to the background), or the connection is older than the \
                     owner and the request was answered, or the owner runs another script than the listener and it was",
                ),
                (
                    Certainty::Low,
                    "several processes have it, of different programs or of a client, or only two or more of the owner's connections are older \
                     than it, or a process that a service left behind has \
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
        let (certainty, text) = original_closed(case, &tasks).or_else(|| shared(case, &tasks))?;
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
fn end_copy(who: &str) -> NextStep {
    format!(
        "see whether {who} uses it; if not, end the process to close the connection. To fix the cause, open the socket with \
         SOCK_CLOEXEC (or receive it with MSG_CMSG_CLOEXEC), or close it between fork and exec"
    )
    .into()
}

/// Returns the evidence that the process to which the socket belongs has closed its own descriptor.
fn original_closed(case: &Case<'_>, tasks: &[&Task]) -> Option<(Certainty, String)> {
    // A process that the agent could not inspect may still have the original descriptor.
    if case.blind {
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
    let certainty = if same { Certainty::Medium } else { Certainty::High };
    let who = text::names(tasks)?;
    Some((
        certainty,
        format!("{}[{}] opened it and no longer has a descriptor of it, but {who} does", opener.comm, opener.pid),
    ))
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
    Some((
        Certainty::Low,
        format!(
            "{who} has it since it started, but its parent is neither {from}, which listens on {local}, nor another owner",
            who = text::names(tasks)?,
            from = text::names(&text::distinct(&listener.owners))?,
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
    let (count, who) = (tasks.len(), text::names(tasks)?);
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

fn another_program_listens(case: &Case<'_>, tasks: &[&Task]) -> Option<(Certainty, String)> {
    let ([owner], listener) = (tasks, case.listener?) else { return None };
    let from_its_start = case.owners?.iter().any(|descriptor| descriptor.fd <= super::HANDED_OVER);
    if !case.is_server() || from_its_start {
        return None;
    }
    let mut others = text::distinct(&listener.owners);
    if case.listens(owner.pid) {
        // A child that got a copy of the connection can have one of the listener, too. It does not serve then.
        let waits = case.group.evidence.waits.filter(|waits| waits.complete && waits.accepting + waits.events == 0);
        let first = others.iter().copied().min_by_key(|other| process(case, other.pid).and_then(|one| one.started_ns));
        others = vec![first.filter(|first| waits.is_some() && first.pid != owner.pid)?];
    }
    // The connection can have come from a listener whose program is unknown or related, or which started after the entry.
    let foreign = |is_foreign: &dyn Fn(u32) -> bool| {
        others.iter().all(|other| {
            let started = process(case, other.pid).and_then(|process| process.started_ns);
            started.is_none_or(|at| at <= case.entered.0) && is_foreign(other.pid)
        })
    };
    let one = program(case, owner.pid)?;
    let runs_another = foreign(&|other| program(case, other).is_some_and(|other| !related(one, other)));
    // An older process with another script is a worker that gets connections from the listener, as those of Node's cluster.
    let runs_another_script =
        || started_for_it(case, owner.pid) && foreign(&|other| differ_in_script(case, owner.pid, other));
    let from = text::names(&others).filter(|_| runs_another || runs_another_script())?;
    // A program that gets a connection to serve it has not answered yet.
    let answered = case.socket.replied() == Some(true);
    let certainty = match (answered, runs_another) {
        (true, true) => Certainty::High,
        (true, false) => Certainty::Medium,
        (false, _) => Certainty::Low,
    };
    let script = process(case, owner.pid).and_then(|process| process.script.as_deref()).filter(|_| !runs_another);
    Some((
        certainty,
        format!(
            "{from} listens on {local} and has no descriptor of the connection; {}[{}]{script}, another program, has the only one (fd {fd})",
            owner.comm,
            owner.pid,
            local = listener.what.local,
            script = script.map(|script| format!(" {script}")).unwrap_or_default(),
            fd = case.owners?.first()?.fd,
        ),
    ))
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
    one.starts_with(&other) || other.starts_with(&one)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        diagnose::{
            evidence::Waits,
            testing::{Scene, owned_by, process, secs, task},
        },
        model::Opener,
    };

    fn opened_by(mut scene: Scene, pid: u32, name: &str) -> Scene {
        scene.socket.opener = Some(Box::new(Opener { task: task(pid, name), at: scene.entered - secs(5) }));
        scene
    }

    fn certainty(scene: &Scene) -> Option<Certainty> {
        scene.check(&Inherited).map(|judgement| judgement.certainty)
    }

    /// Returns a socket that `child[42]` owns, while `parent[7]` listens.
    fn child(fd: u32, parent: &str, child: &str) -> Scene {
        let mut scene = Scene::server().listened_by(&[owned_by(7, "parent", 3)]);
        scene.owners = Some(vec![owned_by(42, "child", fd)]);
        scene.processes = vec![process(42, "child", child), process(7, "parent", parent)];
        scene
    }

    #[test]
    fn an_opener_that_has_closed_its_descriptor_is_certain() {
        let judgement = opened_by(Scene::client(), 7, "oracle").check(&Inherited).unwrap();
        assert_eq!((judgement.class, judgement.certainty), (Class::Inherited, Certainty::High));
        assert!(judgement.text.starts_with("oracle[7] opened it and no longer has a descriptor"), "{}", judgement.text);
        assert_eq!(certainty(&opened_by(Scene::client(), 7, "app")), Some(Certainty::Medium), "a daemon");
    }

    #[test]
    fn an_opener_with_a_descriptor_is_the_owner() {
        assert_eq!(certainty(&opened_by(Scene::client(), 42, "app")), None);
        assert_eq!(certainty(&Scene::client()), None, "the opener is unknown");
        assert_eq!(certainty(&Scene { owners: None, ..opened_by(Scene::client(), 7, "app") }), None);
    }

    #[test]
    fn a_process_that_a_service_left_behind_is_a_guess() {
        let mut scene = child(1, "/usr/sbin/xinetd", "/usr/bin/memcached");
        assert_eq!(certainty(&scene), None, "its parent is unknown");
        scene.processes[0].parent = Some(7);
        assert_eq!(certainty(&scene), None, "the super-server started it for the connection");
        scene.processes[0].parent = Some(1);
        assert_eq!(certainty(&scene), Some(Certainty::Low));
        scene.owners = Some(vec![owned_by(42, "child", 1), owned_by(42, "child", 9)]);
        assert_ne!(certainty(&scene), Some(Certainty::Low), "it has another descriptor of it");
    }

    #[test]
    fn a_child_that_keeps_an_answered_connection_is_a_guess() {
        let mut scene = child(9, "/usr/bin/perl", "/usr/bin/perl").replied(true);
        let certainty = |scene: &Scene| scene.check(&ChildKeeps).map(|judgement| judgement.certainty);
        let received = scene.socket.last_received.unwrap();
        scene.processes[0].started_ns = Some(received.0);
        scene.group.evidence.waits =
            Some(Waits { threads: 1, complete: true, limited: 1, follows: Some(true), ..Waits::default() });
        assert_eq!(certainty(&scene), None, "its parent is unknown");
        scene.processes[0].parent = Some(7);
        assert_eq!(certainty(&scene), Some(Certainty::Low));
        assert_eq!(certainty(&scene.clone().replied(false)), None, "it may work on the answer");
        let mut other = scene.clone();
        other.processes[0].started_ns = Some((received - secs(1)).0);
        assert_eq!(certainty(&other), None, "it reads requests itself");
        other = scene.clone();
        other.group.evidence.waits.as_mut().unwrap().follows = Some(false);
        assert_eq!(certainty(&other), None, "it waits for data");
        other = scene.clone();
        other.socket.last_sent = Some(scene.now - secs(3));
        assert_eq!(certainty(&other), None, "it sends");
        scene.owners = Some(vec![owned_by(42, "child", 1)]);
        assert_eq!(certainty(&scene), None, "a super-server started it for the connection");
    }

    #[test]
    fn different_programs_that_share_it_are_a_guess() {
        let mut scene = Scene::server();
        scene.owners = Some(vec![owned_by(1, "httpd", 9), owned_by(2, "report", 9)]);
        scene.processes = vec![process(1, "httpd", "/usr/sbin/httpd"), process(2, "report", "/srv/report")];
        assert_eq!(certainty(&scene), Some(Certainty::Low));
        scene.owners = Some(vec![owned_by(1, "sh", 0), owned_by(2, "sleep", 1)]);
        assert_eq!(certainty(&scene), None, "passed on as standard input and output");
    }

    #[test]
    fn a_server_that_waits_for_its_child_has_not_lost_the_connection() {
        let mut scene = child(9, "/usr/sbin/php-fpm8.2", "/usr/bin/openssl");
        scene.owners = Some(vec![owned_by(7, "parent", 4), owned_by(42, "child", 4)]);
        scene.processes[0].parent = Some(1);
        assert_eq!(certainty(&scene), Some(Certainty::Low), "it is no child");
        scene.processes[0].parent = Some(7);
        assert_eq!(certainty(&scene), None);
        assert_eq!(certainty(&scene.clone().replied(true)), Some(Certainty::Low), "it has answered");
        scene.processes.push(process(43, "sh", "/bin/sh"));
        scene.processes[0].parent = Some(43);
        scene.processes[2].parent = Some(7);
        assert_eq!(certainty(&scene), None, "a shell started it");
    }

    #[test]
    fn only_a_server_gets_a_connection_as_the_descriptor_after_standard_error() {
        let copies = |fd| vec![owned_by(1, "sh", fd), owned_by(2, "tail", fd), owned_by(3, "grep", fd)];
        let programs = || ["/bin/sh", "/usr/bin/tail", "/usr/bin/grep"].into_iter().zip(1..);
        let processes: Vec<_> = programs().map(|(exe, pid)| process(pid, "copy", exe)).collect();
        for (scene, fd, expected) in
            [(Scene::client(), 3, Some(Certainty::Low)), (Scene::client(), 1, None), (Scene::server(), 3, None)]
        {
            let scene = Scene { owners: Some(copies(fd)), processes: processes.clone(), ..scene };
            assert_eq!(certainty(&scene), expected, "{fd}");
        }
    }

    #[test]
    fn workers_of_one_program_are_a_guess_for_clients_and_nothing_for_servers() {
        for (scene, expected) in [(Scene::client(), Some(Certainty::Low)), (Scene::server(), None)] {
            let mut scene = scene;
            scene.owners = Some(vec![owned_by(1, "puma", 9), owned_by(2, "puma", 9)]);
            assert_eq!(certainty(&scene), expected, "the programs are unknown");
            scene.group.evidence.clients.idle = scene.group.count;
            assert_eq!(certainty(&scene), None, "an idle connection");
            scene.group.evidence.clients.idle = 0;
            scene.processes = vec![process(1, "puma", "/usr/bin/ruby"), process(2, "puma", "/usr/bin/ruby")];
            assert_eq!(certainty(&scene), expected);
        }
    }

    #[test]
    fn a_child_of_another_program_keeps_what_its_parent_accepted() {
        let scene = child(9, "/usr/sbin/httpd", "/usr/bin/sleep");
        assert_eq!(certainty(&scene), Some(Certainty::Low), "it may have got the connection to serve it");
        let judgement = scene.replied(true).check(&Inherited).unwrap();
        assert_eq!(judgement.certainty, Certainty::High);
        assert!(
            judgement.text.contains("parent[7] listens") && judgement.text.contains("child[42], another"),
            "{}",
            judgement.text
        );
    }

    #[test]
    fn another_script_of_the_same_interpreter_is_another_program_if_it_started_for_the_request() {
        let mut scene = child(9, "/usr/bin/php8.2", "/usr/bin/php8.2").replied(true);
        scene.processes[0].started_ns = scene.socket.last_received.map(|received| received.0);
        assert_eq!(certainty(&scene), None, "the scripts are unknown");
        let mut of = |scripts: [&str; 2]| {
            for (process, script) in scene.processes.iter_mut().zip(scripts) {
                process.script = Some(script.to_owned());
            }
            scene.clone()
        };
        assert_eq!(certainty(&of(["/srv/2/server.php", "/srv/1/server.php"])), None, "a new version");
        let mut converter = of(["/srv/converter.php", "/srv/server.php"]);
        let judgement = converter.check(&Inherited).unwrap();
        assert_eq!(judgement.certainty, Certainty::Medium);
        assert!(judgement.text.contains("child[42] /srv/converter.php, another program"), "{}", judgement.text);
        assert_eq!(certainty(&converter.clone().replied(false)), Some(Certainty::Low));
        let mut listens = converter.clone().listened_by(&[owned_by(7, "parent", 3), owned_by(42, "child", 3)]);
        listens.processes[1].started_ns = Some(5);
        assert_eq!(certainty(&listens), None, "it may serve");
        listens.group.evidence.waits = Some(Waits { threads: 1, complete: true, limited: 1, ..Waits::default() });
        assert_eq!(certainty(&listens), Some(Certainty::Medium), "a copy of the listener, too");
        listens.group.evidence.waits.as_mut().unwrap().accepting = 1;
        assert_eq!(certainty(&listens), None, "it serves");
        converter.processes[0].started_ns = Some(5);
        assert_eq!(certainty(&converter), None, "a worker that gets connections");
    }

    #[test]
    fn connections_that_are_older_than_their_owner_are_copies() {
        let mut scene = child(9, "/usr/bin/ruby3.1", "/usr/bin/ruby3.1").of(11).replied(true);
        for (process, started) in scene.processes.iter_mut().zip([9, 5]) {
            process.started_ns = Some(started);
        }
        let of = |scene: &Scene, older| {
            let mut scene = scene.clone();
            scene.group.evidence.older_than_owner = older;
            certainty(&scene)
        };
        let expected = [(11, Some(Certainty::Medium)), (5, Some(Certainty::Low)), (2, Some(Certainty::Low)), (1, None)];
        for (older, expected) in expected {
            assert_eq!(of(&scene, older), expected, "{older}");
        }
        scene.group.evidence.older_than_owner = 2;
        let text = scene.check(&Inherited).unwrap().text;
        assert!(text.contains("started after 2 of its 11 connections had received data"), "{text}");
        scene.processes[1].started_ns = Some(10);
        assert_eq!(of(&scene, 11), None, "the listener's process is younger");
    }

    #[test]
    fn an_owner_that_cannot_be_inspected_may_still_have_its_descriptor() {
        let scene = opened_by(Scene::client(), 7, "oracle");
        assert_eq!(certainty(&Scene { blind: true, ..scene }), None);
        let scene = child(9, "/usr/sbin/httpd", "/usr/bin/sleep");
        assert_eq!(certainty(&Scene { blind: true, ..scene }), None);
    }

    #[test]
    fn a_process_for_each_connection_is_no_inheritance() {
        for (parent, owner) in [
            ("/usr/lib/postgresql/15/bin/postgres", "/usr/lib/postgresql/15/bin/postgres"),
            ("/usr/sbin/sshd", "/usr/lib/openssh/sshd-session"),
            ("/opt/app/2/bin/app", "/opt/app/1/bin/app"),
            ("/usr/sbin/nginx", "/usr/sbin/nginx (deleted)"),
            ("/usr/bin/python3.12", "/usr/bin/python3.11"),
        ] {
            assert_eq!(certainty(&child(9, parent, owner)), None, "{parent} {owner}");
        }
    }

    #[test]
    fn a_connection_passed_on_by_a_super_server_is_no_inheritance() {
        for fd in [0, 3] {
            assert_eq!(certainty(&child(fd, "/usr/lib/systemd/systemd", "/usr/bin/fingerd")), None);
        }
    }

    #[test]
    fn a_newer_or_unknown_listener_proves_nothing() {
        let mut scene = child(9, "/usr/sbin/httpd", "/usr/bin/sleep");
        scene.processes[1].started_ns = Some(scene.now.0);
        assert_eq!(certainty(&scene), None);
        scene.processes.pop();
        assert_eq!(certainty(&scene), None);
        scene.listener = None;
        assert_eq!(certainty(&scene), None);
    }
}
