//! Paths on the command line that lead through a file system that does not answer.

use std::{
    fs::{self, Permissions},
    io::Write as _,
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
    process::{self, ChildStdin, Stdio},
    thread::{self, JoinHandle},
    time::Duration,
};

use serde_json::json;

use crate::{
    agent::{Agent, Ended, Running, closewait, finish, read_in_background, run_command},
    clock::{boot_seconds, patience, poll_until, slowness},
    fuse::{FileSystem, Mode},
    net::{Namespace, V4},
};

/// Folder on a file system that answers, removed after the test.
struct Folder(PathBuf);

impl Folder {
    fn new(name: &str) -> Self {
        let folder = std::env::temp_dir().join(format!("closewait-paths-{}-{name}", process::id()));
        let _earlier = fs::remove_dir_all(&folder);
        fs::create_dir(&folder).expect("a folder");
        Self(folder)
    }

    fn path(&self, name: &str) -> String {
        self.0.join(name).to_str().expect("UTF-8").to_owned()
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _left = fs::remove_dir_all(&self.0);
    }
}

/// Hook helper, as an agent with hooks starts it.
struct Helper {
    child: Running,
    requests: ChildStdin,
    log: JoinHandle<String>,
}

impl Helper {
    fn start(on_stuck: &str, on_pileup: &str) -> Self {
        let mut command = closewait(&["hooks", "--timeout", "2s", "--on-stuck", on_stuck, "--on-pileup", on_pileup]);
        command.stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::piped());
        let mut child = Running(command.spawn().expect("the helper"));
        let requests = child.0.stdin.take().expect("stdin is a pipe");
        let log = read_in_background(child.0.stderr.take().expect("stderr is a pipe"));
        Self { child, requests, log }
    }

    fn ask(&mut self, kind: &str, who: &str) {
        let request = json!({ "group": { "kind": kind, "who": who }, "facts": [], "json": "{}\n" }).to_string();
        let length = u32::try_from(request.len()).expect("a length").to_le_bytes();
        self.requests.write_all(&length).expect("write");
        self.requests.write_all(request.as_bytes()).expect("write");
    }

    /// Ends the helper as its agent does. Returns its log.
    fn end(self) -> String {
        let Self { mut child, requests, log } = self;
        let began = boot_seconds();
        drop(requests);
        assert!(child.wait().success());
        let took = boot_seconds() - began;
        assert!(took < 4.0 * f64::from(slowness()), "it took {took} s to end");
        log.join().expect("stderr")
    }
}

/// Ends the agent by a signal, in time.
fn end_of(agent: Agent) -> Ended {
    let began = boot_seconds();
    agent.signal(libc::SIGTERM);
    let ended = agent.join();
    let took = boot_seconds() - began;
    assert!(took < 5.0 * f64::from(slowness()), "it took {took} s to end\n{}", ended.stderr);
    ended
}

#[test]
fn a_path_that_hangs_at_the_start_holds_up_no_end() {
    let Some(hung) = FileSystem::mount("start") else { return };
    let folder = Folder::new("start");
    let (socket, through) = (folder.path("agent.sock"), hung.through(Path::new(&folder.path("x"))));
    let program = hung.program();
    hung.set(Mode::Stopped);
    // An unusable path ends the agent; without a control socket it watches.
    let (program, through) = (program.to_str().expect("UTF-8"), through.to_str().expect("UTF-8"));
    for (flag, path, call) in
        [("--config", through, "realpath"), ("--on-stuck", program, "realpath"), ("--pin", through, "stat")]
    {
        let began = boot_seconds();
        let refused = finish(&mut run_command(&["--socket", &socket, flag, path]));
        let took = boot_seconds() - began;
        assert!(took < 5.0 * f64::from(slowness()), "{flag}: it took {took} s\n{refused:?}");
        assert!(!matches!(refused.code, None | Some(0)), "{refused:?}");
        let says = [path, &format!("{call} did not answer within 2s"), "file system"];
        assert!(says.iter().all(|what| refused.stderr.contains(what)), "{flag}: {refused:?}");
    }
    let ended = end_of(Agent::start(&["--socket", through]));
    let says = [through, "stat did not answer within 2s", "give a --socket on another"];
    let is_said = |text: &str| says.iter().all(|what| text.contains(what));
    assert!(is_said(&ended.stderr), "{}", ended.stderr);
    assert!(is_said(&ended.events[0]["degraded"].to_string()), "{}", ended.events[0]);
    // An agent that is ended before it watches.
    let agent = Agent::spawn_unready(&mut run_command(&["--socket", through]));
    thread::sleep(Duration::from_millis(300));
    end_of(agent);
    hung.set(Mode::Answers);
}

