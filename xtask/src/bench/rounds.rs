//! Short interleaved rounds: what the machine does besides slows every variant down alike.
//!
//! hyperfine, which times `bench list`, measures one command after the other and cannot count what happens beside a command.

use crate::prelude::*;

/// Measurements of one variant, one number a round.
#[derive(Debug, Default)]
pub(super) struct Series {
    pub(super) name: &'static str,
    pub(super) values: Vec<f64>,
    /// Each value divided by that of the first variant in the same round.
    pub(super) ratios: Vec<f64>,
}

/// Measures the variants in `rounds` rounds. `measure` gets the index of the variant; `None`: the variant takes no part in
/// this round.
pub(super) fn interleaved(
    names: impl IntoIterator<Item = &'static str>,
    rounds: u32,
    mut measure: impl FnMut(usize) -> Result<Option<f64>>,
) -> Result<Vec<Series>> {
    let mut all: Vec<_> = names.into_iter().map(|name| Series { name, ..Series::default() }).collect();
    let mut order: Vec<_> = (0..all.len()).collect();
    for round in 0..rounds {
        eprintln!("bench: round {} of {rounds}", round + 1);
        let mut values = vec![None; all.len()];
        for index in &order {
            values[*index] = measure(*index)?;
        }
        let first = values.first().copied().flatten().context("the first variant has no result; this is a bug")?;
        for (series, value) in all.iter_mut().zip(values) {
            series.values.extend(value);
            series.ratios.extend(value.map(|value| value / first));
        }
        // Each round begins with another variant, so that none always follows the same one.
        order.rotate_left(1);
    }
    Ok(all)
}

/// Returns the least number, the median and the greatest. The median of an even count is the mean of the two in the middle.
pub(super) fn summary(numbers: &[f64]) -> Option<[f64; 3]> {
    let mut sorted = numbers.to_vec();
    sorted.sort_by(f64::total_cmp);
    let median = f64::midpoint(*sorted.get(sorted.len() / 2)?, *sorted.get((sorted.len() - 1) / 2)?);
    Some([*sorted.first()?, median, *sorted.last()?])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_variant_comes_first_in_turn_and_ratios_are_to_the_first_variant() {
        let mut calls = Vec::new();
        let series = interleaved(["a", "b", "c"], 4, |index| {
            calls.push(index);
            Ok((index < 2 || calls.len() == 3).then_some([2.0, 1.0, 6.0][index]))
        });
        assert_eq!(calls, [0, 1, 2, 1, 2, 0, 2, 0, 1, 0, 1, 2]);
        let series = series.unwrap();
        assert_eq!((series[1].ratios.as_slice(), series[2].ratios.as_slice()), (&[0.5; 4][..], &[3.0][..]));
        assert!(interleaved(["a"], 1, |_index| Ok(None)).is_err());
    }

    #[test]
    fn medians_of_odd_even_and_no_numbers() {
        assert_eq!(summary(&[3.0, 1.0, 2.0]), Some([1.0, 2.0, 3.0]));
        assert_eq!(summary(&[4.0, 1.0, 3.0, 2.0]), Some([1.0, 2.5, 4.0]));
        assert_eq!(summary(&[]), None);
    }
}
