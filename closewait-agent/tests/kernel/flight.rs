//! `run --record DIR/`: segments that roll, that a kill does not spoil, and that wait for room on a full disk.

use std::{
    fs::{self, File},
    io::{ErrorKind, Write as _},
    net::TcpListener,
    os::unix::fs::{PermissionsExt as _, chown},
    panic,
    path::{Path, PathBuf},
    process::{self, Command},
    thread,
    time::Duration,
};

use serde_json::Value;

use crate::{
    agent::{Agent, Finished, closewait, finish, run_command},
    clock::{boot_seconds, patience, poll_until, slowness},
    confinement::{LASTING, assert_confined},
    net::{Namespace, V4},
    setup::{self, NOBODY, PublicBinary},
};

/// Settings of an agent whose segments end after 64 KiB, a sixteenth of the limit.
const SMALL: [&str; 6] = ["--events", "all", "--stuck-after", "300ms", "--retain", "1h,1M"];
/// Maximum size of all segments with [`SMALL`], bytes.
const LIMIT: u64 = 1 << 20;
/// Longest answer of an agent that waits for nothing, seconds.
const AT_ONCE: f64 = 2.0;

/// Directory of a flight recording, and a control socket beside it. Both go away at the end of the test.
struct FlightFolder {
    above: PathBuf,
    segments: PathBuf,
}

impl FlightFolder {
    fn new(name: &str) -> Self {
        Self::of_user(name, 0)
    }

    fn of_user(name: &str, user: u32) -> Self {
        let above = std::env::temp_dir().join(format!("closewait-flight-{}-{name}", process::id()));
        fs::create_dir(&above).expect("a folder");
        chown(&above, Some(user), Some(user)).expect("its owner");
        Self { segments: above.join("segments"), above }
    }

    /// Returns the arguments of an agent that records here.
    fn arguments(&self) -> [String; 4] {
        let text = |path: &Path| path.to_str().expect("UTF-8").to_owned();
        let folder = text(&self.segments) + "/";
        ["--record".to_owned(), folder, "--socket".to_owned(), text(&self.above.join("agent.sock"))]
    }

    /// Starts an agent that records here.
    fn agent(&self, arguments: &[&str]) -> Agent {
        Agent::spawn(run_command(arguments).args(self.arguments()))
    }

    fn list(&self) -> Finished {
        let [.., socket] = self.arguments();
        finish(&mut closewait(&["list", "--output", "json", "--socket", &socket]))
    }

    /// Returns the paths of all segments, oldest first.
    fn all(&self) -> Vec<PathBuf> {
        let entries = fs::read_dir(&self.segments).expect("the directory").map(|entry| entry.expect("an entry").path());
        let mut all: Vec<_> = entries.filter(|path| path.extension().is_some_and(|name| name == "segment")).collect();
        all.sort();
        all
    }

    /// Returns the number of the newest segment.
    fn newest(&self) -> u64 {
        self.all().last().map_or(0, |path| number(path))
    }

    /// Returns the output of a command on the recording.
    fn play(&self, command: &str, arguments: &[&str]) -> Finished {
        play(command, &self.segments, arguments)
    }
}

impl Drop for FlightFolder {
    fn drop(&mut self) {
        // If this fails, the folder stays among other temporary ones, which is harmless.
        let _result = fs::remove_dir_all(&self.above);
    }
}

/// Returns the number in the name of a segment.
fn number(segment: &Path) -> u64 {
    let digits = segment.file_stem().and_then(|name| name.to_str()?.strip_prefix("closewait-")).expect("a name");
    digits.parse().expect("a number")
}

/// Returns the output of a command on a recording.
fn play(command: &str, recording: &Path, arguments: &[&str]) -> Finished {
    let finished = finish(closewait(&[command]).arg(recording).args(arguments));
    assert_eq!(finished.code, Some(0), "{command} {}: {}", recording.display(), finished.stderr);
    finished
}

