//! A variant of the benchmark: its rounds, and its rows of the tables.

use super::super::{load::Load, quartiles, summary};
use crate::{agent::Program, loadgen::PERCENTILES, markdown};

/// Name of the variant with a BPF program that does nothing.
pub(super) const EMPTY: &str = "empty program";

/// Cells of a row without measurements.
const NOTHING: &str = "-";

/// No tracer, or one that runs beside the load.
pub(super) struct Variant {
    pub(super) name: &'static str,
    pub(super) state: State,
    /// The load of each round; `None` in a round that the tracer was not attached in.
    pub(super) rounds: Vec<Option<Load>>,
}

/// What runs beside the load.
pub(super) enum State {
    None,
    Tracer(Program),
    /// Nothing any more, for this reason.
    Failed(String),
}

impl Variant {
    pub(super) fn new(name: &'static str, state: State) -> Self {
        Self { name, state, rounds: Vec::new() }
    }

    /// Its row of the rates, with the reason if it was not attached.
    pub(super) fn rates_row(&self, none: &Self, empty: &Self) -> String {
        let rates = summary(&self.values(|load| load.rate)).map_or_else(
            || format!("{NOTHING} | {NOTHING}"),
            |[min, median, max]| format!("{median:.0} | {min:.0}..{max:.0}"),
        );
        let [none, empty] = [none, empty].map(|other| {
            let ratios = self.paired(other, |own, other| own.rate / other.rate);
            quartiles(&ratios).map_or_else(
                || NOTHING.to_owned(),
                |[lower, median, upper]| format!("{median:.3} ({lower:.3}..{upper:.3})"),
            )
        });
        let notes = match &self.state {
            State::Failed(reason) => markdown::cell(reason),
            State::None | State::Tracer(_) => format!("{} rounds", self.rounds.iter().flatten().count()),
        };
        format!("{} | {rates} | {none} | {empty} | {notes}", self.name)
    }

    /// Its row of the times of connections.
    pub(super) fn times_row(&self, none: &Self) -> String {
        let cells = (0..PERCENTILES.len()).map(|index| {
            let time = summary(&self.values(|load| load.times[index]))
                .map_or_else(|| NOTHING.to_owned(), |[_min, median, _max]| format!("{median:.1}"));
            let added = quartiles(&self.paired(none, |own, none| own.times[index] - none.times[index])).map_or_else(
                || NOTHING.to_owned(),
                |[lower, median, upper]| format!("{median:+.1} ({lower:+.1}..{upper:+.1})"),
            );
            format!("{time} | {added}")
        });
        format!("{} | {}", self.name, cells.collect::<Vec<_>>().join(" | "))
    }

    /// Returns a number of each round that was measured.
    fn values(&self, of: impl Fn(&Load) -> f64) -> Vec<f64> {
        self.rounds.iter().flatten().map(of).collect()
    }

    /// Returns a number of each round that both variants were measured in.
    fn paired(&self, other: &Self, of: impl Fn(&Load, &Load) -> f64) -> Vec<f64> {
        let pairs = self.rounds.iter().zip(&other.rounds);
        pairs.filter_map(|(own, other)| Some(of(own.as_ref()?, other.as_ref()?))).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A variant whose connections all take the same time, longer with each percentile.
    fn variant(name: &'static str, state: State, rounds: &[Option<(f64, f64)>]) -> Variant {
        let load =
            |(rate, time): (f64, f64)| Load { connections: 1, rate, times: [1.0, 2.0, 3.0, 4.0].map(|x| x * time) };
        Variant { rounds: rounds.iter().map(|round| round.map(load)).collect(), ..Variant::new(name, state) }
    }

    #[test]
    fn ratios_and_differences_are_those_of_the_same_round() {
        let none = variant("none", State::None, &[Some((100.0, 10.0)), Some((200.0, 20.0)), Some((400.0, 40.0))]);
        let empty = variant(EMPTY, State::None, &[Some((90.0, 11.0)), None, Some((385.0, 41.0))]);
        // The ratio of the medians is 0.9, the median of the ratios 0.8.
        let other = variant("other", State::None, &[Some((80.0, 12.0)), Some((180.0, 20.0)), Some((300.0, 46.0))]);
        assert_eq!(
            none.rates_row(&none, &empty),
            "none | 200 | 100..400 | 1.000 (1.000..1.000) | 1.075 (1.057..1.093) | 3 rounds"
        );
        assert_eq!(
            other.rates_row(&none, &empty),
            "other | 180 | 80..300 | 0.800 (0.775..0.850) | 0.834 (0.807..0.861) | 3 rounds"
        );
        assert_eq!(
            empty.rates_row(&none, &empty),
            "empty program | 238 | 90..385 | 0.931 (0.916..0.947) | 1.000 (1.000..1.000) | 2 rounds"
        );
        assert_eq!(
            other.times_row(&none),
            "other | 20.0 | +2.0 (+1.0..+4.0) | 40.0 | +4.0 (+2.0..+8.0) | 60.0 | +6.0 (+3.0..+12.0) | 80.0 | +8.0 (+4.0..+16.0)"
        );
    }

    #[test]
    fn a_variant_without_results_has_a_reason() {
        let none = variant("none", State::None, &[Some((100.0, 10.0))]);
        let failed = || State::Failed("did not attach: no a|b".to_owned());
        let tcplife = variant("tcplife", failed(), &[None]);
        assert_eq!(tcplife.rates_row(&none, &tcplife), "tcplife | - | - | - | - | did not attach: no a\\|b");
        assert_eq!(tcplife.times_row(&none), "tcplife | - | - | - | - | - | - | - | -");
        // Without an empty program the other ratio is there.
        let empty = variant(EMPTY, failed(), &[None]);
        assert_eq!(none.rates_row(&none, &empty), "none | 100 | 100..100 | 1.000 (1.000..1.000) | - | 1 rounds");
    }
}
