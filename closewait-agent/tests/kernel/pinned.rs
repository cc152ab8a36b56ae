//! Agents that follow each other with pinned maps.

use std::{
    fs,
    net::{TcpListener, TcpStream},
    os::unix::fs::{PermissionsExt as _, chown},
    path::{Path, PathBuf},
    process::{self, Command},
    thread,
    time::Duration,
};

use aya::maps::{Array, HashMap, Map, MapData};
use closewait_common::{
    kept::{Kept, LAYOUT, OLDEST_LAYOUT},
    names,
    slots::{self, Slot},
};
use serde_json::{Value, json};

use crate::{
    agent::{Agent, Ended, closewait, finish},
    clock::Window,
    confinement::LASTING,
    leaving::check_dwell,
    net::{Id, Namespace, V4},
    passes, schema,
    setup::{self, NOBODY, PublicBinary},
};

/// The test's own BPF file system. Everything pinned in it is gone when this is dropped.
struct Pins {
    mount: PathBuf,
    dir: String,
}

impl Pins {
    fn new(test: &str) -> Self {
        let mount = std::env::temp_dir().join(format!("closewait-bpf-{}-{test}", process::id()));
        fs::create_dir(&mount).expect("a folder");
        setup::mount_bpf(&mount);
        let dir = mount.join("closewait").to_str().expect("a path in UTF-8").to_owned();
        Self { mount, dir }
    }

    fn start(&self, arguments: &[&str]) -> Agent {
        self.start_with("all", arguments)
    }

    /// Starts an agent with these events: if they are not all, the kernel program defers records of entries.
    fn start_with(&self, events: &str, arguments: &[&str]) -> Agent {
        // Several agents with one socket would be in each other's way.
        let socket = self.mount.with_extension("socket");
        let socket = socket.to_str().expect("a path in UTF-8");
        Agent::start(&[&["--pin", &self.dir, "--events", events, "--socket", socket], arguments].concat())
    }

    fn file(&self, name: &str) -> PathBuf {
        Path::new(&self.dir).join(name)
    }
}

impl Drop for Pins {
    fn drop(&mut self) {
        setup::unmount(&self.mount);
        // If this fails, the folder stays, which is harmless.
        let _result = fs::remove_dir(&self.mount);
        let _result = fs::remove_file(self.mount.with_extension("socket"));
    }
}

/// Kills the agent as an OOM killer does. Returns its events.
fn kill(agent: Agent) -> Vec<Value> {
    agent.signal(libc::SIGKILL);
    let ended = agent.join();
    assert_eq!(ended.code, None, "{}", ended.stderr);
    ended.events
}

fn pinned(agent: &Agent) -> &Value {
    &agent.events[0]["pinned"]
}

/// Returns the number of dwell times that the histograms of these events count as finished, over all sockets.
fn finished(events: &[Value]) -> u64 {
    let all = events.iter().filter(|event| event["event"] == "histogram" && event["scope"] == "all");
    all.map(|event| event["finished"]["count"].as_u64().expect("a count")).sum()
}

/// Closes a socket. Returns the time of it.
fn close(server: TcpStream) -> Window {
    Window::around(|| drop(server)).0
}

fn leave_of<'a>(ended: &'a Ended, id: &Id) -> &'a Value {
    let of = ended.of_socket("leave", id);
    assert_eq!(of.len(), 1, "{id}: {of:?}");
    of[0]
}

