//! Contract of the events of `run`. `schema` checks the form of every event of every test.

use std::{fs, net::TcpListener, thread, time::Duration};

use serde_json::Value;

use crate::{
    agent::Agent,
    clock::{Window, apart, slowness, undisturbed, wall_seconds},
    net::{Namespace, Pair, V4},
    older::check_known_once,
    schema,
};

#[test]
fn start_tells_what_the_agent_is_and_what_bounds_it() {
    let before = wall_seconds();
    let arguments = ["--max-sockets", "5000", "--ring-buffer", "1048576", "--stuck-after", "1m 30s"];
    let agent = Agent::start(&arguments);
    let start = &agent.events[0];
    assert_eq!((&start["event"], &start["seq"]), (&"start".into(), &0.into()), "{start}");
    assert_eq!(start["version"], env!("CARGO_PKG_VERSION"), "{start}");
    assert_eq!(start["kernel"], fs::read_to_string("/proc/sys/kernel/osrelease").unwrap().trim(), "{start}");
    let limits = &start["limits"];
    assert_eq!((&limits["max_sockets"], &limits["ring_buffer_bytes"]), (&5000.into(), &1_048_576.into()), "{start}");
    assert_eq!(limits["stuck_after_seconds"].as_f64(), Some(90.0), "{start}");
    let time = schema::wall_seconds(start);
    assert!((before - 0.1..=wall_seconds() + 0.1).contains(&time), "{start}");
}

#[test]
fn events_have_the_time_when_they_happened() {
    let mut agent = Agent::start(&["--events", "all"]);
    let ns = Namespace::new();
    let pair = ns.pair(V4);
    let before_fin = wall_seconds();
    pair.fin();
    let after_fin = wall_seconds();
    thread::sleep(Duration::from_millis(100));
    drop(pair.server);
    let after_close = wall_seconds();
    let enter = schema::wall_seconds(&agent.wait_for_socket("enter", &pair.id));
    let leave = schema::wall_seconds(&agent.wait_for_socket("leave", &pair.id));
    assert!((before_fin - apart()..=after_fin + apart()).contains(&enter), "{enter} {before_fin} {after_fin}");
    assert!((after_fin + 0.1 - apart()..=after_close + apart()).contains(&leave), "{leave} {after_fin} {after_close}");
}

#[test]
fn stuck_is_reported_at_the_threshold_and_at_every_doubling() {
    let events: Vec<Value> = undisturbed(|| {
        let mut agent = Agent::start(&["--stuck-after", "200ms", "--events", "all"]);
        let ns = Namespace::new();
        let (pair, _fin) = ns.waiting(V4);
        agent.watch(Duration::from_secs(2));
        agent.stop().of_socket("stuck", &pair.id).into_iter().cloned().collect()
    });
    check_known_once(&events.iter().collect::<Vec<_>>(), 0.2);
    // On a slow machine, inspecting a socket takes long, and so does the pause that follows: the agent may omit
    // reports.
    if slowness() == 1 {
        let ages: Vec<f64> = events.iter().map(|stuck| stuck["dwell_seconds"].as_f64().unwrap()).collect();
        assert_eq!(ages.len(), 4, "{ages:?}");
        for (age, expected) in ages.iter().zip([0.2, 0.4, 0.8, 1.6]) {
            // Not before its time, and no later than a busy machine explains.
            assert!((expected..expected + 0.1).contains(age), "{ages:?}");
        }
    }
}

#[test]
fn a_healthy_socket_is_reported_only_with_all_events() {
    let (healthy, stuck) = undisturbed(|| {
        let mut agent = Agent::start(&["--stuck-after", "400ms"]);
        let ns = Namespace::new();
        let (healthy, stays) = (ns.waiting(V4).0, ns.waiting(V4).0);
        drop(healthy.server);
        agent.wait_for_socket("stuck", &stays.id);
        drop(stays.server);
        agent.wait_for_socket("leave", &stays.id);
        let mut events = agent.stop().events;
        events.retain(|event| healthy.id.is_in(event) || stays.id.is_in(event));
        events.into_iter().partition::<Vec<Value>, _>(|event| healthy.id.is_in(event))
    });
    assert_eq!(healthy, [] as [Value; 0]);
    let kinds: Vec<&Value> = stuck.iter().map(|event| &event["event"]).collect();
    assert_eq!(kinds, ["stuck", "leave"], "{stuck:?}");
    assert!(stuck[1]["dwell_seconds"].as_f64() >= Some(0.4), "{stuck:?}");
}

