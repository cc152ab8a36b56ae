//! Source of the items of a recording: a file, or the segments of a flight recording as one.

use std::{
    collections::VecDeque,
    fs::{self, File},
    io::Read,
    path::Path,
    time::{Duration, SystemTime},
};

use anyhow::Context as _;

use super::{
    MissedInput, SegmentStart,
    folder::{numbers, open_folder, open_segment},
    name,
};
use crate::{
    clock::TimeAnchor,
    host::{error_text::in_one_line, in_time::in_time},
    recording::{
        Item, Reader, RecordingEnd, RecordingReadError,
        file::{self, FileError, OPEN_PATIENCE},
    },
};
use closewait_engine::{
    model::Host,
    text::{duration, harmless},
    time::BootTime,
};

/// Part of a recording to play.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RecordingPart {
    /// All of it.
    All,
    /// All since the last boot of the host: times before that are of another clock.
    Boot,
    /// The end: of a flight recording, the newest segment that can be played.
    End,
    /// The last part of this length; of a flight recording, from the newest segment that begins before it.
    Last(Duration),
}

/// Items of a recording, in order. Where a segment does not continue the one before, the engine begins again.
pub struct RecordingSource {
    kind: SourceKind,
    shown_from: Option<SystemTime>,
}

enum SourceKind {
    File(Reader<Box<dyn Read>>),
    Segments(Segments),
}

impl RecordingSource {
    /// Opens a recording: a file, or a directory with segments.
    ///
    /// # Errors
    ///
    /// If it cannot be opened, is no recording, or has no segment.
    pub fn open(path: &Path, part: RecordingPart) -> anyhow::Result<Self> {
        let opening = || format!("opening {} failed", path.display());
        let playing = || format!("playing {} failed", path.display());
        let kind = in_time(path, OPEN_PATIENCE, |path| fs::metadata(path).ok().map(|found| found.file_type()), drop);
        let kind = kind.map_err(FileError::from).with_context(opening)?;
        if kind.is_some_and(|kind| kind.is_dir()) {
            let folder = in_time(
                path,
                OPEN_PATIENCE,
                |path| open_folder(&path.components().collect::<std::path::PathBuf>()),
                drop,
            );
            let folder = folder.map_err(FileError::from).and_then(|opened| opened).with_context(opening)?;
            let (segments, shown_from) = Segments::open(folder, part).with_context(playing)?;
            return Ok(Self { kind: SourceKind::Segments(segments), shown_from });
        }
        let shown_from = match part {
            RecordingPart::Last(last) => {
                anyhow::ensure!(
                    kind.is_some_and(|kind| kind.is_file()),
                    "--last reads {} twice, and it is no file\nhint: copy it to a file first",
                    path.display()
                );
                let times =
                    RecordingTimes::of(Reader::new(file::open(path).with_context(opening)?).with_context(playing)?);
                times.end().and_then(|end| end.checked_sub(last))
            }
            RecordingPart::All | RecordingPart::Boot | RecordingPart::End => None,
        };
        let reader = Reader::new(file::open(path).with_context(opening)?).with_context(playing)?;
        Ok(Self { kind: SourceKind::File(reader), shown_from })
    }

    /// Returns the time from which on to show events; `None` to show all.
    pub const fn shown_from(&self) -> Option<SystemTime> {
        self.shown_from
    }

    /// Returns the number of bytes read so far.
    pub fn position(&self) -> u64 {
        match &self.kind {
            SourceKind::File(reader) => reader.position(),
            SourceKind::Segments(segments) => {
                segments.position + segments.current.as_ref().map_or(0, |current| current.reader.position())
            }
        }
    }

    /// Returns the way the recording ends; `None` before all items were read.
    pub fn end(&self) -> Option<RecordingEnd> {
        match &self.kind {
            SourceKind::File(reader) => reader.end(),
            SourceKind::Segments(segments) => segments.end.filter(|_| segments.is_at_end()),
        }
    }

    /// Returns the name of the last segment of an earlier run of the agent, if the part to show reaches back to it. A run begins
    /// with new state, so that a report is about the last one only.
    pub fn earlier_run(&self) -> Option<String> {
        let SourceKind::Segments(Segments { folder, .. }) = &self.kind else { return None };
        let numbers = numbers(folder).ok()?;
        let mut runs =
            numbers.iter().rev().filter_map(|number| Some((SegmentFirst::read(folder, *number)?.start.run, *number)));
        let (newest, _) = runs.next()?;
        let (_, number) = runs.find(|(run, _)| *run != newest)?;
        let end = times(folder, number).and_then(|times| times.end());
        let is_shown = self.shown_from.zip(end).is_none_or(|(from, end)| from <= end);
        is_shown.then(|| name(number))
    }

