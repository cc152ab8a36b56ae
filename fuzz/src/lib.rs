//! Engine as the agent drives it, with all sinks behind it, for the fuzz targets of records and recordings.

pub mod changed_image;

use std::{
    io,
    time::{Duration, UNIX_EPOCH},
};

use closewait::{
    clock::TimeAnchor,
    sink::{
        Form, Numbering, Sink as _, Start,
        answer::{AnswerCollector, answer},
        json::Json,
        list::{self, ListShape, Style},
        text::{FoldedText, Text, TextStyle},
    },
};
use closewait_engine::{
    Config, Engine, Events,
    model::{InspectionEnd, Output, RefreshEnd, ScanEnd},
    snapshot::query::{Filter, GroupBy, ListContent, Query},
    time::BootTime,
};

/// Engine and its output so far.
pub struct Play {
    /// Engine.
    pub engine: Engine,
    numbering: Numbering,
    text: Text,
    folded: FoldedText,
    /// Lines of all sinks.
    pub lines: Vec<u8>,
}

impl Play {
    /// Creates an engine that begins at `began`.
    pub fn new(stuck_after: Duration, began: BootTime) -> Self {
        let config = Config { stuck_after, events: Events::All, reads_progress: true, ..Config::default() };
        let style = TextStyle::dated(false);
        let (text, folded) = (Text::new(style.clone()), FoldedText::new(style));
        Self { engine: Engine::new(config, began), numbering: Numbering::default(), text, folded, lines: Vec::new() }
    }

    /// Shows the event `start`, and checks it.
    pub fn start(&mut self, start: &Start) {
        let mut line = Vec::new();
        let event = self.numbering.start(start, anchor());
        Json::default().event(&event, &mut line).expect("a start is written as JSON");
        let _json: serde_json::Value = serde_json::from_slice(&line).expect("what is written is JSON");
        self.text.event(&event, &mut line).expect("a start is written as text");
        harmless(&line);
        self.lines.extend(line);
    }

    /// Answers as an agent that has found nothing.
    pub fn answer(&mut self, at: BootTime) {
        self.engine.handle(RefreshEnd::Inspection { at, lingering: true });
        self.engine.handle(ScanEnd::Descriptors { began: at, blind: None, saw_listeners: true });
        self.engine.handle(InspectionEnd::Owners { at, worked: Duration::from_millis(1) });
    }

    /// Takes all outputs of the engine, and checks every line.
    pub fn drain(&mut self) {
        while let Some(output) = self.engine.poll_output() {
            let mut line = Vec::new();
            if let Output::StillStuck { at, counts } = output {
                self.folded.still_stuck(at, counts, anchor(), &mut line);
                harmless(&line);
                self.lines.extend(line);
                continue;
            }
            let Output::Finding(finding) = output else { continue };
            let event = self.numbering.finding(&finding, anchor());
            Json::default().event(&event, &mut line).expect("a finding is written as JSON");
            let _json: serde_json::Value = serde_json::from_slice(&line).expect("what is written is JSON");
            self.text.event(&event, &mut line).expect("a finding is written as text");
            if self.folded.shows(&finding) {
                self.folded.event(&event, &mut line).expect("a finding is written as text");
            }
            harmless(&line);
            self.lines.extend(line);
        }
    }

    /// Lists all sockets in every format.
    pub fn list(&mut self, now: BootTime) {
        let query = Query::List { filter: Filter::default(), content: ListContent::Sockets };
        let mut collector = AnswerCollector::default();
        let collect = |frame: &[u8]| collector.frame(frame).map_err(io::Error::other);
        answer(&self.engine, &query, now, anchor(), collect).expect("an answer is encoded and understood");
        let listing = collector.listing().expect("an answer has a header");
        assert_eq!(listing.view().rows, self.engine.view(now).rows, "rows arrive as they were sent");
        for by in [None, Some(GroupBy::Process), Some(GroupBy::Listener), Some(GroupBy::Peer), Some(GroupBy::Cgroup)] {
            // Groups have no columns to omit.
            let forms = [(Form::Text, Some(80)), (Form::Json, None), (Form::Text, None)];
            for (form, width) in forms.into_iter().take(if by.is_none() { 3 } else { 2 }) {
                let style = Style { width, wide: width.is_none(), color: false };
                let (mut lines, shape) = (Vec::new(), ListShape { form, by, style, ..ListShape::default() });
                let query = Query::List { filter: Filter::default(), content: shape.content() };
                let mut collector = AnswerCollector::new(&shape);
                let collect = |frame: &[u8]| collector.frame(frame).map_err(io::Error::other);
                answer(&self.engine, &query, now, anchor(), collect).expect("an answer is encoded and understood");
                let listing = collector.listing().expect("an answer has a header");
                list::render(listing, &shape, &mut lines).expect("a list is written");
                harmless(&lines);
                self.lines.extend(lines);
            }
        }
    }
}

/// Checks that no control character of a name gets through.
fn harmless(lines: &[u8]) {
    let text = str::from_utf8(lines).expect("lines are UTF-8");
    assert!(!text.chars().any(|shown| shown.is_control() && shown != '\n'), "{text:?}");
}

fn anchor() -> TimeAnchor {
    TimeAnchor::booted_at(UNIX_EPOCH + Duration::from_secs(1_700_000_000))
}
