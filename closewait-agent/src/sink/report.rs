//! Text, Markdown and JSON of `closewait report`, for a ticket.

pub mod html;
mod json;
mod text;

use std::{io, path::Path};

use super::{schema, status::Screen};
use crate::clock::TimeAnchor;
use closewait_engine::{model::IncidentReport, time::BootTime};

/// Content of a report.
#[derive(Clone, Copy, Debug)]
pub struct ReportPage<'a> {
    /// All groups, with the courses of their incidents, and the resolved incidents.
    pub report: &'a IncidentReport,
    /// Version of closewait that made the report.
    pub version: &'a str,
    /// Relation of the kernel's clock and the wall clock.
    pub anchor: TimeAnchor,
    /// Origin of the report.
    pub source: ReportSource<'a>,
    /// Sentences about missing sockets, owners or agents, and about the end of a recording.
    pub notes: &'a [String],
    /// Control socket that the user has given.
    pub socket: Option<&'a Path>,
}

/// Origin of a report.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ReportSource<'a> {
    /// This host: a running agent, or a scan if the report has no [`IncidentReport::watched`].
    Host,
    /// A recording with this file name, as of its end. The name is harmless.
    Recording(&'a str),
}

/// Format of a report.
#[derive(Clone, Copy, Debug)]
pub enum ReportFormat {
    /// Text for people, wrapped to a screen.
    Text(Screen),
    /// One object.
    Json,
}

/// Writes a report.
///
/// # Errors
///
/// If it cannot be written as JSON.
pub fn render(page: &ReportPage<'_>, format: ReportFormat, to: &mut Vec<u8>) -> io::Result<()> {
    let time = |at: BootTime| schema::time(page.anchor.wall(at));
    match format {
        ReportFormat::Text(_screen) => to.extend_from_slice(text::text(page.report, page.version, &time).as_bytes()),
        ReportFormat::Json => json::write(page.report, page.version, &time, to)?,
    }
    Ok(())
}
