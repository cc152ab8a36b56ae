//! Event loop's side of a flight recording.

use std::{borrow::Cow, io, path::Path, time::Duration};

use anyhow::Context as _;

use super::{
    MissedInput, Retention, SegmentStart,
    folder::SegmentFolder,
    thread::{PIECE_HEAD, SegmentHead, SegmentPiece, SegmentWriter, SharedState},
};
use crate::{
    clock::{self, TimeAnchor},
    host::{confine, error_text::with_hints},
    recording::{Item, failure::write_failed},
    sink::{Backlog, Mark, Settings, Writer},
};
use closewait_engine::{Checkpoint, Config, text::duration, time::BootTime};

/// Size of items at which a piece is sent to the thread, bytes.
const PIECE_BYTES: usize = 64 * 1024;
/// Maximum size of pieces that wait for the thread, bytes. They wait while it writes a checkpoint, too.
const BACKLOG: usize = if cfg!(test) { 1 << 20 } else { 32 << 20 };
/// Maximum time that the start of the agent waits for the first write, to report a full disk.
const START_PATIENCE: Duration = Duration::from_secs(1);
/// First and longest interval of attempts to record again.
const RETRY_INTERVALS: (Duration, Duration) =
    if cfg!(test) { (Duration::ZERO, Duration::ZERO) } else { (Duration::from_secs(10), Duration::from_secs(60)) };

/// Recorder of segments in a directory.
#[derive(Debug)]
pub struct FlightRecorder {
    writer: Writer,
    shared: SharedState,
    retention: Retention,
    config: Config,
    run: u64,
    /// Number of the next segment, if none was deleted by others.
    number: u64,
    /// SegmentPiece of items that is not sent yet.
    piece: Vec<u8>,
    /// Number of items in it.
    count: u32,
    /// Time at which the current segment ends.
    turn: BootTime,
    gap: Option<RecordGap>,
    /// Number of items that were dropped in earlier gaps.
    dropped: u64,
}

/// Time in which nothing can be recorded.
#[derive(Debug)]
struct RecordGap {
    missed: MissedInput,
    retry: BootTime,
    interval: Duration,
    /// Whether a new segment was sent, and it is not known yet whether it can be written.
    tries: bool,
    /// Reason, as it was reported last.
    reported: String,
}

impl FlightRecorder {
    /// Begins a recording of an engine that begins at `began`, in a directory that belongs to this user. Continues after
    /// the segments of an earlier agent.
    ///
    /// # Errors
    ///
    /// If the directory cannot be written, or another agent records to it.
    pub fn create(path: &Path, retention: Retention, config: &Config, began: BootTime) -> anyhow::Result<Self> {
        let work = || {
            let folder = SegmentFolder::open(path, retention)?;
            for name in &folder.foreign {
                log::warn!("{name} in the directory of the recording is no segment of this user, and stays as it is");
            }
            let (shared, number) = (SharedState::default(), folder.next());
            // The thread starts before the agent drops its capabilities, and needs none: the directory is its user's.
            let at_start = confine::drop_all_capabilities;
            let settings = Settings { name: "closewait-rec", limit: BACKLOG, watches_reader: false, at_start };
            let writer = Writer::start(SegmentWriter::new(folder, shared.clone()), settings).context(
                "starting the thread that writes failed\nhint: check the limit on processes (ulimit -u, TasksMax=)",
            )?;
            let anchor = TimeAnchor::now();
            let run = u64::from(anchor).saturating_add(began.0);
            let (config, piece) = (config.clone(), new_piece());
            let mut flight = Self {
                writer,
                shared,
                retention,
                config,
                run,
                number,
                piece,
                count: 0,
                turn: began,
                gap: None,
                dropped: 0,
            };
            flight.begin(began, anchor, None);
            if !flight.writer.mark().wait(START_PATIENCE) {
                log::warn!("the recording is late: its directory does not take the first bytes; the agent continues");
            }
            let failure = flight.shared.lock().failure.take();
            failure.map_or(Ok(flight), |error| Err(write_failed(error)))
        };
        work().with_context(|| format!("recording to {} failed", path.display()))
    }

    /// Adds an item, or drops and counts it while nothing can be recorded.
    pub(in crate::recording) fn item(&mut self, item: &Item<'_>) -> anyhow::Result<()> {
        if let Some(gap) = self.gap.as_mut().filter(|gap| !gap.tries) {
            gap.missed.items += 1;
            return Ok(());
        }
        item.encode(&mut self.piece).context(NO_FORM)?;
        self.count += 1;
        if self.piece.len() >= PIECE_BYTES {
            self.flush();
        }
        Ok(())
    }

    /// Hands all pending items to the thread.
    pub(in crate::recording) fn flush(&mut self) {
        if self.count == 0 {
            return;
        }
        let (mut piece, count) = (std::mem::replace(&mut self.piece, new_piece()), std::mem::take(&mut self.count));
        if let Some(to) = piece.get_mut(1..PIECE_HEAD) {
            to.copy_from_slice(&count.to_le_bytes());
        }
        if self.writer.send(piece) == Backlog::Full {
            let waiting = self.writer.waiting_bytes();
            self.fail(behind(waiting), clock::now());
            if let Some(gap) = &mut self.gap {
                gap.missed.items += u64::from(count);
            }
        }
    }

    pub(in crate::recording) fn mark(&self) -> Option<Mark> {
        self.gap.is_none().then(|| self.writer.mark())
    }