    /// Returns sentences about gaps and damage so far, each once.
    pub fn take_notes(&mut self) -> Vec<String> {
        match &mut self.kind {
            SourceKind::File(_) => Vec::new(),
            SourceKind::Segments(segments) => std::mem::take(&mut segments.notes),
        }
    }
}

impl Iterator for RecordingSource {
    type Item = Result<Item<'static>, RecordingReadError>;

    fn next(&mut self) -> Option<Self::Item> {
        match &mut self.kind {
            SourceKind::File(reader) => reader.next(),
            SourceKind::Segments(segments) => segments.next(),
        }
    }
}

/// Segment that is being read.
struct CurrentSegment {
    number: u64,
    reader: Reader<File>,
}

/// Segments of a directory, read as one recording.
struct Segments {
    folder: File,
    /// Numbers of the segments to read.
    numbers: VecDeque<u64>,
    current: Option<CurrentSegment>,
    /// First items of a segment, which were read already.
    first: VecDeque<Item<'static>>,
    /// Run and number of the segment before, if it was read to its end and announced another one.
    continued: Option<(u64, u64)>,
    run: Option<u64>,
    end: Option<RecordingEnd>,
    notes: Vec<String>,
    /// Number of bytes of earlier segments.
    position: u64,
}

impl Segments {
    /// Returns the segments of a part, and the time from which on to show events.
    fn open(folder: File, part: RecordingPart) -> anyhow::Result<(Self, Option<SystemTime>)> {
        let numbers: Vec<u64> = numbers(&folder).context("getdents failed\nhint: check that you may read it")?;
        anyhow::ensure!(
            !numbers.is_empty(),
            "it is a directory without a segment of a recording\nhint: give a directory that `closewait run --record DIR` wrote"
        );
        let (from, shown_from) = match part {
            RecordingPart::All => (0, None),
            RecordingPart::Boot => (first_of_boot(&folder, &numbers), None),
            RecordingPart::End => (newest_playable(&folder, &numbers), None),
            RecordingPart::Last(last) => {
                let times = numbers.iter().rev().find_map(|number| times(&folder, *number)?.end());
                let wanted = times.and_then(|end| end.checked_sub(last));
                let begins = |number: &u64| {
                    SegmentFirst::read(&folder, *number).map(|head| head.start.anchor.wall(head.start.at))
                };
                let covers = |number: &u64| begins(number).zip(wanted).is_some_and(|(begin, wanted)| begin <= wanted);
                (numbers.iter().rposition(covers).unwrap_or(0), wanted)
            }
        };
        let numbers = numbers.into_iter().skip(from).collect();
        let segments = Self {
            folder,
            numbers,
            current: None,
            first: VecDeque::new(),
            continued: None,
            run: None,
            end: None,
            notes: Vec::new(),
            position: 0,
        };
        Ok((segments, shown_from))
    }

    fn is_at_end(&self) -> bool {
        self.numbers.is_empty() && self.current.is_none() && self.first.is_empty()
    }

    /// Opens the next segment. Returns the error of the last one.
    fn open_next(&mut self, number: u64) -> Result<(), RecordingReadError> {
        let read = |source| RecordingReadError::Read { at: 0, source };
        let mut reader = Reader::new(open_segment(&self.folder, number).map_err(read)?)?;
        let (Some(Item::Segment(start)), Some(began)) = (reader.next().transpose()?, reader.next().transpose()?) else {
            self.end = reader.end();
            self.continued = None;
            self.note_cut(number);
            return Ok(());
        };
        let is_next = self.continued.take() == number.checked_sub(1).map(|before| (start.run, before));
        if is_next && start.missed.is_none() {
            reader.skip_checkpoint();
        } else {
            let is_same_run = self.run == Some(start.run);
            self.notes.extend(start.missed.filter(|_| is_same_run).map(|missed| gap_text(missed, &start)));
            self.first = VecDeque::from([Item::Segment(start.clone()), began]);
        }
        self.run = Some(start.run);
        self.current = Some(CurrentSegment { number, reader });
        Ok(())
    }

    /// Ends the segment that is being read.
    fn close(&mut self) {
        let Some(CurrentSegment { number, reader }) = self.current.take() else { return };
        self.position += reader.position();
        self.end = reader.end();
        let continues = self.end == Some(RecordingEnd::Continued);
        self.continued = self.run.filter(|_| continues).map(|run| (run, number));
        self.note_cut(number);
    }

    /// Notes that a segment is cut, unless it is the last one.
    fn note_cut(&mut self, number: u64) {
        if let Some(RecordingEnd::Cut { .. }) = self.end
            && !self.numbers.is_empty()
        {
            self.notes.push(format!("{} is cut: observations are missing before the next segment", name(number)));
        }
    }

