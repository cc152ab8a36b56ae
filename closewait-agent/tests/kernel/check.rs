//! `closewait check`: the probe, and the watch of a command.

use std::{
    env, fs,
    net::{TcpListener, TcpStream},
    os::{
        fd::OwnedFd,
        unix::process::{CommandExt as _, ExitStatusExt as _},
    },
    process::{self, Command, Stdio},
    thread,
    time::Duration,
};

use serde_json::Value;

use crate::{
    ability::{Ability, can},
    agent::{Agent, Finished, Running, closewait, finish},
    clock::poll_until,
    leftovers,
    net::{Namespace, V4},
    schema,
    setup::{NOBODY, PublicBinary},
};

/// Environment of the command: number of sockets, milliseconds until it ends, exit code, and whether it closes them before.
const PROGRAM: &str = "CLOSEWAIT_TEST_PROGRAM";

/// Value of the last number for a program that accepts no connection.
const UNACCEPTED: u64 = 2;

/// The command of these tests is this test, with the variable in its environment: it accepts connections that their peers
/// close, and keeps them.
#[test]
#[expect(clippy::exit, clippy::disallowed_methods, reason = "the kernel has to close what the command leaves open")]
fn the_command_of_these_tests_ends_as_they_want() {
    let Ok(wanted) = env::var(PROGRAM) else {
        let ended = finish(Command::new(&this_test()[0]).args(&this_test()[1..]).env(PROGRAM, "1 0 5 0"));
        assert_eq!(ended.code, Some(5), "{ended:?}");
        return;
    };
    let wanted: Vec<u64> = wanted.split(' ').map(|number| number.parse().expect("a number")).collect();
    let [sockets, millis, code, closes] = wanted[..] else { panic!("four numbers, not {wanted:?}") };
    let listener = TcpListener::bind(V4).expect("a listener");
    let mut kept = Vec::new();
    for _ in 0..sockets {
        let client = TcpStream::connect(listener.local_addr().expect("an address")).expect("a connection");
        if closes != UNACCEPTED {
            kept.push(listener.accept().expect("accept"));
        }
        drop(client);
    }
    thread::sleep(Duration::from_millis(millis));
    if closes == 1 {
        kept.clear();
    }
    process::exit(code.try_into().expect("an exit code"));
}

/// Returns `closewait check` with this grace time, for the program above.
fn check(grace: &str, wanted: &str) -> Command {
    let mut command = closewait(&["check", "--output", "json", "--grace", grace, "--"]);
    command.args(this_test()).env(PROGRAM, wanted);
    command
}

fn this_test() -> [String; 3] {
    let path = env::current_exe().expect("the path of this test");
    let path = path.to_str().expect("UTF-8").to_owned();
    [path, "--exact".to_owned(), "check::the_command_of_these_tests_ends_as_they_want".to_owned()]
}

/// Runs a command inside a namespace. Returns its result: the last line of standard error.
fn result(ns: &Namespace, command: &mut Command) -> (Finished, Value) {
    let ended = ns.run(|| finish(command));
    let last = ended.stderr.lines().last().unwrap_or_default();
    let result = serde_json::from_str(last).unwrap_or_else(|error| panic!("{error}: {ended:?}"));
    schema::conforms("check-command", &result);
    (ended, result)
}

#[test]
fn sockets_that_a_command_holds_until_it_ends_are_its_leak() {
    let ns = Namespace::new();
    let (ended, result) = result(&ns, &mut check("500ms", "5 1200 0 0"));
    if !can(Ability::Types) {
        assert_eq!((ended.code, result["state"].as_str()), (Some(3), Some("unknown")), "{ended:?}");
        return;
    }
    assert_eq!(ended.code, Some(2), "{ended:?}");
    assert_eq!((&result["sockets"], &result["command_exit_code"]), (&5.into(), &0.into()), "{result}");
    let left = &result["left_behind"][0];
    assert_eq!((&left["count"], &left["fate"]), (&5.into(), &"process_ended".into()), "{left}");
    let (pid, comm) = (&left["process"]["pid"], left["process"]["comm"].as_str().expect("a name"));
    assert_eq!(left["service"], format!("{comm}[{pid}]"), "{left}");
    assert!(left["longest_seconds"].as_f64().is_some_and(|seconds| seconds >= 1.1), "{left}");
    leftovers::assert_none();
}

