//! Any order of entries, exits, scans and reports.

use std::collections::BTreeMap;

use proptest::prelude::*;

use super::*;

/// Event of one of a few sockets, in the order of time.
#[derive(Clone, Copy, Debug)]
enum Step {
    Enter(u64),
    Leave(u64),
    /// A scan of everything; the records of this number of last steps are read only after it.
    Snapshot(usize),
    Report,
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        4 => (0..6_u64).prop_map(Step::Enter),
        4 => (0..6_u64).prop_map(Step::Leave),
        1 => (0..5_usize).prop_map(Step::Snapshot),
        2 => Just(Step::Report),
    ]
}

/// Record of the kernel program.
#[derive(Clone, Copy)]
enum Written {
    Enter(SocketKey, BootTime),
    Leave(SocketKey, BootTime, Option<BootTime>),
}

proptest! {
    /// Compares the tracker with a simple model of entry times. Sockets 0 and 1 are older than the first record.
    #[test]
    fn the_tracker_agrees_with_a_simple_model(steps in prop::collection::vec(step(), 1..80)) {
        let key = |n: u64| SocketKey(KEY.0 + n);
        let mut tracker = tracker();
        let mut truth = BTreeMap::from([(key(0), None), (key(1), None)]);
        for older_one in [key(0), key(1)] {
            tracker.present(older_one, at(100), older(10, 50), socket());
        }
        let mut unread = Vec::<Written>::new();
        let read = |tracker: &mut Tracker, written: Written, left: &mut Vec<(SocketKey, Option<Dwell>)>| match written {
            Written::Enter(key, at) => assert_eq!(tracker.enter(key, at, &socket()), None, "no exit is missed"),
            Written::Leave(key, at, entered) => left.push((key, tracker.leave(key, at, entered, &socket()).dwell)),
        };
        let mut now = 100;
        for step in steps {
            now += 1;
            let mut left = Vec::new();
            match step {
                Step::Enter(n) if !truth.contains_key(&key(n)) => {
                    truth.insert(key(n), Some(at(now)));
                    unread.push(Written::Enter(key(n), at(now)));
                }
                Step::Leave(n) => if let Some(entered) = truth.remove(&key(n)) {
                    unread.push(Written::Leave(key(n), at(now), entered));
                },
                Step::Enter(_) => {}
                Step::Snapshot(behind) => {
                    let later = unread.split_off(unread.len().saturating_sub(behind));
                    for written in std::mem::replace(&mut unread, later) {
                        read(&mut tracker, written, &mut left);
                    }
                    for (key, entered) in &truth {
                        tracker.present(*key, at(now), entered.map_or(older(10, 50), Since::Exact), socket());
                    }
                }
                Step::Report => while pop_due(&mut tracker, at(now)).is_some() {},
            }
            if matches!(step, Step::Report | Step::Snapshot(_)) || unread.len() > 5 {
                for written in std::mem::take(&mut unread) {
                    read(&mut tracker, written, &mut left);
                }
                // If a scan finds a second entry before the record of the first exit is read, the socket keeps its first age.
                let second_stay = matches!(step, Step::Snapshot(behind) if behind > 1);
                for (key, dwell) in left {
                    prop_assert!(dwell.is_some() || second_stay, "{key:?} left after an unknown time");
                }
                let tracked: BTreeMap<_, _> = tracker.iter().map(|tracked| (tracked.key(), tracked.since())).collect();
                let there = truth.iter().map(|(key, entered)| (*key, entered.map_or(older(10, 50), Since::Exact)));
                prop_assert_eq!(tracked, there.collect::<BTreeMap<_, _>>());
                prop_assert_eq!(tracker.iter().count(), tracker.len());
            }
        }
    }
}
