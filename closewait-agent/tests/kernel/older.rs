//! Sockets that are older than the agent, or enter while it starts.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::{Shutdown, TcpStream},
    sync::atomic::{AtomicBool, Ordering},
    thread,
    time::Duration,
};

use serde_json::Value;

use crate::{
    ability::{Ability, can},
    agent::{Agent, run_command},
    clock::{Window, apart, boot_from_wall, boot_seconds, slowness, undisturbed},
    leaving::check_dwell,
    listing::{check_bounds, list, of_namespace},
    net::{Id, Namespace, V4, V6},
    schema,
};

#[test]
fn an_older_socket_has_an_age_between_two_bounds() {
    let ns = Namespace::new();
    let older = [V4, V6].map(|address| ns.waiting(address));
    thread::sleep(Duration::from_secs(1));
    let mut agent = Agent::start(&["--stuck-after", "1s"]);
    for (pair, fin) in older {
        let stuck = agent.wait_for_socket("stuck", &pair.id);
        check_age(&stuck, fin);
        let (closing, ()) = Window::around(|| drop(pair.server));
        let leave = agent.wait_for_socket("leave", &pair.id);
        assert_eq!((&leave["how"], &leave["exact"]), (&"closed".into(), &false.into()), "{leave}");
        check_bounds(&leave, fin.until(closing));
    }
    assert!(agent.stop().totals()["left_unseen"].as_u64() >= Some(2));
}

#[test]
fn an_older_socket_that_is_not_accepted_is_reported_as_such_at_once_and_later() {
    let ns = Namespace::new();
    let _inhabitant = ns.inhabit();
    let unaccepted = unaccepted(&ns);
    thread::sleep(Duration::from_millis(1200));
    let mut agent = Agent::start(&["--stuck-after", "1s"]);
    for _ in 0..2 {
        let stuck = agent.wait_for_socket("stuck", &unaccepted.id);
        assert_eq!(stuck["socket"]["accepted"], false, "{stuck}");
        assert_eq!(stuck["verdict"]["class"], "never_accepted", "{stuck}");
    }
}

#[test]
fn an_older_socket_of_the_agents_own_namespace_is_known_once() {
    let ns = Namespace::new();
    let older = [V4, V6].map(|address| ns.waiting(address));
    let unaccepted = unaccepted(&ns);
    let mut agent = ns.run(|| Agent::spawn(&mut run_command(&["--stuck-after", "500ms"])));
    for (pair, fin) in &older {
        check_age(&agent.wait_for_socket("stuck", &pair.id), *fin);
    }
    let stuck = agent.wait_for_socket("stuck", &unaccepted.id);
    assert_eq!((&stuck["socket"]["accepted"], &stuck["socket"]["inode"]), (&false.into(), &Value::Null), "{stuck}");
    agent.watch(Duration::from_millis(200));
    let ended = agent.stop();
    for id in [&older[0].0.id, &older[1].0.id, &unaccepted.id] {
        check_known_once(&ended.of_socket("stuck", id), 0.5);
    }
}

#[test]
fn an_older_socket_in_a_namespace_where_processes_live_is_known_without_being_accepted() {
    let ns = Namespace::new();
    let mut inhabitant = ns.inhabit();
    let unaccepted = unaccepted(&ns);
    let mut agent = Agent::start(&["--stuck-after", "500ms"]);
    let stuck = agent.wait_for_socket("stuck", &unaccepted.id);
    assert_eq!((&stuck["socket"]["accepted"], &stuck["socket"]["inode"]), (&false.into(), &Value::Null), "{stuck}");
    assert_eq!(stuck["socket"]["role"], "server", "{stuck}");
    check_age(&stuck, unaccepted.fin);
    inhabitant.end();

    drop(unaccepted.listener);
    let leave = agent.wait_for_socket("leave", &unaccepted.id);
    assert_eq!((&leave["how"], &leave["exact"]), (&"listener_closed".into(), &false.into()), "{leave}");
}

#[test]
fn a_namespace_where_nobody_lives_is_seen_where_the_kernel_lists_open_files() {
    let ns = Namespace::deserted();
    let (pair, _fin) = ns.waiting(V4);
    let listed = of_namespace(&list(), &ns);
    assert_eq!(listed.contains_key(&pair.id), can(Ability::Files));
}

#[test]
fn sockets_that_come_while_the_agent_starts_are_known_once_each() {
    let ns = Namespace::new();
    let arguments = ["--stuck-after", "2s", "--events", "all"];
    let (mut agent, watching_since, sockets) = start_amid(&arguments, |number| {
        thread::sleep(Duration::from_micros(500));
        ns.waiting(if number % 2 == 0 { V4 } else { V6 })
    });

    let listed = of_namespace(&list(), &ns);
    assert_eq!(listed.len(), sockets.len());
    let mut missing: BTreeSet<&Id> = sockets.iter().map(|(pair, _fin)| &pair.id).collect();
    agent.wait_for("all of them", |event| {
        if event["event"] == "stuck" {
            missing.remove(&Id::of_event(event).unwrap());
        }
        missing.is_empty()
    });
    // For sockets that would be reported a second time.
    agent.watch(Duration::from_millis(200));
    let ended = agent.stop();
    let mut stuck: BTreeMap<Id, Vec<&Value>> = BTreeMap::new();
    for event in ended.events.iter().filter(|event| event["event"] == "stuck") {
        stuck.entry(Id::of_event(event).unwrap()).or_default().push(event);
    }
    for (pair, fin) in &sockets {
        let events = &stuck[&pair.id];
        check_known_once(events, 2.0);
        assert!(ended.of_socket("leave", &pair.id).is_empty(), "said to have left: {}", pair.id);
        check_age(events[0], *fin);
        if fin.from > watching_since {
            assert_ne!(events[0].get("exact"), Some(&false.into()), "{}", events[0]);
        }
    }
}

