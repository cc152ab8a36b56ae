//! Ports with sockets in CLOSE_WAIT, whose closes the kernel program counts.

use std::{collections::BTreeMap, time::Duration};

use serde::{Deserialize, Serialize};

use crate::{
    flow::group_key::FlowKey,
    model::{Since, SocketKey, WatchedPort},
    time::BootTime,
};

/// Maximum number of watched ports; those with the oldest sockets come first.
const MAX_PORTS: usize = 1024;
/// Minimum age of a socket whose port is watched.
const MIN_AGE: Duration = Duration::from_secs(1);

/// Time by which the oldest socket may be younger than the one before, and the onset remains. Where the kernel resets one old socket after
/// the other, each new onset would begin the count of closes again.
const MAX_SHIFT: Duration = Duration::from_secs(60);

/// Network namespace, port, and whether the port is a remote one.
type Port = (Option<u32>, u16, bool);

/// Ports that the kernel program watches.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub(crate) struct PortWatch {
    /// Oldest socket of each port: its entry and key.
    watched: BTreeMap<Port, (BootTime, SocketKey)>,
}

/// Oldest socket of each port, collected during a count.
#[derive(Debug, Default)]
pub(crate) struct OldestOfPorts {
    oldest: BTreeMap<Port, (BootTime, SocketKey)>,
    /// Port of the last socket, and its oldest socket: consecutive sockets mostly have the same port and are younger.
    last: Option<(Port, (BootTime, SocketKey))>,
}

impl OldestOfPorts {
    /// Adds a socket that its program has not closed at `now`.
    pub(crate) fn present(&mut self, now: BootTime, flow_key: FlowKey, since: Since, key: SocketKey) {
        let port = match flow_key {
            FlowKey::Port(netns, port) => (netns, port, false),
            FlowKey::Remote(scope, remote) => (scope.netns, remote.port, true),
            FlowKey::Rest => return,
        };
        let entered = (since.latest(), key);
        if self.last.is_some_and(|(last, oldest)| last == port && oldest <= entered) || now.since(entered.0) < MIN_AGE {
            return;
        }
        let oldest = self.oldest.entry(port).or_insert(entered);
        *oldest = entered.min(*oldest);
        self.last = Some((port, *oldest));
    }
}

impl PortWatch {
    /// Takes over the oldest socket of each port. Returns the ports to watch, oldest first, if they have changed.
    pub(crate) fn update(&mut self, found: OldestOfPorts) -> Option<Vec<WatchedPort>> {
        let mut found: Vec<_> = found.oldest.into_iter().map(|(port, (entered, key))| (entered, key, port)).collect();
        found.sort_unstable();
        found.truncate(MAX_PORTS);
        // If the oldest socket is the same, the onset remains, even if its entry is known more exactly now.
        let is_near = |since: BootTime, entered: BootTime| since <= entered && entered.since(since) < MAX_SHIFT;
        let onset = |(entered, key, port)| {
            let before = self.watched.get(&port).filter(|(since, of)| *of == key || is_near(*since, entered));
            (port, (before.map_or(entered, |(since, _)| *since), key))
        };
        let watched: BTreeMap<_, _> = found.into_iter().map(onset).collect();
        if watched == self.watched {
            return None;
        }
        let since = |watched: &BTreeMap<Port, (BootTime, SocketKey)>| {
            watched.iter().map(|(port, (since, _))| (*port, *since)).collect::<Vec<_>>()
        };
        let is_same = since(&watched) == since(&self.watched);
        self.watched = watched;
        (!is_same).then(|| {
            let mut ports: Vec<_> = self.ports().collect();
            ports.sort_by_key(|port| (port.since, *port));
            ports
        })
    }

