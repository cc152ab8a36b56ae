//! Columns that a table of sockets has only on request: facts that otherwise only JSON has.

use std::fmt::Write as _;

use super::{
    super::schema::socket::read_state,
    rows::{push_endpoint, push_known},
};
use closewait_engine::{
    model::{Opener, Protocol, Role},
    snapshot::view::Row,
    text::push_duration,
    time::BootTime,
};

/// Fact about a socket.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::sink) enum SocketDetail {
    Protocol,
    Role,
    Cookie,
    Inode,
    Cgroup,
    Received,
    Sent,
    Acked,
    Read,
    Keepalive,
    Listener,
    WaitsFor,
    Opener,
    Rule,
    Cause,
}

impl SocketDetail {
    pub(in crate::sink) const ALL: [Self; 15] = [
        Self::Protocol,
        Self::Role,
        Self::Cookie,
        Self::Inode,
        Self::Cgroup,
        Self::Received,
        Self::Sent,
        Self::Acked,
        Self::Read,
        Self::Keepalive,
        Self::Listener,
        Self::WaitsFor,
        Self::Opener,
        Self::Rule,
        Self::Cause,
    ];

    /// Returns the heading.
    pub(in crate::sink) const fn heading(self) -> &'static str {
        match self {
            Self::Protocol => "PROTOCOL",
            Self::Role => "ROLE",
            Self::Cookie => "COOKIE",
            Self::Inode => "INODE",
            Self::Cgroup => "CGROUP",
            Self::Received => "RECEIVED",
            Self::Sent => "SENT",
            Self::Acked => "ACKED",
            Self::Read => "READ",
            Self::Keepalive => "KEEPALIVE",
            Self::Listener => "LISTENER",
            Self::WaitsFor => "WAITS-FOR",
            Self::Opener => "OPENER",
            Self::Rule => "RULE",
            Self::Cause => "CAUSE",
        }
    }

    /// Whether cells are numbers.
    pub(in crate::sink) const fn is_number(self) -> bool {
        match self {
            Self::Cookie | Self::Inode | Self::Cgroup | Self::Received | Self::Sent | Self::Acked => true,
            Self::Protocol
            | Self::Role
            | Self::Read
            | Self::Keepalive
            | Self::Listener
            | Self::WaitsFor
            | Self::Opener
            | Self::Rule
            | Self::Cause => false,
        }
    }

    /// Adds the cell of a row, in its state at `now`; a question mark if the fact is unknown.
    pub(in crate::sink) fn push(self, to: &mut String, row: &Row<'_>, now: BootTime) {
        let socket = &row.socket;
        match self {
            Self::Protocol => to.push_str(match socket.protocol {
                Protocol::Tcp => "tcp",
                Protocol::Mptcp => "mptcp",
            }),
            Self::Role => to.push_str(socket.role.map_or("?", Role::name)),
            Self::Cookie => push_known(to, socket.cookie),
            Self::Inode => push_known(to, socket.inode),
            Self::Cgroup => push_known(to, socket.cgroup),
            Self::Received => push_known(to, socket.received_bytes),
            Self::Sent => push_known(to, socket.sent_bytes),
            Self::Acked => push_known(to, socket.acked_bytes),
            Self::Read => to.push_str(socket.read_state().map_or("?", read_state)),
            Self::Keepalive => to.push_str(match socket.keepalive {
                Some(true) => "yes",
                Some(false) => "no",
                None => "?",
            }),
            Self::Listener => match row.listener {
                Some(listener) => {
                    push_endpoint(to, listener.what.local);
                    // Writing to a String cannot fail.
                    let _infallible: std::fmt::Result =
                        write!(to, " {}/{}", listener.what.backlog, listener.what.backlog_max);
                }
                None => to.push('?'),
            },
            Self::WaitsFor => {
                if let Some(peer) = row.proxy_peer {
                    push_endpoint(to, peer.socket.remote);
                }
            }
            Self::Opener => match socket.opener.as_deref() {
                Some(Opener { task, at }) => {
                    let _infallible: std::fmt::Result = write!(to, "{}[{}] ", task.comm, task.pid);
                    push_duration(to, now.since(*at));
                    to.push_str(" ago");
                }
                None => to.push('?'),
            },
            Self::Rule => to.push_str(row.verdict.rule),
            Self::Cause => to.push_str(&row.verdict.text),
        }
    }
}
