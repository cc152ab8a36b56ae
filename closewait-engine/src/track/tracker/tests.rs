use std::collections::BTreeMap;

use proptest::prelude::*;

use super::*;
use crate::testing::{owner, socket, socket_on_port};

const STUCK_AFTER: Duration = Duration::from_secs(10);
/// A key as the kernel gives it.
const KEY: SocketKey = SocketKey(0xffff_8880_0000_1000);

fn at(seconds: u64) -> BootTime {
    BootTime(seconds * 1_000_000_000)
}

fn exact(seconds: u64) -> Option<Dwell> {
    Some(Dwell::Exact(Duration::from_secs(seconds)))
}

fn older(earliest: u64, latest: u64) -> Since {
    Since::Between { earliest: Some(at(earliest)), latest: at(latest) }
}

fn tracker() -> Tracker {
    Tracker::new(STUCK_AFTER, usize::MAX, KeySecret::default())
}

/// Reports the next socket that is due at `now`, as the engine does.
fn pop_due(tracker: &mut Tracker, now: BootTime) -> Option<(Socket, Dwell)> {
    let key = *tracker.due(now).first()?;
    let _forgotten = tracker.forget_what_was_not_refreshed(now, now);
    let (tracked, dwell) = tracker.report(key, now)?;
    Some((tracked.socket.clone(), dwell))
}

/// Moments at which something is reported up to `until`, in seconds.
fn reports(tracker: &mut Tracker, until: u64) -> Vec<u64> {
    let mut reports = Vec::new();
    while let Some(due) = tracker.next_due().filter(|due| *due <= at(until)) {
        assert!(pop_due(tracker, due).is_some());
        reports.push(due.0 / 1_000_000_000);
    }
    reports
}

impl Tracker {
    /// Panics unless all that is kept twice says the same.
    pub(crate) fn check(&self) {
        assert_eq!(self.schedule.iter().count(), self.sockets.len(), "one entry in `due` for each socket");
        let (mut reported, mut ends) = (0, BTreeMap::new());
        for (due, key) in self.schedule.iter() {
            let tracked = self.sockets.get(&key).unwrap_or_else(|| panic!("{key:?} is due and not there"));
            assert_eq!(tracked.due, due, "{key:?}");
            assert!(tracked.due >= tracked.since.latest(), "{key:?} is due before it entered");
            if let Since::Between { earliest: Some(earliest), latest } = tracked.since {
                assert!(earliest <= latest, "{key:?} entered between {earliest} and {latest}");
            }
            reported += usize::from(tracked.reported);
            if key.is_of_ends() {
                *ends.entry((tracked.socket.local, tracked.socket.remote)).or_insert(0) += 1;
            }
        }
        assert_eq!(self.reported, reported, "the count of those that were reported");
        assert_eq!(self.by_ends.len(), ends.len(), "ends of which there is a socket");
        for (ends, count) in ends {
            let named = self.by_ends.get(&ends).map_or(&[][..], Vec::as_slice);
            assert_eq!(named.len(), count, "{ends:?} {named:?}");
            assert!(named.iter().all(|key| self.sockets.contains_key(key)), "{ends:?} {named:?}");
        }
    }
}

#[test]
fn a_socket_is_reported_at_the_threshold_and_at_every_doubling() {
    let mut tracker = tracker();
    tracker.enter(KEY, at(100), socket());
    assert_eq!(reports(&mut tracker, 300), [110, 120, 140, 180, 260]);
}

#[test]
fn a_descriptor_that_comes_up_after_the_socket_was_seen_in_a_backlog_proves_that_it_was_accepted() {
    let mut tracker = tracker();
    let waits = Socket { accepted: Some(false), inode: None, ..socket() };
    tracker.present(KEY, at(101), older(50, 101), waits);
    tracker.holds(KEY, None, 99, owner("x", 1, 3));
    tracker.owner_scan_ended(at(100), true, |_socket| None);
    let tracked = tracker.get(KEY).unwrap();
    assert_eq!((tracked.socket.accepted, tracked.socket.inode), (Some(true), Some(99)));
    assert!(!tracker.has_unheld());
}

#[test]
fn only_a_socket_that_was_accepted_is_one_that_lacks_a_holder() {
    for (accepted, lacks) in [(Some(true), true), (Some(false), false), (None, false)] {
        let mut tracker = tracker();
        tracker.present(KEY, at(90), older(50, 90), Socket { accepted, ..socket() });
        assert!(!tracker.has_unheld(), "nobody has looked for one");
        tracker.owner_scan_ended(at(100), true, |_socket| None);
        assert_eq!(tracker.has_unheld(), lacks, "{accepted:?}");
    }
}

