use std::{collections::BTreeSet, fs::File, os::fd::AsFd as _};

use super::*;

/// Offsets as on Linux 6.12, x86_64.
fn layout() -> Layout {
    Layout {
        sock_daddr: 0,
        sock_rcv_saddr: 4,
        sock_dport: 12,
        sock_family: 16,
        sock_state: 18,
        sock_net: 48,
        sock_v6_daddr: 56,
        sock_v6_rcv_saddr: 72,
        sock_cookie: 88,
        sock_flags: 96,
        sock_timer_expires: 432,
        sock_timer_pprev: 424,
        sock_protocol: 532,
        sock_max_ack_backlog: 568,
        sock_socket: 616,
        sock_cgroup: 672,
        inet_sport: 788,
        tcp_timeout: 1048,
        tcp_retransmits: 1180,
        tcp_pending: 1181,
        tcp_lrcvtime: 1204,
        tcp_probes_out: 1226,
        tcp_write_seq: 1464,
        tcp_rcv_nxt: 1560,
        tcp_snd_una: 1568,
        tcp_rcv_tstamp: 1604,
        tcp_bytes_received: 1640,
        tcp_copied_seq: 1500,
        tcp_bytes_sent: 1696,
        tcp_bytes_acked: 1720,
        tcp_lsndtime: 1456,
        ..Layout::NONE
    }
}

const ABILITIES: Abilities = Abilities { keepopen_bit: 9, done_bit: 1, ..Abilities::NONE };
/// Size of the memory of a socket.
const SIZE: usize = 2048;
const KEY: SocketKey = SocketKey(0xffff_8881_0203_0400);
const AT: BootTime = BootTime(1_000_000_000);

fn plan() -> CopyPlan {
    CopyPlan::new(&layout(), &ABILITIES).expect("a plan")
}

/// Memory of a TCP socket in CLOSE_WAIT.
fn memory() -> Vec<u8> {
    let mut memory: Vec<u8> = (0..SIZE).map(|at| (at * 7 % 251) as u8).collect();
    memory[18] = state::CLOSE_WAIT;
    memory[532..534].copy_from_slice(&IPPROTO_TCP.to_ne_bytes());
    memory
}

/// Copies the windows as the kernel program does.
fn copy(plan: &CopyPlan, memory: &[u8], to: &[AtomicU64]) {
    for Window { offset, words, to: first } in plan.windows {
        let from = memory[offset as usize..].as_chunks().0.iter();
        for (word, bytes) in to.iter().skip(first as usize).zip(from).take(words as usize) {
            word.store(u64::from_ne_bytes(*bytes), Ordering::Relaxed);
        }
    }
}

fn copy_of(plan: &CopyPlan, memory: &[u8]) -> Vec<AtomicU64> {
    let to: Vec<AtomicU64> = (0..WORDS).map(|_| AtomicU64::new(0)).collect();
    copy(plan, memory, &to);
    to
}

/// Copier with the memory of a map, which the function returns, too.
fn copier() -> (Copier, MappedArray) {
    let file = File::from(rustix::fs::memfd_create("closewait-batch", rustix::fs::MemfdFlags::CLOEXEC).unwrap());
    file.set_len(size_of::<CopyBatch>() as u64).unwrap();
    let mapping = || MappedArray::new(file.as_fd(), BATCH_WORDS).unwrap();
    (Copier::new(mapping(), plan()), mapping())
}

/// Copies one socket, whose memory is `socket`; `None` if the kernel could not read it.
fn copied((copier, map): &mut (Copier, MappedArray), socket: Option<&[u8]>, is_known: bool) -> Copied {
    let plan = copier.plan.clone();
    let run = |count| {
        let words = map.words();
        assert_eq!((count, words[ADDRESSES].load(Ordering::Relaxed)), (1, KEY.0));
        words[TIME].store(AT.0, Ordering::Relaxed);
        words[FAILED].store(u64::from(socket.is_none()), Ordering::Relaxed);
        copy(&plan, socket.unwrap_or(&[0; SIZE]), &words[COPIES..]);
        Ok(())
    };
    let mut result = None;
    let each = |key, copied, at| assert_eq!((key, at, result.replace(copied)), (KEY, AT, None));
    copier.copy(&[KEY], run, |key| key == KEY && is_known, each).unwrap();
    result.expect("one result")
}

#[test]
fn the_checksum_depends_on_the_bits_of_the_facts_and_on_no_others() {
    let (Copier { plan, keys, .. }, _map) = copier();
    let mut facts: BTreeSet<usize> = fields(&layout())
        .into_iter()
        .flat_map(|(offset, bytes, _)| offset as usize * 8..(offset as usize + bytes) * 8)
        .collect();
    facts.extend([96 * 8 + 1, 96 * 8 + 9]);
    let mut memory = memory();
    let to = copy_of(&plan, &memory);
    let before = plan.checksum(&keys, &to);
    for bit in 0..SIZE * 8 {
        let flip = 1 << (bit % 8);
        memory[bit / 8] ^= flip;
        copy(&plan, &memory, &to);
        memory[bit / 8] ^= flip;
        let after = plan.checksum(&keys, &to);
        assert_eq!(after != before, facts.contains(&bit), "bit {} of byte {}", bit % 8, bit / 8);
    }
    memory[424..432].fill(0);
    assert_ne!(plan.checksum(&keys, &copy_of(&plan, &memory)), before, "the timer does not run");
}

