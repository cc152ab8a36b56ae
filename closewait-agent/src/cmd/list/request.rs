//! Request of `closewait list`: checked options, and the output of one answer.

use std::{
    io::{BufWriter, Write},
    path::Path,
};

use anyhow::Context as _;
use thiserror::Error;

use super::{
    super::{NOT_WRITTEN, color},
    answer, filter, height, warn_of_missing, width,
};
use crate::{
    cli::{self, GroupByArg, SortArg},
    sink::{
        Form,
        list::{ListShape, RowOrder, SortBy, Style, groups_of_report, headings, headings_of_groups, render},
    },
};
use closewait_engine::{
    snapshot::query::{GroupBy, Query, ReportContent},
    text::harmless,
};

/// Size of a write, bytes.
const WRITE: usize = 64 * 1024;

/// Reason why options do not fit together.
#[derive(Debug, Error)]
pub(in crate::cmd) enum ListError {
    /// The table has no such column.
    #[error("the table has no column {name}\nhint: use one of {}", known.join(", "))]
    UnknownColumn {
        /// Name from the command line, made harmless.
        name: String,
        /// Names of the columns.
        known: Vec<String>,
    },
    /// JSON has no columns.
    #[error("--columns selects columns of text, and JSON objects always have all members\nhint: remove --columns")]
    ColumnsOfJson,
    /// Groups do not have the property.
    #[error("groups of sockets cannot be sorted by {by}\nhint: sort by age, owner or verdict, or list sockets")]
    Unsortable {
        /// Property.
        by: &'static str,
    },
}

/// Checked options of `closewait list`.
pub(super) struct ListRequest {
    query: Query,
    shape: ListShape,
    /// Whether rows are the groups of a report.
    of_report: bool,
    all: bool,
}

impl ListRequest {
    /// Checks the options of the command line.
    ///
    /// # Errors
    ///
    /// If they do not fit together.
    pub(super) fn new(args: &cli::ListArgs) -> Result<Self, ListError> {
        let cli::ListArgs { shape, filters, by, sort, reverse, columns, all, wide, watch: _, redact, asked } = args;
        let of_report = *by == GroupByArg::Group;
        let by = group_by(*by);
        let form = shape.output.into();
        if form == Form::Json && !columns.is_empty() {
            return Err(ListError::ColumnsOfJson);
        }
        let known = if of_report { headings_of_groups() } else { headings(by) };
        let columns: Vec<String> = columns.iter().map(|name| name.trim().to_ascii_lowercase()).collect();
        if let Some(name) = columns.iter().find(|name| !known.contains(name)) {
            return Err(ListError::UnknownColumn { name: harmless(name.as_bytes()), known });
        }
        check_sort(*sort, by, of_report)?;
        let order = RowOrder { by: sort.map(Into::into), reverse: *reverse };
        let style = Style { width: None, wide: *wide, color: color(*shape) };
        let (is_redacted, socket) = (*redact, asked.shown_socket(*redact).map(Path::to_owned));
        let shape = ListShape { form, by, style, order, columns, height: None, socket, is_redacted };
        let filter = filter(filters);
        let query = if of_report {
            Query::Report { filter, content: ReportContent::Groups }
        } else {
            Query::List { filter, content: shape.content() }
        };
        Ok(Self { query, shape, of_report, all: *all })
    }

    /// Returns the shape for the current size of the screen.
    fn fitted(&self) -> ListShape {
        let mut shape = self.shape.clone();
        if !shape.style.wide {
            shape.style.width = width();
            shape.height = if self.all { None } else { height().map(usize::from) };
        }
        shape
    }

    /// Queries an agent or scans, and writes the answer.
    ///
    /// # Errors
    ///
    /// If there is no answer, or `to` fails.
    pub(super) fn show(&self, asked: &cli::AgentArgs, to: &mut impl Write) -> anyhow::Result<()> {
        let shape = self.fitted();
        answer(asked, &self.query, shape.clone(), |answer| {
            let mut to = BufWriter::with_capacity(WRITE, to);
            let written = if self.of_report {
                let (header, report) = answer.report()?;
                groups_of_report(&report, header.anchor, &shape, &mut to)
            } else {
                let listing = answer.listing()?;
                // JSON objects have no member for it.
                if shape.form == Form::Json {
                    warn_of_missing(&listing.header);
                }
                render(listing, &shape, &mut to)
            };
            written.and_then(|()| to.flush()).context(NOT_WRITTEN)
        })
    }

    /// Whether answers are text.
    pub(super) fn is_text(&self) -> bool {
        self.shape.form == Form::Text
    }
}

/// Checks that the rows have the property that sorts them.
fn check_sort(sort: Option<SortArg>, by: Option<GroupBy>, of_report: bool) -> Result<(), ListError> {
    let (name, groups_have_it) = match sort {
        None | Some(SortArg::Age | SortArg::Owner | SortArg::Verdict) => return Ok(()),
        Some(SortArg::RecvQ) => ("recv-q", false),
        Some(SortArg::SendQ) => ("send-q", false),
        Some(SortArg::Port) => ("port", of_report || matches!(by, Some(GroupBy::Listener | GroupBy::Peer))),
    };
    if groups_have_it || (by.is_none() && !of_report) { Ok(()) } else { Err(ListError::Unsortable { by: name }) }
}

/// Returns the property by which the answer groups sockets; `None` for sockets and for the groups of a report.
const fn group_by(by: GroupByArg) -> Option<GroupBy> {
    match by {
        GroupByArg::Socket | GroupByArg::Group => None,
        GroupByArg::Process => Some(GroupBy::Process),
        GroupByArg::Listener => Some(GroupBy::Listener),
        GroupByArg::Peer => Some(GroupBy::Peer),
        GroupByArg::Cgroup => Some(GroupBy::Cgroup),
    }
}

impl From<SortArg> for SortBy {
    fn from(sort: SortArg) -> Self {
        match sort {
            SortArg::Age => Self::Age,
            SortArg::RecvQ => Self::RecvQ,
            SortArg::SendQ => Self::SendQ,
            SortArg::Port => Self::Port,
            SortArg::Owner => Self::Owner,
            SortArg::Verdict => Self::Verdict,
        }
    }
}
