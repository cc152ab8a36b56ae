//! `closewait list`, compared with `ss`.

use std::{
    collections::BTreeMap,
    net::{IpAddr, SocketAddr},
    process::Command,
};

use serde_json::Value;

use crate::{
    ability::{Ability, can},
    agent::{Finished, closewait, finish},
    clock::{Window, ticks_late},
    leftovers,
    many::{One, flood, ten_thousand},
    net::{Id, Namespace, V4, canonical},
    schema, setup, socket,
};

#[test]
fn list_agrees_with_ss_on_ten_thousand_sockets() {
    let ns = Namespace::new();
    let sockets = ten_thousand(&ns);
    check_list(&ns, &sockets, can(Ability::Types), &mut list_command());
}

#[test]
fn list_agrees_with_ss_where_there_is_no_btf() {
    let ns = Namespace::new();
    let _inhabitant = ns.inhabit();
    // More than one part of an answer to the query.
    let sockets = flood(&ns, 500);
    let mut command = list_command();
    setup::cover(&mut command, &[c"/sys/kernel/btf"]);
    check_list(&ns, &sockets, false, &mut command);
}

/// Checks that the command lists the sockets of the namespace as ss does, with correct ages.
fn check_list(ns: &Namespace, sockets: &[One], has_types: bool, command: &mut Command) {
    let (listing, listed) = Window::around(|| list_by(command));
    let ours = of_namespace(&listed, ns);

    let shown: BTreeMap<_, _> =
        ours.iter().map(|(id, object)| ((id.local, id.remote), object["socket"]["unread_bytes"].as_u64())).collect();
    assert_eq!(shown.len(), ours.len(), "listed twice");
    let expected = ss(ns);
    assert_eq!(expected.len(), sockets.len());
    // Not assert_eq: it would print them all.
    let different = expected.iter().find(|(ends, unread)| shown.get(ends) != Some(&Some(**unread)));
    assert_eq!(different, None, "ss has it, list has {:?}", different.map(|(ends, _unread)| shown.get(ends)));
    assert_eq!(shown.len(), expected.len());

    for one in sockets {
        let object = &ours[&one.id];
        if has_types {
            check_bounds(object, one.fin.until(listing));
        } else {
            // `sock_diag` could report it, but would have to wait for the lock of each socket.
            assert!(object["dwell_at_most_seconds"].is_null(), "{object}");
            assert!(object["dwell_seconds"].as_f64() <= Some(one.fin.until(listing).1), "{object}");
        }
        assert_eq!(object["socket"]["unread_bytes"], one.unread_bytes, "{object}");
        if let Some(cookie) = one.cookie {
            assert_eq!(object["socket"]["cookie"], cookie, "{object}");
        }
        assert_eq!(object["socket"]["inode"], socket::inode(&one.server), "{object}");
    }
    leftovers::assert_none();
}

#[test]
fn list_shows_the_oldest_first_and_nothing_that_has_left() {
    let ns = Namespace::new();
    let pairs: Vec<_> = (0..3)
        .map(|_| {
            let pair = ns.pair(V4);
            pair.fin();
            std::thread::sleep(std::time::Duration::from_millis(100));
            pair
        })
        .collect();
    let gone = ns.pair(V4);
    gone.fin();
    drop(gone.server);
    let listed = list();
    let order: Vec<Id> = listed.iter().filter_map(Id::of_event).filter(|id| id.netns == Some(ns.inode)).collect();
    let expected: Vec<Id> = pairs.iter().map(|pair| pair.id.clone()).collect();
    assert_eq!(order, expected);
}

