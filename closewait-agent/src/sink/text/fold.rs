//! Text of `closewait run` for people: a few lines for each incident, however many sockets it has.

use std::{
    collections::{BTreeMap, BTreeSet},
    io,
    time::Duration,
};

use super::{
    Text, TextStyle,
    pileup::command,
    style::{INDENT, Priority, sgr},
};
use crate::{
    clock::TimeAnchor,
    sink::{EventContent, NumberedEvent, Sink},
};
use closewait_engine::{
    model::{
        Certainty, Class, Endpoint, Finding, IncidentState, Pileup, PileupEnd, PileupGroup, Socket, StuckCounts,
        Verdict,
    },
    snapshot::urgency::Severity,
    time::BootTime,
};

/// Number of stuck sockets of a group that get a line of their own.
const MAX_SHOWN_SOCKETS: u8 = 3;
/// Time since the last line of a group after which its next stuck sockets get lines again.
const RENEW_AFTER: Duration = Duration::from_secs(3600);
/// Maximum number of groups with lines of their own, as many as the engine counts separately. The sockets of further groups are
/// only part of the reminders.
const MAX_GROUPS: usize = 4096;
/// Minimum interval between an entry or a reminder and the next reminder.
const REMIND_AFTER: Duration = Duration::from_secs(60);
/// Maximum number of lines for the cause of an incident on a terminal. `closewait report` has all of it.
const MAX_CAUSE_LINES: usize = 2;

/// Lines of a group that were printed.
#[derive(Clone, Debug)]
struct Printed {
    sockets: u8,
    /// Time of the last line.
    last: BootTime,
    /// Cause that was printed last, and whether it was a guess.
    cause: Option<(Class, bool)>,
    /// Command of the last entry.
    command: Option<String>,
}

/// Sink that folds the stuck sockets of a group into its incident.
#[derive(Debug)]
pub struct FoldedText {
    lines: Text,
    groups: BTreeMap<PileupGroup, Printed>,
    /// Sockets with a line of their own, whose exit gets one too.
    sockets: BTreeSet<(Option<u32>, Endpoint, Endpoint)>,
    /// Time of the last entry or reminder.
    told: Option<BootTime>,
    reminded: StuckCounts,
}

impl Sink for FoldedText {
    fn shows(&self, finding: &Finding) -> bool {
        match finding {
            Finding::Stuck { at, group, incident, .. } => incident.is_none() && self.may_show(group, *at),
            Finding::Leave { socket, .. } => self.sockets.contains(&key(socket)),
            Finding::Pileup { .. } | Finding::PileupEnd { .. } | Finding::Health { .. } | Finding::Stop { .. } => true,
            Finding::Enter { .. } | Finding::Histogram { .. } => false,
        }
    }

    fn event(&mut self, event: &NumberedEvent<'_>, to: &mut Vec<u8>) -> io::Result<()> {
        match event.content {
            EventContent::Start(_) => self.lines.event(event, to)?,
            EventContent::Finding(finding) => self.finding(finding, event, to)?,
        }
        Ok(())
    }

    fn still_stuck(&mut self, at: BootTime, counts: StuckCounts, anchor: TimeAnchor, to: &mut Vec<u8>) {
        let is_news = counts.incidents > 0 || counts != self.reminded;
        if !is_news || self.told.is_some_and(|told| at.since(told) < REMIND_AFTER) {
            return;
        }
        (self.told, self.reminded) = (Some(at), counts);
        let StuckCounts { groups, incidents, exhausted, sockets } = counts;
        let s = |count: u32| if count == 1 { "" } else { "s" };
        let mut line = format!("{sockets} stuck in {groups} group{}", s(groups));
        if incidents > 0 {
            line.push_str(&format!("; {incidents} incident{}", s(incidents)));
        }
        if exhausted > 0 {
            line.push_str(&format!(", {exhausted} at a limit"));
        }
        let style = &self.lines.style;
        let word = style.paint(sgr::DIM, "still", 5);
        style.push(to, Priority::Info, &format!("{}{word} {line}", style.time(anchor, at)));
    }
}

impl FoldedText {
    /// Creates the sink.
    pub fn new(style: TextStyle) -> Self {
        Self {
            lines: Text::new(style),
            groups: BTreeMap::new(),
            sockets: BTreeSet::new(),
            told: None,
            reminded: StuckCounts::default(),
        }
    }

    /// Whether another stuck socket of the group gets a line of its own at `at`.
    fn may_show(&self, group: &PileupGroup, at: BootTime) -> bool {
        match self.groups.get(group) {
            Some(printed) => printed.sockets < MAX_SHOWN_SOCKETS || at.since(printed.last) >= RENEW_AFTER,
            None => self.groups.len() < MAX_GROUPS,
        }
    }

    fn finding(&mut self, finding: &Finding, event: &NumberedEvent<'_>, to: &mut Vec<u8>) -> io::Result<()> {
        match finding {
            Finding::Stuck { at, socket, group, .. } => {
                self.forget_quiet(*at);
                let printed = self.group(group, *at);
                printed.sockets += 1;
                let is_last = printed.sockets == MAX_SHOWN_SOCKETS;
                if self.sockets.len() < MAX_GROUPS {
                    self.sockets.insert(key(socket));
                }
                let line = self.lines.worded(sgr::BOLD_RED, "stuck", finding);
                let more = if is_last { "; more of this group are only counted" } else { "" };
                self.lines.push(to, Priority::Warning, (event.anchor, *at), &format!("{line}{more}"));
            }
            Finding::Leave { socket, .. } => {
                self.sockets.remove(&key(socket));
                self.lines.event(event, to)?;
            }
            Finding::Pileup { at, pileup } => self.incident(pileup, *at, event.anchor, to),
            Finding::PileupEnd { at, end } => self.end(end, *at, event.anchor, to),
            Finding::Health { .. } | Finding::Stop { .. } => self.lines.event(event, to)?,
            Finding::Enter { .. } | Finding::Histogram { .. } => {}
        }
        Ok(())
    }

