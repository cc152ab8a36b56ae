mod steps;

use super::*;
use crate::{
    testing::{owner, socket, socket_on_port},
    track::socket_view::Owners,
};

const STUCK_AFTER: Duration = Duration::from_secs(10);
/// Kernel address of a socket.
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

/// Reports the next due socket at `now`, as the engine does.
fn pop_due(tracker: &mut Tracker, now: BootTime) -> Option<(Socket, Dwell)> {
    let key = tracker.due(now).next()?;
    let _forgotten = tracker.forget_stale_facts(now, now);
    tracker.report(key, now);
    let tracked = tracker.get(key)?;
    Some((tracked.socket(), tracked.dwell(now)))
}

/// Returns the times of reports up to `until`, in seconds.
fn reports(tracker: &mut Tracker, until: u64) -> Vec<u64> {
    let mut reports = Vec::new();
    while let Some(due) = tracker.next_due().filter(|due| *due <= at(until)) {
        assert!(pop_due(tracker, due).is_some());
        reports.push(due.0 / 1_000_000_000);
    }
    reports
}

impl Tracker {
    /// Panics if the redundant parts of the state contradict each other.
    pub(crate) fn check(&self) {
        self.sockets.check();
        let mut ends = BTreeMap::new();
        for tracked in self.iter() {
            let key = tracked.key();
            assert!(tracked.due() >= tracked.latest(), "{key:?} is due before it entered");
            if let Since::Between { earliest: Some(earliest), latest } = tracked.since() {
                assert!(earliest <= latest, "{key:?} entered between {earliest} and {latest}");
            }
            if key.is_of_ends() {
                *ends.entry(tracked.ends()).or_insert(0) += 1;
            }
        }
        assert_eq!(self.by_ends.len(), ends.len(), "endpoints of tracked sockets");
        for (ends, count) in ends {
            let named = self.by_ends.get(&ends).map_or(&[][..], Vec::as_slice);
            assert_eq!(named.len(), count, "{ends:?} {named:?}");
            assert!(named.iter().all(|key| self.sockets.get(*key).is_some()), "{ends:?} {named:?}");
        }
    }
}

#[test]
fn a_socket_is_reported_at_the_threshold_and_at_every_doubling() {
    let mut tracker = tracker();
    tracker.enter(KEY, at(100), &socket());
    assert_eq!(reports(&mut tracker, 300), [110, 120, 140, 180, 260]);
}

#[test]
fn a_descriptor_of_a_socket_proves_that_it_was_accepted() {
    let mut tracker = tracker();
    let waits = Socket { accepted: Some(false), inode: None, ..socket() };
    tracker.present(KEY, at(101), older(50, 101), waits);
    tracker.holds(KEY, None, 99, owner("x", 1, 3));
    tracker.owner_scan_ended(at(100), true, |_socket| None);
    let tracked = tracker.get(KEY).unwrap();
    assert_eq!((tracked.accepted(), tracked.inode()), (Some(true), Some(99)));
    assert!(!tracker.has_unheld(at(100)));
}

#[test]
fn only_an_accepted_socket_can_lack_an_owner() {
    for (accepted, lacks) in [(Some(true), true), (Some(false), false), (None, false)] {
        let mut tracker = tracker();
        tracker.present(KEY, at(90), older(50, 90), Socket { accepted, ..socket() });
        assert!(!tracker.has_unheld(at(100)), "there was no scan for owners");
        // It entered during the scan.
        tracker.owner_scan_ended(at(80), true, |_socket| None);
        assert_eq!((tracker.has_unheld(at(80)), !tracker.get(KEY).unwrap().is_scanned()), (lacks, true));
        tracker.owner_scan_ended(at(100), true, |_socket| None);
        assert_eq!(tracker.has_unheld(at(100)), lacks, "{accepted:?}");
    }
}

