//! `closewait report`.

use std::{
    fs::File,
    io::{self, BufReader, Write as _},
    path::Path,
};

use anyhow::Context as _;

use super::list;
use crate::{
    cli::{self, Output},
    engine::{
        query::{Form, Query},
        time::Boot,
    },
    recording::{Item, Player, Reader},
    sink::report::render,
};

/// Tells all that is known of an incident.
///
/// # Errors
///
/// If there is neither an agent nor a right to look, the recording cannot be read, or standard output cannot be written.
pub(super) fn report(args: &cli::Report) -> anyhow::Result<()> {
    let form = match args.shape.output {
        Output::Text => Form::Text,
        Output::Json => Form::Json,
    };
    let answer = match &args.file {
        Some(file) => of_recording(file, form)?,
        None => list::answer(&args.asked, &Query { form, report: true, ..Query::default() })?,
    };
    io::stdout().write_all(&answer)?;
    Ok(io::stdout().flush()?)
}

/// As of the end of a recording.
fn of_recording(path: &Path, form: Form) -> anyhow::Result<Vec<u8>> {
    let shown = path.display();
    let file =
        File::open(path).with_context(|| format!("opening {shown} failed; is it there, and may you read it?"))?;
    let mut reader = Reader::new(BufReader::new(file)).with_context(|| format!("playing {shown} failed"))?;
    let (mut player, mut last) = (Player::default(), Boot::default());
    for item in &mut reader {
        let item = item.with_context(|| format!("playing {shown} failed"))?;
        if let Item::Time(now) | Item::Began { at: now, .. } = &item {
            last = last.max(*now);
        }
        player.play(item, |_shown, _anchor| Ok(())).with_context(|| format!("playing {shown} failed"))?;
    }
    let engine =
        player.engine().with_context(|| format!("{shown} has nothing in it; was the agent killed at its start?"))?;
    let mut answer = Vec::new();
    render(&engine.report(last), form, player.anchor(), &mut answer)?;
    Ok(answer)
}
