//! Recording of all input of the engine in a file, and its replay: the same events, byte for byte.
//!
//! # Format
//!
//! ```text
//! closewait recording 2\n          a line of text: what this is, and the version of all that follows
//! frame frame frame ...            each: kind and length | check of this head | check of the payload | payload
//! ```
//!
//! The payloads of all frames are one deflate stream, flushed at the end of each frame, so that everything written
//! can be read. It contains [`Item`]s in MessagePack. Each of the two has a reason:
//!
//! - MessagePack with names of members (`rmp-serde`): a recording stays readable when a fact gets another member,
//!   unlike with an encoding by position (`postcard`); and deflate makes the names nearly free.
//! - One stream (`flate2`, in Rust alone) rather than blocks: a frame is written whenever lines are handed out, and is
//!   mostly too short to compress well alone.
//!
//! A file that ends within a frame, as after a crash, is played up to there. Damage before that is an error: later
//! frames cannot be decoded without earlier ones. It is damage, and no cut, if a whole frame follows at any position:
//! the check of a head includes the position where it was written, which reveals missing and inserted bytes.
//!
//! A full file ends. The findings of an engine depend on all its input since the start, so a later part of a file alone
//! would give other events. A flight recording, in a directory, has segments instead, each of which begins with the
//! state of the engine (`segments`).

mod engine;
mod failure;
mod file;
mod frame;
mod message_pack;
mod older;
mod player;
mod reader;
mod recorder;
mod segments;
mod target;
#[cfg(test)]
mod tests;

use std::{borrow::Cow, io::Read};

use serde::{Deserialize, Serialize, de::DeserializeOwned};

pub use self::{
    engine::{DroppedCounts, RecordingEngine},
    file::{FileError, open},
    player::{Player, Shown},
    reader::{Reader, RecordingEnd, RecordingReadError},
    recorder::{EarlyEnd, MIN_MAX_BYTES, Recorder},
    segments::{
        FlightRecorder, MIN_RETAINED_BYTES, MissedInput, RecordingPart, RecordingSource, Retention, SegmentStart,
        is_folder,
    },
    target::RecordTarget,
};
use crate::{clock::TimeAnchor, sink::Start};
use closewait_engine::{Checkpoint, Config, model::Observation, time::BootTime};

/// Format that is written. Raise it when an item changes its meaning, or gets a new required member.
const VERSION: u32 = 2;
/// Format of a segment: format 2 with items and frames for a checkpoint.
const SEGMENT_VERSION: u32 = 3;
/// Oldest format that is read: [`older`] converts its facts.
const OLDEST_VERSION: u32 = 1;

/// Input of the engine or event of its output lines, in order: everything that events depend on.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub enum Item<'a> {
    /// A segment of a flight recording begins. Always and only the first item of a segment.
    Segment(Cow<'a, SegmentStart>),
    /// The engine began: the first item of a file, and the second one of a segment.
    Began {
        /// Settings of the engine.
        config: Cow<'a, Config>,
        /// Time of the start.
        at: BootTime,
    },
    /// The event `start` was shown.
    Started(Cow<'a, Start>),
    /// The engine handled a fact.
    Fact(Cow<'a, Observation>),
    /// [`closewait_engine::Engine::handle_timeout`] was called.
    Time(BootTime),
    /// A record of the kernel program was not decodable.
    Undecodable(BootTime),
    /// The lines of the last [`Item::HandedOut`] were dropped, because standard output was not read.
    Unwritten {
        /// Time of the loss.
        at: BootTime,
        /// Number of lines in the agent's output format.
        lines: u64,
    },
    /// The journal refused entries, which were handed to it before.
    Refused {
        /// Time of the count.
        at: BootTime,
        /// Number of entries.
        entries: u64,
    },
    /// [`closewait_engine::Engine::log_lines_dropped`] was called.
    LogDropped {
        /// Time of the end.
        at: BootTime,
        /// Number of lines.
        lines: u64,
    },
    /// [`closewait_engine::Engine::unexported`] was called.
    Unexported {
        /// Time of the count.
        at: BootTime,
        /// Number of events.
        events: u64,
    },
    /// [`closewait_engine::Engine::unrecorded`] was called: after a gap, for what its last attempt dropped.
    Unrecorded {
        /// Time of the count.
        at: BootTime,
        /// Number of observations.
        observations: u64,
    },
    /// A scan for owners began: only in recordings of format 1, in which the agent reported it.
    #[serde(alias = "WalkBegan")]
    ScanBegan,
    /// [`closewait_engine::Engine::stop`] was called.
    Stopping,
    /// Number of outputs that were taken before the next input.
    Polled(u32),
    /// All outputs were taken.
    Drained,
    /// Anchor of the times of all later output.
    Anchored(TimeAnchor),
    /// The lines since the last time were handed to the writer.
    HandedOut,
    /// State of the engine, in frames of its own behind the first items of a segment.
    #[serde(skip)]
    Checkpoint(Box<Checkpoint>),
}

/// Decodes the first value of `bytes`.
fn decode<T: DeserializeOwned>(bytes: &mut dyn Read) -> Result<T, rmp_serde::decode::Error> {
    T::deserialize(&mut message_pack::MessagePack::new(bytes))
}

impl Item<'static> {
    /// Decodes the first item of `bytes`, and removes it from there.
    ///
    /// # Errors
    ///
    /// If there is no valid item.
    pub fn decode(bytes: &mut &[u8]) -> Result<Self, rmp_serde::decode::Error> {
        decode(bytes)
    }
}

impl Item<'_> {
    /// Appends the encoded item to `to`.
    ///
    /// # Errors
    ///
    /// If it has no form in MessagePack.
    pub fn encode(&self, to: &mut Vec<u8>) -> Result<(), rmp_serde::encode::Error> {
        let before = to.len();
        let written = self.serialize(&mut rmp_serde::Serializer::new(&mut *to).with_struct_map());
        written.inspect_err(|_partly| to.truncate(before))
    }
}
