//! Full-screen view of all groups: `closewait top`.
//!
//! ```text
//! source (own thread) --TopEvent--> model --state--> view --cells--> terminal
//!        <--TopRequest-- driver <--TopEffect--' ^---TopKey--- driver
//! ```
//!
//! The model and the view are pure: the same events give the same screen. Only the driver knows the terminal, and the
//! source of the command knows agents, scans and recordings.

mod ansi;
mod driver;
mod messages;
mod model;
mod view;

pub use self::{
    ansi::text_of,
    driver::{Hands, MAX_SIZE, TopSource, drive},
    messages::{SourceState, TopEffect, TopEvent, TopKey, TopRequest, TopSettings, TopSnapshot},
    model::{TopModel, kill_command, parse_position},
    view::{TopTheme, draw},
};
