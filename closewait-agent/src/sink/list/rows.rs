//! One line per socket.

use std::{
    fmt::Write as _,
    io::{self, Write},
    net::IpAddr,
    time::Duration,
};

use super::{
    super::{
        schema::timer,
        table::{self, Align, Column, Concession},
    },
    ListShape,
    detail::SocketDetail,
    order::{RowOrder, SortKey},
    push_workload,
};
use closewait_engine::{
    model::{Certainty, Class, Dwell, Endpoint, Owner, Protocol, Timer, Verdict},
    snapshot::view::Row,
    text::{BoundWords, push_bounds, push_duration, push_number},
    time::BootTime,
};

/// Style of the table.
#[derive(Clone, Copy, Debug, Default)]
pub struct Style {
    /// Width of the screen, columns; `None` to shorten nothing.
    pub width: Option<u16>,
    /// Whether to show every column, even uninformative ones.
    pub wide: bool,
    /// Whether to use color.
    pub color: bool,
}

/// Order in which columns give way on a narrow screen: numbers that few users need, then the local end, then names, last the
/// identity of sockets. Letters of the owner come after everything that is not part of it.
const CONCESSIONS: [Concession; 16] = [
    Concession::Drop("NETNS"),
    Concession::Drop("SEND-Q"),
    Concession::Drop("TIMER"),
    Concession::Shrink("WHERE", 16),
    Concession::Shrink("OWNER", 34),
    Concession::Drop("WHERE"),
    Concession::Drop("RECV-Q"),
    Concession::Shrink("LOCAL", 21),
    Concession::Shrink("REMOTE", 21),
    Concession::Drop("LOCAL"),
    Concession::Shrink("AGE", 12),
    Concession::Shrink("VERDICT", 15),
    Concession::Shrink("OWNER", 18),
    Concession::Shrink("AGE", 8),
    Concession::Shrink("OWNER", 8),
    Concession::Shrink("VERDICT", 7),
];

/// Headings of the columns that every table can have, in their order.
pub(super) const HEADINGS: [&str; 10] =
    ["AGE", "RECV-Q", "SEND-Q", "TIMER", "LOCAL", "REMOTE", "OWNER", "WHERE", "VERDICT", "NETNS"];

/// Maximum number of named owners on a screen.
const MAX_NAMED: usize = 2;

/// Table that is filled row by row.
#[derive(Debug)]
pub(in crate::sink) struct SocketTable {
    style: Style,
    rows: usize,
    age: Column,
    unread: Column,
    unsent: Column,
    timer: Column,
    local: Column,
    remote: Column,
    owner: Column,
    place: Column,
    verdict: Column,
    netns: Column,
    details: Vec<(SocketDetail, Column)>,
    /// Headings of the requested columns, in lower case; empty for the usual ones.
    chosen: Vec<String>,
    order: RowOrder,
    /// Sort keys of the rows; empty if the rows have this order already.
    keys: Vec<SortKey>,
}

impl SocketTable {
    /// Creates an empty table with the columns and the order of this shape.
    pub(in crate::sink) fn of_shape(shape: &ListShape) -> Self {
        let details = SocketDetail::ALL.into_iter().filter(|detail| shape.has_column(detail.heading()));
        let column = |detail: SocketDetail| {
            let align = if detail.is_number() { Align::Right } else { Align::Left };
            (detail, Column::new(detail.heading(), align, 0))
        };
        let details = details.map(column).collect();
        Self { details, chosen: shape.columns.clone(), order: shape.order, ..Self::new(shape.style) }
    }

    /// Creates an empty table with the usual columns.
    pub(in crate::sink) fn new(style: Style) -> Self {
        let column = |name| Column::new(name, Align::Left, 0);
        let number = |name| Column::new(name, Align::Right, 0);
        Self {
            style,
            details: Vec::new(),
            chosen: Vec::new(),
            order: RowOrder::default(),
            keys: Vec::new(),
            rows: 0,
            age: column("AGE"),
            unread: number("RECV-Q"),
            unsent: number("SEND-Q"),
            timer: column("TIMER"),
            local: column("LOCAL"),
            remote: column("REMOTE"),
            owner: column("OWNER"),
            place: column("WHERE"),
            verdict: column("VERDICT"),
            netns: column("NETNS"),
        }
    }

    /// Returns the number of rows.
    pub(in crate::sink) fn len(&self) -> usize {
        self.rows
    }

