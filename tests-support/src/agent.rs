//! The agent as a child process, and its events.

use std::{
    collections::BTreeMap,
    env,
    ffi::c_int,
    fs,
    io::{BufRead as _, BufReader, Read},
    path::{Path, PathBuf},
    process::{Child, Command, ExitStatus, Stdio},
    sync::mpsc::{self, Receiver, RecvTimeoutError},
    thread::{self, JoinHandle},
    time::Duration,
};

use serde_json::Value;

use crate::{
    clock::{boot_seconds, patience, poll_until},
    net::Id,
    schema,
    socket::check,
};

/// Returns the binary under test: cargo puts it above the folder of the test's executable, and `cargo xtask vm` does
/// so in a guest.
pub fn binary() -> PathBuf {
    let test = env::current_exe().expect("the path of this test");
    let binary = test.parent().and_then(Path::parent).expect("two folders").join("closewait");
    assert!(binary.is_file(), "there is no {}; run these tests with cargo", binary.display());
    binary
}

/// Returns a command for a built binary. If an emulator runs the tests, as in `cargo xtask test --arch aarch64`, it also runs the
/// binary: the kernel cannot.
pub fn built(binary: &str) -> Command {
    let Some(emulator) = env::var_os("CLOSEWAIT_TEST_EMULATOR") else { return Command::new(binary) };
    let mut command = Command::new(emulator);
    command.arg(binary);
    command
}

/// Returns a command for the binary under test with these arguments.
pub fn closewait(arguments: &[&str]) -> Command {
    let mut command = Command::new(binary());
    command.args(arguments).env_remove("RUST_LOG");
    command
}

/// Returns `closewait run` with these arguments, and those that the tests need.
pub fn run_command(arguments: &[&str]) -> Command {
    let mut command = closewait(&["run", "--output", "json"]);
    command.args(arguments);
    command
}

/// Runs the command to its end.
pub fn finish(command: &mut Command) -> Finished {
    let mut child = Running::spawn(command);
    let stdout = read_in_background(child.0.stdout.take().expect("stdout is a pipe"));
    let stderr = read_in_background(child.0.stderr.take().expect("stderr is a pipe"));
    let status = child.wait();
    Finished { code: status.code(), stdout: stdout.join().expect("stdout"), stderr: stderr.join().expect("stderr") }
}

/// Output of a command that has ended.
#[derive(Debug)]
pub struct Finished {
    /// Exit code; `None` if a signal ended it.
    pub code: Option<i32>,
    pub stdout: String,
    pub stderr: String,
}

/// A running agent, killed at the end of the test if it still runs then.
pub struct Agent {
    child: Running,
    lines: Receiver<String>,
    stderr: Option<JoinHandle<String>>,
    /// Events so far.
    pub events: Vec<Value>,
    /// Lines of the events so far.
    stdout: String,
}

/// Output of an agent that has ended.
#[derive(Debug)]
pub struct Ended {
    /// Exit code; `None` if a signal ended it.
    pub code: Option<i32>,
    /// Events, from the first to the last.
    pub events: Vec<Value>,
    /// Lines of the events.
    pub stdout: String,
    pub stderr: String,
}

impl Agent {
    /// Starts `closewait run` outside of all namespaces of the tests, and waits until it watches.
    pub fn start(arguments: &[&str]) -> Self {
        Self::spawn(&mut run_command(arguments))
    }

    /// Starts an agent by a command that the test has prepared.
    pub fn spawn(command: &mut Command) -> Self {
        let mut agent = Self::spawn_unready(command);
        agent.wait_for("the event `start`", |event| event["event"] == "start");
        agent
    }

    /// Starts an agent without waiting for it.
    pub fn spawn_unready(command: &mut Command) -> Self {
        let mut child = Running::spawn(command);
        let stdout = BufReader::new(child.0.stdout.take().expect("stdout is a pipe"));
        let stderr = read_in_background(child.0.stderr.take().expect("stderr is a pipe"));
        let (sender, lines) = mpsc::channel();
        // Ends with the agent's stdout, or when the test stops receiving.
        thread::spawn(move || stdout.lines().map_while(Result::ok).try_for_each(|line| sender.send(line)));
        Self { child, lines, stderr: Some(stderr), events: Vec::new(), stdout: String::new() }
    }

    /// Process id.
    pub fn pid(&self) -> u32 {
        self.child.0.id()
    }

    /// Waits for the first event for which `wanted` is true, past or future. Calls it once per event.
    pub fn wait_for(&mut self, what: &str, mut wanted: impl FnMut(&Value) -> bool) -> Value {
        let end = boot_seconds() + patience().as_secs_f64();
        let mut next = 0;
        loop {
            while let Some(event) = self.events.get(next) {
                if wanted(event) {
                    return event.clone();
                }
                next += 1;
            }
            match self.receive(end) {
                Received::Event => {}
                Received::Nothing => self.fail(&format!("waited in vain for {what}")),
                Received::End => self.fail(&format!("ended before {what}")),
            }
        }
    }

    /// Waits for the event `kind` of one socket.
    pub fn wait_for_socket(&mut self, kind: &str, id: &Id) -> Value {
        self.wait_for(&format!("`{kind}` of {id}"), |event| event["event"] == kind && id.is_in(event))
    }

    /// Receives events for some time.
    pub fn watch(&mut self, time: Duration) {
        let end = boot_seconds() + time.as_secs_f64();
        while matches!(self.receive(end), Received::Event) {}
    }