/// Returns events without their numbers: those of a replay begin with its first event.
fn events(lines: &str) -> Vec<Value> {
    let event = |line| {
        let mut event: Value = serde_json::from_str(line).expect("JSON");
        event.as_object_mut().expect("an object").remove("seq").expect("a number");
        event
    };
    lines.lines().map(event).collect()
}

/// Lets sockets enter and exit until `done`.
fn churn_until(agent: &mut Agent, ns: &Namespace, what: &str, done: impl Fn(&Agent) -> bool) {
    let end = boot_seconds() + patience().as_secs_f64();
    while !done(agent) {
        assert!(boot_seconds() < end, "waited in vain until {what}");
        for _ in 0..100 {
            drop(ns.waiting(V4));
        }
        agent.watch(Duration::from_millis(20));
    }
}

/// Fills a file system with a file.
fn fill(path: &Path) {
    let mut file = File::create(path).expect("a file");
    // In the end byte by byte: a page has room for small writes.
    for size in [1 << 16, 1 << 12, 1] {
        let error = loop {
            if let Err(error) = file.write_all(&vec![0; size]) {
                break error;
            }
        };
        assert_eq!(error.kind(), ErrorKind::StorageFull, "{error}");
    }
}

#[test]
fn a_full_disk_causes_one_gap_and_the_agent_continues() {
    // On a thread of its own: the disk exists only for it and for what it starts.
    let done = thread::spawn(|| {
        setup::own_mounts().expect("a mount namespace");
        on_a_full_disk();
    });
    done.join().unwrap_or_else(|cause| panic::resume_unwind(cause));
}

fn on_a_full_disk() {
    let folder = FlightFolder::new("full");
    setup::mount_tmpfs(&folder.above, 2 << 20);
    let (ns, ballast) = (Namespace::new(), folder.above.join("ballast"));
    let mut agent = folder.agent(&["--events", "all", "--stuck-after", "300ms", "--retain", "1h"]);
    let (before, _fin) = ns.waiting(V4);
    agent.wait_for_socket("stuck", &before.id);
    assert_eq!(folder.newest(), 1);

    fill(&ballast);
    let is_counted = |event: &Value| event["event"] == "health" && event["recordings_failed"] == 1;
    churn_until(&mut agent, &ns, "the failure is counted", |agent| agent.events.iter().any(is_counted));
    // The first attempt to continue, after 10 s, fails, too. Meanwhile nothing waits for the disk.
    let (during, began) = (ns.waiting(V4).0, boot_seconds());
    let stuck = agent.wait_for_socket("stuck", &during.id);
    assert!(stuck["dwell_seconds"].as_f64() < Some(0.3 + AT_ONCE * f64::from(slowness())), "{stuck}");
    while boot_seconds() < began + 12.0 {
        let asked = boot_seconds();
        let listed = folder.list();
        let took = boot_seconds() - asked;
        assert!(listed.code == Some(0) && !listed.stderr.contains("scanning without it"), "{listed:?}");
        assert!(took < AT_ONCE * f64::from(slowness()), "an answer took {took} s");
        agent.watch(Duration::from_millis(300));
    }
    assert_eq!(folder.newest(), 1, "nothing of a segment without room stays");

    fs::remove_file(&ballast).expect("the ballast");
    let continues = || folder.newest() > 1;
    // The second attempt comes 20 s after the first.
    assert!(poll_until(patience() + Duration::from_secs(10), continues), "the recording does not continue");
    let (after, _fin) = ns.waiting(V4);
    agent.wait_for_socket("stuck", &after.id);
    let ended = agent.stop();
    assert_eq!(ended.totals()["recordings_failed"], 1);
    let said = |text: &str| ended.stderr.matches(text).count();
    assert_eq!(said("the recording has a gap from here, the agent continues: write failed: "), 1, "{}", ended.stderr);
    assert_eq!(said("\nhint: make room on its disk, or give less to --retain"), 1, "{}", ended.stderr);
    assert_eq!(said("the recording continues after "), 1, "{}", ended.stderr);

    let again = folder.play("replay", &["--output", "json", "--events", "all"]);
    assert!(again.stderr.contains("observations are missing, in "), "{}", again.stderr);
    let (again, live) = (events(&again.stdout), events(&ended.stdout));
    let has = |kind: &str, id| again.iter().any(|event| event["event"] == kind && crate::net::Id::is_in(id, event));
    assert!(has("stuck", &before.id) && has("stuck", &after.id) && !has("stuck", &during.id), "{again:#?}");
    // The state behind the gap has everything that happened in it.
    assert_eq!(again.last(), live.last());
    let stuck = folder.play("report", &["--output", "json"]).stdout;
    assert!(stuck.contains(&format!("\"local_port\":{},", during.id.local.port())), "{stuck}");
    setup::unmount(&folder.above);
}

