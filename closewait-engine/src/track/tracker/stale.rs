//! Facts that may have changed since they were read.

use super::Tracker;
use crate::{
    model::{Socket, SocketKey},
    time::BootTime,
    track::socket_view::SocketView,
};

impl Tracker {
    /// Makes facts that may have changed unknown, for sockets that are due at `now` and were not refreshed since `refreshed`.
    /// Returns the previous facts of sockets without a kernel address: no refresh can read them, so their facts would be unknown
    /// until the next audit.
    pub(crate) fn forget_stale_facts(&mut self, now: BootTime, refreshed: BootTime) -> Vec<(SocketKey, Socket)> {
        let mut forgotten = Vec::new();
        let is_fresh = |one: SocketView<'_>| one.refreshed().is_some_and(|last| last >= refreshed);
        let is_stale = |key: &SocketKey| self.sockets.get(*key).is_some_and(|one| !is_fresh(one));
        let stale: Vec<SocketKey> = self.due(now).filter(is_stale).collect();
        for key in stale {
            self.sockets.change(key, |tracked| {
                let before = tracked.socket.clone();
                tracked.socket = before.clone().without_changing_facts();
                if key.is_of_ends() {
                    forgotten.push((key, before));
                } else {
                    // The next refresh has to bring all facts.
                    tracked.refreshed = None;
                }
            });
        }
        forgotten
    }

    /// Restores the facts that [`Self::forget_stale_facts`] returned.
    pub(crate) fn remember(&mut self, forgotten: Vec<(SocketKey, Socket)>) {
        for (key, before) in forgotten {
            self.sockets.change(key, |tracked| tracked.socket = before);
        }
    }
}
