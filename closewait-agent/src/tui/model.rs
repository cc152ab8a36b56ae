//! State of the view, and its changes: pure, so that the same events give the same state.

mod page;
mod position;
#[cfg(test)]
pub(super) mod tests;
mod trend;

use std::time::Duration;

pub(super) use self::page::{InputLine, InputPurpose, SocketText, TopPage};
pub use self::{page::kill_command, position::parse as parse_position};
use self::{
    page::{GroupOrder, PAGE, filter_of, scroll},
    trend::{SessionCounts, growth_text},
};
use super::messages::{SourceState, TopEffect, TopEvent, TopKey, TopRequest, TopSettings, TopSnapshot};
use crate::sink::{
    command::with_options,
    status::{
        RowTrend,
        live::{class_label, group_name},
    },
};
use closewait_engine::{
    model::{Pileup, PileupGroup, ReportedGroup},
    snapshot::query::Filter,
    text::is_harmful,
    time::BootTime,
};

/// Maximum length of a filter or a time that a user types, characters.
const MAX_INPUT: usize = 60;
/// Step of the arrow keys in a recording, and of each tick while it plays.
const STEP: Duration = Duration::from_secs(1);
/// Step of the brackets in a recording.
const LONG_STEP: Duration = Duration::from_secs(60);

/// State of the view.
#[derive(Clone, Debug, Default)]
pub struct TopModel {
    pub(super) settings: TopSettings,
    pub(super) shown: Option<TopSnapshot>,
    /// Newest snapshot while the view is paused.
    newest: Option<TopSnapshot>,
    counts: SessionCounts,
    /// Selected group: a key, because rows move.
    selected: Option<PileupGroup>,
    /// Row of the selected group in the last snapshot that had it.
    row: usize,
    pub(super) filter: String,
    pub(super) order: GroupOrder,
    pub(super) is_paused: bool,
    pub(super) is_playing: bool,
    /// Time of the recording that the source has not answered with yet.
    awaited: Option<BootTime>,
    pub(super) page: TopPage,
    pub(super) input: Option<InputLine>,
    /// Result of the last key.
    pub(super) message: Option<String>,
    /// Error of the source since its last answer.
    pub(super) error: Option<String>,
}

impl TopModel {
    /// Creates the state before the first snapshot.
    pub fn new(settings: TopSettings) -> Self {
        Self { settings, ..Self::default() }
    }

    /// Handles an event. Returns the action that it asks for.
    pub fn handle(&mut self, event: TopEvent) -> Option<TopEffect> {
        match event {
            TopEvent::Key(key) => return self.key(key),
            TopEvent::Tick => return self.tick(),
            TopEvent::Resized => return self.refresh_text().or(Some(TopEffect::Redraw)),
            TopEvent::Snapshot(snapshot) => self.take(*snapshot),
            TopEvent::Sockets { filter, lines } => self.fill(&filter, false, lines, None),
            TopEvent::Plan { filter, lines, count, at } => self.fill(&filter, true, lines, Some((count, at))),
            TopEvent::Failed(error) => {
                self.awaited = None;
                self.is_playing = false;
                if let TopPage::Text(text) = &mut self.page {
                    text.lines.get_or_insert_default();
                }
                self.error = Some(error);
            }
        }
        None
    }

    /// Returns the groups that match the filter, in order.
    pub(super) fn groups(&self) -> Vec<&ReportedGroup> {
        let Some(TopSnapshot { report, .. }) = &self.shown else { return Vec::new() };
        let wanted = self.filter.to_lowercase();
        let matches = |pileup: &Pileup| {
            wanted.is_empty()
                || format!("{} {}", class_label(pileup), group_name(pileup)).to_lowercase().contains(&wanted)
        };
        let mut groups: Vec<_> = report.groups.iter().filter(|group| matches(&group.pileup)).collect();
        // The report has the most urgent first, and the sort keeps that order among equals.
        match self.order {
            GroupOrder::Urgency => {}
            GroupOrder::Sockets => groups.sort_by_key(|group| std::cmp::Reverse(group.pileup.count)),
            GroupOrder::Growth => {
                let growth = |group: &ReportedGroup| self.growth(&group.pileup).unwrap_or(f64::NEG_INFINITY);
                groups.sort_by(|one, other| growth(other).total_cmp(&growth(one)));
            }
            GroupOrder::Age => groups.sort_by_key(|group| group.pileup.onset.first_stuck),
            GroupOrder::Name => groups.sort_by_key(|group| group_name(&group.pileup)),
        }
        groups
    }