#[test]
fn after_a_kill_ages_are_exact_and_what_happened_meanwhile_is_reported_once() {
    let pins = Pins::new("kill");
    let ns = Namespace::new();
    let first = pins.start(&["--stuck-after", "500ms", "--histogram-every", "200ms"]);
    assert_eq!(pinned(&first), "fresh");
    let mut seen = first;
    let stays = ns.waiting(V4);
    let leaves_between = ns.waiting(V4);
    let leaves_before = ns.waiting(V4);
    seen.wait_for_socket("stuck", &leaves_before.0.id);
    let closed_before = close(leaves_before.0.server);
    let leave = seen.wait_for_socket("leave", &leaves_before.0.id);
    check_dwell(&leave, leaves_before.1.until(closed_before));
    seen.watch(Duration::from_millis(500));
    let before = kill(seen);

    // Nothing reads the ring buffer now.
    let closed_between = close(leaves_between.0.server);
    let came_between = ns.waiting(V4);
    let short = ns.waiting(V4);
    let closed_short = close(short.0.server);
    thread::sleep(Duration::from_millis(100));

    let mut second = pins.start(&["--stuck-after", "500ms", "--histogram-every", "200ms"]);
    assert_eq!(pinned(&second), "adopted");
    second.wait_for_socket("stuck", &came_between.0.id);
    let closed = [(stays, "stays"), (came_between, "came between")].map(|((pair, fin), what)| {
        second.wait_for_socket("stuck", &pair.id);
        (pair.id, fin, close(pair.server), what)
    });
    for (id, ..) in &closed {
        second.wait_for_socket("leave", id);
    }
    second.watch(Duration::from_millis(500));
    let ended = second.stop();
    check_dwell(leave_of(&ended, &leaves_between.0.id), leaves_between.1.until(closed_between));
    check_dwell(leave_of(&ended, &short.0.id), short.1.until(closed_short));
    for (id, fin, closing, what) in closed {
        let leave = leave_of(&ended, &id);
        assert_eq!(leave["exact"], true, "{what}: {leave}");
        check_dwell(leave, fin.until(closing));
    }
    assert!(ended.of_socket("leave", &leaves_before.0.id).is_empty(), "told by both");

    // The kernel's counts continue, and each dwell time is in one window of one of the two.
    let totals = ended.totals();
    let count = |name: &str| totals[name].as_u64().expect("a count");
    assert!(count("entered") >= 5 && count("left") >= 5, "{totals}");
    assert_eq!((count("lost_ring_full"), count("replaced")), (0, 0), "{totals}");
    let (before, after) = (finished(&before), finished(&ended.events));
    assert!(before >= 1 && after >= 4, "{before} and {after}");
    // The host may have sockets that are older than the program.
    assert_eq!(before + after, count("left") - count("left_unseen"), "{totals}");
}

/// Connects clients that leave their sockets stuck, until the agent opens an incident on this port. Returns its event.
fn grow_until_incident(agent: &mut Agent, ns: &Namespace, listener: &TcpListener, kept: &mut Vec<TcpStream>) -> Value {
    let address = listener.local_addr().expect("the listener's address");
    let is_ours = |event: &Value| event["event"] == "pileup" && event["group"]["local_port"] == address.port();
    for _ in 0..300 {
        drop(ns.connect(address));
        kept.push(listener.accept().expect("accept").0);
        agent.watch(Duration::from_millis(50));
        if let Some(event) = agent.events.iter().find(|event| is_ours(event)) {
            return event.clone();
        }
    }
    panic!("no incident in {:?}", agent.events.last());
}

#[test]
fn an_incident_keeps_its_identity_over_a_restart() {
    let pins = Pins::new("incident");
    let ns = Namespace::new();
    let listener = ns.listen(V4);
    let mut kept = Vec::new();
    let mut first = pins.start(&["--stuck-after", "1s"]);
    let before = grow_until_incident(&mut first, &ns, &listener, &mut kept);
    kill(first);
    let mut second = pins.start(&["--stuck-after", "1s"]);
    assert_eq!(pinned(&second), "adopted");
    let after = grow_until_incident(&mut second, &ns, &listener, &mut kept);
    assert_eq!((&before["state"], &after["state"]), (&"opened".into(), &"opened".into()));
    assert_eq!(before["id"], after["id"], "{before} {after}");
    // The anchors of the two agents differ by the time between two readings of the clocks.
    let onset = |event: &Value| schema::wall_seconds(&json!({ "time": event["onset"]["first_stuck"] }));
    assert!((onset(&before) - onset(&after)).abs() < 0.01, "{before} {after}");
    // Events of its sockets have the identity too.
    let is_of_incident = |event: &Value| event["event"] == "stuck" && event["incident"] == after["id"];
    second.wait_for("`stuck` of the incident", is_of_incident);
    drop(kept);
    let end = second.wait_for("`pileup_end`", |event| event["event"] == "pileup_end" && event["id"] == after["id"]);
    assert_eq!(end["state"], "resolved", "{end}");
    second.stop().totals();
    let mut other = Vec::new();
    let mut third = pins.start(&["--stuck-after", "1s"]);
    let later = grow_until_incident(&mut third, &ns, &listener, &mut other);
    assert_ne!(later["id"], after["id"], "a later incident of the same port is another one");
}