#[test]
fn a_command_that_closes_its_sockets_passes_whatever_time_it_took() {
    let ns = Namespace::new();
    let (ended, result) = result(&ns, &mut check("500ms", "5 1200 0 1"));
    if can(Ability::Types) {
        assert_eq!((ended.code, &result["sockets"]), (Some(0), &0.into()), "{ended:?}");
    } else {
        assert_eq!(ended.code, Some(3), "{ended:?}");
    }
}

#[test]
fn a_socket_that_its_program_closed_counts_if_the_user_wants_so() {
    let ns = Namespace::new();
    let run = |stuck_after| {
        let arguments = ["check", "--output", "json", "--stuck-after", stuck_after, "--"];
        result(&ns, closewait(&arguments).args(this_test()).env(PROGRAM, "4 1200 0 1"))
    };
    let (ended, late) = run("1s");
    assert_eq!((&late["sockets"], &late["left_behind"][0]["fate"]), (&4.into(), &"closed_late".into()), "{ended:?}");
    assert_eq!(ended.code, Some(2), "{ended:?}");
    let (ended, in_time) = run("30s");
    assert_eq!(in_time["sockets"], 0, "{ended:?}");
}

#[test]
fn a_socket_that_was_open_for_less_than_the_grace_time_does_not_count() {
    let ns = Namespace::new();
    let (ended, result) = result(&ns, &mut check("5s", "5 300 0 0"));
    assert_eq!(result["sockets"], 0, "{ended:?}");
}

#[test]
fn a_command_that_fails_keeps_its_exit_code() {
    let ns = Namespace::new();
    let (ended, result) = result(&ns, &mut check("500ms", "2 1200 7 0"));
    assert_eq!((ended.code, &result["command_exit_code"]), (Some(7), &7.into()), "{ended:?}");
    if can(Ability::Types) {
        assert_eq!(result["sockets"], 2, "{result}");
    }
}

