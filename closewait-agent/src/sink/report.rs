//! Text and JSON of `closewait report`, for a ticket.

pub mod html;
mod json;
mod text;

use std::io;

use super::{Form, schema};
use crate::clock::TimeAnchor;
use closewait_engine::{model::IncidentReport, time::BootTime};

/// Writes a report that closewait of this `version` has made.
///
/// # Errors
///
/// If it cannot be written as JSON.
pub fn render(
    report: &IncidentReport,
    version: &str,
    form: Form,
    anchor: TimeAnchor,
    to: &mut Vec<u8>,
) -> io::Result<()> {
    let time = |at: BootTime| schema::time(anchor.wall(at));
    match form {
        Form::Text => to.extend_from_slice(text::text(report, version, &time).as_bytes()),
        Form::Json => json::write(report, version, &time, to)?,
    }
    Ok(())
}
