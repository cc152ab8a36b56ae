//! `run --record`, and `replay` of its recording: the same bytes.

use std::{
    fs, io,
    net::Shutdown,
    os::unix::{
        fs::{PermissionsExt as _, chown, symlink},
        process::CommandExt as _,
    },
    path::{Path, PathBuf},
    process::{self, Command},
    time::Duration,
};

use serde_json::Value;

use crate::{
    agent::{Agent, Finished, binary, closewait, finish, run_command},
    clock::{boot_seconds, patience, poll_until, slowness},
    logging::Fifos,
    net::{Namespace, V4, V6},
    setup::NOBODY,
};

/// Recording that is removed at the end of the test.
struct Recording(PathBuf);

impl Recording {
    fn new(name: &str) -> Self {
        Self(std::env::temp_dir().join(format!("closewait-kernel-test-{}-{name}.recording", process::id())))
    }

    fn path(&self) -> &str {
        self.0.to_str().expect("a path in UTF-8")
    }

    /// Returns the output of `closewait replay`.
    fn replay(&self, arguments: &[&str]) -> Finished {
        let finished = finish(&mut closewait(&[&["replay", self.path()], arguments].concat()));
        assert_eq!(finished.code, Some(0), "{}", finished.stderr);
        finished
    }
}

impl Drop for Recording {
    fn drop(&mut self) {
        // If this fails, the file stays in the folder for temporary files, which is harmless.
        let _result = fs::remove_file(&self.0);
    }
}

