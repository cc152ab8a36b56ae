//! `closewait status`, the default command.

use super::{
    color,
    list::{self, Note},
    print,
};
use crate::{
    cli,
    sink::{
        Form,
        list::ListShape,
        status::{Screen, StatusPage, render},
    },
};
use closewait_engine::snapshot::query::{Filter, Query, ReportContent};

/// Width of text that does not go to a terminal, columns.
const DEFAULT_WIDTH: u16 = 80;

/// Shows all groups, the most urgent first.
///
/// # Errors
///
/// If this kernel or these privileges do not allow a scan, or standard output cannot be written.
pub(super) fn status(args: &cli::StatusArgs) -> anyhow::Result<()> {
    let form = args.shape.output.into();
    let mut notes = Vec::new();
    // The page itself has the sockets that cannot be seen, so the scan need not note them, as for JSON.
    let shape = ListShape { form: Form::Json, is_redacted: args.redact, ..ListShape::default() };
    // The page can omit its notes, as one line replaces them all. That no agent answers is a warning, as in other commands.
    let note = &mut |note| match note {
        Note::NoAgent(text) => log::warn!("{text}"),
        Note::Gap(text) => notes.push(text),
    };
    let (header, report) = list::answer_noting(
        &args.asked,
        &Query::Report { filter: Filter::default(), content: ReportContent::Groups },
        shape,
        note,
        |answer| {
            // An agent answers with groups, never with all sockets.
            Ok(answer.report()?)
        },
    )?;
    if form == Form::Json || args.redact {
        notes.drain(..).for_each(|note| log::warn!("{note}"));
    }
    let screen = screen(color(args.shape));
    let page = StatusPage {
        report: &report,
        anchor: header.anchor,
        is_root: rustix::process::geteuid().is_root(),
        notes: &notes,
        socket: args.asked.shown_socket(args.redact),
    };
    let mut shown = Vec::new();
    render(&page, form, screen, &mut shown)?;
    print(&shown)
}

/// Returns the screen that a page is fitted to.
pub(super) fn screen(color: bool) -> Screen {
    Screen { width: list::width().unwrap_or(DEFAULT_WIDTH).into(), height: list::height().map(usize::from), color }
}
