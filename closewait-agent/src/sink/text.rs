//! Human-readable text of events.

mod fold;
pub(super) mod pileup;
mod style;

use std::{borrow::Cow, fmt::Write as _, io};

use self::style::{INDENT, Priority, sgr};
use super::{EventContent, NumberedEvent, Sink, Start};
use crate::clock::TimeAnchor;
use closewait_engine::{
    histogram::Summary,
    model::{Dwell, ExitCause, Finding, Owner, Protocol, Role, Scope, Socket, Totals},
    text::{bounds, duration},
    time::BootTime,
};

pub use self::{fold::FoldedText, style::TextStyle};

/// Indentation of the evidence of an incident, and of a command in it.
const EVIDENCE_INDENT: &str = "    ";
const COMMAND_INDENT: &str = "        ";

/// Sink with one line per finding. Histograms go to the log, see [`histogram_line`].
#[derive(Clone, Debug)]
pub struct Text {
    style: TextStyle,
}

impl Text {
    /// Creates the sink.
    pub fn new(style: TextStyle) -> Self {
        Self { style }
    }

    fn paint(&self, sgr: &str, word: &str) -> String {
        self.style.paint(sgr, word, 6)
    }
}

impl Sink for Text {
    fn shows(&self, _finding: &Finding) -> bool {
        true
    }

    fn event(&mut self, event: &NumberedEvent<'_>, to: &mut Vec<u8>) -> io::Result<()> {
        match event.content {
            EventContent::Start(start) => self.start(start, event.anchor, to),
            EventContent::Finding(finding) => self.finding(finding, event.anchor, to),
        }
        Ok(())
    }
}

impl Text {
    fn push(&self, to: &mut Vec<u8>, priority: Priority, (anchor, at): (TimeAnchor, BootTime), line: &str) {
        let text = format!("{}{line}", self.style.time(anchor, at));
        let wrapped: Vec<_> = text.lines().flat_map(|line| self.wrap(line)).collect();
        self.style.push(to, priority, &wrapped.join("\n"));
    }

    /// Wraps a line to the width of the terminal, except a command, which is copied as a whole.
    fn wrap<'t>(&self, line: &'t str) -> Vec<Cow<'t, str>> {
        if line.starts_with(COMMAND_INDENT) { vec![line.into()] } else { self.style.wrap(line, "", INDENT) }
    }

    fn start(&self, start: &Start, anchor: TimeAnchor, to: &mut Vec<u8>) {
        let Start { version, hook, stuck_after, .. } = start;
        let kernel = start.kernel.as_deref().unwrap_or("of an unknown release");
        let word = self.paint(sgr::DIM, "start");
        let stuck_after = duration(*stuck_after);
        self.push(
            to,
            Priority::Info,
            (anchor, start.at),
            &format!("{word} closewait {version} on Linux {kernel}, {hook}; stuck after {stuck_after}"),
        );
    }

    fn finding(&self, finding: &Finding, anchor: TimeAnchor, to: &mut Vec<u8>) {
        match finding {
            Finding::Enter { at, .. } => self.line(to, Priority::Info, (anchor, *at), sgr::DIM, "enter", finding),
            Finding::Stuck { at, .. } => {
                self.line(to, Priority::Warning, (anchor, *at), sgr::BOLD_RED, "stuck", finding);
            }
            Finding::Leave { at, .. } => self.line(to, Priority::Info, (anchor, *at), sgr::GREEN, "left", finding),
            Finding::Pileup { at, pileup } => {
                let word = self.paint(sgr::BOLD_RED, "PILEUP");
                let mut lines = format!("{word} {}", pileup::line(pileup, *at));
                for line in pileup::evidence(pileup, *at, self.style.socket()) {
                    lines.push('\n');
                    lines.push_str(EVIDENCE_INDENT);
                    lines.push_str(&line);
                }
                self.push(to, pileup.severity().into(), (anchor, *at), &lines);
            }
            Finding::PileupEnd { at, end } => {
                let word = self.paint(sgr::GREEN, "PILEUP ends");
                self.push(to, Priority::Info, (anchor, *at), &format!("{word} {}", pileup::end(end, *at)));
            }
            Finding::Histogram { .. } => {}
            Finding::Health { at, .. } => {
                self.line(to, Priority::Warning, (anchor, *at), sgr::YELLOW, "health", finding);
            }
            Finding::Stop { at, .. } => self.line(to, Priority::Info, (anchor, *at), sgr::DIM, "stop", finding),
        }
    }

    /// Writes the line of a finding, after a word in a color.
    fn line(
        &self,
        to: &mut Vec<u8>,
        priority: Priority,
        time: (TimeAnchor, BootTime),
        color: &'static str,
        word: &str,
        finding: &Finding,
    ) {
        self.push(to, priority, time, &self.worded(color, word, finding));
    }

    /// Returns the line of a finding, after a word in a color.
    fn worded(&self, color: &'static str, word: &str, finding: &Finding) -> String {
        format!("{} {}", self.paint(color, word), line(finding).unwrap_or_default())
    }
}

