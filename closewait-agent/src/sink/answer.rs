//! What is said to whoever asks: a list, or a report.

use std::io;

use super::{
    list::{missing, render},
    report,
};
use crate::{
    clock::TimeAnchor,
    engine::{
        Engine,
        query::{Form, Query},
        time::Boot,
    },
};

/// Writes the answer to a question, of what is true at `now`. Returns what a person has to be told beside it.
///
/// # Errors
///
/// If it cannot be written as JSON.
pub fn answer(
    engine: &Engine,
    query: &Query,
    now: Boot,
    anchor: TimeAnchor,
    to: &mut Vec<u8>,
) -> io::Result<Option<String>> {
    if query.report {
        report::render(&engine.report(now), query.form, anchor, to)?;
        return Ok(None);
    }
    let view = engine.view(now);
    render(&view, query, anchor, to)?;
    // Objects have no place for it.
    let missing: Vec<String> = missing(view.untracked, view.unseen).collect();
    Ok((query.form == Form::Json && !missing.is_empty()).then(|| missing.join("\n")))
}
