//! Closes of watched ports.

use std::time::Duration;

use super::HostContext;
use crate::{
    model::{PortCloses, WatchedPort},
    time::BootTime,
};

/// Minimum time for which a port is watched before an absence of closes is evidence.
const MIN_WATCH: Duration = Duration::from_secs(10);

impl HostContext {
    /// Replaces the watched ports at `now`. Drops the closes of other ports; of ports with another onset it keeps the latest close after
    /// that.
    pub(crate) fn watch(&mut self, ports: &[WatchedPort], now: BootTime) {
        let since = |port: &WatchedPort| self.watched.get(port).copied().unwrap_or(now);
        self.watched = ports.iter().map(|port| (*port, since(port))).collect();
        let mut before = std::mem::take(&mut self.closes);
        for port in ports.iter().filter(|port| !port.remote) {
            let place = (port.netns, port.port);
            let Some(known) = before.remove(&place) else { continue };
            let kept = if known.port == *port {
                Some(known)
            } else {
                let last = known.last.filter(|last| *last >= port.since);
                last.map(|last| PortCloses { port: *port, count: 1, last: Some(last) })
            };
            self.closes.extend(kept.map(|kept| (place, kept)));
        }
    }

    /// Stores the closes of a watched port. The onset can have changed since the request.
    pub(super) fn learn_closes(&mut self, mut closes: PortCloses) {
        if self.watched.contains_key(&closes.port) {
            let known = self.closes.entry((closes.port.netns, closes.port.port)).or_insert(closes);
            // The kernel counts from the last change of the onset on.
            closes.last = closes.last.max(known.last.filter(|_| known.port == closes.port));
            *known = closes;
        }
    }

    /// Returns the closes of a port since its onset. `None` if the port is not watched, or has had no close yet and was not
    /// watched for [`MIN_WATCH`].
    pub(crate) fn closes(&self, netns: Option<u32>, port: u16, now: BootTime) -> Option<&PortCloses> {
        let closes = self.closes.get(&(netns, port))?;
        let since = self.watched.get(&closes.port)?;
        (closes.last.is_some() || now.since(*since) >= MIN_WATCH).then_some(closes)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(seconds: u64) -> BootTime {
        BootTime(seconds * 1_000_000_000)
    }

    /// Port 80 with an onset at this second.
    fn port(since: u64) -> WatchedPort {
        WatchedPort { netns: Some(1), port: 80, remote: false, since: at(since) }
    }

    fn last(context: &HostContext, now: u64) -> Option<Option<BootTime>> {
        context.closes(Some(1), 80, at(now)).map(|closes| closes.last)
    }

    #[test]
    fn a_later_onset_keeps_the_latest_close_after_it() {
        let mut context = HostContext::default();
        context.watch(&[port(10)], at(11));
        context.learn_closes(PortCloses { port: port(10), count: 3, last: Some(at(50)) });
        context.watch(&[port(40)], at(60));
        assert_eq!(last(&context, 60), Some(Some(at(50))));
        // The kernel program begins to count again.
        context.learn_closes(PortCloses { port: port(40), count: 0, last: None });
        assert_eq!(last(&context, 61), Some(Some(at(50))));
        context.learn_closes(PortCloses { port: port(40), count: 1, last: Some(at(62)) });
        assert_eq!(last(&context, 63), Some(Some(at(62))));
        context.watch(&[port(70)], at(80));
        assert_eq!(last(&context, 80), None, "no close is known, and the watch is new");
        context.learn_closes(PortCloses { port: port(40), count: 2, last: Some(at(75)) });
        assert_eq!(last(&context, 81), None, "an answer to an earlier request");
        context.watch(&[], at(90));
        assert_eq!(last(&context, 90), None);
    }
}
