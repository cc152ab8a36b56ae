//! The sockets of one snapshot, for `closewait list`.

use std::{cmp::Reverse, collections::BTreeMap};

use super::{
    model::{Dwell, Holder, Observation, Since, Socket, SocketKey},
    time::Boot,
};

/// A socket of the snapshot.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Listed {
    /// What is known of it.
    pub socket: Socket,
    /// When it entered CLOSE_WAIT.
    since: Since,
    /// Every descriptor of it that was found, by process and number.
    pub holders: Vec<Holder>,
}

impl Listed {
    /// Its age at `now`.
    pub fn dwell(&self, now: Boot) -> Dwell {
        self.since.dwell(now)
    }
}

/// Puts together what the walks of a snapshot have found.
#[derive(Debug, Default)]
pub struct Listing {
    sockets: BTreeMap<SocketKey, Listed>,
}

impl Listing {
    /// Takes in one fact; only those of snapshots count.
    pub fn handle(&mut self, observation: Observation) {
        match observation {
            Observation::Present { key, at: _, since, socket } => {
                self.found(key, since, socket);
            }
            Observation::Held { key, at: _, since, socket, holder } => {
                self.found(key, since, socket).holders.push(holder)
            }
            Observation::Enter { .. }
            | Observation::Leave { .. }
            | Observation::Lingering { .. }
            | Observation::Listening { .. }
            | Observation::Leg { .. }
            | Observation::WalkEnded { .. }
            | Observation::Process { .. }
            | Observation::Cgroup { .. }
            | Observation::Namespace { .. }
            | Observation::Placed { .. }
            | Observation::InquiredAll
            | Observation::Looked { .. }
            | Observation::LookedAtAll
            | Observation::Counters { .. } => {}
        }
    }

    /// All of them, oldest first: by the age that is certain.
    pub fn oldest_first(self) -> Vec<Listed> {
        let mut listed: Vec<_> = self.sockets.into_values().collect();
        for one in &mut listed {
            one.holders.sort_by_key(|holder| (holder.task.pid, holder.fd));
        }
        // The wider interval first, then the ends, so that the order is the same every time.
        listed.sort_by_key(|one| {
            let earliest = match one.since {
                Since::Exact(since) => Some(since),
                Since::Between { earliest, .. } => earliest,
            };
            (one.since.latest(), earliest.map(Reverse), one.socket.local, one.socket.remote)
        });
        listed
    }

    fn found(&mut self, key: SocketKey, since: Since, socket: Socket) -> &mut Listed {
        // What a later walk says is fresher, but its bounds are as good as the first's.
        let listed =
            self.sockets.entry(key).or_insert_with(|| Listed { socket: socket.clone(), since, holders: Vec::new() });
        listed.socket = socket;
        listed
    }
}

#[cfg(test)]
mod tests {
    use super::{
        super::{
            model::Task,
            testing::{socket, socket_on_port},
            text::Comm,
        },
        *,
    };

    fn between(earliest: u64, latest: u64) -> Since {
        Since::Between { earliest: Some(Boot(earliest)), latest: Boot(latest) }
    }

    fn present(key: u64, since: Since, port: u16) -> Observation {
        Observation::Present { key: SocketKey(key), at: Boot(100), since, socket: socket_on_port(port) }
    }

    fn held(key: u64, pid: u32, fd: u32) -> Observation {
        let holder = Holder { task: Task { pid, comm: Comm::from_kernel(b"worker\0\0\0\0\0\0\0\0\0\0") }, fd };
        Observation::Held { key: SocketKey(key), at: Boot(100), since: between(1, 2), socket: socket(), holder }
    }

    #[test]
    fn the_oldest_comes_first() {
        let mut listing = Listing::default();
        for (key, since, port) in [(1, between(50, 60), 1), (2, between(10, 20), 2), (3, Since::Exact(Boot(40)), 3)] {
            listing.handle(present(key, since, port));
        }
        let ports: Vec<_> = listing.oldest_first().iter().map(|one| one.socket.local.port).collect();
        assert_eq!(ports, [2, 3, 1]);
    }

    #[test]
    fn a_socket_that_both_walks_found_is_listed_once_with_all_holders() {
        let mut listing = Listing::default();
        for observation in [present(1, between(1, 2), 80), held(1, 20, 4), held(1, 10, 7), held(1, 10, 3)] {
            listing.handle(observation);
        }
        let listed = listing.oldest_first();
        assert_eq!(listed.len(), 1);
        let holders: Vec<_> = listed[0].holders.iter().map(|holder| (holder.task.pid, holder.fd)).collect();
        assert_eq!(holders, [(10, 3), (10, 7), (20, 4)]);
    }
}
