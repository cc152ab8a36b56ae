//! Summary below a table of sockets: common causes, and their consequences.

use std::{cmp::Reverse, collections::BTreeMap, fmt, time::Duration};

use crate::{
    model::{Class, Dwell, Endpoint, Listener, Task, Verdict},
    snapshot::groups::owners,
    snapshot::view::{Row, View},
    text,
};

/// Maximum number of lines of hints.
const LINES: usize = 8;
/// Maximum number of groups whose cause is shown.
const CAUSES: usize = 3;

/// One thing worth saying.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Hint<'v> {
    /// A process has most of the descriptors that it may have, and sockets that are over take part in that.
    Descriptors {
        /// The process.
        owner: &'v Task,
        /// Number of open descriptors.
        open: u64,
        /// Limit of open descriptors.
        limit: u64,
        /// Number of open descriptors of sockets in CLOSE_WAIT, or of ended connections.
        of_these: u64,
    },
    /// Connections wait to be accepted.
    Backlog {
        /// The first process that has the listener.
        owner: Option<&'v Task>,
        /// Listener whose backlog the sockets wait in.
        listener: &'v Listener,
        /// Number of sockets in CLOSE_WAIT.
        count: u64,
        /// The age of the oldest.
        oldest: Duration,
    },
    /// Connections wait for another connection of the same process.
    WaitsFor {
        /// The process.
        owner: Option<&'v Task>,
        /// Remote endpoint of the other connections.
        upstream: Endpoint,
        /// Number of sockets.
        count: u64,
        /// The age of the oldest.
        oldest: Duration,
    },
    /// Cause of most sockets of a process.
    Cause {
        /// The process.
        owner: Option<&'v Task>,
        /// Number of sockets.
        count: u64,
        /// Verdict of the oldest socket.
        verdict: &'v Verdict,
    },
    /// Connections are over, their descriptors are open.
    Gone {
        /// The process that has the most.
        owner: Option<&'v Task>,
        /// Number of connections of this owner.
        of_owner: u64,
        /// Number of connections.
        count: u64,
    },
    /// Connection tracking has forgotten connections.
    Forgotten {
        /// After this time in CLOSE_WAIT.
        after: Duration,
        /// Number of sockets.
        count: u64,
    },
}

/// Returns the hints for `rows`, the most important first, `LINES` at most.
pub fn hints<'v>(view: &'v View<'_>, rows: &[&'v Row<'v>]) -> Vec<Hint<'v>> {
    let mut causes = causes(rows).into_iter();
    let mut hints = Vec::new();
    hints.extend(descriptors(view, rows));
    hints.extend(backlog(rows));
    hints.extend(waits_for(rows));
    hints.extend(causes.next());
    hints.extend(gone(rows));
    hints.extend(forgotten(rows));
    hints.extend(causes);
    let mut lines = 0;
    let end = hints.iter().position(|hint| {
        lines += hint.lines();
        lines > LINES
    });
    hints.truncate(end.unwrap_or(hints.len()));
    hints
}

impl Hint<'_> {
    /// Returns the number of lines of the hint.
    fn lines(&self) -> usize {
        match self {
            Self::Cause { .. } => 2,
            Self::Descriptors { .. }
            | Self::Backlog { .. }
            | Self::WaitsFor { .. }
            | Self::Gone { .. }
            | Self::Forgotten { .. } => 1,
        }
    }
}

/// Returns the process that is nearest to its limit, if it has used half of it.
fn descriptors<'v>(view: &'v View<'_>, rows: &[&'v Row<'v>]) -> Option<Hint<'v>> {
    let mut held: BTreeMap<u32, (&Task, u64)> = BTreeMap::new();
    for owner in rows.iter().flat_map(|row| row.owners.unwrap_or_default()) {
        held.entry(owner.task.pid).or_insert((&owner.task, 0)).1 += 1;
    }
    let near = held.into_iter().filter_map(|(pid, (owner, of_these))| {
        let process = view.processes.get(&pid)?;
        let (open, limit) = (process.fds_open?, process.fds_limit.filter(|limit| *limit > 0)?);
        // A few among many are not what fills it.
        let matters = open >= limit / 2 && of_these >= open / 10;
        matters.then_some(Hint::Descriptors { owner, open, limit, of_these })
    });
    near.max_by_key(|hint| match hint {
        Hint::Descriptors { open, limit, .. } => open.saturating_mul(1000) / limit,
        Hint::Backlog { .. }
        | Hint::WaitsFor { .. }
        | Hint::Cause { .. }
        | Hint::Gone { .. }
        | Hint::Forgotten { .. } => 0,
    })
}

/// The listener at which most sockets wait.
fn backlog<'v>(rows: &[&'v Row<'v>]) -> Option<Hint<'v>> {
    let waiting = rows.iter().filter(|row| row.socket.accepted == Some(false) && row.gone.is_none());
    let most = most(waiting.filter_map(|row| {
        let listener = &row.listener?.what;
        Some(((listener.netns, listener.local), row))
    }))?;
    let listener = most.first.listener?;
    let owner = listener.owners.first().map(|owner| &owner.task);
    Some(Hint::Backlog { owner, listener: &listener.what, count: most.count, oldest: age(most.first) })
}