#[test]
fn a_daemon_that_a_command_leaves_behind_is_checked_after_the_grace_time() {
    let ns = Namespace::new();
    let mut command = closewait(&["check", "--output", "json", "--grace", "1s", "--", "sh", "-c"]);
    // The daemon is no child of the command, and in a session of its own.
    command.args([r#"(setsid "$0" "$@" > /dev/null 2>&1 &); sleep 0.5"#]).args(this_test()).env(PROGRAM, "3 6000 0 0");
    let (ended, result) = result(&ns, &mut command);
    assert_eq!(ended.code, Some(2), "{ended:?}");
    let left = &result["left_behind"][0];
    assert_eq!((&left["count"], &left["fate"]), (&3.into(), &"open".into()), "{result}");
    let pid = left["process"]["pid"].as_u64().expect("a pid");
    let cmdline = fs::read(format!("/proc/{pid}/cmdline")).expect("the daemon still runs");
    assert!(String::from_utf8_lossy(&cmdline).contains("check::the_command"), "{left}");
    leftovers::assert_none();
    assert!(poll_until(Duration::from_secs(10), || !fs::exists(format!("/proc/{pid}")).expect("/proc")));
}

#[test]
fn connections_that_a_daemon_never_accepts_count() {
    let ns = Namespace::new();
    let mut command = closewait(&["check", "--output", "json", "--grace", "1s", "--", "sh", "-c"]);
    command.args([r#"(setsid "$0" "$@" > /dev/null 2>&1 &); sleep 0.5"#]).args(this_test());
    command.env(PROGRAM, format!("3 6000 0 {UNACCEPTED}"));
    let (ended, result) = result(&ns, &mut command);
    assert_eq!(ended.code, Some(2), "{ended:?}");
    let left = &result["left_behind"][0];
    assert_eq!((&left["count"], &left["fate"]), (&3.into(), &"open".into()), "{result}");
    let pid = left["process"]["pid"].as_u64().expect("a pid");
    assert!(poll_until(Duration::from_secs(10), || !fs::exists(format!("/proc/{pid}")).expect("/proc")));
}

#[test]
fn sockets_from_before_the_command_do_not_count() {
    let ns = Namespace::new();
    let older = ns.pair(V4);
    older.fin();
    let mut command = closewait(&["check", "--output", "json", "--grace", "300ms", "--", "sh", "-c"]);
    // The background process has the socket as descriptor 3, and outlives the command.
    command.args(["exec 3<&0; sleep 2 & sleep 0.1"]).stdin(Stdio::from(OwnedFd::from(older.server)));
    let (ended, result) = result(&ns, &mut command);
    assert_eq!(result["sockets"], 0, "{ended:?}");
    assert_ne!(ended.code, Some(2), "{ended:?}");
}

#[test]
fn a_signal_reaches_the_command() {
    let mut child = Running::spawn(&mut closewait(&["check", "--", "sleep", "60"]));
    let children = format!("/proc/{0}/task/{0}/children", child.pid());
    let is_started = || fs::read_to_string(&children).is_ok_and(|children| !children.is_empty());
    assert!(poll_until(Duration::from_secs(20), is_started), "no command");
    // SAFETY: takes numbers only; the child was not waited for.
    let sent = unsafe { libc::kill(child.pid().try_into().expect("a pid"), libc::SIGTERM) };
    assert_eq!(sent, 0);
    let status = child.wait();
    assert_eq!((status.code(), status.signal()), (Some(128 + libc::SIGTERM), None));
}

#[test]
fn without_privileges_nothing_runs_and_the_state_is_unknown() {
    let public = PublicBinary::new();
    let run = |arguments: &[&str]| finish(Command::new(&public.path).args(arguments).uid(NOBODY).gid(NOBODY));
    let command = run(&["check", "--", "echo", "it runs"]);
    assert_eq!((command.code, command.stdout.as_str()), (Some(3), ""), "{command:?}");
    assert!(command.stderr.contains("CLOSEWAIT UNKNOWN - ") && command.stderr.contains("CAP_BPF"), "{command:?}");
    let probe = run(&["check"]);
    assert_eq!(probe.code, Some(3), "{probe:?}");
    assert_eq!(probe.stdout.lines().count(), 1, "{probe:?}");
    assert!(probe.stdout.starts_with("CLOSEWAIT UNKNOWN - ") && probe.stdout.contains("CAP_BPF"), "{probe:?}");
    leftovers::assert_none();
}

#[test]
fn the_probe_counts_what_an_agent_lists() {
    let ns = Namespace::new();
    let socket = env::temp_dir().join(format!("closewait-check-{}.sock", process::id()));
    let socket = socket.to_str().expect("UTF-8");
    let agent = Agent::start(&["--stuck-after", "300ms", "--socket", socket]);
    let pairs: Vec<_> = (0..3).map(|_| ns.pair(V4)).collect();
    for pair in &pairs {
        pair.fin();
    }
    let (pid, port) = (process::id().to_string(), pairs[0].id.local.port().to_string());
    let probe = |arguments: &[&str]| finish(closewait(&["check", "--socket", socket]).args(arguments));
    let own = ["--pid", pid.as_str(), "--crit"];
    let reached = || probe(&[&own[..], &["stuck=3"]].concat()).code == Some(2);
    assert!(poll_until(Duration::from_secs(10), reached), "{:?}", probe(&[&own[..], &["stuck=3"]].concat()));
    let ended = probe(&[&own[..], &["stuck=4"]].concat());
    assert_eq!(ended.code, Some(0), "{ended:?}");
    assert!(ended.stdout.contains(" stuck=3;;4;0 "), "{ended:?}");
    let ended = probe(&[&own[..], &["stuck=1", "--port", &port]].concat());
    assert!(ended.code == Some(2) && ended.stdout.contains(" stuck=1;;1;0 "), "{ended:?}");
    let ended = probe(&[&own[..], &["stuck=1", "--pid", "1"]].concat()[2..]);
    assert!(ended.stdout.contains("stuck=0;;1;0"), "{ended:?}");
    agent.stop();
    let gone = finish(&mut closewait(&["check", "--socket", socket, "--pid", &pid, "--warn", "growth=1"]));
    assert_eq!(gone.code, Some(3), "{gone:?}");
    assert!(gone.stdout.contains("unknown without an agent"), "{gone:?}");
}
