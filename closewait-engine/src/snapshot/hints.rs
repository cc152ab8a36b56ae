//! Summary below a table of sockets: common causes, and their consequences.

use std::{cmp::Reverse, collections::BTreeMap, fmt, time::Duration};

use serde::{Deserialize, Serialize};

use crate::{
    diagnose::Seen,
    model::{Class, Dwell, Endpoint, Listener, RuleName, Task, Verdict},
    process::Process,
    snapshot::groups::owners,
    snapshot::view::{Row, RowFacts},
    text,
};

/// Maximum number of lines of hints.
const MAX_LINES: usize = 10;
/// Maximum number of causes among the hints.
const MAX_CAUSES: usize = 3;

/// Line of the summary below a table of sockets.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Hint {
    /// A process has used most of its limit of open descriptors, partly for connections that the peer has closed.
    Descriptors {
        /// The process.
        owner: Task,
        /// Number of open descriptors.
        open: u64,
        /// Limit of open descriptors.
        limit: u64,
        /// Number of open descriptors of sockets in CLOSE_WAIT, or of ended connections.
        of_these: u64,
    },
    /// Unaccepted connections wait in a backlog.
    Backlog {
        /// First process that owns the listener.
        owner: Option<Task>,
        /// The listener.
        listener: Listener,
        /// Number of unaccepted sockets in CLOSE_WAIT.
        count: u64,
        /// Age of the oldest socket.
        oldest: Duration,
    },
    /// Sockets wait for the other sides of proxied connections.
    WaitsFor {
        /// The process.
        owner: Option<Task>,
        /// Remote endpoint of the other sides.
        upstream: Endpoint,
        /// Number of sockets.
        count: u64,
        /// Age of the oldest socket.
        oldest: Duration,
    },
    /// Cause of most sockets of a process.
    Cause {
        /// The process.
        owner: Option<Task>,
        /// Number of sockets with this cause.
        count: u64,
        /// Verdict on the oldest socket.
        verdict: Verdict,
    },
    /// Connections have ended while their descriptors are still open.
    Gone {
        /// Process with the most such descriptors.
        owner: Option<Task>,
        /// Number of such connections of the process.
        of_owner: u64,
        /// Number of such connections.
        count: u64,
    },
    /// Connection tracking has forgotten connections.
    Forgotten {
        /// Timeout of connection tracking for CLOSE_WAIT.
        after: Duration,
        /// Number of sockets.
        count: u64,
    },
    /// Further causes, which have no hint of their own.
    More {
        /// Number of these causes.
        causes: u64,
        /// Number of their sockets.
        sockets: u64,
    },
}

/// Number of rows with the same key, and facts about the first of them, which is the oldest.
#[derive(Debug)]
struct Pile<T> {
    first: T,
    count: u64,
}

/// Piles of rows by key.
type Piles<K, T> = BTreeMap<K, Pile<T>>;
/// First owner of a row; `None` without an owner.
type FirstOwner = Option<Task>;
/// Network namespace and address of a listener.
type Place = (Option<u32>, Endpoint);

/// Adds a row to the pile of its key; `first` returns the facts about the row if it is the first of the pile.
fn count<K: Ord, T>(piles: &mut Piles<K, T>, key: K, first: impl FnOnce() -> T) {
    piles.entry(key).or_insert_with(|| Pile { first: first(), count: 0 }).count += 1;
}

/// First owner, class and rule of a row whose cause may be a hint.
pub(super) type HintCause = (Option<u32>, Class, RuleName);

/// Returns the cause of a row. The hint has the texts of the oldest row with this cause.
pub(super) fn cause(facts: &RowFacts<'_>, class: Class, rule: RuleName) -> HintCause {
    (owners(facts).next().map(|task| task.pid), class, rule)
}

/// Whether a class says that it is too early to tell, or that too little is known.
fn is_undecided(class: Class) -> bool {
    match class {
        Class::Unknown | Class::Transient => true,
        Class::Hung
        | Class::Leak
        | Class::Pool
        | Class::NeverAccepted
        | Class::HalfClose
        | Class::Inherited
        | Class::ProxyWait => false,
    }
}