#[test]
fn a_socket_whose_path_hangs_at_the_end_holds_up_no_end() {
    let Some(hung) = FileSystem::mount("end") else { return };
    let folder = Folder::new("end");
    let through = hung.through(Path::new(&folder.path("agent.sock")));
    let agent = Agent::start(&["--socket", through.to_str().expect("UTF-8")]);
    assert!(folder.0.join("agent.sock").exists());
    hung.set(Mode::Stopped);
    let ended = end_of(agent);
    assert_eq!(ended.code, Some(0), "{}", ended.stderr);
    assert!(ended.stderr.contains("lstat did not answer within"), "{}", ended.stderr);
    hung.set(Mode::Answers);
    // The next one takes its place.
    let agent = Agent::start(&["--socket", through.to_str().expect("UTF-8")]);
    end_of(agent).totals();
    assert!(!folder.0.join("agent.sock").exists());
}

#[test]
fn commands_wait_for_a_socket_path_that_hangs_five_seconds() {
    let Some(hung) = FileSystem::mount("asked") else { return };
    let folder = Folder::new("asked");
    let through = hung.through(Path::new(&folder.path("agent.sock")));
    let ns = Namespace::inhabited();
    let (pair, _fin) = ns.waiting(V4);
    hung.set(Mode::Stopped);
    let (port, through) = (pair.id.remote.port().to_string(), through.to_str().expect("UTF-8"));
    let commands: [&[&str]; 3] =
        [&["list", "--port", &port, "--output", "json"], &["kill", "--port", &port], &["report", "--output", "json"]];
    for arguments in commands {
        let began = boot_seconds();
        let asked = finish(closewait(arguments).args(["--socket", through]));
        let took = boot_seconds() - began;
        assert!(took < 5.0 + 5.0 * f64::from(slowness()), "{arguments:?}: {took} s");
        assert!(asked.stderr.contains("connect did not answer within 5s"), "{arguments:?}: {asked:?}");
        assert!(asked.stderr.contains(through), "{asked:?}");
        if arguments[0] == "list" {
            let listed = |line: &str| pair.id.is_in(&serde_json::from_str(line).expect("JSON"));
            assert!(asked.code == Some(0) && asked.stdout.lines().any(listed), "it looks without: {asked:?}");
        }
    }
    hung.set(Mode::Answers);
}

#[test]
fn a_hook_whose_path_hangs_holds_up_no_other_and_no_end() {
    let Some(hung) = FileSystem::mount("hook") else { return };
    let folder = Folder::new("hook");
    let done = folder.path("done");
    let other = folder.path("other");
    fs::write(&other, format!("#!/bin/sh\ntouch {done}\n")).expect("a script");
    fs::set_permissions(&other, Permissions::from_mode(0o755)).expect("chmod");
    fs::set_permissions(&folder.0, Permissions::from_mode(0o755)).expect("chmod");
    let program = hung.program();
    let mut helper = Helper::start(program.to_str().expect("UTF-8"), &other);
    hung.set(Mode::Stopped);
    helper.ask("stuck", "1");
    helper.ask("stuck", "2");
    helper.ask("pileup", "3");
    let began = boot_seconds();
    assert!(poll_until(patience(), || Path::new(&done).exists()), "the other hook has not run");
    let took = boot_seconds() - began;
    assert!(took < 2.0 * f64::from(slowness()), "it took {took} s");
    thread::sleep(Duration::from_secs(3) * slowness());
    let log = helper.end();
    assert!(log.contains("realpath did not answer within 2s"), "{log}");
    hung.set(Mode::Answers);
}