    fn next(&mut self) -> Option<Result<Item<'static>, RecordingReadError>> {
        loop {
            if let Some(first) = self.first.pop_front() {
                return Some(Ok(first));
            }
            let (number, failed) = if let Some(current) = &mut self.current {
                match current.reader.next() {
                    Some(Ok(item)) => return Some(Ok(item)),
                    Some(Err(error)) => (current.number, Err(error)),
                    None => {
                        self.close();
                        continue;
                    }
                }
            } else {
                let number = self.numbers.pop_front()?;
                (number, self.open_next(number))
            };
            if let Err(error) = failed {
                self.close();
                (self.continued, self.end) = (None, None);
                if self.numbers.is_empty() {
                    return Some(Err(error));
                }
                // The next segment begins with a state of its own. The decoder's errors may quote the file.
                let error = harmless(in_one_line(error).as_bytes());
                self.notes.push(format!("{} is not played to its end: {error}", name(number)));
            }
        }
    }
}

fn gap_text(missed: MissedInput, start: &SegmentStart) -> String {
    let MissedInput { since, items } = missed;
    format!("{items} observations are missing, in {} before segment {}", duration(start.at.since(since)), start.number)
}

/// First items of a segment.
struct SegmentFirst {
    start: SegmentStart,
    host: Host,
}

impl SegmentFirst {
    /// Reads the first items of a segment; `None` if it has none.
    fn read(folder: &File, number: u64) -> Option<Self> {
        Self::read_and_go_on(folder, number).map(|(first, _)| first)
    }

    /// Reads the first items of a segment, and returns the reader of the rest.
    fn read_and_go_on(folder: &File, number: u64) -> Option<(Self, Reader<File>)> {
        let mut reader = Reader::new(open_segment(folder, number).ok()?).ok()?;
        match (reader.next()?.ok()?, reader.next()?.ok()?) {
            (Item::Segment(start), Item::Began { config, .. }) => {
                Some((Self { start: start.into_owned(), host: config.host.clone() }, reader))
            }
            _ => None,
        }
    }
}

/// Returns the place of the newest segment from which an engine can continue.
fn newest_playable(folder: &File, numbers: &[u64]) -> usize {
    let is_playable = |number: &u64| {
        SegmentFirst::read_and_go_on(folder, *number).is_some_and(|(first, mut reader)| {
            first.start.checkpoint.is_none() || matches!(reader.next(), Some(Ok(Item::Checkpoint(_))))
        })
    };
    numbers.iter().rposition(is_playable).unwrap_or(0)
}

/// Returns the place of the first segment of the last boot.
fn first_of_boot(folder: &File, numbers: &[u64]) -> usize {
    let heads = || {
        numbers
            .iter()
            .enumerate()
            .rev()
            .filter_map(|(place, number)| Some((place, SegmentFirst::read(folder, *number)?)))
    };
    let Some((_, last)) = heads().next() else { return 0 };
    let is_same = |head: &SegmentFirst| {
        let boots = head.host.boot.as_ref().zip(last.host.boot.as_ref());
        boots.map_or(head.start.run == last.start.run, |(one, other)| one == other)
    };
    heads().take_while(|(_, head)| is_same(head)).last().map_or(0, |(place, _)| place)
}

/// Times of a recording.
#[derive(Default)]
struct RecordingTimes {
    last: Option<BootTime>,
    anchor: Option<TimeAnchor>,
}

impl RecordingTimes {
    fn of(mut reader: Reader<impl Read>) -> Self {
        reader.skip_checkpoint();
        let mut times = Self::default();
        for item in reader.map_while(Result::ok) {
            match item {
                Item::Time(at) => times.last = times.last.max(Some(at)),
                Item::Anchored(anchor) => times.anchor = Some(anchor),
                Item::Segment(start) => (times.last, times.anchor) = (Some(start.at), Some(start.anchor)),
                Item::Began { .. }
                | Item::Checkpoint(_)
                | Item::Started(_)
                | Item::Fact(_)
                | Item::Undecodable(_)
                | Item::Unwritten { .. }
                | Item::LogDropped { .. }
                | Item::Refused { .. }
                | Item::Unexported { .. }
                | Item::Unrecorded { .. }
                | Item::ScanBegan
                | Item::Stopping
                | Item::Polled(_)
                | Item::Drained
                | Item::HandedOut => {}
            }
        }
        times
    }

    fn end(&self) -> Option<SystemTime> {
        Some(self.anchor?.wall(self.last?))
    }
}

/// Returns the times of a segment; `None` if it has none.
fn times(folder: &File, number: u64) -> Option<RecordingTimes> {
    Some(RecordingTimes::of(Reader::new(open_segment(folder, number).ok()?).ok()?))
}

impl std::fmt::Debug for RecordingSource {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("RecordingSource").field("position", &self.position()).finish_non_exhaustive()
    }
}
