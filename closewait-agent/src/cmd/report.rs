//! `closewait report`.

use std::path::Path;

use anyhow::Context as _;

use super::{
    is_colored, list, print,
    replay::{NO_EVENT, end_text, open},
    status::screen,
};
use crate::{
    cli::{self, ReportOutput},
    recording::{Item, Player},
    sink::{
        Form,
        list::ListShape,
        report::{ReportFormat, ReportPage, ReportSource, render},
    },
};
use closewait_engine::{
    snapshot::query::{Filter, Query, ReportContent},
    text::harmless,
    time::BootTime,
};

/// Writes an incident report.
///
/// # Errors
///
/// If there is neither an agent nor the privilege for a scan, the recording cannot be read, or standard output cannot
/// be written.
pub(super) fn report(args: &cli::ReportArgs) -> anyhow::Result<()> {
    let format = match args.output {
        ReportOutput::Text => ReportFormat::Text(screen(is_colored(args.color))),
        ReportOutput::Md => ReportFormat::Markdown,
        ReportOutput::Html => ReportFormat::Html,
        ReportOutput::Json => ReportFormat::Json,
    };
    match &args.file {
        Some(file) => of_recording(file, format),
        None => of_host(args, format),
    }
}

/// Writes the report of an agent, or of a scan.
///
/// # Errors
///
/// If there is neither an agent nor the privilege for a scan, or standard output cannot be written.
fn of_host(args: &cli::ReportArgs, format: ReportFormat) -> anyhow::Result<()> {
    let query = Query::Report { filter: list::filter(&args.filters), content: ReportContent::Courses };
    let mut notes = Vec::new();
    // The page itself has the sockets that cannot be seen, so the scan need not note them, as for JSON.
    let shape = ListShape { form: Form::Json, ..ListShape::default() };
    let note = &mut |note| notes.push(note);
    let (header, report) = list::answer_noting(&args.asked, &query, shape, note, |answer| Ok(answer.report()?))?;
    if matches!(format, ReportFormat::Json) {
        notes.drain(..).for_each(|note| log::warn!("{note}"));
    }
    let page = ReportPage {
        report: &report,
        version: &header.version,
        anchor: header.anchor,
        source: ReportSource::Host,
        notes: &notes,
        socket: args.asked.socket.as_deref(),
    };
    let mut shown = Vec::new();
    render(&page, format, &mut shown)?;
    print(&shown)
}

/// Writes the report as of the end of a recording, or before the first item that cannot be played.
///
/// # Errors
///
/// If an item cannot be played, after the report, or there is none before it.
fn of_recording(path: &Path, format: ReportFormat) -> anyhow::Result<()> {
    let failed = || format!("playing {} failed", path.display());
    let mut reader = open(path)?;
    let (mut player, mut last) = (Player::default(), BootTime::default());
    let mut play = |item: anyhow::Result<Item<'_>>| -> anyhow::Result<()> {
        let item = item?;
        if let Item::Time(now) | Item::Began { at: now, .. } = &item {
            last = last.max(*now);
        }
        player.play(item, |_shown, _anchor| Ok(()))
    };
    let played = reader.by_ref().map(|item| item.map_err(Into::into)).try_for_each(&mut play).with_context(failed);
    let Some(engine) = player.engine() else {
        return played.and_then(|()| Err(anyhow::anyhow!(NO_EVENT)).with_context(failed));
    };
    // Text and JSON have no place for it: a log line reaches the user even if standard output goes to a file.
    if let Some(text) = reader.end().and_then(|end| end_text(end, path)) {
        log::warn!("{text}");
    }
    let name = harmless(path.file_name().unwrap_or(path.as_os_str()).as_encoded_bytes());
    let report = engine.report_of(last, &Filter::default(), ReportContent::Courses);
    let page = ReportPage {
        report: &report,
        version: env!("CARGO_PKG_VERSION"),
        anchor: player.anchor(),
        source: ReportSource::Recording(&name),
        notes: &[],
        socket: None,
    };
    let mut shown = Vec::new();
    render(&page, format, &mut shown)?;
    print(&shown)?;
    played
}
