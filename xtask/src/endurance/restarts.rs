//! Killed and started again, many times, under load: every dwell time compared with the population's own record.

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
    thread,
    time::Duration,
};

use anyhow::{Result, ensure};
use clap::Args;

use super::{
    Chance, Load,
    population::{Ends, Population, Stay},
    watcher::Agents,
};

/// Sockets that stay shorter than this are told of nobody.
const STUCK_AFTER: &str = "100ms";
/// So much a dwell time may be off, seconds.
const TOLERANCE: f64 = 0.005;

#[derive(Args)]
pub(crate) struct Restarts {
    /// How often the agent is killed
    #[arg(long, default_value_t = 100, value_parser = clap::value_parser!(u32).range(1..=10_000))]
    pub(super) rounds: u32,
    /// The built closewait; nothing is built then
    #[arg(long, hide = true)]
    pub(super) binary: Option<PathBuf>,
}

/// Runs and prints the table.
pub(super) fn run(binary: &Path, options: &Restarts, dir: &Path) -> Result<()> {
    let agents = Agents { binary, dir, ring_bytes: 4 << 20 };
    let mut population = Population::new()?;
    let mut chance = Chance::new(u64::from(options.rounds));
    let mut adopted = 0;
    let mut closed_before = BTreeMap::<Ends, Stay>::new();
    let mut told_before = Vec::new();
    let load = Load::start()?;
    for round in 0..options.rounds {
        let mut watcher = agents.start(STUCK_AFTER)?;
        adopted += u32::from(watcher.pinned == "adopted");
        ensure!(round == 0 || watcher.pinned == "adopted", "round {round}: the maps were {}", watcher.pinned);
        population.move_on()?;
        population.add(10)?;
        watcher.watch(Duration::from_millis(20 + chance.below(280)));
        close(&mut population, &mut closed_before, 3, &mut chance)?;
        watcher.watch(Duration::from_millis(chance.below(20)));
        told_before.extend(watcher.kill()?);
        // Nobody reads the ring buffer now.
        population.add(10)?;
        thread::sleep(Duration::from_millis(chance.below(100)));
        close(&mut population, &mut closed_before, 3, &mut chance)?;
        if (round + 1) % 10 == 0 {
            eprintln!("restarts: round {} of {}", round + 1, options.rounds);
        }
    }
    let mut last = agents.start(STUCK_AFTER)?;
    last.watch(Duration::from_secs(1));
    let mut closed = BTreeMap::new();
    let stay = population.len() as u64;
    close(&mut population, &mut closed, stay, &mut chance)?;
    last.watch(Duration::from_secs(3));
    drop(load);
    let (told, totals) = last.stop()?;

    let result = compare(&closed, &told);
    let before = compare(&closed_before, &[told_before, told].concat());
    println!("| killed and started again | {} |\n|---|---|", options.rounds);
    println!("| of these starts, maps and program adopted | {adopted} and the last |");
    println!("| connections of the load that entered CLOSE_WAIT meanwhile | {} |", totals["entered"]);
    println!("| sockets that stayed until after the last start | {} |", closed.len());
    println!(
        "| of these: missing, told twice, off by more than 5 ms | {}, {}, {} |",
        result.missing, result.double, result.off
    );
    println!("| largest difference from the population's own record | {:.3} ms |", result.largest * 1e3);
    println!("| sockets closed before, with an agent or with none | {} |", closed_before.len());
    println!(
        "| of these: told by some agent, told twice, off by more than 5 ms | {}, {}, {} |",
        closed_before.len() - before.missing,
        before.double,
        before.off
    );
    println!("| records that found no room in the ring buffer while no agent read it | {} |", totals["lost_ring_full"]);
    println!("| entries that were missed and found, phantoms | {}, {} |", totals["repaired"], totals["phantom"]);
    ensure!(
        (result.missing, result.double, result.off, before.double, before.off) == (0, 0, 0, 0, 0),
        "the agent's dwell times are not those of the population; the table tells how many"
    );
    Ok(())
}

fn close(
    population: &mut Population,
    closed: &mut BTreeMap<Ends, Stay>,
    count: u64,
    chance: &mut Chance,
) -> Result<()> {
    for _ in 0..count {
        closed.extend(population.close(chance.below(u64::MAX))?);
    }
    Ok(())
}

#[derive(Debug, Default, PartialEq)]
struct Comparison {
    missing: usize,
    double: usize,
    off: usize,
    largest: f64,
}

fn compare(closed: &BTreeMap<Ends, Stay>, told: &[(Ends, Option<f64>)]) -> Comparison {
    let mut by_ends = BTreeMap::<Ends, Vec<f64>>::new();
    for (ends, dwell) in told {
        by_ends.entry(*ends).or_default().extend(dwell);
    }
    let mut result = Comparison::default();
    for (ends, stay) in closed {
        let dwells = by_ends.get(ends).map_or(&[][..], Vec::as_slice);
        result.missing += usize::from(dwells.is_empty());
        result.double += usize::from(dwells.len() > 1);
        for dwell in dwells {
            result.off += usize::from(stay.off(*dwell) > TOLERANCE);
            result.largest = result.largest.max(stay.off(*dwell));
        }
    }
    result
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_missing_double_or_off_is_counted() {
        let ends = |port: u16| -> Ends { (([127, 79, 0, 1], 80).into(), ([127, 0, 0, 1], port).into()) };
        let stay = Stay { shortest: 1.0, longest: 1.001 };
        let closed = (1..=4).map(|port| (ends(port), stay)).collect();
        let told =
            [(ends(1), Some(1.0)), (ends(2), Some(1.0)), (ends(2), Some(1.0)), (ends(3), Some(1.011)), (ends(4), None)];
        let result = compare(&closed, &told);
        assert_eq!((result.missing, result.double, result.off), (1, 1, 1));
        assert!((result.largest - 0.010).abs() < 1e-9);
    }
}
