//! Thresholds of `closewait check`, and their syntax on the command line.

use std::{str::FromStr, time::Duration};

use thiserror::Error;

/// Thresholds of one state; `None` for a number that does not matter. One that is reached is enough.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Thresholds {
    /// Minimum number of stuck sockets.
    pub stuck: Option<u64>,
    /// Minimum growth of one group, sockets per second.
    pub growth: Option<f64>,
    /// Maximum time until a limit is reached.
    pub exhaustion: Option<Duration>,
}

/// Reason why a text is no threshold.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum ThresholdError {
    /// A part has no `=`, or an unknown name.
    #[error("write stuck=N, growth=N (sockets per second) or exhaustion=DUR, separated by commas, not `{0}`")]
    Name(String),
    /// A name occurs twice.
    #[error("{0} has two values")]
    Twice(&'static str),
    /// The value of `stuck`.
    #[error("stuck is a number of sockets from 1, such as stuck=50")]
    Stuck,
    /// The value of `growth`.
    #[error("growth is a number of sockets per second above 0, such as growth=0.5")]
    Growth,
    /// The value of `exhaustion`.
    #[error("exhaustion is a duration, such as exhaustion=5m")]
    Exhaustion,
}

impl FromStr for Thresholds {
    type Err = ThresholdError;

    fn from_str(text: &str) -> Result<Self, ThresholdError> {
        let mut thresholds = Self::default();
        for part in text.split(',') {
            let unknown = || ThresholdError::Name(part.to_owned());
            let (name, value) = part.split_once('=').ok_or_else(unknown)?;
            match name {
                "stuck" => {
                    let stuck = value.parse().ok().filter(|stuck| *stuck > 0).ok_or(ThresholdError::Stuck)?;
                    set(&mut thresholds.stuck, stuck, "stuck")?;
                }
                "growth" => {
                    let growth = value.parse().ok().filter(|growth| *growth > 0.0 && f64::is_finite(*growth));
                    set(&mut thresholds.growth, growth.ok_or(ThresholdError::Growth)?, "growth")?;
                }
                "exhaustion" => {
                    let exhaustion = humantime::parse_duration(value).ok().ok_or(ThresholdError::Exhaustion)?;
                    set(&mut thresholds.exhaustion, exhaustion, "exhaustion")?;
                }
                _ => return Err(unknown()),
            }
        }
        Ok(thresholds)
    }
}

fn set<T>(to: &mut Option<T>, value: T, name: &'static str) -> Result<(), ThresholdError> {
    if to.replace(value).is_some() { Err(ThresholdError::Twice(name)) } else { Ok(()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn thresholds_have_names_and_each_once() {
        let all = "stuck=50,growth=0.5,exhaustion=1h".parse();
        let (stuck, growth, exhaustion) = (Some(50), Some(0.5), Some(Duration::from_secs(3600)));
        assert_eq!(all, Ok(Thresholds { stuck, growth, exhaustion }));
        assert_eq!(
            "exhaustion=0s".parse(),
            Ok(Thresholds { exhaustion: Some(Duration::ZERO), ..Thresholds::default() })
        );
        for (text, error) in [
            ("", ThresholdError::Name(String::new())),
            ("50", ThresholdError::Name("50".to_owned())),
            ("stuck=5,", ThresholdError::Name(String::new())),
            ("sockets=5", ThresholdError::Name("sockets=5".to_owned())),
            ("stuck=0", ThresholdError::Stuck),
            ("stuck=-1", ThresholdError::Stuck),
            ("growth=0", ThresholdError::Growth),
            ("growth=inf", ThresholdError::Growth),
            ("growth=NaN", ThresholdError::Growth),
            ("exhaustion=5", ThresholdError::Exhaustion),
            ("stuck=1,stuck=2", ThresholdError::Twice("stuck")),
        ] {
            assert_eq!(text.parse::<Thresholds>(), Err(error), "{text}");
        }
    }
}
