//! Connections per second with closewait, with other tracers and with none.

use super::{
    machine, process,
    rounds::{Series, interleaved, summary},
};
use crate::prelude::*;
use crate::{agent::Program, namespaces};

/// The counters of the `stop` event.
const COUNTERS: [&str; 5] = ["entered", "left", "lost_ring_full", "lost_map_full", "skipped_by_kernel"];

#[derive(Args)]
pub(crate) struct Overhead {
    /// Rounds of each variant
    #[arg(long, default_value_t = 15, value_parser = clap::value_parser!(u32).range(1..=1000))]
    rounds: u32,
    /// Seconds of each round
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u64).range(1..=600))]
    seconds: u64,
    /// How often closewait is started to time it
    #[arg(long, default_value_t = 20, value_parser = clap::value_parser!(u32).range(1..=1000))]
    starts: u32,
    /// How long closewait is watched while nothing happens
    #[arg(long, default_value_t = 20, value_parser = clap::value_parser!(u64).range(1..=600))]
    idle_seconds: u64,
}

impl Overhead {
    /// Measures and prints.
    pub(super) fn run(&self, binary: &Path, dir: &Path) -> Result<()> {
        // The other tracers need tracefs; without it they are reported as not attached, with their reason.
        if let Err(error) = namespaces::mount_tracefs() {
            eprintln!("bench: no tracefs for the other tracers: {error:#}");
        }
        let tracers = tracers(binary, dir);
        let mut failures = vec![None; tracers.len()];
        let (mut all_connections, mut totals) = (0, [0; COUNTERS.len()]);
        let names = std::iter::once("none").chain(tracers.iter().map(|tracer| tracer.name));
        let series = interleaved(names, self.rounds, |index| {
            let Some(index) = index.checked_sub(1) else { return Ok(Some(load(self.seconds)?.1)) };
            if failures[index].is_some() {
                return Ok(None);
            }
            let mut running = match tracers[index].attach() {
                Ok(running) => running,
                Err(error) => {
                    eprintln!("bench: {error:#}");
                    failures[index] = Some(error.root_cause().to_string());
                    return Ok(None);
                }
            };
            let (connections, rate) = load(self.seconds)?;
            let last = running.stop()?.pop();
            // closewait is the first tracer, and the only one that counts.
            if let Some(stop) = last {
                all_connections += connections;
                for (sum, name) in totals.iter_mut().zip(COUNTERS) {
                    *sum +=
                        stop["totals"][name].as_u64().with_context(|| format!("no {name} in {stop}; this is a bug"))?;
                }
            }
            Ok(Some(rate))
        })?;
        println!(
            "{}; {} interleaved rounds of {} s for each variant; short TCP connections over loopback, as many client and server \
             threads as CPUs.\n",
            machine()?,
            self.rounds,
            self.seconds
        );
        let failed = std::iter::once(None).chain(failures.iter().map(Option::as_deref));
        print!("{}", table(series.iter().zip(failed)));
        if let Some(Some(reason)) = failures.first() {
            bail!("closewait did not attach: {reason}; try `cargo xtask run -- doctor`");
        }
        // Other connections on the machine can only make the number of missed ones smaller.
        let missed = all_connections.saturating_sub(totals[0]);
        let totals = COUNTERS.iter().zip(totals).map(|(name, sum)| format!("`{name}` {sum}")).collect::<Vec<_>>();
        println!(
            "\nOf {all_connections} connections, closewait missed {missed}. Its own totals: {}.",
            totals.join(", ")
        );
        print!("{}", self.start_times(&tracers[0])?);
        print!("{}", self.idle(&tracers[0])?);
        Ok(())
    }

