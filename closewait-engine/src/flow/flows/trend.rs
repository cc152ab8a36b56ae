//! Trend of the count of a flow's sockets.

use std::collections::VecDeque;

use crate::diagnose::Trend;

/// Minimum number of windows for a trend, which gives three differences.
const MIN_TREND_WINDOWS: usize = 4;

/// Returns the trend of a count over the last windows; `None` if there are too few.
pub(super) fn trend(counts: &VecDeque<u64>) -> Option<Trend> {
    if counts.len() < MIN_TREND_WINDOWS {
        return None;
    }
    let (first, last) = (*counts.front()?, *counts.back()?);
    let (least, most) = (*counts.iter().min()?, *counts.iter().max()?);
    let pairs = || counts.iter().zip(counts.iter().skip(1));
    Some(if most - least <= (most / 10).max(1) {
        Trend::Level
    } else if pairs().all(|(before, after)| after >= before) && last > first {
        Trend::Growing
    } else if pairs().all(|(before, after)| after <= before) {
        Trend::Falling
    } else {
        Trend::Uneven
    })
}