#[test]
fn a_confined_agent_creates_a_removed_directory_again() {
    let (folder, ns) = (FlightFolder::new("removed"), Namespace::new());
    let mut agent = folder.agent(&["--events", "all", "--stuck-after", "300ms"]);
    let (before, _fin) = ns.waiting(V4);
    agent.wait_for_socket("stuck", &before.id);
    assert_confined(&agent, &LASTING, &LASTING, 0);
    fs::remove_dir_all(&folder.segments).expect("the directory");
    let is_counted = |event: &Value| event["event"] == "health" && event["unrecorded"].as_u64() > Some(0);
    churn_until(&mut agent, &ns, "the gap is counted", |agent| agent.events.iter().any(is_counted));
    // The first attempt to continue comes after 10 s.
    let continues = || folder.segments.exists() && folder.newest() > 1;
    churn_until(&mut agent, &ns, "the recording continues", |_| continues());
    let (after, _fin) = ns.waiting(V4);
    agent.wait_for_socket("stuck", &after.id);
    let ended = agent.stop();
    assert_eq!(ended.totals()["recordings_failed"], 1);
    let said = |text: &str| ended.stderr.matches(text).count();
    let gap = "the recording has a gap from here, the agent continues: write failed: closewait-0000000001.segment was removed";
    assert_eq!(said(gap), 1, "{}", ended.stderr);
    assert_eq!(said("\nhint: leave the files of a running agent in their place"), 1, "{}", ended.stderr);
    assert_eq!(said("the recording continues after "), 1, "{}", ended.stderr);
    assert!(said("for the recording") >= 2, "both creations are reported: {}", ended.stderr);
    let again = folder.play("replay", &["--output", "json", "--events", "all"]);
    let (again, live) = (events(&again.stdout), events(&ended.stdout));
    // The state behind the gap has everything that happened in it, and the counts.
    assert_eq!(again.last(), live.last());
    assert!(again.iter().any(|event| event["event"] == "stuck" && after.id.is_in(event)));
}

/// Checks an agent of a user after it has deleted its first segments.
fn check_rolled(folder: &FlightFolder, agent: &Agent, user: u32) {
    assert_confined(agent, &LASTING, &LASTING, user);
    let foreign = folder.segments.join("closewait-0000000000.segment");
    assert_eq!(fs::read_to_string(foreign).expect("the foreign file"), "precious");
}

/// Creates the directory with a file that only looks like a segment.
fn with_foreign_file(folder: &FlightFolder, user: u32) {
    let foreign = folder.segments.join("closewait-0000000000.segment");
    fs::create_dir(&folder.segments).expect("the directory");
    fs::write(&foreign, "precious").expect("a file");
    for path in [&folder.segments, &foreign] {
        chown(path, Some(user), Some(user)).expect("its owner");
        fs::set_permissions(path, fs::Permissions::from_mode(0o700)).expect("its mode");
    }
}

