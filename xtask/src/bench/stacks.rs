//! Cost of `closewait run --stacks auto`: passes over many processes, and connections per second during an incident.

mod blocked;

use self::blocked::Blocked;
use super::{load, machine, process, summary};
use crate::prelude::*;
use crate::{
    agent::{Program, Running},
    crowd,
};

/// Options of both agents. They report sockets, and inspect their owners, after 1, 2, 4, 8 s and so on.
const OPTIONS: [&str; 2] = ["--stuck-after", "1s"];
/// Beginning of the log line of a pass.
const MARK: &str = "stacks of ";
/// Maximum time until the stacks of all processes were read.
const PATIENCE: Duration = Duration::from_secs(120);

#[derive(Args)]
pub(crate) struct Stacks {
    /// Number of processes
    #[arg(long, default_value_t = 64, value_parser = clap::value_parser!(u8).range(1..=250))]
    processes: u8,
    /// Number of threads or goroutines of each
    #[arg(long, default_value_t = 32, value_parser = clap::value_parser!(u32).range(1..=2048))]
    threads: u32,
    /// Rounds of each variant under load; 0: only the passes
    #[arg(long, default_value_t = 8, value_parser = clap::value_parser!(u32).range(0..=1000))]
    rounds: u32,
    /// Seconds of each round
    #[arg(long, default_value_t = 20, value_parser = clap::value_parser!(u64).range(1..=600))]
    seconds: u64,
}

/// Numbers of a pass, from the agent's log.
#[derive(Debug, PartialEq)]
struct Pass {
    read: u64,
    requested: u64,
    /// Number of threads of the read processes.
    threads: u64,
    cpu_ms: f64,
    wall_ms: f64,
}

/// Numbers of one round under load.
struct StacksRound {
    /// Connections per second.
    rate: f64,
    /// CPU time of the agent, ms per second.
    cpu: f64,
}

impl Stacks {
    /// Measures and prints.
    pub(super) fn run(&self, binary: &Path, dir: &Path) -> Result<()> {
        crowd::enter_network()?;
        let blocked = Blocked::start(dir, self.processes, self.threads)?;
        println!(
            "{}; {} processes ({}) with {} threads or goroutines each, all of which wait for a lock; each has a socket in CLOSE_WAIT; \
             `closewait run {}`.\n",
            machine()?,
            self.processes,
            blocked.summary,
            self.threads,
            OPTIONS.join(" ")
        );
        let agent = |when| {
            let name = if when == "auto" { "auto" } else { "never" };
            Program::closewait(binary, dir, &[&OPTIONS[..], &["--stacks", when]].concat())
                .keep(name, &["start", "stop"])
                .with_variable("CLOSEWAIT_LOG", "closewait::source::stacks=debug")
        };
        let (never, auto) = (agent("never"), agent("auto"));
        self.passes(&never, &auto)?;
        if self.rounds > 0 {
            self.under_load(&never, &auto)?;
        }
        drop(blocked);
        Ok(())
    }

    /// Measures until the stacks of all processes were read, and compares the memory of the agent with that of one that reads none.
    fn passes(&self, never: &Program, auto: &Program) -> Result<()> {
        let mut running = auto.attach()?;
        let began = exec::now();
        let all = u64::from(self.processes);
        let passes = loop {
            let passes = passes(auto)?;
            // Other programs on the machine can have stuck sockets, too.
            let is_last = passes.last().is_some_and(|pass| pass.read == pass.requested);
            if is_last && passes.iter().map(|pass| pass.read).sum::<u64>() >= all {
                break passes;
            }
            ensure!(
                began.elapsed() < PATIENCE,
                "the stacks of all processes were not read within {PATIENCE:?}: {passes:?}"
            );
            thread::sleep(Duration::from_millis(20));
        };
        let took = began.elapsed();
        // The findings of the last pass reach the engine.
        thread::sleep(Duration::from_secs(1));
        let with = Memory::of(&running)?;
        running.stop()?;
        let mut running = never.attach()?;
        thread::sleep(took + Duration::from_secs(1));
        let without = Memory::of(&running)?;
        running.stop()?;
        let rows = passes.iter().zip(1..).map(|(pass, number): (&Pass, u32)| {
            let Pass { read, requested, threads, cpu_ms, wall_ms } = pass;
            format!("{number} | {read} of {requested} | {threads} | {cpu_ms:.1} | {wall_ms:.1}")
        });
        print!("{}", markdown::table("Pass | Processes | Threads | CPU ms | ms", rows));
        let cpu: f64 = passes.iter().map(|pass| pass.cpu_ms).sum();
        println!(
            "\nAll in {} passes and {:.1} s since the start: {cpu:.1} ms of CPU time.",
            passes.len(),
            took.as_secs_f64()
        );
        println!(
            "Resident memory of the agent: {} KiB, at most {} KiB; with `--stacks never` {} KiB, at most {} KiB; the part without \
             files {} KiB and {} KiB.",
            with.resident, with.peak, without.resident, without.peak, with.anonymous, without.anonymous
        );
        Ok(())
    }

