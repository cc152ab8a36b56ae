use std::{
    collections::{BTreeMap, BTreeSet},
    net::Ipv4Addr,
    time::Duration,
};

use proptest::{collection::vec, prelude::*};

use super::*;
use crate::{
    model::{Endpoint, Owner, Protocol, Role, Timer, TimerKind},
    text::Comm,
};

impl Sockets {
    /// Panics if the redundant parts of the table contradict each other, or if something is left of a socket that is gone.
    pub(crate) fn check(&self) {
        let ids: Vec<u32> = self.slab.ids().collect();
        assert_eq!((ids.len(), self.table.len()), (self.len(), self.len()), "numbers");
        let scheduled: Vec<u32> = self.schedule.iter(&self.slab).collect();
        assert_eq!(scheduled.iter().copied().collect::<BTreeSet<_>>(), ids.iter().copied().collect(), "schedule");
        assert!(scheduled.is_sorted_by_key(|id| (self.view(*id).due(), self.view(*id).key())), "schedule");
        assert_eq!(scheduled.len(), ids.len(), "schedule");
        let (mut sites, mut addresses, mut tasks) = (BTreeSet::new(), BTreeSet::new(), BTreeSet::new());
        let (mut reported, mut wide, mut earliest, mut openers) = (0, 0, 0, 0);
        for id in ids {
            let (packed, view) = (self.slab.get(id), self.view(id));
            assert_eq!(self.id(packed.key), Some(id), "{view:?}");
            reported += usize::from(view.is_reported());
            if packed.is_wide() {
                assert_eq!(self.wide[&packed.key].due, packed.due);
                wide += 1;
                continue;
            }
            earliest += usize::from(packed.has_earliest());
            openers += usize::from(packed.has_opener());
            let [site, address, task] = packed.interned();
            sites.extend(site);
            addresses.extend(address);
            tasks.extend(task);
        }
        assert_eq!(self.reported, reported, "the number of reported sockets");
        assert_eq!((self.wide.len(), self.earliest.len(), self.openers.len()), (wide, earliest, openers), "parts");
        let Interned { sites: all_sites, addresses: all_addresses, tasks: all_tasks } = &self.interned;
        assert!(sites.iter().all(|id| all_sites.get(*id).is_some()), "a dangling number");
        assert!(addresses.iter().all(|id| all_addresses.get(*id).is_some()), "a dangling number");
        assert!(tasks.iter().all(|id| all_tasks.get(*id).is_some()), "a dangling number");
        let counts = (all_sites.len(), all_addresses.len(), all_tasks.len());
        assert_eq!(counts, (sites.len(), addresses.len(), tasks.len()), "values without a socket");
    }
}

/// Keys of a few sockets: kernel addresses and keys that are computed from endpoints.
fn key() -> impl Strategy<Value = SocketKey> {
    prop_oneof![(0..6_u64).prop_map(|key| SocketKey(1 << 63 | key)), (0..6_u64).prop_map(SocketKey)]
}

fn time() -> BoxedStrategy<BootTime> {
    // Most times lie on ticks before or after one moment.
    let ticks = |nanos: u64| (0..2000_u64).prop_map(move |ticks| BootTime(10_000_000_000_000 + ticks * nanos));
    prop_oneof![8 => ticks(4_000_000), 2 => ticks(3_333_333), 1 => any::<u64>().prop_map(BootTime)].boxed()
}

/// Counts at the limits of the packed form.
fn count() -> impl Strategy<Value = u64> {
    prop_oneof![
        0..5_u64,
        (0..5_u64).prop_map(|more| (1 << 32) - 2 + more),
        (0..5_u64).prop_map(|more| (1 << 40) - 2 + more)
    ]
}

fn endpoint() -> BoxedStrategy<Endpoint> {
    let v4 = (0..3_u32).prop_map(|last| Ipv4Addr::from_bits(last).into());
    let v6 = (0..3_u128).prop_map(|last| Ipv6Addr::from_bits(last << 64).into());
    (prop_oneof![3 => v4, 1 => v6], 0..3_u16).prop_map(|(address, port)| Endpoint { address, port }).boxed()
}

fn task() -> impl Strategy<Value = Task> {
    (1..3_u32, "[a-c]").prop_map(|(pid, comm)| Task { pid, comm: Comm::from_name(comm.as_bytes()) })
}