#[test]
fn what_the_kernel_counts_without_an_agent_is_told_by_the_next_one() {
    let (pins, ns) = (Pins::new("passes"), Namespace::new());
    let listener = ns.listen(V4);
    let port = listener.local_addr().expect("an address").port();
    let of_port = |events: &[Value]| {
        let own = events.iter().filter(|event| event["event"] == "histogram" && event["local_port"] == port);
        own.map(|event| event["finished"]["count"].as_u64().expect("a count")).sum::<u64>()
    };
    // The windows end before the kill, and so does the counting of the first flow by the first agent.
    let mut first = pins.start_with("stuck", &["--histogram-every", "200ms"]);
    passes::pass(&ns, &listener, 2000, true);
    first.watch(Duration::from_secs(1));
    assert_eq!(of_port(&kill(first)), 2000);
    passes::pass(&ns, &listener, 500, true);
    let mut second = pins.start_with("stuck", &["--histogram-every", "200ms"]);
    assert_eq!(pinned(&second), "adopted");
    passes::pass(&ns, &listener, 2000, true);
    second.watch(Duration::from_secs(1));
    let ended = second.stop();
    assert_eq!(of_port(&ended.events), 2500);
}

#[test]
fn agents_of_nobody_follow_each_other_in_a_folder_of_their_own() {
    let (pins, binary) = (Pins::new("nobody"), PublicBinary::new());
    // As systemd mounts it: only root may even list it.
    fs::set_permissions(&pins.mount, fs::Permissions::from_mode(0o700)).expect("permissions of the file system");
    fs::create_dir(&pins.dir).expect("a folder");
    chown(&pins.dir, Some(NOBODY), Some(NOBODY)).expect("another owner");
    let socket = pins.mount.with_extension("socket");
    let start = || {
        let mut command = Command::new(&binary.path);
        command
            .args(["run", "--output", "json", "--stuck-after", "300ms", "--pin", &pins.dir, "--socket"])
            .arg(&socket);
        setup::become_nobody(&mut command, &LASTING);
        Agent::spawn(&mut command)
    };
    let ns = Namespace::new();
    let first = start();
    assert_eq!(pinned(&first), "fresh");
    let (pair, fin) = ns.waiting(V4);
    kill(first);
    let mut second = start();
    assert_eq!(pinned(&second), "adopted");
    second.wait_for_socket("stuck", &pair.id);
    let closing = close(pair.server);
    check_dwell(&second.wait_for_socket("leave", &pair.id), fin.until(closing));
}

#[test]
fn an_agent_with_another_program_keeps_the_ages() {
    let pins = Pins::new("upgrade");
    let ns = Namespace::new();
    let first = pins.start(&["--stuck-after", "60s"]);
    let (pair, fin) = ns.waiting(V4);
    kill(first);
    // With `--events stuck` the kernel program has the threshold, so it is another one.
    let mut command = crate::agent::run_command(&["--pin", &pins.dir, "--stuck-after", "300ms"]);
    let mut second = Agent::spawn(&mut command);
    assert_eq!(pinned(&second), "maps_adopted");
    second.wait_for_socket("stuck", &pair.id);
    let closing = close(pair.server);
    let leave = second.wait_for_socket("leave", &pair.id);
    assert_eq!(leave["exact"], true, "{leave}");
    check_dwell(&leave, fin.until(closing));
}

#[test]
fn a_second_agent_is_refused_and_the_first_continues() {
    let pins = Pins::new("second");
    let ns = Namespace::new();
    let mut first = pins.start(&["--stuck-after", "300ms"]);
    for arguments in [&["run", "--pin", &pins.dir][..], &["run", "--unpin", "--pin", &pins.dir]] {
        let second = finish(&mut closewait(arguments));
        assert_eq!(second.code, Some(1), "{second:?}");
        assert!(second.stderr.contains("another agent uses"), "{second:?}");
    }
    let (pair, _fin) = ns.waiting(V4);
    first.wait_for_socket("stuck", &pair.id);
    // Without the pins, it runs beside.
    let mut beside = Agent::start(&["--stuck-after", "300ms"]);
    beside.wait_for_socket("stuck", &pair.id);
    drop(pair.server);
    for mut agent in [first, beside] {
        agent.wait_for_socket("leave", &pair.id);
    }
}