    /// Sends a signal.
    pub fn signal(&self, signal: c_int) {
        // SAFETY: takes numbers only; the child has not been waited for, so the number is still its own.
        let result = unsafe { libc::kill(self.pid() as libc::pid_t, signal) };
        check(result, "kill");
    }

    /// Ends the agent as Ctrl-C does.
    pub fn stop(self) -> Ended {
        self.signal(libc::SIGINT);
        self.join()
    }

    /// Waits until the agent ends by itself.
    pub fn join(mut self) -> Ended {
        let end = boot_seconds() + patience().as_secs_f64();
        loop {
            match self.receive(end) {
                Received::Event => {}
                Received::Nothing => self.fail("does not end"),
                Received::End => break,
            }
        }
        let status = self.child.wait();
        let stderr = self.stderr.take().expect("taken nowhere else").join().expect("stderr");
        Ended { code: status.code(), events: self.events, stdout: self.stdout, stderr }
    }

    /// Receives and checks one event.
    fn receive(&mut self, end: f64) -> Received {
        let rest = Duration::from_secs_f64((end - boot_seconds()).max(0.0));
        match self.lines.recv_timeout(rest) {
            Ok(line) => {
                let event = serde_json::from_str(&line).unwrap_or_else(|error| panic!("not JSON: {error}: {line:?}"));
                schema::check_event(&event);
                assert_eq!(event["seq"], self.events.len(), "a gap in seq: {line}");
                self.events.push(event);
                self.stdout.push_str(&line);
                self.stdout.push('\n');
                Received::Event
            }
            Err(RecvTimeoutError::Timeout) => Received::Nothing,
            Err(RecvTimeoutError::Disconnected) => Received::End,
        }
    }

    /// Fails the test with all information about the cause: also the totals of the agent, if it ends soon after it is asked to.
    fn fail(&mut self, why: &str) -> ! {
        let count = self.events.len();
        self.signal(libc::SIGINT);
        self.watch(Duration::from_secs(5));
        self.child.end();
        let stderr = self.stderr.take().expect("taken nowhere else").join().expect("stderr");
        let last: Vec<String> = self.events.iter().rev().take(10).rev().map(Value::to_string).collect();
        let mut kinds: BTreeMap<&str, usize> = BTreeMap::new();
        self.events
            .iter()
            .filter_map(|event| event["event"].as_str())
            .for_each(|kind| *kinds.entry(kind).or_default() += 1);
        let last = last.join("\n");
        panic!("the agent {why}\n{count} events, until its end {kinds:?}, the last:\n{last}\nits stderr:\n{stderr}");
    }
}

impl Ended {
    /// Returns the totals of the last event, which is always `stop`.
    pub fn totals(&self) -> &Value {
        assert_eq!(self.code, Some(0), "{}", self.stderr);
        let last = self.events.last().expect("at least one event");
        assert_eq!(last["event"], "stop", "{last}");
        &last["totals"]
    }

    /// Returns all events `kind` of one socket.
    pub fn of_socket(&self, kind: &str, id: &Id) -> Vec<&Value> {
        self.events.iter().filter(|event| event["event"] == kind && id.is_in(event)).collect()
    }
}

enum Received {
    Event,
    /// No event in the given time.
    Nothing,
    /// The agent has closed its stdout.
    End,
}

/// Child process that does not outlive its test.
pub struct Running(pub Child);

impl Running {
    /// Starts the process, with pipes for its output.
    pub fn spawn(command: &mut Command) -> Self {
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        Self(command.spawn().unwrap_or_else(|error| panic!("{command:?}: {error}")))
    }

    /// Process id.
    pub fn pid(&self) -> u32 {
        self.0.id()
    }

    /// Waits until the process, which has one thread, sleeps for a time.
    pub fn wait_for_sleep(&self) {
        let process = PathBuf::from(format!("/proc/{}", self.pid()));
        assert!(poll_until(patience(), || sleeps(&process)), "it does not sleep");
    }

    /// Kills the process, if it still runs.
    pub fn end(&mut self) {
        // Fails only for a process that was waited for.
        let _ended = self.0.kill();
        self.0.wait().expect("wait");
    }

    /// Waits until the process ends by itself.
    pub fn wait(&mut self) -> ExitStatus {
        let mut status = None;
        poll_until(patience(), || {
            status = self.0.try_wait().expect("wait");
            status.is_some()
        });
        status.expect("the process did not end")
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.end();
    }
}

/// Returns whether the thread with this folder in /proc is in a system call that sleeps. `wchan` would not do: on x86_64, kernels
/// before 5.16 show 0 in it for all threads (`get_wchan` in arch/x86/kernel/process.c at v5.10 needs frame pointers).
pub fn sleeps(thread: &Path) -> bool {
    let call = fs::read_to_string(thread.join("syscall")).unwrap_or_default();
    let number = call.split(' ').next().and_then(|number| number.parse().ok());
    number.is_some_and(|number: libc::c_long| [libc::SYS_nanosleep, libc::SYS_clock_nanosleep].contains(&number))
}

/// Reads to the end on a new thread, so that no writer has to wait.
pub fn read_in_background(mut from: impl Read + Send + 'static) -> JoinHandle<String> {
    thread::spawn(move || {
        let mut all = Vec::new();
        from.read_to_end(&mut all).expect("read");
        String::from_utf8_lossy(&all).into_owned()
    })
}
