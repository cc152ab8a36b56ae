use std::{fs::File, os::fd::AsFd as _};

use closewait_common::{histogram, passes::Part};
use closewait_engine::testing::{record, record_bytes};

use super::*;

const PARTS: u32 = 2;
const SECOND: u64 = 1_000_000_000;

/// Counts in a file without a name, in place of a map.
fn table() -> (PassTable, File) {
    let file = rustix::fs::memfd_create("closewait-passes", rustix::fs::MemfdFlags::CLOEXEC).unwrap();
    let file = File::from(file);
    file.set_len(u64::from(PLACES * PARTS) * size_of::<Part>() as u64).unwrap();
    let mut table = PassTable::map(file.as_fd(), PARTS, true, (BootTime(0), BootTime(0))).unwrap();
    register(&mut table, 80, BootTime(1));
    assert!(table.take(BootTime(1), true).is_empty() && table.flows.is_empty(), "before the start");
    (table, file)
}

/// Record of a socket of a server that its program has closed.
fn passed(port: u16) -> Record {
    let flags = flag::ENTERED | flag::FILE | flag::FILE_GONE | flag::BACKLOG;
    Record { kind: kind::LEAVE, new_state: state::LAST_ACK, local_port: port, flags, ..record() }
}

fn key(port: u16) -> PassKey {
    PassKey::server(record().netns, port)
}

/// Counts a pass as the kernel program does. Returns whether the flow is counted.
fn pass(table: &PassTable, key: PassKey, cpu: u32, (dwell, now): (u64, BootTime)) -> bool {
    let part = key.places().into_iter().map(|place| table.part(place, cpu % PARTS));
    let Some(part) = part.into_iter().find(|part| part.iter().zip(key.0).all(|(word, value)| load(word) == value))
    else {
        return false;
    };
    add(part, dwell);
    part[LONGEST_NS].fetch_max(dwell, Ordering::AcqRel);
    part[LAST_NS].store(now.0, Ordering::Release);
    true
}

fn add(part: &[AtomicU64], dwell: u64) {
    let bucket = histogram::index(dwell) - FIRST_BUCKET;
    let one = if bucket.is_multiple_of(2) { [1_u32, 0] } else { [0, 1] };
    let one = u64::from_ne_bytes([one[0].to_ne_bytes(), one[1].to_ne_bytes()].concat().try_into().unwrap());
    part[DWELL + bucket / 2].fetch_add(one, Ordering::AcqRel);
}

fn register(table: &mut PassTable, port: u16, now: BootTime) {
    (0..MIN_RECORDS).for_each(|_| table.saw(&record_bytes(&passed(port)), now));
}

fn count(taken: &[PassedSockets]) -> u32 {
    taken.iter().flat_map(|one| &one.dwell).map(|(_, count)| count).sum()
}

#[test]
fn a_flow_with_several_records_is_counted_and_each_count_is_taken_once() {
    let (mut table, _file) = table();
    let now = BootTime(SECOND);
    (1..MIN_RECORDS).for_each(|_| table.saw(&record_bytes(&passed(80)), now));
    assert!(!pass(&table, key(80), 0, (5000, now)));
    table.saw(&record_bytes(&passed(80)), now);
    assert!(pass(&table, key(80), 0, (5000, now)) && pass(&table, key(80), 1, (900_000, BootTime(now.0 + 7))));
    assert!(!pass(&table, key(81), 0, (5000, now)), "another port");
    let dwell = [5000, 900_000].map(|nanos| (u16::try_from(histogram::index(nanos)).unwrap(), 1));
    let expected = PassedSockets {
        at: now,
        flow: PileupGroup {
            role: Some(Role::Server),
            netns: Some(record().netns),
            cgroup: None,
            local_port: Some(80),
            remote: None,
        },
        since: BootTime(1),
        last: BootTime(now.0 + 7),
        longest: Duration::from_nanos(900_000),
        dwell: dwell.to_vec(),
    };
    assert_eq!(table.take(now, true), [expected]);
    assert!(table.take(now, true).is_empty());
}

