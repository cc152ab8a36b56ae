//! What `closewait list` prints of a [`Listing`], an agent's or its own.

mod grouped;
pub(super) mod rows;
#[cfg(test)]
mod tests;

use std::io::{self, Write};

pub use self::rows::Style;
use super::{Form, answer::Listing, json};
use closewait_engine::{
    snapshot::groups::groups,
    snapshot::hints::hints,
    snapshot::query::{GroupBy, VerdictTexts},
    snapshot::view::{Row, View},
    workload::Workload,
};

/// How a list is printed.
#[derive(Clone, Copy, Debug, Default)]
pub struct ListShape {
    /// Text or JSON.
    pub form: Form,
    /// One line for each group of sockets; `None`: one line for each socket.
    pub by: Option<GroupBy>,
    /// How text looks.
    pub style: Style,
}

impl ListShape {
    /// Which texts of verdicts are printed.
    pub fn texts(self) -> VerdictTexts {
        match (self.form, self.by) {
            (Form::Json, None) => VerdictTexts::All,
            (Form::Json, Some(_)) | (Form::Text, _) => VerdictTexts::FirstOfEach,
        }
    }
}

/// Writes a list.
///
/// # Errors
///
/// If `to` fails, or a value cannot be written as JSON.
pub fn render(listing: &Listing<'_>, shape: ListShape, to: &mut impl Write) -> io::Result<()> {
    match (shape.form, shape.by) {
        (Form::Json, None) => json::list(listing, to),
        (Form::Json, Some(by)) => {
            let view = listing.view();
            json::groups(&groups(&view, &view.rows.iter().collect::<Vec<_>>(), by), by, &listing.header, to)
        }
        (Form::Text, _) => {
            let mut lines = Vec::new();
            text(listing, shape, &mut lines);
            to.write_all(&lines)
        }
    }
}

fn text(listing: &Listing<'_>, shape: ListShape, to: &mut Vec<u8>) {
    let view = listing.view();
    table(&view, listing.header.total, shape, to);
    for missing in missing(view.untracked, view.unseen) {
        let _infallible: io::Result<()> = writeln!(to, "\n{missing}");
    }
}

/// Text for each kind of socket that may be in CLOSE_WAIT and is not shown: those that are not tracked, and those that
/// cannot be seen.
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

/// Text for a list without sockets.
pub(super) fn none(untracked: u64, unseen: Option<&str>) -> &'static str {
    match (untracked, unseen) {
        (0, None) => "no socket is in CLOSE_WAIT",
        (_, None) => "no tracked socket is in CLOSE_WAIT",
        (_, Some(_)) => "no socket that can be seen from here is in CLOSE_WAIT",
    }
}

/// Writes the table, or why it is empty; `total` is the number of sockets without the filters.
fn table(view: &View<'_>, total: u64, shape: ListShape, to: &mut Vec<u8>) {
    let rows: Vec<&Row<'_>> = view.rows.iter().collect();
    if rows.is_empty() {
        // Writing to a Vec cannot fail.
        let _infallible: io::Result<()> = match total {
            0 => writeln!(to, "{}", none(view.untracked, view.unseen)),
            others => writeln!(to, "no socket matches; {others} without the filters"),
        };
        return;
    }
    match shape.by {
        None => rows::write(view.now, &rows, shape.style, to),
        Some(by) => grouped::write(&groups(view, &rows, by), by, shape.style.width.map(usize::from), to),
    }
    let mut gap = "\n";
    for hint in hints(view, &rows) {
        let _infallible: io::Result<()> = writeln!(to, "{gap}{hint}");
        gap = "";
    }
}

/// The shortest name of a workload that tells it from others.
fn push_workload(to: &mut String, workload: &Workload) {
    /// What `docker ps` shows of an id.
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