/// Formats a finding about one socket, or about the agent, as one line; `None` for others.
pub(super) fn line(finding: &Finding) -> Option<String> {
    match finding {
        Finding::Enter { socket, .. } => Some(ends(socket)),
        Finding::Stuck { socket, dwell: stuck, owners, verdict, .. } => {
            let (ends, dwell, owners) = (ends(socket), dwell(*stuck), owner_list(owners.as_deref()));
            let (class, certainty) = (verdict.class.name(), verdict.certainty.name());
            Some(format!("{ends} for {dwell}; {class}, {certainty}{owners}{}", unread(socket)))
        }
        Finding::Leave { socket, dwell: stayed, how: left, closer, ended, fd_open, .. } => {
            let stayed = stayed.map_or_else(|| "an unknown time".to_owned(), dwell);
            let mut line = format!("{} after {stayed}, {}", ends(socket), how_text(*left));
            if let Some(task) = closer {
                // A program that ends has not closed it: the kernel does.
                let by = if *ended == Some(true) { "by the kernel at the end of" } else { "by" };
                let _infallible: std::fmt::Result = write!(line, " {by} {}[{}]", task.comm, task.pid);
            }
            if *fd_open == Some(true) {
                line.push_str("; its descriptor is still open");
            }
            Some(line)
        }
        Finding::Health { totals, .. } => Some(losses(*totals)),
        Finding::Stop { totals, .. } => {
            let Totals { entered, left, tracked, .. } = totals;
            let losses = losses(*totals);
            Some(format!("{entered} entered, {left} exited, {tracked} still in CLOSE_WAIT; {losses}"))
        }
        Finding::Pileup { .. } | Finding::PileupEnd { .. } | Finding::Histogram { .. } => None,
    }
}

/// Formats a histogram as one line of the log, with its level; `None` for other findings. At the normal level, a line
/// per minute and port would hide the rest.
pub fn histogram_line(finding: &Finding) -> Option<(log::Level, String)> {
    let Finding::Histogram { scope, window, finished, unfinished, .. } = finding else { return None };
    let (level, scope) = match scope {
        Scope::All => (log::Level::Info, "all sockets".to_owned()),
        Scope::LocalPort(port) => (log::Level::Debug, format!("port {port}")),
        Scope::Other => (log::Level::Debug, "other sockets".to_owned()),
    };
    let summary = |summary: &Summary| match (summary.p50, summary.p90, summary.p99, summary.max) {
        (Some(p50), Some(p90), Some(p99), Some(max)) => {
            let (p50, p90) = (duration(p50), duration(p90));
            format!("{} (p50 {p50}, p90 {p90}, p99 {}, max {})", summary.count, duration(p99), duration(max))
        }
        _ => "0".to_owned(),
    };
    let window = duration(*window);
    let (finished, unfinished) = (summary(finished), summary(unfinished));
    Some((level, format!("dwell, last {window}, {scope}: {finished} exited, {unfinished} still in CLOSE_WAIT")))
}