/// Builder of hints, which gets one row after the other, oldest first, and does not store them.
#[derive(Debug, Default)]
pub struct HintBuilder<'a> {
    /// Descriptors by process.
    held: Piles<u32, Task>,
    /// Unaccepted rows by network namespace and address of the listener, with the age of the oldest row.
    backlogs: Piles<Place, (&'a Seen<Listener>, Duration)>,
    /// Proxied rows by first owner and upstream, with the age of the oldest row.
    waits: Piles<(Option<u32>, Endpoint), (FirstOwner, Duration)>,
    /// Rows by cause.
    causes: Piles<HintCause, (FirstOwner, Verdict)>,
    /// Ended connections by first owner.
    gone: Piles<Option<u32>, FirstOwner>,
    /// Rows past the timeout of connection tracking, by that timeout, with the age of the oldest row.
    forgotten: Piles<Duration, Duration>,
}

impl<'a> HintBuilder<'a> {
    /// Adds a row.
    pub fn add(&mut self, row: &Row<'a>) {
        for owner in row.owners.as_deref().unwrap_or_default() {
            count(&mut self.held, owner.task.pid, || owner.task.clone());
        }
        let (facts, verdict) = (row.facts(), &row.verdict);
        let owner = owners(&facts).next();
        let pid = owner.map(|task| task.pid);
        let cause = cause(&facts, verdict.class, verdict.rule);
        count(&mut self.causes, cause, || (owner.cloned(), verdict.clone()));
        if row.gone.is_some() {
            return count(&mut self.gone, pid, || owner.cloned());
        }
        let age = row.dwell.map_or(Duration::ZERO, Dwell::at_least);
        if let Some(listener) = row.listener.filter(|_| row.socket.accepted == Some(false)) {
            count(&mut self.backlogs, (listener.what.netns, listener.what.local), || (listener, age));
        }
        if let Some(upstream) = row.proxy_peer.map(|peer| peer.socket.remote) {
            count(&mut self.waits, (pid, upstream), || (owner.cloned(), age));
        }
        if let Some(after) = row.conntrack.filter(|after| age > *after) {
            count(&mut self.forgotten, after, || age);
        }
    }

    /// Returns the hints, the most important first, at most 11 lines. `processes` are the inspected owners, by pid.
    pub fn finish(self, processes: &BTreeMap<u32, Process>) -> Vec<Hint> {
        let Self { held, backlogs, waits, causes, gone, forgotten } = self;
        let (causes, mut more) = causes_of(causes);
        let mut causes = causes.into_iter();
        let mut hints = Vec::new();
        hints.extend(descriptors(held, processes));
        hints.extend(backlog(backlogs));
        hints.extend(waits_for(waits));
        hints.extend(causes.next());
        hints.extend(gone_of(gone));
        let late = forgotten.into_iter().max_by_key(|(_after, pile)| (pile.count, pile.first));
        hints.extend(late.map(|(after, pile)| Hint::Forgotten { after, count: pile.count }));
        hints.extend(causes);
        let mut lines = 0;
        let end = hints.iter().position(|hint| {
            lines += hint.lines();
            lines > MAX_LINES
        });
        hints.drain(end.unwrap_or(hints.len())..).for_each(|hint| more.add(&hint));
        hints.extend((more.causes > 0).then_some(Hint::More { causes: more.causes, sockets: more.sockets }));
        hints
    }
}

/// Causes that have no hint of their own.
#[derive(Clone, Copy, Debug, Default)]
pub struct OmittedCauses {
    /// Number of these causes.
    pub causes: u64,
    /// Number of their sockets.
    pub sockets: u64,
}

