//! The only way into the engine of this process: decodes data from the kernel, and records every call that changes
//! the engine, if there is a recording.

use std::{borrow::Cow, time::Duration};

use super::{EarlyEnd, Item, RecordTarget};
use crate::{
    clock::{self, TimeAnchor},
    host::error_text::with_hints,
    sink::{Mark, Start},
    source::{files, scanner::ScanItem, worker::Piece},
};
use closewait_engine::{
    Engine,
    decode::Decoder,
    model::{Observation, Output, SocketEvent},
    time::BootTime,
};

/// Engine with a decoder, which records every call that changes it, if there is a recording.
#[derive(Debug)]
pub struct RecordingEngine {
    engine: Engine,
    decoder: Decoder,
    recording: Option<ActiveRecording>,
    /// Recording that has ended before the agent, and is not completely written.
    ended: Option<RecordTarget>,
    /// Whether the recording could not be written, and the engine has not counted this yet.
    failed: bool,
    /// Number of entries refused by the journal that the engine has counted.
    refused: u64,
}

/// Numbers that other parts of the agent have dropped since the start.
#[derive(Clone, Copy, Debug, Default)]
pub struct DroppedCounts {
    /// Lines of the log.
    pub log_lines: u64,
    /// Events of the export over OTLP.
    pub unexported: u64,
    /// Entries that the journal refused.
    pub refused: u64,
}

/// Recording that is being written.
#[derive(Debug)]
struct ActiveRecording {
    recorder: RecordTarget,
    /// Number of outputs taken since the last item.
    polled: u32,
    /// Anchor of later findings that is not recorded yet.
    anchor: Option<TimeAnchor>,
    /// Latest anchor.
    latest_anchor: Option<TimeAnchor>,
    /// Whether output was shown that is not handed out yet.
    shown: bool,
}

impl ActiveRecording {
    fn item(&mut self, item: &Item<'_>) -> anyhow::Result<()> {
        let polled = std::mem::take(&mut self.polled);
        if polled > 0 {
            self.recorder.item(&Item::Polled(polled))?;
        }
        self.recorder.item(item)
    }

    /// Records that output is shown with the time of the last anchor.
    fn shows(&mut self) -> anyhow::Result<()> {
        self.shown = true;
        self.anchor.take().map_or(Ok(()), |anchor| self.item(&Item::Anchored(anchor)))
    }
}

impl RecordingEngine {
    /// Wraps an engine. Without a `recorder`, nothing is recorded.
    pub fn new(engine: Engine, decoder: Decoder, recorder: Option<RecordTarget>) -> Self {
        let begin = |recorder| ActiveRecording { recorder, polled: 0, anchor: None, latest_anchor: None, shown: false };
        let recording = recorder.map(begin);
        Self { engine, decoder, recording, ended: None, failed: false, refused: 0 }
    }

    /// Returns the engine, which can only be read this way.
    pub fn state(&self) -> &Engine {
        &self.engine
    }

    /// Returns a copy of the engine that answers queries while this one goes on: [`Engine::snapshot`].
    pub fn snapshot(&mut self) -> Box<Engine> {
        self.engine.snapshot()
    }

    /// Returns the decoder.
    pub fn decoder(&self) -> Decoder {
        self.decoder
    }

    /// Reads the time that the machine has been suspended, which decoding needs: TCP's times stand still meanwhile.
    pub fn notice_suspends(&mut self) {
        self.decoder.suspended = clock::suspended();
    }

    /// Decodes one record and handles it.
    pub fn record(&mut self, bytes: &[u8]) {
        match self.decoder.decode(bytes) {
            Ok(observation) => self.handle(observation),
            Err(error) => {
                log::debug!("a record was not understood: {error}");
                self.undecodable(clock::now());
            }
        }
    }

    /// Handles an item of a scan or of an inspection.
    pub fn found(&mut self, found: ScanItem<'_>) {
        match found {
            ScanItem::Record(bytes) => self.record(bytes),
            ScanItem::Fact(observation) => self.handle(*observation),
        }
    }

