//! The classic tracepoint, for kernels without BTF.

use std::{
    collections::VecDeque,
    fs,
    io::{Read as _, Write as _},
    net::SocketAddr,
    thread,
    time::Duration,
};

use serde_json::Value;

use crate::{
    ability::{Ability, can},
    agent::{Agent, finish, run_command},
    clock::{Window, boot_seconds},
    leaving::check_dwell,
    listing::check_bounds,
    net::{Namespace, Pair, V4, V6},
    setup,
};

#[test]
fn the_classic_hook_sees_sockets_enter_stay_and_leave() {
    let ns = Namespace::new();
    let mut agent = start(&["--hook", "classic", "--events", "all", "--stuck-after", "300ms"]);
    let pairs = [V4, V6].map(|address| ns.waiting(address));
    for (pair, fin) in pairs {
        let id = pair.id.in_any_namespace();
        agent.wait_for_socket("enter", &id);
        let stuck = agent.wait_for_socket("stuck", &id);
        assert!(stuck["dwell_seconds"].as_f64() >= Some(0.3), "{stuck}");
        let (closing, ()) = Window::around(|| drop(pair.server));
        let leave = agent.wait_for_socket("leave", &id);
        assert_eq!(leave["how"], "closed", "{leave}");
        assert_eq!(leave["closer"]["pid"], std::process::id(), "{leave}");
        check_dwell(&leave, fin.until(closing));
    }
}

#[test]
fn the_classic_hook_leaves_no_mount_behind_and_shows_none() {
    let before = mounts();
    let agent = start(&["--hook", "classic"]);
    assert_eq!(mounts(), before, "while the agent runs");
    agent.stop().totals();
    assert_eq!(mounts(), before, "after the agent has ended");
}

/// Returns the verdicts on sockets of port 8080, without those from the time before any was closed.
fn later_verdicts(events: &[Value]) -> Vec<&Value> {
    let ours = events.iter().filter(|event| event["socket"]["local"]["port"] == 8080);
    let later = ours.skip_while(|event| event["event"] != "leave").filter(|event| event["event"] == "stuck");
    later.map(|event| &event["verdict"]).collect()
}

/// Records of the classic tracepoint have neither the namespace nor the side. Scans find both, which must not
/// separate present sockets from exited ones. Without BTF the agent lists no listener there: it can no longer enter
/// the server's namespace.
#[test]
fn a_slow_server_is_not_blamed_with_the_classic_hook() {
    const STAYS: Duration = Duration::from_millis(1500);
    const ENOUGH: usize = 5;
    let ns = Namespace::new();
    let _inhabitant = ns.inhabit();
    let listener = ns.listen(SocketAddr::new(V4.ip(), 8080));
    let address = listener.local_addr().expect("the listener's address");
    let mut agent = start(&["--hook", "classic", "--stuck-after", "1s"]);
    let mut serving = VecDeque::new();
    // A busy machine needs more connections for as many verdicts.
    let mut rounds = 0..300;
    while rounds.next().is_some_and(|round| round < 60 || later_verdicts(&agent.events).len() < ENOUGH) {
        let Pair { mut client, mut server, .. } = ns.pair_at(&listener, address);
        client.write_all(b"?").expect("write");
        server.read_exact(&mut [0]).expect("read");
        drop(client);
        serving.push_back((boot_seconds() + STAYS.as_secs_f64(), server));
        agent.watch(Duration::from_millis(100));
        while serving.front().is_some_and(|(until, _)| *until <= boot_seconds()) {
            serving.pop_front();
        }
    }
    let ended = agent.stop();
    let verdicts = later_verdicts(&ended.events);
    assert!(verdicts.len() >= ENOUGH, "{verdicts:?}");
    // Received and sent data distinguishes it from other causes; without the kernel's types they are unknown.
    let right = if can(Ability::Types) { &["transient"][..] } else { &["transient", "unknown"] };
    let wrong: Vec<_> =
        verdicts.iter().filter(|verdict| right.iter().all(|right| verdict["class"] != *right)).collect();
    assert!(wrong.is_empty(), "{} of {}: {}", wrong.len(), verdicts.len(), wrong[0]);
}