fn owners() -> BoxedStrategy<Vec<Owner>> {
    vec((task(), 3..5_u32).prop_map(|(task, fd)| Owner { task, fd }), 0..3).boxed()
}

fn socket() -> BoxedStrategy<Socket> {
    let role = proptest::option::of(prop_oneof![Just(Role::Server), Just(Role::Client)]);
    let kind = prop_oneof![Just(TimerKind::On), Just(TimerKind::Keepalive), Just(TimerKind::Persist)];
    let timer = (kind, time(), any::<u8>()).prop_map(|(kind, expires, retries)| Timer { kind, expires, retries });
    let opener = (task(), time()).prop_map(|(task, at)| Box::new(Opener { task, at }));
    let (number, flag) = (|| proptest::option::of(count()), || proptest::option::of(any::<bool>()));
    let times = [(); 3].map(|()| proptest::option::of(time()));
    let counts = [(); 5].map(|()| number());
    let few = proptest::option::of(0..3_u32);
    let others = (few, any::<bool>(), endpoint(), endpoint(), role, proptest::option::of(0..3_u64), flag(), flag());
    let rare = (proptest::option::of(timer), proptest::option::weighted(0.2, opener));
    let all = (counts, times, others, rare, proptest::option::of(any::<u32>())).prop_map(
        |(counts, times, others, rare, queue)| {
            let (netns, is_mptcp, local, remote, role, cgroup, accepted, keepalive) = others;
            let [cookie, inode, received_bytes, sent_bytes, acked_bytes] = counts;
            let [last_received, last_ack, last_sent] = times;
            let ((timer, opener), protocol) = (rare, if is_mptcp { Protocol::Mptcp } else { Protocol::Tcp });
            Socket {
                cookie,
                netns,
                protocol,
                local,
                remote,
                role,
                inode,
                cgroup,
                accepted,
                unread_bytes: queue,
                received_bytes,
                sent_bytes,
                keepalive,
                acked_bytes,
                send_queue_bytes: queue.map(|bytes| bytes / 2),
                last_received,
                last_ack,
                last_sent,
                timer,
                opener,
            }
        },
    );
    all.boxed()
}

fn tracked() -> BoxedStrategy<TrackedSocket> {
    let between = (proptest::option::of(time()), time());
    let since = prop_oneof![
        time().prop_map(Since::Exact),
        between.prop_map(|(earliest, latest)| Since::Between { earliest, latest })
    ];
    let times = (since, time(), time(), time(), proptest::option::of(time()));
    let all = (socket(), times, any::<bool>(), proptest::option::of(owners()), owners()).prop_map(
        |(socket, (since, seen, due, touched, refreshed), reported, owners, found)| TrackedSocket {
            socket,
            since,
            seen,
            due,
            reported,
            refreshed,
            owners,
            found,
            touched,
        },
    );
    all.boxed()
}

#[derive(Clone, Debug)]
enum Step {
    /// A socket enters, perhaps at the address of another one.
    Insert(SocketKey, Box<TrackedSocket>),
    Remove(SocketKey),
    Delete(SocketKey),
    Refresh(SocketKey, Box<Socket>, BootTime),
    /// A refresh finds the facts of the one before.
    Unchanged(SocketKey, BootTime),
    Own(SocketKey, Option<Vec<Owner>>, Vec<Owner>),
    Report(SocketKey, BootTime),
    /// A later time of the clock for all sockets.
    Shift(u32),
    /// A change that changes nothing.
    Keep(SocketKey),
    Checkpoint,
    MoveTogether,
}

fn step() -> BoxedStrategy<Step> {
    prop_oneof![
        12 => (key(), tracked()).prop_map(|(key, one)| Step::Insert(key, Box::new(one))),
        3 => key().prop_map(Step::Remove),
        3 => key().prop_map(Step::Delete),
        6 => (key(), socket(), time()).prop_map(|(key, one, at)| Step::Refresh(key, Box::new(one), at)),
        6 => (key(), time()).prop_map(|(key, at)| Step::Unchanged(key, at)),
        6 => (key(), proptest::option::of(owners()), owners()).prop_map(|(key, is, found)| Step::Own(key, is, found)),
        4 => (key(), time()).prop_map(|(key, at)| Step::Report(key, at)),
        1 => any::<u32>().prop_map(Step::Shift),
        2 => key().prop_map(Step::Keep),
        2 => Just(Step::Checkpoint),
        1 => Just(Step::MoveTogether),
    ]
    .boxed()
}

