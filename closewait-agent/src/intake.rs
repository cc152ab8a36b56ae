//! The one door into the engine: decodes what comes from the kernel, and keeps a recording if one was asked for.

use crate::{
    clock,
    recording::{Recorder, RecordingEngine},
    source::{files, scanner::ScanItem, worker::Piece},
};
use closewait_engine::{Engine, decode::Decoder, model::Observation, time::BootTime};

/// The engine, and what stands before it.
pub struct Intake {
    /// Thinks. Facts and time go in by the methods of this struct.
    pub engine: RecordingEngine,
    decoder: Decoder,
}

impl Intake {
    /// Without a `recorder` nothing is kept.
    pub fn new(engine: Engine, decoder: Decoder, recorder: Option<Recorder>) -> Self {
        Self { engine: RecordingEngine::new(engine, recorder), decoder }
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

    /// Hands on what a scan has found.
    pub fn found(&mut self, found: ScanItem<'_>) {
        match found {
            ScanItem::Record(bytes) => self.record(bytes),
            ScanItem::Fact(observation) => self.fact(*observation),
        }
    }

    /// Hands on a piece of what a scan or an inspection has found. The end of it means nothing here.
    pub fn piece(&mut self, piece: Piece) {
        match piece {
            Piece::Records(bytes) => {
                let used = files::hand_over(&bytes, &mut |record| self.record(record));
                // The kernel writes whole records; what is left over goes to the decoder, which counts it.
                bytes.get(used..).filter(|rest| !rest.is_empty()).into_iter().for_each(|rest| self.record(rest));
            }
            Piece::Facts(facts) => facts.into_iter().for_each(|fact| self.fact(fact)),
            Piece::Ended(_) => {}
        }
    }

    /// Hands a fact on.
    pub fn fact(&mut self, observation: impl Into<Observation>) {
        self.engine.handle(observation);
    }

    /// Lets the engine do what is due.
    pub fn time(&mut self, now: BootTime) {
        self.engine.handle_timeout(now);
    }
}
