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
/// Longest wait until it has settled.
const SETTLE_LIMIT: Duration = Duration::from_secs(120);
/// Largest difference between two readings that count as the same.
const MAX_NOISE_KIB: u64 = 256;

/// Measures and prints.
pub(super) fn run(binary: &Path, dir: &Path) -> Result<()> {
    crowd::enter_network()?;
    let example = binary.with_file_name("examples").join(EXAMPLE);
    let mut rows = Vec::new();
    for sockets in REAL {
        eprintln!("bench: {sockets} sockets");
        rows.push(track(binary, dir, sockets)?);
    }
    for sockets in REPLAYED {
        eprintln!("bench: {sockets} sockets replayed");
        let told = replay(&example, sockets, 1, 0)?;
        let [agent, peak, left] =
            ["after_report_kib", "peak_kib", "after_leave_kib"].map(|moment| growth(&told, moment));
        rows.push(row(sockets, " (replayed)", None, [agent?, peak?, left?]));
    }
    // The sockets of the last round still exist: their own memory does not count for the ports.
    eprintln!("bench: {PORTS} ports");
    let with_ports = growth(&replay(&example, 1, PORTS, ROUNDS)?, "after_rounds_kib")?;
    let without = growth(&replay(&example, PORTS, 1, 0)?, "after_enter_kib")?;
    let port = (with_ports - without) * 1024.0 / f64::from(COUNTED_PORTS);
    println!(
        "{}; sockets in CLOSE_WAIT that all have been reported, one owner each. Kernel: growth of the agent's BPF maps. \
         Agent: growth of its anonymous resident memory, and its peak during the reports.\n",
        machine()?
    );
    let header = "Sockets | Kernel, bytes for each | Agent, bytes for each | Agent's growth, KiB | at the peak, KiB | \
                  when all had left, KiB";
    print!("{}", markdown::table(header, rows));
    println!("\nA port or remote endpoint with counted enters and exits: {port:.0} bytes.");
    Ok(())
}

/// A row of the table: bytes of the kernel's maps (`None` for a recording), and KiB of the agent after the reports, at the
/// peak, and when all sockets had left.
fn row(sockets: u32, kind: &str, kernel: Option<f64>, [agent, peak, left]: [f64; 3]) -> String {
    let each = |bytes: f64| format!("{:.0}", bytes / f64::from(sockets));
    let kernel = kernel.map_or_else(|| "-".to_owned(), each);
    format!("{sockets}{kind} | {kernel} | {} | {agent:.0} | {peak:.0} | {left:.0}", each(agent * 1024.0))
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
    let kib = |name: &str| told[name].as_f64().with_context(|| format!("the example printed no {name}"));
    Ok(kib(moment)? - kib("before_kib")?)
}

/// Measures an agent that tracks real sockets, and returns its row.
fn track(binary: &Path, dir: &Path, sockets: u32) -> Result<String> {
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
    let kernel = maps as f64 - maps_before as f64;
    Ok(row(sockets, "", Some(kernel), [with, peak, left].map(|kib| kib as f64 - before as f64)))
}

/// Anonymous memory of an agent once it stays the same, and the most that was seen meanwhile, KiB.
fn settled(pid: u32) -> Result<(u64, u64)> {
    let began = exec::now();
    let (mut last, mut since) = (status_kib(pid, "RssAnon")?, exec::now());
    let mut peak = last;
    while since.elapsed() < SETTLED {
        if began.elapsed() > SETTLE_LIMIT {
            bail!("the agent's memory did not settle within {SETTLE_LIMIT:?}; is the machine busy?");
        }
        thread::sleep(Duration::from_millis(20));
        let now = status_kib(pid, "RssAnon")?;
        peak = peak.max(now);
        if now.abs_diff(last) > MAX_NOISE_KIB {
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
        let growth = [500.0, 600.0, -3.0];
        assert_eq!(row(1000, "", Some(72_000.0), growth), "1000 | 72 | 512 | 500 | 600 | -3");
        assert_eq!(row(1000, " (replayed)", None, growth), "1000 (replayed) | - | 512 | 500 | 600 | -3");
    }

    #[test]
    fn the_memory_of_this_process_settles() {
        let (kib, peak) = settled(std::process::id()).unwrap();
        assert!(kib > 0 && peak >= kib);
    }
}
