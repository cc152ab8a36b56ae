//! A program under test or measurement: started, waited for until it is attached, ended by a signal.

use std::{
    io::{BufRead as _, BufReader},
    process::ChildStdout,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
        mpsc::{self, Receiver},
    },
    time::SystemTime,
};

use rustix::process::Signal;

use crate::prelude::*;

/// Some tracers need seconds to load and verify their programs, and more on a busy machine.
const ATTACH_LIMIT: Duration = Duration::from_secs(30);
/// Longest time from a signal to the end of the process.
const END_LIMIT: Duration = Duration::from_secs(30);
/// A tracer whose descriptors have not changed for this long has opened all it wants.
const SETTLED: Duration = Duration::from_millis(500);

/// How to start a program.
pub(crate) struct Program {
    pub(crate) name: &'static str,
    path: PathBuf,
    args: Vec<String>,
    /// Variables of its environment.
    variables: Vec<(&'static str, String)>,
    /// The file that gets its stderr.
    stderr: PathBuf,
    /// Names of the JSON events that are kept: `start`, printed when it is attached, `stop`, printed at its end, and others.
    /// Empty: it prints none.
    events: &'static [&'static str],
}

/// A running program. Dropping it kills it.
pub(crate) struct Running {
    child: Child,
    /// Time of the start by the wall clock, as events have it.
    started_at: SystemTime,
    stderr: PathBuf,
    /// The agent's events until the end of its output.
    events: Option<Receiver<Value>>,
    /// Stops the reading of the output.
    unread: Arc<AtomicBool>,
    /// Time from the start of the process until it was attached.
    pub(crate) time_to_attach: Duration,
    /// The `start` event.
    pub(crate) start: Value,
}

impl Program {
    /// `closewait run --output json ARGS`, of which the events `start` and `stop` are kept.
    pub(crate) fn closewait(binary: &Path, dir: &Path, args: &[&str]) -> Self {
        let args = [&["run", "--output", "json"], args].concat();
        Self { events: &["start", "stop"], ..Self::tracer("closewait", binary, dir, &args) }
    }

    /// The same program with another name, of which these events are kept.
    pub(crate) fn keep(self, name: &'static str, events: &'static [&'static str]) -> Self {
        Self { name, events, ..self }
    }

    /// The same program with another variable in its environment.
    pub(crate) fn with_variable(mut self, name: &'static str, value: &str) -> Self {
        self.variables.push((name, value.to_owned()));
        self
    }

    /// Returns the file that gets its stderr.
    pub(crate) fn stderr(&self) -> &Path {
        &self.stderr
    }

    /// A tracer whose output goes to /dev/null.
    pub(crate) fn tracer(name: &'static str, path: &Path, dir: &Path, args: &[&str]) -> Self {
        let args = args.iter().map(|arg| (*arg).to_owned()).collect();
        Self { name, path: path.to_owned(), args, variables: Vec::new(), stderr: dir.join(name), events: &[] }
    }

    /// Starts it and waits until it is attached.
    pub(crate) fn attach(&self) -> Result<Running> {
        let mut command = Command::new(&self.path);
        command
            .args(&self.args)
            .envs(self.variables.iter().map(|(name, value)| (name, value)))
            .stdin(Stdio::null())
            .stderr(fs::File::create(&self.stderr)?.into_parts().0);
        command.stdout(if self.events.is_empty() { Stdio::null() } else { Stdio::piped() });
        let started_at = exec::wall_now();
        let mut child = exec::start(&mut command)?;
        let unread = Arc::new(AtomicBool::new(false));
        let events = child.stdout.take().map(|stdout| read_events(stdout, self.events, Arc::clone(&unread)));
        let (stderr, time_to_attach, start) = (self.stderr.clone(), Duration::ZERO, Value::Null);
        let mut running = Running { child, started_at, stderr, events, unread, time_to_attach, start };
        running.wait_attached().with_context(|| format!("{} did not attach", self.name))?;
        Ok(running)
    }
}

impl Running {
    /// Process id.
    pub(crate) fn pid(&self) -> u32 {
        self.child.id()
    }

    pub(crate) fn signal(&self, signal: Signal) -> Result<()> {
        exec::signal(&self.child, signal)
    }

    /// The agent's next event, at most until `end`. `None`: there was none, or its output has ended.
    pub(crate) fn next_event(&self, end: Instant) -> Option<Value> {
        self.events.as_ref()?.recv_timeout(end.saturating_duration_since(exec::now())).ok()
    }

    /// Stops or continues the reading of its output.
    pub(crate) fn read(&self, read: bool) {
        self.unread.store(!read, Ordering::Relaxed);
    }

    /// Ends it with SIGKILL, as the kernel does when memory runs out, and returns the events that were not taken.
    pub(crate) fn kill(&mut self) -> Vec<Value> {
        exec::kill(&mut self.child);
        self.last_events()
    }

    /// Ends it with SIGINT, as Ctrl-C does, and returns the events that were not taken; the agent's last is `stop`.
    pub(crate) fn stop(&mut self) -> Result<Vec<Value>> {
        self.signal(Signal::INT)?;
        let status = exec::wait_at_most(&mut self.child, END_LIMIT)?;
        let status = status.with_context(|| format!("SIGINT did not end process {} in {END_LIMIT:?}", self.pid()))?;
        // What other tracers exit with after SIGINT differs.
        ensure!(self.events.is_none() || status.success(), "an agent ended with {status}");
        Ok(self.last_events())
    }

