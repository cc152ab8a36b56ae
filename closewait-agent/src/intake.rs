//! The one door into the engine: decodes what comes from the kernel, and keeps a recording if one was asked for.

use crate::{
    clock,
    engine::{Engine, decode::Decoder, model::Observation, time::Boot},
    recording::Recorder,
    source::walk::Found,
};

/// The engine, and what stands before it.
pub struct Intake {
    /// Thinks. Facts and time go in by the methods of this struct.
    pub engine: Engine,
    decoder: Decoder,
    recorder: Option<Recorder>,
}

impl Intake {
    /// Without a `recorder` nothing is kept.
    pub fn new(engine: Engine, decoder: Decoder, recorder: Option<Recorder>) -> Self {
        Self { engine, decoder, recorder }
    }

    /// Brings what decoding knows of suspends up to date: they make times of TCP late.
    pub fn notice_suspends(&mut self) {
        self.decoder.suspended = clock::suspended();
    }

    /// How records are decoded.
    pub fn decoder(&self) -> Decoder {
        self.decoder
    }

    /// Decodes one record and hands it on.
    pub fn record(&mut self, bytes: &[u8]) {
        match self.decoder.decode(bytes) {
            Ok(observation) => self.fact(observation),
            Err(error) => {
                log::debug!("a record was not understood: {error}");
                self.engine.undecodable(clock::now());
            }
        }
    }

    /// Hands on what a walk has found.
    pub fn found(&mut self, found: Found<'_>) {
        match found {
            Found::Record(bytes) => self.record(bytes),
            Found::Fact(observation) => self.fact(*observation),
        }
    }

    /// Hands a fact on.
    pub fn fact(&mut self, observation: Observation) {
        self.keep(|recorder| recorder.fact(&observation));
        self.engine.handle(observation);
    }

    /// Lets the engine do what is due.
    pub fn time(&mut self, now: Boot) {
        self.keep(|recorder| recorder.time(now));
        self.engine.handle_timeout(now);
    }

    /// Ends the recording.
    pub fn finish(&mut self) -> anyhow::Result<()> {
        self.recorder.take().map_or(Ok(()), Recorder::finish)
    }

    /// A recording that cannot be written ends; the agent goes on.
    fn keep(&mut self, write: impl FnOnce(&mut Recorder) -> anyhow::Result<()>) {
        if let Some(recorder) = &mut self.recorder
            && let Err(error) = write(recorder)
        {
            log::error!("the recording ends here: {error:#}");
            self.recorder = None;
        }
    }
}