    /// Returns the watched ports.
    pub(crate) fn ports(&self) -> impl Iterator<Item = WatchedPort> {
        self.watched.iter().map(|((netns, port, remote), (since, _))| WatchedPort {
            netns: *netns,
            port: *port,
            remote: *remote,
            since: *since,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(seconds: u64) -> BootTime {
        BootTime(seconds * 1_000_000_000)
    }

    /// Counts sockets at `now`, each given as port, entry and key.
    fn count(watch: &mut PortWatch, now: u64, sockets: &[(u16, u64, u64)]) -> Option<Vec<(u16, u64)>> {
        let mut oldest = OldestOfPorts::default();
        for (port, entered, key) in sockets {
            oldest.present(at(now), FlowKey::Port(Some(1), *port), Since::Exact(at(*entered)), SocketKey(*key));
        }
        let ports = watch.update(oldest)?;
        Some(ports.into_iter().map(|port| (port.port, port.since.0 / 1_000_000_000)).collect())
    }

    #[test]
    fn a_port_is_watched_since_the_entry_of_its_oldest_socket() {
        let mut watch = PortWatch::default();
        assert_eq!(count(&mut watch, 10, &[]), None, "no port, as before");
        assert_eq!(count(&mut watch, 10, &[(80, 10, 1)]), None, "too young");
        assert_eq!(count(&mut watch, 12, &[(80, 11, 2), (80, 10, 1), (443, 7, 3)]), Some(vec![(443, 7), (80, 10)]));
        assert_eq!(
            count(&mut watch, 14, &[(443, 7, 3), (80, 10, 1), (80, 13, 4)]),
            None,
            "the oldest sockets are the same"
        );
        assert_eq!(count(&mut watch, 16, &[(443, 7, 3), (80, 13, 4)]), None, "the oldest socket exited a moment ago");
        assert_eq!(
            count(&mut watch, 99, &[(443, 7, 3), (80, 70, 5)]),
            Some(vec![(443, 7), (80, 70)]),
            "the oldest sockets have exited"
        );
        assert_eq!(count(&mut watch, 101, &[]), Some(Vec::new()));
        assert_eq!(count(&mut watch, 103, &[]), None);
    }

    #[test]
    fn an_onset_follows_oldest_sockets_that_exit_one_after_the_other() {
        let mut watch = PortWatch::default();
        let mut onsets: Vec<u64> = Vec::new();
        for now in 100..400 {
            // Each socket is reset after 75 seconds.
            let sockets = [(80, now - 75, now)];
            onsets.extend(count(&mut watch, now, &sockets).into_iter().flatten().map(|(_, since)| since));
        }
        assert_eq!(onsets, [25, 85, 145, 205, 265]);
    }

    #[test]
    fn a_more_exact_entry_does_not_change_the_onset() {
        let mut watch = PortWatch::default();
        assert_eq!(count(&mut watch, 30, &[(80, 20, 1)]), Some(vec![(80, 20)]));
        assert_eq!(count(&mut watch, 32, &[(80, 19, 1)]), None);
        assert_eq!(
            count(&mut watch, 32, &[(80, 18, 2), (80, 19, 1)]),
            Some(vec![(80, 18)]),
            "a scan found an older socket"
        );
    }

    #[test]
    fn over_the_limit_the_ports_with_the_oldest_sockets_are_watched() {
        let mut watch = PortWatch::default();
        let sockets: Vec<_> = (0..MAX_PORTS as u16 + 5).map(|port| (port, u64::from(5000 - port), 1)).collect();
        let ports = count(&mut watch, 9000, &sockets).unwrap();
        assert_eq!((ports.len(), ports[0]), (MAX_PORTS, (MAX_PORTS as u16 + 4, 5000 - MAX_PORTS as u64 - 4)));
    }

    #[test]
    fn flows_over_the_limit_watch_no_port() {
        let mut oldest = OldestOfPorts::default();
        oldest.present(at(10), FlowKey::Rest, Since::Exact(at(1)), SocketKey(1));
        assert_eq!(PortWatch::default().update(oldest), None);
    }
}