#[test]
fn a_confined_agent_of_root_rolls_its_segments_by_size() {
    let (folder, ns) = (FlightFolder::new("size"), Namespace::new());
    with_foreign_file(&folder, 0);
    let mut agent = folder.agent(&SMALL);
    let (pair, _fin) = ns.waiting(V4);
    agent.wait_for_socket("stuck", &pair.id);
    let size = |path: &PathBuf| fs::metadata(path).map_or(0, |found| found.len());
    let oldest = || folder.all().iter().map(|path| number(path)).find(|number| *number > 0);
    churn_until(&mut agent, &ns, "the first segments are deleted", |_| {
        // The newest first: only that one grows, and the others can only go meanwhile. A new segment is on the disk before the oldest
        // one is deleted, so there can be more for a moment.
        let fits = || folder.all().iter().rev().map(size).sum::<u64>() <= LIMIT;
        assert!(poll_until(patience(), fits), "too many bytes in {:?}", folder.all());
        oldest() > Some(3)
    });
    check_rolled(&folder, &agent, 0);
    let ended = agent.stop();
    assert_eq!(ended.totals()["recordings_failed"], 0, "{}", ended.stderr);
    assert!(!ended.stderr.contains("an old segment of the recording stays"), "{}", ended.stderr);
    // The state of the oldest segment that is left has the socket that entered before it.
    fs::remove_file(folder.segments.join("closewait-0000000000.segment")).expect("the foreign file");
    let (again, live) = (folder.play("replay", &["--output", "json", "--events", "all"]), events(&ended.stdout));
    let again = events(&again.stdout);
    assert!(again.len() > 100 && live.ends_with(&again), "{} of {} events", again.len(), live.len());
    assert!(!again.iter().any(|event| event["event"] == "enter" && pair.id.is_in(event)));
    let report = folder.play("report", &["--output", "json"]).stdout;
    assert!(report.contains(&format!("\"local_port\":{}", pair.id.local.port())), "{report}");
}

#[test]
fn a_confined_agent_of_nobody_rolls_its_segments_by_time() {
    let (folder, ns, binary) = (FlightFolder::of_user("time", NOBODY), Namespace::new(), PublicBinary::new());
    with_foreign_file(&folder, NOBODY);
    let mut command = Command::new(&binary.path);
    command.args(["run", "--output", "json", "--events", "all", "--stuck-after", "300ms", "--retain", "10s,1M"]);
    command.args(folder.arguments());
    setup::become_nobody(&mut command, &LASTING);
    let mut agent = Agent::spawn(&mut command);
    let (pair, _fin) = ns.waiting(V4);
    agent.wait_for_socket("stuck", &pair.id);
    let first = folder.segments.join("closewait-0000000001.segment");
    assert!(first.exists());
    churn_until(&mut agent, &ns, "the first segment is deleted", |_| !first.exists());
    assert!(folder.newest() > 1, "{:?}", folder.all());
    check_rolled(&folder, &agent, NOBODY);
    let ended = agent.stop();
    assert_eq!(ended.totals()["recordings_failed"], 0, "{}", ended.stderr);
    assert!(!ended.stderr.contains("an old segment of the recording stays"), "{}", ended.stderr);
}

