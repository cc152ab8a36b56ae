//! Requests that programs have not read, one for each socket that the agent was asked to peek at.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::{
    flow::group_key::FlowKey,
    model::{Protocol, Role, SocketKey, UnreadQuestion},
    time::BootTime,
    track::socket_view::SocketView,
    unread::UnreadRequest,
};

/// Maximum number of sockets in one request.
const MAX_QUESTIONS: usize = 64;
/// Maximum number of sockets of one flow in one request.
const MAX_QUESTIONS_OF_FLOW: usize = 16;
/// Maximum number of sockets with an entry, at about 250 bytes each. No other is peeked at until one of them has exited.
const MAX_ENTRIES: usize = 4096;
/// Maximum number of requests for a socket that is never answered: its owner has ended, or may not be read.
const MAX_TRIES: u8 = 3;

/// Requests that programs have not read.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub(super) struct UnreadLog {
    entries: BTreeMap<SocketKey, UnreadEntry>,
}

/// One socket.
#[derive(Clone, Debug, Serialize, Deserialize)]
struct UnreadEntry {
    /// Inode of the socket, which tells it from a later one at the same address.
    inode: u64,
    tries: u8,
    answer: Option<UnreadAnswer>,
}

/// Result of the agent's peek at a socket.
#[derive(Clone, Debug, Serialize, Deserialize)]
struct UnreadAnswer {
    /// Request; `None` for bytes of no protocol that closewait knows.
    request: Option<UnreadRequest>,
}

impl UnreadLog {
    /// Stores what the agent found.
    pub(super) fn learn(&mut self, key: SocketKey, request: Option<UnreadRequest>) {
        if let Some(entry) = self.entries.get_mut(&key) {
            entry.answer = Some(UnreadAnswer { request });
        }
    }

    /// Forgets a socket, because another one has this key.
    pub(super) fn forget(&mut self, key: SocketKey) {
        if !self.entries.is_empty() {
            self.entries.remove(&key);
        }
    }

    /// Whether the agent was asked to peek at a socket, for which it has a duplicate of a descriptor.
    pub(super) fn has(&self, key: SocketKey) -> bool {
        self.entries.contains_key(&key)
    }

    /// Does what [`Self::has`] does for a socket of which only the inode is known.
    pub(super) fn has_inode(&self, inode: u64) -> bool {
        self.entries.values().any(|entry| entry.inode == inode)
    }

    /// Returns what the agent found in a socket: the request, or `None` for bytes of no known protocol. `None` if it did not peek.
    pub(super) fn answer(&self, one: SocketView<'_>) -> Option<Option<&UnreadRequest>> {
        let entry = self.entries.get(&one.key()).filter(|entry| Some(entry.inode) == one.inode())?;
        entry.answer.as_ref().map(|answer| answer.request.as_ref())
    }

    /// Returns the sockets that an inspection peeks at, each of them once: the oldest ones of each flow. `sockets` are all sockets of
    /// the inspection. Forgets those that are no longer `tracked`.
    pub(super) fn request<'a>(
        &mut self,
        agent: Option<u32>,
        tracked: impl Fn(SocketKey) -> bool,
        sockets: impl Iterator<Item = (FlowKey, SocketView<'a>)>,
    ) -> Vec<UnreadQuestion> {
        self.entries.retain(|key, _| tracked(*key));
        let mut flows = BTreeMap::<FlowKey, Vec<(BootTime, UnreadQuestion)>>::new();
        for (flow_key, one) in sockets {
            let Some(question) = question(one, agent).filter(|question| self.is_open(question)) else { continue };
            let turns = flows.entry(flow_key).or_default();
            turns.push((one.latest(), question));
            if turns.len() >= 4 * MAX_QUESTIONS_OF_FLOW {
                keep_first(turns);
            }
        }
        let mut turns: Vec<_> = flows.into_values().flat_map(keep_first_of).collect();
        turns.sort_unstable_by_key(|(entered, question)| (*entered, question.key));
        turns.truncate(MAX_QUESTIONS);
        let mut questions = Vec::with_capacity(turns.len());
        for (_, question) in turns {
            let UnreadQuestion { key, inode, .. } = question;
            if self.entries.len() >= MAX_ENTRIES && !self.entries.contains_key(&key) {
                continue;
            }
            let entry = self.entries.entry(key).or_insert(UnreadEntry { inode, tries: 0, answer: None });
            if entry.inode != inode {
                *entry = UnreadEntry { inode, tries: 0, answer: None };
            }
            entry.tries = entry.tries.saturating_add(1);
            questions.push(question);
        }
        questions
    }

    /// Whether a socket was not peeked at yet.
    fn is_open(&self, question: &UnreadQuestion) -> bool {
        let entry = self.entries.get(&question.key).filter(|entry| entry.inode == question.inode);
        entry.is_none_or(|entry| entry.answer.is_none() && entry.tries < MAX_TRIES)
    }
}

/// Returns what the agent needs to peek at a socket; `None` if it has no unread bytes, or no descriptor to duplicate.
fn question(one: SocketView<'_>, agent: Option<u32>) -> Option<UnreadQuestion> {
    let (key, socket) = (one.key(), one.socket());
    // The FIN counts as one byte. Bytes for a client are no request.
    let is_asked = socket.protocol == Protocol::Tcp
        && socket.role != Some(Role::Client)
        && socket.unread_bytes.is_some_and(|unread| unread > 1);
    let owners = one.owners().filter(|_| is_asked)?;
    let owner = owners.iter().find(|owner| Some(owner.task.pid) != agent)?;
    Some(UnreadQuestion { key, pid: owner.task.pid, fd: owner.fd, inode: socket.inode?, cookie: socket.cookie })
}

