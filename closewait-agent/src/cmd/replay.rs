//! `closewait replay`.

use std::{
    io::{self, Write},
    path::Path,
    thread,
};

use anyhow::Context as _;

use super::{NOT_WRITTEN, color, sink};
use crate::{
    cli::{self, EventsArg, Speed},
    clock::{self, TimeAnchor},
    recording::{Item, Player, RecordingEnd, RecordingPart, RecordingSource, Shown},
    sink::{
        Numbering, Sink,
        text::{TextStyle, histogram_line},
    },
};
use closewait_engine::time::BootTime;

/// Approximate limit of waiting output lines, bytes, for any recording.
const MAX_WAITING_BYTES: usize = 16 << 20;

/// Plays a recording: prints what `run` has printed.
///
/// # Errors
///
/// If the recording cannot be read or standard output cannot be written.
pub(super) fn replay(args: &cli::ReplayArgs) -> anyhow::Result<()> {
    let shown = args.file.display();
    let mut source = open(&args.file, args.last.map_or(RecordingPart::All, RecordingPart::Last))?;
    let events = args.events.unwrap_or(EventsArg::default_for(args.shape.output));
    let sink = sink(args.shape, events, TextStyle::dated(color(args.shape)));
    let mut lines = ReplayedLines::new(sink, io::stdout().lock());
    let played = play(&mut source, args.speed, &mut lines);
    // Shows what was played before a failure, too.
    lines.end().context(NOT_WRITTEN)?;
    report_end(played.with_context(|| format!("playing {shown} failed"))?, &args.file);
    Ok(())
}

/// Opens a recording.
pub(super) fn open(path: &Path, part: RecordingPart) -> anyhow::Result<RecordingSource> {
    RecordingSource::open(path, part)
}

/// Reason why a recording in which no engine began is unusable.
pub(super) const NO_EVENT: &str =
    "the recording has no event\nhint: record again; the agent was killed at its start, or the file was cut";

/// Plays all items. Returns the way the recording ends.
fn play(
    source: &mut RecordingSource,
    speed: Speed,
    lines: &mut ReplayedLines<impl Write>,
) -> anyhow::Result<Option<RecordingEnd>> {
    let (mut player, mut pace) = (Player::default(), Playback { speed, began: None });
    let shown_from = source.shown_from();
    while let Some(item) = source.next() {
        source.take_notes().iter().for_each(|note| log::warn!("{note}"));
        let item = item?;
        match &item {
            Item::Began { at, config } => {
                pace.began = Some((*at, clock::now()));
                lines.numbering.continue_on(&config.host);
                lines.is_muted = shown_from.is_some();
            }
            Item::Time(now) => {
                lines.is_muted = shown_from.is_some_and(|from| player.anchor().wall(*now) < from);
                if let Some(due) = pace.due(*now) {
                    lines.flush().context(NOT_WRITTEN)?;
                    thread::sleep(due.since(clock::now()));
                }
            }
            Item::Segment(_)
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
            | Item::Anchored(_)
            | Item::HandedOut => {}
        }
        player.play(item, |shown, anchor| lines.show(shown, anchor))?;
    }
    let end = source.end();
    // A recording that was cut in its first frame is reported like any other that was cut.
    let cut = matches!(end, Some(RecordingEnd::Cut { at: 1.., .. }));
    anyhow::ensure!(player.engine().is_some() || cut, NO_EVENT);
    Ok(end)
}

/// Logs the way the recording ends.
pub(super) fn report_end(end: Option<RecordingEnd>, file: &Path) {
    if let Some(text) = end.and_then(|end| end_text(end, file)) {
        log::warn!("{text}");
    }
}

