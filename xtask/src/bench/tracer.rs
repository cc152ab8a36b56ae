//! A program under measurement: started, waited for until it is attached, ended with SIGINT.

use std::{
    fs::{self, File},
    io::{BufRead as _, BufReader},
    path::{Path, PathBuf},
    process::{Child, ChildStdout, Command, Stdio},
    sync::mpsc,
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, bail};
use serde_json::Value;

use crate::exec;

/// Loading and verifying takes some tracers seconds.
const ATTACH_LIMIT: Duration = Duration::from_secs(30);

/// A tracer whose descriptors have not changed for this long has opened all it wants.
const SETTLED: Duration = Duration::from_millis(500);

/// How to start a program, and how to tell that it is attached.
pub(super) struct Tracer {
    pub(super) name: &'static str,
    program: PathBuf,
    args: Vec<String>,
    stderr: PathBuf,
    /// It prints JSON events, `start` when it is attached and `stop` at its end.
    has_events: bool,
}

/// A tracer at work. Dropping it ends it.
pub(super) struct Running {
    child: Child,
    started: Instant,
    stderr: PathBuf,
    /// Reads closewait's events to the end of its output.
    events: Option<Events>,
}

struct Events {
    start: mpsc::Receiver<Instant>,
    stop: JoinHandle<Option<Value>>,
}

impl Tracer {
    /// `closewait run --output json` and `more`. Its lines are few, one for a stuck socket; they are read, not kept.
    pub(super) fn closewait(binary: &Path, dir: &Path, more: &[&str]) -> Self {
        let args = ["run", "--output", "json"].iter().chain(more).map(|arg| (*arg).to_owned()).collect();
        Self { name: "closewait", program: binary.to_owned(), args, stderr: dir.join("closewait"), has_events: true }
    }

    /// A tracer whose output goes to /dev/null.
    pub(super) fn other(name: &'static str, program: &Path, args: &[&str], dir: &Path) -> Self {
        let args = args.iter().map(|arg| (*arg).to_owned()).collect();
        Self { name, program: program.to_owned(), args, stderr: dir.join(name), has_events: false }
    }

    /// Starts it and waits until it is attached.
    pub(super) fn attach(&self) -> Result<Running> {
        let mut running = self.start()?;
        running.wait_attached().with_context(|| format!("{} did not attach", self.name))?;
        Ok(running)
    }

    /// How long from the start of the process until it was attached; for closewait only.
    pub(super) fn time_to_start(&self) -> Result<Duration> {
        let mut running = self.start()?;
        let at = running.wait_start_event()?;
        let time = at.duration_since(running.started);
        running.stop()?;
        Ok(time)
    }

    fn start(&self) -> Result<Running> {
        let stderr = File::create(&self.stderr).with_context(|| format!("cannot create {}", self.stderr.display()))?;
        let mut command = Command::new(&self.program);
        command.args(&self.args).stdin(Stdio::null()).stderr(stderr);
        command.stdout(if self.has_events { Stdio::piped() } else { Stdio::null() });
        let started = exec::now();
        let mut child = command.spawn().with_context(|| format!("cannot start {}", exec::shown(&command)))?;
        let events = child.stdout.take().map(read_events);
        Ok(Running { child, started, stderr: self.stderr.clone(), events })
    }
}

impl Running {
    /// The process.
    pub(super) fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Ends it with SIGINT. closewait's `stop` event comes back.
    pub(super) fn stop(mut self) -> Result<Option<Value>> {
        exec::signal(&self.child, libc::SIGINT)?;
        let ended = exec::wait_at_most(&mut self.child, Duration::from_secs(20))?;
        ended.with_context(|| format!("SIGINT did not end process {} within 20 s", self.child.id()))?;
        let Some(events) = self.events.take() else { return Ok(None) };
        // A panic of the reading thread has been shown; what is missing here is the event.
        Ok(events.stop.join().ok().flatten())
    }

    fn wait_attached(&mut self) -> Result<()> {
        if self.events.is_some() {
            return self.wait_start_event().map(|_at| ());
        }
        // Tracers buffer what they print to /dev/null or print before they attach. What the kernel knows of them is
        // surer: their descriptors of BPF programs, links and perf events, once they stay the same.
        let (mut last, mut since) = (Vec::new(), exec::now());
        while self.started.elapsed() < ATTACH_LIMIT {
            self.check_alive()?;
            let fds = descriptors(self.child.id());
            if fds != last {
                (last, since) = (fds, exec::now());
            }
            let traces = last.iter().any(|fd| fd.contains("bpf") || fd.contains("perf_event"));
            if traces && since.elapsed() >= SETTLED {
                return Ok(());
            }
            thread::sleep(Duration::from_millis(20));
        }
        bail!("it was still opening descriptors after {ATTACH_LIMIT:?}");
    }