/// Removes all but the oldest sockets of a flow.
fn keep_first(turns: &mut Vec<(BootTime, UnreadQuestion)>) {
    turns.sort_unstable_by_key(|(entered, question)| (*entered, question.key));
    turns.truncate(MAX_QUESTIONS_OF_FLOW);
}

fn keep_first_of(mut turns: Vec<(BootTime, UnreadQuestion)>) -> Vec<(BootTime, UnreadQuestion)> {
    keep_first(&mut turns);
    turns
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::{
        model::{Since, Socket},
        testing::{owner, socket},
        track::{sockets::Sockets, tracked_socket::TrackedSocket},
    };

    /// Returns a socket that entered at this second, with unread bytes and an owner.
    fn entered(second: u64) -> TrackedSocket {
        let at = BootTime(second * 1_000_000_000);
        let socket =
            Socket { unread_bytes: Some(20), received_bytes: Some(20), inode: Some(1000 + second), ..socket() };
        let mut one = TrackedSocket::new(socket, Since::Exact(at), at, Duration::from_secs(60));
        one.owners = Some(vec![owner("app", 7, 5)]);
        one
    }

    fn request(log: &mut UnreadLog, sockets: &[(u16, u64, TrackedSocket)]) -> Vec<u64> {
        let ports: BTreeMap<_, _> = sockets.iter().map(|(port, key, _)| (*key, *port)).collect();
        let sockets = Sockets::of(sockets.iter().map(|(_, key, one)| (*key, one.clone())));
        let sockets = sockets.iter().map(|one| (FlowKey::Port(Some(1), ports[&one.key().0]), one));
        let questions = log.request(Some(99), |_| true, sockets);
        questions.into_iter().map(|question| question.key.0).collect()
    }

    fn answer(log: &UnreadLog, key: u64, one: &TrackedSocket) -> Option<Option<UnreadRequest>> {
        let sockets = Sockets::of([(key, one.clone())]);
        log.answer(sockets.first().unwrap()).map(|request| request.cloned())
    }

    #[test]
    fn each_socket_is_peeked_at_once_and_three_times_without_an_answer() {
        let mut log = UnreadLog::default();
        let sockets = [(80, 1, entered(1)), (80, 2, entered(2))];
        assert_eq!(request(&mut log, &sockets), [1, 2]);
        log.learn(SocketKey(1), Some(UnreadRequest::Http2));
        log.learn(SocketKey(9), Some(UnreadRequest::Http2));
        assert_eq!(answer(&log, 1, &sockets[0].2), Some(Some(UnreadRequest::Http2)));
        assert_eq!(answer(&log, 1, &sockets[1].2), None, "another socket has its key");
        assert_eq!(answer(&log, 9, &sockets[0].2), None, "it was not asked for");
        for _ in 1..MAX_TRIES {
            assert_eq!(request(&mut log, &sockets), [2]);
        }
        assert!(request(&mut log, &sockets).is_empty());
        log.learn(SocketKey(2), None);
        assert_eq!(answer(&log, 2, &sockets[1].2), Some(None));
        assert_eq!(request(&mut log, &[(80, 1, entered(3))]), [1], "a later socket at the same address");
    }

    #[test]
    fn sockets_without_unread_bytes_or_a_descriptor_are_not_peeked_at() {
        let changed = |change: fn(&mut TrackedSocket)| {
            let mut one = entered(1);
            change(&mut one);
            request(&mut UnreadLog::default(), &[(80, 1, one)])
        };
        assert_eq!(changed(|_| {}), [1]);
        assert_eq!(changed(|one| one.owners = Some(vec![owner("closewait", 99, 3), owner("app", 7, 5)])), [1]);
        let changes: [fn(&mut TrackedSocket); 8] = [
            |one| one.socket.unread_bytes = Some(1),
            |one| one.socket.unread_bytes = None,
            |one| one.socket.role = Some(Role::Client),
            |one| one.socket.protocol = Protocol::Mptcp,
            |one| one.socket.inode = None,
            |one| one.owners = None,
            |one| one.owners = Some(Vec::new()),
            |one| one.owners = Some(vec![owner("closewait", 99, 3)]),
        ];
        for change in changes {
            assert!(changed(change).is_empty());
        }
    }

    #[test]
    fn the_oldest_sockets_of_each_flow_come_first_within_the_limits() {
        let mut log = UnreadLog::default();
        let many: Vec<_> = (0..200).rev().map(|n| (80 + u16::try_from(n % 2).unwrap(), n, entered(n))).collect();
        let first = request(&mut log, &many);
        assert_eq!(first, (0..32).collect::<Vec<_>>(), "16 of each of two flows");
        let flows: Vec<_> = (0..200).map(|n| (u16::try_from(n).unwrap(), n, entered(n))).collect();
        let mut log = UnreadLog::default();
        assert_eq!(request(&mut log, &flows), (0..64).collect::<Vec<_>>());
        assert!(log.has(SocketKey(0)) && log.has_inode(1000) && !log.has(SocketKey(64)) && !log.has_inode(1064));
        assert!(log.request(None, |key| key.0 == 7, std::iter::empty()).is_empty());
        assert!(log.has(SocketKey(7)) && !log.has(SocketKey(0)), "only tracked sockets stay");
        log.forget(SocketKey(7));
        assert!(!log.has(SocketKey(7)));
    }
}