    /// Returns the lines of a group that has a stuck socket or an incident at `at`.
    fn group(&mut self, group: &PileupGroup, at: BootTime) -> &mut Printed {
        let new = Printed { sockets: 0, last: at, cause: None, command: None };
        let printed = self.groups.entry(group.clone()).or_insert(new);
        printed.last = at;
        printed
    }

    /// Forgets the groups whose last line is long ago.
    fn forget_quiet(&mut self, at: BootTime) {
        self.groups.retain(|_, printed| at.since(printed.last) < RENEW_AFTER);
    }

    fn incident(&mut self, pileup: &Pileup, at: BootTime, anchor: TimeAnchor, to: &mut Vec<u8>) {
        let Verdict { class, certainty, text, .. } = &pileup.verdict;
        let (cause, next) = ((*class, *certainty == Certainty::Low), pileup.command());
        let printed = self.group(&pileup.group, at);
        let is_new = pileup.incident.is_none_or(|incident| incident.state == IncidentState::Opened);
        // The same cause is worth its lines again when it is no longer a guess.
        let is_same = |(class, is_guess): (Class, bool)| class == cause.0 && (!is_guess || cause.1);
        let has_cause = is_new || !printed.cause.is_some_and(is_same);
        if has_cause {
            printed.cause = Some(cause);
        }
        let has_command = printed.command.as_deref() != Some(&*next) || is_new;
        printed.command = Some(next.clone().into_owned());
        self.told = Some(at);

        let (style, severity) = (&self.lines.style, pileup.severity());
        let (label, sgr) = match (pileup.label(), severity) {
            (label, _) if label == "full" => ("FULL".to_owned(), sgr::FULL),
            (label, Severity::Critical | Severity::Error) => (label.to_uppercase(), sgr::BOLD_RED),
            (label, Severity::Warning) => (label.to_uppercase(), sgr::BOLD),
            (label, Severity::Info) => (label, sgr::DIM),
        };
        let who = pileup.service().name().unwrap_or_else(|| "unknown owner".to_owned());
        let head =
            format!("{} {who} {}  {}", style.paint(sgr, &label, 5), pileup.group.place(), pileup.numbers("sockets"));
        let mut lines = style.wrap(&format!("{}{head}", style.time(anchor, at)), "", INDENT).join("\n");
        if has_cause {
            lines.push('\n');
            lines.push_str(&self.cause(text));
        }
        if has_command {
            if let Some(what) = &explained(pileup) {
                lines.push('\n');
                lines.push_str(&style.wrap(&format!("next: {what}"), INDENT, INDENT).join("\n"));
            }
            lines.push('\n');
            lines.push_str(&command(&next, style.socket()));
        }
        style.push(to, severity.into(), &lines);
    }

    /// Returns the cause in a few lines. Only a terminal has a width to wrap it to.
    fn cause(&self, text: &str) -> String {
        let wrap = |text| self.lines.style.wrap(text, INDENT, INDENT);
        if self.lines.style.width.is_none() {
            return wrap(text).join("");
        }
        let whole = wrap(text);
        if whole.len() <= MAX_CAUSE_LINES {
            return whole.join("\n");
        }
        // The last clauses are the least important ones, but half a line says too little.
        let fitting = |ends: &[char], least: usize| {
            let ends = text.match_indices(ends).map(|(end, _)| end);
            let clauses = ends.filter(|end| text[end + 1..].starts_with(' ')).filter_map(|end| text.get(..end));
            clauses.map(wrap).rfind(|lines| (least..=MAX_CAUSE_LINES).contains(&lines.len()))
        };
        let cut = fitting(&['.', ';', ':'], MAX_CAUSE_LINES).or_else(|| fitting(&[','], MAX_CAUSE_LINES));
        let cut = cut.or_else(|| fitting(&['.', ';', ':', ','], 1));
        cut.map_or_else(|| whole.get(..MAX_CAUSE_LINES).unwrap_or_default().join("\n") + "..", |lines| lines.join("\n"))
    }

    fn end(&mut self, end: &PileupEnd, at: BootTime, anchor: TimeAnchor, to: &mut Vec<u8>) {
        self.groups.remove(&end.group);
        self.told = Some(at);
        let style = &self.lines.style;
        let word = style.paint(sgr::GREEN, "ends", 5);
        let who = end.service.as_deref().unwrap_or("unknown owner");
        let line = format!("{}{word} {who} {}  {}", style.time(anchor, at), end.group.place(), end.numbers(at));
        style.push(to, Priority::Info, &style.wrap(&line, "", INDENT).join("\n"));
    }
}

fn key(socket: &Socket) -> (Option<u32>, Endpoint, Endpoint) {
    (socket.netns, socket.local, socket.remote)
}

/// Returns what the command of the next step does, if that is not only to show what closewait knows: it may stop the program for a moment.
fn explained(pileup: &Pileup) -> Option<&str> {
    let next = &pileup.verdict.next;
    let acts = |command: &str| !command.starts_with("closewait ") || command.contains(" --jvm");
    next.command.as_deref().filter(|command| acts(command)).map(|_| next.text.as_str())
}

#[cfg(test)]
mod tests;
