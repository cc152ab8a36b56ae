//! Memory that a tracked socket takes.

use super::{
    machine,
    process::{map_bytes, status_kib},
};
use crate::prelude::*;
use crate::{
    agent::Program,
    crowd::{self, Crowd},
};

/// The agent's example that plays a recording through the engine.
pub(super) const EXAMPLE: &str = "memory";
/// Real sockets.
const REAL: [u32; 3] = [1000, 100_000, 250_000];
/// Sockets of a recording.
const REPLAYED: [u32; 3] = [1000, 100_000, 1_000_000];
/// Local ports, to measure what one takes.
const PORTS: u32 = 10_000;
/// Number of ports that the agent counts one by one.
const COUNTED_PORTS: u32 = 4096;
/// Sockets of each port that enter before the last one leaves: more than the agent counts.
const ROUNDS: u32 = 130;
/// The agent reports all sockets soon.
const STUCK_AFTER: &str = "1s";
/// Enough for the records of all sockets: when a process ends, all its sockets leave at once.
const RING_BYTES: &str = "67108864";
/// The agent has settled when its memory has been the same for this long.
const SETTLED: Duration = Duration::from_secs(4);
/// Longest wait for that.
const PATIENCE: Duration = Duration::from_secs(120);
/// Largest difference between two readings that are the same.
const SAME_KIB: u64 = 256;

#[derive(Args)]
pub(crate) struct Memory {
    /// Only the recordings, no real sockets
    #[arg(long)]
    replayed_only: bool,
}

/// Memory that some sockets took, as differences from what was there before.
struct Growth {
    sockets: u32,
    /// Bytes of the kernel's maps; `None` for a recording.
    kernel: Option<f64>,
    agent_kib: f64,
    peak_kib: f64,
    /// When all sockets had left.
    left_kib: f64,
}

impl Memory {
    /// Measures and prints.
    pub(super) fn run(&self, binary: &Path, dir: &Path) -> Result<()> {
        crowd::enter_network()?;
        let example = binary.with_file_name("examples").join(EXAMPLE);
        let mut replayed = Vec::new();
        for sockets in REPLAYED {
            eprintln!("bench: {sockets} sockets replayed");
            replayed.push(grown(&replay(&example, sockets, 1, 0)?, sockets)?);
        }
        // The sockets of the last round still exist: what they take by themselves does not count for the ports.
        eprintln!("bench: {PORTS} ports");
        let with_ports = growth(&replay(&example, 1, PORTS, ROUNDS)?, "after_rounds_kib")?;
        let without = growth(&replay(&example, PORTS, 1, 0)?, "after_enter_kib")?;
        let port = (with_ports - without) * 1024.0 / f64::from(COUNTED_PORTS);
        let mut real = Vec::new();
        for sockets in REAL.into_iter().filter(|_| !self.replayed_only) {
            eprintln!("bench: {sockets} sockets");
            real.push(track(binary, dir, sockets)?);
        }
        println!(
            "{}; sockets in CLOSE_WAIT that all have been reported, one owner each. Kernel: growth of the agent's BPF maps. \
             Agent: growth of its anonymous resident memory, and the most that was seen while they were reported.\n",
            machine()?
        );
        let real = real.iter().map(|growth| growth.row(""));
        let rows = real.chain(replayed.iter().map(|growth| growth.row(" (replayed)")));
        let header = "Sockets | Kernel, bytes for each | Agent, bytes for each | Agent's growth, KiB | at the peak, KiB | \
                      when all had left, KiB";
        print!("{}", markdown::table(header, rows));
        println!("\nA port or remote endpoint with counted enters and exits: {port:.0} bytes.");
        Ok(())
    }
}

impl Growth {
    fn row(&self, what: &str) -> String {
        let Self { sockets, kernel, agent_kib, peak_kib, left_kib } = self;
        let each = |bytes: f64| bytes / f64::from(*sockets);
        let kernel = kernel.map_or_else(|| "-".to_owned(), |bytes| format!("{:.0}", each(bytes)));
        let agent = each(agent_kib * 1024.0);
        format!("{sockets}{what} | {kernel} | {agent:.0} | {agent_kib:.0} | {peak_kib:.0} | {left_kib:.0}")
    }
}

fn replay(example: &Path, sockets: u32, ports: u32, rounds: u32) -> Result<Value> {
    let mut command = Command::new(example);
    command.args([sockets, ports, rounds].map(|number| number.to_string()));
    let told = exec::json(&mut command)?;
    if told["stuck"].as_u64() < Some(sockets.into()) || told["tracked_at_the_end"] != 0 {
        bail!("not all sockets of the recording were reported and left: {told}; this is a bug");
    }
    Ok(told)
}

/// Growth of the process at a moment, KiB.
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
    let mut running = Program::closewait(binary, dir, &args).attach()?;
    let pid = running.pid();
    let (before, _) = settled(pid)?;
    let maps_before = map_bytes(pid)?;
    let crowd = Crowd::gather(0, sockets, 0)?;
    let (with, peak) = settled(pid)?;
    let maps = map_bytes(pid)?;
    drop(crowd);
    let (left, _) = settled(pid)?;
    let stop = running.stop()?.pop().context("the agent ended without a `stop` event; this is a bug")?;
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
    let (mut last, mut since) = (status_kib(pid, "RssAnon")?, exec::now());
    let mut peak = last;
    while since.elapsed() < SETTLED {
        if began.elapsed() > PATIENCE {
            bail!("the agent's memory did not settle within {PATIENCE:?}; is the machine busy?");
        }
        thread::sleep(Duration::from_millis(20));
        let now = status_kib(pid, "RssAnon")?;
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
    fn memory_is_shown_for_each_socket_and_what_was_not_measured_is_no_number() {
        let growth = |kernel| Growth { sockets: 1000, kernel, agent_kib: 500.0, peak_kib: 600.0, left_kib: -3.0 };
        assert_eq!(growth(Some(72_000.0)).row(""), "1000 | 72 | 512 | 500 | 600 | -3");
        assert_eq!(growth(None).row(" (replayed)"), "1000 (replayed) | - | 512 | 500 | 600 | -3");
    }

    #[test]
    fn the_memory_of_this_process_settles() {
        let (kib, peak) = settled(std::process::id()).unwrap();
        assert!(kib > 0 && peak >= kib);
    }
}