#[test]
fn after_a_kill_each_segment_and_the_readable_part_of_the_last_one_are_played() {
    let (folder, ns) = (FlightFolder::new("killed"), Namespace::new());
    let mut agent = folder.agent(&SMALL);
    // While they are open, no other socket gets the port of one of them, and with it its group.
    let listeners: Vec<_> = (0..5).map(|_| ns.listen(V4)).collect();
    let address = |listener: &TcpListener| listener.local_addr().expect("the listener's address");
    let stuck: Vec<_> = listeners.iter().map(|listener| ns.pair_at(listener, address(listener))).collect();
    for pair in &stuck {
        pair.fin();
        agent.wait_for_socket("stuck", &pair.id);
    }
    churn_until(&mut agent, &ns, "there are four segments", |_| folder.newest() >= 4);
    // In the middle of the segment, once some of its events are in the file, and before it is full.
    let arguments = ["--output", "json", "--events", "all"];
    let is_written = poll_until(patience(), || {
        (0..20).for_each(|_| drop(ns.waiting(V4)));
        let last = folder.all().pop().expect("a segment");
        let has_room = fs::metadata(&last).is_ok_and(|file| file.len() < 32 << 10);
        has_room && !events(&play("replay", &last, &arguments).stdout).is_empty()
    });
    assert!(is_written, "{:?}", folder.all());
    agent.signal(libc::SIGKILL);
    let ended = agent.join();
    assert_eq!(ended.code, None, "{}", ended.stderr);
    let newest = folder.newest();

    let whole = folder.play("replay", &arguments);
    let (live, whole_events) = (events(&ended.stdout), events(&whole.stdout));
    // The oldest segments are deleted if it took long to get here.
    let oldest = folder.all().first().map_or(0, |path| number(path));
    let kept = live.iter().position(|event| Some(event) == whole_events.first()).expect("the first replayed event");
    assert!(
        whole_events.starts_with(&live[kept..]) && (kept == 0 || oldest > 1),
        "{} of {} events, from {kept}; segments {oldest} to {newest}",
        whole_events.len(),
        live.len()
    );
    assert!(whole.stderr.contains("has no end") || whole.stderr.contains("is cut at byte"), "{}", whole.stderr);
    // Each segment alone has its part of the events.
    let (segments, mut parts, mut with_events) = (folder.all(), Vec::new(), 0);
    for segment in &segments {
        let part = play("replay", segment, &arguments);
        let is_last = segment == segments.last().expect("the last segment");
        assert_eq!(part.stderr.contains("the next segment of its directory continues it"), !is_last, "{}", part.stderr);
        let part = events(&part.stdout);
        // Inspections can fill a segment, too.
        with_events += usize::from(!part.is_empty());
        parts.extend(part);
    }
    assert!(with_events >= 2, "{with_events} of {} segments have events", segments.len());
    let different = parts.iter().zip(&whole_events).find(|(part, whole)| part != whole);
    assert!(parts == whole_events, "{} of {} events: {different:#?}", parts.len(), whole_events.len());

    let report = folder.play("report", &["--last", "1m", "--output", "json"]);
    let report: Value = serde_json::from_str(&report.stdout).expect("JSON");
    let groups = report["groups"].as_array().expect("groups");
    for pair in &stuck {
        let is_own = |group: &&Value| group["group"]["local_port"] == pair.id.local.port();
        assert_eq!(groups.iter().find(is_own).expect("the group of a stuck socket")["count"], 1, "{report:#}");
    }
    let text = folder.play("report", &["--last", "1m"]);
    assert!(text.stdout.contains("has no end") || text.stdout.contains("is cut at byte"), "{}", text.stdout);

    // A power failure can cut the last frame. It costs that frame.
    let last = segments.last().expect("the last segment");
    let file = File::options().write(true).open(last).expect("the last segment");
    file.set_len(fs::metadata(last).expect("its size").len() - 5).expect("ftruncate");
    let cut = folder.play("replay", &arguments);
    assert!(cut.stderr.contains("is cut at byte"), "{}", cut.stderr);
    let cut = events(&cut.stdout);
    assert!(cut.len() > whole_events.len() / 2 && whole_events.starts_with(&cut), "{} events", cut.len());
    folder.play("report", &["--last", "1m"]);

    // The next agent continues in a new segment.
    folder.agent(&SMALL).stop().totals();
    assert_eq!(folder.newest(), newest + 1);
    let both = folder.play("replay", &arguments);
    assert!(both.stderr.contains(&format!("closewait-{newest:010}.segment is cut")), "{}", both.stderr);
    let starts = events(&both.stdout).iter().filter(|event| event["event"] == "start").count();
    // That of the first agent is in the oldest segment of all.
    let has_first = folder.all().first().is_some_and(|path| number(path) == 1);
    assert_eq!(starts, if has_first { 2 } else { 1 });
}