#[test]
fn every_copier_has_its_own_keys() {
    let ((one, _), (other, _)) = (copier(), copier());
    let copy = copy_of(&one.plan, &memory());
    assert_ne!(one.plan.checksum(&one.keys, &copy), other.plan.checksum(&other.keys, &copy));
    let distinct: BTreeSet<&u128> = one.keys.iter().chain(&other.keys).collect();
    assert_eq!(distinct.len(), one.keys.len() + other.keys.len());
}

#[test]
fn parts_lie_in_the_copy_one_behind_the_other() {
    let mut words = 0;
    for window in plan().windows.iter().filter(|window| window.words > 0) {
        assert_eq!(window.to, words);
        words += window.words;
    }
    assert!(words > 0 && words as usize <= WORDS, "{words} words");
}

#[test]
fn a_kernel_without_a_plan_has_no_copies() {
    let plan = |layout: Layout| CopyPlan::new(&layout, &ABILITIES);
    assert_eq!(plan(Layout { sock_state: MISSING, ..layout() }), None, "no identity");
    assert_eq!(plan(Layout { sock_timer_pprev: 425, ..layout() }), None, "in two words");
    assert_eq!(plan(Layout { sock_timer_pprev: layout().sock_net, ..layout() }), None, "in the word of another fact");
    assert!(plan(Layout { sock_timer_pprev: MISSING, tcp_lsndtime: MISSING, ..layout() }).is_some());
    // Each member in a part of its own.
    let (mut next, mut far) = (8192, layout());
    for offset in [
        &mut far.sock_family,
        &mut far.sock_dport,
        &mut far.sock_rcv_saddr,
        &mut far.sock_daddr,
        &mut far.sock_net,
        &mut far.tcp_timeout,
        &mut far.tcp_pending,
        &mut far.tcp_lsndtime,
        &mut far.sock_cookie,
        &mut far.tcp_rcv_nxt,
        &mut far.tcp_write_seq,
        &mut far.sock_cgroup,
        &mut far.tcp_snd_una,
        &mut far.tcp_rcv_tstamp,
        &mut far.tcp_bytes_received,
        &mut far.tcp_copied_seq,
        &mut far.tcp_bytes_sent,
    ] {
        next += 4096;
        *offset = next;
    }
    assert_eq!(plan(far), None, "too many parts");
}

#[test]
fn a_socket_is_unchanged_once_the_engine_has_its_facts() {
    let mut one = copier();
    let socket = memory();
    assert_eq!(copied(&mut one, Some(&socket), true), Copied::Changed, "the first copy");
    assert_eq!(copied(&mut one, Some(&socket), true), Copied::Changed, "its record was not handled yet");
    one.0.records_handled(|key, at| (key, at) == (KEY, AT));
    assert_eq!(copied(&mut one, Some(&socket), true), Copied::Unchanged);
    assert_eq!(copied(&mut one, Some(&socket), false), Copied::Changed, "the engine has forgotten the facts");
    let mut read = socket.clone();
    read[1500] += 1;
    assert_eq!(copied(&mut one, Some(&read), true), Copied::Changed);
    // The record was lost, or is about another socket than that of the engine.
    one.0.records_handled(|_, _| false);
    assert_eq!(copied(&mut one, Some(&read), true), Copied::Changed);
    one.0.records_handled(|_, _| true);
    assert_eq!(copied(&mut one, Some(&read), true), Copied::Unchanged);
}

#[test]
fn a_socket_that_left_or_that_no_copy_describes_is_not_unchanged() {
    let mut one = copier();
    let socket = memory();
    let keep = |one: &mut (Copier, MappedArray)| {
        copied(one, Some(&socket), true);
        one.0.records_handled(|_, _| true);
        assert_eq!(copied(one, Some(&socket), true), Copied::Unchanged);
    };
    keep(&mut one);
    assert_eq!(copied(&mut one, None, true), Copied::Changed, "only a read of its own can tell");
    let mut left = socket.clone();
    left[18] = state::LAST_ACK;
    assert_eq!(copied(&mut one, Some(&left), true), Copied::Gone);
    assert_eq!(copied(&mut one, Some(&socket), true), Copied::Changed, "another one with the same memory");
    keep(&mut one);
    let mut mptcp = socket.clone();
    mptcp[532..534].copy_from_slice(&closewait_common::tcp::IPPROTO_MPTCP.to_ne_bytes());
    for _ in 0..2 {
        assert_eq!(copied(&mut one, Some(&mptcp), true), Copied::Changed);
        one.0.records_handled(|_, _| true);
    }
}

#[test]
fn a_failed_run_changes_nothing() {
    let (mut copier, _map) = copier();
    let each = |_, _, _| panic!("no result");
    assert!(copier.copy(&[KEY], |_| Err(io::Error::other("no")), |_| true, each).is_err());
    assert!(copier.pending.is_empty() && copier.known.is_empty());
}

#[test]
fn checksums_of_sockets_that_are_gone_are_dropped() {
    let (mut copier, _map) = copier();
    for round in 0..8 {
        let keys = (0..MIN_LIMIT as u64).map(|key| SocketKey(round * MIN_LIMIT as u64 + key));
        copier.pending = keys.clone().map(|key| (key, 1, AT)).collect();
        copier.records_handled(|key, _| keys.clone().any(|one| one == key) || key == KEY);
        assert!(copier.known.len() <= 2 * MIN_LIMIT && copier.known.capacity() < 8 * MIN_LIMIT);
    }
    let kept = copier.known.len();
    copier.limit = 0;
    copier.records_handled(|_, _| false);
    assert_eq!((kept >= MIN_LIMIT, copier.known.len()), (true, 0));
}
