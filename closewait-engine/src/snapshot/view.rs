//! Sockets with their verdicts at one time, for `closewait list`.

use std::{
    borrow::Cow,
    cmp::Reverse,
    collections::{BTreeMap, BTreeSet},
    rc::Rc,
    time::Duration,
    vec,
};

use crate::{
    context::host_context::HostContext,
    diagnose::Seen,
    diagnose::grouping::{Grouping, Origins},
    model::{Class, Dwell, Endpoint, Exit, Listener, Owner, ProxyPeer, RuleName, Since, Socket, Verdict},
    process::Process,
    snapshot::hints::{HintCause, cause},
    snapshot::query::Filter,
    time::BootTime,
    track::lingering::{Lingering, LingeringSockets},
    track::socket_view::SocketView,
    track::tracker::Tracker,
    workload::Workload,
};

/// Socket with its verdict and related facts.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Row<'a> {
    /// Facts about the socket.
    pub socket: Cow<'a, Socket>,
    /// Dwell time, for an ended connection as of its exit; `None` if unknown.
    pub dwell: Option<Dwell>,
    /// Exit of the socket, if only its descriptor is left.
    pub gone: Option<&'a Exit>,
    /// Descriptors of the socket, sorted by process; `None` if no scan for owners was possible.
    pub owners: Option<Cow<'a, [Owner]>>,
    /// Listener that the socket waits at or came from.
    pub listener: Option<&'a Seen<Listener>>,
    /// Unit, container or pod of the socket's cgroup.
    pub workload: Option<&'a Workload>,
    /// Timeout after which connection tracking in the socket's namespace forgets a connection in CLOSE_WAIT; `None` if unknown.
    pub conntrack: Option<Duration>,
    /// Other side of a proxied connection, for which the socket waits.
    pub proxy_peer: Option<&'a ProxyPeer>,
    /// First owner of the socket, or of its listener while no program has accepted the socket; `None` if it was not inspected.
    pub process: Option<&'a Process>,
    /// Diagnosis of the socket.
    pub verdict: Verdict,
}

/// All sockets at one time.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct View<'a> {
    /// Time of the view.
    pub now: BootTime,
    /// Sockets by minimum age, oldest first.
    pub rows: Vec<Row<'a>>,
    /// Number of further sockets that were dropped because a limit was reached.
    pub untracked: u64,
    /// Reason why the view may lack sockets; `None` if the agent sees all.
    pub unseen: Option<&'a str>,
    /// Inspected owners of the sockets and of their listeners, by pid.
    pub processes: &'a BTreeMap<u32, Process>,
}

/// Facts about one socket that filters compare, without the verdict.
#[derive(Clone, Copy, Debug)]
pub struct RowFacts<'a> {
    /// Facts about the socket.
    pub socket: &'a Socket,
    /// Dwell time, for an ended connection as of its exit; `None` if unknown.
    pub dwell: Option<Dwell>,
    /// Exit of the socket, if only its descriptor is left.
    pub gone: Option<&'a Exit>,
    /// Descriptors of the socket, sorted by process; `None` if no scan for owners was possible.
    pub owners: Option<&'a [Owner]>,
    /// Listener that the socket waits at or came from.
    pub listener: Option<&'a Seen<Listener>>,
    /// Unit, container or pod of the socket's cgroup.
    pub workload: Option<&'a Workload>,
}

impl<'a> Row<'a> {
    /// Returns the facts that filters compare.
    pub fn facts(&self) -> RowFacts<'_> {
        let Self { ref socket, dwell, gone, ref owners, listener, workload, .. } = *self;
        RowFacts { socket, dwell, gone, owners: owners.as_deref(), listener, workload }
    }
}

/// Facts of a row before its verdict.
pub(crate) struct Facts<'a> {
    socket: Cow<'a, Socket>,
    dwell: Option<Dwell>,
    gone: Option<&'a Exit>,
    owners: Option<Cow<'a, [Owner]>>,
    origins: Origins<'a>,
    workload: Option<&'a Workload>,
}