    /// Handles a piece of the result of a scan or of an inspection. An end changes nothing here.
    pub fn piece(&mut self, piece: Piece) {
        match piece {
            Piece::Records(bytes) => {
                let used = files::hand_over(&bytes, &mut |record| self.record(record));
                // The kernel writes whole records. The decoder counts a rest as an error.
                bytes.get(used..).filter(|rest| !rest.is_empty()).into_iter().for_each(|rest| self.record(rest));
            }
            Piece::Facts(facts) => facts.into_iter().for_each(|fact| self.handle(fact)),
            Piece::Ended(_) => {}
        }
    }

    /// Calls [`Engine::handle`].
    pub fn handle(&mut self, observation: impl Into<Observation>) {
        let observation = observation.into();
        if let (Some(_), Observation::Socket(event @ SocketEvent::Pass { .. })) = (&self.recording, &observation) {
            // As a replay handles them. Versions that do not know this event can read the two.
            let (enter, leave) = event.clone().split();
            return enter.into_iter().chain([leave]).for_each(|event| self.handle(event));
        }
        self.keep(|recording| recording.item(&Item::Fact(Cow::Borrowed(&observation))));
        self.engine.handle(observation);
    }

    /// Calls [`Engine::handle_timeout`].
    pub fn handle_timeout(&mut self, now: BootTime) {
        self.keep(|recording| recording.item(&Item::Time(now)));
        self.engine.handle_timeout(now);
    }

    /// Calls [`Engine::undecodable`].
    pub fn undecodable(&mut self, at: BootTime) {
        self.keep(|recording| recording.item(&Item::Undecodable(at)));
        self.engine.undecodable(at);
    }

    /// Calls [`Engine::unwritten`] for the lines that were handed out last.
    pub fn unwritten(&mut self, at: BootTime, lines: u64) {
        self.keep(|recording| recording.item(&Item::Unwritten { at, lines }));
        self.engine.unwritten(at, lines);
    }

    /// Counts losses of the log, of exports and of the recording.
    pub fn count_losses(&mut self, at: BootTime, dropped: DroppedCounts) {
        let DroppedCounts { log_lines, unexported, refused } = dropped;
        let entries = refused.saturating_sub(std::mem::replace(&mut self.refused, refused));
        if entries > 0 {
            self.keep(|recording| recording.item(&Item::Refused { at, entries }));
            self.engine.unwritten(at, entries);
        }
        let totals = self.engine.totals();
        let lines = log_lines.saturating_sub(totals.log_lines_dropped);
        if lines > 0 {
            self.keep(|recording| recording.item(&Item::LogDropped { at, lines }));
            self.engine.log_lines_dropped(at, lines);
        }
        let events = unexported.saturating_sub(totals.unexported);
        if events > 0 {
            self.keep(|recording| recording.item(&Item::Unexported { at, events }));
            self.engine.unexported(at, events);
        }
        self.count_unrecorded(at);
        // The recording has ended, so this is not in it.
        if std::mem::take(&mut self.failed) {
            self.engine.recording_failed(at);
        }
    }

    /// Counts what the recording has dropped since the last call.
    fn count_unrecorded(&mut self, at: BootTime) {
        let Some(ActiveRecording { recorder, .. }) = &self.recording else { return };
        let observations = recorder.dropped().saturating_sub(self.engine.totals().unrecorded);
        if observations == 0 {
            return;
        }
        // In a gap, the next segment has the count in its state. This item would only be dropped and counted, too.
        if !recorder.is_dropping() {
            self.keep(|recording| recording.item(&Item::Unrecorded { at, observations }));
        }
        self.engine.unrecorded(at, observations);
    }

    /// Calls [`Engine::stop`].
    pub fn stop(&mut self) {
        self.keep(|recording| recording.item(&Item::Stopping));
        self.engine.stop();
    }

    /// Calls [`Engine::poll_output`].
    pub fn poll_output(&mut self) -> Option<Output> {
        let output = self.engine.poll_output();
        self.keep(|recording| {
            let Some(output) = &output else {
                recording.polled = 0;
                return recording.item(&Item::Drained);
            };
            if matches!(output, Output::Finding(_) | Output::StillStuck { .. }) {
                recording.shows()?;
            }
            recording.polled += 1;
            Ok(())
        });
        output
    }

    /// Sets the anchor for the times of later output.
    pub fn anchored(&mut self, anchor: TimeAnchor) {
        self.keep(|recording| {
            (recording.anchor, recording.latest_anchor) = (Some(anchor), Some(anchor));
            Ok(())
        });
    }

