//! `closewait report`.

use std::{
    io::{self, IsTerminal as _, Write as _},
    path::Path,
    time::Duration,
};

use anyhow::Context as _;

use super::{
    is_colored, list, print,
    replay::{NO_EVENT, end_text, open},
    status::screen,
};
use crate::{
    cli::{self, ReportOutput},
    clock,
    recording::{Item, Player, RecordingPart},
    sink::{
        Form,
        list::ListShape,
        report::{ReportFormat, ReportPage, ReportSource, render},
    },
};
use closewait_engine::{
    snapshot::{
        query::{Filter, Query, ReportContent},
        redact::Redactor,
    },
    text::{duration, harmless},
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
        Some(file) => of_recording(file, args, format),
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
    // The object has the sockets that cannot be seen.
    let form = if is_json(format) { Form::Json } else { Form::Text };
    let shape = ListShape { form, is_redacted: args.redact, ..ListShape::default() };
    let note = &mut |note: list::Note| notes.push(note.into_text());
    let (header, report) = list::answer_noting(&args.asked, &query, shape, note, |answer| Ok(answer.report()?))?;
    warn(&notes, format);
    // Notes can have names, and the log has them.
    notes.retain(|note| Some(note) != report.unseen.as_ref() && !args.redact);
    let page = ReportPage {
        report: &report,
        version: &header.version,
        anchor: header.anchor,
        source: ReportSource::Host,
        notes: &notes,
        socket: args.asked.shown_socket(args.redact),
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
fn of_recording(path: &Path, args: &cli::ReportArgs, format: ReportFormat) -> anyhow::Result<()> {
    let failed = || format!("playing {} failed", path.display());
    let mut source = open(path, args.last.map_or(RecordingPart::End, RecordingPart::Last))?;
    let shown_from = source.shown_from();
    let (mut player, mut last) = (Player::default(), BootTime::default());
    let mut progress = ReplayProgress::new();
    let mut play = || -> anyhow::Result<()> {
        while let Some(item) = source.next() {
            let item = item?;
            if let Item::Began { at, .. } = &item {
                // The next engine can be that of a later boot.
                (progress.begin, last) = (Some(*at), *at);
            }
            if let Item::Time(now) | Item::Began { at: now, .. } = &item {
                last = last.max(*now);
            }
            player.play(item, |_shown, _anchor| Ok(()))?;
            progress.show(source.position(), last);
        }
        Ok(())
    };
    let played = play().with_context(failed);
    progress.clear();
    let Some(engine) = player.engine() else {
        return played.and_then(|()| Err(anyhow::anyhow!(NO_EVENT)).with_context(failed));
    };
    let mut notes = source.take_notes();
    notes.extend(source.end().and_then(|end| end_text(end, path)));
    notes.extend(source.earlier_run().map(|segment| {
        format!("an earlier run of the agent is not in this report; `closewait report` with its last segment, {segment}, shows it")
    }));
    warn(&notes, format);
    notes.extend(
        played
            .as_ref()
            .err()
            .map(|error| format!("the rest is missing: {error:#}"))
            .map(|text| harmless(text.as_bytes())),
    );
    let mut name = harmless(path.file_name().unwrap_or(path.as_os_str()).as_encoded_bytes());
    let mut report = engine.report_of(last, &Filter::default(), ReportContent::Courses);
    if let Some(from) = shown_from {
        let from = player.anchor().boot(from);
        report.resolved.retain(|resolved| resolved.at >= from);
    }
    if args.redact {
        Redactor::default().report(&mut report);
        "a recording".clone_into(&mut name);
        notes.clear();
    }
    let page = ReportPage {
        report: &report,
        version: env!("CARGO_PKG_VERSION"),
        anchor: player.anchor(),
        source: ReportSource::Recording(&name),
        notes: &notes,
        socket: None,
    };
    let mut shown = Vec::new();
    render(&page, format, &mut shown)?;
    print(&shown)?;
    played
}

const fn is_json(format: ReportFormat) -> bool {
    match format {
        ReportFormat::Json => true,
        ReportFormat::Text(_) | ReportFormat::Markdown | ReportFormat::Html => false,
    }
}

/// Logs notes that the user would not see otherwise: an object has no place for them, and a report can go to a file.
fn warn(notes: &[String], format: ReportFormat) {
    if is_json(format) || !io::stdout().is_terminal() {
        notes.iter().for_each(|note| log::warn!("{note}"));
    }
}

/// Progress of a long replay: one line on standard error, if that is a terminal.
struct ReplayProgress {
    is_terminal: bool,
    /// Start of the recorded engine.
    begin: Option<BootTime>,
    /// Number of items until the next look at the clock.
    items: u32,
    /// Time of the next line.
    next: BootTime,
    is_shown: bool,
}

impl ReplayProgress {
    /// Interval of lines.
    const INTERVAL: Duration = Duration::from_secs(1);
    /// Number of items between looks at the clock.
    const ITEMS: u32 = 256;

    fn new() -> Self {
        let next = clock::now() + Self::INTERVAL;
        Self { is_terminal: io::stderr().is_terminal(), begin: None, items: 0, next, is_shown: false }
    }

    /// Shows that the recording is read up to `position`, bytes, and played until `at`; at most once an interval.
    fn show(&mut self, position: u64, at: BootTime) {
        if !self.is_terminal {
            return;
        }
        self.items = self.items.wrapping_add(1);
        if !self.items.is_multiple_of(Self::ITEMS) || clock::now() < self.next {
            return;
        }
        self.next = clock::now() + Self::INTERVAL;
        self.is_shown = true;
        let played = duration(at.since(self.begin.unwrap_or(at)));
        Self::write(&format!("\r\x1b[K{:.1} MB read, {played} played", position as f64 / 1e6));
    }

    /// Removes the line.
    fn clear(&mut self) {
        if std::mem::take(&mut self.is_shown) {
            Self::write("\r\x1b[K");
        }
    }

    fn write(text: &str) {
        let mut stderr = io::stderr();
        // Nothing depends on it.
        let _unseen = stderr.write_all(text.as_bytes()).and_then(|()| stderr.flush());
    }
}
