//! `run --record`, and `replay` of what it wrote: the same bytes.

use std::{
    fs,
    net::Shutdown,
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
    process,
    time::Duration,
};

use crate::{
    agent::{Agent, Finished, closewait, finish},
    net::{Namespace, V4, V6},
};

/// A recording that is gone at the end of the test.
struct Recording(PathBuf);

impl Recording {
    fn new(name: &str) -> Self {
        Self(std::env::temp_dir().join(format!("closewait-kernel-test-{}-{name}.recording", process::id())))
    }

    fn path(&self) -> &str {
        self.0.to_str().expect("a path in UTF-8")
    }

    /// What `closewait replay` says of it.
    fn replay(&self, arguments: &[&str]) -> Finished {
        let finished = finish(&mut closewait(&[&["replay", self.path()], arguments].concat()));
        assert_eq!(finished.code, Some(0), "{}", finished.stderr);
        finished
    }
}

impl Drop for Recording {
    fn drop(&mut self) {
        // One that stays in the folder for temporary files does no harm.
        let _result = fs::remove_file(&self.0);
    }
}

/// Sockets that stay, come and go in several ways while the agent watches.
fn act(agent: &mut Agent, ns: &Namespace) {
    let stays = ns.waiting(V4).0;
    let (closed, reset, shut) = (ns.waiting(V4).0, ns.waiting(V6).0, ns.waiting(V4).0);
    // Nobody accepts this one.
    let listener = ns.listen(V4);
    let unaccepted = ns.connect(listener.local_addr().expect("an address"));
    unaccepted.shutdown(Shutdown::Write).expect("shutdown");
    agent.wait_for_socket("stuck", &ns.id_of_peer(&unaccepted));
    for pair in [&stays, &closed, &reset, &shut] {
        agent.wait_for_socket("stuck", &pair.id);
    }
    drop(closed.server);
    agent.wait_for_socket("leave", &closed.id);
    shut.server.shutdown(Shutdown::Write).expect("shutdown");
    agent.wait_for_socket("leave", &shut.id);
    for _ in 0..200 {
        drop(ns.waiting(V4));
    }
    drop(reset);
    agent.wait_for("a second histogram", |event| event["event"] == "histogram" && event["finished"]["count"] != 0);
    agent.watch(Duration::from_millis(700));
}

const QUICK: &[&str] = &["--events", "all", "--stuck-after", "300ms", "--histogram-every", "500ms", "--record"];

#[test]
fn a_recording_gives_what_the_agent_has_said_byte_for_byte() {
    let (recording, ns) = (Recording::new("whole"), Namespace::new());
    // Older than the agent.
    let older = ns.waiting(V4).0;
    let mut agent = Agent::start(&[QUICK, &[recording.path()]].concat());
    act(&mut agent, &ns);
    agent.wait_for_socket("stuck", &older.id);
    let ended = agent.stop();
    assert_eq!(ended.code, Some(0), "{}", ended.stderr);

    let again = recording.replay(&["--output", "json"]);
    let different = again.stdout.lines().zip(ended.stdout.lines()).find(|(again, was)| again != was);
    assert!(again.stdout == ended.stdout, "the first line that differs: {different:#?}\n{}", again.stderr);
    assert!(!again.stderr.contains("warn"), "{}", again.stderr);
    let mode = fs::metadata(&recording.0).expect("the recording").permissions().mode();
    assert_eq!(mode & 0o777, 0o600, "only its owner may read it");
    let size = fs::metadata(&recording.0).expect("the recording").len();
    assert!(size < ended.stdout.len() as u64, "{size} bytes for {} of events", ended.stdout.len());
}

#[test]
fn text_is_the_same_too() {
    let (recording, ns) = (Recording::new("text"), Namespace::new());
    let _pair = ns.waiting(V4);
    let run = [QUICK, &[recording.path(), "--for", "1500ms", "--color", "always"]].concat();
    let run = finish(&mut closewait(&[&["run"], &run[..]].concat()));
    assert!(run.code == Some(0) && run.stdout.contains(" stuck"), "{}{}", run.stdout, run.stderr);
    assert_eq!(recording.replay(&["--color", "always"]).stdout, run.stdout);
}

#[test]
fn after_a_kill_all_that_was_said_is_in_the_recording() {
    let (recording, ns) = (Recording::new("killed"), Namespace::new());
    let mut agent = Agent::start(&[QUICK, &[recording.path()]].concat());
    act(&mut agent, &ns);
    agent.signal(libc::SIGKILL);
    let ended = agent.join();
    assert_eq!(ended.code, None, "{}", ended.stderr);
    let again = recording.replay(&["--output", "json"]);
    assert!(again.stdout.starts_with(&ended.stdout), "{}\n{}", ended.stdout, again.stdout);
    assert!(again.stderr.contains("has no end") || again.stderr.contains("is cut at byte"), "{}", again.stderr);
    assert!(ended.events.len() > 400, "{}", ended.stdout);
}

#[test]
fn a_file_that_cannot_be_written_is_refused_at_the_start() {
    for (path, says) in [("/nowhere/at/all", "is its folder there"), ("/dev/full", "is the disk full")] {
        let run = finish(&mut closewait(&["run", "--for", "1s", "--record", path]));
        assert!(run.code == Some(1) && run.stderr.contains(says), "{}", run.stderr);
    }
    assert!(!Path::new("/nowhere").exists());
}