#[test]
fn memory_is_freed_with_the_sockets() {
    let mut tracker = tracker();
    let key = |number| SocketKey(KEY.0 + number);
    for number in 0..100_000 {
        tracker.enter(key(number), at(100), &socket());
    }
    for number in 0..100_000 {
        tracker.leave(key(number), at(101), Some(at(100)), &socket());
    }
    assert_eq!((tracker.len(), tracker.next_due()), (0, None));
    assert!(tracker.sockets.capacity() < 4096 * 8, "{}", tracker.sockets.capacity());
}

#[test]
fn a_socket_that_replaces_another_one_is_tracked_at_the_limit() {
    let mut tracker = Tracker::new(STUCK_AFTER, 1, KeySecret::default());
    tracker.enter(KEY, at(100), &socket());
    assert!(tracker.enter(KEY, at(200), &socket()).is_some());
    tracker.present(KEY, at(201), older(50, 201), socket());
    assert_eq!((tracker.len(), tracker.untracked_total()), (1, 0));
}

#[test]
fn every_socket_has_an_owner_and_descriptors_over_the_limit_are_counted() {
    let mut tracker = tracker();
    tracker.enter(KEY, at(100), &socket());
    for fd in 0..MAX_MORE_OWNERS as u32 + 3 {
        tracker.held(KEY, &socket(), owner("x", 1, fd));
    }
    let other = SocketKey(KEY.0 + 1);
    tracker.enter(other, at(100), &socket());
    tracker.held(other, &socket(), owner("y", 2, 3));
    tracker.owner_scan_ended(at(101), true, |_socket| None);
    let count = |key| tracker.get(key).unwrap().owners().unwrap().len();
    assert_eq!((count(KEY), count(other), tracker.dropped_owners()), (MAX_MORE_OWNERS + 1, 1, 2));
    tracker.owner_scan_ended(at(102), true, |_socket| None);
    assert_eq!(tracker.dropped_owners(), 0);
}

#[test]
fn late_reports_are_not_repeated() {
    let mut tracker = tracker();
    tracker.enter(KEY, at(100), &socket());
    let (_, dwell) = pop_due(&mut tracker, at(145)).expect("it is due");
    assert_eq!(Some(dwell), exact(45));
    assert!(pop_due(&mut tracker, at(145)).is_none());
    assert_eq!(reports(&mut tracker, 300), [180, 260]);
}

#[test]
fn only_a_complete_scan_proves_that_a_descriptor_is_closed() {
    let found_owner = || owner("worker", 7, 3);
    let owners = |complete, found: bool| {
        let mut tracker = tracker();
        tracker.enter(KEY, at(100), &socket());
        if found {
            tracker.holds(KEY, None, 99, found_owner());
        }
        tracker.owner_scan_ended(at(110), complete, |_socket| None);
        tracker.get(KEY).and_then(|tracked| tracked.owners().map(Owners::into_vec))
    };
    assert_eq!(owners(true, true), Some(vec![found_owner()]));
    assert_eq!(owners(false, true), Some(vec![found_owner()]));
    assert_eq!(owners(true, false), Some(vec![]));
    assert_eq!(owners(false, false), None);
}

#[test]
fn a_scan_that_began_before_the_entry_proves_nothing() {
    let mut tracker = tracker();
    tracker.enter(KEY, at(100), &socket());
    tracker.owner_scan_ended(at(99), true, |_socket| None);
    assert_eq!(tracker.get(KEY).and_then(|tracked| tracked.owners().map(Owners::into_vec)), None);
}

#[test]
fn there_is_no_report_before_the_threshold() {
    let mut tracker = tracker();
    tracker.enter(KEY, at(100), &socket());
    assert!(pop_due(&mut tracker, BootTime(at(110).0 - 1)).is_none());
    assert!(pop_due(&mut tracker, at(110)).is_some());
}

#[test]
fn a_socket_that_exited_is_removed() {
    let mut tracker = tracker();
    tracker.enter(KEY, at(100), &socket());
    let Left { dwell, tracked, missed: _ } = tracker.leave(KEY, at(103), Some(at(100)), &socket());
    assert_eq!((dwell, tracked.is_some()), (exact(3), true));
    assert!(tracker.len() == 0 && tracker.next_due().is_none());
}

