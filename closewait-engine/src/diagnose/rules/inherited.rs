//! A process that has a descriptor which it did not open.

use crate::diagnose::{About, Judgement, Rule, evidence::CounterEvidence, text};
use crate::{
    diagnose::Case,
    model::{Certainty, Class, Task},
    process::Process,
};

/// The FIN goes out when the last copy of a descriptor is closed (`__fput` calls `sock_close`; fs/file_table.c,
/// net/socket.c at v5.10), so a copy that a child got by accident keeps the connection.
pub(super) struct Inherited;

impl Rule for Inherited {
    fn about(&self) -> &'static About {
        &About {
            name: "inherited",
            when: "the process that opened it has no descriptor of it any more and another has; or several programs have \
                   it; or of a server: the only process that has it does not listen, and another program does, or began after \
                   the connection had received data",
            class: &[Class::Inherited],
            certainty: &[
                (
                    Certainty::High,
                    "the opener is known and has let go, and the owner has another name; or the listener is another \
                     program's",
                ),
                (
                    Certainty::Medium,
                    "the owner has the opener's name (a daemon that went to the background), or the connection is older than the \
                     owner",
                ),
                (
                    Certainty::Low,
                    "processes share it, of different programs, or of one that connected it: handing on is no leak",
                ),
            ],
            says: "a copy of the descriptor keeps the connection open after its owner closed",
            next: "open sockets with SOCK_CLOEXEC, or close them between fork and exec; end the process that has it",
            not: &[
                "a process for each connection (sshd, PostgreSQL): the same program listens and holds, also where its \
                 name continues after the listener's (sshd, sshd-session)",
                "inetd and systemd with Accept=yes: the connection is one of the descriptors 0 to 3",
                "an old process that is replaced by a new one: the same program, or one that started after the entry",
                "an owner that could not be inspected: the rule states that a process closed it only if all could be inspected",
                "workers of a server that share a connection: no verdict",
            ],
            seen: &["oracle/odpi#152", "splitio/ruby-client#199", "apache/guacamole-server#698"],
        }
    }

    fn counter_evidence(&self) -> &'static [CounterEvidence] {
        &[CounterEvidence::PeersWait, CounterEvidence::Sending]
    }

    fn check(&self, case: &Case<'_>) -> Option<Judgement> {
        let tasks = text::tasks(case);
        // What a socket in a backlog has is the listener's.
        if tasks.is_empty() || case.socket.accepted == Some(false) {
            return None;
        }
        let (certainty, text) = let_go(case, &tasks).or_else(|| shared(case, &tasks))?;
        let who = text::owner(case);
        Some(Judgement {
            class: Class::Inherited,
            certainty,
            text: format!("{text}. Its FIN goes out when the last copy is closed"),
            next: format!(
                "see whether {who} uses it; if not, ending it closes the connection. The lasting cure is SOCK_CLOEXEC \
                 where it is opened, or closing it between fork and exec"
            ),
        })
    }
}

/// The one that it belongs to has it no more.
fn let_go(case: &Case<'_>, tasks: &[&Task]) -> Option<(Certainty, String)> {
    // One that could not be looked at may be the very one that should have it.
    if case.blind {
        return None;
    }
    opener_let_go(case, tasks)
        .or_else(|| listener_is_of_another(case, tasks))
        .or_else(|| connection_is_older(case, tasks))
}

fn opener_let_go(case: &Case<'_>, tasks: &[&Task]) -> Option<(Certainty, String)> {
    let opener = &case.socket.opener.as_ref()?.task;
    if tasks.iter().any(|task| task.pid == opener.pid) {
        return None;
    }
    // The opener's name is that of a thread, so that another name says less than the same one.
    let same = tasks.iter().any(|task| task.comm == opener.comm);
    let certainty = if same { Certainty::Medium } else { Certainty::High };
    let who = text::names(tasks)?;
    Some((
        certainty,
        format!("{}[{}] opened it and has no descriptor of it any more, {who} has", opener.comm, opener.pid),
    ))
}