    /// Returns the position of the selected group among [`TopModel::groups`].
    pub(super) fn position(&self) -> Option<usize> {
        let selected = self.selected.as_ref()?;
        self.groups().iter().position(|group| group.pileup.group == *selected)
    }

    /// Returns the selected group.
    pub(super) fn selected(&self) -> Option<&Pileup> {
        let position = self.position()?;
        self.groups().get(position).map(|group| &group.pileup)
    }

    /// Returns the next command for the selected group, which asks the same agent.
    pub(super) fn command(&self) -> Option<String> {
        let command = self.selected()?.command();
        Some(with_options(&command, &self.settings.agent_options).into_owned())
    }

    /// Returns the graph and growth of a group.
    pub(super) fn trend(&self, pileup: &Pileup, width: usize) -> RowTrend {
        let at = self.shown.as_ref().map_or(BootTime::default(), |shown| shown.report.at);
        let growth = if pileup.slope.is_none() { self.growth(pileup).map(growth_text) } else { None };
        RowTrend { graph: self.counts.graph(pileup, at, width), growth }
    }

    /// Returns the growth of a group: that of the agent, or else that of the session.
    fn growth(&self, pileup: &Pileup) -> Option<f64> {
        pileup.slope.map(|slope| slope.per_second).or_else(|| self.counts.growth(&pileup.group))
    }

    /// Whether the groups come from a recording.
    pub(super) fn recording(&self) -> Option<(BootTime, BootTime)> {
        match self.shown.as_ref()?.source {
            SourceState::Recording { begin, end, .. } => Some((begin, end)),
            SourceState::Agent | SourceState::Scans(_) => None,
        }
    }

    fn take(&mut self, snapshot: TopSnapshot) {
        self.error = None;
        self.awaited = self.awaited.filter(|awaited| *awaited != snapshot.report.at);
        // In a recording, a screen depends only on the time.
        if matches!(snapshot.source, SourceState::Recording { .. }) {
            self.counts = SessionCounts::default();
        } else {
            self.counts.add(&snapshot.report);
        }
        if self.is_paused {
            self.newest = Some(snapshot);
            return;
        }
        self.shown = Some(snapshot);
        let (before, selected) = (self.selected.clone(), self.selected_name());
        if before.is_some() && selected.is_none() && self.filter.is_empty() {
            self.message = Some("the selected group has ended; another one is selected".to_owned());
        }
        self.settle();
    }

    fn selected_name(&self) -> Option<String> {
        self.selected().map(group_name)
    }

    /// Keeps the selection on its group. If that is gone, selects the group that is now in its row.
    fn settle(&mut self) {
        if let Some(position) = self.position() {
            self.row = position;
            return;
        }
        let groups = self.groups();
        let row = self.row.min(groups.len().saturating_sub(1));
        let selected = groups.get(row).map(|group| group.pileup.group.clone());
        (self.row, self.selected) = (row, selected);
    }

    /// Selects the group in a row.
    fn select(&mut self, row: usize) {
        let groups = self.groups();
        let row = row.min(groups.len().saturating_sub(1));
        let selected = groups.get(row).map(|group| group.pileup.group.clone());
        (self.row, self.selected) = (row, selected);
    }

    fn tick(&mut self) -> Option<TopEffect> {
        let (_, end) = self.recording().filter(|_| self.is_playing && self.awaited.is_none())?;
        let at = self.shown.as_ref()?.report.at;
        if at >= end {
            self.is_playing = false;
            return None;
        }
        Some(self.seek(at + STEP))
    }

    /// Asks for another time of the recording.
    fn seek(&mut self, to: BootTime) -> TopEffect {
        let (begin, end) = self.recording().unwrap_or_default();
        let to = to.clamp(begin, end.max(begin));
        self.awaited = Some(to);
        TopEffect::Ask(TopRequest::Seek(to))
    }

    /// Moves in the recording by a step.
    fn step(&mut self, step: Duration, is_back: bool) -> Option<TopEffect> {
        self.recording()?;
        // Keys can be faster than the source.
        let at = self.awaited.or_else(|| self.shown.as_ref().map(|shown| shown.report.at))?;
        self.is_playing = false;
        Some(self.seek(if is_back {
            BootTime(at.0.saturating_sub(closewait_engine::time::nanos(step)))
        } else {
            at + step
        }))
    }

