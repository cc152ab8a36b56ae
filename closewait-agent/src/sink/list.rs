//! Text and JSON of `closewait list`.

mod grouped;
pub(super) mod rows;
#[cfg(test)]
mod tests;

use std::io::{self, Write};

pub use self::rows::Style;
use super::{
    Form,
    answer::{AnswerHeader, Listing},
    json,
};
use closewait_engine::{
    snapshot::query::{GroupBy, ListContent},
    workload::Workload,
};

/// Way a list is printed.
#[derive(Clone, Copy, Debug, Default)]
pub struct ListShape {
    /// Text or JSON.
    pub form: Form,
    /// Criterion for one line per group of sockets; `None` for one line per socket.
    pub by: Option<GroupBy>,
    /// Style of text.
    pub style: Style,
}

impl ListShape {
    /// Returns the content that an answer needs for this shape.
    pub fn content(self) -> ListContent {
        match (self.form, self.by) {
            (_, Some(by)) => ListContent::Groups(by),
            (Form::Json, None) => ListContent::Sockets,
            (Form::Text, None) => ListContent::Table,
        }
    }
}

/// Writes a list. It has to be the answer to a query for the content of this shape.
///
/// # Errors
///
/// If `to` fails, or a value cannot be written as JSON.
pub fn render(listing: Listing<'_>, shape: ListShape, to: &mut impl Write) -> io::Result<()> {
    match (shape.form, shape.by) {
        (Form::Json, None) => json::list(&listing, to),
        (Form::Json, Some(by)) => json::groups(&listing.groups, by, &listing.header, to),
        (Form::Text, _) => text(listing, shape, to),
    }
}

/// Writes the table, or the reason why it is empty, then notes on missing sockets.
fn text(listing: Listing<'_>, shape: ListShape, to: &mut impl Write) -> io::Result<()> {
    let Listing { header: AnswerHeader { total, untracked, unseen, .. }, table, groups, hints, .. } = listing;
    let table = table.filter(|table| table.len() > 0);
    match (shape.by, table) {
        (Some(by), _) if !groups.is_empty() => {
            grouped::write(&groups, by, shape.style.width.map(usize::from), to)?;
        }
        (None, Some(table)) => table.write(None, to)?,
        (Some(_), _) | (None, None) => match total {
            0 => writeln!(to, "{}", none(untracked, unseen.as_deref()))?,
            others => writeln!(to, "no socket matches; {others} without the filters")?,
        },
    }
    for (at, hint) in hints.iter().enumerate() {
        writeln!(to, "{}{hint}", if at == 0 { "\n" } else { "" })?;
    }
    missing(untracked, unseen.as_deref()).try_for_each(|missing| writeln!(to, "\n{missing}"))
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
