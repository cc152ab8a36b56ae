//! Times at which losses are reported: a loss that lasts must not fill the output.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::{Losses, time::BootTime};

/// Minimum interval between two reports of counts that have not doubled.
const REPORT_INTERVAL: Duration = Duration::from_secs(60);

/// Counts of other losses: items over a limit, output that was dropped.
pub(crate) type Full = [u64; 8];

/// Counts that were reported last.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub(crate) struct HealthLog {
    losses: Losses,
    full: Full,
    /// Time of the last report; `None` before the first one.
    at: Option<BootTime>,
}

impl HealthLog {
    /// Returns whether counts are to be reported at `at`, and remembers them if so: at once if one of them is new or has
    /// doubled, and once a minute if one has changed.
    pub(crate) fn is_due(&mut self, at: BootTime, losses: Losses, full: Full) -> bool {
        let before = self.losses.iter().chain(&self.full);
        let mut counts = before.zip(losses.iter().chain(&full));
        let is_much = counts.clone().any(|(before, now)| now > before && now / 2 >= *before);
        let has_changed = counts.any(|(before, now)| before != now);
        let is_time = self.at.is_none_or(|reported| at.since(reported) >= REPORT_INTERVAL);
        let is_due = is_much || (has_changed && is_time);
        if is_due {
            *self = Self { losses, full, at: Some(at) };
        }
        is_due
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_loss_that_lasts_is_reported_when_it_doubles_and_once_a_minute() {
        let mut log = HealthLog::default();
        let second = |number: u64| BootTime(number * 1_000_000_000);
        let mut is_due = |at, lost| log.is_due(second(at), [0, 0, 0, 0, 0, lost], Full::default());
        assert!(!is_due(1, 0), "nothing is lost");
        assert!(is_due(2, 10));
        assert!(!is_due(3, 10), "nothing more");
        assert!(!is_due(4, 19));
        assert!(is_due(5, 20), "doubled");
        assert!(!is_due(64, 21));
        assert!(is_due(65, 21), "a minute later");
        assert!(!is_due(200, 21), "nothing more");
        let reports = (1..=3600).filter(|number| is_due(200 + number, 21 + number * 100)).count();
        assert!((60..75).contains(&reports), "{reports} in an hour");
    }

    #[test]
    fn each_kind_of_loss_is_reported_at_once() {
        let mut log = HealthLog::default();
        let at = BootTime(1);
        assert!(log.is_due(at, [1000, 0, 0, 0, 0, 0], Full::default()));
        assert!(log.is_due(at, [1000, 1, 0, 0, 0, 0], Full::default()));
        assert!(log.is_due(at, [1000, 1, 0, 0, 0, 0], [0, 0, 0, 0, 0, 0, 0, 1]));
        assert!(!log.is_due(at, [1001, 1, 0, 0, 0, 0], [0, 0, 0, 0, 0, 0, 0, 1]));
    }
}