/// Sockets as they are.
type Model = BTreeMap<SocketKey, TrackedSocket>;

/// Changes a socket in the table and in the model.
fn change(sockets: &mut Sockets, model: &mut Model, key: SocketKey, change: impl Fn(&mut TrackedSocket)) {
    let done = sockets.change(key, &change).is_some();
    assert_eq!(done, model.get_mut(&key).map(change).is_some(), "{key:?}");
}

fn compare(sockets: &Sockets, model: &Model) {
    sockets.check();
    assert_eq!(sockets.len(), model.len());
    let mut scheduled: Vec<_> = model.iter().map(|(key, one)| (one.due, *key)).collect();
    scheduled.sort_unstable();
    assert!(sockets.iter().map(|one| (one.due(), one.key())).eq(scheduled.iter().copied()));
    assert_eq!(sockets.first().map(SocketView::key), scheduled.first().map(|(_, key)| *key));
    for (key, expected) in model {
        let view = sockets.get(*key).unwrap();
        assert_eq!(view.to_tracked(), *expected);
        let TrackedSocket { socket, since, seen, due, reported, refreshed, owners, found: _, touched } = expected;
        assert_eq!((view.since(), view.seen(), view.due(), view.touched()), (*since, *seen, *due, *touched));
        assert_eq!((view.is_reported(), view.refreshed(), view.latest()), (*reported, *refreshed, since.latest()));
        assert_eq!(view.owners().as_deref(), owners.as_deref());
        let is_unheld = owners.as_ref().is_some_and(Vec::is_empty);
        assert_eq!((view.is_scanned(), view.is_unheld()), (owners.is_some(), is_unheld));
        let facts = (view.netns(), view.cgroup(), view.inode(), view.accepted(), view.role(), view.protocol());
        let Socket { netns, cgroup, inode, accepted, role, protocol, .. } = *socket;
        assert_eq!(facts, (netns, cgroup, inode, accepted, role, protocol));
        assert_eq!((view.ends(), view.sent_bytes()), ((socket.local, socket.remote), socket.sent_bytes));
        assert_eq!((view.opener(), view.socket()), (socket.opener.clone(), socket.clone()));
    }
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    /// Compares the table with sockets that are stored as they are, in the order of an ordered set.
    #[test]
    fn the_table_loses_nothing(steps in vec(step(), 1..60)) {
        let (mut sockets, mut model) = (Sockets::default(), Model::new());
        let mut checkpoints = Vec::new();
        for step in steps {
            match step {
                Step::Insert(key, one) => {
                    sockets.insert(key, &one);
                    model.insert(key, *one);
                }
                Step::Remove(key) => prop_assert_eq!(sockets.remove(key), model.remove(&key)),
                Step::Delete(key) => {
                    if let Some(id) = sockets.id(key) {
                        sockets.delete(id);
                    }
                    model.remove(&key);
                }
                Step::Refresh(key, fresh, at) => change(&mut sockets, &mut model, key, |one| {
                    one.renew(&fresh, at);
                    one.refreshed = Some(at);
                    one.seen = one.seen.max(at);
                }),
                Step::Unchanged(key, at) => {
                    sockets.unchanged(key, at);
                    if let Some(one) = model.get_mut(&key)
                        && one.refreshed.is_some_and(|refreshed| refreshed < at)
                    {
                        (one.refreshed, one.seen) = (Some(at), one.seen.max(at));
                    }
                }
                Step::Own(key, owners, found) => change(&mut sockets, &mut model, key, |one| {
                    (one.owners, one.found) = (owners.clone(), found.clone());
                }),
                Step::Report(key, at) => change(&mut sockets, &mut model, key, |one| {
                    (one.reported, one.due) = (true, at);
                }),
                Step::Shift(by) => {
                    for key in sockets.keys() {
                        change(&mut sockets, &mut model, key, |one| {
                            one.due = one.due + Duration::from_nanos(by.into());
                        });
                    }
                }
                Step::Keep(key) => {
                    // A form in which `unchanged` has only moved the times may have an equal one that packing prefers.
                    change(&mut sockets, &mut model, key, |_one| {});
                    let before = sockets.id(key).map(|id| std::ptr::from_ref(sockets.slab.get(id)));
                    let shared = sockets.clone();
                    change(&mut sockets, &mut model, key, |_one| {});
                    let after = sockets.id(key).map(|id| std::ptr::from_ref(sockets.slab.get(id)));
                    prop_assert_eq!(before, after, "nothing is copied");
                    drop(shared);
                }
                Step::Checkpoint => checkpoints.push((sockets.clone(), model.clone())),
                Step::MoveTogether => sockets.move_together(),
            }
            compare(&sockets, &model);
        }
        for (sockets, model) in &checkpoints {
            compare(sockets, model);
            let bytes = rmp_serde::to_vec_named(sockets).unwrap();
            prop_assert_eq!(&bytes, &rmp_serde::to_vec_named(&model.iter().collect::<Vec<_>>()).unwrap());
            let restored: Sockets = rmp_serde::from_slice(&bytes).unwrap();
            compare(&restored, model);
        }
        for key in sockets.keys() {
            sockets.delete(sockets.id(key).unwrap());
        }
        compare(&sockets, &Model::new());
    }
}

