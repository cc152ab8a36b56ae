//! States of sockets' peers, as far as they are on this host.

use std::{collections::BTreeMap, time::Duration};

use serde::{Deserialize, Serialize};

use crate::{
    flow::group_key::FlowKey,
    model::{PeerEnd, PeerQuestion, Protocol, SocketKey},
    time::BootTime,
    track::socket_view::SocketView,
};

/// Maximum number of sockets in one request.
const MAX_QUESTIONS: usize = 1024;
/// Maximum number of sockets of one flow in one request.
const MAX_QUESTIONS_OF_FLOW: usize = 32;
/// Minimum age of a socket in a request. A peer that soon closes the other direction, too, has closed it by then.
const MIN_AGE: Duration = Duration::from_secs(1);
/// Age at which an answer expires: the peer may have closed since.
const MAX_ANSWER_AGE: Duration = Duration::from_secs(60);

/// States of peers, with the times at which the agent read them.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub(super) struct PeerEnds {
    answers: BTreeMap<SocketKey, (BootTime, PeerEnd)>,
}

/// Order of sockets in a request: time of the last answer, entry, key.
type Turn = (Option<BootTime>, BootTime, SocketKey);

impl PeerEnds {
    /// Stores the state of a socket's peer.
    pub(super) fn learn(&mut self, key: SocketKey, at: BootTime, end: PeerEnd) {
        self.answers.insert(key, (at, end));
    }

    /// Forgets the state of a peer, because another socket has this key.
    pub(super) fn forget(&mut self, key: SocketKey) {
        if !self.answers.is_empty() {
            self.answers.remove(&key);
        }
    }

    /// Returns the state of a socket's peer; `None` if the agent did not look it up.
    pub(super) fn get(&self, key: SocketKey) -> Option<PeerEnd> {
        self.answers.get(&key).map(|(_, end)| *end)
    }

    /// Returns the sockets whose peers an inspection at `now` looks up: of each flow, those whose answer is missing or oldest.
    /// `sockets` are all sockets of the inspection.
    pub(super) fn request<'a>(
        &mut self,
        now: BootTime,
        sockets: impl Iterator<Item = (FlowKey, SocketView<'a>)>,
    ) -> Vec<PeerQuestion> {
        self.answers.retain(|_, (at, _)| now.since(*at) < MAX_ANSWER_AGE);
        let mut flows = BTreeMap::<FlowKey, Vec<(Turn, SocketView<'a>)>>::new();
        let mut sockets = sockets.peekable();
        while let Some((flow_key, one)) = sockets.next() {
            let turns = flows.entry(flow_key).or_default();
            // Consecutive sockets are mostly in the same flow.
            let others = std::iter::from_fn(|| sockets.next_if(|(next, _)| *next == flow_key));
            for one in std::iter::once(one).chain(others.map(|(_, other)| other)) {
                let (key, entered) = (one.key(), one.latest());
                // The peer of a Multipath TCP connection cannot be found by the addresses of its socket.
                if now.since(entered) < MIN_AGE || one.protocol() != Protocol::Tcp {
                    continue;
                }
                let answered = self.answers.get(&key).map(|(at, _)| *at);
                turns.push(((answered, entered, key), one));
                if turns.len() >= 4 * MAX_QUESTIONS_OF_FLOW {
                    keep_first(turns, MAX_QUESTIONS_OF_FLOW);
                }
            }
        }
        let mut turns: Vec<_> = flows
            .into_values()
            .flat_map(|mut turns| {
                keep_first(&mut turns, MAX_QUESTIONS_OF_FLOW);
                turns
            })
            .collect();
        turns.sort_unstable_by_key(|(turn, _)| *turn);
        turns.truncate(MAX_QUESTIONS);
        let question = |((_, _, key), one): (Turn, SocketView<'a>)| {
            let (local, remote) = one.ends();
            PeerQuestion { key, netns: one.netns(), local, remote }
        };
        turns.into_iter().map(question).collect()
    }
}

/// Removes all but the first `most` turns.
fn keep_first(turns: &mut Vec<(Turn, SocketView<'_>)>, most: usize) {
    if turns.len() > most {
        turns.select_nth_unstable_by_key(most, |(turn, _)| *turn);
        turns.truncate(most);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        model::{Since, Socket},
        testing::socket,
        track::{sockets::Sockets, tracked_socket::TrackedSocket},
    };

    fn at(seconds: u64) -> BootTime {
        BootTime(seconds * 1_000_000_000)
    }

    fn entered(seconds: u64) -> TrackedSocket {
        TrackedSocket::new(socket(), Since::Exact(at(seconds)), at(seconds), Duration::from_secs(60))
    }

    fn port(number: u16) -> FlowKey {
        FlowKey::Port(Some(1), number)
    }

    fn keys(questions: &[PeerQuestion]) -> Vec<u64> {
        questions.iter().map(|question| question.key.0).collect()
    }

    #[test]
    fn all_sockets_of_a_flow_are_looked_up_in_turn() {
        let mut ends = PeerEnds::default();
        let sockets = Sockets::of((0..100).map(|key| (key, entered(0))));
        let ask = |ends: &mut PeerEnds, now| {
            let questions = ends.request(at(now), sockets.iter().map(|one| (port(80), one)));
            questions.iter().for_each(|question| ends.learn(question.key, at(now), PeerEnd::HalfClosed));
            keys(&questions)
        };
        let rounds: Vec<_> = (2..6).map(|now| ask(&mut ends, now)).collect();
        assert_eq!(rounds[0], (0..32).collect::<Vec<_>>());
        assert_eq!(rounds[2], (64..96).collect::<Vec<_>>());
        assert_eq!(rounds[3], (96..100).chain(0..28).collect::<Vec<_>>());
        assert_eq!((ends.get(SocketKey(99)), ends.get(SocketKey(100))), (Some(PeerEnd::HalfClosed), None));
    }

    #[test]
    fn an_answer_expires_with_its_socket_and_after_a_minute() {
        let mut ends = PeerEnds::default();
        ends.learn(SocketKey(1), at(0), PeerEnd::Closed);
        ends.learn(SocketKey(2), at(50), PeerEnd::Closed);
        ends.learn(SocketKey(3), at(50), PeerEnd::Closed);
        ends.forget(SocketKey(3));
        assert!(ends.request(at(60), std::iter::empty()).is_empty());
        assert_eq!([1, 2, 3].map(|key| ends.get(SocketKey(key)).is_some()), [false, true, false]);
    }

    #[test]
    fn young_sockets_and_multipath_tcp_are_excluded() {
        let mut ends = PeerEnds::default();
        let (young, old) = (entered(10), entered(9));
        let multipath = TrackedSocket { socket: Socket { protocol: Protocol::Mptcp, ..socket() }, ..entered(9) };
        let sockets = Sockets::of([(1, young), (2, old), (3, multipath)]);
        assert_eq!(keys(&ends.request(at(10), sockets.iter().map(|one| (port(80), one)))), [2]);
    }

    #[test]
    fn the_total_of_all_flows_is_limited() {
        let mut ends = PeerEnds::default();
        let sockets = Sockets::of((0..4000).map(|key| (key, entered(0))));
        let sockets = sockets.iter().map(|one| (port((one.key().0 % 100) as u16), one));
        assert_eq!(ends.request(at(5), sockets).len(), MAX_QUESTIONS);
    }
}