#[test]
fn the_histogram_counts_all_and_each_port() {
    let mut agent = Agent::start(&["--histogram-every", "500ms"]);
    let ns = Namespace::new();
    let (busy, idle) = (ns.listen(V4), ns.listen(V4));
    let pairs = |listener: &TcpListener, count| -> Vec<Pair> {
        let address = listener.local_addr().unwrap();
        let pairs: Vec<Pair> = (0..count).map(|_| ns.pair_at(listener, address)).collect();
        for pair in &pairs {
            pair.fin();
        }
        pairs
    };
    let (life, unfinished) = Window::around(|| {
        let unfinished = pairs(&busy, 3);
        let finished = [pairs(&busy, 7), pairs(&idle, 2)];
        thread::sleep(Duration::from_millis(100));
        drop(finished);
        unfinished
    });
    agent.watch(Duration::from_millis(1200));
    let ended = agent.stop();
    let of_scope = |scope: &str, port: Option<u16>| -> Vec<&Value> {
        let wanted = |event: &&Value| {
            event["event"] == "histogram"
                && event["scope"] == scope
                && port.is_none_or(|port| event["local_port"] == port)
        };
        ended.events.iter().filter(wanted).collect()
    };
    let sum =
        |events: &[&Value]| -> u64 { events.iter().map(|event| event["finished"]["count"].as_u64().unwrap()).sum() };

    let all = of_scope("all", None);
    assert!(all.len() >= 3, "two intervals and the end: {all:?}");
    assert!(sum(&all) >= 9, "{all:?}");
    assert!(all.last().unwrap()["unfinished"]["count"].as_u64() >= Some(3), "{all:?}");
    for event in &all[..all.len() - 1] {
        assert!(event["window_seconds"].as_f64() >= Some(0.499), "{event}");
    }

    let of_busy = of_scope("local_port", Some(busy.local_addr().unwrap().port()));
    assert_eq!(sum(&of_busy), 7, "{of_busy:?}");
    let last = of_busy.last().unwrap();
    assert_eq!(last["unfinished"]["count"], 3, "{last}");
    assert!(last["unfinished"]["p50_seconds"].as_f64() >= Some(1.0), "{last}");
    // A bucket is up to 1/32 wider than its values.
    let possible = 0.1..(life.to - life.from) * 33.0 / 32.0;
    for event in of_busy.iter().filter(|event| event["finished"]["count"] != 0) {
        for quantile in ["p50_seconds", "p90_seconds", "p99_seconds", "max_seconds"] {
            let dwell = event["finished"][quantile].as_f64().unwrap();
            assert!(possible.contains(&dwell), "{quantile} is not within {possible:?}: {event}");
        }
    }
    let of_idle = of_scope("local_port", Some(idle.local_addr().unwrap().port()));
    assert_eq!(sum(&of_idle), 2, "{of_idle:?}");
    drop(unfinished);
}

#[test]
fn the_totals_at_the_end_count_what_has_happened() {
    let mut agent = Agent::start(&["--events", "all"]);
    let ns = Namespace::new();
    let left: Vec<Pair> = (0..20).map(|_| ns.waiting(V4).0).collect();
    let stays: Vec<Pair> = (0..5).map(|_| ns.waiting(V4).0).collect();
    let last = left.last().unwrap().id.clone();
    drop(left);
    agent.wait_for_socket("leave", &last);
    let ended = agent.stop();
    let totals = ended.totals();
    // In all namespaces: sockets of other programs count too.
    for (name, at_least) in [("entered", 25), ("left", 20), ("tracked", 5)] {
        assert!(totals[name].as_u64() >= Some(at_least), "{name}: {totals}");
    }
    for name in ["lost_ring_full", "lost_map_full", "undecodable"] {
        assert_eq!(totals[name], 0, "{totals}");
    }
    let count = |kind: &str| ended.events.iter().filter(|event| event["event"] == kind).count() as u64;
    assert_eq!((totals["entered"].as_u64(), totals["left"].as_u64()), (Some(count("enter")), Some(count("leave"))));
    drop(stays);
}

#[test]
fn the_agent_ends_by_itself_after_the_time_given() {
    let (run, ended) = Window::around(|| Agent::start(&["--for", "1s"]).join());
    ended.totals();
    assert!((1.0..5.0).contains(&(run.to - run.from)), "{run:?}");

    let at_once = Agent::start(&["--for", "0s"]).join();
    at_once.totals();
    assert_eq!(at_once.events[0]["event"], "start");
}

#[test]
fn both_signals_end_the_agent_with_its_totals() {
    for signal in [libc::SIGINT, libc::SIGTERM] {
        let agent = Agent::start(&[]);
        agent.signal(signal);
        let ended = agent.join();
        ended.totals();
        let histograms = ended.events.iter().filter(|event| event["event"] == "histogram" && event["scope"] == "all");
        assert_eq!(histograms.count(), 1, "the one at the end");
    }
}

#[test]
fn a_full_map_is_counted_and_reported() {
    let mut agent = Agent::start(&["--max-sockets", "16", "--events", "all"]);
    let ns = Namespace::new();
    let pairs: Vec<Pair> = (0..64).map(|_| ns.waiting(V4).0).collect();
    let health = agent.wait_for("`health`", |event| event["event"] == "health");
    assert!(counter(&health, "lost_map_full") >= 1, "{health}");
    drop(pairs);
    let totals = agent.stop().totals().clone();
    assert!(totals["lost_map_full"].as_u64() >= Some(64 - 16), "{totals}");
}

#[test]
fn a_full_ring_buffer_is_counted_and_reported() {
    let mut agent = Agent::start(&["--ring-buffer", "4096", "--events", "all"]);
    let ns = Namespace::new();
    // The agent reads nothing, as without CPU time on a busy machine. The ring has a page: 4096 bytes are fewer than 25 records.
    let room = 25 * rustix::param::page_size() as u64 / 4096;
    let count = 4 * room;
    agent.signal(libc::SIGSTOP);
    let pairs: Vec<Pair> = (0..count).map(|_| ns.waiting(V4).0).collect();
    agent.signal(libc::SIGCONT);
    let health = agent.wait_for("`health`", |event| event["event"] == "health");
    assert!(counter(&health, "lost_ring_full") >= 1, "{health}");
    drop(pairs);
    let totals = agent.stop().totals().clone();
    assert!(totals["lost_ring_full"].as_u64() >= Some(count - room), "{totals}");
    assert!(totals["entered"].as_u64() >= Some(count), "the kernel counts what the ring buffer cannot take: {totals}");
}

/// Returns a counter of `health`, at either place.
fn counter(health: &Value, name: &str) -> u64 {
    health.get("totals").unwrap_or(health)[name].as_u64().expect("a counter")
}
