//! State of all sockets at one time: rows, filters, groups, hints, urgency, the report.

pub mod exits;
pub mod groups;
pub mod hints;
pub mod metrics;
pub mod query;
pub mod redact;
mod report;
pub mod summary;
pub mod urgency;
pub mod view;