#[test]
fn filters_and_groups_agree_with_the_whole_list() {
    let ns = Namespace::new();
    let pairs: Vec<_> = (0..3).map(|_| ns.pair(V4)).collect();
    for pair in &pairs {
        pair.fin();
    }
    let (pid, port) = (std::process::id().to_string(), pairs[0].id.remote.port().to_string());
    let filtered = list_by(&mut closewait(&["list", "--output", "json", "--pid", &pid, "--port", &port, "--alone"]));
    let ours = of_namespace(&filtered, &ns);
    assert_eq!(ours.keys().collect::<Vec<_>>(), [&pairs[0].id]);

    let grouped = finish(&mut closewait(&["list", "--output", "json", "--by", "process", "--pid", &pid, "--alone"]));
    assert_eq!(grouped.code, Some(0), "{}", grouped.stderr);
    let groups: Vec<Value> = grouped.stdout.lines().map(|line| serde_json::from_str(line).expect("JSON")).collect();
    groups.iter().for_each(schema::check_grouped);
    let own = groups.iter().find(|group| group["process"]["pid"] == std::process::id()).expect("a group of this test");
    assert!(own["count"].as_u64().is_some_and(|count| count >= 3), "{own}");
}

/// Checks that the true age lies within the bounds.
pub(crate) fn check_bounds(object: &Value, (youngest, oldest): (f64, f64)) {
    let low = object["dwell_seconds"].as_f64().expect("a lower bound");
    assert!(low <= oldest + ticks_late(), "said to be older than {oldest}: {object}");
    let high =
        if object["exact"] == true { low } else { object["dwell_at_most_seconds"].as_f64().expect("an upper bound") };
    assert!(high >= youngest - ticks_late(), "said to be younger than {youngest}: {object}");
}

/// Returns all objects of `closewait list`.
pub(crate) fn list() -> Vec<Value> {
    list_by(&mut list_command())
}

/// Returns all objects that the agent at this socket lists.
pub(crate) fn list_at(socket: &str) -> Vec<Value> {
    list_by(list_command().args(["--socket", socket]))
}

fn list_command() -> Command {
    closewait(&["list", "--output", "json"])
}

/// Returns all objects of a command that the test has prepared.
pub(crate) fn list_by(command: &mut Command) -> Vec<Value> {
    objects(&finish(command))
}

/// Returns the objects of a command, which has to succeed.
pub(crate) fn objects(listed: &Finished) -> Vec<Value> {
    assert_eq!(listed.code, Some(0), "{}", listed.stderr);
    let parse = |line: &str| {
        let object = serde_json::from_str(line).unwrap_or_else(|error| panic!("not JSON: {error}: {line:?}"));
        schema::check_listed(&object);
        object
    };
    listed.stdout.lines().map(parse).collect()
}

/// Returns the objects of one namespace by identity, each once.
pub(crate) fn of_namespace(listed: &[Value], ns: &Namespace) -> BTreeMap<Id, Value> {
    let mut ours = BTreeMap::new();
    for object in listed.iter().filter(|object| object["socket"]["netns"] == ns.inode) {
        let id = Id::of_event(object).expect("two ends");
        assert!(ours.insert(id, object.clone()).is_none(), "a second time: {object}");
    }
    ours
}

/// Returns both endpoints and the receive queue of all sockets of `ss` in the namespace.
pub(crate) fn ss(ns: &Namespace) -> BTreeMap<(SocketAddr, SocketAddr), u64> {
    ns.run(ss_here)
}

/// Returns both endpoints and the receive queue of all sockets of `ss` in the caller's namespace.
pub(crate) fn ss_here() -> BTreeMap<(SocketAddr, SocketAddr), u64> {
    let output = Command::new("ss").args(["-tanH", "state", "close-wait"]).output().expect("ss");
    let text = String::from_utf8(output.stdout).expect("UTF-8");
    let parse = |line: &str| {
        let columns: Vec<&str> = line.split_ascii_whitespace().collect();
        let [unread, _unsent, local, remote] = columns[..] else { panic!("not a line of ss: {line:?}") };
        ((end(local), end(remote)), unread.parse().expect("a number"))
    };
    text.lines().map(parse).collect()
}

/// Parses `127.0.0.1:80`, `[::1]:80` and `[::ffff:127.0.0.1]:80`, as ss writes them.
fn end(text: &str) -> SocketAddr {
    let (address, port) = text.rsplit_once(':').expect("a port");
    let address: IpAddr = address.trim_matches(['[', ']']).parse().expect("an address");
    canonical(SocketAddr::new(address, port.parse().expect("a port number")))
}