#[test]
fn the_tracker_has_entry_times_that_the_kernel_dropped() {
    let mut tracker = tracker();
    tracker.enter(KEY, at(100), &socket());
    assert_eq!(tracker.leave(KEY, at(103), None, &socket()).dwell, exact(3));
}

/// Returns the result of the exit of an untracked socket.
fn of_untracked(dwell: Option<Dwell>) -> Left {
    Left { missed: None, tracked: None, dwell }
}

#[test]
fn the_exit_of_an_untracked_socket_has_the_kernel_s_dwell_time() {
    let mut tracker = tracker();
    assert_eq!(tracker.leave(KEY, at(103), Some(at(101)), &socket()), of_untracked(exact(2)));
    assert_eq!(tracker.leave(KEY, at(103), None, &socket()), of_untracked(None));
}

#[test]
fn an_older_socket_exits_with_bounds_of_its_dwell_time() {
    let mut tracker = tracker();
    assert!(tracker.present(KEY, at(100), older(50, 90), socket()));
    let Left { dwell, tracked, missed: _ } = tracker.leave(KEY, at(100), None, &socket());
    let (at_least, at_most) = (Duration::from_secs(10), Some(Duration::from_secs(50)));
    assert_eq!((dwell, tracked.is_some()), (Some(Dwell::Between { at_least, at_most }), true));
}

#[test]
fn a_scan_and_a_record_of_one_socket_track_it_once() {
    let mut tracker = tracker();
    // The record of its entry was unread in the ring during the scan.
    tracker.present(KEY, at(100), older(50, 98), socket());
    assert_eq!(tracker.enter(KEY, at(97), &socket()), None);
    assert_eq!(tracker.len(), 1);
    assert_eq!(tracker.leave(KEY, at(101), Some(at(97)), &socket()).dwell, exact(4));
    assert!(tracker.len() == 0);
}

#[test]
fn the_exit_of_an_earlier_entry_does_not_remove_the_socket() {
    let mut tracker = tracker();
    tracker.present(KEY, at(100), Since::Exact(at(99)), socket());
    assert_eq!(tracker.enter(KEY, at(90), &socket()), None);
    assert_eq!(tracker.leave(KEY, at(95), Some(at(90)), &socket()).dwell, exact(5));
    assert_eq!(tracker.enter(KEY, at(99), &socket()), None);
    assert_eq!(tracker.len(), 1);
    assert_eq!(tracker.leave(KEY, at(110), Some(at(99)), &socket()).dwell, exact(11));
    assert!(tracker.len() == 0);
}

#[test]
fn a_socket_that_exits_during_a_scan_is_no_phantom() {
    let mut tracker = tracker();
    // The scan found the socket after the tracepoint ran and before the state changed.
    tracker.present(KEY, at(100), older(50, 90), socket());
    assert!(tracker.leave(KEY, BootTime(at(100).0 - 1000), None, &socket()).tracked.is_some());
    assert!(tracker.len() == 0);
}

#[test]
fn a_socket_that_a_refresh_finds_after_the_time_of_its_exit_was_read_is_no_phantom() {
    let mut tracker = tracker();
    tracker.enter(KEY, at(100), &socket());
    tracker.refreshed(KEY, at(105), &socket());
    // The kernel's map had no room for its entry time.
    let Left { dwell, tracked, missed } = tracker.leave(KEY, at(104), None, &socket());
    assert_eq!((dwell, tracked.is_some(), missed), (exact(4), true, None));
    assert!(tracker.len() == 0);
}

