//! Short interleaved rounds: what the machine does besides slows every variant down alike.
//!
//! hyperfine cannot replace this: it measures one command after the other, and a machine that is slower for a minute would
//! then change the ratio between two commands.

use crate::prelude::*;

/// Measurements of one variant, one number a round.
#[derive(Debug, Default)]
pub(super) struct Series {
    pub(super) name: String,
    pub(super) values: Vec<f64>,
    /// Each value divided by that of the first variant in the same round.
    pub(super) ratios: Vec<f64>,
}

/// Measures the variants in `rounds` rounds. `measure` gets the round and the index of the variant; `None`: the variant takes
/// no part in this round.
pub(super) fn interleaved<N: Into<String>>(
    names: impl IntoIterator<Item = N>,
    rounds: u32,
    mut measure: impl FnMut(u32, usize) -> Result<Option<f64>>,
) -> Result<Vec<Series>> {
    let mut all: Vec<_> = names.into_iter().map(|name| Series { name: name.into(), ..Series::default() }).collect();
    for round in 0..rounds {
        eprintln!("bench: round {} of {rounds}", round + 1);
        let mut values = vec![None; all.len()];
        for index in order(round, all.len()) {
            values[index] = measure(round, index)?;
        }
        let first = values.first().copied().flatten().context("the first variant has no result; this is a bug")?;
        for (series, value) in all.iter_mut().zip(values) {
            series.values.extend(value);
            series.ratios.extend(value.map(|value| value / first));
        }
    }
    Ok(all)
}

/// Each round begins with another variant, so that none always follows the same one.
fn order(round: u32, count: usize) -> impl Iterator<Item = usize> {
    let first = usize::try_from(round).unwrap_or(0) % count.max(1);
    (first..count).chain(0..first)
}

impl Series {
    /// Median, minimum and maximum of the values, and the median of the ratios; `None` without values.
    pub(super) fn summary(&self) -> Option<(f64, f64, f64, f64)> {
        let (min, max) = bounds(&self.values)?;
        Some((median(&self.values)?, min, max, median(&self.ratios)?))
    }
}

/// The middle number, or the mean of the two in the middle.
pub(super) fn median(numbers: &[f64]) -> Option<f64> {
    let mut sorted = numbers.to_vec();
    sorted.sort_by(f64::total_cmp);
    let upper = *sorted.get(sorted.len() / 2)?;
    let lower = if sorted.len() % 2 == 1 { upper } else { *sorted.get(sorted.len() / 2 - 1)? };
    Some(f64::midpoint(upper, lower))
}

pub(super) fn bounds(numbers: &[f64]) -> Option<(f64, f64)> {
    let first = *numbers.first()?;
    Some(numbers.iter().fold((first, first), |(min, max), number| (number.min(min), number.max(max))))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_variant_comes_first_in_turn_and_ratios_are_to_the_first_variant() {
        let mut calls = Vec::new();
        let series = interleaved(["a", "b", "c"], 4, |round, index| {
            calls.push(index);
            Ok((index < 2 || round == 0).then_some([2.0, 1.0, 6.0][index]))
        });
        assert_eq!(calls, [0, 1, 2, 1, 2, 0, 2, 0, 1, 0, 1, 2]);
        let series = series.unwrap();
        assert_eq!((series[1].ratios.as_slice(), series[2].ratios.as_slice()), (&[0.5; 4][..], &[3.0][..]));
        assert!(interleaved(["a"], 1, |_round, _index| Ok(None)).is_err());
    }

    #[test]
    fn medians_of_odd_even_and_no_numbers() {
        assert_eq!(median(&[3.0, 1.0, 2.0]), Some(2.0));
        assert_eq!(median(&[4.0, 1.0, 3.0, 2.0]), Some(2.5));
        assert_eq!(median(&[]), None);
        assert_eq!(bounds(&[2.0, 1.0, 3.0]), Some((1.0, 3.0)));
    }
}