impl OmittedCauses {
    /// Counts the causes of a hint that is not shown.
    pub fn add(&mut self, hint: &Hint) {
        let (causes, sockets) = match hint {
            Hint::Cause { count, .. } => (1, *count),
            Hint::More { causes, sockets } => (*causes, *sockets),
            Hint::Descriptors { .. }
            | Hint::Backlog { .. }
            | Hint::WaitsFor { .. }
            | Hint::Gone { .. }
            | Hint::Forgotten { .. } => (0, 0),
        };
        self.causes += causes;
        self.sockets += sockets;
    }
}

impl Hint {
    /// Returns the number of lines of the hint.
    fn lines(&self) -> usize {
        match self {
            Self::Cause { verdict, .. } => 2 + usize::from(verdict.next.command.is_some()),
            Self::Descriptors { .. }
            | Self::Backlog { .. }
            | Self::WaitsFor { .. }
            | Self::Gone { .. }
            | Self::Forgotten { .. }
            | Self::More { .. } => 1,
        }
    }
}

/// Returns the process that is nearest to its limit of descriptors, if it has used half of it.
fn descriptors(held: Piles<u32, Task>, processes: &BTreeMap<u32, Process>) -> Option<Hint> {
    let near = held.into_iter().filter_map(|(pid, Pile { first: owner, count: of_these })| {
        let process = processes.get(&pid)?;
        let (open, limit) = process.descriptors()?;
        // A small part of the descriptors does not exhaust the limit.
        let matters = open >= limit / 2 && of_these >= open / 10;
        matters.then_some((owner, open, limit, of_these))
    });
    let (owner, open, limit, of_these) = near.max_by_key(|(_, open, limit, _)| open.saturating_mul(1000) / limit)?;
    Some(Hint::Descriptors { owner, open, limit, of_these })
}

/// Returns the listener at which most sockets wait.
fn backlog<K>(piles: Piles<K, (&Seen<Listener>, Duration)>) -> Option<Hint> {
    let Pile { first: (listener, oldest), count } =
        piles.into_values().max_by_key(|pile| (pile.count, pile.first.1))?;
    let owner = listener.owners.first().map(|owner| owner.task.clone());
    Some(Hint::Backlog { owner, listener: listener.what.clone(), count, oldest })
}

/// Returns the upstream for which most sockets wait.
fn waits_for(piles: Piles<(Option<u32>, Endpoint), (FirstOwner, Duration)>) -> Option<Hint> {
    let ((_pid, upstream), Pile { first: (owner, oldest), count }) =
        piles.into_iter().max_by_key(|(_, pile)| (pile.count, pile.first.1))?;
    Some(Hint::WaitsFor { owner, upstream, count, oldest })
}

/// Returns the most frequent causes, one for each process and rule, and the others. Undecided ones come last.
fn causes_of<K>(piles: Piles<K, (FirstOwner, Verdict)>) -> (Vec<Hint>, OmittedCauses) {
    let mut piles: Vec<_> = piles.into_values().collect();
    piles.sort_by_key(|pile| (is_undecided(pile.first.1.class), Reverse(pile.count)));
    let others = piles.split_off(piles.len().min(MAX_CAUSES));
    let more = OmittedCauses { causes: others.len() as u64, sockets: others.iter().map(|pile| pile.count).sum() };
    let hint = |Pile { first: (owner, verdict), count }: Pile<(FirstOwner, _)>| Hint::Cause { owner, count, verdict };
    (piles.into_iter().map(hint).collect(), more)
}

/// Returns the hint on ended connections.
fn gone_of<K>(piles: Piles<K, FirstOwner>) -> Option<Hint> {
    let count = piles.values().map(|pile| pile.count).sum();
    let most = piles.into_values().max_by_key(|pile| pile.count)?;
    Some(Hint::Gone { owner: most.first, of_owner: most.count, count })
}

/// Displays a number of sockets with their owner: `12 sockets of nginx[812]`.
struct Of<'v>(u64, Option<&'v Task>);

impl fmt::Display for Of<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self(count, owner) = self;
        write!(f, "{count} socket{}", if *count == 1 { "" } else { "s" })?;
        owner.map_or(Ok(()), |task| write!(f, " of {task}"))
    }
}