fn shared(case: &Case<'_>, tasks: &[&Task]) -> Option<(Certainty, String)> {
    let (first, others) = tasks.split_first()?;
    if others.is_empty() {
        return None;
    }
    // Super-servers and shells hand these down on purpose.
    if super::is_handed_over(case)? {
        return None;
    }
    let program = |task: &Task| program(case, task.pid);
    let different = program(first)
        .is_some_and(|one| others.iter().any(|other| program(other).is_some_and(|other| !related(one, other))));
    let (count, who) = (tasks.len(), text::names(tasks)?);
    if different {
        return Some((Certainty::Low, format!("{count} processes of different programs have it: {who}")));
    }
    case.is_client().then(|| (Certainty::Low, format!("{count} processes have it: {who}")))
}

fn listener_is_of_another(case: &Case<'_>, tasks: &[&Task]) -> Option<(Certainty, String)> {
    let ([owner], listener) = (tasks, case.listener?) else { return None };
    let from_its_start = case.owners?.iter().any(|descriptor| descriptor.fd <= super::HANDED_OVER);
    let listens = listener.owners.iter().any(|other| other.task.pid == owner.pid);
    if !case.is_server() || from_its_start || listens {
        return None;
    }
    let one = program(case, owner.pid)?;
    let mut others: Vec<&Task> = listener.owners.iter().map(|other| &other.task).collect();
    others.dedup_by_key(|task| task.pid);
    // One listener whose program is not known, is the same or came later, and the other can have come from there.
    let foreign = others.iter().all(|other| {
        let older =
            process(case, other.pid).and_then(|process| process.started_ns).is_none_or(|at| at <= case.entered.0);
        older && program(case, other.pid).is_some_and(|other| !related(one, other))
    });
    let from = text::names(&others).filter(|_| foreign)?;
    Some((
        Certainty::High,
        format!(
            "{from} listens on {local} and has no descriptor of it; {}[{}], another program, has the only one, {fd}",
            owner.comm,
            owner.pid,
            local = listener.what.local,
            fd = case.owners?.first()?.fd,
        ),
    ))
}

/// The connection was there before its only owner began: a fork has copied it, and the process that accepted it has closed its
/// own. A process that serves one connection begins right after that, too; so it must be another program than the one that
/// listens, or several connections.
fn connection_is_older(case: &Case<'_>, tasks: &[&Task]) -> Option<(Certainty, String)> {
    let ([owner], listener, older) = (tasks, case.listener?, case.group.evidence.older_than_owner) else { return None };
    if !case.is_server() || super::is_handed_over(case)? || older == 0 || older * 2 < case.group.count {
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
    Some((
        Certainty::Medium,
        format!(
            "{}[{}] has the only descriptor and began after the connection had received data: it is a copy from {}[{}], which \
             listens on {} and has closed its own",
            owner.comm, owner.pid, first.comm, first.pid, listener.what.local,
        ),
    ))
}

fn process<'a>(case: &Case<'a>, pid: u32) -> Option<&'a Process> {
    case.processes.iter().copied().find(|process| process.pid == pid)
}

/// The file name of a program, also of one that was replaced while it runs.
fn program<'a>(case: &Case<'a>, pid: u32) -> Option<&'a str> {
    let exe = process(case, pid)?.exe.as_deref()?;
    let exe = exe.strip_suffix(" (deleted)").unwrap_or(exe);
    exe.rsplit('/').next().filter(|name| !name.is_empty())
}

