//! Facts that differ between architectures: names of system calls in a recording, the size of pages.

use std::{
    env, fs,
    io::{Read as _, Write as _},
    net::TcpStream,
    os::fd::AsRawFd as _,
    path::Path,
    process, thread,
    time::Duration,
};

use closewait_engine::{model::InspectionFact, process::ThreadGroup, text::Comm};

use crate::{
    ability::tell,
    agent::{Agent, closewait, finish},
    net::{Namespace, V4},
    progress::Recording,
};

/// Environment variable with a folder that keeps the recording, for `tests/replay.rs`. `CLOSEWAIT_RECORD` would make every agent
/// record.
const RECORD: &str = "CLOSEWAIT_TEST_RECORD";
/// Call in which poll(3) of the C library waits. rustix makes the second one everywhere.
const POLL: &str = if cfg!(target_arch = "x86_64") { "poll" } else { "ppoll" };
/// Time between two requests.
const EVERY: Duration = Duration::from_millis(200);
/// Maximum number of requests.
const MAX_REQUESTS: usize = 100;
/// Name of the threads that serve.
const WORKER: &str = "worker";

/// Waits in poll(3) until the other end of `upstream` closes, and keeps the connection of a client that has gone.
fn serve(upstream: TcpStream, client: TcpStream) {
    let spawned = thread::Builder::new().name(WORKER.to_owned()).spawn(move || {
        let mut waited = libc::pollfd { fd: upstream.as_raw_fd(), events: libc::POLLIN, revents: 0 };
        // SAFETY: the call reads and writes one entry, which outlives it.
        while unsafe { libc::poll(&raw mut waited, 1, -1) } < 0 {}
        drop(client);
    });
    spawned.expect("a thread");
}

#[test]
fn threads_of_a_hang_wait_in_calls_of_this_architecture_also_in_a_recording() {
    let (recording, ns) = (Recording::new("calls"), Namespace::new());
    let mut agent = Agent::start(&["--stuck-after", "1s", "--record", recording.path()]);
    let (listener, database) = (ns.listen(V4), ns.listen(V4));
    let address = listener.local_addr().expect("an address");
    let upstream = database.local_addr().expect("an address");
    let mut answers = Vec::new();
    let is_open = |agent: &Agent| {
        let port = address.port();
        agent.events.iter().any(|event| event["event"] == "pileup" && event["group"]["local_port"] == port)
    };
    while !is_open(&agent) {
        assert!(answers.len() < MAX_REQUESTS, "no incident after {MAX_REQUESTS} requests");
        let mut pair = ns.pair_at(&listener, address);
        pair.client.write_all(b"?").expect("write");
        pair.server.read_exact(&mut [0]).expect("read");
        let to_upstream = ns.pair_at(&database, upstream);
        serve(to_upstream.client, pair.server);
        answers.push(to_upstream.server);
        drop(pair.client);
        agent.watch(EVERY);
    }
    // The end has another inspection.
    agent.watch(Duration::from_secs(3));
    agent.stop().totals();

    let is_worker = |group: &&ThreadGroup| group.comms.contains(&Comm::from_name(WORKER.as_bytes()));
    let of = |fact| {
        let InspectionFact::Process { process, .. } = fact else { return None };
        (process.pid == process::id()).then_some(process)
    };
    let facts = recording.facts();
    let inspected: Vec<_> = facts.into_iter().filter_map(of).collect();
    let last = inspected.last().expect("an inspection of this process");
    let workers: Vec<_> = last.groups.iter().filter(is_worker).collect();
    let names: Vec<_> = workers.iter().map(|group| group.syscall.and_then(|call| call.name())).collect();
    assert!(!names.is_empty() && names.iter().all(|name| *name == Some(POLL)), "{workers:?}");
    let replay = finish(&mut closewait(&["replay", "--output", "json", recording.path()]));
    assert_eq!(replay.code, Some(0), "{}", replay.stderr);
    assert!(replay.stdout.contains(&format!(" threads wait in {POLL}")), "{}", replay.stdout);
    if let Some(folder) = env::var_os(RECORD) {
        let file = Path::new(&folder).join(format!("{}.recording", env::consts::ARCH));
        fs::copy(recording.path(), file).expect("a folder for the recording");
    }
}

#[test]
fn a_ring_buffer_of_less_than_a_page_is_a_page_and_reported_as_one() {
    let page = rustix::param::page_size();
    tell("pages", &format!("{} KiB", page / 1024));
    let mut agent = Agent::start(&["--ring-buffer", "4096"]);
    let start = agent.wait_for("`start`", |event| event["event"] == "start");
    assert_eq!(start["limits"]["ring_buffer_bytes"], page, "{start}");
    let ns = Namespace::new();
    let (pair, _fin) = ns.waiting(V4);
    drop(pair.server);
    agent.watch(Duration::from_secs(1));
    assert_eq!(agent.stop().totals()["lost_ring_full"], 0);
}
