//! Outputs of findings.

pub mod answer;
pub mod check;
pub(crate) mod command;
#[cfg(test)]
pub(crate) mod document;
mod event;
pub mod explain;
mod headline;
pub mod journal;
pub mod json;
pub mod kill;
pub mod list;
pub mod report;
mod schema;
pub mod stacks;
pub mod status;
pub mod stream;
mod table;
pub mod text;
mod writer;

use std::io;

use serde::{Deserialize, Serialize};

pub use self::event::{EventContent, NumberedEvent, Numbering};
pub use self::writer::{Backlog, Mark, Settings, Writer, write_fully};
use crate::clock::TimeAnchor;
use closewait_engine::{
    model::{Finding, StuckCounts},
    text::harmless_field,
    time::BootTime,
};

/// Start of the agent.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Start {
    /// Time at which everything was attached.
    pub at: BootTime,
    /// Version of the agent.
    #[serde(deserialize_with = "harmless_field")]
    pub version: String,
    /// Release of the kernel.
    #[serde(default, deserialize_with = "harmless_field")]
    pub kernel: Option<String>,
    /// Name of the hook.
    #[serde(deserialize_with = "harmless_field")]
    pub hook: String,
    /// Maximum number of sockets whose times of entry the kernel stores.
    pub max_sockets: u32,
    /// Maximum number of tracked sockets.
    pub max_tracked: u32,
    /// Size of the ring buffer, bytes.
    pub ring_buffer_bytes: u32,
    /// Outcome for the pins of an earlier agent; `None` without pins.
    #[serde(default, deserialize_with = "harmless_field")]
    pub pinned: Option<String>,
    /// Dwell time after which a socket counts as stuck.
    pub stuck_after: std::time::Duration,
    /// Degraded features of this host, one sentence each.
    #[serde(deserialize_with = "harmless_field")]
    pub degraded: Vec<String>,
}

/// Format of a command's output.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Form {
    /// A table for people.
    #[default]
    Text,
    /// One object per line.
    Json,
}

/// Format of events. The [`Writer`] knows their destination.
pub trait Sink {
    /// Writes an event.
    ///
    /// # Errors
    ///
    /// If a value cannot be written in this format.
    fn event(&mut self, event: &NumberedEvent<'_>, to: &mut Vec<u8>) -> io::Result<()>;

    /// Whether the stream contains a finding.
    fn shows(&self, finding: &Finding) -> bool;

    /// Writes a reminder of stuck sockets, if this format has any.
    fn still_stuck(&mut self, at: BootTime, counts: StuckCounts, anchor: TimeAnchor, to: &mut Vec<u8>) {
        let _unused = (at, counts, anchor, to);
    }
}
