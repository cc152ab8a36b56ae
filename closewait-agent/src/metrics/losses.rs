//! Count of events that an exporter dropped.

use std::sync::{
    Arc,
    atomic::{AtomicU64, Ordering},
};

/// Number of events that the export over OTLP dropped, shared with the metrics.
#[derive(Clone, Debug, Default)]
pub struct ExportLosses(Arc<AtomicU64>);

impl ExportLosses {
    /// Counts more dropped events.
    pub fn add(&self, events: u64) {
        self.0.fetch_add(events, Ordering::AcqRel);
    }

    /// Returns the number of dropped events since the agent started.
    pub fn get(&self) -> u64 {
        self.0.load(Ordering::Acquire)
    }
}
