//! `closewait report`.

use std::path::Path;

use anyhow::Context as _;

use super::{
    list, print,
    replay::{NO_EVENT, open, report_end},
};
use crate::{
    cli::{self, OutputFormat},
    recording::{Item, Player, Shown},
    sink::{
        Numbering, Sink,
        answer::AnswerHeader,
        json::Json,
        list::ListShape,
        report::render,
        text::{Text, TextStyle},
    },
};
use closewait_engine::{model::Finding, snapshot::query::Query, time::BootTime};

/// Approximate limit of the bytes of incident reports from one recording.
const MAX_REPORT_BYTES: usize = 4 << 20;

/// Writes an incident report.
///
/// # Errors
///
/// If there is neither an agent nor the privilege for a scan, the recording cannot be read, or standard output cannot
/// be written.
pub(super) fn report(args: &cli::ReportArgs) -> anyhow::Result<()> {
    let output = args.shape.output;
    if let Some(file) = &args.file {
        return of_recording(file, output);
    }
    list::answer(
        &args.asked,
        &Query::Report(list::filter(&args.filters)),
        ListShape { form: output.into(), ..ListShape::default() },
        |answer| {
            let (AnswerHeader { version, anchor, .. }, report) = answer.report()?;
            let mut shown = Vec::new();
            render(&report, &version, output.into(), anchor, &mut shown)?;
            print(&shown)
        },
    )
}

/// Returns the sink of the incidents of a recording.
fn events_sink(output: OutputFormat) -> Box<dyn Sink> {
    match output {
        OutputFormat::Text => Box::new(Text::new(TextStyle::dated(false))),
        OutputFormat::Json => Box::new(Json::default()),
    }
}

/// Writes the incidents of a recording, then the state at its end, or before the first item that cannot be played.
///
/// # Errors
///
/// If an item cannot be played, after the report, or there is none before it.
fn of_recording(path: &Path, output: OutputFormat) -> anyhow::Result<()> {
    let failed = || format!("playing {} failed", path.display());
    let mut reader = open(path)?;
    let (mut player, mut last) = (Player::default(), BootTime::default());
    let (mut numbering, mut sink) = (Numbering::default(), events_sink(output));
    // Resolved incidents are part of the report too.
    let mut answer = Vec::new();
    let mut play = |item: anyhow::Result<Item<'_>>| -> anyhow::Result<()> {
        let item = item?;
        if let Item::Time(now) | Item::Began { at: now, .. } = &item {
            last = last.max(*now);
        }
        if let Item::Began { config, .. } = &item {
            numbering = Numbering::of_host(&config.host);
        }
        let show = |shown: Shown<'_>, anchor| match shown {
            Shown::Finding(finding @ (Finding::Pileup { .. } | Finding::PileupEnd { .. }))
                if answer.len() < MAX_REPORT_BYTES =>
            {
                sink.event(&numbering.finding(finding, anchor), &mut answer)
            }
            Shown::Finding(_) | Shown::StillStuck(..) | Shown::Start(_) | Shown::HandedOut | Shown::Unwritten => Ok(()),
        };
        player.play(item, show)
    };
    let played = reader.by_ref().map(|item| item.map_err(Into::into)).try_for_each(&mut play).with_context(failed);
    let Some(engine) = player.engine() else {
        return played.and_then(|()| Err(anyhow::anyhow!(NO_EVENT)).with_context(failed));
    };
    if output == OutputFormat::Text && !answer.is_empty() {
        answer.push(b'\n');
    }
    let version = env!("CARGO_PKG_VERSION");
    render(&engine.report(last), version, output.into(), player.anchor(), &mut answer)?;
    print(&answer)?;
    report_end(reader.end(), path);
    played
}
