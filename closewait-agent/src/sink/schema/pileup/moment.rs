//! JSON object of a group's counts at one time.

use serde::Serialize;

#[cfg(test)]
use crate::sink::document::*;
use crate::sink::schema::seconds;
use closewait_engine::{model::Moment, time::BootTime};

/// Counts of a group at one time.
#[derive(Serialize)]
#[cfg_attr(test, derive(JsonSchema))]
pub(super) struct MomentObject {
    /// Time since the count, in seconds.
    seconds_ago: f64,
    /// Number of sockets that the program had not closed.
    count: u64,
    /// Number of enters since the previous count.
    entered: u64,
    /// Number of exits since the previous count.
    left: u64,
}

impl MomentObject {
    /// Creates the object at `now`.
    pub(super) fn new(moment: &Moment, now: BootTime) -> Self {
        let Moment { at, count, entered, left } = *moment;
        Self { seconds_ago: seconds(now.since(at)), count, entered, left }
    }
}
