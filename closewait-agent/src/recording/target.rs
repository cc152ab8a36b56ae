//! Destination of a recording: one file, or the segments of a flight recording in a directory.

use std::path::Path;

use super::{EarlyEnd, FlightRecorder, Item, Recorder, Retention, is_folder};
use crate::sink::Mark;
use closewait_engine::{Config, time::BootTime};

/// Destination of a recording.
#[derive(Debug)]
pub enum RecordTarget {
    /// One file, which ends when it is full.
    File(Recorder),
    /// Segments in a directory, of which the oldest ones are deleted.
    Segments(Box<FlightRecorder>),
}

impl From<Recorder> for RecordTarget {
    fn from(recorder: Recorder) -> Self {
        Self::File(recorder)
    }
}

impl RecordTarget {
    /// Begins a recording of an engine that begins at `began`: segments if `path` is a directory or ends with a slash,
    /// which `retention` limits; otherwise a file of at most `max` bytes.
    ///
    /// # Errors
    ///
    /// If the file or the directory cannot be written.
    pub fn create(
        path: &Path,
        (max, retention): (u64, Retention),
        config: &Config,
        began: BootTime,
    ) -> anyhow::Result<Self> {
        if is_folder(path) {
            let flight = FlightRecorder::create(path, retention, config, began)?;
            return Ok(Self::Segments(Box::new(flight)));
        }
        Recorder::create(path, max, config, began).map(Self::File)
    }

    pub(super) fn item(&mut self, item: &Item<'_>) -> anyhow::Result<()> {
        match self {
            Self::File(recorder) => recorder.item(item),
            Self::Segments(flight) => flight.item(item),
        }
    }

    pub(super) fn flush(&mut self) -> anyhow::Result<()> {
        match self {
            Self::File(recorder) => recorder.flush(),
            Self::Segments(flight) => {
                flight.flush();
                Ok(())
            }
        }
    }

    pub(super) fn mark(&self) -> Option<Mark> {
        match self {
            Self::File(recorder) => recorder.mark(),
            Self::Segments(flight) => flight.mark(),
        }
    }

    pub(super) fn ended(&self) -> Option<EarlyEnd> {
        match self {
            Self::File(recorder) => recorder.ended(),
            Self::Segments(_) => None,
        }
    }

    /// Returns the number of items that a recording in a directory has dropped.
    pub(super) fn dropped(&self) -> u64 {
        match self {
            Self::File(_) => 0,
            Self::Segments(flight) => flight.dropped(),
        }
    }

    /// Whether all items are dropped for now.
    pub(super) fn is_dropping(&self) -> bool {
        match self {
            Self::File(_) => false,
            Self::Segments(flight) => flight.is_dropping(),
        }
    }

    pub(super) fn max(&self) -> u64 {
        match self {
            Self::File(recorder) => recorder.max(),
            Self::Segments(_) => u64::MAX,
        }
    }

    pub(super) fn finish(self, patience: std::time::Duration) -> anyhow::Result<()> {
        match self {
            Self::File(recorder) => recorder.finish(patience),
            Self::Segments(flight) => flight.finish(patience),
        }
    }
}
