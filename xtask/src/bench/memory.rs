//! How much memory a socket takes that is tracked.

use std::{
    path::{Path, PathBuf},
    process::Command,
    thread,
    time::Duration,
};

use anyhow::{Context as _, Result, bail};
use clap::Args;
use serde_json::Value;

use super::{
    agent,
    holders::{self, Crowd},
    report,
    tracer::Tracer,
};
use crate::exec;

/// Plays a recording through the engine.
pub(super) const EXAMPLE: &str = "memory";
/// Real sockets.
const REAL: [u32; 3] = [1000, 100_000, 250_000];
/// Sockets of a recording.
const REPLAYED: [u32; 3] = [1000, 100_000, 1_000_000];
/// Local ports, to see what one takes. Of these the agent counts at most so many each by itself.
const PORTS: u32 = 10_000;
const COUNTED_PORTS: u32 = 4096;
/// So many times a socket of each port comes before the last one goes: more than it keeps count of.
const ROUNDS: u32 = 130;
/// All are reported soon.
const STUCK_AFTER: &str = "1s";
/// Room for the records of all of them: when a process ends with its sockets, they all leave in one moment.
const RING_BYTES: &str = "67108864";
/// The agent has settled when its memory has been the same for this long.
const SETTLED: Duration = Duration::from_secs(4);
/// And it is not waited for longer than this.
const PATIENCE: Duration = Duration::from_secs(120);
/// Its memory is the same if it differs by no more than this.
const SAME_KIB: u64 = 256;

#[derive(Args)]
pub(crate) struct Options {
    /// Only the recordings, no real sockets
    #[arg(long)]
    replayed_only: bool,
    /// The built closewait; nothing is built then
    #[arg(long, hide = true)]
    pub(super) binary: Option<PathBuf>,
}

impl Options {
    /// The flags to start this program with again.
    pub(super) fn again(&self) -> Vec<String> {
        self.replayed_only.then(|| "--replayed-only".to_owned()).into_iter().collect()
    }
}

/// What some sockets have taken, as differences to what was there before.
pub(super) struct Growth {
    pub(super) sockets: u32,
    /// Bytes of the kernel's maps; `None` where there is no kernel.
    pub(super) kernel: Option<f64>,
    pub(super) agent_kib: f64,
    pub(super) peak_kib: f64,
    /// When all had left.
    pub(super) left_kib: f64,
}

/// Measures and prints.
pub(super) fn run(binary: &Path, options: &Options, dir: &Path) -> Result<()> {
    holders::enter_network()?;
    let example = binary.with_file_name("examples").join(EXAMPLE);
    let mut replayed = Vec::new();
    for sockets in REPLAYED {
        eprintln!("bench: {sockets} sockets replayed");
        replayed.push(grown(&replay(&example, sockets, 1, 0)?, sockets)?);
    }
    // The sockets of the last round are still there: what they take by themselves is not the ports'.
    eprintln!("bench: {PORTS} ports");
    let with_ports = growth(&replay(&example, 1, PORTS, ROUNDS)?, "after_rounds_kib")?;
    let without = growth(&replay(&example, PORTS, 1, 0)?, "after_enter_kib")?;
    let port = (with_ports - without) * 1024.0 / f64::from(COUNTED_PORTS);
    let mut real = Vec::new();
    if !options.replayed_only {
        for sockets in REAL {
            eprintln!("bench: {sockets} sockets");
            real.push(track(binary, dir, sockets)?);
        }
    }
    print!("{}", report::memory(&real, &replayed, Some(port))?);
    Ok(())
}

fn replay(example: &Path, sockets: u32, ports: u32, rounds: u32) -> Result<Value> {
    let mut command = Command::new(example);
    command.args([sockets, ports, rounds].map(|number| number.to_string()));
    let told: Value = serde_json::from_str(&exec::quiet(&mut command)?)
        .with_context(|| format!("{} did not print JSON; this is a bug", exec::shown(&command)))?;
    if told["stuck"].as_u64() < Some(sockets.into()) || told["tracked_at_the_end"] != 0 {
        bail!("not all sockets of the recording were reported and left: {told}; this is a bug");
    }
    Ok(told)
}

/// By how many KiB the process has grown at a moment.
fn growth(told: &Value, moment: &str) -> Result<f64> {
    let kib = |name: &str| told[name].as_f64().with_context(|| format!("the example did not tell {name}"));
    Ok(kib(moment)? - kib("before_kib")?)
}

fn grown(told: &Value, sockets: u32) -> Result<Growth> {
    Ok(Growth {
        sockets,
        kernel: None,
        agent_kib: growth(told, "after_report_kib")?,
        peak_kib: growth(told, "peak_kib")?,
        left_kib: growth(told, "after_leave_kib")?,
    })
}

fn track(binary: &Path, dir: &Path, sockets: u32) -> Result<Growth> {
    let socket = dir.join("agent.sock").display().to_string();
    let args = ["--stuck-after", STUCK_AFTER, "--ring-buffer", RING_BYTES, "--socket", &socket];
    let running = Tracer::closewait(binary, dir, &args).attach()?;
    let pid = running.pid();
    let (before, _) = settled(pid)?;
    let maps_before = agent::map_bytes(pid)?;
    let crowd = Crowd::gather(0, sockets, 0)?;
    let (with, peak) = settled(pid)?;
    let maps = agent::map_bytes(pid)?;
    drop(crowd);
    let (left, _) = settled(pid)?;
    let stop = running.stop()?.context("the agent ended without a `stop` event; this is a bug")?;
    let lost = ["lost_ring_full", "lost_map_full", "untracked"].map(|name| stop["totals"][name].as_u64());
    if lost.iter().any(|lost| *lost != Some(0)) || stop["totals"]["entered"].as_u64() < Some(sockets.into()) {
        bail!("the agent did not track all {sockets} sockets: {}; the numbers would mean nothing", stop["totals"]);
    }
    let difference = |now: u64, before: u64| now as f64 - before as f64;
    Ok(Growth {
        sockets,
        kernel: Some(difference(maps, maps_before)),
        agent_kib: difference(with, before),
        peak_kib: difference(peak, before),
        left_kib: difference(left, before),
    })
}

/// Anonymous memory of an agent once it stays the same, and the most that was seen meanwhile, KiB.
fn settled(pid: u32) -> Result<(u64, u64)> {
    let began = exec::now();
    let (mut last, mut since) = (agent::anonymous_kib(pid)?, exec::now());
    let mut peak = last;
    while since.elapsed() < SETTLED {
        if began.elapsed() > PATIENCE {
            bail!("the agent's memory did not settle within {PATIENCE:?}; is the machine busy?");
        }
        thread::sleep(Duration::from_millis(20));
        let now = agent::anonymous_kib(pid)?;
        peak = peak.max(now);
        if now.abs_diff(last) > SAME_KIB {
            (last, since) = (now, exec::now());
        }
    }
    Ok((last, peak))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn growth_is_what_is_more_than_before() {
        let told = serde_json::json!({ "before_kib": 100, "after_leave_kib": 90 });
        assert_eq!(growth(&told, "after_leave_kib").unwrap(), -10.0);
        assert!(growth(&told, "peak_kib").is_err());
    }

    #[test]
    fn the_memory_of_this_process_settles() {
        let (kib, peak) = settled(std::process::id()).unwrap();
        assert!(kib > 0 && peak >= kib);
    }
}