    fn wait_start_event(&mut self) -> Result<Instant> {
        while self.started.elapsed() < ATTACH_LIMIT {
            let events = self.events.as_ref().context("only closewait has a `start` event")?;
            match events.start.recv_timeout(Duration::from_millis(100)) {
                Ok(at) => return Ok(at),
                Err(mpsc::RecvTimeoutError::Timeout) => self.check_alive()?,
                Err(mpsc::RecvTimeoutError::Disconnected) => {
                    // Its output has ended; give the process the time to end too, for its exit code.
                    exec::wait_at_most(&mut self.child, Duration::from_secs(2))?;
                    self.check_alive()?;
                    bail!("it closed stdout without a `start` event");
                }
            }
        }
        bail!("there was no `start` event within {ATTACH_LIMIT:?}");
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
        // After `stop` both say that there is no such process; before it, nothing else would end it.
        let _gone = self.child.kill();
        let _gone = self.child.wait();
    }
}

/// What a process has open, in the kernel's words.
fn descriptors(pid: u32) -> Vec<String> {
    let Ok(entries) = fs::read_dir(format!("/proc/{pid}/fd")) else { return Vec::new() };
    let target = |entry: std::io::Result<fs::DirEntry>| fs::read_link(entry.ok()?.path()).ok();
    entries.filter_map(target).map(|path| path.to_string_lossy().into_owned()).collect()
}

fn read_events(stdout: ChildStdout) -> Events {
    let (sender, start) = mpsc::channel();
    let stop = thread::spawn(move || {
        let mut stop = None;
        for line in BufReader::new(stdout).lines().map_while(Result::ok) {
            let at = exec::now();
            match event_name(&line) {
                // The other end may have given up waiting.
                Some("start") => drop(sender.send(attached(&line).unwrap_or(at))),
                Some("stop") => stop = serde_json::from_str(&line).ok(),
                _ => {}
            }
        }
        stop
    });
    Events { start, stop }
}

/// When the agent was attached, by the event's own time: the line comes later, after the agent has listed the sockets that
/// are older than itself.
fn attached(start: &str) -> Option<Instant> {
    let event: Value = serde_json::from_str(start).ok()?;
    let attached = humantime::parse_rfc3339(event["time"].as_str()?).ok()?;
    exec::now().checked_sub(exec::wall_now().duration_since(attached).ok()?)
}

/// The `event` of a line, found without parsing all of it: this runs beside the measured load.
fn event_name(line: &str) -> Option<&str> {
    line.split_once("\"event\":\"")?.1.split('"').next()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn scratch(name: &str) -> PathBuf {
        let dir = std::env::temp_dir().join(format!("xtask-tracer-{name}-{}", std::process::id()));
        fs::create_dir_all(&dir).unwrap();
        dir
    }

    /// A shell script in the place of closewait.
    fn script(dir: &Path, text: &str) -> Tracer {
        let args = vec!["-c".to_owned(), text.to_owned()];
        Tracer { name: "script", program: "sh".into(), args, stderr: dir.join("stderr"), has_events: true }
    }

    #[test]
    fn start_and_stop_events_are_seen() {
        let dir = scratch("events");
        let text = "trap 'echo \"{\\\"event\\\":\\\"stop\\\",\\\"totals\\\":{\\\"entered\\\":3}}\"; exit 0' INT; \
            echo '{\"event\":\"start\"}'; while :; do sleep 0.01; done";
        let running = script(&dir, text).attach().unwrap();
        let stop = running.stop().unwrap().unwrap();
        assert_eq!(stop["totals"]["entered"], 3);
        fs::remove_dir_all(&dir).unwrap();
    }

    #[test]
    fn a_program_that_ends_early_gives_its_last_words() {
        let dir = scratch("early");
        let error = script(&dir, "echo first >&2; echo no BTF here >&2; exit 69").attach().err().unwrap();
        assert!(format!("{error:#}").contains("69: no BTF here"), "{error:#}");
        fs::remove_dir_all(&dir).unwrap();
    }

    #[test]
    fn the_event_s_name_is_found_in_the_line() {
        assert_eq!(event_name("{\"seq\":1,\"event\":\"start\",\"time\":\"x\"}"), Some("start"));
        assert_eq!(event_name("plain text"), None);
    }
}
