//! What is there at one moment, judged: for `closewait list`.

use std::{collections::BTreeMap, time::Duration};

use super::{
    diagnose::Seen,
    model::{Dwell, Gone, Holder, Leg, Listener, Socket, Verdict},
    process::Process,
    time::Boot,
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
    pub gone: Option<&'a Gone>,
    /// Every descriptor of it, sorted by process; `None` if they could not be looked for.
    pub holders: Option<&'a [Holder]>,
    /// The listener that it waits at or came out of.
    pub listener: Option<&'a Seen<Listener>>,
    /// What its cgroup is.
    pub workload: Option<&'a Workload>,
    /// How long its namespace's connection tracking keeps a connection in CLOSE_WAIT.
    pub conntrack: Option<Duration>,
    /// The connection that it waits for, if it is one leg of a proxied one.
    pub leg: Option<Leg>,
    /// Why it stays.
    pub verdict: Verdict,
}

/// Everything that is there.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct View<'a> {
    /// When.
    pub now: Boot,
    /// For how long an agent has watched; `None` for a single look.
    pub watched: Option<Duration>,
    /// The sockets, oldest first: by the age that is certain.
    pub rows: Vec<Row<'a>>,
    /// The processes that hold them, or their listeners, as far as they were looked at.
    pub processes: &'a BTreeMap<u32, Process>,
}
