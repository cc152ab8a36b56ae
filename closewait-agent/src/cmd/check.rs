//! `closewait check`: a monitoring probe, or with a command the watch of its processes.

mod command;
mod watch;

use std::io::{self, Write as _};

use super::{
    list::{Note, ScanNeeds, answer_needing, filter},
    print, stdout,
};
use crate::{
    cli,
    host::{error_text::in_one_line, open_files::OpenFiles},
    logging,
    sink::{
        check::{Probe, ProbeState, ProbeThresholds},
        list::ListShape,
    },
    source::program,
};
use closewait_engine::snapshot::query::{Query, ReportContent};

/// Runs a probe or a command. Returns the exit code: 3 for every error of its own, which the line names.
pub(super) fn check(args: &cli::CheckArgs) -> u8 {
    let done = if args.command.is_empty() { probe(args) } else { command::run(args) };
    done.unwrap_or_else(|error| {
        // Also if its reader has gone: nothing was checked.
        let _unwritten: anyhow::Result<()> = show(args, &Probe::unknown(&in_one_line(error)));
        ProbeState::Unknown.exit_code()
    })
}

/// Writes the line of a probe to an invalid command line, which a monitoring system would take for another state.
pub fn misused(error: &clap::Error) -> u8 {
    let text = error.to_string();
    // A list of arguments can follow, until an empty line.
    let problem = text.lines().take_while(|line| !line.is_empty()).collect::<Vec<_>>().join(" ");
    let problem = problem.trim_start_matches("error: ");
    let mut line = Vec::new();
    let written =
        Probe::unknown(&format!("invalid command line: {problem}")).render(crate::sink::Form::Text, &mut line);
    let _unwritten: io::Result<()> = written.and_then(|()| io::stdout().write_all(&line));
    ProbeState::Unknown.exit_code()
}

/// Checks what every command does, and opens many files.
fn begin(args: &cli::CheckArgs) -> anyhow::Result<OpenFiles> {
    program::check_built()?;
    if args.command.is_empty() {
        stdout::check_result()?;
    }
    Ok(OpenFiles::raise()?)
}

fn probe(args: &cli::CheckArgs) -> anyhow::Result<u8> {
    begin(args)?;
    let filter = filter(&args.filters);
    let (filtered, query) = (!filter.is_empty(), Query::Report { filter, content: ReportContent::Groups });
    let shape = ListShape { form: args.shape.output.into(), ..ListShape::default() };
    let note = &mut |note: Note| log::warn!("{}", note.into_text());
    answer_needing(&args.asked, &query, shape, ScanNeeds::KernelPrograms, note, |answer| {
        let (_header, report) = answer.report()?;
        let probe = Probe::of(&report, ProbeThresholds { warning: args.warn, critical: args.crit }, filtered);
        show(args, &probe)?;
        Ok(probe.state.exit_code())
    })
}

/// Writes a result: to standard output, but for a command to standard error, because its output is the command's.
fn show(args: &cli::CheckArgs, probe: &Probe<'_>) -> anyhow::Result<()> {
    let mut line = Vec::new();
    probe.render(args.shape.output.into(), &mut line)?;
    put(args, &line)
}

fn put(args: &cli::CheckArgs, text: &[u8]) -> anyhow::Result<()> {
    if args.command.is_empty() {
        return print(text);
    }
    logging::print(&String::from_utf8_lossy(text));
    Ok(())
}
