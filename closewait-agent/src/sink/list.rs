//! The answer to a [`Query`]: what `closewait list` prints, by itself or for an agent.

mod grouped;
pub(super) mod rows;
#[cfg(test)]
mod tests;

use std::io::{self, Write as _};

pub use self::rows::Style;
use super::json;
use crate::clock::TimeAnchor;
use closewait_engine::{
    groups::groups,
    hints::hints,
    query::{Form, Query},
    view::{Row, View},
    workload::Workload,
};

/// Writes what `query` asks of `view`.
///
/// # Errors
///
/// If a value cannot be written as JSON.
pub fn render(view: &View<'_>, query: &Query, anchor: TimeAnchor, to: &mut Vec<u8>) -> io::Result<()> {
    let rows: Vec<&Row<'_>> = view.rows.iter().filter(|row| query.filter.matches(row, view.now)).collect();
    match query.form {
        Form::Json => json::list(view, &rows, query.by, anchor, to),
        Form::Text => {
            text(view, &rows, query, to);
            Ok(())
        }
    }
}

fn text<'v>(view: &'v View<'_>, rows: &[&'v Row<'v>], query: &Query, to: &mut Vec<u8>) {
    table(view, rows, query, to);
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

fn table<'v>(view: &'v View<'_>, rows: &[&'v Row<'v>], query: &Query, to: &mut Vec<u8>) {
    if rows.is_empty() {
        // Writing to a Vec cannot fail.
        let _infallible: io::Result<()> = match view.rows.len() {
            0 => writeln!(to, "{}", none(view.untracked, view.unseen)),
            others => writeln!(to, "no socket matches; {others} without the filters"),
        };
        return;
    }
    let Query { width, wide, colour, .. } = *query;
    match query.by {
        None => rows::write(view.now, rows, Style { width, wide, colour }, to),
        Some(by) => grouped::write(&groups(view, rows, by), by, width.map(usize::from), to),
    }
    let mut gap = "\n";
    for hint in hints(view, rows) {
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