#[test]
fn the_ages_in_the_maps_of_an_earlier_layout_are_kept() {
    let pins = Pins::new("older");
    let ns = Namespace::new();
    let first = pins.start(&[]);
    let (pair, fin) = ns.waiting(V4);
    kill(first);
    // Before slots, every socket was in the hash map.
    let map = |name| MapData::from_pin(pins.file(name)).expect("a pinned map");
    let slots: Array<_, Slot> = Map::Array(map(names::SLOTS)).try_into().expect("an array of slots");
    let mut since: HashMap<_, u64, u64> = Map::HashMap(map(names::SINCE)).try_into().expect("a map of times");
    let mut notes: Array<_, Kept> = Map::Array(map(names::KEPT)).try_into().expect("an array of notes");
    let taken = slots.iter().flatten().filter(|slot| slot.0[slots::OWNER] != 0).collect::<Vec<_>>();
    assert!(!taken.is_empty(), "the socket has a slot");
    for slot in taken {
        since.insert(slot.0[slots::OWNER] & !slots::CLAIMS, slot.0[slots::ENTERED_NS], 0).expect("a time of entry");
    }
    let kept = notes.get(&0, 0).expect("the notes");
    assert_eq!(kept.layout, LAYOUT);
    notes.set(0, Kept { layout: OLDEST_LAYOUT, program: kept.program ^ 1, ..kept }, 0).expect("changed notes");
    fs::remove_file(pins.file(names::SLOTS)).expect("no slots");
    fs::remove_file(pins.file(names::PASSES)).expect("no counts of passes");
    let mut second = pins.start(&["--stuck-after", "300ms"]);
    assert_eq!(pinned(&second), "maps_adopted");
    assert_eq!(notes.get(&0, 0).expect("the notes").layout, LAYOUT);
    second.wait_for_socket("stuck", &pair.id);
    let (later, entered) = ns.waiting(V4);
    second.wait_for_socket("stuck", &later.id);
    for (pair, fin) in [(pair, fin), (later, entered)] {
        let closing = close(pair.server);
        let leave = second.wait_for_socket("leave", &pair.id);
        assert_eq!(leave["exact"], true, "{leave}");
        check_dwell(&leave, fin.until(closing));
    }
    kill(second);
    assert_eq!(pinned(&pins.start(&["--stuck-after", "300ms"])), "adopted");
}

#[test]
fn what_has_another_layout_is_replaced_and_never_read() {
    let pins = Pins::new("layout");
    let ns = Namespace::new();
    let (pair, _fin) = ns.waiting(V4);
    kill(pins.start(&[]));
    let notes = MapData::from_pin(pins.file(names::KEPT)).map(Map::Array).expect("the notes");
    let mut notes: Array<_, Kept> = notes.try_into().expect("an array of notes");
    let kept = notes.get(&0, 0).expect("the notes");
    notes.set(0, Kept { layout: kept.layout + 1, ..kept }, 0).expect("changed notes");
    drop(notes);
    let mut second = pins.start(&["--stuck-after", "300ms"]);
    assert_eq!(pinned(&second), "replaced");
    let degraded = second.events[0]["degraded"].to_string();
    assert!(degraded.contains("(its layout has version"), "{degraded}");
    // Now it is older than the program.
    let stuck = second.wait_for_socket("stuck", &pair.id);
    assert_eq!(stuck["exact"], false, "{stuck}");
    kill(second);
    // Pins of an agent that was interrupted before they were complete.
    fs::remove_file(pins.file(names::KEPT)).expect("no notes");
    let third = pins.start(&[]);
    assert_eq!(pinned(&third), "replaced");
    assert!(third.events[0]["degraded"].to_string().contains("not complete"));
}

#[test]
fn other_sizes_are_refused_in_words_and_unpin_makes_room_for_them() {
    let pins = Pins::new("sizes");
    let first = pins.start(&["--max-sockets", "1000"]);
    assert_eq!(first.stop().code, Some(0));
    assert!(pins.file("link").exists(), "it ends with the agent");
    let second = pins.start(&["--max-sockets", "2000"]);
    assert_eq!(second.events[0]["limits"]["max_sockets"], 1000, "{}", second.events[0]);
    let degraded = second.events[0]["degraded"].to_string();
    assert!(degraded.contains("--max-sockets stays 1000 and not 2000"), "{degraded}");
    second.stop();
    let unpinned = finish(&mut closewait(&["run", "--unpin", "--pin", &pins.dir]));
    assert_eq!((unpinned.code, Path::new(&pins.dir).exists()), (Some(0), false), "{unpinned:?}");
    let third = pins.start(&["--max-sockets", "2000"]);
    assert_eq!((pinned(&third), &third.events[0]["limits"]["max_sockets"]), (&"fresh".into(), &2000.into()));
}

#[test]
fn a_folder_elsewhere_is_refused() {
    let dir = std::env::temp_dir().join(format!("closewait-elsewhere-{}", process::id()));
    let refused = finish(&mut closewait(&["run", "--pin", dir.to_str().expect("UTF-8")]));
    assert_eq!(refused.code, Some(78), "{refused:?}");
    assert!(refused.stderr.contains("not on a BPF file system") && !dir.exists(), "{refused:?}");
}

