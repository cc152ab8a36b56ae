//! Entries whose records the kernel program defers: without `--events all`.

use std::process;

use serde_json::Value;

use crate::{
    agent::Agent,
    clock::{patience, poll_until},
    listing::{list_at, of_namespace},
    net::{Namespace, V4},
};

/// Number of connections.
const COUNT: u64 = 400;

fn socket(test: &str) -> String {
    let path = std::env::temp_dir().join(format!("closewait-{test}-{}.socket", process::id()));
    path.to_str().expect("a path in UTF-8").to_owned()
}

fn check_lossless(totals: &Value) {
    for what in ["lost_ring_full", "lost_map_full", "repaired", "phantom", "undecodable"] {
        assert_eq!(totals[what], 0, "{what}: {totals}");
    }
}

#[test]
fn an_answer_has_exactly_the_sockets_of_that_moment() {
    let (ns, socket) = (Namespace::new(), socket("deferring"));
    let agent = Agent::start(&["--events", "stuck", "--socket", &socket]);
    for round in 0..10 {
        let (pair, _fin) = ns.waiting(V4);
        let listed = of_namespace(&list_at(&socket), &ns);
        assert_eq!(listed.keys().collect::<Vec<_>>(), [&pair.id], "round {round}");
        assert_eq!(listed[&pair.id]["exact"], true, "{listed:?}");
        drop(pair);
        assert!(poll_until(patience(), || of_namespace(&list_at(&socket), &ns).is_empty()), "round {round}");
    }
    check_lossless(agent.stop().totals());
}

#[test]
fn sockets_that_leave_at_once_are_all_counted_and_those_that_stay_are_reported() {
    let (ns, socket) = (Namespace::new(), socket("leaving-at-once"));
    let mut agent = Agent::start(&["--events", "stuck", "--stuck-after", "1s", "--socket", &socket]);
    let stays: Vec<_> = (0..COUNT)
        .filter_map(|number| {
            let (pair, _fin) = ns.waiting(V4);
            (number % 40 == 0).then_some(pair)
        })
        .collect();
    for pair in &stays {
        let stuck = agent.wait_for_socket("stuck", &pair.id);
        assert_eq!(stuck["exact"], true, "{stuck}");
        assert_eq!(stuck["socket"]["role"], "server", "{stuck}");
    }
    let ids: Vec<_> = stays.iter().map(|pair| pair.id.clone()).collect();
    drop(stays);
    ids.iter().for_each(|id| drop(agent.wait_for_socket("leave", id)));
    let ended = agent.stop();
    let (totals, count) = (ended.totals(), |what: &str| ended.totals()[what].as_u64().expect("a count"));
    assert!(count("entered") >= COUNT && count("left") >= COUNT, "{totals}");
    check_lossless(totals);
}
