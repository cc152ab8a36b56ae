//! Everything that goes into the engine, kept in a file, so that it can be played again: the same events, byte for byte.
//!
//! # Format
//!
//! ```text
//! closewait recording 2\n          a line of text: what this is, and the version of all that follows
//! frame frame frame ...            each: kind and length | check of this head | check of the payload | payload
//! ```
//!
//! The payloads of all frames are one stream of deflate, flushed at the end of each frame, so that all that was written can
//! be read; in it are [`Item`]s in MessagePack. Both are there for one reason each:
//!
//! - MessagePack with names of members (`rmp-serde`): a recording is still read when a fact has got another member, which an
//!   encoding by position (`postcard`) cannot do; and deflate makes the names nearly free.
//! - One stream (`flate2`, in Rust alone) rather than blocks: a frame is written whenever lines are handed out, and is mostly
//!   too short to be worth anything by itself.
//!
//! A file that ends within a frame, as after a crash, is played up to there. Damage before that is an error: what comes after
//! cannot be understood without what was there. Damage is what a whole frame follows, at whatever place: the check of a head
//! includes the place where it was written, so bytes that are missing or too many are seen.
//!
//! A recording that is full ends. The findings of an engine depend on all that it was told since it began, so a file that goes
//! round, or one that is a later part, would give other events.

mod engine;
mod file;
mod frame;
mod older;
mod player;
mod reader;
mod recorder;
#[cfg(test)]
mod tests;

use std::borrow::Cow;

use serde::{Deserialize, Serialize};

pub use self::{
    engine::RecordingEngine,
    file::{FileError, open},
    player::{Player, Shown},
    reader::{Reader, RecordingEnd, RecordingReadError},
    recorder::{EarlyEnd, MIN_MAX_BYTES, Recorder},
};
use crate::{clock::TimeAnchor, sink::Start};
use closewait_engine::{Config, model::Observation, time::BootTime};

/// Format that is written. To be raised when an item comes to mean something else, or when a member of one that has to be there
/// is new.
const VERSION: u32 = 2;
/// Oldest format that is read: [`older`] converts its facts.
const OLDEST_VERSION: u32 = 1;

/// Something that happened to the engine or to its lines, in order: all that events depend on.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub enum Item<'a> {
    /// The engine began. The first item, and only that.
    Began {
        /// Settings of the engine.
        config: Cow<'a, Config>,
        /// Time of the start.
        at: BootTime,
    },
    /// The event `start` was shown.
    Started(Cow<'a, Start>),
    /// A fact went in.
    Fact(Cow<'a, Observation>),
    /// [`closewait_engine::Engine::handle_timeout`] was called.
    Time(BootTime),
    /// A record of the kernel program was not understood.
    Undecodable(BootTime),
    /// The lines of the last [`Item::HandedOut`] were dropped, because nobody read them.
    Unwritten {
        /// Time of the loss.
        at: BootTime,
        /// Number of lines in the agent's output format.
        lines: u64,
    },
    /// [`closewait_engine::Engine::log_lines_dropped`] was called.
    LogDropped {
        /// Time of the end.
        at: BootTime,
        /// Number of lines.
        lines: u64,
    },
    /// A scan for owners began: only in recordings of format 1, in which the agent said so.
    #[serde(alias = "WalkBegan")]
    ScanBegan,
    /// [`closewait_engine::Engine::stop`] was called.
    Stopping,
    /// Number of outputs that were taken before the next input.
    Polled(u32),
    /// All outputs were taken.
    Drained,
    /// How the kernel's clock and the wall's stood to each other for what was shown from here on.
    Anchored(TimeAnchor),
    /// The lines since the last time were handed to whoever writes them.
    HandedOut,
}

impl Item<'static> {
    /// The next of the items that `bytes` begin with, which are then those behind it.
    ///
    /// # Errors
    ///
    /// If there is none.
    pub fn decode(bytes: &mut &[u8]) -> Result<Self, rmp_serde::decode::Error> {
        rmp_serde::from_read(bytes)
    }
}

impl Item<'_> {
    /// Puts it behind `to`.
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