#[test]
fn older_sockets_are_known_to_the_classic_hook_too() {
    check_older(can(Ability::Types), || start(&["--hook", "classic", "--stuck-after", "500ms"]));
}

#[test]
fn a_kernel_without_btf_gets_the_classic_hook_unasked() {
    check_older(false, || {
        let mut command = run_command(&["--stuck-after", "500ms"]);
        setup::cover(&mut command, &[c"/sys/kernel/btf"]);
        let agent = Agent::spawn(&mut command);
        check_hook(&agent, "tracepoint");
        agent
    });
}

#[test]
fn a_kernel_with_btf_gets_the_hook_that_needs_it() {
    if !can(Ability::Types) {
        assert_eq!(finish(&mut run_command(&["--hook", "btf"])).code, Some(69));
        return;
    }
    for arguments in [&[][..], &["--hook", "btf"]] {
        check_hook(&Agent::start(arguments), "tp_btf");
    }
}

#[test]
fn the_same_addresses_in_two_namespaces_are_two_older_sockets_without_btf() {
    let namespaces = [Namespace::new(), Namespace::new()];
    let _inhabitants = namespaces.each_ref().map(Namespace::inhabit);
    let _pairs = namespaces.each_ref().map(|ns| {
        let pair = ns.pair_between(SocketAddr::new(V4.ip(), 7001), SocketAddr::new(V4.ip(), 7002));
        pair.fin();
        pair
    });
    let mut command = run_command(&["--stuck-after", "500ms"]);
    setup::cover(&mut command, &[c"/sys/kernel/btf"]);
    let mut agent = Agent::spawn(&mut command);
    for ns in &namespaces {
        agent.wait_for("`stuck` in each namespace", |event| {
            event["event"] == "stuck" && event["socket"]["netns"] == ns.inode
        });
    }
}

/// Checks that sockets from before `start` get stuck, and exit with an age between two bounds.
fn check_older(has_types: bool, start: impl FnOnce() -> Agent) {
    let ns = Namespace::new();
    // Without iterators a namespace has to be entered, and so it has to be found.
    let _inhabitant = ns.inhabit();
    let older = [V4, V6].map(|address| ns.waiting(address));
    thread::sleep(Duration::from_millis(500));
    let before = mounts();
    let mut agent = start();
    for (pair, fin) in older {
        let id = pair.id.in_any_namespace();
        let stuck = agent.wait_for_socket("stuck", &id);
        assert_eq!(stuck["exact"], false, "{stuck}");
        let (closing, ()) = Window::around(|| drop(pair.server));
        let leave = agent.wait_for_socket("leave", &id);
        assert_eq!((&leave["how"], &leave["exact"]), (&"closed".into(), &false.into()), "{leave}");
        if has_types {
            check_bounds(&leave, fin.until(closing));
        } else {
            // `sock_diag` could report it, but would have to wait for the lock of each socket.
            assert!(leave["dwell_at_most_seconds"].is_null(), "{leave}");
            assert!(leave["dwell_seconds"].as_f64() <= Some(fin.until(closing).1), "{leave}");
        }
    }
    assert_eq!(mounts(), before);
    agent.stop().totals();
}

fn start(arguments: &[&str]) -> Agent {
    let agent = Agent::start(arguments);
    check_hook(&agent, "tracepoint");
    agent
}

fn check_hook(agent: &Agent, expected: &str) {
    let start: &Value = &agent.events[0];
    assert_eq!((&start["event"], &start["hook"]), (&"start".into(), &expected.into()), "{start}");
}

fn mounts() -> String {
    fs::read_to_string("/proc/self/mountinfo").expect("the mounts of this process")
}
