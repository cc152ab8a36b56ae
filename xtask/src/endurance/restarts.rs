//! Killed and started again, many times, under load: every dwell time compared with the population's own record.

use std::collections::BTreeMap;

use super::{
    Agents, Load, millis,
    population::{Ends, Population, Stay},
};
use crate::prelude::*;

/// The agent reports no socket with a shorter dwell time.
const STUCK_AFTER: &str = "100ms";
/// Highest accepted error of a dwell time, seconds.
const TOLERANCE: f64 = 0.005;

#[derive(Args)]
pub(crate) struct Restarts {
    /// Number of kills
    #[arg(long, default_value_t = 100, value_parser = clap::value_parser!(u32).range(1..=10_000))]
    rounds: u32,
}

impl Restarts {
    /// Runs and prints the table.
    pub(crate) fn run(&self, agents: &Agents<'_>) -> Result<()> {
        let start = || agents.start(4 << 20, STUCK_AFTER);
        let mut population = Population::new(u64::from(self.rounds))?;
        let mut adopted = 0;
        let mut closed_before = BTreeMap::<Ends, Stay>::new();
        let mut told_before = Vec::new();
        let load = Load::start()?;
        for round in 0..self.rounds {
            let mut watcher = start()?;
            adopted += u32::from(watcher.pinned() == "adopted");
            ensure!(round == 0 || watcher.pinned() == "adopted", "round {round}: the maps were {}", watcher.pinned());
            population.move_on()?;
            population.add(10)?;
            watcher.watch(millis(&mut population.random, 20..300));
            closed_before.extend(population.close(3)?);
            watcher.watch(millis(&mut population.random, 0..20));
            watcher.kill();
            told_before.append(&mut watcher.left);
            // Now no agent reads the ring buffer.
            population.add(10)?;
            thread::sleep(millis(&mut population.random, 0..100));
            closed_before.extend(population.close(3)?);
            if (round + 1) % 10 == 0 {
                eprintln!("restarts: round {} of {}", round + 1, self.rounds);
            }
        }
        let mut last = start()?;
        last.watch(Duration::from_secs(1));
        let closed = BTreeMap::from_iter(population.close(population.len())?);
        last.watch(Duration::from_secs(3));
        drop(load);
        last.stop()?;
        let (told, totals) = (last.left, last.totals);

        let stayed = compare(&closed, &told);
        let before = compare(&closed_before, &[told_before, told].concat());
        let errors = |one: &Comparison| format!("{}, {}", one.double, one.off);
        let rows = [
            format!("starts that adopted maps and program | {adopted} and the last"),
            format!("load connections that entered CLOSE_WAIT meanwhile | {}", totals["entered"]),
            format!("sockets that stayed until after the last start | {}", closed.len()),
            format!(
                "of these: missing, reported twice, off by more than 5 ms | {}, {}",
                stayed.missing,
                errors(&stayed)
            ),
            format!("largest difference from the test's own record | {:.3} ms", stayed.largest * 1e3),
            format!("sockets closed before, with an agent or with none | {}", closed_before.len()),
            format!(
                "of these: reported by some agent, reported twice, off by more than 5 ms | {}, {}",
                closed_before.len() - before.missing,
                errors(&before)
            ),
            format!("records dropped by a full ring buffer while no agent read it | {}", totals["lost_ring_full"]),
            format!("missed enters that an audit found, phantoms | {}, {}", totals["repaired"], totals["phantom"]),
        ];
        print!("{}", markdown::table(&format!("kills and restarts | {}", self.rounds), rows));
        ensure!(
            [stayed.missing, stayed.double, stayed.off, before.double, before.off] == [0; 5],
            "the agent's dwell times are not those of the population; the table counts them"
        );
        Ok(())
    }
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
