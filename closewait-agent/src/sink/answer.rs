//! Answer to a [`Query`]: typed items, which an agent encodes for its control socket and the client collects and
//! renders. A one-off scan gives the same items to the same collector, without encoding.
//!
//! Data that many rows share (listeners, workloads, processes) is an item of its own, sent once and before the first
//! row that refers to it. Text in a decoded item is harmless, from any sender.

mod items;

use std::{borrow::Cow, collections::BTreeMap, io, path::PathBuf};

use thiserror::Error;

use self::items::FirstUses;
pub use self::items::{AnswerHeader, AnswerItem, AnswerRow, ItemFrame, SharedItem};
use super::{
    command::with_socket,
    list::{ListShape, RowOrder, rows::SocketTable},
};
use crate::{beside::beside, clock::TimeAnchor};
use closewait_engine::{
    Engine,
    diagnose::Seen,
    model::{IncidentReport, Listener},
    process::Process,
    snapshot::groups::{ListedGroup, ListedGroupBuilder},
    snapshot::hints::{Hint, HintBuilder},
    snapshot::query::{ListContent, Query},
    snapshot::redact::Redactor,
    snapshot::summary::{ListSummary, ListSummaryBuilder},
    snapshot::view::{Row, View},
    time::BootTime,
    workload::Workload,
};

/// Size at which a frame ends, bytes.
const FRAME: usize = 32 * 1024;
/// Number of items that one thread hands to another at a time.
const BATCH: usize = 256;
/// Maximum number of sockets that a client collects: four times the default of `--max-tracked`.
const MAX_ROWS: usize = 4_000_000;
/// Maximum number of hints that a client collects: more than any agent has.
const MAX_HINTS: usize = 64;

/// The collector has failed, so it takes no further item.
struct NotWanted;

/// Writes the answer to `query` at `now`, as frames of encoded items. Diagnoses, encodes and frees each socket before
/// the next.
///
/// # Errors
///
/// If an item cannot be encoded, or `frame` refuses one.
pub fn answer(
    engine: &Engine,
    query: &Query,
    now: BootTime,
    anchor: TimeAnchor,
    mut frame: impl FnMut(&[u8]) -> io::Result<()>,
) -> io::Result<()> {
    let mut filling = ItemFrame::default();
    items(engine, query, now, anchor, |item| {
        filling.add(&item).map_err(io::Error::other)?;
        if filling.size() >= FRAME {
            frame(filling.bytes())?;
            filling.clear();
        }
        Ok::<(), io::Error>(())
    })?;
    if filling.is_empty() { Ok(()) } else { frame(filling.bytes()) }
}

/// Gives the items of the answer to `query` to `take`, one after the other.
fn items<'e, E>(
    engine: &'e Engine,
    query: &'e Query,
    now: BootTime,
    anchor: TimeAnchor,
    mut take: impl FnMut(AnswerItem<'e>) -> Result<(), E>,
) -> Result<(), E> {
    let version = env!("CARGO_PKG_VERSION").to_owned();
    let (filter, content) = match query {
        // Events do not come from the engine's state.
        Query::Tail { .. } => {
            let header = AnswerHeader { version, at: now, anchor, total: 0, untracked: 0, unseen: None };
            return take(AnswerItem::Header(header));
        }
        Query::List { filter, content } => (filter, *content),
        Query::Report { filter, content } => {
            take(AnswerItem::Header(AnswerHeader { version, at: now, anchor, total: 0, untracked: 0, unseen: None }))?;
            let mut report = engine.report_of(now, filter, *content);
            let groups = std::mem::take(&mut report.groups);
            take(AnswerItem::Report(Box::new(report)))?;
            return groups.into_iter().try_for_each(|group| take(AnswerItem::Group(Box::new(group))));
        }
    };
    let selection = engine.select(now, filter);
    let selection = match content {
        ListContent::Sockets | ListContent::WideTable => selection,
        ListContent::Table | ListContent::Groups(_) => selection.with_texts_of_hints(),
    };
    let (total, untracked) = (selection.total as u64, selection.untracked);
    let unseen = selection.unseen.map(str::to_owned);
    take(AnswerItem::Header(AnswerHeader { version, at: now, anchor, total, untracked, unseen }))?;
    let (processes, summary) = (selection.processes, engine.summarize(&selection));
    list(selection, processes, content, summary, &mut take)
}