#[test]
fn memory_goes_when_the_sockets_do() {
    let mut tracker = tracker();
    let key = |number| SocketKey(KEY.0 + number);
    for number in 0..100_000 {
        tracker.enter(key(number), at(100), socket());
    }
    for number in 0..100_000 {
        tracker.leave(key(number), at(101), Some(at(100)), &socket());
    }
    assert_eq!((tracker.len(), tracker.next_due()), (0, None));
    assert!(tracker.sockets.capacity() < 4096 * 8, "{}", tracker.sockets.capacity());
}

#[test]
fn a_stay_whose_place_is_taken_again_needs_no_room() {
    let mut tracker = Tracker::new(STUCK_AFTER, 1, KeySecret::default());
    tracker.enter(KEY, at(100), socket());
    assert!(tracker.enter(KEY, at(200), socket()).is_some());
    tracker.present(KEY, at(201), older(50, 201), socket());
    assert_eq!((tracker.len(), tracker.untracked_total()), (1, 0));
}

#[test]
fn every_socket_keeps_a_holder_and_what_the_last_processes_have_beside_is_left_out_and_counted() {
    let mut tracker = tracker();
    tracker.enter(KEY, at(100), socket());
    for fd in 0..MAX_MORE_OWNERS as u32 + 3 {
        tracker.held(KEY, &socket(), owner("x", 1, fd));
    }
    let other = SocketKey(KEY.0 + 1);
    tracker.enter(other, at(100), socket());
    tracker.held(other, &socket(), owner("y", 2, 3));
    tracker.owner_scan_ended(at(101), true, |_socket| None);
    let count = |key| tracker.get(key).unwrap().owners.as_ref().unwrap().len();
    assert_eq!((count(KEY), count(other), tracker.dropped_owners()), (MAX_MORE_OWNERS + 1, 1, 2));
    tracker.owner_scan_ended(at(102), true, |_socket| None);
    assert_eq!(tracker.dropped_owners(), 0);
}

#[test]
fn a_report_that_comes_late_is_not_made_up_for() {
    let mut tracker = tracker();
    tracker.enter(KEY, at(100), socket());
    let (_, dwell) = pop_due(&mut tracker, at(145)).expect("it is due");
    assert_eq!(Some(dwell), exact(45));
    assert!(pop_due(&mut tracker, at(145)).is_none());
    assert_eq!(reports(&mut tracker, 300), [180, 260]);
}

#[test]
fn what_a_walk_has_not_found_is_not_there_unless_it_could_not_look() {
    let found_owner = || owner("worker", 7, 3);
    let owners = |complete, found: bool| {
        let mut tracker = tracker();
        tracker.enter(KEY, at(100), socket());
        if found {
            tracker.holds(KEY, None, 99, found_owner());
        }
        tracker.owner_scan_ended(at(110), complete, |_socket| None);
        tracker.get(KEY).and_then(|tracked| tracked.owners.clone())
    };
    assert_eq!(owners(true, true), Some(vec![found_owner()]));
    assert_eq!(owners(false, true), Some(vec![found_owner()]));
    assert_eq!(owners(true, false), Some(vec![]));
    assert_eq!(owners(false, false), None);
}

#[test]
fn a_walk_that_began_before_the_socket_entered_says_nothing_of_it() {
    let mut tracker = tracker();
    tracker.enter(KEY, at(100), socket());
    tracker.owner_scan_ended(at(99), true, |_socket| None);
    assert_eq!(tracker.get(KEY).and_then(|tracked| tracked.owners.clone()), None);
}

#[test]
fn nothing_is_reported_before_the_threshold() {
    let mut tracker = tracker();
    tracker.enter(KEY, at(100), socket());
    assert!(pop_due(&mut tracker, BootTime(at(110).0 - 1)).is_none());
    assert!(pop_due(&mut tracker, at(110)).is_some());
}

#[test]
fn what_left_is_forgotten() {
    let mut tracker = tracker();
    tracker.enter(KEY, at(100), socket());
    let Left { dwell, tracked, missed: _ } = tracker.leave(KEY, at(103), Some(at(100)), &socket());
    assert_eq!((dwell, tracked.is_some()), (exact(3), true));
    assert!(tracker.len() == 0 && tracker.next_due().is_none());
}

