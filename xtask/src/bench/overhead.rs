//! Connections per second, and the time of each, with closewait, with an empty program, with other tracers and with none.

mod variant;

use self::variant::{State, Variant};
use super::{
    empty,
    load::{self, Load},
    machine, process, summary,
};
use crate::{agent::Program, loadgen::PERCENTILES, prelude::*};

/// The counters of the `stop` event.
const COUNTERS: [&str; 5] = ["entered", "left", "lost_ring_full", "lost_map_full", "skipped_by_kernel"];

/// Places of the first variants.
const NONE: usize = 0;
const EMPTY: usize = 1;
const CLOSEWAIT: usize = 2;

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

/// Sums over all rounds with closewait.
#[derive(Default)]
struct Totals {
    connections: u64,
    counters: [u64; COUNTERS.len()],
}

impl Overhead {
    /// Measures and prints.
    pub(super) fn run(&self, binary: &Path, dir: &Path) -> Result<()> {
        let mut variants = variants(binary, dir)?;
        let mut totals = Totals::default();
        let count = variants.len();
        for round in 0..usize::try_from(self.rounds)? {
            eprintln!("bench: round {} of {}", round + 1, self.rounds);
            // What the machine does besides slows every variant down alike, and none always follows the same one.
            for index in (round..round + count).map(|index| index % count) {
                let load = self.measure(&mut variants[index], &mut totals)?;
                variants[index].rounds.push(load);
            }
        }
        println!(
            "{}; {} interleaved rounds of {} s for each variant; short TCP connections over loopback, as many client and server \
             threads as CPUs. Ratios are to the other variant in the same round: median (quartiles).\n",
            machine()?,
            self.rounds,
            self.seconds
        );
        let [none, empty, closewait] = [NONE, EMPTY, CLOSEWAIT].map(|index| &variants[index]);
        let header = "Variant | Connections/s (median) | min..max | Ratio to none | Ratio to empty program | Notes";
        print!("{}", markdown::table(header, variants.iter().map(|variant| variant.rates_row(none, empty))));
        println!(
            "\nTime of a connection in the system calls of both ends, without the wait for the server's thread, in microseconds: median of \
             the rounds, and the difference to none in the same round, median (quartiles).\n"
        );
        let header = PERCENTILES.map(|(name, _share)| format!("{name} | Difference")).join(" | ");
        let rows = variants.iter().map(|variant| variant.times_row(none));
        print!("{}", markdown::table(&format!("Variant | {header}"), rows));
        let closewait = match &closewait.state {
            State::Tracer(program) => program,
            State::Failed(reason) => {
                bail!("closewait {reason}\nhint: see what this host lacks:\n    cargo xtask run -- doctor")
            }
            State::None => bail!("closewait is no tracer; this is a bug"),
        };
        // Other connections on the machine can only make the number of missed ones smaller.
        let missed = totals.connections.saturating_sub(totals.counters[0]);
        let counters = COUNTERS.iter().zip(totals.counters).map(|(name, sum)| format!("`{name}` {sum}"));
        let counters = counters.collect::<Vec<_>>().join(", ");
        println!("\nOf {} connections, closewait missed {missed}. Its own totals: {counters}.", totals.connections);
        print!("{}", self.start_times(closewait)?);
        print!("{}", self.idle(closewait)?);
        Ok(())
    }

    /// Runs the load beside a variant. Returns `None` if the tracer does not attach.
    fn measure(&self, variant: &mut Variant, totals: &mut Totals) -> Result<Option<Load>> {
        let tracer = match &variant.state {
            State::None => return Ok(Some(load::run(self.seconds)?)),
            State::Failed(_reason) => return Ok(None),
            State::Tracer(tracer) => tracer,
        };
        let mut running = match tracer.attach() {
            Ok(running) => running,
            Err(error) => {
                eprintln!("bench: {error:#}");
                variant.state = State::Failed(format!("did not attach: {}", error.root_cause()));
                return Ok(None);
            }
        };
        let load = load::run(self.seconds)?;
        // Only closewait has events.
        if let Some(stop) = running.stop()?.pop() {
            totals.connections += load.connections;
            for (sum, name) in totals.counters.iter_mut().zip(COUNTERS) {
                *sum += stop["totals"][name].as_u64().with_context(|| format!("no {name} in {stop}; this is a bug"))?;
            }
        }
        Ok(Some(load))
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

/// Returns "none", then the empty program, then closewait, then the other tracers.
fn variants(binary: &Path, dir: &Path) -> Result<Vec<Variant>> {
    let empty = empty::build(dir)?;
    let mut variants = vec![
        Variant::new("none", State::None),
        Variant::new(variant::EMPTY, State::Tracer(Program::tracer(variant::EMPTY, &empty, dir, &[]))),
        Variant::new("closewait", State::Tracer(Program::closewait(binary, dir, &[]))),
    ];
    // Where bcc's scripts are installed too, Debian's package has these under another name.
    let of_libbpf = |name| exec::which(name).or_else(|| exec::which(&format!("{name}-libbpf")));
    // The least work that counts every transition in the kernel.
    let script = "tracepoint:sock:inet_sock_set_state { @[args->oldstate, args->newstate] = count(); }";
    let others: [(_, _, &[&str], _); 3] = [
        ("tcpstates", of_libbpf("tcpstates"), &[], "libbpf-tools"),
        ("tcplife", of_libbpf("tcplife"), &[], "libbpf-tools"),
        ("bpftrace count()", exec::which("bpftrace"), &["-e", script], "bpftrace"),
    ];
    for (name, program, args, package) in others {
        let state = match program {
            Some(program) => State::Tracer(Program::tracer(name, &program, dir, args)),
            None => State::Failed(format!("is not installed (Debian: {package})")),
        };
        variants.push(Variant::new(name, state));
    }
    Ok(variants)
}