#[test]
fn sockets_that_most_hosts_have_fit() {
    let at = |millis: u64| BootTime(1_000_000_000_007 + millis * 1_000_000);
    let socket = Socket { timer: None, opener: None, ..crate::testing::socket() };
    let socket = Socket { last_received: Some(at(4)), last_ack: Some(at(0)), last_sent: Some(at(8)), ..socket };
    let mut one = TrackedSocket::new(socket, Since::Exact(at(9)), at(12_000), Duration::from_secs(60));
    one.owners = Some(vec![crate::testing::owner("app", 7, 3)]);
    one.found = one.owners.clone().unwrap();
    let sockets = Sockets::of([(1 << 63, one.clone())]);
    assert!(sockets.wide.is_empty() && sockets.earliest.is_empty());
    one.since = Since::Between { earliest: Some(at(1)), latest: at(9) };
    let sockets = Sockets::of([(1 << 63, one)]);
    assert!(sockets.wide.is_empty() && sockets.earliest.len() == 1);
}

#[test]
fn an_unchanged_socket_still_fits() {
    let at = |millis: u64| BootTime(1_000_000_000_007 + millis * 1_000_000);
    let timer = Some(Timer { kind: TimerKind::Keepalive, expires: at(19_000), retries: 0 });
    let socket = Socket { timer, opener: None, ..crate::testing::socket() };
    let socket = Socket { last_received: Some(at(4)), last_ack: Some(at(0)), last_sent: Some(at(8)), ..socket };
    let mut one = TrackedSocket::new(socket, Since::Exact(at(9)), at(12_000), Duration::from_secs(60));
    one.refreshed = Some(at(12_000));
    let key = SocketKey(1 << 63);
    let mut sockets = Sockets::of([(key.0, one.clone())]);
    // An hour later, between two ticks.
    let later = BootTime(at(3_600_000).0 + 123_456);
    sockets.unchanged(key, later);
    (one.refreshed, one.seen) = (Some(later), later);
    for _ in 0..2 {
        assert_eq!(sockets.get(key).unwrap().to_tracked(), one);
        assert!(sockets.wide.is_empty());
        // Packs it again.
        sockets.change(key, |one| one.reported = true);
        one.reported = true;
    }
    sockets.unchanged(key, at(13_000));
    assert_eq!(sockets.get(key).unwrap().to_tracked(), one, "an earlier time");
    sockets.check();
}

#[test]
fn few_sockets_after_many_take_little_memory() {
    let one = |number| {
        TrackedSocket::new(crate::testing::socket(), Since::Exact(BootTime(number)), BootTime(number), Duration::ZERO)
    };
    let mut sockets = Sockets::of((0..100_000).map(|number| (number, one(number))));
    for number in (0..100_000).filter(|number| number % 1000 > 0) {
        sockets.delete(sockets.id(SocketKey(number)).unwrap());
        sockets.shrink();
    }
    assert!(sockets.capacity() < 8 * SMALL, "{}", sockets.capacity());
    assert!(sockets.iter().map(|one| one.key().0).eq((0..100).map(|number| number * 1000)));
    sockets.check();
}
