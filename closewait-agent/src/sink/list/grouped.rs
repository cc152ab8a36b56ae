//! One line per group of sockets.

use std::{
    fmt::Write as _,
    io::{self, Write},
};

use super::{
    super::table::{self, Align, Column, Concession},
    ListShape, push_workload,
    rows::{push_endpoint, push_peer},
};
use closewait_engine::{
    model::Task,
    snapshot::groups::{Key, ListedGroup},
    snapshot::query::GroupBy,
    text::{push_duration, push_number},
};

/// Order in which columns give way on a narrow screen.
const CONCESSIONS: [Concession; 5] = [
    Concession::Drop("MEDIAN"),
    Concession::Shrink("OWNERS", 16),
    Concession::Drop("OWNERS"),
    Concession::Drop("FDS"),
    Concession::Drop("VERDICT"),
];

/// Maximum number of named owners.
const MAX_NAMED: usize = 2;

/// Writes the table.
///
/// # Errors
///
/// If `to` fails.
pub(super) fn write(groups: &[ListedGroup], by: GroupBy, shape: &ListShape, to: &mut impl Write) -> io::Result<()> {
    let column = |name| Column::new(name, Align::Left, groups.len());
    let (mut count, mut oldest, mut median) =
        (Column::new("COUNT", Align::Right, groups.len()), column("OLDEST"), column("MEDIAN"));
    let (mut verdict, mut owners, mut fds) = (column("VERDICT"), column("OWNERS"), column("FDS"));
    let mut key = column(heading(by));
    for group in groups {
        push_number(count.text(), group.count.into());
        count.end();
        for (column, age) in [(&mut oldest, group.oldest), (&mut median, group.median)] {
            match age {
                Some(age) => push_duration(column.text(), age),
                None => column.text().push('-'),
            }
            column.end();
        }
        push_verdicts(verdict.text(), group);
        verdict.end();
        let tail = push_key(key.text(), group);
        key.end_keeping(tail, 0);
        let (tail, rest) = push_owners(owners.text(), group);
        owners.end_keeping(tail, rest);
        push_fds(fds.text(), group);
        fds.end();
    }
    let name = key.name();
    let mut columns = vec![count, oldest, median, verdict, key];
    if by != GroupBy::Process {
        columns.push(owners);
    }
    let is_chosen = !shape.columns.is_empty();
    if is_chosen || !fds.is_blank() {
        columns.push(fds);
    }
    if is_chosen {
        columns = table::choose(columns, &shape.columns);
    }
    let last = [Concession::Shrink(name, 16), Concession::Drop("OLDEST"), Concession::Shrink(name, 8)];
    let concessions: Vec<_> = CONCESSIONS.into_iter().chain(last).collect();
    table::write(&columns, shape.style.width.map(usize::from), &table::sparing(&concessions, is_chosen), to)
}

/// Returns the heading of the column with the key.
const fn heading(by: GroupBy) -> &'static str {
    match by {
        GroupBy::Process => "OWNER",
        GroupBy::Listener => "LISTENER",
        GroupBy::Peer => "PEER",
        GroupBy::Cgroup => "CGROUP",
    }
}

/// Returns the headings of all columns.
pub(super) fn headings(by: GroupBy) -> Vec<&'static str> {
    let owners = if by == GroupBy::Process { None } else { Some("OWNERS") };
    let all = ["COUNT", "OLDEST", "MEDIAN", "VERDICT", heading(by)].into_iter();
    all.chain(owners).chain(["FDS"]).collect()
}

/// Adds the most frequent verdict with its share: `hung 80%`, or `hung` if there is no other.
fn push_verdicts(to: &mut String, group: &ListedGroup) {
    let Some((class, count)) = group.verdicts.first() else { return };
    to.push_str(class.name());
    let all: u64 = group.verdicts.iter().map(|(_class, count)| u64::from(*count)).sum();
    if group.verdicts.len() > 1 {
        to.push(' ');
        push_number(to, u64::from(*count) * 100 / all.max(1));
        to.push('%');
    }
}

/// Adds the key. Returns the number of bytes at its end to keep when it is cut.
fn push_key(to: &mut String, group: &ListedGroup) -> usize {
    match group.key {
        Key::Process(_) => return group.owners.first().map_or(0, |task| push_task(to, task)),
        Key::NoProcess => to.push_str("no process"),
        Key::AnyProcess => to.push('?'),
        Key::Listener { local, .. } if local.address.is_unspecified() => {
            to.push_str("*:");
            push_number(to, local.port.into());
        }
        Key::Listener { local, .. } => return push_endpoint(to, local),
        Key::NoListener => to.push_str("no listener"),
        Key::Peer(address, port) => return push_peer(to, address, port),
        Key::Cgroup(_) | Key::NoCgroup if group.workload.is_some() => {
            group.workload.iter().for_each(|workload| push_workload(to, workload));
        }
        // The path is unknown. Filters take it in this form.
        Key::Cgroup(id) => {
            to.push_str("id:");
            push_number(to, id);
        }
        Key::NoCgroup => to.push('?'),
    }
    0
}

/// Adds `name[12]`. Returns the length of `[12]`.
fn push_task(to: &mut String, task: &Task) -> usize {
    to.push_str(&task.comm.shown());
    let before = to.len();
    to.push('[');
    push_number(to, task.pid.into());
    to.push(']');
    to.len() - before
}

/// Adds the owners. Returns the number of bytes to keep when the cell is cut, and the number of bytes after them to cut first: the
/// first owner stays.
fn push_owners(to: &mut String, group: &ListedGroup) -> (usize, usize) {
    let (mut tail, mut first_ends) = (0, to.len());
    for (at, task) in group.owners.iter().take(MAX_NAMED).enumerate() {
        if at > 0 {
            to.push_str(", ");
        }
        let length = push_task(to, task);
        if at == 0 {
            (tail, first_ends) = (length, to.len());
        }
    }
    let others = group.owners.len().saturating_sub(MAX_NAMED);
    if others > 0 {
        to.push_str(" and ");
        push_number(to, others as u64);
        to.push_str(" more");
    }
    (tail, to.len() - first_ends)
}

/// Adds `812 of 1024`, and the number of descriptors of ended connections.
fn push_fds(to: &mut String, group: &ListedGroup) {
    // Writing to a String cannot fail.
    let _infallible: std::fmt::Result = match group.fds {
        (Some(open), Some(limit)) => write!(to, "{open} of {limit}"),
        (Some(open), None) => write!(to, "{open}"),
        (None, _) => Ok(()),
    };
    if group.gone > 0 {
        let gap = if group.fds.0.is_some() { ", " } else { "" };
        let _infallible: std::fmt::Result = write!(to, "{gap}{} gone", group.gone);
    }
}