    /// Takes over the state of the thread at `now`. Returns whether the recording has failed since the last call.
    pub(in crate::recording) fn has_failed(&mut self, now: BootTime) -> bool {
        let (failure, is_recording) = {
            let mut state = self.shared.lock();
            (state.failure.take(), state.is_recording && state.heads.is_empty())
        };
        let had_gap = self.gap.is_some();
        if let Some(error) = failure {
            self.fail(error, now);
        } else if let Some(RecordGap { missed, .. }) = self.gap.take_if(|gap| is_recording && gap.tries) {
            self.dropped = self.dropped.saturating_add(missed.items);
            let (items, lasted) = (missed.items, duration(now.since(missed.since)));
            log::warn!("the recording continues after {lasted}, in which {items} observations were dropped");
        }
        !had_gap && self.gap.is_some()
    }

    /// Returns the number of items that were dropped so far.
    pub(in crate::recording) fn dropped(&self) -> u64 {
        let in_gap = self.gap.as_ref().map_or(0, |gap| gap.missed.items);
        self.dropped.saturating_add(in_gap).saturating_add(self.shared.lock().dropped)
    }

    /// Whether all items are dropped, until a new segment is due.
    pub(in crate::recording) fn is_dropping(&self) -> bool {
        self.gap.as_ref().is_some_and(|gap| !gap.tries)
    }

    /// Whether a new segment is due at `now`.
    pub(in crate::recording) fn is_due(&self, now: BootTime) -> bool {
        match &self.gap {
            Some(gap) => !gap.tries && gap.retry <= now,
            None => self.turn <= now || self.shared.lock().input_bytes >= self.retention.segment_bytes(),
        }
    }

    #[cfg(test)]
    pub(in crate::recording) fn turn_soon(&mut self) {
        self.turn = BootTime(0);
    }

    /// Begins a segment at `now` with the state of the engine.
    pub(in crate::recording) fn turn(&mut self, now: BootTime, anchor: TimeAnchor, checkpoint: Checkpoint) {
        self.flush();
        self.begin(now, anchor, Some(checkpoint));
    }

    fn begin(&mut self, at: BootTime, anchor: TimeAnchor, checkpoint: Option<Checkpoint>) {
        if let Some(gap) = &mut self.gap {
            gap.missed.items += std::mem::take(&mut self.shared.lock().dropped);
        }
        let start = SegmentStart {
            run: self.run,
            number: self.number,
            at,
            anchor,
            version: env!("CARGO_PKG_VERSION").to_owned(),
            checkpoint: checkpoint.as_ref().map(|_| Checkpoint::VERSION),
            missed: self.gap.as_ref().map(|gap| gap.missed),
        };
        let first = [Item::Segment(Cow::Owned(start)), Item::Began { config: Cow::Borrowed(&self.config), at }];
        let mut items = Vec::new();
        let encoded = first.iter().try_for_each(|item| item.encode(&mut items));
        if let Err(error) = encoded {
            // These items have a form, as those of every file.
            self.fail(io::Error::other(error), at);
            return;
        }
        self.number += 1;
        self.turn = at + self.retention.segment_time();
        if let Some(gap) = &mut self.gap {
            gap.tries = true;
        }
        self.shared.lock().heads.push_back(SegmentHead { items, checkpoint, continues: self.gap.is_none() });
        if self.writer.send(vec![SegmentPiece::Segment as u8]) == Backlog::Full {
            self.shared.lock().heads.pop_back();
            self.fail(behind(self.writer.waiting_bytes()), at);
        }
    }

    /// Drops all input from `now` on, until a new segment can be written. Reports a reason that is new.
    fn fail(&mut self, error: io::Error, now: BootTime) {
        let (first, longest) = RETRY_INTERVALS;
        self.piece.truncate(PIECE_HEAD);
        let lost = u64::from(std::mem::take(&mut self.count));
        let (text, again) = (with_hints(&write_failed(error)), "; the recording continues by itself");
        let (mut missed, interval) = match &self.gap {
            Some(gap) => {
                if gap.reported != text {
                    log::error!("the recording still has a gap: {text}{again}");
                }
                (gap.missed, (gap.interval * 2).min(longest))
            }
            None => {
                log::error!("the recording has a gap from here, the agent continues: {text}{again}");
                (MissedInput { since: now, items: 0 }, first)
            }
        };
        missed.items += lost;
        self.gap = Some(RecordGap { missed, retry: now + interval, interval, tries: false, reported: text });
    }

    /// Writes all pending items and the end; waits for the thread, at most for `patience`.
    pub(in crate::recording) fn finish(mut self, patience: Duration) -> anyhow::Result<()> {
        self.flush();
        self.writer.send_last(vec![SegmentPiece::End as u8]);
        let Self { writer, shared, gap, .. } = self;
        writer.write_out(patience)?;
        let (failure, is_recording) = {
            let mut state = shared.lock();
            (state.failure.take(), state.is_recording)
        };
        if let Some(RecordGap { missed, .. }) = gap.filter(|gap| !gap.tries || !is_recording) {
            let lasted = duration(clock::now().since(missed.since));
            anyhow::bail!("it ends in a gap of {lasted}, in which {} observations were dropped", missed.items);
        }
        failure.map_or(Ok(()), |error| Err(write_failed(error)))
    }
}

/// Returns the error of a thread that is late.
fn behind(waiting: usize) -> io::Error {
    io::Error::new(io::ErrorKind::WouldBlock, format!("{waiting} bytes wait to be written"))
}

fn new_piece() -> Vec<u8> {
    let mut piece = vec![0; PIECE_HEAD];
    piece[0] = SegmentPiece::Items as u8;
    piece
}

const NO_FORM: &str = "an item has no form in a recording\nhint: report this with the output of `closewait doctor`";