#[test]
fn an_entry_that_the_kernel_forgot_is_remembered_here() {
    let mut tracker = tracker();
    tracker.enter(KEY, at(100), socket());
    assert_eq!(tracker.leave(KEY, at(103), None, &socket()).dwell, exact(3));
}

/// Nothing was tracked of it.
fn of_nobody(dwell: Option<Dwell>) -> Left {
    Left { missed: None, tracked: None, dwell }
}

#[test]
fn leaving_of_a_stranger_tells_what_the_kernel_knows() {
    let mut tracker = tracker();
    assert_eq!(tracker.leave(KEY, at(103), Some(at(101)), &socket()), of_nobody(exact(2)));
    assert_eq!(tracker.leave(KEY, at(103), None, &socket()), of_nobody(None));
}

#[test]
fn an_older_socket_leaves_with_an_interval() {
    let mut tracker = tracker();
    assert!(tracker.present(KEY, at(100), older(50, 90), socket()));
    let Left { dwell, tracked, missed: _ } = tracker.leave(KEY, at(100), None, &socket());
    let (at_least, at_most) = (Duration::from_secs(10), Some(Duration::from_secs(50)));
    assert_eq!((dwell, tracked.is_some()), (Some(Dwell::Between { at_least, at_most }), true));
}

#[test]
fn a_socket_that_snapshot_and_record_both_tell_of_is_one() {
    let mut tracker = tracker();
    // The record of its entry lay in the ring while the snapshot was taken.
    tracker.present(KEY, at(100), older(50, 98), socket());
    assert_eq!(tracker.enter(KEY, at(97), socket()), None);
    assert_eq!(tracker.len(), 1);
    assert_eq!(tracker.leave(KEY, at(101), Some(at(97)), &socket()).dwell, exact(4));
    assert!(tracker.len() == 0);
}

#[test]
fn a_stay_before_the_one_that_a_snapshot_found_ends_without_it() {
    let mut tracker = tracker();
    tracker.present(KEY, at(100), Since::Exact(at(99)), socket());
    assert_eq!(tracker.enter(KEY, at(90), socket()), None);
    assert_eq!(tracker.leave(KEY, at(95), Some(at(90)), &socket()).dwell, exact(5));
    assert_eq!(tracker.enter(KEY, at(99), socket()), None);
    assert_eq!(tracker.len(), 1);
    assert_eq!(tracker.leave(KEY, at(110), Some(at(99)), &socket()).dwell, exact(11));
    assert!(tracker.len() == 0);
}

#[test]
fn a_socket_that_leaves_while_the_snapshot_is_taken_is_no_phantom() {
    let mut tracker = tracker();
    // The scan saw it a moment after the tracepoint had run, before the state had changed.
    tracker.present(KEY, at(100), older(50, 90), socket());
    assert!(tracker.leave(KEY, BootTime(at(100).0 - 1000), None, &socket()).tracked.is_some());
    assert!(tracker.len() == 0);
}

#[test]
fn a_walk_that_learns_the_time_of_entry_makes_the_socket_due_by_it() {
    let mut tracker = tracker();
    tracker.present(KEY, at(100), older(50, 98), socket());
    tracker.present(KEY, at(101), Since::Exact(at(97)), socket());
    assert_eq!(tracker.next_due(), Some(at(107)));
    assert_eq!(reports(&mut tracker, 120), [107, 117]);
}

#[test]
fn another_socket_at_the_address_of_one_whose_leaving_was_lost_is_not_taken_for_it() {
    let entered = Since::Exact(at(100));
    for (since, found, is_another) in [
        (entered, socket(), false),
        (older(90, 105), socket(), false),
        (older(90, 105), Socket { cookie: None, inode: None, netns: None, ..socket() }, false),
        (Since::Exact(at(104)), socket(), true),
        (older(90, 105), Socket { cookie: Some(8), ..socket() }, true),
        (older(90, 105), Socket { inode: Some(1), ..socket() }, true),
        (older(90, 105), Socket { netns: Some(1), ..socket() }, true),
        (older(90, 105), socket_on_port(9), true),
    ] {
        let mut tracker = tracker();
        tracker.enter(KEY, at(100), socket());
        let taken = tracker.take_another(KEY, since, &found);
        assert_eq!(taken.map(|before| before.since), is_another.then_some(entered), "{since:?} {found:?}");
        tracker.present(KEY, at(105), since, found);
        let expected = if is_another { since } else { entered };
        assert_eq!(tracker.get(KEY).map(|tracked| tracked.since), Some(expected), "{since:?}");
    }
}

