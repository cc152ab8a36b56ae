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
        model::Finding,
        query::{Form, Query},
        time::Boot,
    },
    recording::{Item, Player, Reader, Shown},
    sink::{Sink, json::Json, report::render, text::Text},
};

/// So many bytes of pile-ups that a recording tells of, or a little more.
const MOST_TOLD: usize = 4 << 20;

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

/// The pile-ups that a recording tells of, then all that there was at its end.
fn of_recording(path: &Path, form: Form) -> anyhow::Result<Vec<u8>> {
    let shown = path.display();
    let file =
        File::open(path).with_context(|| format!("opening {shown} failed; is it there, and may you read it?"))?;
    let mut reader = Reader::new(BufReader::new(file)).with_context(|| format!("playing {shown} failed"))?;
    let (mut player, mut last) = (Player::default(), Boot::default());
    let mut sink: Box<dyn Sink> = match form {
        Form::Text => Box::new(Text::new(false)),
        Form::Json => Box::new(Json::default()),
    };
    // What piled up and is over is part of the incident too.
    let mut answer = Vec::new();
    for item in &mut reader {
        let item = item.with_context(|| format!("playing {shown} failed"))?;
        if let Item::Time(now) | Item::Began { at: now, .. } = &item {
            last = last.max(*now);
        }
        let show = |shown: Shown<'_>, anchor| match shown {
            Shown::Finding(finding @ (Finding::Pileup { .. } | Finding::PileupEnd { .. }))
                if answer.len() < MOST_TOLD =>
            {
                sink.finding(finding, anchor, &mut answer)
            }
            Shown::Finding(_) | Shown::Start(_) | Shown::HandedOut | Shown::Unwritten => Ok(()),
        };
        player.play(item, show).with_context(|| format!("playing {shown} failed"))?;
    }
    let engine =
        player.engine().with_context(|| format!("{shown} has nothing in it; was the agent killed at its start?"))?;
    if form == Form::Text && !answer.is_empty() {
        answer.push(b'\n');
    }
    render(&engine.report(last), form, player.anchor(), &mut answer)?;
    Ok(answer)
}
