//! Instructions of the kernel programs and of the agent for each healthy connection.
//!
//! QEMU translates a guest and counts its instructions; the guest's clock advances by one nanosecond with each. So
//! `run_time_ns` of a kernel program, which the kernel measures with `kernel.bpf_stats_enabled`, is a number of instructions, and
//! the same on every machine.

mod budget;

use std::collections::BTreeMap;

use self::budget::{Budget, FILE, Key, change};
use super::{empty, summary};
use crate::prelude::*;
use crate::vm::{self, Counted};

/// The load, which runs in the guest.
const LOAD: &str = include_str!("load.c");
/// Prefix of a line with the counters of a round.
const MARK: &str = "closewait-bench: ";
/// Name of the program that does nothing.
const EMPTY: &str = "empty";
/// What stands for all threads of the agent.
const AGENT: &str = "agent";
/// A program that runs less often is run by the agent's timers (`cw_refresh`, if a socket happens to be in CLOSE_WAIT then): how often
/// it meets a round is chance. Its instructions are in those of the agent's threads, which run it.
const MIN_RUNS_PER_CONNECTION: f64 = 0.1;

#[derive(Args)]
pub(crate) struct Instructions {
    /// Write the figures to the budget instead of comparing them with it
    #[arg(long)]
    write: bool,
    /// Boots of the guest, each with all rounds
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=100))]
    boots: u32,
    /// Rounds of each load
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u32).range(1..=100))]
    rounds: u32,
    /// Connections of each round
    #[arg(long, default_value_t = 1000, value_parser = clap::value_parser!(u32).range(1..=2000))]
    connections: u32,
}

/// Counters of one round.
#[derive(Debug, PartialEq)]
struct Round {
    load: String,
    /// A kernel program, or `agent` for the threads of the agent.
    what: String,
    /// Instructions of the round.
    instructions: f64,
    /// Runs in the round.
    runs: f64,
}

/// Rounds of one program with one load.
#[derive(Default)]
struct Series {
    /// Instructions per connection of each round.
    instructions: Vec<f64>,
    /// Runs per connection of each round.
    runs: Vec<f64>,
}

/// Figures of one program with one load, per connection.
struct Figure {
    runs: f64,
    /// Least number, median and greatest number of instructions.
    instructions: [f64; 3],
    /// Instructions of an empty program; `None` for the agent and what it runs.
    empty: Option<f64>,
    /// Whether connections run it, so that it has a budget.
    of_connections: bool,
}

impl Instructions {
    /// Measures, prints, and compares with the budget or writes it.
    pub(super) fn run(&self, workspace: &Workspace) -> Result<()> {
        let mut series = BTreeMap::new();
        let mut release = String::new();
        for boot in 1..=self.boots {
            let Counted { release: kernel, lines } =
                exec::with_scratch("instructions", |dir| self.boot(workspace, dir))?;
            eprintln!("bench: boot {boot} of {} has ended", self.boots);
            release = kernel;
            self.add(&mut series, &lines);
        }
        let figures = figures(&series)?;
        let measured = of_connections(&figures);
        let path = workspace.root.join(FILE);
        let budget = if self.write { None } else { Some(Budget::read(&path)?) };
        println!(
            "Linux {release}, {} boots, {} rounds of {} connections for each load; instructions per connection.\n",
            self.boots, self.rounds, self.connections
        );
        let rows = figures.iter().map(|(key, figure)| row(key, figure, budget.as_ref()));
        print!(
            "{}",
            markdown::table("Load | Program | Runs | Median | min..max | Empty program | Net | Budget | Change", rows)
        );
        let Some(budget) = budget else {
            fs::create_dir_all(path.parent().context("the budget has no folder; this is a bug")?)?;
            fs::write(&path, Budget { kernel: release, figures: measured }.text()?)?;
            println!("\nwrote {FILE}");
            return Ok(());
        };
        let problems = budget.problems(&measured);
        if problems.is_empty() {
            println!("\nbench: every figure is less than 5 % over its budget");
            return Ok(());
        }
        let kernel = if budget.kernel == release {
            String::new()
        } else {
            format!("\nThe budget is for Linux {}.", budget.kernel)
        };
        bail!(
            "over the budget in {FILE}:\n{}{kernel}\nhint: make it smaller, or write the new budget and say why in the commit:\n    \
             cargo xtask bench instructions --write",
            problems.join("\n")
        )
    }

    /// Builds the load and runs it in a guest.
    fn boot(&self, workspace: &Workspace, dir: &Path) -> Result<Counted> {
        let program = empty::compile(dir, "load", LOAD)?;
        vm::count(workspace, &program, &[self.connections.to_string(), self.rounds.to_string()])
    }

    /// Adds the rounds in the output of a guest.
    fn add(&self, series: &mut BTreeMap<Key, Series>, lines: &[String]) {
        let connections = f64::from(self.connections);
        for Round { load, what, instructions, runs } in lines.iter().filter_map(|line| parse(line)) {
            let series = series.entry((load, what)).or_default();
            series.instructions.push(instructions / connections);
            series.runs.push(runs / connections);
        }
    }
}

/// Reads `closewait-bench: agent accepted cw_state_btf 1220400 4000`.
fn parse(line: &str) -> Option<Round> {
    let mut words = line.split_once(MARK)?.1.split_whitespace();
    let _phase = words.next()?;
    let (load, what) = (words.next()?.to_owned(), words.next()?.to_owned());
    let (instructions, runs) = (words.next()?.parse().ok()?, words.next()?.parse().ok()?);
    Some(Round { load, what, instructions, runs })
}