    fn key(&mut self, key: TopKey) -> Option<TopEffect> {
        self.message = None;
        if let TopKey::Control(character) = key {
            return match character {
                'c' => Some(TopEffect::Quit),
                'z' => Some(TopEffect::Suspend),
                'l' => Some(TopEffect::Redraw),
                _ => None,
            };
        }
        if self.input.is_some() {
            return self.type_key(key);
        }
        match &mut self.page {
            TopPage::Groups => self.groups_key(key),
            TopPage::Help { offset } => {
                if matches!(key, TopKey::Char('q' | '?') | TopKey::Escape) {
                    self.page = TopPage::Groups;
                } else {
                    scroll(offset, key);
                }
                None
            }
            TopPage::Text(_) => self.text_key(key),
        }
    }

    fn groups_key(&mut self, key: TopKey) -> Option<TopEffect> {
        match key {
            TopKey::Char('q') => return Some(TopEffect::Quit),
            TopKey::Char('?') => self.page = TopPage::Help { offset: 0 },
            TopKey::Up | TopKey::Char('k') => self.select(self.row.saturating_sub(1)),
            TopKey::Down | TopKey::Char('j') => self.select(self.row + 1),
            TopKey::PageUp => self.select(self.row.saturating_sub(PAGE)),
            TopKey::PageDown => self.select(self.row + PAGE),
            TopKey::Home | TopKey::Char('g') => self.select(0),
            TopKey::End | TopKey::Char('G') => self.select(usize::MAX),
            TopKey::Char('/') => {
                self.input = Some(InputLine { purpose: InputPurpose::Filter, text: self.filter.clone() });
            }
            TopKey::Escape => {
                self.filter.clear();
                self.settle();
            }
            TopKey::Char('s') => {
                self.order = self.order.next();
                self.settle();
                self.message = Some(format!("sorted by {}", self.order.name()));
            }
            TopKey::Char('p' | ' ') if self.recording().is_some() => return self.play(),
            TopKey::Char('p' | ' ') => self.pause(),
            TopKey::Left => return self.step(STEP, true),
            TopKey::Right => return self.step(STEP, false),
            TopKey::Char('[') => return self.step(LONG_STEP, true),
            TopKey::Char(']') => return self.step(LONG_STEP, false),
            TopKey::Char('t') if self.recording().is_some() => {
                self.input = Some(InputLine { purpose: InputPurpose::Time, text: String::new() });
            }
            TopKey::Char('t') => {
                self.message = Some("only a recording has other times: closewait top --replay FILE".to_owned());
            }
            TopKey::Char('r') => return Some(TopEffect::Ask(TopRequest::Refresh)),
            TopKey::Char('y') => {
                let command = self.command()?;
                self.message = Some(format!("sent to the clipboard: {command}"));
                return Some(TopEffect::Copy(command));
            }
            TopKey::Enter => return self.open(false),
            TopKey::Char('K') if self.recording().is_some() => {
                self.message = Some("the sockets of a recording cannot be destroyed".to_owned());
            }
            TopKey::Char('K') => return self.open(true),
            TopKey::Char(_) | TopKey::Control(_) | TopKey::Backspace => {}
        }
        None
    }

    /// Freezes the screen, or shows the newest snapshot.
    fn pause(&mut self) {
        self.is_paused = !self.is_paused;
        if let Some(newest) = self.newest.take().filter(|_| !self.is_paused) {
            self.shown = Some(newest);
            self.settle();
        }
    }

    /// Starts or stops the recording. From its end, it plays again.
    fn play(&mut self) -> Option<TopEffect> {
        let ((begin, end), at) = (self.recording()?, self.shown.as_ref()?.report.at);
        self.is_playing = !self.is_playing;
        (self.is_playing && at >= end).then(|| self.seek(begin))
    }

    /// Opens the sockets of the selected group, or the plan to destroy them.
    fn open(&mut self, is_plan: bool) -> Option<TopEffect> {
        let pileup = self.selected()?;
        let older_than = self.shown.as_ref().filter(|_| is_plan).map(|shown| shown.report.stuck_after);
        let (filter, title) = (filter_of(pileup, older_than), group_name(pileup));
        let is_wide = filter.pids.is_empty() && filter.ports.is_empty() && filter.peers.is_empty();
        if is_plan && is_wide {
            self.message = Some("no filter selects only this group".to_owned());
            return None;
        }
        let text = SocketText { filter, title, lines: None, offset: 0, planned: None, is_plan };
        self.page = TopPage::Text(Box::new(text));
        self.refresh_text()
    }

