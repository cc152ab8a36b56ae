//! Sockets with their verdicts at one time, for `closewait list`.

use std::{
    borrow::Cow,
    cmp::Reverse,
    collections::{BTreeMap, BTreeSet},
    time::Duration,
    vec,
};

use crate::{
    context::host_context::HostContext,
    diagnose::Seen,
    diagnose::grouping::{Grouping, Origins},
    model::{Class, Dwell, Exit, Listener, Owner, ProxyPeer, RuleName, Since, Socket, Verdict},
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
struct Facts<'a> {
    socket: Cow<'a, Socket>,
    dwell: Option<Dwell>,
    gone: Option<&'a Exit>,
    owners: Option<Cow<'a, [Owner]>>,
    origins: Origins<'a>,
    workload: Option<&'a Workload>,
}

/// Iterator over the sockets that match a filter, by minimum age, oldest first. It judges each socket when it returns it, and
/// never judges a socket whose facts do not match the filter.
pub struct Selection<'a> {
    /// Time of the selection.
    pub now: BootTime,
    /// Number of all sockets, including those that do not match the filter.
    pub total: usize,
    /// Number of further sockets that were dropped because a limit was reached.
    pub untracked: u64,
    /// Reason why the selection may lack sockets; `None` if the agent sees all.
    pub unseen: Option<&'a str>,
    /// Inspected owners of the sockets and of their listeners, by pid.
    pub processes: &'a BTreeMap<u32, Process>,
    filter: &'a Filter,
    host_context: &'a HostContext,
    grouping: Grouping<'a>,
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
        let mut tracked: Vec<_> = tracker.iter().collect();
        // The wider interval comes first, then the endpoints decide, so that the order is always the same.
        tracked.sort_by_key(|one| {
            let earliest = match one.since() {
                Since::Exact(since) => Some(since),
                Since::Between { earliest, .. } => earliest,
            };
            (one.latest(), earliest.map(Reverse), one.ends())
        });
        let mut gone: Vec<_> = lingering.iter().map(|(_, one)| one).collect();
        gone.sort_by_key(|one| (one.gone.at, one.socket.local, one.socket.remote));
        Self {
            now,
            total: tracked.len() + gone.len(),
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

    /// Makes only those verdicts have texts that hints show: of each cause, the verdict of the oldest row. Other texts are empty.
    #[must_use]
    pub fn with_texts_of_hints(self) -> Self {
        Self { explained: Some(BTreeSet::new()), ..self }
    }

    /// Returns the row of a socket in CLOSE_WAIT; `None` if it does not match the filter.
    fn tracked(&mut self, one: SocketView<'a>) -> Option<Row<'a>> {
        let (socket, owners) = (Cow::Owned(one.socket()), one.owners().map(Cow::from));
        let origins = self.grouping.origins(&socket);
        let workload = self.host_context.workload(&socket, owners.as_deref());
        let conntrack = self.host_context.conntrack(socket.netns);
        let facts = Facts { socket, dwell: Some(one.dwell(self.now)), gone: None, owners, origins, workload };
        let mut proxy_peer = None;
        let row = self.judged(facts, |grouping, explained| {
            let verdict;
            (verdict, proxy_peer) = grouping.judge(one, origins, explained);
            verdict
        })?;
        Some(Row { conntrack, proxy_peer, ..row })
    }

    /// Returns the row of a socket of which only a descriptor is left; `None` if it does not match the filter.
    fn gone(&mut self, one: &'a Lingering) -> Option<Row<'a>> {
        let (socket, owners) = (Cow::Borrowed(&one.socket), one.owners.as_deref());
        let origins = self.grouping.origins(&socket);
        let workload = self.host_context.workload(&socket, owners);
        let (dwell, gone, owners) = (one.gone.dwell, Some(&one.gone), owners.map(Cow::Borrowed));
        let facts = Facts { socket, dwell, gone, owners, origins, workload };
        self.judged(facts, |grouping, explained| grouping.judge_lingering(one, origins, explained))
    }

    /// Returns the row of a socket; computes the verdict only if the facts match the filter.
    fn judged(
        &mut self,
        facts: Facts<'a>,
        verdict: impl FnOnce(&Grouping<'a>, &mut dyn FnMut(Class, RuleName) -> bool) -> Verdict,
    ) -> Option<Row<'a>> {
        let Facts { socket, dwell, gone, owners, origins: Origins { listener, .. }, workload } = facts;
        let owned = owners.as_deref();
        let facts = RowFacts { socket: &socket, dwell, gone, owners: owned, listener, workload };
        if !self.filter.matches_facts(&facts, self.now) {
            return None;
        }
        let explained = &mut self.explained;
        let mut is_explained = |class, rule| match explained {
            Some(explained) => explained.insert(cause(&facts, class, rule)),
            None => true,
        };
        let verdict = verdict(&self.grouping, &mut is_explained);
        let process = self.grouping.process(&socket, owned);
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
        model::{Certainty, Class, KeySecret},
        testing::{owner, socket_on_port, verdict},
    };

    const NOW: BootTime = BootTime(100_000_000_000);

    /// Returns the number of verdicts and the ports of the rows if `filter` selects among sockets on ports 80 to 84.
    fn judged(filter: &Filter) -> (u32, Vec<u16>) {
        let sockets: Vec<_> = (80..85).map(socket_on_port).collect();
        let (tracker, lingering) =
            (Tracker::new(Duration::from_secs(60), 10, KeySecret::default()), LingeringSockets::default());
        let host_context = HostContext::default();
        let keys = GroupKeys::default();
        let grouping = Grouping::new(NOW, Duration::from_secs(60), &tracker, &host_context, &keys, None);
        let mut selection = Selection::new(NOW, filter, (&tracker, &lingering), &host_context, grouping);
        let (mut count, mut ports) = (0, Vec::new());
        for socket in &sockets {
            let dwell = Some(Dwell::Exact(Duration::from_secs(1)));
            let (of_row, origins) = (Cow::Borrowed(socket), Origins::default());
            let facts = Facts { socket: of_row, dwell, gone: None, owners: None, origins, workload: None };
            let row = selection.judged(facts, |_grouping, _explained| {
                count += 1;
                verdict(if socket.local.port == 80 { Class::Leak } else { Class::Hung }, Certainty::High)
            });
            ports.extend(row.map(|row| row.socket.local.port));
        }
        (count, ports)
    }

    #[test]
    fn a_socket_that_does_not_match_the_filter_is_not_judged() {
        let ports = |ports: &[u16]| Filter { ports: ports.to_vec(), ..Filter::default() };
        assert_eq!(judged(&Filter::default()), (5, vec![80, 81, 82, 83, 84]));
        assert_eq!(judged(&ports(&[80, 82])), (2, vec![80, 82]));
        assert_eq!(judged(&Filter { verdicts: vec![Class::Hung], ..ports(&[80, 82]) }), (2, vec![82]));
        assert_eq!(judged(&Filter { verdicts: vec![Class::Hung], ..ports(&[1]) }), (0, Vec::new()));
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