/// Iterator over the sockets that match a filter, by minimum age, oldest first. It judges each socket when it returns it, and
/// neither sorts nor judges a socket whose facts do not match the filter.
pub struct Selection<'a> {
    /// Time of the selection.
    pub now: BootTime,
    /// Number of all sockets in CLOSE_WAIT, including those that do not match the filter.
    pub total: usize,
    /// Number of further sockets that were dropped because a limit was reached.
    pub untracked: u64,
    /// Reason why the selection may lack sockets; `None` if the agent sees all.
    pub unseen: Option<&'a str>,
    /// Inspected owners of the sockets and of their listeners, by pid.
    pub processes: &'a BTreeMap<u32, Process>,
    filter: &'a Filter,
    host_context: &'a HostContext,
    grouping: Rc<Grouping<'a>>,
    tracked: vec::IntoIter<SocketView<'a>>,
    gone: vec::IntoIter<&'a Lingering>,
    /// Causes of which a row had texts already; `None` if all rows have texts.
    explained: Option<BTreeSet<HintCause>>,
}

impl<'a> Selection<'a> {
    /// Selects among all sockets at `now`, which is also the time of `grouping`.
    pub(crate) fn new(
        now: BootTime,
        filter: &'a Filter,
        (tracker, lingering): (&'a Tracker, &'a LingeringSockets),
        host_context: &'a HostContext,
        grouping: Grouping<'a>,
    ) -> Self {
        let grouping = Rc::new(grouping);
        let fits = |ends: (Endpoint, Endpoint), facts: &dyn Fn() -> Facts<'a>| {
            filter.is_empty() || filter.matches_ends(ends) && filter.matches_facts(&facts().to_compare(), now)
        };
        let fitting = tracker.stored().filter(|one| fits(one.ends(), &|| facts_of(*one, &grouping, host_context, now)));
        let mut tracked: Vec<_> = fitting.collect();
        // The wider interval comes first, then the endpoints and the key decide, so that the order is always the same.
        tracked.sort_by_key(|one| {
            let earliest = match one.since() {
                Since::Exact(since) => Some(since),
                Since::Between { earliest, .. } => earliest,
            };
            (one.latest(), earliest.map(Reverse), one.ends(), one.key())
        });
        let fitting = lingering.iter().map(|(_, one)| one);
        let mut gone: Vec<_> =
            fitting.filter(|one| fits(one.ends(), &|| facts_of_gone(one, &grouping, host_context))).collect();
        gone.sort_by_key(|one| (one.gone.at, one.socket.local, one.socket.remote));
        Self {
            now,
            total: tracker.len(),
            untracked: tracker.untracked(),
            unseen: None,
            processes: host_context.processes(),
            filter,
            host_context,
            grouping,
            tracked: tracked.into_iter(),
            gone: gone.into_iter(),
            explained: None,
        }
    }

    /// Returns the groups of all sockets, for other parts of the same answer.
    pub(crate) fn grouping(&self) -> Rc<Grouping<'a>> {
        Rc::clone(&self.grouping)
    }

    /// Makes only those verdicts have texts that hints show: of each cause, the verdict of the oldest row. Other texts are empty.
    #[must_use]
    pub fn with_texts_of_hints(self) -> Self {
        Self { explained: Some(BTreeSet::new()), ..self }
    }

    /// Returns the row of a socket in CLOSE_WAIT; `None` if its verdict does not match the filter.
    fn tracked(&mut self, one: SocketView<'a>) -> Option<Row<'a>> {
        let facts = facts_of(one, &self.grouping, self.host_context, self.now);
        let (origins, conntrack) = (facts.origins, self.host_context.conntrack(facts.socket.netns));
        let mut proxy_peer = None;
        let row = self.judged(facts, |grouping, explained| {
            let verdict;
            (verdict, proxy_peer) = grouping.judge(one, origins, explained);
            verdict
        })?;
        Some(Row { conntrack, proxy_peer, ..row })
    }

    /// Returns the row of a socket of which only a descriptor is left; `None` if its verdict does not match the filter.
    fn gone(&mut self, one: &'a Lingering) -> Option<Row<'a>> {
        let facts = facts_of_gone(one, &self.grouping, self.host_context);
        let origins = facts.origins;
        self.judged(facts, |grouping, explained| grouping.judge_lingering(one, origins, explained))
    }

    /// Returns the row of a socket whose facts match the filter; `None` if its verdict does not.
    fn judged(
        &mut self,
        facts: Facts<'a>,
        verdict: impl FnOnce(&Grouping<'a>, &mut dyn FnMut(Class, RuleName) -> bool) -> Verdict,
    ) -> Option<Row<'a>> {
        let explained = &mut self.explained;
        let mut is_explained = |class, rule| match explained {
            Some(explained) => explained.insert(cause(&facts.to_compare(), class, rule)),
            None => true,
        };
        let verdict = verdict(&self.grouping, &mut is_explained);
        let Facts { socket, dwell, gone, owners, origins: Origins { listener, .. }, workload } = facts;
        let process = self.grouping.process(&socket, owners.as_deref());
        let row = Row {
            socket,
            dwell,
            gone,
            owners,
            listener,
            workload,
            conntrack: None,
            proxy_peer: None,
            process,
            verdict,
        };
        self.filter.matches_verdict(row.verdict.class).then_some(row)
    }
}

impl Facts<'_> {
    /// Returns the facts that filters compare.
    pub(crate) fn to_compare(&self) -> RowFacts<'_> {
        let Self { ref socket, dwell, gone, ref owners, origins: Origins { listener, .. }, workload } = *self;
        RowFacts { socket, dwell, gone, owners: owners.as_deref(), listener, workload }
    }
}