    fn last_events(&self) -> Vec<Value> {
        let end = exec::now() + END_LIMIT;
        std::iter::from_fn(|| self.next_event(end)).collect()
    }

    fn wait_attached(&mut self) -> Result<()> {
        if let Some(events) = &self.events {
            let Ok(start) = events.recv_timeout(ATTACH_LIMIT) else {
                // At the end of its output, give the process the time to end too, for its exit code.
                exec::wait_at_most(&mut self.child, Duration::from_secs(2))?;
                self.check_alive()?;
                bail!("there was no `start` event within {ATTACH_LIMIT:?}");
            };
            // The event is printed after the agent has listed the sockets that existed before it: its own time counts.
            if let Some(attached) = start["time"].as_str().and_then(|time| humantime::parse_rfc3339(time).ok()) {
                self.time_to_attach = attached.duration_since(self.started_at).context("the clock was set back")?;
            }
            self.start = start;
            return Ok(());
        }
        // Tracers buffer what they print to /dev/null, or print before they attach. The kernel knows better: their
        // descriptors of BPF programs, links and perf events, once these stay the same.
        let started = exec::now();
        let (mut last, mut since) = (Vec::new(), started);
        while started.elapsed() < ATTACH_LIMIT {
            self.check_alive()?;
            let descriptors = descriptors(self.pid());
            if descriptors != last {
                (last, since) = (descriptors, exec::now());
            }
            let traces = last.iter().any(|name| name.contains("bpf") || name.contains("perf_event"));
            if traces && since.elapsed() >= SETTLED {
                return Ok(());
            }
            thread::sleep(Duration::from_millis(20));
        }
        bail!("it was still opening descriptors after {ATTACH_LIMIT:?}");
    }

    fn check_alive(&mut self) -> Result<()> {
        if let Some(status) = self.child.try_wait().context("waiting for a tracer failed")? {
            let stderr = fs::read_to_string(&self.stderr).unwrap_or_default();
            let last = stderr.lines().rfind(|line| !line.trim().is_empty()).unwrap_or("no message");
            bail!("it ended with {status}: {last}");
        }
        Ok(())
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        exec::kill(&mut self.child);
    }
}

/// Names of the open descriptors of a process.
fn descriptors(pid: u32) -> Vec<String> {
    let entries = fs::read_dir(format!("/proc/{pid}/fd")).into_iter().flatten().flatten();
    entries.filter_map(|entry| Some(fs::read_link(entry.path()).ok()?.to_string_lossy().into_owned())).collect()
}

fn read_events(stdout: ChildStdout, kept: &'static [&str], unread: Arc<AtomicBool>) -> Receiver<Value> {
    let (sender, events) = mpsc::channel();
    thread::spawn(move || {
        for line in BufReader::new(stdout).lines().map_while(Result::ok) {
            while unread.load(Ordering::Relaxed) {
                thread::sleep(Duration::from_millis(10));
            }
            // The last line of a killed agent may be incomplete.
            if event_name(&line).is_some_and(|name| kept.contains(&name))
                && let Ok(event) = serde_json::from_str(&line)
                && sender.send(event).is_err()
            {
                break;
            }
        }
    });
    events
}

/// The `event` of a line, found without parsing all of it: this runs beside the measured load.
fn event_name(line: &str) -> Option<&str> {
    line.split_once("\"event\":\"")?.1.split('"').next()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Attaches a shell script instead of closewait.
    fn attach(text: &str) -> Result<Running> {
        static NUMBER: std::sync::atomic::AtomicU32 = std::sync::atomic::AtomicU32::new(0);
        exec::with_scratch(&format!("agent-{}", NUMBER.fetch_add(1, Ordering::Relaxed)), |dir| {
            // A shell cannot trap a signal that its parent ignores, as one without job control does for commands with `&`.
            let shell = ["--default-signal=INT", "sh", "-c", text];
            let program = Program::tracer("script", Path::new("/usr/bin/env"), dir, &shell);
            program.keep("script", &["start", "stop"]).attach()
        })
    }

    #[test]
    fn start_and_stop_events_are_seen() {
        let text = "trap 'echo \"{\\\"event\\\":\\\"stop\\\",\\\"totals\\\":{\\\"entered\\\":3}}\"; exit 0' INT; \
            echo '{\"event\":\"start\"}'; while :; do sleep 0.01; done";
        let mut running = attach(text).unwrap();
        assert_eq!(running.start["event"], "start");
        assert_eq!(running.stop().unwrap().pop().unwrap()["totals"]["entered"], 3);
    }

    #[test]
    fn the_error_of_a_program_that_ends_early_has_its_last_message() {
        let error = attach("echo first >&2; echo no BTF here >&2; exit 69").err().unwrap();
        assert!(format!("{error:#}").contains("69: no BTF here"), "{error:#}");
    }

    #[test]
    fn the_event_s_name_is_found_in_the_line() {
        assert_eq!(event_name("{\"seq\":1,\"event\":\"start\",\"time\":\"x\"}"), Some("start"));
        assert_eq!(event_name("plain text"), None);
    }
}