#[test]
fn a_scan_that_finds_a_socket_before_its_record_is_read_misses_no_exit() {
    let mut tracker = tracker();
    // It entered after the scan had asked the kernel, and before the kernel answered.
    tracker.present(KEY, at(100), Since::Exact(at(101)), socket());
    assert_eq!(tracker.enter(KEY, at(101), &socket()), None);
    assert_eq!((tracker.len(), tracker.get(KEY).unwrap().since()), (1, Since::Exact(at(101))));
}

#[test]
fn an_exact_entry_time_from_a_scan_changes_the_due_time() {
    let mut tracker = tracker();
    tracker.present(KEY, at(100), older(50, 98), socket());
    tracker.present(KEY, at(101), Since::Exact(at(97)), socket());
    assert_eq!(tracker.next_due(), Some(at(107)));
    assert_eq!(reports(&mut tracker, 120), [107, 117]);
}

#[test]
fn a_new_socket_at_a_reused_address_is_another_one() {
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
        tracker.enter(KEY, at(100), &socket());
        let taken = tracker.take_another(KEY, since, &found);
        assert_eq!(taken.map(|before| before.since), is_another.then_some(entered), "{since:?} {found:?}");
        tracker.present(KEY, at(105), since, found);
        let expected = if is_another { since } else { entered };
        assert_eq!(tracker.get(KEY).map(|tracked| tracked.since()), Some(expected), "{since:?}");
    }
}

#[test]
fn the_exit_of_another_socket_at_the_address_is_not_its_own() {
    let other = Socket { cookie: Some(8), ..socket() };
    // The record is read after a scan has found the next socket at the address.
    let mut tracker = tracker();
    tracker.present(KEY, at(100), older(90, 99), socket());
    assert_eq!(tracker.leave(KEY, at(98), None, &other), of_untracked(None));
    assert_eq!(tracker.len(), 1);
    // The entry of the socket was missed, and so was the exit of the tracked one.
    let Left { missed, tracked, dwell } = tracker.leave(KEY, at(110), None, &other);
    assert_eq!((missed.map(|one| one.since), tracked, dwell), (Some(older(90, 99)), None, None));
    assert!(tracker.len() == 0);
}

#[test]
fn the_record_of_an_earlier_entry_changes_nothing() {
    let before = Socket { inode: Some(1), ..socket() };
    for (entered, since, socket_before) in
        [(at(95), older(90, 99), before), (at(80), older(90, 99), socket()), (at(95), Since::Exact(at(99)), socket())]
    {
        let mut tracker = tracker();
        tracker.present(KEY, at(100), since, socket());
        assert_eq!(tracker.enter(KEY, entered, &socket_before), None);
        let tracked = tracker.get(KEY).unwrap();
        assert_eq!((tracked.since(), tracked.inode()), (since, Some(99)), "{entered}");
        tracker.check();
    }
}

#[test]
fn a_record_gives_a_found_socket_its_exact_time_although_the_ticks_were_late() {
    for (late, exact) in [(99, true), (101, false)] {
        let mut tracker = tracker();
        let since = older(90, 99);
        tracker.present(KEY, at(100), since, socket());
        let entered = at(90) - Duration::from_millis(late);
        assert_eq!(tracker.enter(KEY, entered, &socket()), None);
        assert_eq!(tracker.get(KEY).unwrap().since(), if exact { Since::Exact(entered) } else { since }, "{late} ms");
        tracker.check();
    }
}

#[test]
fn a_refresh_of_another_socket_with_the_same_endpoints_changes_nothing() {
    let mut tracker = tracker();
    tracker.enter(KEY, at(100), &socket());
    tracker.refreshed(KEY, at(105), &Socket { inode: Some(1), unread_bytes: Some(7), ..socket() });
    let tracked = tracker.get(KEY).unwrap();
    assert_eq!((tracked.inode(), tracked.socket().unread_bytes, tracked.refreshed()), (Some(99), Some(1), None));
}

#[test]
fn a_second_entry_shows_a_missed_exit() {
    let mut tracker = tracker();
    tracker.enter(KEY, at(100), &socket());
    let missed = tracker.enter(KEY, at(200), &socket()).expect("the first one is gone");
    assert_eq!(missed.since, Since::Exact(at(100)));
    assert_eq!((tracker.len(), tracker.next_due()), (1, Some(at(210))));
}