/// Formats `local <- remote` for the accepting side, `local -> remote` for the connecting one.
pub fn ends(socket: &Socket) -> String {
    let arrow = match socket.role {
        Some(Role::Server) => "<-",
        Some(Role::Client) => "->",
        None => "--",
    };
    let protocol = if socket.protocol == Protocol::Mptcp { " (mptcp)" } else { "" };
    format!("{} {arrow} {}{protocol}", socket.local, socket.remote)
}

/// Formats a dwell time: exact, or its bounds.
pub fn dwell(dwell: Dwell) -> String {
    match dwell {
        Dwell::Exact(dwell) => duration(dwell),
        Dwell::Between { at_least, at_most } => bounds(at_least, at_most),
    }
}

/// Formats all owners; empty if there is none, or the search was not possible.
pub(super) fn owner_list(owners: Option<&[Owner]>) -> String {
    /// Maximum number of owners: a socket that every worker has inherited would fill the screen.
    const SHOWN: usize = 4;
    let owners = owners.unwrap_or_default();
    let mut text = String::new();
    for Owner { task, fd } in owners.iter().take(SHOWN) {
        let _infallible: std::fmt::Result = write!(text, "; {}[{}] fd {fd}", task.comm, task.pid);
    }
    if owners.len() > SHOWN {
        let _infallible: std::fmt::Result = write!(text, " and {} more", owners.len() - SHOWN);
    }
    text
}

/// Formats the unread data as `ss` counts it, with the FIN; empty if it is unknown.
fn unread(socket: &Socket) -> String {
    socket.unread_bytes.map(|bytes| format!("; recv-q {bytes}")).unwrap_or_default()
}

fn how_text(left: ExitCause) -> &'static str {
    match left {
        ExitCause::Closed => "closed",
        ExitCause::Shutdown => "sending side shut down",
        ExitCause::Aborted => "closed with a reset",
        ExitCause::Reset => "reset by the peer",
        ExitCause::Timeout => "timed out",
        ExitCause::Destroyed => "destroyed from outside",
        ExitCause::ListenerClosed => "its listener was closed",
        ExitCause::Unknown => left.name(),
    }
}

/// Formats the losses; `nothing lost` if there are none.
pub(super) fn losses(totals: Totals) -> String {
    let counts = [
        (totals.lost_ring_full, "records lost, the ring buffer was full (--ring-buffer)"),
        (totals.lost_map_full, "times of entry lost, the map was full (--max-sockets)"),
        (totals.replaced, "missed exits"),
        (totals.skipped_by_kernel.unwrap_or(0), "changes skipped by the kernel"),
        (totals.undecodable, "records not understood"),
        (totals.unwritten, "lines dropped, standard output or the journal did not take them"),
        (totals.log_lines_dropped, "lines of the log dropped, standard error was not read"),
        (totals.unexported, "events not exported, the collector did not take them"),
        (totals.recordings_failed, "times the recording could not be written"),
        (totals.unrecorded, "observations missing in the recording"),
        (totals.repaired, "sockets missed and found again"),
        (totals.phantom, "missed exits found by an audit"),
        (totals.untracked, "sockets not tracked, there were too many (--max-tracked)"),
        (totals.ungrouped, "sockets on ports or towards ends that are too many to count each by itself"),
        (totals.unkept, "descriptors, listeners or other connections not kept, there were too many"),
        (totals.fd_open_unwatched, "open descriptors of ended connections not watched, there were too many"),
    ];
    let lost: Vec<_> = counts.iter().filter(|(n, _)| *n > 0).map(|(n, what)| format!("{n} {what}")).collect();
    if lost.is_empty() { "nothing lost".to_owned() } else { lost.join(", ") }
}

#[cfg(test)]
mod tests;
