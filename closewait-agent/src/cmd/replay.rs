//! `closewait replay`.

use std::{
    io::{self, Write},
    path::Path,
    thread,
};

use anyhow::Context as _;

use super::{color, sink};
use crate::{
    cli::{self, Speed},
    clock::{self, TimeAnchor},
    recording::{self, Item, Player, Reader, RecordingEnd, Shown},
    sink::{Numbering, Sink, text::histogram_line},
};
use closewait_engine::time::BootTime;

/// Lines that wait to be written are at most about so many bytes, whatever a recording says.
const MAX_WAITING_BYTES: usize = 16 << 20;

/// Plays a recording: what `run` has printed comes out again.
///
/// # Errors
///
/// If the recording cannot be read or standard output cannot be written.
pub(super) fn replay(args: &cli::ReplayArgs) -> anyhow::Result<()> {
    let shown = args.file.display();
    let reader = open(&args.file)?;
    let mut lines = ReplayedLines::new(sink(args.shape.output, color(args.shape)), io::stdout().lock());
    let played = play(reader, args.speed, &mut lines);
    // What was played before it failed is shown too.
    lines.end().context("writing standard output failed")?;
    tell(played.with_context(|| format!("playing {shown} failed"))?, &args.file);
    Ok(())
}

/// A recording.
pub(super) fn open(path: &Path) -> anyhow::Result<Reader<Box<dyn io::Read>>> {
    let shown = path.display();
    let from = recording::open(path).with_context(|| format!("opening {shown} failed"))?;
    Reader::new(from).with_context(|| format!("playing {shown} failed"))
}

/// Why a recording in which no engine began tells nothing.
pub(super) const NOTHING: &str =
    "nothing that can be played is in it\nhint: was the agent killed at its start, or the file cut?";

/// Plays all that is there. Returns how it ends.
fn play(
    mut reader: Reader<impl io::Read>,
    speed: Speed,
    lines: &mut ReplayedLines<impl Write>,
) -> anyhow::Result<Option<RecordingEnd>> {
    let (mut player, mut pace) = (Player::default(), Playback { speed, began: None });
    for item in &mut reader {
        let item = item?;
        match &item {
            Item::Began { at, .. } => pace.began = Some((*at, clock::now())),
            Item::Time(now) => {
                if let Some(due) = pace.due(*now) {
                    lines.flush().context("writing standard output failed")?;
                    thread::sleep(due.since(clock::now()));
                }
            }
            Item::Started(_)
            | Item::Fact(_)
            | Item::Undecodable(_)
            | Item::Unwritten { .. }
            | Item::LogDropped { .. }
            | Item::ScanBegan
            | Item::Stopping
            | Item::Polled(_)
            | Item::Drained
            | Item::Anchored(_)
            | Item::HandedOut => {}
        }
        player.play(item, |shown, anchor| lines.show(shown, anchor))?;
    }
    let end = reader.end();
    // A recording that was cut in its first frame is reported as any other that was cut.
    let cut = matches!(end, Some(RecordingEnd::Cut { at: 1.., .. }));
    anyhow::ensure!(player.engine().is_some() || cut, NOTHING);
    Ok(end)
}

/// What is to be known of the end.
fn tell(end: Option<RecordingEnd>, file: &Path) {
    let file = file.display();
    match end {
        None | Some(RecordingEnd::Stopped) => {}
        Some(RecordingEnd::Full) => {
            log::warn!("{file} was full here; the agent continued without recording (run --record-max)")
        }
        Some(RecordingEnd::Unwritten) => log::warn!(
            "{file} ends here, more could not be written: a disk was full, or took too long; the agent continued without recording"
        ),
        Some(RecordingEnd::Unfinished) => {
            log::warn!("{file} has no end: the agent was killed, could not write it, or still runs")
        }
        Some(RecordingEnd::Cut { at, skipped }) => {
            log::warn!(
                "{file} is cut at byte {at}: the {skipped} bytes from there on are no whole frame and are skipped"
            );
        }
    }
}

/// Schedule of a replay.
struct Playback {
    speed: Speed,
    /// The engine that was recorded, and this one.
    began: Option<(BootTime, BootTime)>,
}

impl Playback {
    /// When what was at `moment` is due; `None` if that does not matter.
    fn due(&self, moment: BootTime) -> Option<BootTime> {
        let (Speed::Times(times), Some((recorded, here))) = (self.speed, self.began) else { return None };
        let after = moment.since(recorded).as_secs_f64() / times;
        // One that is further away than can be told is never due.
        Some(std::time::Duration::try_from_secs_f64(after).map_or(BootTime(u64::MAX), |after| here + after))
    }
}

/// Output lines of a replay, dropped where the recorded agent dropped them.
struct ReplayedLines<W> {
    numbering: Numbering,
    sink: Box<dyn Sink>,
    to: W,
    /// Handed out last: written, unless they were dropped.
    handed_out: Vec<u8>,
    /// Not handed out yet.
    waiting: Vec<u8>,
}

impl<W: Write> ReplayedLines<W> {
    fn new(sink: Box<dyn Sink>, to: W) -> Self {
        Self { numbering: Numbering::default(), sink, to, handed_out: Vec::new(), waiting: Vec::new() }
    }

    fn show(&mut self, shown: Shown<'_>, anchor: TimeAnchor) -> io::Result<()> {
        match shown {
            Shown::Start(start) => self.sink.event(&self.numbering.start(start, anchor), &mut self.waiting)?,
            Shown::Finding(finding) => {
                if let Some((level, line)) = histogram_line(finding) {
                    log::log!(level, "{line}");
                }
                self.sink.event(&self.numbering.finding(finding, anchor), &mut self.waiting)?;
                if self.waiting.len() > MAX_WAITING_BYTES {
                    return self.end();
                }
            }
            Shown::HandedOut => {
                self.flush()?;
                self.handed_out = std::mem::take(&mut self.waiting);
            }
            Shown::Unwritten => self.handed_out.clear(),
        }
        Ok(())
    }

    /// Nobody has dropped what was handed out last.
    fn flush(&mut self) -> io::Result<()> {
        self.to.write_all(&self.handed_out)?;
        self.handed_out.clear();
        self.to.flush()
    }

    /// Nothing comes any more.
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
