//! Arguments of `closewait replay`.

use std::{path::PathBuf, time::Duration};

use clap::Args;

use super::{EventsArg, OutputArgs, duration};

/// `closewait replay`.
#[derive(Clone, Debug, Args)]
pub struct ReplayArgs {
    /// Format and color.
    #[command(flatten)]
    pub shape: OutputArgs,
    /// Recording of `closewait run --record`: a file, or a directory with segments
    #[arg(value_name = "FILE|DIR")]
    pub file: PathBuf,
    /// Show only the events of the last part of this length, such as 15m
    #[arg(long, value_name = "TIME", value_parser = duration)]
    pub last: Option<Duration>,
    /// Events to show [default: incidents; stuck with --output json]
    #[arg(long, value_enum, value_name = "WHICH")]
    pub events: Option<EventsArg>,
    /// Playback speed multiplier; max: as fast as possible
    #[arg(long, value_name = "N", default_value = "max", value_parser = speed)]
    pub speed: Speed,
}

/// `--speed`.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Speed {
    /// As fast as possible.
    Max,
    /// Playback speed multiplier, above zero.
    Times(f64),
}

pub(super) fn speed(text: &str) -> Result<Speed, String> {
    match text.parse() {
        _ if text == "max" => Ok(Speed::Max),
        Ok(times) if times > 0.0 && f64::is_finite(times) => Ok(Speed::Times(times)),
        Ok(_) | Err(_) => Err("write a number above zero (1 is real time), or max".to_owned()),
    }
}
