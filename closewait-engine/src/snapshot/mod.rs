//! State of all sockets at one time: rows, filters, groups, hints.

pub mod groups;
pub mod hints;
pub mod query;
pub mod view;