impl fmt::Display for Hint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let s = |count: u64| if count == 1 { "s" } else { "" };
        match self {
            Self::Descriptors { owner, open, limit, of_these } => write!(
                f,
                "{owner}: {open} of {limit} descriptors open, {of_these} of them of connections that the peer has closed"
            ),
            Self::Backlog { owner, listener, count, oldest } => {
                write!(f, "{} wait{} to be accepted", Of(*count, None), s(*count))?;
                if let Some(task) = owner {
                    write!(f, " by {task}")?;
                }
                let Listener { local, backlog, backlog_max, .. } = listener;
                write!(f, " on ")?;
                if local.address.is_unspecified() { write!(f, "*:{}", local.port) } else { write!(f, "{local}") }?;
                write!(f, " (backlog {backlog} of {backlog_max}), oldest {}", text::duration(*oldest))
            }
            Self::WaitsFor { owner, upstream, count, oldest } => {
                let (who, oldest) = (Of(*count, owner.as_ref()), text::duration(*oldest));
                write!(f, "{who} wait{} for upstream {upstream}, oldest {oldest}", s(*count))
            }
            Self::Cause { owner, count, verdict } => {
                let Verdict { class, certainty, text, next, .. } = verdict;
                let (class, certainty) = (class.name(), certainty.name());
                write!(f, "{}, {class} ({certainty}): {text}\n  next: {}", Of(*count, owner.as_ref()), next.text)?;
                next.command.as_ref().map_or(Ok(()), |command| write!(f, "\n    {command}"))
            }
            Self::Gone { owner, of_owner, count } => {
                let (have, their) =
                    if *count == 1 { (" has", "its descriptor is") } else { ("s have", "their descriptors are") };
                write!(f, "{count} connection{have} ended but {their} still open")?;
                let most = if of_owner == count { "" } else { "most " };
                owner.as_ref().map_or(Ok(()), |task| write!(f, ", {most}in {task}"))
            }
            Self::Forgotten { after, count } => {
                let after = text::duration(*after);
                write!(
                    f,
                    "past conntrack's timeout of {after}: a FIN may no longer reach the peer of {}",
                    Of(*count, None)
                )
            }
            Self::More { causes, sockets } => {
                write!(f, "and {} with {}", text::count(*causes, "more cause"), text::count(*sockets, "socket"))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::borrow::Cow;

    use super::*;
    use crate::{
        model::{Certainty, Connection, Exit, ExitCause, ProxyPeer, Socket},
        testing::{listener, owner, process, row, socket, verdict},
        time::BootTime,
    };

    fn hints(rows: Vec<Row<'_>>, fds: Option<(u64, u64)>) -> Vec<String> {
        let processes = BTreeMap::from([(812, process("nginx", 812, fds))]);
        let mut hints = HintBuilder::default();
        rows.iter().for_each(|row| hints.add(row));
        let hints = hints.finish(&processes).into_iter();
        // Of undecided sockets, only their other hints.
        let undecided = |hint: &Hint| matches!(hint, Hint::Cause { verdict, .. } if is_undecided(verdict.class));
        hints.filter(|hint| !undecided(hint)).map(|hint| hint.to_string()).collect()
    }

    fn quiet() -> Verdict {
        verdict(Class::Unknown, Certainty::Low)
    }

    #[test]
    fn without_a_cause_there_are_no_hints() {
        let socket = socket();
        assert!(hints(vec![Row { verdict: quiet(), ..row(&socket) }], Some((10, 1024))).is_empty());
        assert!(hints(Vec::new(), None).is_empty());
    }

    #[test]
    fn undecided_causes_are_explained_last_and_others_are_counted() {
        let socket = socket();
        let of = |class, many| vec![Row { verdict: verdict(class, Certainty::Low), ..row(&socket) }; many];
        let rows = [of(Class::Unknown, 9), of(Class::Transient, 4), of(Class::Pool, 2), of(Class::Hung, 1)].concat();
        let mut hints = HintBuilder::default();
        rows.iter().for_each(|row| hints.add(row));
        let hints = hints.finish(&BTreeMap::new());
        let text: Vec<_> = hints.iter().map(|hint| hint.to_string().lines().next().unwrap().to_owned()).collect();
        let expected = [
            "2 sockets, pool (low): this is why",
            "1 socket, hung (low): this is why",
            "9 sockets, unknown (low): this is why",
            "and 1 more cause with 4 sockets",
        ];
        assert_eq!(text, expected);
    }

    #[test]
    fn the_hint_on_a_proxy_names_the_upstream() {
        let (owners, socket) = ([owner("nginx", 812, 5)], socket());
        let proxy_peer = ProxyPeer { state: Connection::Established, socket: socket.clone() };
        let one = Row {
            owners: Some(Cow::Borrowed(&owners)),
            proxy_peer: Some(&proxy_peer),
            verdict: quiet(),
            ..row(&socket)
        };
        let expected = "2 sockets of nginx[812] wait for upstream 10.0.0.9:51234, oldest 1m30s";
        assert_eq!(hints(vec![one.clone(), one], None), [expected]);
    }

    #[test]
    fn the_hint_on_a_backlog_names_the_listener_and_its_owner() {
        let socket = Socket { accepted: Some(false), ..socket() };
        let seen = Seen { what: listener(5060, 65, 64), at: BootTime(0), owners: vec![owner("freeswitch", 99, 7)] };
        let one = Row { listener: Some(&seen), verdict: quiet(), ..row(&socket) };
        let expected = "1 socket waits to be accepted by freeswitch[99] on *:5060 (backlog 65 of 64), oldest 1m30s";
        assert_eq!(hints(vec![one], None), [expected]);
    }

    #[test]
    fn the_hint_on_descriptors_appears_near_the_limit() {
        let (owners, socket) = ([owner("nginx", 812, 5)], socket());
        let one = Row { owners: Some(Cow::Borrowed(&owners)), verdict: quiet(), ..row(&socket) };
        let rows = vec![one; 300];
        let expected = "nginx[812]: 812 of 1024 descriptors open, 300 of them of connections that the peer has closed";
        assert_eq!(hints(rows.clone(), Some((812, 1024))), [expected]);
        assert!(hints(rows.clone(), Some((400, 1024))).is_empty());
        assert!(hints(rows[..10].to_vec(), Some((812, 1024))).is_empty(), "other descriptors exhaust the limit");
    }

    #[test]
    fn ended_and_forgotten_connections_have_hints() {
        let socket = socket();
        let gone = Exit { at: BootTime(0), seen: true, how: ExitCause::Reset, closer: None, dwell: None };
        let over = Row { gone: Some(&gone), dwell: None, verdict: quiet(), ..row(&socket) };
        let late = Row { conntrack: Some(Duration::from_secs(60)), verdict: quiet(), ..row(&socket) };
        let expected = [
            "1 connection has ended but its descriptor is still open",
            "past conntrack's timeout of 1m: a FIN may no longer reach the peer of 1 socket",
        ];
        assert_eq!(hints(vec![over, late], None), expected);
    }

    #[test]
    fn causes_are_sorted_by_count_and_limited() {
        let (socket, names) = (socket(), ["a", "b", "c", "d", "e"]);
        let owners: Vec<_> = names.iter().zip(1..).map(|(name, pid)| [owner(name, pid, 3)]).collect();
        let rows = owners
            .iter()
            .zip(1..)
            .flat_map(|(owners, many)| vec![Row { owners: Some(Cow::Borrowed(&owners[..])), ..row(&socket) }; many]);
        let hints = hints(rows.collect(), None);
        assert_eq!(hints.len(), MAX_CAUSES + 1);
        assert_eq!(hints[MAX_CAUSES], "and 2 more causes with 3 sockets");
        assert_eq!(hints[0], "5 sockets of e[5], hung (high): this is why\n  next: do this\n    this --now");
        assert!(hints.iter().map(|hint| hint.lines().count()).sum::<usize>() <= MAX_LINES + 1);
    }
}