#[test]
fn a_repeated_scan_changes_nothing() {
    let mut tracker = tracker();
    tracker.enter(KEY, at(100), &socket());
    assert!(!tracker.present(KEY, at(105), older(80, 100), socket()));
    assert_eq!(reports(&mut tracker, 130), [110, 120]);
}

#[test]
fn a_record_finds_a_socket_that_is_tracked_by_its_endpoints() {
    let ends = KeySecret::default().key(socket().netns, socket().local, socket().remote);
    let mut tracker = tracker();
    tracker.present(ends, at(100), older(50, 98), socket());
    assert_eq!(tracker.enter(KEY, at(99), &socket()), None);
    assert_eq!(tracker.len(), 1);
    assert!(tracker.leave(KEY, at(104), Some(at(99)), &socket()).tracked.is_some());

    tracker.present(ends, at(200), older(50, 98), socket());
    assert!(tracker.leave(KEY, at(201), None, &socket()).tracked.is_some());
    assert!(tracker.len() == 0);
}

#[test]
fn the_same_endpoints_in_two_namespaces_are_two_sockets() {
    let mut tracker = tracker();
    for netns in [1, 2] {
        let socket = Socket { netns: Some(netns), ..socket() };
        let key = KeySecret::default().key(socket.netns, socket.local, socket.remote);
        assert!(tracker.present(key, at(100), older(50, 98), socket));
    }
    assert_eq!(tracker.len(), 2);
    // Records without the kernel's types do not show which of them exited.
    let nowhere = Socket { netns: None, ..socket() };
    for left in [1, 0] {
        assert_eq!((tracker.leave(KEY, at(101), None, &nowhere).tracked.is_some(), tracker.len()), (true, left));
    }
}

#[test]
fn unknown_facts_of_one_source_come_from_the_other() {
    let mut tracker = tracker();
    let bare = Socket { unread_bytes: None, cookie: None, ..socket() };
    tracker.enter(KEY, at(100), &bare);
    tracker.present(KEY, at(101), older(50, 100), Socket { netns: None, ..socket() });
    let tracked = tracker.iter().next().expect("one is there");
    let found = tracked.socket();
    assert_eq!((found.unread_bytes, found.cookie), (Some(1), Some(7)));
    assert_eq!(found.netns, socket().netns);
    assert_eq!(tracked.since(), Since::Exact(at(100)));
}

#[test]
fn doublings_do_not_overflow() {
    let last = BootTime(u64::MAX);
    assert_eq!(next_doubling(BootTime(0), Duration::from_nanos(1), last), last);
    assert_eq!(next_doubling(last, Duration::MAX, last), last);
}

#[test]
fn a_scan_confirms_that_a_socket_without_an_address_is_unaccepted() {
    let ends = KeySecret::default().key(socket().netns, socket().local, socket().remote);
    let unaccepted = Socket { accepted: Some(false), inode: None, ..socket() };
    let reported = |complete: bool, by_inode: bool| {
        let mut tracker = tracker();
        tracker.present(ends, at(100), older(50, 98), unaccepted.clone());
        if by_inode {
            tracker.held_inode(7, owner("x", 1, 3));
        }
        tracker.owner_scan_ended(at(60_100), complete, |_socket| None);
        let forgotten = tracker.forget_stale_facts(at(60_100), at(60_099));
        let accepted = tracker.get(ends).unwrap().accepted();
        tracker.remember(forgotten);
        assert_eq!(tracker.get(ends).unwrap().accepted(), Some(false), "the facts are restored");
        accepted
    };
    assert_eq!(reported(true, false), Some(false));
    assert_eq!(reported(false, false), None, "the scan could not read all processes");
    assert_eq!(reported(true, true), None, "a scan by inodes cannot find it");
}