/// Gives the items of a list of `rows` behind the header to `take`. `processes` are the inspected owners, by pid.
fn list<'e, E>(
    rows: impl Iterator<Item = Row<'e>>,
    processes: &'e BTreeMap<u32, Process>,
    content: ListContent,
    mut summary: ListSummaryBuilder<'_>,
    take: &mut impl FnMut(AnswerItem<'e>) -> Result<(), E>,
) -> Result<(), E> {
    let (mut shared, mut hints) = (FirstUses::default(), HintBuilder::default());
    match content {
        ListContent::Sockets => {
            for row in rows {
                shared.row(row, Some(processes), take)?;
            }
            return Ok(());
        }
        ListContent::Table => {
            for row in rows {
                hints.add(&row);
                summary.add(&row);
                shared.table_row(row, take)?;
            }
        }
        ListContent::WideTable => {
            for row in rows {
                hints.add(&row);
                summary.add(&row);
                // No column shows a process.
                shared.row(Row { process: None, ..row }, None, take)?;
            }
        }
        ListContent::Groups(by) => {
            let mut groups = ListedGroupBuilder::new(by);
            for row in rows {
                hints.add(&row);
                summary.add(&row);
                groups.add(&row);
            }
            let mut groups = groups.finish(processes).into_iter();
            groups.try_for_each(|group| take(AnswerItem::ListedGroup(Box::new(group))))?;
        }
    }
    take(AnswerItem::Summary(summary.finish()))?;
    hints.finish(processes).into_iter().try_for_each(|hint| take(AnswerItem::Hint(Box::new(hint))))
}

/// Reason why items are no valid answer.
#[derive(Debug, Error)]
pub enum AnswerError {
    /// The bytes are no item of this version.
    #[error("an item of the answer was not understood: {0}")]
    Undecodable(#[from] postcard::Error),
    /// There is no header, or more than one.
    #[error("the answer does not have one header")]
    Header,
    /// A row refers to a missing item.
    #[error("a socket of the answer refers to a {0} that is not there")]
    Reference(SharedItem),
    /// A requested report is missing, or there is more than one.
    #[error("the answer does not have one report")]
    Report,
    /// There is more than one summary.
    #[error("the answer has more than one summary")]
    Summary,
    /// There are too many hints.
    #[error("the answer has more than {MAX_HINTS} hints")]
    Hints,
    /// There are too many sockets.
    #[error("the answer has more than {MAX_ROWS} sockets; narrow the filters")]
    TooMany,
}

/// Collector of the items of an answer.
#[expect(clippy::vec_box, reason = "a vector that grows copies pointers, and never needs memory for all rows twice")]
#[derive(Debug, Default)]
pub struct AnswerCollector<'a> {
    header: Option<AnswerHeader>,
    rows: Vec<Box<AnswerRow<'a>>>,
    /// Table that gets the rows instead, if nothing else of them is shown.
    table: Option<SocketTable>,
    shared: SharedItems<'a>,
    groups: Vec<ListedGroup>,
    hints: Vec<Hint>,
    summary: Option<ListSummary>,
    report: Option<IncidentReport>,
    /// Control socket that the user has given: suggested commands of closewait get it.
    socket: Option<PathBuf>,
    /// Labels instead of addresses and names; `None` if all is shown.
    redactor: Option<Redactor>,
}

/// Items that rows refer to.
#[derive(Debug, Default)]
struct SharedItems<'a> {
    listeners: Vec<Cow<'a, Seen<Listener>>>,
    workloads: Vec<Cow<'a, Workload>>,
    processes: BTreeMap<u32, Process>,
}

impl SharedItems<'_> {
    /// Checks that all items exist that `row` refers to.
    fn check(&self, row: &AnswerRow<'_>) -> Result<(), AnswerError> {
        let is_there = |index: Option<u32>, length: usize| index.is_none_or(|index| (index as usize) < length);
        if !is_there(row.listener, self.listeners.len()) {
            return Err(AnswerError::Reference(SharedItem::Listener));
        }
        if !is_there(row.workload, self.workloads.len()) {
            return Err(AnswerError::Reference(SharedItem::Workload));
        }
        if row.process.is_some_and(|pid| !self.processes.contains_key(&pid)) {
            return Err(AnswerError::Reference(SharedItem::Process));
        }
        Ok(())
    }

    /// Returns the row with the items that it refers to.
    fn row<'r>(&'r self, row: &'r AnswerRow<'_>) -> Row<'r> {
        Row {
            socket: Cow::Borrowed(&row.socket),
            dwell: row.dwell,
            gone: row.gone.as_deref().map(Cow::as_ref),
            owners: row.owners.as_deref().map(Cow::Borrowed),
            listener: row.listener.and_then(|index| self.listeners.get(index as usize)).map(Cow::as_ref),
            workload: row.workload.and_then(|index| self.workloads.get(index as usize)).map(Cow::as_ref),
            conntrack: row.conntrack,
            proxy_peer: row.proxy_peer.as_deref().map(Cow::as_ref),
            process: row.process.and_then(|pid| self.processes.get(&pid)),
            verdict: row.verdict.clone(),
        }
    }
}

