//! What is said to whoever asks: a list, or a report.

use std::io::{self, Write};

use super::{
    json,
    list::{missing, render},
    report,
};
use crate::clock::TimeAnchor;
use closewait_engine::{
    Engine,
    query::{Form, Query},
    time::BootTime,
    view::{Row, View},
};

/// Sockets whose objects are written at once.
const AT_ONCE: usize = 64;

/// Writes the answer to a question, of what is true at `now`. Returns what a person has to be told beside it.
///
/// # Errors
///
/// If it cannot be written as JSON, or `to` refuses it.
pub fn answer(
    engine: &Engine,
    query: &Query,
    now: BootTime,
    anchor: TimeAnchor,
    to: &mut impl Write,
) -> io::Result<Option<String>> {
    let mut text = Vec::new();
    if query.report {
        report::render(&engine.report(now), query.form, anchor, &mut text)?;
        to.write_all(&text)?;
        return Ok(None);
    }
    let view = engine.view(now);
    match (query.form, query.by) {
        (Form::Json, None) => objects(&view, query, anchor, to)?,
        (Form::Json, Some(_)) | (Form::Text, _) => {
            render(&view, query, anchor, &mut text)?;
            to.write_all(&text)?;
        }
    }
    // JSON objects have no field for it.
    let missing: Vec<String> = missing(view.untracked, view.unseen).collect();
    Ok((query.form == Form::Json && !missing.is_empty()).then(|| missing.join("\n")))
}

/// An object for each socket, in pieces: all of them would take a kilobyte each.
fn objects(view: &View<'_>, query: &Query, anchor: TimeAnchor, to: &mut impl Write) -> io::Result<()> {
    let rows: Vec<&Row<'_>> = view.rows.iter().filter(|row| query.filter.matches(row, view.now)).collect();
    let mut text = Vec::new();
    for rows in rows.chunks(AT_ONCE) {
        text.clear();
        json::list(view, rows, None, anchor, &mut text)?;
        to.write_all(&text)?;
    }
    Ok(())
}