    /// Asks for the text of the page again.
    fn refresh_text(&self) -> Option<TopEffect> {
        let TopPage::Text(text) = &self.page else { return None };
        let SocketText { filter, is_plan, .. } = text.as_ref();
        let filter = filter.clone();
        Some(TopEffect::Ask(if *is_plan { TopRequest::Plan(filter) } else { TopRequest::Sockets(filter) }))
    }

    /// Shows the answer to the request of the current page; the answer to an earlier one is dropped.
    fn fill(&mut self, of: &Filter, of_plan: bool, answered: Vec<String>, plan: Option<(usize, BootTime)>) {
        if let TopPage::Text(text) = &mut self.page
            && text.filter == *of
            && text.is_plan == of_plan
        {
            (text.lines, text.planned) = (Some(answered), plan);
            self.error = None;
            // The number that the user types has to be that of the shown plan.
            self.input = plan
                .filter(|(count, _)| *count > 0)
                .map(|_| InputLine { purpose: InputPurpose::Count, text: String::new() });
        }
    }

    #[expect(clippy::wildcard_enum_match_arm, reason = "most keys have no meaning here")]
    fn text_key(&mut self, key: TopKey) -> Option<TopEffect> {
        let TopPage::Text(text) = &mut self.page else { return None };
        match key {
            TopKey::Char('q') | TopKey::Escape => self.page = TopPage::Groups,
            TopKey::Char('r') => return self.refresh_text(),
            TopKey::Char('y') if text.is_plan => {
                let command = kill_command(&text.filter, &self.settings.agent_options);
                self.message = Some(format!("sent to the clipboard: {command}"));
                return Some(TopEffect::Copy(command));
            }
            other => {
                scroll(&mut text.offset, other);
                text.offset = text.offset.min(text.lines.as_ref().map_or(0, |lines| lines.len().saturating_sub(1)));
            }
        }
        None
    }

    #[expect(clippy::wildcard_enum_match_arm, reason = "most keys have no meaning here")]
    fn type_key(&mut self, key: TopKey) -> Option<TopEffect> {
        let InputLine { purpose, text } = self.input.as_mut()?;
        let purpose = *purpose;
        match key {
            TopKey::Char('y') if purpose == InputPurpose::Count => return self.text_key(key),
            TopKey::Char(character) if !is_harmful(character) && text.chars().count() < MAX_INPUT => {
                text.push(character)
            }
            TopKey::Backspace => {
                text.pop();
            }
            TopKey::Escape => {
                self.input = None;
                match purpose {
                    InputPurpose::Filter => self.filter.clear(),
                    InputPurpose::Count => self.page = TopPage::Groups,
                    InputPurpose::Time => {}
                }
            }
            TopKey::Enter => return self.enter(purpose),
            other if purpose == InputPurpose::Count => return self.text_key(other),
            _ => {}
        }
        if let Some(InputLine { purpose: InputPurpose::Filter, text }) = &self.input {
            self.filter.clone_from(text);
        }
        self.settle();
        None
    }

    /// Uses the typed text.
    fn enter(&mut self, purpose: InputPurpose) -> Option<TopEffect> {
        let typed = self.input.take()?.text;
        match purpose {
            InputPurpose::Filter => None,
            InputPurpose::Time => {
                let ((begin, _), anchor) = (self.recording()?, self.shown.as_ref()?.anchor);
                match parse_position(&typed, begin, anchor) {
                    Ok(to) => Some(self.seek(to)),
                    Err(why) => {
                        self.message = Some(why);
                        None
                    }
                }
            }
            InputPurpose::Count => {
                let TopPage::Text(text) = &self.page else { return None };
                let (filter, (planned, at)) = (text.filter.clone(), text.planned?);
                self.page = TopPage::Groups;
                match u32::try_from(planned) {
                    Ok(count) if typed.trim() == planned.to_string() => Some(TopEffect::Kill { filter, count, at }),
                    Ok(_) | Err(_) => {
                        self.message = Some(format!("nothing changed: {planned} was not typed"));
                        None
                    }
                }
            }
        }
    }
}
