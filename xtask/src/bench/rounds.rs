//! Short interleaved rounds: what the machine does besides hits every variant alike.

use std::process::{Command, Stdio};

use anyhow::{Context as _, Result};
use serde_json::Value;

use super::tracer::Tracer;
use crate::exec;

/// Place of closewait among the variants; the one without a tracer is first.
pub(super) const CLOSEWAIT: usize = 1;

/// Everything measured.
pub(super) struct Rounds {
    pub(super) variants: Vec<Variant>,
    pub(super) totals: Totals,
}

/// Connections per second under one tracer, one number a round.
pub(super) struct Variant {
    pub(super) name: &'static str,
    pub(super) rates: Vec<f64>,
    /// The rate divided by that of the same round without a tracer.
    pub(super) ratios: Vec<f64>,
    /// Why it takes no part.
    pub(super) failure: Option<String>,
}

/// What closewait says it saw, over all rounds, against what there was. `None`: it did not say.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Totals {
    pub(super) connections: u64,
    pub(super) counters: Vec<(&'static str, Option<u64>)>,
}

/// The counters of the `stop` event.
const COUNTERS: [&str; 5] = ["entered", "left", "lost_ring_full", "lost_map_full", "skipped_by_kernel"];

impl Totals {
    fn new() -> Self {
        Self { connections: 0, counters: COUNTERS.map(|name| (name, Some(0))).to_vec() }
    }

    /// Adds one round.
    fn add(&mut self, connections: u64, stop: Option<&Value>) {
        self.connections += connections;
        for (name, sum) in &mut self.counters {
            let value = stop.and_then(|stop| stop["totals"][*name].as_u64());
            // One round without the number makes the sum unknown.
            *sum = sum.zip(value).map(|(sum, value)| sum + value);
        }
    }

    /// Connections that closewait did not count as entering. Others on the machine can only make it smaller.
    pub(super) fn missed(&self) -> Option<u64> {
        let (_name, entered) = self.counters.iter().find(|(name, _sum)| *name == "entered")?;
        entered.map(|entered| self.connections.saturating_sub(entered))
    }
}

/// Runs all rounds.
pub(super) fn run(tracers: &[Tracer], rounds: u32, seconds: u64) -> Result<Rounds> {
    let variant = |name| Variant { name, rates: Vec::new(), ratios: Vec::new(), failure: None };
    let names = std::iter::once("none").chain(tracers.iter().map(|tracer| tracer.name));
    let mut variants: Vec<_> = names.map(variant).collect();
    let mut totals = Totals::new();
    for round in 0..rounds {
        eprintln!("bench: round {} of {rounds}", round + 1);
        let mut rates = vec![None; variants.len()];
        for index in order(round, variants.len()) {
            if variants[index].failure.is_some() {
                continue;
            }
            let Some(tracer) = index.checked_sub(1).map(|index| &tracers[index]) else {
                rates[index] = Some(load(seconds)?.1);
                continue;
            };
            let running = match tracer.attach() {
                Ok(running) => running,
                Err(error) => {
                    eprintln!("bench: {error:#}");
                    variants[index].failure = Some(error.root_cause().to_string());
                    continue;
                }
            };
            let (connections, rate) = load(seconds)?;
            let stop = running.stop()?;
            rates[index] = Some(rate);
            if index == CLOSEWAIT {
                totals.add(connections, stop.as_ref());
            }
        }
        let none = rates[0].context("the round without a tracer has no result; this is a bug")?;
        for (variant, rate) in variants.iter_mut().zip(rates) {
            variant.rates.extend(rate);
            variant.ratios.extend(rate.map(|rate| rate / none));
        }
    }
    Ok(Rounds { variants, totals })
}

/// Each round begins with another variant, so that none always follows the same one's cooling-down.
pub(super) fn order(round: u32, count: usize) -> impl Iterator<Item = usize> {
    let first = usize::try_from(round).unwrap_or(0) % count;
    (first..count).chain(0..first)
}

/// One run of the load generator: connections, and connections per second.
fn load(seconds: u64) -> Result<(u64, f64)> {
    // Its own process, so that each round has a fresh network namespace and no TIME_WAIT from the one before.
    let mut command = Command::new(exec::this()?);
    command.args(["loadgen", "--seconds", &seconds.to_string()]).stdin(Stdio::null());
    let output = exec::output(&mut command)?;
    let result: Value = serde_json::from_str(&output).context("the load generator printed no JSON; this is a bug")?;
    let number = |name: &str| format!("the load generator's result has no {name}; this is a bug");
    let connections = result["connections"].as_u64().with_context(|| number("connections"))?;
    let rate = result["connections_per_second"].as_f64().with_context(|| number("connections_per_second"))?;
    Ok((connections, rate))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn every_variant_comes_first_in_turn() {
        let orders: Vec<Vec<_>> = (0..4).map(|round| order(round, 3).collect()).collect();
        assert_eq!(orders, [[0, 1, 2], [1, 2, 0], [2, 0, 1], [0, 1, 2]]);
    }

    #[test]
    fn totals_add_up_and_a_missing_number_is_unknown() {
        let mut totals = Totals::new();
        totals.add(100, Some(&json!({"totals": {"entered": 98, "left": 98, "lost_ring_full": 0, "lost_map_full": 0}})));
        totals.add(50, Some(&json!({"totals": {"entered": 50, "left": 50, "lost_ring_full": 1, "lost_map_full": 0}})));
        assert_eq!(totals.missed(), Some(2));
        let sums: Vec<_> = totals.counters.iter().map(|(_name, sum)| *sum).collect();
        assert_eq!(sums, [Some(148), Some(148), Some(1), Some(0), None]);
        totals.add(1, None);
        assert_eq!(totals.missed(), None);
    }
}