impl<'a> AnswerCollector<'a> {
    /// Creates a collector of the items that a list of this shape shows.
    pub fn new(shape: &ListShape) -> Self {
        let table = matches!(shape.content(), ListContent::Table | ListContent::WideTable);
        let table = table.then(|| SocketTable::of_shape(shape));
        let redactor = shape.is_redacted.then(Redactor::default);
        Self { table, socket: shape.socket.clone(), redactor, ..Self::default() }
    }

    /// Collects the answer to `query` at `now`, without encoding.
    ///
    /// # Errors
    ///
    /// If there are too many sockets.
    pub fn scanned(
        mut self,
        engine: &'a Engine,
        query: &'a Query,
        now: BootTime,
        anchor: TimeAnchor,
    ) -> Result<Self, AnswerError> {
        // Another thread judges the next sockets while this one adds the last ones to the table.
        let judge = |put: &mut dyn FnMut(Vec<AnswerItem<'a>>) -> bool| {
            let mut batch = Vec::new();
            let judged = items(engine, query, now, anchor, |item| {
                batch.push(item);
                if batch.len() < BATCH || put(std::mem::take(&mut batch)) { Ok(()) } else { Err(NotWanted) }
            });
            if judged.is_ok() {
                put(batch);
            }
        };
        let mut added = Ok(());
        beside(
            "closewait-judge",
            judge,
            &mut self,
            |_| (),
            |collector, batch| {
                added = batch.into_iter().try_for_each(|item| collector.add(item));
                added.is_ok()
            },
        );
        added.map(|()| self)
    }

    /// Adds the items of a frame.
    ///
    /// # Errors
    ///
    /// If it has other content, or its items are invalid in this order.
    pub fn frame(&mut self, bytes: &[u8]) -> Result<(), AnswerError> {
        ItemFrame::decode(bytes, |item| self.add(item))
    }

    /// Adds an item.
    ///
    /// # Errors
    ///
    /// If it is invalid after the items before it.
    pub fn add(&mut self, item: AnswerItem<'a>) -> Result<(), AnswerError> {
        // The header comes first, and once.
        if matches!(item, AnswerItem::Header(_)) != self.header.is_none() {
            return Err(AnswerError::Header);
        }
        let mut item = item;
        if let Some(redactor) = &mut self.redactor {
            item.redact(redactor);
        }
        if self.socket.is_some() {
            self.add_socket(&mut item);
        }
        match item {
            AnswerItem::Header(header) => self.header = Some(header),
            AnswerItem::Listener(listener) => self.shared.listeners.push(listener),
            AnswerItem::Workload(workload) => self.shared.workloads.push(workload),
            AnswerItem::Process(process) => {
                self.shared.processes.insert(process.pid, process.into_owned());
            }
            AnswerItem::Row(row) => {
                self.shared.check(&row)?;
                if self.rows.len().max(self.table.as_ref().map_or(0, SocketTable::len)) >= MAX_ROWS {
                    return Err(AnswerError::TooMany);
                }
                match (&mut self.table, &self.header) {
                    (Some(table), Some(header)) => table.add(&self.shared.row(&row), header.at),
                    (None, _) | (_, None) => self.rows.push(row),
                }
            }
            AnswerItem::ListedGroup(_) if self.groups.len() >= MAX_ROWS => return Err(AnswerError::TooMany),
            AnswerItem::ListedGroup(group) => self.groups.push(*group),
            AnswerItem::Hint(_) if self.hints.len() >= MAX_HINTS => return Err(AnswerError::Hints),
            AnswerItem::Hint(hint) => self.hints.push(*hint),
            AnswerItem::Summary(_) if self.summary.is_some() => return Err(AnswerError::Summary),
            AnswerItem::Summary(summary) => self.summary = Some(summary),
            AnswerItem::Report(report) if self.report.is_none() => self.report = Some(*report),
            AnswerItem::Report(_) => return Err(AnswerError::Report),
            AnswerItem::Group(group) => self.report.as_mut().ok_or(AnswerError::Report)?.groups.push(*group),
        }
        Ok(())
    }

