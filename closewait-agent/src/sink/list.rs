//! Text and JSON of `closewait list`.

mod detail;
mod grouped;
mod order;
mod page;
pub(super) mod rows;
#[cfg(test)]
mod tests;

use std::{
    io::{self, Write},
    path::PathBuf,
};

use self::detail::SocketDetail;
pub use self::{
    order::{RowOrder, SortBy},
    page::groups_of_report,
    rows::Style,
};
use super::{Form, answer::Listing, json};
use closewait_engine::{
    model::IncidentReport,
    snapshot::{
        hints::Hint,
        query::{GroupBy, ListContent},
    },
    text,
    workload::Workload,
};

/// Way a list is printed.
#[derive(Clone, Debug, Default)]
pub struct ListShape {
    /// Text or JSON.
    pub form: Form,
    /// Criterion for one line per group of sockets; `None` for one line per socket.
    pub by: Option<GroupBy>,
    /// Style of text.
    pub style: Style,
    /// Order of rows.
    pub order: RowOrder,
    /// Headings of the columns of text, in lower case; empty for the usual ones.
    pub columns: Vec<String>,
    /// Number of rows of the screen that text is fitted to; `None` to omit nothing.
    pub height: Option<usize>,
    /// Control socket that the user has given, for suggested commands.
    pub socket: Option<PathBuf>,
    /// Whether labels stand for addresses and names.
    pub is_redacted: bool,
}

impl ListShape {
    /// Returns the content that an answer needs for this shape.
    pub fn content(&self) -> ListContent {
        match (self.form, self.by) {
            (_, Some(by)) => ListContent::Groups(by),
            (Form::Json, None) => ListContent::Sockets,
            (Form::Text, None) if SocketDetail::ALL.iter().any(|detail| self.has_column(detail.heading())) => {
                ListContent::WideTable
            }
            (Form::Text, None) => ListContent::Table,
        }
    }

    /// Whether the user has chosen the column with this heading.
    fn has_column(&self, heading: &str) -> bool {
        self.columns.iter().any(|column| column.eq_ignore_ascii_case(heading))
    }
}

/// Returns the headings of the columns that the user can choose, in lower case.
pub fn headings(by: Option<GroupBy>) -> Vec<String> {
    let all: Vec<&str> = match by {
        None => rows::HEADINGS.into_iter().chain(SocketDetail::ALL.iter().map(|detail| detail.heading())).collect(),
        Some(by) => grouped::headings(by),
    };
    lower(&all)
}

/// Returns the headings of the columns of the groups of a report that the user can choose, in lower case.
pub fn headings_of_groups() -> Vec<String> {
    lower(&super::status::HEADINGS)
}

fn lower(headings: &[&str]) -> Vec<String> {
    let headings = headings.iter();
    headings.map(|heading| heading.to_ascii_lowercase().replace(' ', "-")).collect()
}

/// Writes a list. It has to be the answer to a query for the content of this shape.
///
/// # Errors
///
/// If `to` fails, or a value cannot be written as JSON.
pub fn render(listing: Listing<'_>, shape: &ListShape, to: &mut impl Write) -> io::Result<()> {
    let mut listing = listing;
    shape.order.sort(&mut listing.groups);
    match (shape.form, shape.by) {
        (Form::Json, None) => json::list(&listing, shape.order, to),
        (Form::Json, Some(by)) => json::groups(&listing.groups, by, &listing.header, to),
        (Form::Text, _) => page::write(listing, shape, to),
    }
}

/// Returns a text for each group of sockets that may be in CLOSE_WAIT and is not shown: untracked ones, and hidden
/// ones.
pub fn missing(untracked: u64, unseen: Option<&str>) -> impl Iterator<Item = String> {
    let untracked = (untracked > 0).then(|| {
        let sockets = if untracked == 1 { "socket is" } else { "sockets are" };
        format!(
            "{untracked} more {sockets} in CLOSE_WAIT and not shown: the agent tracks no more\n\
             hint: raise --max-tracked of closewait run, or the memory limit that lowers it"
        )
    });
    untracked.into_iter().chain(unseen.map(str::to_owned))
}

/// Returns a text about sockets that have exited CLOSE_WAIT while a program has not closed them; `None` without any but those that
/// count in the groups of a report.
pub(super) fn still_open(report: &IncidentReport) -> Option<String> {
    let in_groups = report.ended();
    let count = report.totals.fd_open.saturating_sub(in_groups);
    let text = match in_groups {
        // The hint of a list also names the owner, which totals do not have.
        0 => Hint::Gone { owner: None, of_owner: count, count }.to_string(),
        _ => format!("{} ended but not closed", text::count(count, "more connection")),
    };
    (count > 0).then(|| format!("{text}: see closewait list"))
}

/// Returns the text for a list without sockets.
pub(super) fn none(untracked: u64, unseen: Option<&str>) -> &'static str {
    match (untracked, unseen) {
        (0, None) => "no socket is in CLOSE_WAIT",
        (_, None) => "no tracked socket is in CLOSE_WAIT",
        (_, Some(_)) => "no socket that can be seen from here is in CLOSE_WAIT",
    }
}

/// Adds the shortest distinctive name of a workload.
fn push_workload(to: &mut String, workload: &Workload) {
    /// Length of an id in `docker ps`.
    const ID: usize = 12;
    let Workload { cgroup_path, unit, container, pod, .. } = workload;
    let parts = match (pod, container, unit) {
        (Some(pod), _, _) => {
            let name = pod.name.as_deref().unwrap_or(&pod.uid);
            [pod.namespace.as_deref(), Some(name), pod.container_name.as_deref()]
        }
        (None, Some(container), _) => [container.id.get(..ID).or(Some(&container.id)), None, None],
        (None, None, Some(unit)) => [Some(unit.as_str()), None, None],
        (None, None, None) => [Some(cgroup_path.as_str()), None, None],
    };
    for (at, part) in parts.into_iter().flatten().enumerate() {
        if at > 0 {
            to.push('/');
        }
        to.push_str(part);
    }
}
