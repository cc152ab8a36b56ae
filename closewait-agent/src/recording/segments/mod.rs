//! Flight recording: segments in a directory, each of which can be played without the earlier ones.
//!
//! # Format
//!
//! A segment is a recording of format 3, in a file `closewait-NNNNNNNNNN.segment`. Its number is one more than that of the
//! segment before. It begins with
//!
//! 1. [`Item::Segment`](super::Item::Segment): the run of the agent, the time, and input that was not recorded before;
//! 2. [`Item::Began`](super::Item::Began): the settings of the engine;
//! 3. a [`Checkpoint`](closewait_engine::Checkpoint) in MessagePack with names, in frames of its own, unless the engine
//!    begins with the segment.
//!
//! The input of the engine follows, as in a file. A segment that another one continues ends with a frame that says so.
//! Segments are played one after the other; where one does not continue the one before, because of a gap, of damage or
//! of a restart of the agent, the player goes on from its checkpoint.
//!
//! # Writing
//!
//! The event loop encodes its input and makes checkpoints, which takes some milliseconds for 100,000 sockets. A thread
//! does the rest: it serializes checkpoints, compresses, writes, and deletes. Its queue is limited. Input that finds it
//! full is dropped and counted, as is all input after a failed write; then the segment ends, and a new one with a
//! checkpoint begins as soon as the disk takes it. So a gap costs the events within it, and no later ones.
//!
//! A segment is created under its final name: a reader recognizes whole frames by their checks, so a torn end costs
//! the last frame only. A kill of the agent loses nothing that was written. For a power failure, the thread
//! synchronizes a segment (`fdatasync`) when its checkpoint is written and when it ends, and the directory when it
//! creates a file; so a power failure costs at most the newest segment behind its checkpoint.
//!
//! # Deleting
//!
//! Whole segments, the oldest first: when they ended longer ago than the retained time, and when all segments together
//! would exceed the retained bytes. The segment that is being written stays. Only regular files with the exact name,
//! the first line of a recording, one link, and the agent's user are segments; the agent opens, changes and deletes
//! nothing else in the directory. Ages count from the start of the agent on the boot clock, so a step of the wall clock
//! deletes nothing.

mod flight;
mod folder;
mod source;
#[cfg(test)]
mod tests;
mod thread;

use std::time::Duration;

use serde::{Deserialize, Serialize};

pub use self::{
    flight::FlightRecorder,
    folder::{MIN_RETAINED_BYTES, is_folder},
    source::{RecordingPart, RecordingSource},
};
use crate::clock::TimeAnchor;
use closewait_engine::{text::harmless_field, time::BootTime};

/// First item of a segment.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SegmentStart {
    /// Start of the agent, nanoseconds since 1970: it identifies the run to which the segment belongs.
    pub run: u64,
    /// Number of the segment.
    pub number: u64,
    /// Time of the start of the segment.
    pub at: BootTime,
    /// Relation of the clocks at that time.
    pub anchor: TimeAnchor,
    /// Version of the agent.
    #[serde(deserialize_with = "harmless_field")]
    pub version: String,
    /// Version of the checkpoint's state; `None` if the engine begins here.
    pub checkpoint: Option<u32>,
    /// Input of the engine that is not recorded, between the segment before and this one; `None` if nothing is missing.
    pub missed: Option<MissedInput>,
}

/// Input that was not recorded.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct MissedInput {
    /// Time at which the agent noticed that it could not record.
    pub since: BootTime,
    /// Number of dropped items.
    pub items: u64,
}

/// Limits of a flight recording.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Retention {
    /// Age of the end of a segment at which it is deleted; `None` without a limit.
    pub time: Option<Duration>,
    /// Maximum size of all segments, bytes.
    pub bytes: u64,
}

impl Retention {
    /// Default maximum size of all segments, bytes.
    pub const DEFAULT_BYTES: u64 = 1 << 30;
    /// Default age of the end of a segment at which it is deleted.
    pub const DEFAULT_TIME: Duration = Duration::from_secs(3600);
    /// Number of segments in the retained time.
    const SEGMENTS: u32 = 12;
    /// Shortest and longest time of a segment.
    const SEGMENT_TIMES: (Duration, Duration) = (Duration::from_secs(10), Duration::from_secs(600));

    /// Returns the time after which a segment ends.
    fn segment_time(&self) -> Duration {
        let (shortest, longest) = Self::SEGMENT_TIMES;
        self.time.map_or(longest, |time| (time / Self::SEGMENTS).clamp(shortest, longest))
    }

    /// Returns the size of the input after which a segment ends, bytes.
    fn segment_bytes(&self) -> u64 {
        self.bytes / 16
    }
}

/// Number of digits in the name of a segment.
const DIGITS: usize = 10;

/// Returns the name of a segment.
fn name(number: u64) -> String {
    format!("closewait-{number:0width$}.segment", width = DIGITS)
}

/// Returns the number of the segment with this name; `None` if it is not exactly the name of one.
fn number(file: &[u8]) -> Option<u64> {
    let digits = file.strip_prefix(b"closewait-")?.strip_suffix(b".segment")?;
    let is_number = digits.len() == DIGITS && digits.iter().all(u8::is_ascii_digit);
    is_number.then(|| str::from_utf8(digits).ok()?.parse().ok()).flatten()
}
