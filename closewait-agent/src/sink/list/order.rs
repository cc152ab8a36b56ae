//! Order of rows.

use std::cmp::Reverse;

use closewait_engine::{
    model::{Certainty, Class, Role, Verdict},
    snapshot::{
        groups::{Key, ListedGroup, owners},
        view::Row,
    },
};

/// Property that sorts rows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SortBy {
    /// Minimum age, the oldest first.
    Age,
    /// Number of unread bytes, the most first.
    RecvQ,
    /// Number of unacknowledged bytes, the most first.
    SendQ,
    /// Port of the server, in ascending order.
    Port,
    /// Name of the first owner, in alphabetical order.
    Owner,
    /// Verdict, the most serious first.
    Verdict,
}

/// Order of rows.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct RowOrder {
    /// Property; `None` for the order of the answer: sockets by age, groups by their number of sockets.
    pub by: Option<SortBy>,
    /// Whether the last row comes first.
    pub reverse: bool,
}

/// Value of a row that is compared with those of other rows.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(in crate::sink) enum SortKey {
    /// A number, the greatest first, unknown ones last.
    Greatest(Reverse<Option<u128>>),
    /// Ports, unknown ones last.
    Ports(bool, u16, u16),
    /// Name and PID, unknown ones last.
    Name(bool, String, u32),
    /// Number of the class in [`SERIOUS`], and certainty.
    Verdict(usize, Certainty),
}

/// Classes, the most serious first.
const SERIOUS: [Class; 9] = [
    Class::Hung,
    Class::NeverAccepted,
    Class::Leak,
    Class::Inherited,
    Class::ProxyWait,
    Class::Unknown,
    Class::Transient,
    Class::HalfClose,
    Class::Pool,
];

impl RowOrder {
    /// Whether rows in the order of the answer have this order already.
    fn is_of_answer(self) -> bool {
        matches!(self.by, None | Some(SortBy::Age))
    }

    /// Returns the key of a row of a socket; `None` if rows need none.
    pub(in crate::sink) fn key(self, row: &Row<'_>) -> Option<SortKey> {
        let by = self.by.filter(|_| !self.is_of_answer())?;
        let socket = &row.socket;
        let number = |number: Option<u32>| SortKey::Greatest(Reverse(number.map(u128::from)));
        Some(match by {
            SortBy::Age => return None,
            SortBy::RecvQ => number(socket.unread_bytes),
            SortBy::SendQ => number(socket.send_queue_bytes),
            SortBy::Port => {
                let (local, remote) = (socket.local.port, socket.remote.port);
                if socket.role == Some(Role::Client) {
                    SortKey::Ports(false, remote, local)
                } else {
                    SortKey::Ports(false, local, remote)
                }
            }
            SortBy::Owner => match owners(&row.facts()).next() {
                Some(task) => SortKey::Name(false, task.comm.as_str().to_owned(), task.pid),
                None => SortKey::Name(true, String::new(), 0),
            },
            SortBy::Verdict => verdict(&row.verdict),
        })
    }

    /// Returns the numbers of `count` rows in this order; `keys` are those of the rows.
    pub(in crate::sink) fn rows(self, count: usize, keys: &[SortKey]) -> Vec<u32> {
        let mut rows: Vec<u32> = (0..u32::try_from(count).unwrap_or(u32::MAX)).collect();
        if !keys.is_empty() {
            rows.sort_by_key(|row| keys.get(*row as usize));
        }
        if self.reverse {
            rows.reverse();
        }
        rows
    }

    /// Sorts groups.
    pub(in crate::sink) fn sort(self, groups: &mut [ListedGroup]) {
        if let Some(by) = self.by {
            groups.sort_by_cached_key(|group| group_key(group, by));
        }
        if self.reverse {
            groups.reverse();
        }
    }
}

fn verdict(verdict: &Verdict) -> SortKey {
    SortKey::Verdict(seriousness(verdict.class), verdict.certainty)
}

fn seriousness(class: Class) -> usize {
    SERIOUS.iter().position(|one| *one == class).unwrap_or(SERIOUS.len())
}

/// Returns the key of a group. Groups have no queues.
fn group_key(group: &ListedGroup, by: SortBy) -> SortKey {
    match by {
        SortBy::Age | SortBy::RecvQ | SortBy::SendQ => {
            SortKey::Greatest(Reverse(group.oldest.map(|oldest| oldest.as_nanos())))
        }
        SortBy::Port => match group.key {
            Key::Listener { local, .. } => SortKey::Ports(false, local.port, 0),
            Key::Peer(_, Some(port)) => SortKey::Ports(false, port, 0),
            Key::Process(_)
            | Key::NoProcess
            | Key::AnyProcess
            | Key::NoListener
            | Key::Peer(_, None)
            | Key::Cgroup(_)
            | Key::NoCgroup => SortKey::Ports(true, 0, 0),
        },
        SortBy::Owner => match group.owners.first() {
            Some(task) => SortKey::Name(false, task.comm.as_str().to_owned(), task.pid),
            None => SortKey::Name(true, String::new(), 0),
        },
        SortBy::Verdict => {
            let most = group.verdicts.first().map_or(SERIOUS.len(), |(class, _)| seriousness(*class));
            SortKey::Verdict(most, Certainty::Fact)
        }
    }
}
