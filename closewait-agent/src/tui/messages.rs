//! Messages between the model, the driver and the source.

use std::time::Duration;

use crate::clock::TimeAnchor;
use closewait_engine::{model::IncidentReport, snapshot::query::Filter, time::BootTime};

/// Settings of the view.
#[derive(Clone, Debug, Default)]
pub struct TopSettings {
    /// Whether the user is root.
    pub is_root: bool,
    /// Options that a command needs to query the same agent, with a blank before each: ` --alone`.
    pub agent_options: String,
}

/// Origin of the groups.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SourceState {
    /// A running agent.
    Agent,
    /// Scans of this process, at least this time apart.
    Scans(Duration),
    /// A recording.
    Recording {
        /// Name of the file.
        name: String,
        /// First time of the recording.
        begin: BootTime,
        /// Last time of the recording.
        end: BootTime,
    },
}

/// All groups at one time.
#[derive(Clone, Debug)]
pub struct TopSnapshot {
    /// All groups.
    pub report: IncidentReport,
    /// Relation of the kernel's clock and the wall clock.
    pub anchor: TimeAnchor,
    /// Origin of the groups.
    pub source: SourceState,
    /// Sentences about missing sockets, owners or agents.
    pub notes: Vec<String>,
}

/// Key of the user.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TopKey {
    /// A character.
    Char(char),
    /// A character with the control key.
    Control(char),
    /// Enter.
    Enter,
    /// Escape.
    Escape,
    /// Backspace.
    Backspace,
    /// Arrow up.
    Up,
    /// Arrow down.
    Down,
    /// Arrow left.
    Left,
    /// Arrow right.
    Right,
    /// Page up.
    PageUp,
    /// Page down.
    PageDown,
    /// Home.
    Home,
    /// End.
    End,
}

/// Event that changes the state.
#[derive(Clone, Debug)]
pub enum TopEvent {
    /// The user pressed a key.
    Key(TopKey),
    /// A second has passed.
    Tick,
    /// The screen has another size.
    Resized,
    /// The source has all groups at another time.
    Snapshot(Box<TopSnapshot>),
    /// The source has the sockets that a filter matches.
    Sockets {
        /// Filter of the request.
        filter: Filter,
        /// Lines of text.
        lines: Vec<String>,
    },
    /// The source has the plan of a destruction.
    Plan {
        /// Filter of the request.
        filter: Filter,
        /// Lines of text.
        lines: Vec<String>,
        /// Number of sockets to destroy.
        count: usize,
        /// Time of the request: no later than the time at which the plan selects sockets.
        at: BootTime,
    },
    /// The source could not answer.
    Failed(String),
}

/// Request to the source.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum TopRequest {
    /// All groups now.
    Refresh,
    /// The sockets that a filter matches.
    Sockets(Filter),
    /// The plan to destroy the sockets that a filter matches.
    Plan(Filter),
    /// All groups at a time of the recording.
    Seek(BootTime),
}

/// Action that an event asks for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum TopEffect {
    /// End.
    Quit,
    /// Stop this process until the shell continues it.
    Suspend,
    /// Draw every cell again.
    Redraw,
    /// Ask the source.
    Ask(TopRequest),
    /// Copy text to the clipboard of the terminal.
    Copy(String),
    /// Destroy the sockets that a filter matches.
    Kill {
        /// Filter of the plan.
        filter: Filter,
        /// Maximum number of sockets.
        count: u32,
        /// Time of the request for the plan: younger sockets were not in it.
        at: BootTime,
    },
}
