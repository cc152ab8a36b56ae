//! Events: numbered once, and written as JSON once, for the stream and for hooks alike.

use std::{cell::OnceCell, io, rc::Rc};

use super::{Start, json};
use crate::clock::TimeAnchor;
use closewait_engine::model::{Finding, Host};

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
    /// Name of the agent's host; `None` if unknown.
    pub host: Option<Rc<str>>,
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

/// Numbering of events, which also names their host.
#[derive(Debug, Default)]
pub struct Numbering {
    next: u64,
    host: Option<Rc<str>>,
}

impl Numbering {
    /// Returns the numbering of the events of a host.
    pub fn of_host(host: &Host) -> Self {
        Self { next: 0, host: host.name.as_deref().map(Rc::from) }
    }

    /// Continues with the events of another agent of a recording.
    pub fn continue_on(&mut self, host: &Host) {
        self.host = host.name.as_deref().map(Rc::from);
    }

    /// Numbers the start of an agent.
    pub fn start<'a>(&mut self, start: &'a Start, anchor: TimeAnchor) -> NumberedEvent<'a> {
        self.event(EventContent::Start(start), anchor)
    }

    /// Numbers a finding.
    pub fn finding<'a>(&mut self, finding: &'a Finding, anchor: TimeAnchor) -> NumberedEvent<'a> {
        self.event(EventContent::Finding(finding), anchor)
    }

    /// Returns a finding that only hooks get, with the number of the next event: the numbers of the stream have no gap.
    pub fn hidden<'a>(&mut self, finding: &'a Finding, anchor: TimeAnchor) -> NumberedEvent<'a> {
        let event = self.finding(finding, anchor);
        self.next = event.seq;
        event
    }

    fn event<'a>(&mut self, content: EventContent<'a>, anchor: TimeAnchor) -> NumberedEvent<'a> {
        let seq = self.next;
        self.next += 1;
        NumberedEvent { seq, content, anchor, host: self.host.clone(), json: OnceCell::new() }
    }
}

#[cfg(test)]
mod tests {
    use std::time::UNIX_EPOCH;

    use super::*;
    use crate::sink::{
        Sink as _,
        json::Json,
        text::{Text, TextStyle},
    };
    use closewait_engine::{testing::socket, time::BootTime};

    #[test]
    fn an_event_has_one_number_and_one_line_for_all_readers() {
        let (mut numbering, anchor) = (Numbering::default(), TimeAnchor::booted_at(UNIX_EPOCH));
        let finding = Finding::Enter { at: BootTime(1), socket: socket() };
        for seq in 0..3 {
            let event = numbering.finding(&finding, anchor);
            let mut text = Vec::new();
            Text::new(TextStyle::dated(false)).event(&event, &mut text).unwrap();
            assert!(event.json.get().is_none(), "text needs no JSON");
            let (first, mut written) = (event.json().unwrap(), Vec::new());
            Json::default().event(&event, &mut written).unwrap();
            assert!(std::ptr::eq(first, event.json().unwrap()), "the same bytes");
            assert_eq!(first, written);
            let value: serde_json::Value = serde_json::from_slice(first).unwrap();
            tests_support::schema::check_event(&value);
            assert_eq!((value["seq"].as_u64(), event.seq), (Some(seq), seq));
            assert!(first.ends_with(b"}\n"));
        }
    }
    #[test]
    fn an_event_that_only_hooks_get_leaves_no_gap_in_the_stream() {
        let (host, anchor) = (Host { name: Some("web-1".to_owned()), boot: None }, TimeAnchor::booted_at(UNIX_EPOCH));
        let mut numbering = Numbering::of_host(&host);
        let finding = Finding::Enter { at: BootTime(1), socket: socket() };
        let seqs = [
            numbering.finding(&finding, anchor).seq,
            numbering.hidden(&finding, anchor).seq,
            numbering.hidden(&finding, anchor).seq,
            numbering.finding(&finding, anchor).seq,
        ];
        assert_eq!(seqs, [0, 1, 1, 1]);
        let event = numbering.finding(&finding, anchor);
        let value: serde_json::Value = serde_json::from_slice(event.json().unwrap()).unwrap();
        assert_eq!((&value["seq"], &value["host"]), (&2.into(), &"web-1".into()));
        let quiet = Json { incidents_only: true };
        assert!(!quiet.shows(&finding) && Json::default().shows(&finding));
    }
}
