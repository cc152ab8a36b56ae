//! Look of a line of text: its time, its priority, its color and its width.

use std::{
    borrow::Cow,
    io,
    path::{Path, PathBuf},
};

use jiff::{Timestamp, tz::TimeZone};

use crate::{clock::TimeAnchor, host::journal, sink::schema::time};
use closewait_engine::{snapshot::urgency::Severity, time::BootTime};

/// Minimum width that text is wrapped to, columns.
const MIN_WIDTH: usize = 40;

/// Indentation of the further lines of an entry: the time of day on a terminal, and a blank.
pub(super) const INDENT: &str = "         ";

/// SGR codes.
pub(super) mod sgr {
    pub(in crate::sink::text) const FULL: &str = "1;97;41";
    pub(in crate::sink::text) const BOLD_RED: &str = "1;31";
    pub(in crate::sink::text) const BOLD: &str = "1";
    pub(in crate::sink::text) const GREEN: &str = "32";
    pub(in crate::sink::text) const YELLOW: &str = "33";
    pub(in crate::sink::text) const DIM: &str = "2";
}

/// Time at the beginning of a line.
#[derive(Clone, Debug)]
enum LineTime {
    /// RFC 3339, in UTC with milliseconds: people collect these lines.
    Dated,
    /// Time of day in a time zone: a person watches.
    OfDay(TimeZone),
    /// None: the journal has its own.
    Omitted,
}

/// Priority of a line in the journal (syslog(3)).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Priority {
    Error = 3,
    Warning = 4,
    Info = 6,
}

impl From<Severity> for Priority {
    fn from(severity: Severity) -> Self {
        match severity {
            Severity::Critical | Severity::Error => Self::Error,
            Severity::Warning => Self::Warning,
            Severity::Info => Self::Info,
        }
    }
}

/// Look of lines.
#[derive(Clone, Debug)]
pub struct TextStyle {
    time: LineTime,
    /// Whether each line begins with its priority, as the journal reads it: `<3>` (sd-daemon(3)).
    priorities: bool,
    color: bool,
    /// Width of the terminal, columns; `None` if no terminal shows the lines.
    pub(super) width: Option<usize>,
    /// Control socket that suggested commands need; `None` if they find it without.
    socket: Option<PathBuf>,
}

impl TextStyle {
    /// Returns the style of lines that others collect.
    pub fn dated(color: bool) -> Self {
        Self { time: LineTime::Dated, priorities: false, color, width: None, socket: None }
    }

    /// Returns the style for the standard output of this process, while it happens: on a terminal of `width` columns, in the
    /// journal, or elsewhere.
    pub fn live(color: bool, width: Option<u16>) -> Self {
        if journal::reads(io::stdout()) {
            return Self { time: LineTime::Omitted, priorities: true, color, width: None, socket: None };
        }
        match width {
            // The zone is read now: later, the agent may no longer read its file.
            Some(width) => Self::of_day(color, width, TimeZone::system()),
            None => Self::dated(color),
        }
    }

    fn of_day(color: bool, width: u16, zone: TimeZone) -> Self {
        Self { time: LineTime::OfDay(zone), priorities: false, color, width: Some(width.into()), socket: None }
    }

    #[cfg(test)]
    pub(crate) fn of_terminal(width: u16) -> Self {
        Self::of_day(false, width, TimeZone::UTC)
    }

    #[cfg(test)]
    pub(super) fn of_journal() -> Self {
        Self { time: LineTime::Omitted, priorities: true, color: false, width: None, socket: None }
    }

    /// Adds the control socket of the agent to commands that ask it.
    pub fn with_socket(self, socket: Option<PathBuf>) -> Self {
        Self { socket, ..self }
    }

    pub(super) fn socket(&self) -> Option<&Path> {
        self.socket.as_deref()
    }

    /// Returns a word, colored if lines have color, and filled up to `width` columns.
    pub(super) fn paint(&self, sgr: &str, word: &str, width: usize) -> String {
        if self.color { format!("\x1b[{sgr}m{word:<width$}\x1b[0m") } else { format!("{word:<width$}") }
    }

    /// Returns the time as lines begin with it, with the blank behind it.
    pub(super) fn time(&self, anchor: TimeAnchor, at: BootTime) -> String {
        let wall = anchor.wall(at);
        match &self.time {
            LineTime::Dated => {
                // Milliseconds are precise enough for people.
                let time = time(wall);
                format!("{}Z ", time.get(..23).unwrap_or(&time))
            }
            LineTime::OfDay(zone) => match Timestamp::try_from(wall) {
                Ok(time) => format!("{} ", time.to_zoned(zone.clone()).strftime("%H:%M:%S")),
                Err(_out_of_range) => String::new(),
            },
            LineTime::Omitted => String::new(),
        }
    }

    /// Wraps text at words to the width of the terminal: one line without a terminal.
    pub(super) fn wrap<'t>(&self, text: &'t str, first: &'t str, others: &'t str) -> Vec<Cow<'t, str>> {
        let width = self.width.map_or(usize::MAX, |width| width.max(MIN_WIDTH));
        let options = textwrap::Options::new(width).initial_indent(first).subsequent_indent(others);
        textwrap::wrap(text, options.word_splitter(textwrap::WordSplitter::NoHyphenation))
    }

    /// Appends lines, each with its priority.
    pub(super) fn push(&self, to: &mut Vec<u8>, priority: Priority, lines: &str) {
        for line in lines.lines() {
            if self.priorities {
                to.extend_from_slice(format!("<{}>", priority as u8).as_bytes());
            }
            to.extend_from_slice(line.as_bytes());
            to.push(b'\n');
        }
    }
}
