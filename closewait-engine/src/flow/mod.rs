//! Counts of each group over time: entries and exits, growth, dwell times.

pub(crate) mod flows;
pub(crate) mod group_key;
pub(crate) mod growth;
pub(crate) mod port_watch;
pub(crate) mod windows;