    /// Measures connections per second beside both agents in turn; the stacks of all processes are read in each round.
    fn under_load(&self, never: &Program, auto: &Program) -> Result<()> {
        let (mut without, mut with) = (Vec::new(), Vec::new());
        for round in 0..self.rounds {
            eprintln!("bench: round {} of {}", round + 1, self.rounds);
            let mut order = [(never, &mut without), (auto, &mut with)];
            if round % 2 == 1 {
                order.reverse();
            }
            for (program, rounds) in order {
                rounds.push(self.round(program)?);
            }
        }
        let column = |rounds: &[StacksRound], of: fn(&StacksRound) -> f64| rounds.iter().map(of).collect::<Vec<_>>();
        let ratios = with.iter().zip(&without).map(|(with, without)| with.rate / without.rate).collect::<Vec<_>>();
        let row = |name: &str, rounds: &[StacksRound], ratios: &[f64]| {
            let rate = summary(&column(rounds, |round| round.rate))?;
            let cpu = summary(&column(rounds, |round| round.cpu))?;
            let shown = |[min, median, max]: [f64; 3], digits: usize| {
                format!("{median:.digits$} ({min:.digits$}..{max:.digits$})")
            };
            let ratio = summary(ratios).map_or_else(|| "1".to_owned(), |ratios| shown(ratios, 3));
            Some(format!("{name} | {} | {ratio} | {}", shown(rate, 0), shown(cpu, 1)))
        };
        let rows = [row("--stacks never", &without, &[]), row("--stacks auto", &with, &ratios)];
        println!(
            "\nConnections during the incident: {} rounds of {} s for each variant in turn, medians and min..max; ratios are to the other \
             variant of the same round.\n",
            self.rounds, self.seconds
        );
        let rows = rows.into_iter().collect::<Option<Vec<_>>>().context("no rounds; this is a bug")?;
        print!("{}", markdown::table("Variant | Connections/s | Ratio | CPU ms/s of the agent", rows));
        Ok(())
    }

    /// Measures beside one agent from its start, so that its first passes are part of the round.
    fn round(&self, program: &Program) -> Result<StacksRound> {
        let mut running = program.attach()?;
        let (before, began) = (process::cpu_time(running.pid())?, exec::now());
        let rate = load::run(self.seconds)?.rate;
        let cpu = process::cpu_time(running.pid())?.saturating_sub(before);
        let cpu = cpu.as_secs_f64() * 1000.0 / began.elapsed().as_secs_f64();
        running.stop()?;
        Ok(StacksRound { rate, cpu })
    }
}

/// Memory of an agent, KiB.
struct Memory {
    resident: u64,
    anonymous: u64,
    peak: u64,
}

impl Memory {
    fn of(running: &Running) -> Result<Self> {
        let kib = |name| process::status_kib(running.pid(), name);
        Ok(Self { resident: kib("VmRSS")?, anonymous: kib("RssAnon")?, peak: kib("VmHWM")? })
    }
}

/// Returns the passes in the log of an agent.
fn passes(program: &Program) -> Result<Vec<Pass>> {
    Ok(fs::read_to_string(program.stderr())?.lines().filter_map(pass).collect())
}

/// Reads `stacks of 12 of 64 processes with 384 threads: 51200 us of CPU time in 60300 us`.
fn pass(line: &str) -> Option<Pass> {
    let (_before, text) = line.split_once(MARK)?;
    let mut numbers = text.split([' ', ':']).filter_map(|word| word.parse::<u64>().ok());
    let mut next = || numbers.next();
    let (read, requested, threads) = (next()?, next()?, next()?);
    Some(Pass { read, requested, threads, cpu_ms: next()? as f64 / 1000.0, wall_ms: next()? as f64 / 1000.0 })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pass_is_read_from_the_log() {
        let line = "2026-11-28T20:00:00Z DEBUG stacks of 12 of 64 processes with 384 threads: 51200 us of CPU time in 60300 us";
        let expected = Pass { read: 12, requested: 64, threads: 384, cpu_ms: 51.2, wall_ms: 60.3 };
        assert_eq!(pass(line), Some(expected));
        assert_eq!(pass("stacks of a process"), None);
    }
}
