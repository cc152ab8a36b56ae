//! Descriptors of ended processes are not listed.

use std::{
    net::TcpStream,
    os::fd::OwnedFd,
    process::{Child, Command, Stdio},
    thread,
    time::Duration,
};

use serde_json::Value;

use crate::{
    ability::{Ability, can},
    agent::{Agent, closewait, finish},
    clock::{patience, poll_until},
    listing::list_at,
    net::{Id, Namespace, V4},
    schema, socket,
};

/// Time after which the agent searches for the descriptor every four seconds at most.
const SELDOM: Duration = Duration::from_millis(4500);

#[test]
fn a_descriptor_whose_connection_is_over_goes_from_the_list_with_its_process() {
    let path = control_socket("lingering");
    let mut agent = Agent::start(&["--stuck-after", "300ms", "--socket", &path]);
    let ns = Namespace::new();
    let pair = ns.waiting(V4).0;
    let (id, mut owner) = (pair.id.clone(), hold(&pair.server));
    drop(pair.server);
    agent.wait_for_socket("stuck", &id);
    socket::linger_zero(&pair.client);
    drop(pair.client);
    let leave = agent.wait_for_socket("leave", &id);
    assert_eq!((&leave["how"], &leave["fd_open"]), (&"reset".into(), &true.into()), "{leave}");
    thread::sleep(SELDOM);
    let listed = the_one(&path, &id).expect("its descriptor is open");
    assert!(!listed["left"].is_null(), "{listed}");
    // Where the kernel lists no open files, the owner of an exited socket is unknown.
    assert!(!can(Ability::Files) || pids(&listed) == [owner.id()], "{listed}");
    // It is as stuck as before the reset, so its group remains.
    let group = group_on(&path, &id).expect("a group");
    assert_eq!((&group["count"], &group["ended"]), (&1.into(), &1.into()), "{group}");
    assert_eq!(group["verdict"]["class"], listed["verdict"]["class"], "{group} {listed}");

    owner.kill().expect("kill");
    assert_eq!(the_one(&path, &id), None, "its process has ended, though nobody has waited for it");
    assert_eq!(group_on(&path, &id), None);
    let report = finish(&mut closewait(&["report", "--output", "json", "--socket", &path]));
    let report: Value = serde_json::from_str(&report.stdout).expect("JSON");
    schema::check_reported(&report);
    assert_eq!(report["totals"]["fd_open"], 0, "{}", report["totals"]);
    owner.wait().expect("wait");
    agent.stop().totals();
}

/// Returns the group of a socket's port in the answer of an agent's `status`.
fn group_on(path: &str, id: &Id) -> Option<Value> {
    let status = finish(&mut closewait(&["status", "--output", "json", "--socket", path]));
    let status: Value = serde_json::from_str(&status.stdout).expect("JSON");
    schema::check_status(&status);
    let mut groups = status["groups"].as_array().expect("groups").iter();
    groups.find(|group| group["group"]["local_port"] == id.local.port()).cloned()
}

#[test]
fn of_two_owners_the_one_that_has_ended_is_not_listed() {
    let path = control_socket("owner");
    let mut agent = Agent::start(&["--stuck-after", "300ms", "--socket", &path]);
    let ns = Namespace::new();
    let pair = ns.waiting(V4).0;
    let mut owners = [hold(&pair.server), hold(&pair.server)];
    drop(pair.server);
    agent.wait_for_socket("stuck", &pair.id);
    let [first, second] = [owners[0].id(), owners[1].id()];
    let mut listed = None;
    poll_until(patience(), || {
        listed = the_one(&path, &pair.id);
        listed.as_ref().is_some_and(|one| pids(one) == [first.min(second), first.max(second)])
    });
    owners[0].kill().expect("kill");
    // Not at once: the kernel closes its descriptors while it ends.
    thread::sleep(Duration::from_millis(200));
    let listed = the_one(&path, &pair.id).expect("one still holds it");
    assert_eq!(pids(&listed), [second], "{listed}");
    owners[1].kill().expect("kill");
    for mut owner in owners {
        owner.wait().expect("wait");
    }
    agent.stop().totals();
}

/// Starts a process that has the socket as its standard input.
fn hold(server: &TcpStream) -> Child {
    let copy = OwnedFd::from(server.try_clone().expect("a copy"));
    Command::new("sleep").arg("1000").stdin(Stdio::from(copy)).spawn().expect("sleep")
}

fn the_one(path: &str, id: &Id) -> Option<Value> {
    list_at(path).into_iter().find(|object| id.is_in(object))
}

/// Returns the owners of a listed socket.
fn pids(object: &Value) -> Vec<u32> {
    let owners = object["owners"].as_array().map_or(&[][..], Vec::as_slice);
    owners.iter().map(|owner| owner["pid"].as_u64().and_then(|pid| pid.try_into().ok()).expect("a pid")).collect()
}

/// Returns the path of a control socket, which the agent removes.
fn control_socket(name: &str) -> String {
    std::env::temp_dir().join(format!("closewait-ended-{name}-{}.sock", std::process::id())).display().to_string()
}
