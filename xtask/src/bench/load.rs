//! The load of short connections that benchmarks measure beside an agent.

use crate::{loadgen::PERCENTILES, prelude::*};

/// What one run of the load generator measured.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Load {
    pub(super) connections: u64,
    /// Connections per second.
    pub(super) rate: f64,
    /// Times of the connections, microseconds, in the order of [`PERCENTILES`].
    pub(super) times: [f64; PERCENTILES.len()],
}

/// Runs the load generator.
pub(super) fn run(seconds: u64) -> Result<Load> {
    // In its own process, each round has a fresh network namespace and no TIME_WAIT of the round before.
    let mut command = exec::again();
    let result = exec::json(command.args(["loadgen", "--seconds", &seconds.to_string()]))?;
    parse(&result).with_context(|| format!("the load generator printed no numbers but {result}; this is a bug"))
}

fn parse(result: &Value) -> Option<Load> {
    let mut times = [0.0; PERCENTILES.len()];
    for (time, (name, _share)) in times.iter_mut().zip(PERCENTILES) {
        *time = result["microseconds"][name].as_f64()?;
    }
    let (connections, rate) = (result["connections"].as_u64()?, result["connections_per_second"].as_f64()?);
    Some(Load { connections, rate, times })
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_result_has_every_percentile() {
        let mut result = json!({
            "connections": 20, "connections_per_second": 10.5,
            "microseconds": { "p50": 1.5, "p90": 2.5, "p99": 3.5, "p99.9": 4.5 },
        });
        let expected = Load { connections: 20, rate: 10.5, times: [1.5, 2.5, 3.5, 4.5] };
        assert_eq!(parse(&result), Some(expected));
        result["microseconds"]["p99.9"] = Value::Null;
        assert_eq!(parse(&result), None);
    }
}
