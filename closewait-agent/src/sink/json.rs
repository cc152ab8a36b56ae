//! JSON, one object per line.

use std::io::{self, Write};

use super::{
    EventContent, NumberedEvent, Sink, Start,
    answer::{AnswerHeader, Listing},
    list::RowOrder,
    schema::{
        self, Event, EventLine, GroupObject, LimitsObject, ListedObject, PileupEndObject, PileupObject, SCHEMA_VERSION,
        SocketObject,
    },
};
use crate::clock::TimeAnchor;
use closewait_engine::{model::Finding, snapshot::groups::ListedGroup, snapshot::query::GroupBy, time::BootTime};

/// Sink for the JSON event stream.
#[derive(Clone, Copy, Debug, Default)]
pub struct Json {
    /// Whether the stream has no events of single sockets and no histograms.
    pub incidents_only: bool,
}

impl Sink for Json {
    fn shows(&self, finding: &Finding) -> bool {
        let is_of_sockets = matches!(
            finding,
            Finding::Enter { .. } | Finding::Stuck { .. } | Finding::Leave { .. } | Finding::Histogram { .. }
        );
        !(self.incidents_only && is_of_sockets)
    }

    fn event(&mut self, event: &NumberedEvent<'_>, to: &mut Vec<u8>) -> io::Result<()> {
        to.extend_from_slice(event.json()?);
        Ok(())
    }
}

/// Returns the line of an event.
pub(super) fn event(event: &NumberedEvent<'_>) -> io::Result<Vec<u8>> {
    let NumberedEvent { seq, content, anchor, host, .. } = event;
    let mut line = Vec::new();
    let content = match content {
        EventContent::Start(start) => start_members(start, *anchor),
        EventContent::Finding(finding) => finding_members(finding, *anchor),
    };
    let host = host.as_deref();
    write_line(&EventLine { schema_version: SCHEMA_VERSION, seq: *seq, host, event: content }, &mut line)?;
    Ok(line)
}

fn start_members(start: &Start, anchor: TimeAnchor) -> Event<'_> {
    let limits = LimitsObject {
        max_sockets: start.max_sockets,
        max_tracked: start.max_tracked,
        ring_buffer_bytes: start.ring_buffer_bytes,
        stuck_after_seconds: schema::seconds(start.stuck_after),
    };
    let time = schema::time(anchor.wall(start.at));
    let Start { version, hook, pinned, degraded, .. } = start;
    let (kernel, pinned) = (start.kernel.as_deref(), pinned.as_deref());
    Event::Start { time, version, kernel, hook, pinned, limits, degraded }
}

fn finding_members(finding: &Finding, anchor: TimeAnchor) -> Event<'_> {
    let time = |at: &BootTime| schema::time(anchor.wall(*at));
    match finding {
        Finding::Enter { at, socket } => Event::Enter { time: time(at), socket: SocketObject::new(socket, *at, None) },
        Finding::Stuck { at, socket, dwell, owners, verdict, workload, process, group: _, incident } => Event::Stuck {
            time: time(at),
            socket: SocketObject::new(socket, *at, workload.as_deref()),
            dwell: Some(*dwell).into(),
            owners: owners.as_ref().map(|owners| owners.iter().map(Into::into).collect()),
            verdict: (&**verdict).into(),
            process: process.as_deref().map(Into::into),
            incident: incident.map(|incident| incident.to_string()),
        },
        Finding::Leave { at, socket, dwell, how, closer, ended: _, fd_open, stuck, verdict } => Event::Leave {
            time: time(at),
            socket: SocketObject::new(socket, *at, None),
            dwell: (*dwell).into(),
            how: how.name(),
            closer: closer.as_ref().map(Into::into),
            fd_open: *fd_open,
            stuck: *stuck,
            verdict: verdict.as_deref().map(Into::into),
        },
        Finding::Pileup { at, pileup } => {
            Event::Pileup { time: time(at), pileup: PileupObject::new(pileup, *at, &|at| time(&at)) }
        }
        Finding::PileupEnd { at, end } => {
            Event::PileupEnd { time: time(at), end: PileupEndObject::new(end, *at, &|at| time(&at)) }
        }
        Finding::Histogram { at, scope, window, finished, unfinished } => {
            let (scope, local_port) = schema::scope(*scope);
            Event::Histogram {
                time: time(at),
                scope,
                local_port,
                window_seconds: schema::seconds(*window),
                finished: finished.into(),
                unfinished: unfinished.into(),
            }
        }
        Finding::Health { at, totals } => Event::Health { time: time(at), totals: (*totals).into() },
        Finding::Stop { at, totals } => Event::Stop { time: time(at), totals: (*totals).into() },
    }
}

/// Writes the objects of `list`, one per socket.
///
/// # Errors
///
/// If `to` fails, or a value cannot be written as JSON.
pub(super) fn list(listing: &Listing<'_>, order: RowOrder, to: &mut impl Write) -> io::Result<()> {
    let AnswerHeader { at, anchor, .. } = listing.header;
    let time = schema::time(anchor.wall(at));
    let mut line = Vec::new();
    listing.rows_in(order).try_for_each(|row| {
        line.clear();
        write_line(&ListedObject::new(&row, at, &time), &mut line)?;
        to.write_all(&line)
    })
}

/// Writes the objects of `list --by`, one per group.
///
/// # Errors
///
/// If `to` fails, or a value cannot be written as JSON.
pub(super) fn groups(
    groups: &[ListedGroup],
    by: GroupBy,
    header: &AnswerHeader,
    to: &mut impl Write,
) -> io::Result<()> {
    let time = schema::time(header.anchor.wall(header.at));
    let mut lines = Vec::new();
    groups.iter().try_for_each(|group| write_line(&GroupObject::new(group, by, &time), &mut lines))?;
    to.write_all(&lines)
}

/// Writes an object, and the end of its line. Writes nothing if it fails.
pub(crate) fn write_line(value: &impl serde::Serialize, to: &mut Vec<u8>) -> io::Result<()> {
    let written = to.len();
    serde_json::to_writer(&mut *to, value).inspect_err(|_failed| to.truncate(written))?;
    to.push(b'\n');
    Ok(())
}