/// Returns the facts about a socket in CLOSE_WAIT at `now`.
pub(crate) fn facts_of<'a>(
    one: SocketView<'a>,
    grouping: &Grouping<'a>,
    host_context: &'a HostContext,
    now: BootTime,
) -> Facts<'a> {
    let (socket, owners) = (one.socket(), one.owners().map(Cow::from));
    let (origins, workload) = (grouping.origins(&socket), host_context.workload(&socket, owners.as_deref()));
    Facts { socket: Cow::Owned(socket), dwell: Some(one.dwell(now)), gone: None, owners, origins, workload }
}

/// Returns the facts about a socket of which only a descriptor is left.
fn facts_of_gone<'a>(one: &'a Lingering, grouping: &Grouping<'a>, host_context: &'a HostContext) -> Facts<'a> {
    let owners = one.owners.as_deref();
    Facts {
        socket: Cow::Borrowed(&one.socket),
        dwell: one.gone.dwell,
        gone: Some(&one.gone),
        owners: owners.map(Cow::Borrowed),
        origins: grouping.origins(&one.socket),
        workload: host_context.workload(&one.socket, owners),
    }
}

impl<'a> Iterator for Selection<'a> {
    type Item = Row<'a>;

    fn next(&mut self) -> Option<Row<'a>> {
        while let Some(one) = self.tracked.next() {
            if let Some(row) = self.tracked(one) {
                return Some(row);
            }
        }
        while let Some(one) = self.gone.next() {
            if let Some(row) = self.gone(one) {
                return Some(row);
            }
        }
        None
    }
}