    /// Adds a row, in its state at `now`.
    pub(in crate::sink) fn add(&mut self, row: &Row<'_>, now: BootTime) {
        let Self { style, rows, age, unread, unsent, timer, local, remote, owner, place, verdict, netns, .. } = self;
        *rows += 1;
        let socket = &row.socket;
        for (detail, column) in &mut self.details {
            detail.push(column.text(), row, now);
            column.end();
        }
        self.keys.extend(self.order.key(row));
        let rest = push_age(age.text(), row, now);
        age.end_keeping(0, rest);
        push_known(unread.text(), socket.unread_bytes);
        unread.end();
        push_known(unsent.text(), socket.send_queue_bytes);
        unsent.end();
        if let Some(running) = socket.timer {
            push_timer(timer.text(), running, now);
        }
        timer.end();
        let port = push_endpoint(local.text(), socket.local);
        local.end_keeping(port, 0);
        let mut port = push_endpoint(remote.text(), socket.remote);
        if socket.protocol == Protocol::Mptcp {
            remote.text().push_str(" (mptcp)");
            port += " (mptcp)".len();
        }
        remote.end_keeping(port, 0);
        let (tail, rest) = push_owner(owner.text(), row, style.width.map_or(usize::MAX, |_| MAX_NAMED));
        owner.end_keeping(tail, rest);
        let tail = row.workload.map_or(0, |workload| {
            let before = place.text().len();
            push_workload(place.text(), workload);
            (place.text().len() - before).min(10)
        });
        place.end_keeping(tail, 0);
        push_verdict(verdict.text(), &row.verdict);
        verdict.end_in(if style.color { sgr(&row.verdict) } else { None });
        push_known(netns.text(), socket.netns);
        netns.end();
    }

    /// Writes the table, with an optional last column that does not give way.
    ///
    /// # Errors
    ///
    /// If `to` fails.
    pub(in crate::sink) fn write(self, last: Option<Column>, to: &mut impl Write) -> io::Result<()> {
        let count = self.rows;
        self.write_rows(count, last, to)
    }

    /// Writes the first `count` rows of the table, with an optional last column that does not give way.
    ///
    /// # Errors
    ///
    /// If `to` fails.
    pub(in crate::sink) fn write_rows(self, count: usize, last: Option<Column>, to: &mut impl Write) -> io::Result<()> {
        let Self { style, rows, chosen, order, keys, .. } = self;
        let Self { age, unread, unsent, timer, local, remote, owner, place, verdict, netns, details, .. } = self;
        let mut all = vec![age, unread, unsent, timer, local, remote, owner, place, verdict, netns];
        all.extend(details.into_iter().map(|(_, column)| column));
        if count < rows || order != RowOrder::default() {
            let mut shown = order.rows(rows, &keys);
            shown.truncate(count);
            all = all.iter().map(|column| column.of_rows(&shown)).collect();
        }
        let says_something = |column: &Column| match column.name() {
            "TIMER" | "WHERE" => !column.is_blank(),
            "NETNS" => !column.is_monotonous(),
            _ => true,
        };
        let mut columns: Vec<_> = if chosen.is_empty() {
            all.into_iter().filter(|column| style.wide || says_something(column)).collect()
        } else {
            table::choose(all, &chosen)
        };
        columns.extend(last);
        let concessions = table::sparing(&CONCESSIONS, !chosen.is_empty());
        table::write(&columns, style.width.map(usize::from), &concessions, to)
    }
}

/// Adds `1m30s`, or `≥12m00s ≤3h00m` where only different bounds are known. Returns the number of bytes at the end to
/// cut first.
fn push_age(to: &mut String, row: &Row<'_>, now: BootTime) -> usize {
    if let Some(gone) = row.gone {
        to.push_str("gone: ");
        to.push_str(gone.how.name());
        if !gone.seen {
            return 0;
        }
        let before = to.len();
        to.push(' ');
        push_duration(to, now.since(gone.at));
        to.push_str(" ago");
        return to.len() - before;
    }
    match row.dwell {
        None => to.push('?'),
        Some(Dwell::Exact(age)) => push_duration(to, age),
        Some(Dwell::Between { at_least, at_most }) => return push_bounds(to, at_least, at_most, BoundWords::TABLE),
    }
    0
}

/// Adds a number; a question mark if it is unknown.
pub(super) fn push_known(to: &mut String, number: Option<impl Into<u64>>) {
    match number {
        Some(number) => push_number(to, number.into()),
        None => to.push('?'),
    }
}

/// Adds a timer as `ss -o` writes it, except for times below ten seconds, where `ss` calls seconds with a fraction
/// `ms`.
fn push_timer(to: &mut String, running: Timer, now: BootTime) {
    to.push_str(timer(running.kind));
    to.push(',');
    let left = running.expires.since(now);
    let (minutes, seconds, millis) = (left.as_secs() / 60, left.as_secs() % 60, left.subsec_millis());
    let tenth = Duration::from_secs(10);
    // Writing to a String cannot fail.
    let _infallible: std::fmt::Result = match (minutes, seconds) {
        (0, 0) => write!(to, "{millis}ms"),
        (0, _) if left < tenth && millis > 0 => write!(to, "{seconds}.{millis:03}sec"),
        (0, _) => write!(to, "{seconds}sec"),
        (1..10, 1..) => write!(to, "{minutes}min{seconds}sec"),
        _ => write!(to, "{minutes}min"),
    };
    to.push(',');
    push_number(to, running.retries.into());
}