/// Describes an end that is not that of the agent.
pub(super) fn end_text(end: RecordingEnd, file: &Path) -> Option<String> {
    let file = file.display();
    match end {
        RecordingEnd::Stopped => None,
        RecordingEnd::Continued => Some(format!(
            "{file} ends here; the next segment of its directory continues it, if the agent could write one"
        )),
        RecordingEnd::Full => {
            Some(format!("{file} was full here; the agent continued without recording (run --record-max)"))
        }
        RecordingEnd::Unwritten => Some(format!(
            "{file} ends here, more could not be written: a disk was full, or took too long; the agent continued without recording"
        )),
        RecordingEnd::Unfinished => {
            Some(format!("{file} has no end: the agent was killed, could not write it, or still runs"))
        }
        RecordingEnd::Cut { at, skipped } => {
            Some(format!("{file} is cut at byte {at}: the last {skipped} bytes are no whole frame and were skipped"))
        }
    }
}

/// Schedule of a replay.
struct Playback {
    speed: Speed,
    /// Start of the recorded engine, and of this one.
    began: Option<(BootTime, BootTime)>,
}

impl Playback {
    /// Returns the time at which to play an item of `moment`; `None` to play it at once.
    fn due(&self, moment: BootTime) -> Option<BootTime> {
        let (Speed::Times(times), Some((recorded, here))) = (self.speed, self.began) else { return None };
        let after = moment.since(recorded).as_secs_f64() / times;
        // A moment beyond the range of the clock is never due.
        Some(std::time::Duration::try_from_secs_f64(after).map_or(BootTime(u64::MAX), |after| here + after))
    }
}

/// Output lines of a replay, dropped where the recorded agent dropped them.
struct ReplayedLines<W> {
    numbering: Numbering,
    sink: Box<dyn Sink>,
    to: W,
    /// Lines that the agent handed out last: written here, unless it dropped them.
    handed_out: Vec<u8>,
    /// Lines that the agent has not handed out yet.
    waiting: Vec<u8>,
    /// Whether events are before the part to show. Their numbers count.
    is_muted: bool,
}

impl<W: Write> ReplayedLines<W> {
    fn new(sink: Box<dyn Sink>, to: W) -> Self {
        Self { numbering: Numbering::default(), sink, to, handed_out: Vec::new(), waiting: Vec::new(), is_muted: false }
    }

    fn show(&mut self, shown: Shown<'_>, anchor: TimeAnchor) -> io::Result<()> {
        if self.is_muted {
            return Ok(());
        }
        match shown {
            Shown::Start(start) => self.sink.event(&self.numbering.start(start, anchor), &mut self.waiting)?,
            Shown::Finding(finding) => {
                if let Some((level, line)) = histogram_line(finding) {
                    log::log!(level, "{line}");
                }
                if self.sink.shows(finding) {
                    self.sink.event(&self.numbering.finding(finding, anchor), &mut self.waiting)?;
                }
                if self.waiting.len() > MAX_WAITING_BYTES {
                    return self.end();
                }
            }
            Shown::StillStuck(at, counts) => self.sink.still_stuck(at, counts, anchor, &mut self.waiting),
            Shown::HandedOut => {
                self.flush()?;
                self.handed_out = std::mem::take(&mut self.waiting);
            }
            Shown::Unwritten => self.handed_out.clear(),
        }
        Ok(())
    }

    /// Writes the lines that were handed out last: the agent has not dropped them.
    fn flush(&mut self) -> io::Result<()> {
        self.to.write_all(&self.handed_out)?;
        self.handed_out.clear();
        self.to.flush()
    }

    /// Writes the remaining lines at the end of the recording.
    fn end(&mut self) -> io::Result<()> {
        self.flush()?;
        self.handed_out = std::mem::take(&mut self.waiting);
        self.flush()
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn the_pace_is_that_of_the_recording_or_a_multiple_of_it() {
        let (began, here) = (BootTime(5_000_000_000), BootTime(90_000_000_000));
        let due = |speed, after| Playback { speed, began: Some((began, here)) }.due(began + after);
        let minute = Duration::from_secs(60);
        assert_eq!(due(Speed::Times(1.0), minute), Some(here + minute));
        assert_eq!(due(Speed::Times(0.5), minute), Some(here + 2 * minute));
        assert_eq!(due(Speed::Times(60.0), minute), Some(here + Duration::from_secs(1)));
        assert_eq!(due(Speed::Times(1e-300), minute), Some(BootTime(u64::MAX)));
        assert_eq!(due(Speed::Max, minute), None);
    }
}
