//! A host with more work than CPUs, and one on which everything that can fail fails at once.

use std::{
    collections::BTreeSet, fs, io::Write as _, os::unix::net::UnixStream, process::Command, thread, time::Duration,
};

use serde_json::Value;

use crate::{
    agent::{Agent, Ended, Running, closewait, finish},
    clock::{boot_seconds, patience, poll_until, slowness},
    control::question,
    fuse::{FileSystem, Mode},
    listing::{objects, of_namespace},
    logging::Fifos,
    many::{One, flood},
    memory::{Cgroup, LIMIT},
    net::{Id, Namespace, V4},
    socket::check,
    unresponsive::hand_over,
};

/// Number of programs that use all their CPU time: ten for each CPU of a small host.
const SPINNING: usize = 20;
/// Dwell time at which sockets are stuck, seconds.
const STUCK: f64 = 1.0;
/// Maximum delay of an event, seconds: one for an inspection, one for its cost, and the scheduler's part.
const LATE: f64 = 3.0;
/// Number of silent clients: more than may wait for answers.
const CLIENTS: usize = 24;
/// Returns the time of the failures, seconds: a minute, less in a guest.
fn broken() -> f64 {
    if slowness() == 1 { 60.0 } else { 20.0 }
}

#[test]
fn on_a_busy_host_each_socket_that_gets_stuck_is_reported_in_time_or_left_as_one() {
    let ns = Namespace::new();
    let mut agent = Agent::start(&["--stuck-after", "1s"]);
    let _load = spin(SPINNING);
    let began = boot_seconds();
    let (mut waiting, mut stayed) = (Vec::new(), Vec::new());
    while boot_seconds() - began < 12.0 {
        // Some are closed before they are due, some when they are, some later, and some stay.
        let life = [0.5, 1.05, 2.5, 60.0][waiting.len() % 4];
        let (pair, fin) = ns.waiting(V4);
        waiting.push((pair, fin, life));
        let now = boot_seconds();
        let (over, rest): (Vec<_>, Vec<_>) = waiting.into_iter().partition(|(_, fin, life)| fin.to + life <= now);
        waiting = rest;
        for (pair, fin, _) in over {
            let id = pair.id.clone();
            drop(pair);
            stayed.push((id, boot_seconds() - fin.from));
        }
        agent.watch(Duration::from_millis(50));
    }
    agent.watch(Duration::from_secs_f64(STUCK + LATE * f64::from(slowness())));
    let now = boot_seconds();
    stayed.extend(waiting.iter().map(|(pair, fin, _)| (pair.id.clone(), now - fin.from)));
    let ended = agent.stop();
    let (mut late, mut told) = (Vec::new(), 0);
    for (id, age) in &stayed {
        told += usize::from(check_reported(&ended, id, *age, &mut late));
    }
    assert!(told > 20, "{told} of {} sockets were stuck", stayed.len());
    assert!(late.is_empty(), "{} of {told} too late, the first: {}", late.len(), late[0]);
}

/// Returns whether a socket of this age was stuck. Checks that its event came in time, or that it exited as a stuck
/// one.
fn check_reported(ended: &Ended, id: &Id, age: f64, late: &mut Vec<String>) -> bool {
    let (stuck, left) = (ended.of_socket("stuck", id), ended.of_socket("leave", id));
    if let Some(first) = stuck.first() {
        let dwell = first["dwell_seconds"].as_f64().expect("an age");
        if dwell - STUCK > LATE * f64::from(slowness()) {
            late.push(first.to_string());
        }
        return true;
    }
    let said = left.iter().any(|leave| leave["stuck"] == true);
    // The known age is inexact: the FIN arrived some time before the test observed it.
    assert!(said || age < STUCK + LATE * f64::from(slowness()), "nothing was said of {id} after {age} s");
    said
}

