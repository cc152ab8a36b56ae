//! State machines that emit commands to refresh, scan and inspect: before a report, before an answer, after a loss.

pub(crate) mod audit;
pub(crate) mod health;
pub(crate) mod inspection;
pub(crate) mod queries;
