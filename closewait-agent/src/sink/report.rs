//! Text, Markdown, HTML and JSON of `closewait report`, for a ticket.

mod chart;
mod content;
pub mod html;
pub(super) mod json;
mod markdown;
mod text;
mod timeline;

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
    /// Markdown for a ticket system.
    Markdown,
    /// One HTML file that loads nothing.
    Html,
    /// One object.
    Json,
}

impl ReportPage<'_> {
    /// Returns a time of day, with the date if it is another day than that of the report.
    fn clock(&self, at: BootTime) -> String {
        let (date, today) = (self.date(at), self.date(self.report.at));
        match date.split_once(' ') {
            Some((day, clock)) if today.starts_with(day) => clock.to_owned(),
            Some(_) | None => date,
        }
    }

    /// Returns a time to the second: `2026-11-25 22:48:33`, in UTC.
    fn date(&self, at: BootTime) -> String {
        let time = schema::time(self.anchor.wall(at));
        time.get(..19).unwrap_or(&time).replace('T', " ")
    }
}

/// Writes a report.
///
/// # Errors
///
/// If it cannot be written as JSON.
pub fn render(page: &ReportPage<'_>, format: ReportFormat, to: &mut Vec<u8>) -> io::Result<()> {
    match format {
        ReportFormat::Text(screen) => to.extend_from_slice(text::text(page, screen).as_bytes()),
        ReportFormat::Markdown => to.extend_from_slice(markdown::markdown(page).as_bytes()),
        ReportFormat::Html => to.extend_from_slice(html::page(page)?.as_bytes()),
        ReportFormat::Json => json::write(page, to)?,
    }
    Ok(())
}

#[cfg(test)]
mod redacted;
#[cfg(test)]
mod tests;