#[test]
fn records_of_several_moments_are_not_many() {
    let (mut table, _file) = table();
    for second in 1..100 {
        (1..MIN_RECORDS).for_each(|_| table.saw(&record_bytes(&passed(80)), BootTime(second * SECOND)));
    }
    assert!(table.flows.is_empty());
}

#[test]
fn a_count_that_was_added_while_the_last_ones_were_taken_is_found_by_the_next_call() {
    let (mut table, _file) = table();
    let now = BootTime(SECOND);
    register(&mut table, 80, now);
    assert!(pass(&table, key(80), 0, (5000, now)));
    assert_eq!(count(&table.take(now, true)), 1);
    // The time of the exit has been visible before its count.
    let place = *table.flows.keys().next().unwrap();
    add(table.part(place, 0), 6000);
    assert_eq!(count(&table.take(now, true)), 1);
}

#[test]
fn a_count_before_the_first_time_of_an_exit_is_from_now() {
    let (mut table, _file) = table();
    register(&mut table, 80, BootTime(SECOND));
    let place = *table.flows.keys().next().unwrap();
    add(table.part(place, 0), 6000);
    let taken = table.take(BootTime(2 * SECOND), true);
    assert_eq!((count(&taken), taken[0].last), (1, BootTime(2 * SECOND)));
}

#[test]
fn clients_of_two_cgroups_have_both_places_of_their_remote_endpoint() {
    let (mut table, _file) = table();
    let flags = (passed(0).flags & !flag::BACKLOG) | flag::CGROUP;
    let client = |cgroup| Record { flags, cgroup, ..passed(0) };
    let (first, second, third) = (client(7), client(8), client(9));
    for one in [first, second, third] {
        (0..MIN_RECORDS).for_each(|_| table.saw(&record_bytes(&one), BootTime(SECOND)));
    }
    let key = |one: &Record| passed_flow(&record_bytes(one)).unwrap();
    let counted = [first, second, third].map(|one| pass(&table, key(&one), 0, (5000, BootTime(SECOND))));
    assert_eq!(counted, [true, true, false]);
    let cgroups: Vec<_> = table.take(BootTime(SECOND), true).iter().map(|one| one.flow.cgroup).collect();
    assert_eq!((cgroups.len(), cgroups.contains(&Some(7)), cgroups.contains(&Some(8))), (2, true, true));
}

#[test]
fn while_a_scan_runs_each_exit_has_a_record() {
    let (mut table, _file) = table();
    let now = BootTime(SECOND);
    register(&mut table, 80, now);
    assert!(pass(&table, key(80), 0, (5000, now)));
    assert_eq!(count(&table.take(now, false)), 1, "what was counted before");
    assert!(!pass(&table, key(80), 0, (5000, now)));
    register(&mut table, 81, now);
    assert!(!pass(&table, key(81), 0, (5000, now)));
    assert!(table.take(now, true).is_empty());
    assert!(pass(&table, key(80), 0, (5000, now)));
}

#[test]
fn a_quiet_flow_loses_its_place_after_its_last_count_was_taken() {
    let (mut table, _file) = table();
    register(&mut table, 80, BootTime(SECOND));
    let place = *table.flows.keys().next().unwrap();
    assert!(pass(&table, key(80), 0, (5000, BootTime(2 * SECOND))));
    assert_eq!(count(&table.take(BootTime(50 * SECOND), true)), 1);
    assert!(table.take(BootTime(100 * SECOND), true).is_empty());
    assert!(pass(&table, key(80), 0, (5000, BootTime(100 * SECOND))), "50 s after the last");
    assert_eq!(count(&table.take(BootTime(109 * SECOND), true)), 1);
    assert!(table.take(BootTime(170 * SECOND), true).is_empty());
    assert!(!pass(&table, key(80), 0, (5000, BootTime(171 * SECOND))));
    // A program that had read the key before.
    add(table.part(place, 0), 5000);
    table.part(place, 0)[LAST_NS].store(171 * SECOND, Ordering::Release);
    assert_eq!(count(&table.take(BootTime(172 * SECOND), true)), 1);
    assert!(table.take(BootTime(181 * SECOND), true).is_empty() && table.flows.is_empty());
    register(&mut table, 80, BootTime(182 * SECOND));
    assert!(pass(&table, key(80), 0, (5000, BootTime(182 * SECOND))));
}

