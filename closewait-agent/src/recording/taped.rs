//! The engine with a recorder beside it: no call that changes the engine goes past the recording.

use std::{borrow::Cow, ops::Deref, time::Duration};

use super::{Ended, Item, Recorder};
use crate::{
    clock::TimeAnchor,
    sink::{Mark, Start},
};
use closewait_engine::{
    Engine,
    model::{Inquiry, Observation, Output},
    time::Boot,
};

/// An engine. It can be read as one, and changed by the methods of this struct alone, each of which is kept if a recording
/// was asked for.
#[derive(Debug)]
pub struct Taped {
    engine: Engine,
    tape: Option<Tape>,
    /// A recording that has ended before the agent, and is not written to its end.
    ended: Option<Recorder>,
    /// The recording could not be written, and this is not counted yet.
    failed: bool,
}

#[derive(Debug)]
struct Tape {
    recorder: Recorder,
    /// Outputs that were taken since the last item.
    polled: u32,
    /// What holds for findings to come, and is not kept yet.
    anchor: Option<TimeAnchor>,
    /// Whether something was shown that is not handed out yet.
    shown: bool,
}

impl Tape {
    fn item(&mut self, item: &Item<'_>) -> anyhow::Result<()> {
        let polled = std::mem::take(&mut self.polled);
        if polled > 0 {
            self.recorder.item(&Item::Polled(polled))?;
        }
        self.recorder.item(item)
    }

    /// Something is shown with the time of the last anchor.
    fn shows(&mut self) -> anyhow::Result<()> {
        self.shown = true;
        self.anchor.take().map_or(Ok(()), |anchor| self.item(&Item::Anchored(anchor)))
    }
}

impl Deref for Taped {
    type Target = Engine;

    fn deref(&self) -> &Engine {
        &self.engine
    }
}

impl Taped {
    /// Without a `recorder` nothing is kept.
    pub fn new(engine: Engine, recorder: Option<Recorder>) -> Self {
        let tape = recorder.map(|recorder| Tape { recorder, polled: 0, anchor: None, shown: false });
        Self { engine, tape, ended: None, failed: false }
    }

    /// [`Engine::handle`].
    pub fn handle(&mut self, observation: Observation) {
        self.keep(|tape| tape.item(&Item::Fact(Cow::Borrowed(&observation))));
        self.engine.handle(observation);
    }

    /// [`Engine::handle_timeout`].
    pub fn handle_timeout(&mut self, now: Boot) {
        self.keep(|tape| tape.item(&Item::Time(now)));
        self.engine.handle_timeout(now);
    }

    /// [`Engine::undecodable`].
    pub fn undecodable(&mut self, at: Boot) {
        self.keep(|tape| tape.item(&Item::Undecodable(at)));
        self.engine.undecodable(at);
    }

    /// [`Engine::unwritten`]: the lines that were handed out last.
    pub fn unwritten(&mut self, at: Boot, lines: u64) {
        self.keep(|tape| tape.item(&Item::Unwritten { at, lines }));
        self.engine.unwritten(at, lines);
    }

    /// Counts what the log and the recording have lost: `log_lines` were dropped since the start.
    pub fn count_losses(&mut self, at: Boot, log_lines: u64) {
        let lines = log_lines.saturating_sub(self.engine.totals().log_lines_dropped);
        if lines > 0 {
            self.keep(|tape| tape.item(&Item::LogDropped { at, lines }));
            self.engine.log_lines_dropped(at, lines);
        }
        // The recording is over, so this is not in it.
        if std::mem::take(&mut self.failed) {
            self.engine.recording_failed(at);
        }
    }

    /// [`Engine::scan_began`].
    pub fn scan_began(&mut self) -> Vec<u32> {
        self.keep(|tape| tape.item(&Item::WalkBegan));
        self.engine.scan_began()
    }

    /// [`Engine::stop`].
    pub fn stop(&mut self) {
        self.keep(|tape| tape.item(&Item::Stopping));
        self.engine.stop();
    }

    /// [`Engine::inquiry`], for a single look: that is never recorded.
    pub fn inquiry(&mut self, now: Boot) -> Inquiry {
        debug_assert!(self.tape.is_none(), "what changes the engine is kept");
        self.engine.inquiry(now)
    }

    /// [`Engine::poll_output`].
    pub fn poll_output(&mut self) -> Option<Output> {
        let output = self.engine.poll_output();
        self.keep(|tape| {
            let Some(output) = &output else {
                tape.polled = 0;
                return tape.item(&Item::Drained);
            };
            if matches!(output, Output::Finding(_)) {
                tape.shows()?;
            }
            tape.polled += 1;
            Ok(())
        });
        output
    }

    /// What is shown from here on has its time by this.
    pub fn anchored(&mut self, anchor: TimeAnchor) {
        self.keep(|tape| {
            tape.anchor = Some(anchor);
            Ok(())
        });
    }

    /// The event `start` is shown.
    pub fn started(&mut self, start: &Start) {
        self.keep(|tape| {
            tape.shows()?;
            tape.item(&Item::Started(Cow::Borrowed(start)))
        });
    }

    /// Everything that was shown since the last time is about to be handed to the writer of lines. Returns the place in the
    /// recording that is to be written before those lines: then a reader of the lines has seen nothing that is not in the
    /// recording, even if the agent is killed.
    pub fn handing_out(&mut self) -> Option<Mark> {
        self.keep(|tape| {
            if std::mem::take(&mut tape.shown) {
                tape.item(&Item::HandedOut)?;
            }
            tape.recorder.flush()
        });
        self.tape.as_ref().and_then(|tape| tape.recorder.mark())
    }

    /// Whether a recording is kept.
    pub fn is_recording(&self) -> bool {
        self.tape.is_some()
    }

    /// Ends the recording, and waits until it is written, at most for `patience`.
    ///
    /// # Errors
    ///
    /// If it cannot be written, or takes too long.
    pub fn finish(&mut self, patience: Duration) -> anyhow::Result<()> {
        let recorder = self.tape.take().map(|tape| tape.recorder).or_else(|| self.ended.take());
        recorder.map_or(Ok(()), |recorder| recorder.finish(patience))
    }

    /// A recording that is full, or that cannot be written, ends; the agent goes on.
    fn keep(&mut self, keep: impl FnOnce(&mut Tape) -> anyhow::Result<()>) {
        let Some(tape) = &mut self.tape else { return };
        match (keep(tape), tape.recorder.ended()) {
            (Ok(()), None) => return,
            (Ok(()), Some(Ended::Full)) => {
                let max = tape.recorder.max();
                log::warn!(
                    "the recording ends here, more would not fit into {max} bytes (--record-max); the agent continues"
                );
            }
            (Ok(()), Some(Ended::Behind { waiting })) => {
                self.failed = true;
                log::error!(
                    "the recording ends here, the agent continues: {waiting} bytes wait to be written\n\
                     hint: record to a local disk, or to a pipe whose reader keeps up"
                );
            }
            (Err(error), _) => {
                self.failed = true;
                log::error!("the recording ends here, the agent continues: {error:#}");
                self.tape = None;
                return;
            }
        }
        self.ended = self.tape.take().map(|tape| tape.recorder);
    }
}
