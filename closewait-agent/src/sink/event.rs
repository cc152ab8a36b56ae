//! Events: numbered once, and written as JSON once, for the stream and for hooks alike.

use std::{cell::OnceCell, io};

use super::{Start, json};
use crate::clock::TimeAnchor;
use closewait_engine::model::Finding;

/// Content of an event.
#[derive(Clone, Copy, Debug)]
pub enum EventContent<'a> {
    /// The agent began.
    Start(&'a Start),
    /// The engine found something.
    Finding(&'a Finding),
}

/// Event with its number.
#[derive(Debug)]
pub struct NumberedEvent<'a> {
    /// Number of events before it.
    pub seq: u64,
    /// Content of the event.
    pub content: EventContent<'a>,
    /// Relation of the kernel's clock and the wall clock.
    pub anchor: TimeAnchor,
    json: OnceCell<Vec<u8>>,
}

impl NumberedEvent<'_> {
    /// Returns the event as a line of JSON, which is written on the first call.
    ///
    /// # Errors
    ///
    /// If a value cannot be written as JSON.
    pub fn json(&self) -> io::Result<&[u8]> {
        if let Some(line) = self.json.get() {
            return Ok(line);
        }
        let line = json::event(self)?;
        Ok(self.json.get_or_init(|| line))
    }
}

/// Numbering of events.
#[derive(Debug, Default)]
pub struct Numbering {
    next: u64,
}

impl Numbering {
    /// Numbers the start of an agent.
    pub fn start<'a>(&mut self, start: &'a Start, anchor: TimeAnchor) -> NumberedEvent<'a> {
        self.event(EventContent::Start(start), anchor)
    }

    /// Numbers a finding.
    pub fn finding<'a>(&mut self, finding: &'a Finding, anchor: TimeAnchor) -> NumberedEvent<'a> {
        self.event(EventContent::Finding(finding), anchor)
    }

    fn event<'a>(&mut self, content: EventContent<'a>, anchor: TimeAnchor) -> NumberedEvent<'a> {
        let seq = self.next;
        self.next += 1;
        NumberedEvent { seq, content, anchor, json: OnceCell::new() }
    }
}

#[cfg(test)]
mod tests {
    use std::time::UNIX_EPOCH;

    use super::*;
    use crate::sink::{Sink as _, json::Json, text::Text};
    use closewait_engine::{testing::socket, time::BootTime};

    #[test]
    fn an_event_has_one_number_and_one_line_for_all_readers() {
        let (mut numbering, anchor) = (Numbering::default(), TimeAnchor::booted_at(UNIX_EPOCH));
        let finding = Finding::Enter { at: BootTime(1), socket: socket() };
        for seq in 0..3 {
            let event = numbering.finding(&finding, anchor);
            let mut text = Vec::new();
            Text::new(false).event(&event, &mut text).unwrap();
            assert!(event.json.get().is_none(), "text needs no JSON");
            let (first, mut written) = (event.json().unwrap(), Vec::new());
            Json.event(&event, &mut written).unwrap();
            assert!(std::ptr::eq(first, event.json().unwrap()), "the same bytes");
            assert_eq!(first, written);
            let value: serde_json::Value = serde_json::from_slice(first).unwrap();
            assert_eq!((value["seq"].as_u64(), event.seq), (Some(seq), seq));
            assert!(first.ends_with(b"}\n"));
        }
    }
}
