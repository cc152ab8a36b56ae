//! An agent with pinned maps, and what it says of a population.

use std::{
    collections::BTreeMap,
    ffi::OsString,
    fs::{self, File},
    io::{BufRead as _, BufReader},
    net::SocketAddr,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
        mpsc::{self, Receiver},
    },
    thread,
    time::Duration,
};

use anyhow::{Context as _, Result, bail};
use serde_json::Value;

use super::population::{Ends, NETWORK};
use crate::exec;

/// Starting takes less than a second; a machine that is busy otherwise may need more.
const PATIENCE: Duration = Duration::from_secs(30);

/// How agents are started, one after the other.
pub(super) struct Agents<'a> {
    pub(super) binary: &'a Path,
    pub(super) dir: &'a Path,
    pub(super) ring_bytes: u32,
}

/// What left of a population, each with its dwell time if that was exact.
pub(super) type Left = Vec<(Ends, Option<f64>)>;

/// One that runs. Dropping it kills it.
pub(super) struct Watcher {
    child: Child,
    events: Receiver<Value>,
    /// What became of the maps of the one before.
    pub(super) pinned: String,
    left: Left,
    /// The last counts that it gave.
    pub(super) totals: Value,
    socket: PathBuf,
    binary: PathBuf,
    /// Nobody reads its standard output.
    unread: Arc<AtomicBool>,
}

impl Agents<'_> {
    /// Starts one on the pinned maps and waits until it watches.
    pub(super) fn start(&self, stuck_after: &str) -> Result<Watcher> {
        self.start_as("pinned", &["--pin".into(), super::pins(self.dir).join("closewait").into()], stuck_after)
    }

    /// Starts one with maps of its own, beside those.
    pub(super) fn start_beside(&self, stuck_after: &str) -> Result<Watcher> {
        self.start_as("beside", &[], stuck_after)
    }

    fn start_as(&self, name: &str, pin: &[OsString], stuck_after: &str) -> Result<Watcher> {
        let stderr = self.dir.join(format!("{name}.stderr"));
        let socket = self.dir.join(format!("{name}.socket"));
        let mut command = Command::new(self.binary);
        command.args(["run", "--output", "json", "--histogram-every", "5s", "--stuck-after", stuck_after]);
        command.args(["--ring-buffer", &self.ring_bytes.to_string()]);
        command.args(pin).arg("--socket").arg(&socket);
        command.stdin(Stdio::null()).stdout(Stdio::piped());
        command.stderr(File::create(&stderr).with_context(|| format!("cannot create {}", stderr.display()))?);
        let mut child = command.spawn().with_context(|| format!("cannot start {}", exec::shown(&command)))?;
        let stdout = child.stdout.take().context("an agent without standard output; this is a bug")?;
        let (sender, events) = mpsc::channel();
        let unread = Arc::new(AtomicBool::new(false));
        let reader = Arc::clone(&unread);
        thread::spawn(move || {
            for line in BufReader::new(stdout).lines().map_while(Result::ok) {
                while reader.load(Ordering::Relaxed) {
                    thread::sleep(Duration::from_millis(10));
                }
                // Most lines are of sockets that only stay; the last one of a killed agent may be cut off.
                let wanted =
                    ["\"event\":\"leave\"", "\"event\":\"start\"", "\"event\":\"stop\"", "\"event\":\"health\""];
                if !wanted.iter().any(|wanted| line.contains(wanted)) {
                    continue;
                }
                if let Ok(event) = serde_json::from_str(&line)
                    && sender.send(event).is_err()
                {
                    break;
                }
            }
        });
        let binary = self.binary.to_owned();
        let (left, totals, pinned) = (Vec::new(), Value::Null, String::new());
        let mut watcher = Watcher { child, events, pinned, left, totals, socket, binary, unread };
        let start = match watcher.events.recv_timeout(PATIENCE) {
            Ok(start) => start,
            Err(_) => bail!("an agent did not start: {}", fs::read_to_string(&stderr).unwrap_or_default()),
        };
        watcher.pinned = start["pinned"].as_str().unwrap_or("not pinned").to_owned();
        Ok(watcher)
    }
}

