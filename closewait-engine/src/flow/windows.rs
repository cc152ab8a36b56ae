//! Histograms of dwell times in one window: for all sockets from the kernel's counts, for each port from the records.

use std::{ops::RangeInclusive, time::Duration};

use indexmap::IndexMap;

use serde::{Deserialize, Serialize};

use crate::{
    histogram::Histogram,
    model::{Dwell, Finding, PassedSockets, Role, Scope, Socket},
    time::BootTime,
    track::hashing::FastState,
};

/// Maximum number of local ports with a histogram of their own; the others share one. Each takes 15 KB during its window.
const MAX_PORTS: usize = 64;

/// Histograms by scope, looked up for every record. A peer can choose a port, but too few ports have a histogram for hash
/// collisions to matter.
type Histograms = IndexMap<Scope, Histogram, FastState>;

/// Counts of the current window.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Windows {
    began: BootTime,
    ephemeral_ports: RangeInclusive<u16>,
    /// Counts of the kernel program, which do not depend on the ring buffer.
    kernel: Option<Histogram>,
    longest: Option<Duration>,
    #[serde(with = "indexmap::map::serde_seq")]
    finished: Histograms,
}

impl Windows {
    /// Begins the first window at `now`.
    pub(crate) fn new(now: BootTime, ephemeral_ports: RangeInclusive<u16>) -> Self {
        Self { began: now, ephemeral_ports, kernel: None, longest: None, finished: Histograms::default() }
    }

    /// Continues the window that an earlier agent began at `began`; 0 if that agent ended no window.
    pub(crate) fn resume(&mut self, began: BootTime) {
        if began != BootTime(0) {
            self.began = began.min(self.began);
        }
    }

    /// Counts an exit after `dwell`. Only exact dwell times count.
    pub(crate) fn finished(&mut self, socket: &Socket, dwell: Dwell) {
        let Dwell::Exact(dwell) = dwell else { return };
        self.longest = self.longest.max(Some(dwell));
        own(&mut self.finished, (socket.local.port, socket.role), &self.ephemeral_ports).record(dwell);
    }

    /// Counts exits of sockets without records. The kernel program counts them too.
    pub(crate) fn passed(&mut self, passed: &PassedSockets) {
        self.longest = self.longest.max(Some(passed.longest));
        let of_flow = passed.flow.local_port.map_or((0, Some(Role::Client)), |port| (port, Some(Role::Server)));
        own(&mut self.finished, of_flow, &self.ephemeral_ports).record_counts(&passed.dwell, passed.longest);
    }

    /// Counts an exit after `dwell` that the kernel program did not count, because its map of entry times was full.
    pub(crate) fn finished_uncounted(&mut self, dwell: Dwell) {
        if let Dwell::Exact(dwell) = dwell {
            self.kernel.get_or_insert_default().record(dwell);
        }
    }

    /// Adds the difference between two readings of the kernel's counts.
    pub(crate) fn kernel_counted(&mut self, before: &[u64], now: &[u64]) {
        let new = Histogram::difference(now, before);
        match &mut self.kernel {
            Some(kernel) => kernel.add(&new),
            None => self.kernel = Some(new),
        }
    }

    /// Ends the window at `at`. `ages` are the sockets that are still in CLOSE_WAIT: local port and role, and age.
    pub(crate) fn end(
        &mut self,
        at: BootTime,
        ages: impl Iterator<Item = ((u16, Option<Role>), Dwell)>,
    ) -> Vec<Finding> {
        let mut unfinished = Histograms::default();
        for (socket, dwell) in ages {
            unfinished.entry(Scope::All).or_default().record(dwell.at_least());
            own(&mut unfinished, socket, &self.ephemeral_ports).record(dwell.at_least());
        }
        let window = at.since(self.began);
        let mut finished = std::mem::take(&mut self.finished);
        let all = self.kernel.take().unwrap_or_default().with_longest(self.longest.take());
        finished.insert(Scope::All, all);
        self.began = at;
        let mut scopes: Vec<_> = finished.keys().chain(unfinished.keys()).copied().collect();
        scopes.sort_unstable();
        scopes.dedup();
        let summary = |of: &Histograms, scope| of.get(&scope).map(Histogram::summary).unwrap_or_default();
        let finding = |scope| {
            let (finished, unfinished) = (summary(&finished, scope), summary(&unfinished, scope));
            Finding::Histogram { at, scope, window, finished, unfinished }
        };
        scopes.into_iter().map(finding).collect()
    }
}

/// Returns the histogram that counts a socket with this local port and role: that of the port if it is a server's and the limit allows it.
fn own<'h>(
    histograms: &'h mut Histograms,
    (port, role): (u16, Option<Role>),
    ephemeral_ports: &RangeInclusive<u16>,
) -> &'h mut Histogram {
    let listened_on = match role {
        Some(Role::Server) => true,
        Some(Role::Client) => false,
        None => !ephemeral_ports.contains(&port),
    };
    let own = Scope::LocalPort(port);
    let has_own = listened_on && (histograms.len() < MAX_PORTS || histograms.contains_key(&own));
    histograms.entry(if has_own { own } else { Scope::Other }).or_default()
}
