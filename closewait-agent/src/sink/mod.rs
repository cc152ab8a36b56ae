//! Outputs of findings.

pub mod answer;
mod event;
pub mod json;
pub mod kill;
pub mod list;
pub mod report;
mod schema;
mod table;
pub mod text;
mod writer;

use std::io;

use serde::{Deserialize, Serialize};

pub use self::event::{EventContent, NumberedEvent, Numbering};
pub use self::writer::{Backlog, Mark, Settings, Writer, write_fully};
use closewait_engine::{text::harmless_field, time::BootTime};

/// What the agent began with.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Start {
    /// When everything was attached.
    pub at: BootTime,
    /// Version of the agent.
    #[serde(deserialize_with = "harmless_field")]
    pub version: String,
    /// Release of the kernel.
    #[serde(default, deserialize_with = "harmless_field")]
    pub kernel: Option<String>,
    /// Which hook is used.
    #[serde(deserialize_with = "harmless_field")]
    pub hook: String,
    /// Sockets whose time of entry the kernel keeps.
    pub max_sockets: u32,
    /// Sockets that are tracked at a time.
    pub max_tracked: u32,
    /// Size of the ring buffer, bytes.
    pub ring_buffer_bytes: u32,
    /// What became of what an agent before had pinned; `None` if nothing is pinned.
    #[serde(default, deserialize_with = "harmless_field")]
    pub pinned: Option<String>,
    /// Age at which a socket counts as stuck.
    pub stuck_after: std::time::Duration,
    /// What this host cannot do, one sentence each.
    #[serde(deserialize_with = "harmless_field")]
    pub degraded: Vec<String>,
}

/// The form of what a command prints.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Form {
    /// A table for people.
    #[default]
    Text,
    /// One object a line.
    Json,
}

/// Turns what the agent has to say into lines. Where they go is the [`Writer`]'s business.
pub trait Sink {
    /// Writes an event.
    ///
    /// # Errors
    ///
    /// If a value cannot be written in this format.
    fn event(&mut self, event: &NumberedEvent<'_>, to: &mut Vec<u8>) -> io::Result<()>;
}