    /// Makes the suggested command of an item ask the same agent.
    fn add_socket(&self, item: &mut AnswerItem<'_>) {
        let verdict = match item {
            AnswerItem::Row(row) => &mut row.verdict,
            AnswerItem::Group(group) => &mut group.pileup.verdict,
            AnswerItem::Hint(hint) => match &mut **hint {
                Hint::Cause { verdict, .. } => verdict,
                Hint::Descriptors { .. }
                | Hint::Backlog { .. }
                | Hint::WaitsFor { .. }
                | Hint::Gone { .. }
                | Hint::Forgotten { .. }
                | Hint::More { .. } => return,
            },
            AnswerItem::Header(_)
            | AnswerItem::Listener(_)
            | AnswerItem::Workload(_)
            | AnswerItem::Process(_)
            | AnswerItem::Report(_)
            | AnswerItem::ListedGroup(_)
            | AnswerItem::Summary(_) => return,
        };
        if let Some(command) = &mut verdict.next.command {
            *command = with_socket(command, self.socket.as_deref()).into_owned();
        }
    }

    /// Ends a list.
    ///
    /// # Errors
    ///
    /// If there is no header.
    pub fn listing(self) -> Result<Listing<'a>, AnswerError> {
        let Self { header, rows, table, shared, groups, hints, summary, report: _, socket: _, redactor: _ } = self;
        Ok(Listing { header: header.ok_or(AnswerError::Header)?, rows, table, shared, groups, hints, summary })
    }

    /// Ends an incident report.
    ///
    /// # Errors
    ///
    /// If there is no header or no report.
    pub fn report(self) -> Result<(AnswerHeader, IncidentReport), AnswerError> {
        Ok((self.header.ok_or(AnswerError::Header)?, self.report.ok_or(AnswerError::Report)?))
    }
}

/// Sockets that an agent or a one-off scan has listed.
#[expect(clippy::vec_box, reason = "as the collector has them")]
#[derive(Debug)]
pub struct Listing<'a> {
    /// Header of the answer.
    pub header: AnswerHeader,
    rows: Vec<Box<AnswerRow<'a>>>,
    /// Table of the rows, if nothing else of them is shown.
    pub(super) table: Option<SocketTable>,
    shared: SharedItems<'a>,
    /// Groups of sockets, the largest first, if requested.
    pub groups: Vec<ListedGroup>,
    /// Hints to show below a table.
    pub hints: Vec<Hint>,
    /// Numbers of sockets and groups, for text.
    pub summary: Option<ListSummary>,
}

#[cfg(test)]
impl<'a> Listing<'a> {
    /// Collects these rows as an agent encodes them at `at`.
    pub(super) fn of_rows(rows: impl Iterator<Item = Row<'a>>, at: BootTime) -> Listing<'static> {
        let processes = BTreeMap::new();
        let view = View { now: at, rows: rows.collect(), untracked: 0, unseen: None, processes: &processes };
        tests::sent(&view, None, &ListShape { form: super::Form::Json, ..ListShape::default() })
    }
}

impl Listing<'_> {
    /// Returns the number of sockets.
    pub fn len(&self) -> usize {
        self.rows.len()
    }

    /// Whether there is no socket.
    pub fn is_empty(&self) -> bool {
        self.rows.is_empty()
    }

    /// Returns the sockets, oldest first.
    pub fn rows(&self) -> impl ExactSizeIterator<Item = Row<'_>> {
        self.rows.iter().map(|row| self.shared.row(row))
    }

    /// Returns the sockets in this order.
    pub(super) fn rows_in(&self, order: RowOrder) -> impl Iterator<Item = Row<'_>> {
        let keys: Vec<_> = self.rows().filter_map(|row| order.key(&row)).collect();
        let rows = order.rows(self.rows.len(), &keys).into_iter();
        rows.filter_map(|row| self.rows.get(row as usize)).map(|row| self.shared.row(row))
    }

    /// Returns all sockets and their context.
    pub fn view(&self) -> View<'_> {
        let AnswerHeader { at, untracked, unseen, .. } = &self.header;
        View {
            now: *at,
            rows: self.rows().collect(),
            untracked: *untracked,
            unseen: unseen.as_deref(),
            processes: &self.shared.processes,
        }
    }
}

#[cfg(test)]
pub(super) mod tests;