#[test]
fn the_leaving_of_another_socket_at_its_address_is_not_its_own() {
    let other = Socket { cookie: Some(8), ..socket() };
    // Read after a scan has found the next one there.
    let mut tracker = tracker();
    tracker.present(KEY, at(100), older(90, 99), socket());
    assert_eq!(tracker.leave(KEY, at(98), None, &other), of_nobody(None));
    assert_eq!(tracker.len(), 1);
    // Of one whose entering was missed, as was the leaving of the one that is tracked.
    let Left { missed, tracked, dwell } = tracker.leave(KEY, at(110), None, &other);
    assert_eq!((missed.map(|one| one.since), tracked, dwell), (Some(older(90, 99)), None, None));
    assert!(tracker.len() == 0);
}

#[test]
fn the_record_of_an_entry_before_the_one_that_a_walk_found_changes_nothing() {
    let before = Socket { inode: Some(1), ..socket() };
    for (entered, since, socket_before) in
        [(at(95), older(90, 99), before), (at(80), older(90, 99), socket()), (at(95), Since::Exact(at(99)), socket())]
    {
        let mut tracker = tracker();
        tracker.present(KEY, at(100), since, socket());
        assert_eq!(tracker.enter(KEY, entered, socket_before), None);
        let tracked = tracker.get(KEY).unwrap();
        assert_eq!((tracked.since, tracked.socket.inode), (since, Some(99)), "{entered}");
        tracker.check();
    }
}

#[test]
fn a_look_at_another_socket_with_the_same_ends_changes_nothing() {
    let mut tracker = tracker();
    tracker.enter(KEY, at(100), socket());
    tracker.refreshed(KEY, at(105), &Socket { inode: Some(1), unread_bytes: Some(7), ..socket() });
    let tracked = tracker.get(KEY).unwrap();
    assert_eq!((tracked.socket.inode, tracked.socket.unread_bytes, tracked.refreshed), (Some(99), Some(1), None));
}

#[test]
fn an_entry_over_an_entry_tells_of_a_leaving_that_was_missed() {
    let mut tracker = tracker();
    tracker.enter(KEY, at(100), socket());
    let missed = tracker.enter(KEY, at(200), socket()).expect("the first one is gone");
    assert_eq!(missed.since, Since::Exact(at(100)));
    assert_eq!((tracker.len(), tracker.next_due()), (1, Some(at(210))));
}

#[test]
fn a_snapshot_says_nothing_twice() {
    let mut tracker = tracker();
    tracker.enter(KEY, at(100), socket());
    assert!(!tracker.present(KEY, at(105), older(80, 100), socket()));
    assert_eq!(reports(&mut tracker, 130), [110, 120]);
}

#[test]
fn a_socket_known_by_its_ends_is_found_by_its_records() {
    let ends = KeySecret::default().key(socket().netns, socket().local, socket().remote);
    let mut tracker = tracker();
    tracker.present(ends, at(100), older(50, 98), socket());
    assert_eq!(tracker.enter(KEY, at(99), socket()), None);
    assert_eq!(tracker.len(), 1);
    assert!(tracker.leave(KEY, at(104), Some(at(99)), &socket()).tracked.is_some());

    tracker.present(ends, at(200), older(50, 98), socket());
    assert!(tracker.leave(KEY, at(201), None, &socket()).tracked.is_some());
    assert!(tracker.len() == 0);
}

#[test]
fn the_same_ends_in_two_namespaces_are_two_sockets() {
    let mut tracker = tracker();
    for netns in [1, 2] {
        let socket = Socket { netns: Some(netns), ..socket() };
        let key = KeySecret::default().key(socket.netns, socket.local, socket.remote);
        assert!(tracker.present(key, at(100), older(50, 98), socket));
    }
    assert_eq!(tracker.len(), 2);
    // Records without the kernel's types do not say which of them left.
    let nowhere = Socket { netns: None, ..socket() };
    for left in [1, 0] {
        assert!(tracker.leave(KEY, at(101), None, &nowhere).tracked.is_some());
        assert_eq!(tracker.len(), left);
    }
}

#[test]
fn facts_that_one_witness_lacks_come_from_the_other() {
    let mut tracker = tracker();
    let bare = Socket { unread_bytes: None, cookie: None, ..socket() };
    tracker.enter(KEY, at(100), bare);
    tracker.present(KEY, at(101), older(50, 100), Socket { netns: None, ..socket() });
    let (_, tracked) = tracker.iter().next().expect("one is there");
    assert_eq!((tracked.socket.unread_bytes, tracked.socket.cookie), (Some(1), Some(7)));
    assert_eq!(tracked.socket.netns, socket().netns);
    assert_eq!(tracked.since, Since::Exact(at(100)));
}