/// The same program, another version of it, or a part of it: `python3.11` and `python3.12`, `sshd` and `sshd-session`.
fn related(one: &str, other: &str) -> bool {
    let stem = |name: &str| name.trim_end_matches(|c: char| c.is_ascii_digit() || ".-_".contains(c)).to_owned();
    let (one, other) = (stem(one), stem(other));
    one.starts_with(&other) || other.starts_with(&one)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        diagnose::testing::{Scene, owned_by, process, secs, task},
        model::Opener,
    };

    fn opened_by(mut scene: Scene, pid: u32, name: &str) -> Scene {
        scene.socket.opener = Some(Box::new(Opener { task: task(pid, name), at: scene.entered - secs(5) }));
        scene
    }

    fn certainty(scene: &Scene) -> Option<Certainty> {
        scene.ask(&Inherited).map(|said| said.certainty)
    }

    /// `child[42]` has it, `parent[7]` listens.
    fn child(fd: u32, parent: &str, child: &str) -> Scene {
        let mut scene = Scene::server().listened_by(&[owned_by(7, "parent", 3)]);
        scene.owners = Some(vec![owned_by(42, "child", fd)]);
        scene.processes = vec![process(42, "child", child), process(7, "parent", parent)];
        scene
    }

    #[test]
    fn an_opener_that_has_let_go_is_certain() {
        let said = opened_by(Scene::client(), 7, "oracle").ask(&Inherited).unwrap();
        assert_eq!((said.class, said.certainty), (Class::Inherited, Certainty::High));
        assert!(said.text.starts_with("oracle[7] opened it and has no descriptor"), "{}", said.text);
        assert_eq!(certainty(&opened_by(Scene::client(), 7, "app")), Some(Certainty::Medium), "a daemon");
    }

    #[test]
    fn the_opener_that_holds_it_is_its_owner() {
        assert_eq!(certainty(&opened_by(Scene::client(), 42, "app")), None);
        assert_eq!(certainty(&Scene::client()), None, "the opener is not known");
        assert_eq!(certainty(&Scene { owners: None, ..opened_by(Scene::client(), 7, "app") }), None);
    }

    #[test]
    fn different_programs_that_share_it_are_a_guess() {
        let mut scene = Scene::server();
        scene.owners = Some(vec![owned_by(1, "httpd", 9), owned_by(2, "report", 9)]);
        scene.processes = vec![process(1, "httpd", "/usr/sbin/httpd"), process(2, "report", "/srv/report")];
        assert_eq!(certainty(&scene), Some(Certainty::Low));
        scene.owners = Some(vec![owned_by(1, "sh", 0), owned_by(2, "sleep", 1)]);
        assert_eq!(certainty(&scene), None, "handed on as standard input and output");
    }

    #[test]
    fn workers_of_one_program_are_a_guess_for_clients_and_nothing_for_servers() {
        for (scene, expected) in [(Scene::client(), Some(Certainty::Low)), (Scene::server(), None)] {
            let mut scene = scene;
            scene.owners = Some(vec![owned_by(1, "puma", 9), owned_by(2, "puma", 9)]);
            assert_eq!(certainty(&scene), expected, "programs not known");
            scene.processes = vec![process(1, "puma", "/usr/bin/ruby"), process(2, "puma", "/usr/bin/ruby")];
            assert_eq!(certainty(&scene), expected);
        }
    }

    #[test]
    fn a_child_of_another_program_keeps_what_its_parent_accepted() {
        let said = child(9, "/usr/sbin/httpd", "/usr/bin/sleep").ask(&Inherited).unwrap();
        assert_eq!(said.certainty, Certainty::High);
        assert!(said.text.contains("parent[7] listens") && said.text.contains("child[42], another"), "{}", said.text);
    }

    #[test]
    fn an_owner_that_could_not_be_looked_at_has_not_let_go() {
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
    fn what_a_super_server_hands_over_is_no_inheritance() {
        for fd in [0, 3] {
            assert_eq!(certainty(&child(fd, "/usr/lib/systemd/systemd", "/usr/bin/fingerd")), None);
        }
    }

    #[test]
    fn a_listener_that_came_later_or_is_not_known_says_nothing() {
        let mut scene = child(9, "/usr/sbin/httpd", "/usr/bin/sleep");
        scene.processes[1].started_ns = Some(scene.now.0);
        assert_eq!(certainty(&scene), None);
        scene.processes.pop();
        assert_eq!(certainty(&scene), None);
        scene.listener = None;
        assert_eq!(certainty(&scene), None);
    }
}
