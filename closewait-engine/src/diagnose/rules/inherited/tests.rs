use super::*;
use crate::{
    diagnose::{
        evidence::{Siblings, StackEvidence, Waits},
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
    let mut scene = opened_by(Scene::client(), 7, "oracle");
    assert_eq!(certainty(&scene), Some(Certainty::Medium), "its start is unknown");
    scene.processes = vec![process(42, "app", "/srv/app")];
    let opened = scene.socket.opener.as_ref().unwrap().at;
    scene.processes[0].started_ns = Some((opened - secs(1)).0);
    assert_eq!(certainty(&scene), None, "no fork has given it a copy of a later connection");
    scene.processes[0].started_ns = Some(opened.0);
    let judgement = scene.check(&Inherited).unwrap();
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
fn several_processes_of_another_program_have_copies_of_connection_and_listener() {
    let mut scene = child(9, "/usr/sbin/tailerd", "/usr/bin/tail").replied(true);
    scene.owners = Some(vec![owned_by(42, "tail", 9), owned_by(43, "tail", 9)]);
    scene.processes.push(process(43, "tail", "/usr/bin/tail"));
    let received = scene.socket.last_received.unwrap();
    for (process, started) in scene.processes.iter_mut().zip([received.0, 5, received.0 + 9]) {
        process.started_ns = Some(started);
    }
    let judgement = scene.check(&Inherited).unwrap();
    assert_eq!(judgement.certainty, Certainty::High);
    assert!(judgement.text.contains("2 processes of another program have it: tail[42]"), "{}", judgement.text);
    let mut listens = scene.listened_by(&[owned_by(7, "parent", 3), owned_by(42, "tail", 3), owned_by(43, "tail", 3)]);
    assert_eq!(certainty(&listens), None, "they may serve");
    listens.group.evidence.waits = Some(Waits { threads: 2, complete: true, events: 2, ..Waits::default() });
    assert_eq!(certainty(&listens), Some(Certainty::High), "younger than the request");
    listens.processes[2].started_ns = Some(6);
    assert_eq!(certainty(&listens), None, "one that waits for events can have accepted it");
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
    let mut scene = scene.replied(true);
    assert_eq!(certainty(&scene), Some(Certainty::Medium), "it may have got the connection, and have answered itself");
    scene.processes[0].started_ns = scene.socket.last_received.map(|at| at.0);
    let judgement = scene.check(&Inherited).unwrap();
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

#[test]
fn a_child_that_serves_no_client_has_copies() {
    let mut scene = child(9, "/usr/bin/ruby3.1", "/usr/bin/ruby3.1").of(30);
    scene.processes[0].parent = Some(7);
    let listener = scene.listener.as_mut().unwrap();
    listener.owners.push(owned_by(42, "child", 3));
    let evidence = &mut scene.group.evidence;
    evidence.siblings = Some(Siblings::default());
    evidence.last_exit = Some(scene.now);
    let sleeps = StackEvidence { threads: 1, active: 1, complete: true, ..StackEvidence::default() };
    evidence.stacks = Some(sleeps);
    let judgement = scene.check(&Inherited).unwrap();
    assert_eq!((judgement.class, judgement.certainty), (Class::Inherited, Certainty::Low));
    assert!(judgement.text.contains("none of its threads serves clients"), "{}", judgement.text);
    assert_eq!(certainty(&Scene { blind: true, ..scene.clone() }), Some(Certainty::Low), "its parent was read");
    let changes: [fn(&mut Scene); 6] = [
        |scene| scene.processes[0].parent = Some(1),
        |scene| scene.group.evidence.stacks = None,
        // A worker waits for clients.
        |scene| scene.group.evidence.stacks.as_mut().unwrap().threads = 2,
        |scene| scene.group.evidence.stacks.as_mut().unwrap().unknown = true,
        |scene| {
            scene.group.evidence.siblings = Some(Siblings { last_served: Some(scene.now), waiting: 0 });
        },
        // A process for one connection.
        |scene| scene.group.count = 1,
    ];
    for (at, change) in changes.into_iter().enumerate() {
        let mut other = scene.clone();
        change(&mut other);
        assert_eq!(certainty(&other), None, "{at}");
    }
}
