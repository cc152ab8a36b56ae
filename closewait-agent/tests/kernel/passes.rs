//! Sockets that pass through CLOSE_WAIT within moments: those of busy flows are only counted, without a record each.

use std::{
    collections::BTreeSet,
    io::Read as _,
    net::{Ipv4Addr, Shutdown, TcpListener, TcpStream},
    process,
};

use aya::maps::{Array, Map, MapData};
use closewait_common::{
    names,
    passes::{KEY_WORDS, Part, PassKey, Side},
};
use serde_json::Value;

use crate::{
    agent::{Agent, Ended},
    budget::maps_of,
    clock::{patience, poll_until},
    listing::{list_at, of_namespace},
    net::{Namespace, V4},
};

/// Number of connections, many more than have records before their flow is counted.
const COUNT: u64 = 2000;
const ARGUMENTS: [&str; 4] = ["--events", "stuck", "--stuck-after", "1s"];

/// Makes `count` connections to a listener inside of a namespace. One end closes each, and the other one as soon as it has read that.
pub(crate) fn pass(ns: &Namespace, listener: &TcpListener, count: u64, accepting_end_waits: bool) {
    let address = listener.local_addr().expect("an address");
    ns.run(|| {
        for _ in 0..count {
            let client = TcpStream::connect(address).expect("a connection");
            let (server, _address) = listener.accept().expect("accept");
            let (first, mut second) = if accepting_end_waits { (client, server) } else { (server, client) };
            drop(first);
            assert_eq!(second.read(&mut [0]).expect("the end of the stream"), 0);
        }
    });
}

/// Returns the flows that the agent has counted.
fn counted(agent: &Agent) -> BTreeSet<PassKey> {
    let id = maps_of(agent.pid()).remove(names::PASSES).expect("a map of the agent");
    let parts: Array<_, Part> = Map::Array(MapData::from_id(id).expect("a map")).try_into().expect("an array");
    let key = |part: Part| PassKey(*part.0.first_chunk::<KEY_WORDS>().expect("a key"));
    parts.iter().flatten().map(key).filter(|key| key.side().is_some()).collect()
}

/// Returns the number of finished dwell times of a local port, in all windows.
fn finished(ended: &Ended, port: u16) -> u64 {
    let own = ended.events.iter().filter(|event| event["event"] == "histogram" && event["local_port"] == port);
    own.map(|event| event["finished"]["count"].as_u64().expect("a count")).sum()
}

fn check_lossless(totals: &Value) {
    for what in ["lost_ring_full", "lost_map_full", "repaired", "phantom", "undecodable"] {
        assert_eq!(totals[what], 0, "{what}: {totals}");
    }
}

#[test]
fn each_connection_of_a_busy_server_is_counted_once() {
    let ns = Namespace::new();
    let listener = ns.listen(V4);
    let port = listener.local_addr().expect("an address").port();
    let mut agent = Agent::start(&ARGUMENTS);
    pass(&ns, &listener, COUNT, true);
    let key = PassKey::server(u32::try_from(ns.inode).expect("an inode"), port);
    assert!(counted(&agent).contains(&key), "{:?}", counted(&agent));
    // One that stays is reported beside them.
    let stays = ns.pair_at(&listener, listener.local_addr().expect("an address"));
    let fin = stays.fin();
    pass(&ns, &listener, COUNT, true);
    let stuck = agent.wait_for_socket("stuck", &stays.id);
    assert_eq!(stuck["exact"], true, "{stuck}");
    drop(stays.server);
    let leave = agent.wait_for_socket("leave", &stays.id);
    assert_eq!((&leave["how"], &leave["exact"]), (&"closed".into(), &true.into()), "{leave} {fin:?}");
    pass(&ns, &listener, COUNT, true);
    let ended = agent.stop();
    assert_eq!(finished(&ended, port), 3 * COUNT + 1);
    assert!(ended.totals()["left"].as_u64() >= Some(3 * COUNT + 1), "{}", ended.totals());
    check_lossless(ended.totals());
}

#[test]
fn the_connections_of_busy_clients_are_counted_by_their_remote_endpoint() {
    let ns = Namespace::new();
    let listener = ns.listen(V4);
    let port = listener.local_addr().expect("an address").port();
    let agent = Agent::start(&ARGUMENTS);
    pass(&ns, &listener, COUNT, false);
    let of_clients = |key: &PassKey| {
        let local = Ipv4Addr::LOCALHOST.to_ipv6_mapped().octets();
        key.side() != Some(Side::Server) && key.remote() == local && key.port() == port
    };
    assert!(counted(&agent).iter().any(of_clients), "{:?}", counted(&agent));
    let ended = agent.stop();
    assert_eq!(finished(&ended, port), 0, "no socket of a server was in CLOSE_WAIT");
    check_lossless(ended.totals());
    let all = ended.events.iter().filter(|event| event["event"] == "histogram" && event["scope"] != "local_port");
    let counts: Vec<_> = all.map(|event| (event["scope"].as_str(), event["finished"]["count"].as_u64())).collect();
    let of = |scope| counts.iter().filter(|(one, _)| *one == Some(scope)).filter_map(|(_, count)| *count).sum::<u64>();
    assert!(of("all") >= COUNT && of("other") >= COUNT, "{counts:?}");
}

#[test]
fn a_socket_of_a_busy_flow_that_is_shut_down_but_not_closed_has_a_record() {
    let (ns, path) = (Namespace::new(), std::env::temp_dir().join(format!("closewait-passes-{}", process::id())));
    let path = path.to_str().expect("UTF-8");
    let listener = ns.listen(V4);
    let agent = Agent::start(&[&ARGUMENTS[..], &["--socket", path]].concat());
    pass(&ns, &listener, COUNT, true);
    let pair = ns.pair_at(&listener, listener.local_addr().expect("an address"));
    pair.fin();
    pair.server.shutdown(Shutdown::Write).expect("shutdown");
    let is_listed = || of_namespace(&list_at(path), &ns).get(&pair.id).is_some_and(|row| row["fd_open"] == true);
    assert!(poll_until(patience(), is_listed), "{:?}", list_at(path));
    check_lossless(agent.stop().totals());
}
