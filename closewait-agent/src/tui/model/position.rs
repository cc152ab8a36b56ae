//! Times in a recording, as users write them.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use crate::clock::TimeAnchor;
use closewait_engine::time::BootTime;

/// Seconds of a day.
const DAY: u64 = 86_400;

/// Parses a time since the start of the recording (`1m30s`), or a time of day in UTC (`22:45`, `22:45:20`): the first one at or
/// after the start.
///
/// # Errors
///
/// If the text is neither; the error is a sentence for the user.
pub fn parse(text: &str, begin: BootTime, anchor: TimeAnchor) -> Result<BootTime, String> {
    let text = text.trim().trim_end_matches(['Z', 'z']);
    if let Some(time) = time_of_day(text) {
        let start = anchor.wall(begin);
        let since_epoch = start.duration_since(UNIX_EPOCH).unwrap_or_default();
        let midnight = since_epoch.as_secs() / DAY * DAY;
        // A recording that starts at 22:45:20.5 has this time at its start.
        let after = if midnight + time < since_epoch.as_secs() { DAY } else { 0 };
        let wall = SystemTime::UNIX_EPOCH + Duration::from_secs(midnight + time + after);
        return Ok(anchor.boot(wall).max(begin));
    }
    match humantime::parse_duration(text) {
        Ok(since) => Ok(begin + since),
        Err(_) => Err("write a time since the start, 1m30s, or a time of day in UTC, 22:45:20".to_owned()),
    }
}

/// Parses a time of day, in seconds since midnight.
fn time_of_day(text: &str) -> Option<u64> {
    let mut parts = text.split(':').map(|part| {
        let is_number = !part.is_empty() && part.len() <= 2 && part.bytes().all(|byte| byte.is_ascii_digit());
        part.parse::<u64>().ok().filter(|_| is_number)
    });
    let (hours, minutes) = (parts.next()??, parts.next()??);
    let seconds = parts.next().unwrap_or(Some(0))?;
    let is_time = hours < 24 && minutes < 60 && seconds < 60 && parts.next().is_none();
    is_time.then_some(hours * 3600 + minutes * 60 + seconds)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_time_is_relative_or_of_the_day() {
        // Boot at 22:40:00, start of the recording 5 s later.
        let anchor = TimeAnchor::booted_at(UNIX_EPOCH + Duration::from_secs(DAY * 20_000 + 81_600));
        let begin = BootTime(5_500_000_000);
        let at = |text: &str| parse(text, begin, anchor).map(|at| at.0 / 1_000_000);
        assert_eq!(at("90s"), Ok(95_500));
        assert_eq!(at(" 1m30s "), Ok(95_500));
        assert_eq!(at("22:41"), Ok(60_000));
        assert_eq!(at("22:40:05Z"), Ok(5_500), "the start");
        assert_eq!(at("00:00:10"), Ok(4_810_000), "the next day");
        for wrong in ["", "soon", "25:00", "22:60", "1:2:3:4", "22:-1", "+1:00"] {
            assert!(at(wrong).is_err(), "{wrong}");
        }
    }
}
