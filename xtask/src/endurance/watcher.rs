//! An agent, and what it reports about the sockets of a population.

use std::collections::BTreeMap;

use tests_support::net::Id;

use super::population::{Ends, NETWORK};
use crate::prelude::*;
use crate::{
    agent::{Program, Running},
    bench,
};

/// How agents are started, one after the other.
pub(crate) struct Agents<'a> {
    pub(super) binary: &'a Path,
    pub(super) dir: &'a Path,
}

/// Sockets of a population that left, each with its dwell time if that was exact.
pub(super) type Left = Vec<(Ends, Option<f64>)>;

/// A running agent.
pub(super) struct Watcher {
    pub(super) running: Running,
    /// The sockets that left while it ran.
    pub(super) left: Left,
    /// The counts that it reported last.
    pub(super) totals: Value,
    socket: PathBuf,
    binary: PathBuf,
}

impl Agents<'_> {
    /// Starts an agent on the pinned maps and waits until it is attached.
    pub(super) fn start(&self, ring_bytes: u32, stuck_after: &str) -> Result<Watcher> {
        let pin = super::pins(self.dir).join("closewait").display().to_string();
        self.start_as("pinned", ring_bytes, stuck_after, &["--pin", &pin])
    }

    /// Starts an agent with maps of its own (no `--pin` among `more`) or with those that `more` names.
    pub(super) fn start_as(
        &self,
        name: &'static str,
        ring_bytes: u32,
        stuck_after: &str,
        more: &[&str],
    ) -> Result<Watcher> {
        let socket = self.dir.join(format!("{name}.socket"));
        let (ring_bytes, path) = (ring_bytes.to_string(), socket.display().to_string());
        let args =
            ["--histogram-every", "5s", "--stuck-after", stuck_after, "--ring-buffer", &ring_bytes, "--socket", &path];
        let program = Program::closewait(self.binary, self.dir, &[&args, more].concat());
        let running = program.keep(name, &["start", "leave", "health", "stop"]).attach()?;
        Ok(Watcher { running, left: Vec::new(), totals: Value::Null, socket, binary: self.binary.to_owned() })
    }
}

impl Watcher {
    /// `adopted` if it uses the maps of the agent before it.
    pub(super) fn pinned(&self) -> &str {
        self.running.start["pinned"].as_str().unwrap_or("not pinned")
    }

    /// Takes events for some time, or until its output ends.
    pub(super) fn watch(&mut self, time: Duration) {
        let end = exec::now() + time;
        while let Some(event) = self.running.next_event(end) {
            take(&mut self.left, &mut self.totals, &event);
        }
    }

    /// Kills it.
    pub(super) fn kill(&mut self) {
        let events = self.running.kill();
        events.iter().for_each(|event| take(&mut self.left, &mut self.totals, event));
    }

    /// Ends it in order; its final counts are then the totals.
    pub(super) fn stop(&mut self) -> Result<()> {
        let events = self.running.stop()?;
        events.iter().for_each(|event| take(&mut self.left, &mut self.totals, event));
        Ok(())
    }

    /// The tracked sockets of the population, each with the bounds of its age in seconds.
    pub(super) fn list(&self) -> Result<BTreeMap<Ends, (f64, f64)>> {
        let mut command = Command::new(&self.binary);
        command.args(["list", "--output", "json", "--socket"]).arg(&self.socket);
        let mut listed = BTreeMap::new();
        for line in exec::quiet(&mut command)?.lines() {
            let object: Value = serde_json::from_str(line).with_context(|| format!("not JSON: {line}"))?;
            let Some(ends) = ends(&object).filter(|_| object["gone"].is_null()) else { continue };
            let low = object["dwell_seconds"].as_f64().unwrap_or(0.0);
            let high = if object["exact"] == true { Some(low) } else { object["dwell_at_most_seconds"].as_f64() };
            ensure!(listed.insert(ends, (low, high.unwrap_or(f64::MAX))).is_none(), "listed twice: {line}");
        }
        Ok(listed)
    }

    /// Kilobytes of resident memory, and the number of open descriptors.
    pub(super) fn size(&self) -> Result<[u64; 2]> {
        let pid = self.running.pid();
        Ok([bench::status_kib(pid, "VmRSS")?, fs::read_dir(format!("/proc/{pid}/fd"))?.count() as u64])
    }
}

fn take(left: &mut Left, totals: &mut Value, event: &Value) {
    match event["event"].as_str() {
        Some("leave") => {
            let exact = event["exact"] == true;
            left.extend(ends(event).map(|ends| (ends, event["dwell_seconds"].as_f64().filter(|_| exact))));
        }
        Some("health") => *totals = event.clone(),
        Some("stop") => *totals = event["totals"].clone(),
        Some(_) | None => {}
    }
}

/// The ends of an event's socket, if it is one of a population.
fn ends(event: &Value) -> Option<Ends> {
    let Id { local, remote, .. } = Id::of_event(event)?;
    local.ip().to_string().starts_with(NETWORK).then_some((local, remote))
}