#[test]
fn the_next_agent_takes_the_counts_of_the_last_and_begins_anew() {
    let (mut table, file) = table();
    register(&mut table, 80, BootTime(SECOND));
    assert!(pass(&table, key(80), 1, (5000, BootTime(SECOND))));
    drop(table);
    let mut next = PassTable::map(file.as_fd(), PARTS, false, (BootTime(0), BootTime(0))).unwrap();
    assert!(!pass(&next, key(80), 1, (5000, BootTime(2 * SECOND))));
    assert_eq!(count(&next.take(BootTime(3 * SECOND), true)), 1);
    register(&mut next, 80, BootTime(4 * SECOND));
    assert!(!pass(&next, key(80), 1, (5000, BootTime(5 * SECOND))), "an agent that needs all records");
}

#[test]
fn a_flow_begins_without_counts_that_a_killed_agent_left() {
    let (mut table, _file) = table();
    for place in key(80).places() {
        table.part(place, 1)[DWELL].store(7, Ordering::Release);
    }
    register(&mut table, 80, BootTime(SECOND));
    assert!(table.take(BootTime(SECOND), true).is_empty());
}

#[test]
fn counts_are_of_the_time_since_the_last_ones() {
    let (mut table, _file) = table();
    register(&mut table, 80, BootTime(SECOND));
    let mut since = |at: u64| {
        assert!(pass(&table, key(80), 0, (5000, BootTime(at * SECOND))));
        table.take(BootTime(at * SECOND + 1), true).pop().map(|passed| (passed.since, passed.last))
    };
    assert_eq!(since(2), Some((BootTime(1), BootTime(2 * SECOND))), "the table began at 1");
    assert_eq!(since(40), Some((BootTime(2 * SECOND + 1), BootTime(40 * SECOND))), "the agent was stopped");
}

#[test]
fn flows_whose_places_are_taken_have_records() {
    let (mut table, _file) = table();
    (0..2000).for_each(|port| register(&mut table, port, BootTime(SECOND * u64::from(port + 1))));
    assert!(table.flows.len() > 120 && table.flows.len() <= PLACES as usize, "{}", table.flows.len());
    let counted = (0..2000).filter(|port| pass(&table, key(*port), 0, (5000, BootTime(SECOND)))).count();
    assert_eq!(counted, table.flows.len());
}

#[test]
fn only_closed_sockets_with_one_record_name_their_flow() {
    let server = passed(80);
    assert_eq!(passed_flow(&record_bytes(&server)), Some(key(80)));
    let client = Record { flags: (server.flags & !flag::BACKLOG) | flag::CGROUP, ..server };
    let flow = passed_flow(&record_bytes(&client)).and_then(flow_of).unwrap();
    let remote = Endpoint { address: "10.0.0.9".parse().unwrap(), port: client.remote_port };
    assert_eq!((flow.remote, flow.cgroup, flow.role, flow.local_port), (Some(remote), Some(client.cgroup), None, None));
    let without = |flag: u32| Record { flags: server.flags & !flag, ..server };
    let refused = [
        without(flag::ENTERED),
        without(flag::FILE),
        without(flag::FILE_GONE),
        Record { netns: 0, ..server },
        Record { kind: kind::ENTER, ..server },
        Record { new_state: state::CLOSE, ..server },
    ];
    for one in refused {
        assert_eq!(passed_flow(&record_bytes(&one)), None, "{one:?}");
    }
    assert_eq!(passed_flow(&record_bytes(&server)[1..]), None);
}