impl Watcher {
    /// Takes in what comes for some time, or until it has ended.
    pub(super) fn watch(&mut self, time: Duration) {
        let end = exec::now() + time;
        while let Ok(event) = self.events.recv_timeout(end.saturating_duration_since(exec::now())) {
            self.take(&event);
        }
    }

    /// Whether anybody reads its standard output.
    pub(super) fn read(&self, read: bool) {
        self.unread.store(!read, Ordering::Relaxed);
    }

    fn take(&mut self, event: &Value) {
        match event["event"].as_str() {
            Some("leave") => {
                let Some(ends) = ends(event) else { return };
                let exact = event["exact"] == true;
                self.left.push((ends, event["dwell_seconds"].as_f64().filter(|_| exact)));
            }
            Some("health") => self.totals = event.clone(),
            Some("stop") => self.totals = event["totals"].clone(),
            Some(_) | None => {}
        }
    }

    /// Kills it as the kernel does when memory runs out, and takes in what it had written.
    pub(super) fn kill(mut self) -> Result<Left> {
        self.signal(libc::SIGKILL)?;
        self.child.wait().context("waiting for an agent failed")?;
        self.watch(PATIENCE);
        Ok(std::mem::take(&mut self.left))
    }

    /// Ends it as Ctrl-C does.
    pub(super) fn stop(mut self) -> Result<(Left, Value)> {
        self.signal(libc::SIGINT)?;
        let status = exec::wait_at_most(&mut self.child, PATIENCE)?.context("an agent did not end by SIGINT")?;
        anyhow::ensure!(status.success(), "an agent ended with {status}");
        self.watch(PATIENCE);
        Ok((std::mem::take(&mut self.left), self.totals.take()))
    }

    pub(super) fn signal(&self, signal: libc::c_int) -> Result<()> {
        exec::signal(&self.child, signal)
    }

    /// The sockets of the population that it tracks, with the bounds of their age.
    pub(super) fn list(&self) -> Result<BTreeMap<Ends, (f64, f64)>> {
        let mut command = Command::new(&self.binary);
        command.args(["list", "--output", "json", "--socket"]).arg(&self.socket);
        let text = exec::quiet(&mut command)?;
        let mut listed = BTreeMap::new();
        for line in text.lines() {
            let object: Value = serde_json::from_str(line).with_context(|| format!("not JSON: {line}"))?;
            let Some(ends) = ends(&object).filter(|_| object["gone"].is_null()) else { continue };
            let low = object["dwell_seconds"].as_f64().unwrap_or(0.0);
            let high = if object["exact"] == true { Some(low) } else { object["dwell_at_most_seconds"].as_f64() };
            anyhow::ensure!(listed.insert(ends, (low, high.unwrap_or(f64::MAX))).is_none(), "listed twice: {line}");
        }
        Ok(listed)
    }

    /// Kilobytes of resident memory, and open descriptors.
    pub(super) fn size(&self) -> Result<(u64, usize)> {
        let folder = PathBuf::from(format!("/proc/{}", self.child.id()));
        let status = fs::read_to_string(folder.join("status")).context("reading an agent's status failed")?;
        let rss = status.lines().find_map(|line| line.strip_prefix("VmRSS:")?.trim().strip_suffix(" kB")?.parse().ok());
        let fds = fs::read_dir(folder.join("fd")).context("reading an agent's descriptors failed")?.count();
        Ok((rss.context("a process without resident memory")?, fds))
    }
}

impl Drop for Watcher {
    fn drop(&mut self) {
        // It fails only for one that has ended.
        let _ended = self.child.kill();
        let _waited = self.child.wait();
    }
}

/// The ends of the socket of an event, if it is one of a population.
fn ends(event: &Value) -> Option<Ends> {
    let socket = event.get("socket")?;
    let end = |name: &str| {
        let address = socket[name]["address"].as_str()?.parse().ok()?;
        Some(SocketAddr::new(address, socket[name]["port"].as_u64()?.try_into().ok()?))
    };
    let (local, remote) = (end("local")?, end("remote")?);
    local.ip().to_string().starts_with(NETWORK).then_some((local, remote))
}