/// The upstream that most sockets wait for.
fn waits_for<'v>(rows: &[&'v Row<'v>]) -> Option<Hint<'v>> {
    let waiting = rows.iter().filter(|row| row.gone.is_none()).filter_map(|row| {
        let upstream = row.proxy_peer?.socket.remote;
        Some(((owners(row).next().map(|task| task.pid), upstream), row))
    });
    let most = most(waiting)?;
    let (_pid, upstream) = most.key;
    Some(Hint::WaitsFor { owner: owners(most.first).next(), upstream, count: most.count, oldest: age(most.first) })
}

/// The causes that keep most sockets, one a process and rule.
fn causes<'v>(rows: &[&'v Row<'v>]) -> Vec<Hint<'v>> {
    let told = rows.iter().filter(|row| !matches!(row.verdict.class, Class::Unknown | Class::Transient));
    let mut piles =
        piles(told.map(|row| ((owners(row).next().map(|task| task.pid), row.verdict.class, row.verdict.rule), row)));
    piles.sort_by_key(|pile| Reverse(pile.count));
    piles.truncate(CAUSES);
    let hint = |pile: &Pile<'v, _>| Hint::Cause {
        owner: owners(pile.first).next(),
        count: pile.count,
        verdict: &pile.first.verdict,
    };
    piles.iter().map(hint).collect()
}

fn gone<'v>(rows: &[&'v Row<'v>]) -> Option<Hint<'v>> {
    let gone = rows.iter().filter(|row| row.gone.is_some());
    let piles = piles(gone.map(|row| (owners(row).next().map(|task| task.pid), row)));
    let count = piles.iter().map(|pile| pile.count).sum();
    let most = piles.into_iter().max_by_key(|pile| pile.count)?;
    Some(Hint::Gone { owner: owners(most.first).next(), of_owner: most.count, count })
}

fn forgotten<'v>(rows: &[&'v Row<'v>]) -> Option<Hint<'v>> {
    let late = rows.iter().filter(|row| row.gone.is_none()).filter_map(|row| {
        let after = row.conntrack?;
        (age(row) > after).then_some((after, row))
    });
    let most = most(late)?;
    Some(Hint::Forgotten { after: most.key, count: most.count })
}

/// Rows with the same key; the first is the oldest.
struct Pile<'v, K> {
    key: K,
    first: &'v Row<'v>,
    count: u64,
}

fn piles<'r, 'v: 'r, K: Ord + Copy>(rows: impl Iterator<Item = (K, &'r &'v Row<'v>)>) -> Vec<Pile<'v, K>> {
    let mut piles: BTreeMap<K, Pile<'v, K>> = BTreeMap::new();
    for (key, row) in rows {
        piles.entry(key).or_insert(Pile { key, first: row, count: 0 }).count += 1;
    }
    piles.into_values().collect()
}

fn most<'r, 'v: 'r, K: Ord + Copy>(rows: impl Iterator<Item = (K, &'r &'v Row<'v>)>) -> Option<Pile<'v, K>> {
    piles(rows).into_iter().max_by_key(|pile| (pile.count, age(pile.first)))
}

fn age(row: &Row<'_>) -> Duration {
    row.dwell.map_or(Duration::ZERO, Dwell::at_least)
}

/// `12 sockets of nginx[812]`.
struct Of<'v>(u64, Option<&'v Task>);

impl fmt::Display for Of<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self(count, owner) = self;
        write!(f, "{count} socket{}", if *count == 1 { "" } else { "s" })?;
        owner.map_or(Ok(()), |task| write!(f, " of {}[{}]", task.comm, task.pid))
    }
}

