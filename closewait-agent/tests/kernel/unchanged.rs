//! Refreshes of stuck sockets: records of those that have changed, and confirmations of the others.

use std::{
    io::{Read as _, Write as _},
    time::Duration,
};

use closewait::clock;
use closewait_engine::{
    model::{Observation, RefreshFact, Socket, SocketEvent, SocketKey},
    time::BootTime,
};

use crate::{
    ability::{Ability, can},
    agent::Agent,
    net::{Id, Namespace, V4, V6},
    progress::{Recording, recorded},
};

/// Result of one refresh of a socket.
#[derive(Clone, Debug, PartialEq)]
enum Found {
    /// A record with this number of unread bytes, including the FIN.
    Record(Option<u32>),
    Unchanged,
}

/// Returns the results of the refreshes of a socket, each with its time.
fn refreshes(facts: &[Observation], id: &Id) -> Vec<(BootTime, Found)> {
    let is_own = |socket: &Socket| {
        (socket.local.port, socket.remote.port) == (id.local.port(), id.remote.port())
            && socket.netns.map(u64::from) == id.netns
    };
    let entered = |fact: &Observation| {
        let Observation::Socket(SocketEvent::Enter { key, socket, .. }) = fact else { return None };
        is_own(socket).then_some(*key)
    };
    let own: SocketKey = facts.iter().find_map(entered).expect("the entry");
    let found = facts.iter().filter_map(|fact| {
        if let Observation::Refresh(RefreshFact::Present { key, at, socket, .. }) = fact {
            return Some((*key, *at, Found::Record(socket.unread_bytes)));
        }
        let Observation::Refresh(RefreshFact::Unchanged { key, at }) = fact else { return None };
        Some((*key, *at, Found::Unchanged))
    });
    found.filter(|(key, ..)| *key == own).map(|(_key, at, found)| (at, found)).collect()
}

#[test]
fn a_refresh_has_a_record_of_a_socket_only_if_it_has_changed() {
    if !can(Ability::Types) {
        return;
    }
    let (recording, ns) = (Recording::new("unchanged"), Namespace::new());
    let mut agent = Agent::start(&["--stuck-after", "1s", "--record", recording.path()]);
    let listeners = [V4, V6].map(|address| ns.listen(address));
    let mut pairs = listeners.each_ref().map(|listener| {
        let mut pair = ns.pair_at(listener, listener.local_addr().expect("an address"));
        pair.client.write_all(b"abc").expect("write");
        pair.fin();
        pair
    });
    // More than one run of the program copies.
    let others: Vec<_> = (0..100).map(|_| ns.waiting(V4).0).collect();
    agent.wait_for_socket("stuck", &pairs[0].id);
    // Reports are due after 2, 4 and 8 s, other refreshes every five seconds.
    agent.watch(Duration::from_secs(9));
    let before_read = clock::now();
    pairs[0].server.read_exact(&mut [0]).expect("read");
    let after_read = clock::now();
    agent.watch(Duration::from_secs(9));
    let [read, left] = pairs;
    let gone = left.id;
    drop(left.server);
    let closed = clock::now();
    agent.watch(Duration::from_secs(7));
    agent.stop().totals();
    let facts = recorded(recording.path());

    let of_read = refreshes(&facts, &read.id);
    let (early, late): (Vec<_>, Vec<_>) = of_read.iter().partition(|(at, _)| *at < before_read);
    assert_eq!(early[0].1, Found::Record(Some(4)), "{of_read:?}");
    let same = early.iter().filter(|(_, found)| *found == Found::Unchanged).count();
    assert!(same >= 2 && same + 1 == early.len(), "nothing has happened to it: {of_read:?}");
    let late: Vec<_> = late.into_iter().filter(|(at, _)| *at > after_read).collect();
    assert_eq!(late[0].1, Found::Record(Some(3)), "the program has read one byte: {of_read:?}");
    assert!(late.len() >= 2 && late[1..].iter().all(|(_, found)| *found == Found::Unchanged), "{of_read:?}");

    let of_gone = refreshes(&facts, &gone);
    assert!(of_gone.iter().any(|(_, found)| *found == Found::Unchanged), "{of_gone:?}");
    assert!(of_gone.iter().all(|(at, _)| *at < closed), "it has left: {of_gone:?}");
    drop((read, others));
}