#[test]
fn sockets_that_come_and_go_while_the_agent_starts_are_not_kept() {
    let kept: Vec<Value> = undisturbed(|| {
        let ns = Namespace::new();
        let (mut agent, _watching_since, _rounds) = start_amid(&["--stuck-after", "300ms"], |number| {
            let pair = ns.waiting(if number % 2 == 0 { V4 } else { V6 });
            // Long enough for some to be present at each scan.
            thread::sleep(Duration::from_millis(if number % 4 == 0 { 5 } else { 0 }));
            drop(pair);
        });
        agent.watch(Duration::from_millis(700));
        agent.events.iter().filter(|event| event["socket"]["netns"] == ns.inode).cloned().collect()
    });
    assert_eq!(kept, [] as [Value; 0]);
}

#[test]
fn a_socket_older_than_one_agent_is_exact_for_another() {
    let mut before = Agent::start(&["--events", "all"]);
    let ns = Namespace::new();
    let (pair, fin) = ns.waiting(V4);
    let mut after = Agent::start(&["--events", "all"]);
    let (closing, ()) = Window::around(|| drop(pair.server));
    check_dwell(&before.wait_for_socket("leave", &pair.id), fin.until(closing));
    // `--events all` reports every exit, even one whose entry was not observed.
    let leave = after.wait_for_socket("leave", &pair.id);
    assert_eq!(leave["exact"], false, "{leave}");
    check_bounds(&leave, fin.until(closing));
}

/// Starts the agent while another thread does `work` repeatedly, with a counter from 0. Returns the agent, the time
/// from which it certainly watched, and the results of the work.
fn start_amid<T: Send>(arguments: &[&str], work: impl Fn(usize) -> T + Sync) -> (Agent, f64, Vec<T>) {
    /// Guard that ends the other thread when this one fails.
    struct Stop<'a>(&'a AtomicBool);
    impl Drop for Stop<'_> {
        fn drop(&mut self) {
            self.0.store(true, Ordering::Relaxed);
        }
    }
    let stop = AtomicBool::new(false);
    thread::scope(|scope| {
        let worker = scope.spawn(|| (0..4_000).take_while(|_| !stop.load(Ordering::Relaxed)).map(&work).collect());
        let stop = Stop(&stop);
        thread::sleep(Duration::from_millis(200));
        let agent = Agent::start(arguments);
        let watching_since = boot_seconds();
        thread::sleep(Duration::from_millis(200));
        drop(stop);
        let made: Vec<T> = worker.join().expect("the other thread");
        let fewest = 100 / slowness() as usize;
        assert!((fewest..4_000).contains(&made.len()), "{} rounds", made.len());
        (agent, watching_since, made)
    })
}

/// Socket in CLOSE_WAIT that waits to be accepted.
struct Unaccepted {
    listener: std::net::TcpListener,
    _client: TcpStream,
    id: Id,
    fin: Window,
}

fn unaccepted(ns: &Namespace) -> Unaccepted {
    let listener = ns.listen(V4);
    let client = ns.connect(listener.local_addr().expect("the listener's address"));
    let id = ns.id_of_peer(&client);
    let (mut fin, ()) = Window::around(|| client.shutdown(Shutdown::Write).expect("shutdown"));
    // Without a descriptor the test cannot observe the FIN; the kernel has it long before this.
    thread::sleep(Duration::from_millis(50));
    fin.to = boot_seconds();
    Unaccepted { listener, _client: client, id, fin }
}

/// Checks that the true age at the time of the event lies within its bounds.
fn check_age(event: &Value, fin: Window) {
    // The time of an event is one of the wall clock.
    let at = boot_from_wall(schema::wall_seconds(event));
    check_bounds(event, fin.until(Window { from: at - apart(), to: at + apart() }));
}

/// Checks that all events are of one socket, each with a greater age: `threshold`, or twice the age before.
pub(crate) fn check_known_once(stuck: &[&Value], threshold: f64) {
    assert!(!stuck.is_empty());
    for pair in stuck.windows(2) {
        assert_eq!(pair[0]["socket"]["cookie"], pair[1]["socket"]["cookie"], "{} {}", pair[0], pair[1]);
    }
    let mut next = threshold;
    for event in stuck {
        let dwell = event["dwell_seconds"].as_f64().expect("an age");
        assert!(dwell >= next, "not yet {next} s: {event}");
        while next <= dwell {
            next *= 2.0;
        }
    }
}
