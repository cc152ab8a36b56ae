//! `--retain`.

use std::time::Duration;

use super::{RunArgs, bytes};
use crate::recording::{MIN_RETAINED_BYTES, Retention};

/// Minimum and maximum of the retained time: no segment is shorter than the one, and the other is 10 years.
const TIMES: (Duration, Duration) = (Duration::from_secs(10), Duration::from_secs(3650 * 24 * 3600));

/// Limit of a recording in a directory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RetainLimit {
    /// Maximum age of the end of a segment.
    Time(Duration),
    /// Maximum size of all segments, bytes.
    Bytes(u64),
}

impl RunArgs {
    /// Returns the kind of limit that `--retain` has more than once; `None` if each has at most one value.
    pub fn retained_twice(&self) -> Option<&'static str> {
        let times = self.retain.iter().filter(|limit| matches!(limit, RetainLimit::Time(_))).count();
        let sizes = self.retain.len() - times;
        [(times, "times"), (sizes, "sizes")].into_iter().find(|(count, _)| *count > 1).map(|(_, kind)| kind)
    }

    /// Returns the limits of a recording in a directory. There is always a limit of size, and one of time unless only a size was
    /// given.
    pub fn retention(&self) -> Retention {
        let default = Retention { time: Some(Retention::DEFAULT_TIME), bytes: Retention::DEFAULT_BYTES };
        if self.retain.is_empty() {
            return default;
        }
        self.retain.iter().fold(Retention { time: None, ..default }, |retention, limit| match *limit {
            RetainLimit::Time(time) => Retention { time: Some(time), ..retention },
            RetainLimit::Bytes(bytes) => Retention { bytes, ..retention },
        })
    }
}

/// Parses a limit: a size ends with a capital K, M or G, or with KiB, MiB or GiB; everything else is a time.
pub(super) fn retain(text: &str) -> Result<RetainLimit, String> {
    let size = text.strip_suffix("iB").unwrap_or(text);
    if size.len() < text.len() || size.ends_with(['K', 'M', 'G']) {
        let bytes = bytes(size)?;
        return if bytes >= MIN_RETAINED_BYTES {
            Ok(RetainLimit::Bytes(bytes))
        } else {
            Err(format!("it must be at least {MIN_RETAINED_BYTES} ({}M)", MIN_RETAINED_BYTES >> 20))
        };
    }
    match humantime::parse_duration(text) {
        Ok(time) if (TIMES.0..=TIMES.1).contains(&time) => Ok(RetainLimit::Time(time)),
        Ok(_) => Err("it must be a time from 10s to 3650d, or a size of at least 1M".to_owned()),
        Err(_) => Err("write a time as 15m, 1h or 1d, or a size as 512M or 1GiB".to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use clap::Parser as _;

    use super::*;
    use crate::cli::{Cli, Command};

    fn retention(args: &[&str]) -> Result<Retention, String> {
        let all = [&["closewait", "run", "--record", "/x/"], args].concat();
        let command = Cli::try_parse_from(all).map_err(|error| error.to_string())?.into_command();
        let Command::Run(run) = command else { unreachable!() };
        Ok(run.retention())
    }

    #[test]
    fn a_limit_is_a_time_or_a_size() {
        let hour = Some(Duration::from_secs(3600));
        let of = |time, bytes| Ok(Retention { time, bytes });
        assert_eq!(retention(&[]), of(hour, 1 << 30));
        assert_eq!(retention(&["--retain", "1m"]), of(Some(Duration::from_secs(60)), 1 << 30));
        assert_eq!(retention(&["--retain", "2G"]), of(None, 2 << 30));
        assert_eq!(retention(&["--retain", "1h,512MiB"]), of(hour, 512 << 20));
        assert_eq!(retention(&["--retain", "1h", "--retain", "512M"]), of(hour, 512 << 20));
        for bad in ["", "5", "1TB", "x", "1K", "1023KiB"] {
            assert!(retention(&["--retain", bad]).is_err(), "{bad}");
        }
        for bad in ["0s", "1ns", "9s", "3651d", "10000000y"] {
            let error = retention(&["--retain", bad]).unwrap_err();
            assert!(error.contains("it must be a time from 10s to 3650d"), "{bad}: {error}");
        }
        assert_eq!(retention(&["--retain", "10s,1M"]), of(Some(Duration::from_secs(10)), 1 << 20));
        assert_eq!(retention(&["--retain", "3650d"]), of(Some(TIMES.1), 1 << 30));
        let alone = Cli::try_parse_from(["closewait", "run", "--retain", "1h"]);
        assert!(alone.unwrap_err().to_string().contains("--record"));
    }
}