impl fmt::Display for Hint<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let s = |count: u64| if count == 1 { "s" } else { "" };
        match self {
            Self::Descriptors { owner, open, limit, of_these } => write!(
                f,
                "{}[{}]: {open} of {limit} descriptors open, {of_these} of them of connections that the peer has closed",
                owner.comm, owner.pid
            ),
            Self::Backlog { owner, listener, count, oldest } => {
                write!(f, "{} wait{} to be accepted", Of(*count, None), s(*count))?;
                if let Some(task) = owner {
                    write!(f, " by {}[{}]", task.comm, task.pid)?;
                }
                let Listener { local, backlog, backlog_max, .. } = listener;
                write!(f, " on ")?;
                if local.address.is_unspecified() { write!(f, "*:{}", local.port) } else { write!(f, "{local}") }?;
                write!(f, " (backlog {backlog} of {backlog_max}), oldest {}", text::duration(*oldest))
            }
            Self::WaitsFor { owner, upstream, count, oldest } => {
                let (who, oldest) = (Of(*count, *owner), text::duration(*oldest));
                write!(f, "{who} wait{} for upstream {upstream}, oldest {oldest}", s(*count))
            }
            Self::Cause { owner, count, verdict } => {
                let Verdict { class, certainty, text, next, .. } = verdict;
                let (class, certainty) = (class.name(), certainty.name());
                write!(f, "{}, {class} ({certainty}): {text}\n  next: {next}", Of(*count, *owner))
            }
            Self::Gone { owner, of_owner, count } => {
                let (are, their) =
                    if *count == 1 { (" is", "its descriptor is") } else { ("s are", "their descriptors are") };
                write!(f, "{count} connection{are} over but {their} open")?;
                let most = if of_owner == count { "" } else { "most " };
                owner.map_or(Ok(()), |task| write!(f, ", {most}in {}[{}]", task.comm, task.pid))
            }
            Self::Forgotten { after, count } => {
                let after = text::duration(*after);
                write!(
                    f,
                    "past conntrack's timeout of {after}: a FIN may no longer reach the peer of {}",
                    Of(*count, None)
                )
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        diagnose::Seen,
        model::{Certainty, Connection, Exit, ExitCause, ProxyPeer, Socket},
        testing::{listener, owner, process, row, socket, verdict},
        time::BootTime,
    };

    fn told(rows: Vec<Row<'_>>, fds: Option<(u64, u64)>) -> Vec<String> {
        let processes = BTreeMap::from([(812, process("nginx", 812, fds))]);
        let view = View { now: BootTime(0), untracked: 0, unseen: None, rows, processes: &processes };
        let rows: Vec<_> = view.rows.iter().collect();
        hints(&view, &rows).iter().map(ToString::to_string).collect()
    }

    fn quiet() -> Verdict {
        verdict(Class::Unknown, Certainty::Low)
    }

    #[test]
    fn nothing_is_said_where_there_is_nothing_to_say() {
        let socket = socket();
        assert!(told(vec![Row { verdict: quiet(), ..row(&socket) }], Some((10, 1024))).is_empty());
        assert!(told(Vec::new(), None).is_empty());
    }

    #[test]
    fn sockets_that_wait_for_an_upstream_name_it() {
        let (owners, socket) = ([owner("nginx", 812, 5)], socket());
        let proxy_peer = ProxyPeer { state: Connection::Established, socket: socket.clone() };
        let one = Row { owners: Some(&owners), proxy_peer: Some(&proxy_peer), verdict: quiet(), ..row(&socket) };
        let expected = "2 sockets of nginx[812] wait for upstream 10.0.0.9:51234, oldest 1m30s";
        assert_eq!(told(vec![one.clone(), one], None), [expected]);
    }

    #[test]
    fn a_backlog_names_its_listener_and_who_should_accept() {
        let socket = Socket { accepted: Some(false), ..socket() };
        let seen = Seen { what: listener(5060, 65, 64), at: BootTime(0), owners: vec![owner("freeswitch", 99, 7)] };
        let one = Row { listener: Some(&seen), verdict: quiet(), ..row(&socket) };
        let expected = "1 socket waits to be accepted by freeswitch[99] on *:5060 (backlog 65 of 64), oldest 1m30s";
        assert_eq!(told(vec![one], None), [expected]);
    }

    #[test]
    fn descriptors_are_told_of_when_they_run_out() {
        let (owners, socket) = ([owner("nginx", 812, 5)], socket());
        let one = Row { owners: Some(&owners), verdict: quiet(), ..row(&socket) };
        let rows = vec![one; 300];
        let expected = "nginx[812]: 812 of 1024 descriptors open, 300 of them of connections that the peer has closed";
        assert_eq!(told(rows.clone(), Some((812, 1024))), [expected]);
        assert!(told(rows.clone(), Some((400, 1024))).is_empty());
        assert!(told(rows[..10].to_vec(), Some((812, 1024))).is_empty(), "others fill it");
    }

    #[test]
    fn a_closed_connection_and_one_that_was_forgotten_are_told_of() {
        let socket = socket();
        let gone = Exit { at: BootTime(0), seen: true, how: ExitCause::Reset, closer: None, dwell: None };
        let over = Row { gone: Some(&gone), dwell: None, verdict: quiet(), ..row(&socket) };
        let late = Row { conntrack: Some(Duration::from_secs(60)), verdict: quiet(), ..row(&socket) };
        let expected = [
            "1 connection is over but its descriptor is open",
            "past conntrack's timeout of 1m: a FIN may no longer reach the peer of 1 socket",
        ];
        assert_eq!(told(vec![over, late], None), expected);
    }

    #[test]
    fn causes_come_by_size_and_no_more_than_a_person_reads() {
        let (socket, names) = (socket(), ["a", "b", "c", "d", "e"]);
        let owners: Vec<_> = names.iter().zip(1..).map(|(name, pid)| [owner(name, pid, 3)]).collect();
        let rows =
            owners.iter().zip(1..).flat_map(|(owners, many)| vec![Row { owners: Some(owners), ..row(&socket) }; many]);
        let told = told(rows.collect(), None);
        assert_eq!(told.len(), CAUSES);
        assert_eq!(told[0], "5 sockets of e[5], hung (high): this is why\n  next: do this");
        assert!(told.iter().map(|hint| hint.lines().count()).sum::<usize>() <= LINES);
    }
}
