//! Connections per second with closewait, with other tracers and with none.

use super::{machine, process, summary};
use crate::agent::Program;
use crate::prelude::*;

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
    /// Number of timed starts of closewait
    #[arg(long, default_value_t = 20, value_parser = clap::value_parser!(u32).range(1..=1000))]
    starts: u32,
    /// Seconds for which an idle closewait is measured
    #[arg(long, default_value_t = 20, value_parser = clap::value_parser!(u64).range(1..=600))]
    idle_seconds: u64,
}

/// No tracer, or one that runs beside the load.
struct Variant {
    name: &'static str,
    tracer: Option<Program>,
    /// Why it did not attach.
    failure: Option<String>,
    /// Connections per second of each round.
    rates: Vec<f64>,
    /// Each rate divided by that of the first variant in the same round.
    ratios: Vec<f64>,
}

/// Sums over all rounds with closewait.
#[derive(Default)]
struct Totals {
    connections: u64,
    counters: [u64; COUNTERS.len()],
}

impl Overhead {
    /// Measures and prints.
    pub(super) fn run(&self, binary: &Path, dir: &Path) -> Result<()> {
        let mut variants = variants(binary, dir);
        let mut totals = Totals::default();
        let count = variants.len();
        for round in 0..usize::try_from(self.rounds)? {
            eprintln!("bench: round {} of {}", round + 1, self.rounds);
            // What the machine does besides slows every variant down alike, and none always follows the same one.
            for index in (round..round + count).map(|index| index % count) {
                let rate = self.measure(&mut variants[index], &mut totals)?;
                variants[index].rates.extend(rate);
            }
            let none = variants[0].rates.last().copied().context("no load without a tracer; this is a bug")?;
            for variant in variants.iter_mut().filter(|variant| variant.rates.len() > variant.ratios.len()) {
                variant.ratios.extend(variant.rates.last().map(|rate| rate / none));
            }
        }
        println!(
            "{}; {} interleaved rounds of {} s for each variant; short TCP connections over loopback, as many client and server \
             threads as CPUs.\n",
            machine()?,
            self.rounds,
            self.seconds
        );
        let header = "Variant | Connections/s (median) | min..max | Ratio to none | Notes";
        print!("{}", markdown::table(header, variants.iter().map(Variant::row)));
        // The first is none.
        let closewait = &variants[1];
        if let Some(reason) = &closewait.failure {
            bail!("closewait did not attach: {reason}\nhint: see what this host lacks:\n    cargo xtask run -- doctor");
        }
        // Other connections on the machine can only make the number of missed ones smaller.
        let missed = totals.connections.saturating_sub(totals.counters[0]);
        let counters = COUNTERS.iter().zip(totals.counters).map(|(name, sum)| format!("`{name}` {sum}"));
        let counters = counters.collect::<Vec<_>>().join(", ");
        println!("\nOf {} connections, closewait missed {missed}. Its own totals: {counters}.", totals.connections);
        let closewait = closewait.tracer.as_ref().context("closewait is no tracer; this is a bug")?;
        print!("{}", self.start_times(closewait)?);
        print!("{}", self.idle(closewait)?);
        Ok(())
    }

    /// Runs the load beside a variant. Returns connections per second, or `None` if the tracer does not attach.
    fn measure(&self, variant: &mut Variant, totals: &mut Totals) -> Result<Option<f64>> {
        let Some(tracer) = &variant.tracer else { return Ok(Some(load(self.seconds)?.1)) };
        if variant.failure.is_some() {
            return Ok(None);
        }
        let mut running = match tracer.attach() {
            Ok(running) => running,
            Err(error) => {
                eprintln!("bench: {error:#}");
                variant.failure = Some(error.root_cause().to_string());
                return Ok(None);
            }
        };
        let (connections, rate) = load(self.seconds)?;
        // Only closewait has events.
        if let Some(stop) = running.stop()?.pop() {
            totals.connections += connections;
            for (sum, name) in totals.counters.iter_mut().zip(COUNTERS) {
                *sum += stop["totals"][name].as_u64().with_context(|| format!("no {name} in {stop}; this is a bug"))?;
            }
        }
        Ok(Some(rate))
    }

    /// Measures the time from the start of the process until closewait is attached.
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

    /// Measures what closewait costs on a host that does nothing else.
    fn idle(&self, closewait: &Program) -> Result<String> {
        let mut running = closewait.attach()?;
        // Its work after the start does not count.
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

/// Returns "none", then closewait, then the other tracers that are installed.
fn variants(binary: &Path, dir: &Path) -> Vec<Variant> {
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
    std::iter::once(Variant::new("none", None))
        .chain(tracers.into_iter().map(|tracer| Variant::new(tracer.name, Some(tracer))))
        .collect()
}

impl Variant {
    fn new(name: &'static str, tracer: Option<Program>) -> Self {
        Self { name, tracer, failure: None, rates: Vec::new(), ratios: Vec::new() }
    }

    /// Its row of the table, with the reason if it did not attach.
    fn row(&self) -> String {
        let numbers = summary(&self.rates).zip(summary(&self.ratios)).map_or_else(
            || "- | - | -".to_owned(),
            |([min, rate, max], [_, ratio, _])| format!("{rate:.0} | {min:.0}..{max:.0} | {ratio:.3}"),
        );
        let notes = self.failure.as_ref().map_or_else(
            || format!("{} rounds", self.rates.len()),
            |reason| format!("did not attach: {}", markdown::cell(reason)),
        );
        format!("{} | {numbers} | {notes}", self.name)
    }
}

/// Runs the load generator. Returns connections, and connections per second.
pub(super) fn load(seconds: u64) -> Result<(u64, f64)> {
    // In its own process, each round has a fresh network namespace and no TIME_WAIT of the round before.
    let mut command = Command::new(exec::this()?);
    let result = exec::json(command.args(["loadgen", "--seconds", &seconds.to_string()]))?;
    let numbers = result["connections"].as_u64().zip(result["connections_per_second"].as_f64());
    numbers.with_context(|| format!("the load generator printed no numbers but {result}; this is a bug"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_variant_without_results_has_a_reason() {
        let none = Variant { rates: vec![100.0, 200.0], ratios: vec![1.0, 1.0], ..Variant::new("none", None) };
        let tcplife = Variant { failure: Some("no a|b".to_owned()), ..Variant::new("tcplife", None) };
        assert_eq!(none.row(), "none | 150 | 100..200 | 1.000 | 2 rounds");
        assert_eq!(tcplife.row(), "tcplife | - | - | - | did not attach: no a\\|b");
    }
}