    /// Records that the event `start` is shown.
    pub fn started(&mut self, start: &Start) {
        self.keep(|recording| {
            recording.shows()?;
            recording.item(&Item::Started(Cow::Borrowed(start)))
        });
    }

    /// Records that all output since the last call is about to be handed to the writer of lines. Returns the mark of
    /// the recording that has to be written before those lines: then, even if the agent is killed, the recording has
    /// everything that a reader of the lines has seen.
    pub fn handing_out(&mut self) -> Option<Mark> {
        self.keep(|recording| {
            if std::mem::take(&mut recording.shown) {
                recording.item(&Item::HandedOut)?;
            }
            recording.recorder.flush()
        });
        self.turn_segment(clock::now());
        self.recording.as_ref().and_then(|recording| recording.recorder.mark())
    }

    /// Begins the next segment of a flight recording, if it is due and the engine has no outputs.
    fn turn_segment(&mut self, now: BootTime) {
        let Self {
            engine,
            recording:
                Some(ActiveRecording { recorder: RecordTarget::Segments(flight), polled, latest_anchor, anchor, .. }),
            failed,
            ..
        } = self
        else {
            return;
        };
        *failed |= flight.has_failed(now);
        if !flight.is_due(now) || *polled > 0 {
            return;
        }
        if std::mem::take(failed) {
            // Before the checkpoint: the segment has to have all later calls that change the engine.
            engine.recording_failed(now);
        }
        let unrecorded = flight.dropped().saturating_sub(engine.totals().unrecorded);
        if unrecorded > 0 && flight.is_dropping() {
            engine.unrecorded(now, unrecorded);
        }
        let began = clock::thread_cpu();
        let Some(checkpoint) = engine.checkpoint() else { return };
        let took = clock::thread_cpu().saturating_sub(began);
        let sockets = engine.totals().tracked;
        log::debug!(
            "a segment begins: the state with {sockets} sockets was copied in {} us of CPU time",
            took.as_micros()
        );
        flight.turn(now, latest_anchor.unwrap_or_else(TimeAnchor::now), checkpoint);
        // The items of the segment have no anchor yet.
        *anchor = anchor.or(*latest_anchor);
    }

    /// Ends the segment of a flight recording with the next lines.
    #[cfg(test)]
    pub(super) fn turn_soon(&mut self) {
        if let Some(ActiveRecording { recorder: RecordTarget::Segments(flight), .. }) = &mut self.recording {
            flight.turn_soon();
        }
    }

    /// Whether there is a recording.
    pub fn is_recording(&self) -> bool {
        self.recording.is_some()
    }

    /// Ends the recording, and waits until it is written, at most for `patience`.
    ///
    /// # Errors
    ///
    /// If it cannot be written, or takes too long.
    pub fn finish(&mut self, patience: Duration) -> anyhow::Result<()> {
        let recorder = self.recording.take().map(|recording| recording.recorder).or_else(|| self.ended.take());
        recorder.map_or(Ok(()), |recorder| recorder.finish(patience))
    }

    /// Records an item. Ends a recording that is full or cannot be written; the agent continues.
    fn keep(&mut self, keep: impl FnOnce(&mut ActiveRecording) -> anyhow::Result<()>) {
        let Some(recording) = &mut self.recording else { return };
        match (keep(recording), recording.recorder.ended()) {
            (Ok(()), None) => return,
            (Ok(()), Some(EarlyEnd::Full)) => {
                let max = recording.recorder.max();
                log::warn!(
                    "the recording ends here, more would not fit into {max} bytes (--record-max); the agent continues"
                );
            }
            (Ok(()), Some(EarlyEnd::Behind { waiting })) => {
                self.failed = true;
                log::error!(
                    "the recording ends here, the agent continues: {waiting} bytes wait to be written\n\
                     hint: record to a local disk, or to a pipe whose reader keeps up"
                );
            }
            (Err(error), _) => {
                self.failed = true;
                log::error!("the recording ends here, the agent continues: {}", with_hints(&error));
                self.recording = None;
                return;
            }
        }
        self.ended = self.recording.take().map(|recording| recording.recorder);
    }
}