#[test]
fn pins_and_folders_of_another_user_stay_as_they_are() {
    let pins = Pins::new("foreign");
    let mode = |dir: &Path| fs::metadata(dir).expect("a folder").permissions().mode() & 0o7777;
    let set = |dir: &Path, mode| fs::set_permissions(dir, fs::Permissions::from_mode(mode)).expect("another mode");
    let refused = |dir: &Path| {
        let before = mode(dir);
        let files = || fs::read_dir(dir).expect("a folder").count();
        let count = files();
        for unpin in [&[][..], &["--unpin"]] {
            let arguments = [&["run", "--pin", dir.to_str().expect("UTF-8")], unpin].concat();
            let refused = finish(&mut closewait(&arguments));
            if count == 0 && !unpin.is_empty() {
                assert!(refused.stderr.contains("nothing is pinned in"), "{refused:?}");
            } else {
                assert_eq!(refused.code, Some(78), "{refused:?}");
                assert!(refused.stderr.contains("cannot be used for pins: "), "{refused:?}");
                assert!(refused.stderr.contains("hint: "), "{refused:?}");
            }
            assert_eq!((mode(dir), files()), (before, count), "{refused:?}");
        }
    };
    set(&pins.mount, 0o1777);
    refused(&pins.mount);
    kill(pins.start(&[]));
    set(&pins.mount, 0o1777);
    refused(&pins.mount);
    let theirs = MapData::from_pin(pins.file(names::KEPT)).expect("a map");
    let dir = pins.mount.join("other");
    for names in [&["link", "program", "theirs"][..], &["theirs"], &[names::RING]] {
        fs::create_dir(&dir).expect("a folder");
        for name in names {
            theirs.pin(dir.join(name)).expect("a pin");
        }
        for mode in [0o755, 0o700] {
            set(&dir, mode);
            refused(&dir);
        }
        fs::remove_dir_all(&dir).expect("no folder");
    }
    fs::create_dir(&dir).expect("a folder");
    chown(&dir, Some(NOBODY), Some(NOBODY)).expect("another owner");
    set(&dir, 0o755);
    let of_another = finish(&mut closewait(&["run", "--pin", dir.to_str().expect("UTF-8")]));
    assert_eq!((of_another.code, mode(&dir)), (Some(78), 0o755), "{of_another:?}");
    // A file of another program in an agent's folder.
    theirs.pin(pins.file("theirs")).expect("a pin");
    assert_eq!(pins.start(&[]).stop().code, Some(0));
    let unpinned = finish(&mut closewait(&["run", "--unpin", "--pin", &pins.dir]));
    assert_eq!(unpinned.code, Some(0), "{unpinned:?}");
    assert!(unpinned.stderr.contains("the directory stays"), "{unpinned:?}");
    assert_eq!(fs::read_dir(&pins.dir).expect("the folder").count(), 1, "{unpinned:?}");
}

#[test]
fn the_next_agent_knows_the_sockets_whose_entries_had_no_record_yet() {
    for next in ["stuck", "all"] {
        let pins = Pins::new(&format!("deferred-{next}"));
        let ns = Namespace::new();
        let first = pins.start_with("stuck", &["--stuck-after", "1s"]);
        let mut waiting: Vec<_> = (0..20).map(|_| ns.waiting(V4)).collect();
        kill(first);
        // No agent announces these.
        waiting.extend((0..20).map(|_| ns.waiting(V4)));
        let (short, fin) = ns.waiting(V4);
        let closed_short = close(short.server);

        let mut second = pins.start_with(next, &["--stuck-after", "1s"]);
        let mut closed = Vec::new();
        for (pair, fin) in waiting {
            if next == "all" {
                second.wait_for_socket("enter", &pair.id);
            }
            second.wait_for_socket("stuck", &pair.id);
            closed.push((pair.id, fin, close(pair.server)));
        }
        for (id, ..) in &closed {
            second.wait_for_socket("leave", id);
        }
        let ended = second.stop();
        for (id, fin, closing) in closed {
            let leave = leave_of(&ended, &id);
            assert_eq!(leave["exact"], true, "{leave}");
            check_dwell(leave, fin.until(closing));
            assert!(ended.of_socket("enter", &id).len() <= 1, "{id}: one entry");
        }
        if next == "all" {
            check_dwell(leave_of(&ended, &short.id), fin.until(closed_short));
            assert_eq!(ended.of_socket("enter", &short.id).len(), 1, "its exit reports both");
        }
        let totals = ended.totals();
        assert_eq!((&totals["repaired"], &totals["phantom"]), (&json!(0), &json!(0)), "{totals}");
    }
}
