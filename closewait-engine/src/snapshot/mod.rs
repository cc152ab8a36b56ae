//! State of all sockets at one time: rows, filters, groups, hints, urgency.

pub mod groups;
pub mod hints;
pub mod query;
pub mod summary;
pub mod urgency;
pub mod view;