/// Breaks a file system, the log, the recording, clients, descriptors, memory and CPUs at once, while sockets enter
/// and exit.
#[test]
fn with_everything_broken_at_once_the_agent_continues_and_knows_what_is_there_in_the_end() {
    let (ns, fifos) = (Namespace::new(), Fifos::new("everything"));
    let [(log, log_reader), (recording, recording_reader)] = ["log", "recording"].map(|name| fifos.unread(name));
    let arguments = ["--histogram-every", "50ms", "--record", &recording];
    let command = fifos.agent(&arguments, &format!("2> {log}"));
    let cgroup = Cgroup::limited(LIMIT);
    let mut agent = match &cgroup {
        Some(cgroup) => Agent::spawn(&mut cgroup.inside(&command)),
        None => Agent::spawn(&mut { command }),
    };
    // Even if the agent tries to get more.
    let limit = fs::read_dir(format!("/proc/{}/fd", agent.pid())).expect("its descriptors").count() + 2;
    let hung = FileSystem::mount("everything");
    let owners: Vec<_> = hung
        .iter()
        .flat_map(|hung| (0..3).map(move |_| hung))
        .map(|hung| {
            let (owner, handed) = hand_over(hung.command(), ns.pair(V4));
            handed.fin();
            (owner, handed)
        })
        .collect();
    let _load = spin(SPINNING / 2);
    hung.iter().for_each(|hung| hung.set(Mode::Hangs));
    let path = fifos.path("agent.sock");
    let _clients: Vec<_> = (0..CLIENTS).filter_map(|_| ask_and_stay_silent(&path)).collect();

    let kept = flood(&ns, 50);
    let began = boot_seconds();
    let mut round = 0;
    while boot_seconds() - began < broken() {
        limit_descriptors(agent.pid(), if round % 2 == 0 { limit } else { 4096 });
        let gone = flood(&ns, 25);
        agent.watch(Duration::from_millis(if round % 3 == 0 { 1500 } else { 100 }));
        drop(gone);
        round += 1;
    }
    limit_descriptors(agent.pid(), 4096);
    hung.iter().for_each(|hung| hung.set(Mode::Answers));

    // Each remaining socket is known to be stuck, and no other is listed.
    for one in &kept {
        agent.wait_for_socket("stuck", &one.id);
    }
    let there: BTreeSet<Id> =
        kept.iter().map(|one| &one.id).chain(owners.iter().map(|(_, handed)| &handed.id)).cloned().collect();
    let mut said = String::new();
    let mut tracked = || {
        let listed = finish(&mut closewait(&["list", "--output", "json", "--socket", &path]));
        said = listed.stderr.clone();
        of_namespace(&objects(&listed), &ns).into_keys().collect::<BTreeSet<Id>>()
    };
    let all = poll_until(patience() * 2, || tracked() == there);
    let tracked = tracked();
    drop((log_reader, recording_reader));
    let ended = end(agent);
    let different: Vec<&Id> = tracked.symmetric_difference(&there).collect();
    assert!(all, "{different:?}; list said {said:?}, and the agent {}", ended.totals());
    assert_counts(&ended, &kept, &ns);
    assert_eq!(cgroup.map_or(0, |cgroup| cgroup.killed()), 0, "nothing was killed for want of memory");
    owners.into_iter().for_each(|(mut owner, _handed)| owner.end());
}

fn end(agent: Agent) -> Ended {
    let began = boot_seconds();
    agent.signal(libc::SIGTERM);
    let ended = agent.join();
    let took = boot_seconds() - began;
    assert!(took < 5.0 * f64::from(slowness()), "{took} s to end");
    ended
}

/// Checks that each socket that entered has exited, is still there, or was counted as lost.
fn assert_counts(ended: &Ended, kept: &[One], ns: &Namespace) {
    let totals = ended.totals();
    let count = |name: &str| totals[name].as_u64().unwrap_or_default();
    assert!(count("entered") > kept.len() as u64, "{totals}");
    assert!(count("log_lines_dropped") > 0, "{totals}");
    let stuck: BTreeSet<Id> =
        ended.events.iter().filter(|event| event["event"] == "stuck").filter_map(Id::of_event).collect();
    assert!(kept.iter().all(|one| stuck.contains(&one.id)));
    // Owners that the agent could not search for are unknown, and not empty.
    let ours = |event: &&Value| event["event"] == "stuck" && event["socket"]["netns"] == ns.inode;
    let stuck = ended.events.iter().filter(ours);
    let nobodys: Vec<&Value> = stuck.filter(|event| event["owners"] == Value::Array(Vec::new())).collect();
    assert!(nobodys.is_empty(), "{} said to be held by nobody: {:?}", nobodys.len(), nobodys.first());
}

/// Sends a query for all sockets, and reads no answer.
fn ask_and_stay_silent(path: &str) -> Option<UnixStream> {
    let mut stream = UnixStream::connect(path).ok()?;
    stream.write_all(question().as_bytes()).ok()?;
    Some(stream)
}

fn spin(count: usize) -> Vec<Running> {
    // It ends after ten minutes of CPU time, also if this test is killed.
    let one = |_| Running::spawn(Command::new("sh").args(["-c", "ulimit -t 600; while :; do :; done"]));
    let load = (0..count).map(one).collect();
    thread::sleep(Duration::from_millis(200));
    load
}

fn limit_descriptors(pid: u32, count: usize) {
    let limit = libc::rlimit { rlim_cur: count as libc::rlim_t, rlim_max: 4096 };
    // SAFETY: the pointer is to a live struct that the call reads; the old limit is not requested.
    check(
        unsafe { libc::prlimit(pid.cast_signed(), libc::RLIMIT_NOFILE, &raw const limit, std::ptr::null_mut()) },
        "prlimit",
    );
}
