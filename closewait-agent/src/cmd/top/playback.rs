//! Groups of a recording at any of its times.

use std::{
    path::{Path, PathBuf},
    time::Duration,
};

use anyhow::Context as _;

use super::{lines, list_shape};
use crate::{
    clock::TimeAnchor,
    cmd::replay::{NO_EVENT, end_text, open},
    host::error_text::in_one_line,
    recording::{Item, Player, RecordingPart, RecordingSource},
    sink::answer::AnswerCollector,
    tui::{SourceState, TopEvent, TopRequest, TopSnapshot, TopSource, parse_position},
};
use closewait_engine::{
    Engine,
    snapshot::query::{Filter, Query},
    text::harmless,
    time::BootTime,
};

/// Recording, played up to a time. A jump back plays it again from the start: the engine has no way back, and a state at any
/// other time would take memory for each.
pub(super) struct RecordingView {
    path: PathBuf,
    source: RecordingSource,
    player: Player,
    /// Item behind the time, already read.
    next: Option<Item<'static>>,
    at: BootTime,
    begin: BootTime,
    end: BootTime,
    /// Relation of the clocks in the whole recording.
    anchor: TimeAnchor,
    /// Sentences about the end of the recording.
    notes: Vec<String>,
}

impl RecordingView {
    /// Opens a recording at a time that the user wrote; without one, at its end.
    pub(super) fn open(path: &Path, at: Option<&str>) -> anyhow::Result<Self> {
        let mut source = open(path, RecordingPart::Boot)?;
        let (mut begin, mut end, mut anchor, mut notes) = (None, BootTime::default(), None, Vec::new());
        for item in &mut source {
            match item {
                Ok(Item::Began { at, .. }) => {
                    begin.get_or_insert(at);
                    end = end.max(at);
                }
                Ok(Item::Time(at)) => end = end.max(at),
                Ok(Item::Anchored(read)) => {
                    anchor.get_or_insert(read);
                }
                Ok(_) => {}
                Err(error) => {
                    notes.push(format!(
                        "the recording is played only until here: {}",
                        harmless(in_one_line(error).as_bytes())
                    ));
                    break;
                }
            }
        }
        notes.extend(source.take_notes());
        notes.extend(source.end().and_then(|end| end_text(end, path)));
        let begin = begin.with_context(|| format!("playing {} failed: {NO_EVENT}", path.display()))?;
        let anchor = anchor.unwrap_or_else(|| Player::default().anchor());
        let wanted = at.map(|at| parse_position(at, begin, anchor)).transpose();
        let at = wanted.map_err(|why| anyhow::anyhow!("--at: {why}"))?.unwrap_or(end).clamp(begin, end);
        let (source, player) = (open(path, RecordingPart::Boot)?, Player::default());
        let mut playback =
            Self { path: path.to_owned(), source, player, next: None, at: begin, begin, end, anchor, notes };
        playback.play(at)?;
        Ok(playback)
    }

    /// Plays up to a time.
    fn play(&mut self, to: BootTime) -> anyhow::Result<()> {
        let failed = |path: &Path| format!("playing {} failed", path.display());
        if to < self.at {
            (self.source, self.player, self.next) = (open(&self.path, RecordingPart::Boot)?, Player::default(), None);
        }
        self.at = to;
        loop {
            let item = match self.next.take().map(Ok).or_else(|| self.source.next()) {
                Some(Ok(item)) => item,
                // A note has the damage.
                Some(Err(_)) | None => return Ok(()),
            };
            // Facts that follow a time can be later than it by the length of a pause between two times.
            if matches!(&item, Item::Time(at) if *at > to) {
                self.next = Some(item);
                return Ok(());
            }
            self.player.play(item, |_shown, _anchor| Ok(())).with_context(|| failed(&self.path))?;
        }
    }

    fn engine(&self) -> anyhow::Result<&Engine> {
        self.player.engine().with_context(|| format!("playing {} failed: {NO_EVENT}", self.path.display()))
    }

    pub(super) fn snapshot(&self) -> anyhow::Result<TopSnapshot> {
        let name = self.path.file_name().unwrap_or(self.path.as_os_str());
        let name = harmless(name.as_encoded_bytes());
        let source = SourceState::Recording { name, begin: self.begin, end: self.end };
        let notes = if self.at >= self.end { self.notes.clone() } else { Vec::new() };
        Ok(TopSnapshot { report: self.engine()?.report(self.at), anchor: self.anchor, source, notes })
    }

    fn sockets(&self, filter: &Filter, width: u16) -> anyhow::Result<Vec<String>> {
        let shape = list_shape(width);
        let query = Query::List { filter: filter.clone(), content: shape.content() };
        let answer = AnswerCollector::new(&shape).scanned(self.engine()?, &query, self.at, self.anchor)?;
        lines(answer.listing()?, &shape)
    }
}

impl TopSource for RecordingView {
    fn interval(&self) -> Option<Duration> {
        None
    }

    fn answer(&mut self, request: TopRequest, width: u16) -> TopEvent {
        let answer = match request {
            TopRequest::Refresh => self.snapshot().map(|snapshot| TopEvent::Snapshot(Box::new(snapshot))),
            TopRequest::Seek(to) => {
                self.play(to).and_then(|()| self.snapshot()).map(|snapshot| TopEvent::Snapshot(Box::new(snapshot)))
            }
            TopRequest::Sockets(filter) => {
                self.sockets(&filter, width).map(|lines| TopEvent::Sockets { filter, lines })
            }
            TopRequest::Plan(_) => Err(anyhow::anyhow!("the sockets of a recording cannot be destroyed")),
        };
        answer.unwrap_or_else(|error| TopEvent::Failed(in_one_line(error)))
    }
}