#[test]
fn doublings_do_not_overflow() {
    let last = BootTime(u64::MAX);
    assert_eq!(next_doubling(BootTime(0), Duration::from_nanos(1), last), last);
    assert_eq!(next_doubling(last, Duration::MAX, last), last);
}

/// What happens to one of a few sockets, in the order of time.
#[derive(Clone, Copy, Debug)]
enum Step {
    Enter(u64),
    Leave(u64),
    /// A snapshot of everything; the records of the last `usize` steps are read only after it.
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

/// A record as the kernel writes it.
#[derive(Clone, Copy)]
enum Written {
    Enter(SocketKey, BootTime),
    Leave(SocketKey, BootTime, Option<BootTime>),
}

proptest! {
    /// The simple model: what is in CLOSE_WAIT, and since when. Sockets 0 and 1 are older than the first record.
    #[test]
    fn tracked_is_what_is_there_with_the_right_age(steps in prop::collection::vec(step(), 1..80)) {
        let key = |n: u64| SocketKey(KEY.0 + n);
        let mut tracker = tracker();
        let mut truth = BTreeMap::from([(key(0), None), (key(1), None)]);
        for older_one in [key(0), key(1)] {
            tracker.present(older_one, at(100), older(10, 50), socket());
        }
        let mut unread = Vec::<Written>::new();
        let read = |tracker: &mut Tracker, written: Written, told: &mut Vec<(SocketKey, Option<Dwell>)>| match written {
            Written::Enter(key, at) => assert_eq!(tracker.enter(key, at, socket()), None, "no leaving is missed"),
            Written::Leave(key, at, entered) => told.push((key, tracker.leave(key, at, entered, &socket()).dwell)),
        };
        let mut now = 100;
        for step in steps {
            now += 1;
            let mut told = Vec::new();
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
                        read(&mut tracker, written, &mut told);
                    }
                    for (key, entered) in &truth {
                        tracker.present(*key, at(now), entered.map_or(older(10, 50), Since::Exact), socket());
                    }
                }
                Step::Report => while pop_due(&mut tracker, at(now)).is_some() {},
            }
            if matches!(step, Step::Report | Step::Snapshot(_)) || unread.len() > 5 {
                for written in std::mem::take(&mut unread) {
                    read(&mut tracker, written, &mut told);
                }
                // A snapshot that finds a second stay before the first one's end is read takes the first one's age with it.
                let second_stay = matches!(step, Step::Snapshot(behind) if behind > 1);
                for (key, dwell) in told {
                    prop_assert!(dwell.is_some() || second_stay, "{key:?} left after an unknown time");
                }
                let tracked: BTreeMap<_, _> = tracker.iter().map(|(key, tracked)| (key, tracked.since)).collect();
                let there = truth.iter().map(|(key, entered)| (*key, entered.map_or(older(10, 50), Since::Exact)));
                prop_assert_eq!(tracked, there.collect::<BTreeMap<_, _>>());
                prop_assert_eq!(tracker.schedule.iter().count(), tracker.len());
            }
        }
    }
}

#[test]
fn a_scan_confirms_that_a_socket_without_an_address_is_still_not_accepted() {
    let ends = KeySecret::default().key(socket().netns, socket().local, socket().remote);
    let unaccepted = Socket { accepted: Some(false), inode: None, ..socket() };
    let reported = |complete: bool, by_inode: bool| {
        let mut tracker = tracker();
        tracker.present(ends, at(100), older(50, 98), unaccepted.clone());
        if by_inode {
            tracker.held_inode(7, owner("x", 1, 3));
        }
        tracker.owner_scan_ended(at(60_100), complete, |_socket| None);
        let forgotten = tracker.forget_what_was_not_refreshed(at(60_100), at(60_099));
        let accepted = tracker.get(ends).unwrap().socket.accepted;
        tracker.remember(forgotten);
        assert_eq!(tracker.get(ends).unwrap().socket.accepted, Some(false), "the next report may know better");
        accepted
    };
    assert_eq!(reported(true, false), Some(false));
    assert_eq!(reported(false, false), None, "not all processes were seen");
    assert_eq!(reported(true, true), None, "a scan by inodes does not know it");
}
