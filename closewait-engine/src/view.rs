//! What is there at one moment, judged: for `closewait list`.

use std::{cmp::Reverse, collections::BTreeMap, time::Duration};

use super::{
    diagnose::Seen,
    grouping::Grouping,
    host_context::HostContext,
    lingering::LingeringSockets,
    model::{Dwell, Exit, Holder, Listener, ProxyPeer, Since, Socket, Verdict},
    process::Process,
    time::BootTime,
    tracker::Tracker,
    workload::Workload,
};

/// One socket.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Row<'a> {
    /// What is known of it.
    pub socket: &'a Socket,
    /// Its age in CLOSE_WAIT, or how long it had stayed there if it is gone.
    pub dwell: Option<Dwell>,
    /// If it is out of CLOSE_WAIT and only its descriptor is left.
    pub gone: Option<&'a Exit>,
    /// Every descriptor of it, sorted by process; `None` if they could not be looked for.
    pub holders: Option<&'a [Holder]>,
    /// The listener that it waits at or came out of.
    pub listener: Option<&'a Seen<Listener>>,
    /// What its cgroup is.
    pub workload: Option<&'a Workload>,
    /// How long its namespace's connection tracking keeps a connection in CLOSE_WAIT.
    pub conntrack: Option<Duration>,
    /// The connection that it waits for, if it is one leg of a proxied one.
    pub proxy_peer: Option<ProxyPeer>,
    /// Its first holder, or while nobody has accepted it that of its listener, as far as it was looked at.
    pub process: Option<&'a Process>,
    /// Why it stays.
    pub verdict: Verdict,
}

/// Everything that is there.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct View<'a> {
    /// When.
    pub now: BootTime,
    /// For how long an agent has watched; `None` for a single look.
    pub watched: Option<Duration>,
    /// The sockets, oldest first: by the age that is certain.
    pub rows: Vec<Row<'a>>,
    /// Further sockets that are there, of which nothing else is known for want of room.
    pub untracked: u64,
    /// Why there may be sockets that cannot be seen, if so.
    pub unseen: Option<&'a str>,
    /// The processes that hold them, or their listeners, as far as they were looked at.
    pub processes: &'a BTreeMap<u32, Process>,
}

impl<'a> View<'a> {
    /// Judges everything. `watched` is for how long an agent has watched, if one has.
    pub(super) fn new(
        now: BootTime,
        watched: Option<Duration>,
        tracker: &'a Tracker,
        lingering: &'a LingeringSockets,
        host_context: &'a HostContext,
        grouping: &Grouping<'a>,
    ) -> Self {
        let mut tracked: Vec<_> = tracker.iter().collect();
        // The wider interval first, then the ends, so that the order is the same every time.
        tracked.sort_by_key(|(_, one)| {
            let earliest = match one.since {
                Since::Exact(since) => Some(since),
                Since::Between { earliest, .. } => earliest,
            };
            (one.since.latest(), earliest.map(Reverse), one.socket.local, one.socket.remote)
        });
        let mut rows = Vec::with_capacity(tracked.len() + lingering.len());
        rows.extend(tracked.into_iter().map(|(key, one)| Row {
            socket: &one.socket,
            dwell: Some(one.since.dwell(now)),
            gone: None,
            holders: one.holders.as_deref(),
            listener: grouping.listener(&one.socket),
            workload: host_context.workload(&one.socket, one.holders.as_deref()),
            conntrack: host_context.conntrack(one.socket.netns),
            proxy_peer: grouping.proxy_peer(key, one).cloned(),
            process: grouping.process(&one.socket, one.holders.as_deref()),
            verdict: grouping.verdict(key, one),
        }));
        let mut gone: Vec<_> = lingering.iter().map(|(_, one)| one).collect();
        gone.sort_by_key(|one| (one.gone.at, one.socket.local, one.socket.remote));
        rows.extend(gone.into_iter().map(|one| Row {
            socket: &one.socket,
            dwell: one.gone.dwell,
            gone: Some(&one.gone),
            holders: one.holders.as_deref(),
            listener: grouping.listener(&one.socket),
            workload: host_context.workload(&one.socket, one.holders.as_deref()),
            conntrack: None,
            proxy_peer: None,
            process: grouping.process(&one.socket, one.holders.as_deref()),
            verdict: grouping.verdict_on_lingering(one),
        }));
        Self { now, watched, rows, untracked: tracker.untracked(), unseen: None, processes: host_context.processes() }
    }
}
