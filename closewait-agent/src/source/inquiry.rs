//! What the engine wants to know of owners, cgroups and namespaces: the I/O for [`Inquiry`].

use std::{collections::BTreeSet, fs, time::Duration};

use super::{
    processes::{self, Sampling},
    program::Programs,
    snapshot,
    walk::Found,
};
use crate::{
    clock,
    engine::model::{Inquiry, Observation},
    host::netns,
};

/// Answers inquiries. Remembers what does not change.
#[derive(Debug, Default)]
pub struct Inquirer {
    /// The kernel knows no iterator of one process.
    no_legs: bool,
}

impl Inquirer {
    /// Hands everything to `each` that can be had at once. What the processes do takes a second look: finish it after a
    /// while, and hand in what comes of it.
    pub fn begin(
        &mut self,
        programs: Option<&mut Programs>,
        inquiry: &Inquiry,
        mut each: impl FnMut(Found<'_>),
    ) -> Sampling {
        let sampling = Sampling::begin(&inquiry.processes, clock::now());
        if let Some(programs) = programs.filter(|programs| programs.plan().iterate_files && !self.no_legs) {
            for pid in &inquiry.legs_of {
                if let Err(error) = snapshot::legs(programs, *pid, |bytes| each(Found::Record(bytes))) {
                    log::debug!("the other connections of process {pid} cannot be seen: {error:#}");
                    self.no_legs = true;
                    break;
                }
            }
        }
        for (inode, place) in processes::places(&inquiry.unheld) {
            each(Found::Fact(Box::new(Observation::Placed { inode, place })));
        }
        conntrack(&inquiry.namespaces, |observation| each(Found::Fact(Box::new(observation))));
        sampling
    }
}

/// How long connection tracking keeps connections in CLOSE_WAIT, of each of the namespaces that can be entered.
fn conntrack(wanted: &[u32], mut each: impl FnMut(Observation)) {
    if wanted.is_empty() {
        return;
    }
    let wanted: BTreeSet<u32> = wanted.iter().copied().collect();
    let mut timeouts: std::collections::BTreeMap<u32, Option<Duration>> =
        wanted.iter().map(|netns| (*netns, None)).collect();
    for namespace in netns::all().into_iter().filter(|namespace| wanted.contains(&namespace.inode)) {
        // `/proc/sys/net` shows the namespace of the thread that opens it.
        let read =
            namespace.enter_and(|| fs::read_to_string("/proc/sys/net/netfilter/nf_conntrack_tcp_timeout_close_wait"));
        let seconds = read.ok().and_then(Result::ok).and_then(|text| text.trim().parse().ok());
        timeouts.insert(namespace.inode, seconds.map(Duration::from_secs));
    }
    for (netns, conntrack_close_wait) in timeouts {
        each(Observation::Namespace { netns, conntrack_close_wait });
    }
}
