//! Groups of a running agent, or of scans.

use std::time::Duration;

use super::{DEFAULT_SIZE, kill_args, lines, list_shape, text_lines};
use crate::{
    cli,
    clock::{self, TimeAnchor},
    cmd::{
        kill::dry_run,
        list::{ScanNeeds, ask_agent, scan_once},
    },
    host::error_text::in_one_line,
    recording::RecordingEngine,
    sink::{Form, answer::AnswerCollector, list::ListShape},
    tui::{SourceState, TopEvent, TopRequest, TopSnapshot, TopSource},
};
use closewait_engine::snapshot::query::{Filter, Query, ReportContent};

/// Time between two queries to an agent.
const QUERY_INTERVAL: Duration = Duration::from_secs(1);
/// Minimum time between two scans.
const SCAN_INTERVAL: Duration = Duration::from_secs(3);
/// Minimum time between two scans, as a multiple of the time that a scan takes: a busy host is not slowed down further.
const SCAN_REST: u32 = 5;

/// Agent, or scans of this process.
pub(super) struct Live {
    asked: cli::AgentArgs,
    /// Result of the last scan; `None` if an agent answered.
    scan: Option<RecordingEngine>,
    interval: Duration,
}

impl Live {
    pub(super) fn new(asked: cli::AgentArgs) -> Self {
        Self { asked, scan: None, interval: QUERY_INTERVAL }
    }

    pub(super) fn snapshot(&mut self) -> anyhow::Result<TopSnapshot> {
        let (query, mut notes) =
            (Query::Report { filter: Filter::default(), content: ReportContent::Groups }, Vec::new());
        // The report has the sockets that cannot be seen, so the scan need not note them, as for JSON.
        let shape = ListShape { form: Form::Json, ..ListShape::default() };
        if let Some(answer) = ask_agent(&self.asked, &query, &shape, &mut |note| notes.push(note))? {
            (self.scan, self.interval) = (None, QUERY_INTERVAL);
            let (header, report) = answer.report()?;
            return Ok(TopSnapshot { report, anchor: header.anchor, source: SourceState::Agent, notes });
        }
        let began = clock::now();
        // Two of them would need twice the memory.
        self.scan = None;
        let engine = scan_once(shape.form, ScanNeeds::Anything, &mut |note| notes.push(note))?;
        let (now, anchor) = (clock::now(), TimeAnchor::now());
        let (_, report) = AnswerCollector::new(&shape).scanned(engine.state(), &query, now, anchor)?.report()?;
        self.interval = SCAN_INTERVAL.max(clock::now().since(began) * SCAN_REST);
        self.scan = Some(engine);
        Ok(TopSnapshot { report, anchor, source: SourceState::Scans(self.interval), notes })
    }

    /// Returns the lines of the sockets that a filter matches: of the agent, or of the last scan.
    fn sockets(&self, filter: &Filter, width: u16) -> anyhow::Result<Vec<String>> {
        let shape = list_shape(width);
        let query = Query::List { filter: filter.clone(), content: shape.content() };
        if let Some(scan) = &self.scan {
            let answer = AnswerCollector::new(&shape).scanned(scan.state(), &query, clock::now(), TimeAnchor::now())?;
            return lines(answer.listing()?, &shape);
        }
        let answer = ask_agent(&self.asked, &query, &shape, &mut |_note| {})?;
        lines(answer.ok_or_else(|| anyhow::anyhow!("the agent has ended; go back and try again"))?.listing()?, &shape)
    }
}

impl TopSource for Live {
    fn interval(&self) -> Option<Duration> {
        Some(self.interval)
    }

    fn answer(&mut self, request: TopRequest, width: u16) -> TopEvent {
        let width = if width == 0 { DEFAULT_SIZE.0 } else { width };
        let answer = match request {
            TopRequest::Refresh => self.snapshot().map(|snapshot| TopEvent::Snapshot(Box::new(snapshot))),
            TopRequest::Sockets(filter) => {
                self.sockets(&filter, width).map(|lines| TopEvent::Sockets { filter, lines })
            }
            TopRequest::Plan(filter) => {
                let at = clock::now();
                dry_run(&kill_args(&filter, &self.asked, None), width).map(|(text, count)| TopEvent::Plan {
                    filter,
                    lines: text_lines(&text),
                    count,
                    at,
                })
            }
            TopRequest::Seek(_) => Err(anyhow::anyhow!("only a recording has other times")),
        };
        answer.unwrap_or_else(|error| TopEvent::Failed(in_one_line(error)))
    }
}
