//! `cargo xtask bench`: what tracking costs in time and memory, and how long listing takes.

mod answers;
mod empty;
mod engine;
mod exporters;
mod instructions;
mod list;
mod load;
mod memory;
mod overhead;
mod process;
mod record;
mod refresh;
mod stacks;

use clap::Subcommand;

pub(crate) use process::status_kib;

use crate::prelude::*;
use crate::{build, root};

#[derive(Subcommand)]
pub(crate) enum Bench {
    /// Measure connections per second, and the time of each, with closewait, an empty program, other tracers and none
    Overhead(overhead::Overhead),
    /// Measure the time to list sockets, compared with ss and lsof, and its growth with their number
    List(list::List),
    /// Measure the CPU time of an agent that tracks stuck sockets, with and without many other descriptors on the host
    Refresh(refresh::Refresh),
    /// Measure CPU time, memory and connections per second of an agent with metrics, OTLP, a recording and hooks
    Exporters(exporters::Exporters),
    /// Measure the memory per tracked socket, in the kernel and in the agent
    Memory,
    /// Measure the bytes of a flight recording per hour, and what a checkpoint costs the event loop
    Record(record::Record),
    /// Measure passes over the stacks of many processes, and connections per second meanwhile
    Stacks(stacks::Stacks),
    /// Count the instructions of the kernel programs and the agent per connection, and compare them with their budget
    Instructions(instructions::Instructions),
    /// Measure records per second through decoding, tracking and incident detection, on one core
    Engine(engine::Engine),
    /// Measure the CPU time of an agent's answers about many sockets, and of the copy of its state that they are made from
    Answers(answers::Answers),
}

/// Builds as the calling user, starts this program again as root where the benchmark needs that, and measures.
pub(crate) fn run(workspace: &Workspace, binary: Option<&Path>, bench: &Bench) -> Result<()> {
    if let Bench::Engine(options) = bench {
        return options.run(workspace);
    }
    if let Bench::Instructions(options) = bench {
        return options.run(workspace);
    }
    if let Bench::Answers(options) = bench {
        return options.run(workspace);
    }
    let Some(binary) = binary else {
        build::release(workspace)?;
        if matches!(bench, Bench::Memory) {
            build::example(workspace, memory::EXAMPLE)?;
        }
        if matches!(bench, Bench::List(_)) {
            root::install(workspace, "bench")?;
        }
        return root::again(workspace, "attaching tracers to the kernel");
    };
    exec::with_scratch("bench", |dir| match bench {
        Bench::Overhead(options) => options.run(binary, dir),
        Bench::List(options) => options.run(binary, dir),
        Bench::Refresh(options) => options.run(binary, dir),
        Bench::Exporters(options) => options.run(binary, dir),
        Bench::Memory => memory::run(binary, dir),
        Bench::Record(options) => options.run(binary, dir),
        Bench::Stacks(options) => options.run(binary, dir),
        Bench::Engine(options) => options.run(workspace),
        Bench::Instructions(options) => options.run(workspace),
        Bench::Answers(options) => options.run(workspace),
    })
}

/// Kernel, number of CPUs and their model.
fn machine() -> Result<String> {
    let kernel = fs::read_to_string("/proc/sys/kernel/osrelease")?;
    let cpus = thread::available_parallelism().context("cannot count the CPUs; is /proc mounted?")?;
    let cpuinfo = fs::read_to_string("/proc/cpuinfo")?;
    let model = cpuinfo.lines().find_map(|line| line.strip_prefix("model name")?.split_once(": "));
    Ok(format!("Linux {}, {cpus} CPUs ({})", kernel.trim(), model.map_or("unknown model", |(_tab, name)| name)))
}

/// Returns the least number, the median and the greatest. The median of an even count is the mean of the two in the middle.
fn summary(numbers: &[f64]) -> Option<[f64; 3]> {
    let mut sorted = numbers.to_vec();
    sorted.sort_by(f64::total_cmp);
    let median = f64::midpoint(*sorted.get(sorted.len() / 2)?, *sorted.get((sorted.len() - 1) / 2)?);
    Some([*sorted.first()?, median, *sorted.last()?])
}

/// Returns the lower quartile, the median and the upper quartile, between two numbers in proportion.
fn quartiles(numbers: &[f64]) -> Option<[f64; 3]> {
    let mut sorted = numbers.to_vec();
    sorted.sort_by(f64::total_cmp);
    let gaps = sorted.len().checked_sub(1)?;
    Some([1, 2, 3].map(|quarters| {
        let (below, rest) = (gaps * quarters / 4, gaps * quarters % 4);
        let (lower, upper) = (sorted[below], sorted[(below + 1).min(gaps)]);
        lower + (upper - lower) * rest as f64 / 4.0
    }))
}

#[cfg(test)]
mod tests {
    #[test]
    fn medians_of_odd_even_and_no_numbers() {
        assert_eq!(super::summary(&[3.0, 1.0, 2.0]), Some([1.0, 2.0, 3.0]));
        assert_eq!(super::summary(&[4.0, 1.0, 3.0, 2.0]), Some([1.0, 2.5, 4.0]));
        assert_eq!(super::summary(&[]), None);
    }
    #[test]
    fn quartiles_lie_between_numbers() {
        assert_eq!(super::quartiles(&[]), None);
        assert_eq!(super::quartiles(&[7.0]), Some([7.0; 3]));
        assert_eq!(super::quartiles(&[2.0, 1.0]), Some([1.25, 1.5, 1.75]));
        assert_eq!(super::quartiles(&[5.0, 1.0, 4.0, 2.0, 3.0]), Some([2.0, 3.0, 4.0]));
        // The outer ones do not move them.
        assert_eq!(super::quartiles(&[-100.0, 2.0, 3.0, 4.0, 1000.0]), Some([2.0, 3.0, 4.0]));
    }
}