/// Adds `address:port`. Returns the length of the port at its end, bytes.
pub(in crate::sink) fn push_endpoint(to: &mut String, endpoint: Endpoint) -> usize {
    push_address(to, endpoint.address, true);
    let before = to.len();
    if endpoint.address.is_ipv6() {
        to.push(']');
    }
    to.push(':');
    push_number(to, endpoint.port.into());
    to.len() - before
}

/// Adds an address. An IPv6 address before a port has a bracket.
fn push_address(to: &mut String, address: IpAddr, port_follows: bool) {
    match address {
        IpAddr::V4(address) => {
            for (at, byte) in address.octets().into_iter().enumerate() {
                if at > 0 {
                    to.push('.');
                }
                push_number(to, byte.into());
            }
        }
        IpAddr::V6(address) => {
            // Writing to a String cannot fail.
            let _infallible: std::fmt::Result = write!(to, "{}{address}", if port_follows { "[" } else { "" });
        }
    }
}

/// Writes the owners. Returns the number of bytes to keep when the cell is cut, and the number of bytes after them to
/// cut first.
fn push_owner(to: &mut String, row: &Row<'_>, named: usize) -> (usize, usize) {
    match (row.owners.as_deref(), row.socket.accepted) {
        (Some([]) | None, Some(false)) => {
            to.push_str("never accepted");
            return push_listener(to, row);
        }
        (None, _) => to.push('?'),
        (Some([]), _) => to.push_str("no process"),
        (Some([first, others @ ..]), _) => {
            to.push_str(&first.task.comm.shown());
            let name_ends = to.len();
            push_descriptor(to, first);
            let first_ends = to.len();
            let (named, counted) = others.split_at(others.len().min(named.saturating_sub(1)));
            for owner in named {
                to.push_str(", ");
                to.push_str(&owner.task.comm.shown());
                push_descriptor(to, owner);
            }
            if !counted.is_empty() {
                to.push_str(" and ");
                push_number(to, counted.len() as u64);
                to.push_str(" more");
            }
            return (first_ends - name_ends, to.len() - first_ends);
        }
    }
    (0, 0)
}

/// Adds `[12] fd 3`.
fn push_descriptor(to: &mut String, owner: &Owner) {
    to.push('[');
    push_number(to, owner.task.pid.into());
    to.push_str("] fd ");
    push_number(to, owner.fd.into());
}

/// Adds the process that has not accepted the socket, and the backlog. Returns the number of bytes to keep when the cell is cut,
/// and the number of bytes after them to cut first.
fn push_listener(to: &mut String, row: &Row<'_>) -> (usize, usize) {
    let Some(listener) = row.listener else { return (0, 0) };
    let mut tail = 0;
    if let Some(owner) = listener.owners.first() {
        to.push_str(" by ");
        to.push_str(&owner.task.comm.shown());
        let before = to.len();
        to.push('[');
        push_number(to, owner.task.pid.into());
        to.push(']');
        tail = to.len() - before;
    }
    let before = to.len();
    to.push_str(" (backlog ");
    push_number(to, listener.what.backlog.into());
    to.push('/');
    push_number(to, listener.what.backlog_max.into());
    to.push(')');
    (tail, to.len() - before)
}

fn push_verdict(to: &mut String, verdict: &Verdict) {
    to.push_str(verdict.class.name());
    if verdict.class != Class::Unknown {
        to.push(' ');
        to.push_str(verdict.certainty.name());
    }
}

/// Returns the color of a verdict. Red: action needed. Yellow: possibly of interest. Bold: certain enough to act on.
fn sgr(verdict: &Verdict) -> Option<&'static str> {
    let certain = match verdict.certainty {
        Certainty::Fact | Certainty::High => true,
        Certainty::Medium | Certainty::Low => false,
    };
    match verdict.class {
        Class::Hung | Class::Leak | Class::NeverAccepted => Some(if certain { "1;31" } else { "31" }),
        Class::Pool | Class::HalfClose | Class::Inherited | Class::ProxyWait => Some("33"),
        Class::Transient => Some("2"),
        Class::Unknown => None,
    }
}

/// Adds an address, or an address with its port.
pub(super) fn push_peer(to: &mut String, address: IpAddr, port: Option<u16>) -> usize {
    match port {
        Some(port) => push_endpoint(to, Endpoint { address, port }),
        None => {
            push_address(to, address, false);
            0
        }
    }
}