/// Returns the figures of all programs but the empty one.
fn figures(series: &BTreeMap<Key, Series>) -> Result<BTreeMap<Key, Figure>> {
    let mut figures = BTreeMap::new();
    for (key, of) in series.iter().filter(|((_load, what), _)| what != EMPTY) {
        let (load, what) = key;
        let empty = series.get(&(load.clone(), EMPTY.to_owned())).and_then(|empty| summary(&empty.instructions));
        let empty = empty.with_context(|| format!("the guest printed no round of the empty program with {load}"))?[1];
        let instructions = summary(&of.instructions).context("a series has no rounds; this is a bug")?;
        let runs = summary(&of.runs).context("a series has no rounds; this is a bug")?[1];
        let of_connections = runs >= MIN_RUNS_PER_CONNECTION;
        // The agent is measured by the CPU time of its threads.
        let empty = (what != AGENT && of_connections).then_some(empty);
        figures.insert(key.clone(), Figure { runs, instructions, empty, of_connections });
    }
    ensure!(figures.keys().any(|(_load, what)| what != AGENT), "no kernel program ran in the guest");
    Ok(figures)
}

/// Returns the figures that have a budget.
fn of_connections(figures: &BTreeMap<Key, Figure>) -> BTreeMap<Key, u64> {
    let of_connections = figures.iter().filter(|(_key, figure)| figure.of_connections);
    of_connections.map(|(key, figure)| (key.clone(), figure.net())).collect()
}

impl Figure {
    /// Returns the median without an empty program, rounded.
    fn net(&self) -> u64 {
        let net = (self.instructions[1] - self.empty.unwrap_or(0.0)).round();
        // Fewer than 2^53 instructions.
        if net > 0.0 { net as u64 } else { 0 }
    }
}

fn row(key: &Key, figure: &Figure, budget: Option<&Budget>) -> String {
    let (load, what) = key;
    let [min, median, max] = figure.instructions;
    let empty = figure.empty.map_or_else(|| "-".to_owned(), |empty| format!("{empty:.1}"));
    let net = figure.net();
    let budget = budget.and_then(|budget| budget.figures.get(key));
    let (allowed, difference) =
        budget.map_or_else(|| ("-".to_owned(), "-".to_owned()), |budget| (budget.to_string(), change(net, *budget)));
    format!(
        "{load} | {what} | {:.2} | {median:.1} | {min:.1}..{max:.1} | {empty} | {net} | {allowed} | {difference}",
        figure.runs
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn figures_are_medians_without_the_empty_program() {
        let options = Instructions { write: false, boots: 1, rounds: 3, connections: 10 };
        let lines = [
            "[1.0] closewait-bench: empty accepted empty 400 100",
            "closewait-bench: agent accepted cw_state_btf 3000 100",
            "closewait-bench: agent accepted cw_state_btf 3100 100",
            "closewait-bench: agent accepted cw_state_btf 9000 100",
            "closewait-bench: agent accepted agent 5000 10",
            "closewait-bench: agent accepted cut",
            "closewait-vm: ended 0",
        ];
        let mut series = BTreeMap::new();
        options.add(&mut series, &lines.map(str::to_owned));
        let figures = figures(&series).unwrap();
        let net = |what: &str| figures[&("accepted".to_owned(), what.to_owned())].net();
        assert_eq!((figures.len(), net("cw_state_btf"), net("agent")), (2, 270, 500));
        let key = ("accepted".to_owned(), "cw_state_btf".to_owned());
        let shown = row(&key, &figures[&key], None);
        assert_eq!(shown, "accepted | cw_state_btf | 10.00 | 310.0 | 300.0..900.0 | 40.0 | 270 | - | -");
    }

    #[test]
    fn what_a_timer_runs_needs_no_budget() {
        let options = Instructions { write: false, boots: 1, rounds: 1, connections: 1000 };
        let lines = [
            "closewait-bench: empty connected empty 770800 10000",
            "closewait-bench: agent connected cw_state_btf 2197700 10000",
            "closewait-bench: agent connected cw_refresh 2400 2",
            "closewait-bench: agent connected cw_seldom 24000 100",
            "closewait-bench: agent connected agent 160800 1000",
        ];
        let mut series = BTreeMap::new();
        options.add(&mut series, &lines.map(str::to_owned));
        let figures = figures(&series).unwrap();
        let budgeted: Vec<String> = of_connections(&figures).into_keys().map(|(_load, what)| what).collect();
        assert_eq!(budgeted, ["agent", "cw_seldom", "cw_state_btf"]);
        let key = ("connected".to_owned(), "cw_refresh".to_owned());
        assert_eq!(row(&key, &figures[&key], None), "connected | cw_refresh | 0.00 | 2.4 | 2.4..2.4 | - | 2 | - | -");
    }

    #[test]
    fn a_guest_without_a_kernel_program_is_an_error() {
        let mut series = BTreeMap::new();
        let options = Instructions { write: false, boots: 1, rounds: 1, connections: 1 };
        options.add(&mut series, &["closewait-bench: agent accepted agent 1 1".to_owned()]);
        assert!(figures(&series).is_err());
        assert!(figures(&BTreeMap::new()).is_err());
    }
}