    /// How long closewait takes from the start of the process until it is attached.
    fn start_times(&self, closewait: &Program) -> Result<String> {
        let mut millis = Vec::new();
        for _ in 0..self.starts {
            let mut running = closewait.attach()?;
            millis.push(running.time_to_attach.as_secs_f64() * 1000.0);
            running.stop()?;
        }
        let [_min, median, max] = summary(&millis).context("no starts; this is a bug")?;
        Ok(format!(
            "\nFrom the start of the process until it was attached: median {median:.0} ms, at most {max:.0} ms ({} starts).\n",
            self.starts
        ))
    }

    /// What closewait costs while nothing happens but what the machine itself does.
    fn idle(&self, closewait: &Program) -> Result<String> {
        let mut running = closewait.attach()?;
        // What it does once after its start is not idleness.
        thread::sleep(Duration::from_secs(2));
        let cpu = process::cpu_during(running.pid(), Duration::from_secs(self.idle_seconds))?.as_secs_f64();
        let resident_kib = process::status_kib(running.pid(), "VmRSS")?;
        running.stop()?;
        Ok(format!(
            "\nIdle for {} s: {:.1} ms of CPU time ({:.3} % of one CPU), {resident_kib} KiB resident.\n",
            self.idle_seconds,
            cpu * 1000.0,
            cpu / self.idle_seconds as f64 * 100.0
        ))
    }
}

/// The variants beside "none", closewait first.
fn tracers(binary: &Path, dir: &Path) -> Vec<Program> {
    let mut tracers = vec![Program::closewait(binary, dir, &[])];
    for name in ["tcpstates", "tcplife"] {
        // Where bcc's scripts are installed too, Debian's package has these under another name.
        let program = exec::which(name).or_else(|| exec::which(&format!("{name}-libbpf")));
        tracers.extend(program.map(|program| Program::tracer(name, &program, dir, &[])));
    }
    if let Some(bpftrace) = exec::which("bpftrace") {
        // The least work that counts every transition in the kernel.
        let script = "tracepoint:sock:inet_sock_set_state { @[args->oldstate, args->newstate] = count(); }";
        tracers.push(Program::tracer("bpftrace count()", &bpftrace, dir, &["-e", script]));
    }
    tracers
}

/// Runs the load generator. Returns connections, and connections per second.
fn load(seconds: u64) -> Result<(u64, f64)> {
    // In its own process, each round has a fresh network namespace and no TIME_WAIT of the round before.
    let mut command = Command::new(exec::this()?);
    let result = exec::json(command.args(["loadgen", "--seconds", &seconds.to_string()]))?;
    let numbers = result["connections"].as_u64().zip(result["connections_per_second"].as_f64());
    numbers.with_context(|| format!("the load generator printed no numbers but {result}; this is a bug"))
}

/// One row for each variant, with the reason if it did not attach.
fn table<'a>(variants: impl Iterator<Item = (&'a Series, Option<&'a str>)>) -> String {
    let row = |(series, failure): (&Series, Option<&str>)| {
        let numbers = summary(&series.values).zip(summary(&series.ratios)).map_or_else(
            || "- | - | -".to_owned(),
            |([min, rate, max], [_, ratio, _])| format!("{rate:.0} | {min:.0}..{max:.0} | {ratio:.3}"),
        );
        let notes = failure.map_or_else(
            || format!("{} rounds", series.values.len()),
            |reason| format!("did not attach: {}", markdown::cell(reason)),
        );
        format!("{} | {numbers} | {notes}", series.name)
    };
    markdown::table("Variant | Connections/s (median) | min..max | Ratio to none | Notes", variants.map(row))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_variant_without_results_has_a_reason() {
        let none = Series { name: "none", values: vec![100.0, 200.0], ratios: vec![1.0, 1.0] };
        let tcplife = Series { name: "tcplife", ..Series::default() };
        let table = table([(&none, None), (&tcplife, Some("no a|b"))].into_iter());
        assert!(table.contains("| none | 150 | 100..200 | 1.000 | 2 rounds |\n"), "{table}");
        assert!(table.contains("| tcplife | - | - | - | did not attach: no a\\|b |\n"), "{table}");
    }
}