/// Makes sockets that stay, enter and exit in several ways while the agent watches.
fn act(agent: &mut Agent, ns: &Namespace) {
    let stays = ns.waiting(V4).0;
    let (closed, reset, shut) = (ns.waiting(V4).0, ns.waiting(V6).0, ns.waiting(V4).0);
    // No program accepts this one.
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
fn a_recording_gives_the_output_of_the_agent_byte_for_byte() {
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
    assert_eq!(recording.replay(&["--color", "always", "--events", "all"]).stdout, run.stdout);
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
fn a_pipe_that_has_no_reader_ends_neither_the_agent_nor_its_answers() {
    let (ns, fifos) = (Namespace::new(), Fifos::new("recording"));
    let (fifo, reader) = fifos.unread("fifo");
    let mut agent = Agent::start(&[QUICK, &[&fifo]].concat());
    for _ in 0..300 {
        drop(ns.waiting(V4));
    }
    let (pair, _fin) = ns.waiting(V4);
    agent.wait_for_socket("stuck", &pair.id);
    let began = boot_seconds();
    agent.signal(libc::SIGTERM);
    let ended = agent.join();
    assert!(boot_seconds() - began < 5.0 * f64::from(slowness()), "{}", ended.stderr);
    ended.totals();
    assert!(ended.stderr.contains("the recording has no end"), "{}", ended.stderr);
    drop(reader);
}

#[test]
fn what_a_shell_hands_over_is_recorded_to() {
    let recording = Recording::new("piped");
    let script = "closewait=$1; shift; \"$closewait\" run --for 1s --record >(cat > \"$1\")";
    let mut bash = Command::new("bash");
    bash.args(["-c", script, "bash"]).arg(binary()).arg(recording.path());
    let ended = finish(&mut bash);
    assert_eq!(ended.code, Some(0), "{ended:?}");
    // The shell does not wait for `cat`.
    let replay = || finish(&mut closewait(&["replay", recording.path()]));
    assert!(poll_until(patience(), || replay().stdout == ended.stdout), "{ended:?}\n{:?}", replay());
}

#[test]
fn a_limit_on_file_sizes_ends_the_recording_and_not_the_agent() {
    let (recording, ns) = (Recording::new("limited"), Namespace::new());
    let mut command = run_command(&[QUICK, &[recording.path()]].concat());
    let limit = || {
        let limit = libc::rlimit { rlim_cur: 65_536, rlim_max: 65_536 };
        // SAFETY: `limit` is valid and outlives the call.
        if unsafe { libc::setrlimit(libc::RLIMIT_FSIZE, &raw const limit) } == 0 {
            Ok(())
        } else {
            Err(io::Error::last_os_error())
        }
    };
    // SAFETY: between fork and exec, it makes only one system call.
    unsafe { command.pre_exec(limit) };
    let mut agent = Agent::spawn(&mut command);
    let counted = |event: &Value| event["event"] == "health" && event["recordings_failed"] == 1;
    while !agent.events.iter().any(counted) {
        for _ in 0..200 {
            drop(ns.waiting(V4));
        }
        agent.watch(Duration::from_millis(100));
    }
    let (pair, _fin) = ns.waiting(V4);
    agent.wait_for_socket("stuck", &pair.id);
    let ended = agent.stop();
    ended.totals();
    assert!(ended.stderr.contains("the recording ends here, the agent continues"), "{}", ended.stderr);
    let again = recording.replay(&["--output", "json"]);
    assert!(ended.stdout.starts_with(&again.stdout), "{} {}", ended.stdout.len(), again.stdout.len());
    assert!(!again.stdout.is_empty(), "{}", again.stderr);
    assert!(again.stderr.contains("more could not be written"), "{}", again.stderr);
}

#[test]
fn a_file_of_another_user_or_behind_a_link_is_refused_and_stays_as_it_is() {
    let fifos = Fifos::new("others");
    let (victim, link, others) = (fifos.path("victim"), fifos.path("link"), fifos.path("others"));
    fs::write(&victim, "precious").expect("a file");
    symlink(&victim, &link).expect("a link");
    fs::write(&others, "").expect("a file");
    chown(&others, Some(NOBODY), None).expect("chown");
    for (path, says) in [(&link, "symbolic link"), (&others, "belongs to user 65534"), (&victim, "is no recording")] {
        let run = finish(&mut closewait(&["run", "--for", "1s", "--record", path]));
        assert!(run.code == Some(1) && run.stderr.contains(says) && run.stderr.contains("\nhint: "), "{}", run.stderr);
    }
    assert_eq!(fs::read_to_string(&victim).expect("the file"), "precious");
    assert_eq!(fs::read_to_string(&others).expect("the file"), "");
    assert_eq!(fs::metadata(&others).expect("the file").permissions().mode() & 0o777, 0o644);
}

#[test]
fn what_is_no_recording_is_reported_alike_by_replay_and_report() {
    let fifos = Fifos::new("none");
    let (fifo, _reader) = fifos.unread("fifo");
    let (empty, line) = (fifos.path("empty"), fifos.path("line"));
    fs::write(&empty, "").expect("a file");
    fs::write(&line, vec![b'x'; 1 << 20]).expect("a file");
    for (path, says) in [
        ("/dev/null", "it is empty"),
        (&empty, "it is empty"),
        ("/dev/zero", "this is no recording"),
        (&line, "this is no recording"),
        ("/tmp", "it is a directory without a segment"),
        (&fifo, "has no writer"),
        ("/nowhere", "No such file"),
    ] {
        let [replay, report] = ["replay", "report"].map(|command| finish(&mut closewait(&[command, path])));
        assert!(replay.code == Some(1) && replay.stderr.contains(says), "{path}: {replay:?}");
        assert_eq!((report.code, &report.stderr), (Some(1), &replay.stderr), "{path}");
    }
}

#[test]
fn a_file_that_cannot_be_written_is_refused_at_the_start() {
    let fifos = Fifos::new("refused");
    let fifo = {
        let (fifo, _reader) = fifos.unread("fifo");
        fifo
    };
    for (path, says) in [
        ("/nowhere/at/all", "check that its folder exists"),
        ("/dev/full", "make room on its disk"),
        (&fifo, "without a reader"),
    ] {
        let run = finish(&mut closewait(&["run", "--for", "1s", "--record", path]));
        assert!(run.code == Some(1) && run.stderr.contains(says), "{}", run.stderr);
    }
    assert!(!Path::new("/nowhere").exists());
}
