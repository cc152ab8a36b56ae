//! Limits: the number of tracked sockets, and the memory after a storm of connections.

use std::{
    fs,
    net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream},
    thread,
};

use aya::maps::{Array, HashMap, Map, MapData};
use closewait_common::{
    names,
    slots::{CLAIMS, OWNER, Slot},
};
use serde_json::Value;

use crate::{
    agent::{Agent, closewait, finish},
    clock::{patience, poll_until},
    many::{flood, skipped},
    net::Namespace,
    schema, socket,
};

/// Number of connections of one storm.
const STORM: usize = 50_000;
/// Number of connections to one listener. The ends that close first stay in TIME_WAIT for a minute, with their ports.
const TO_ONE_LISTENER: usize = 5_000;
/// Maximum growth of memory by the second storm, KiB: it may find less free memory than the first has left. A twelfth
/// of the memory of 50,000 tracked sockets.
const RESIDUE_KIB: u64 = 2048;

#[test]
fn a_storm_of_short_connections_leaves_nothing_behind() {
    let path = control_socket("storm");
    let agent = Agent::start(&["--stuck-after", "1s", "--histogram-every", "1s", "--socket", &path]);
    let ns = Namespace::new();
    let mut resident = Vec::new();
    for _ in 0..2 {
        storm(&ns);
        // Sockets of other programs do not matter, but each of them has one entry.
        let empty = || {
            let listed = listed(&path);
            let ours = listed.iter().filter(|object| object["socket"]["netns"] == ns.inode).count();
            (ours, entries(agent.pid()).abs_diff(listed.len()))
        };
        let mut last = (0, 0);
        let all_gone = poll_until(patience(), || {
            last = empty();
            last == (0, 0)
        });
        assert!(
            all_gone,
            "sockets of the storm that are tracked, and entries of the map that belong to none: {last:?}"
        );
        resident.push(resident_kib(agent.pid()));
    }
    assert!(resident[1] <= resident[0] + RESIDUE_KIB, "KiB after each storm: {resident:?}");
    let ended = agent.stop();
    let totals = ended.totals();
    let entered = totals["entered"].as_u64().expect("a number");
    assert!(entered + skipped(totals) as u64 >= 2 * STORM as u64, "{totals}");
    for name in ["lost_map_full", "replaced", "untracked", "unkept"] {
        assert_eq!(totals[name], 0, "{totals}");
    }
}

#[test]
fn sockets_beyond_the_limit_are_counted_and_reported_with_their_dwell_times() {
    const COUNT: usize = 40;
    let path = control_socket("untracked");
    let mut agent = Agent::start(&["--max-tracked", "1", "--stuck-after", "1s", "--socket", &path]);
    assert_eq!(agent.events[0]["limits"]["max_tracked"], 1);
    let ns = Namespace::new();
    let sockets = flood(&ns, COUNT / 2);
    let enough = |totals: &Value| totals["untracked"].as_u64() >= Some(COUNT as u64 - 1);
    agent.wait_for("`health` with untracked sockets", |event| event["event"] == "health" && enough(event));
    let text = finish(&mut closewait(&["list", "--socket", &path]));
    assert!(text.stdout.contains(" more sockets are in CLOSE_WAIT and not shown"), "{}", text.stdout);
    let objects = finish(&mut closewait(&["list", "--output", "json", "--socket", &path]));
    assert!(objects.stderr.contains(" more sockets are in CLOSE_WAIT and not shown"), "{}", objects.stderr);
    assert!(objects.stdout.lines().count() <= 1, "{}", objects.stdout);
    drop(sockets);

    let ended = agent.stop();
    assert!(enough(ended.totals()), "{}", ended.totals());
    let all = ended.events.iter().rfind(|event| event["event"] == "histogram" && event["scope"] == "all");
    let counted = all.and_then(|all| all["finished"]["count"].as_u64());
    assert!(counted >= Some(COUNT as u64), "the kernel counts all of them: {all:?}");
}

/// Returns the path of a control socket, which the agent removes.
fn control_socket(name: &str) -> String {
    std::env::temp_dir().join(format!("closewait-bounds-{name}-{}.sock", std::process::id())).display().to_string()
}

/// Makes connections whose servers are in CLOSE_WAIT for a moment.
fn storm(ns: &Namespace) {
    let one_half = |half: u8| {
        let listeners = STORM / 2 / TO_ONE_LISTENER;
        for number in 0..u8::try_from(listeners).expect("few") {
            let listener = TcpListener::bind((Ipv4Addr::new(127, 1, half, number + 1), 0)).expect("a listener");
            let address: SocketAddr = listener.local_addr().expect("its address");
            for _ in 0..TO_ONE_LISTENER {
                drop(TcpStream::connect(address).expect("a connection"));
                let (server, _peer) = listener.accept().expect("accept");
                socket::wait_for_fin(&server);
                drop(server);
            }
        }
    };
    thread::scope(|scope| {
        for half in [1, 2] {
            scope.spawn(move || ns.run(|| one_half(half)));
        }
    });
}

/// Returns the sockets that the agent at `path` lists.
fn listed(path: &str) -> Vec<Value> {
    let listed = finish(&mut closewait(&["list", "--output", "json", "--socket", path]));
    assert_eq!(listed.code, Some(0), "{}", listed.stderr);
    let objects: Vec<Value> = listed.stdout.lines().map(|line| serde_json::from_str(line).expect("JSON")).collect();
    objects.iter().for_each(schema::check_listed);
    objects.into_iter().filter(|object| object["left"].is_null()).collect()
}

/// Returns the number of times of entry that the kernel stores for an agent.
fn entries(pid: u32) -> usize {
    let folder = format!("/proc/{pid}/fdinfo");
    let ids: Vec<u32> = fs::read_dir(&folder)
        .expect("the descriptors of the agent")
        .flatten()
        .filter_map(|entry| fs::read_to_string(entry.path()).ok())
        .filter_map(|text| text.lines().find_map(|line| line.strip_prefix("map_id:")?.trim().parse().ok()))
        .collect();
    let of_entries = |id: &u32| {
        let info = aya::maps::MapInfo::from_id(*id).ok()?;
        if info.name() == names::SLOTS.as_bytes() {
            let slots: Array<_, Slot> = Array::try_from(Map::Array(MapData::from_id(*id).ok()?)).ok()?;
            return Some(slots.iter().flatten().filter(|slot| slot.0[OWNER] & !CLAIMS != 0).count());
        }
        if info.name() != names::SINCE.as_bytes() {
            return None;
        }
        let map = Map::HashMap(MapData::from_id(*id).ok()?);
        let since: HashMap<_, u64, u64> = HashMap::try_from(map).ok()?;
        Some(since.keys().filter(Result::is_ok).count())
    };
    let counts: Vec<usize> = ids.iter().filter_map(of_entries).collect();
    assert!(counts.len() >= 2, "the agent has no maps of times of entry");
    counts.iter().sum()
}

fn resident_kib(pid: u32) -> u64 {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).expect("the status of the agent");
    let line = status.lines().find_map(|line| line.strip_prefix("RssAnon:")).expect("RssAnon");
    line.trim().trim_end_matches(" kB").parse().expect("a number")
}