impl<'a> From<Selection<'a>> for View<'a> {
    /// Collects all rows.
    fn from(mut selection: Selection<'a>) -> Self {
        let rows = selection.by_ref().collect();
        let Selection { now, untracked, unseen, processes, .. } = selection;
        Self { now, rows, untracked, unseen, processes }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        flow::group_key::GroupKeys,
        model::{Certainty, Class, KeySecret, SocketKey},
        testing::{owner, socket_on_port, verdict},
    };

    const NOW: BootTime = BootTime(100_000_000_000);

    /// Returns the number of verdicts and the ports of the rows if `filter` selects among sockets on ports 80 to 84.
    fn judged(filter: &Filter) -> (usize, Vec<u16>) {
        let (count, rows) = rows(filter);
        (count, rows.into_iter().map(|(port, _)| port).collect())
    }

    /// Returns the number of verdicts, and the ports and classes of the rows if `filter` selects among sockets on ports 80 to 84.
    fn rows(filter: &Filter) -> (usize, Vec<(u16, Class)>) {
        let (mut tracker, lingering) =
            (Tracker::new(Duration::from_secs(60), 10, KeySecret::default()), LingeringSockets::default());
        for port in 80..85 {
            tracker.enter(SocketKey((1 << 63) + u64::from(port)), BootTime(u64::from(port)), &socket_on_port(port));
        }
        let host_context = HostContext::default();
        let keys = GroupKeys::default();
        let grouping = Grouping::new(NOW, Duration::from_secs(60), &tracker, &host_context, &keys, None);
        let selection = Selection::new(NOW, filter, (&tracker, &lingering), &host_context, grouping);
        assert_eq!(selection.total, 5);
        let count = selection.tracked.len();
        (count, selection.map(|row| (row.socket.local.port, row.verdict.class)).collect())
    }

    #[test]
    fn a_socket_that_does_not_match_the_filter_is_not_judged() {
        let ports = |ports: &[u16]| Filter { ports: ports.to_vec(), ..Filter::default() };
        assert_eq!(judged(&Filter::default()), (5, vec![80, 81, 82, 83, 84]));
        assert_eq!(judged(&ports(&[80, 82])), (2, vec![80, 82]));
        let (_, class) = rows(&Filter::default()).1[0];
        assert_eq!(judged(&Filter { verdicts: vec![class], ..ports(&[80, 82]) }), (2, vec![80, 82]));
        let others = Class::ALL.iter().copied().filter(|other| *other != class).collect();
        assert_eq!(judged(&Filter { verdicts: others, ..ports(&[80, 82]) }), (2, Vec::new()));
        assert_eq!(judged(&ports(&[1])), (0, Vec::new()));
    }

    #[test]
    fn the_order_does_not_depend_on_the_places_in_memory() {
        let order = |numbers: [u64; 2]| {
            let (mut tracker, lingering) =
                (Tracker::new(Duration::from_secs(60), 10, KeySecret::default()), LingeringSockets::default());
            for number in numbers {
                let socket = Socket { cookie: Some(number), ..socket_on_port(80) };
                tracker.enter(SocketKey((1 << 63) + number), BootTime(7), &socket);
            }
            let (host_context, keys, filter) = (HostContext::default(), GroupKeys::default(), Filter::default());
            let grouping = Grouping::new(NOW, Duration::from_secs(60), &tracker, &host_context, &keys, None);
            let selection = Selection::new(NOW, &filter, (&tracker, &lingering), &host_context, grouping);
            selection.map(|row| row.socket.cookie).collect::<Vec<_>>()
        };
        assert_eq!(order([1, 2]), order([2, 1]));
        assert_eq!(order([1, 2]).len(), 2);
    }

    #[test]
    fn for_hints_only_the_oldest_row_of_each_cause_has_texts() {
        let explained_of = |for_hints: bool| {
            let (tracker, lingering) =
                (Tracker::new(Duration::from_secs(60), 10, KeySecret::default()), LingeringSockets::default());
            let (host_context, keys, filter) = (HostContext::default(), GroupKeys::default(), Filter::default());
            let grouping = Grouping::new(NOW, Duration::from_secs(60), &tracker, &host_context, &keys, None);
            let selection = Selection::new(NOW, &filter, (&tracker, &lingering), &host_context, grouping);
            let mut selection = if for_hints { selection.with_texts_of_hints() } else { selection };
            let (socket, owners) = (socket_on_port(80), [1, 2].map(|pid| [owner("app", pid, 3)]));
            let rows = [
                (Class::Hung, "blocked", &owners[0]),
                (Class::Hung, "blocked", &owners[0]),
                (Class::Hung, "busy", &owners[0]),
                (Class::Hung, "blocked", &owners[1]),
                (Class::Unknown, "too_early", &owners[1]),
            ];
            rows.map(|(class, rule, owners)| {
                let (owners, origins) = (Some(Cow::Borrowed(&owners[..])), Origins::default());
                let socket = Cow::Borrowed(&socket);
                let facts = Facts { socket, dwell: None, gone: None, owners, origins, workload: None };
                let mut is_explained = false;
                selection.judged(facts, |_grouping, explained| {
                    is_explained = explained(class, rule);
                    verdict(class, Certainty::Low)
                });
                is_explained
            })
        };
        assert_eq!(explained_of(true), [true, false, true, true, true]);
        assert_eq!(explained_of(false), [true; 5]);
    }
}
