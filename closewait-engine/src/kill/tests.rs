use std::net::Ipv4Addr;

use super::*;
use crate::{
    model::{Certainty, Class, ExitCause},
    testing::{socket, verdict},
};

const NOW: BootTime = BootTime(3_600_000_000_000);

const fn secs(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

/// Returns a socket that a program owns and has not written to, in CLOSE_WAIT for `dwell`.
fn selected(dwell: Dwell) -> Selected {
    let (socket, verdict) = (socket(), verdict(Class::Leak, Certainty::High));
    Selected { at: NOW, socket, dwell: Some(dwell), gone: None, owners: None, verdict }
}

fn seen_entering(seconds: u64) -> Selected {
    selected(Dwell::Exact(secs(seconds)))
}

fn older_than_the_agent() -> Selected {
    selected(Dwell::Between { at_least: secs(60), at_most: Some(secs(900)) })
}

/// Returns the kernel's facts about the selected socket.
fn facts() -> CurrentSocket {
    let Socket { local, remote, .. } = socket();
    let sent = Sent { bytes: 0, ago: secs(900), received_ago: secs(900) };
    CurrentSocket {
        state: state::CLOSE_WAIT,
        local,
        remote,
        cookie: 7,
        inode: 99,
        interface: 0,
        send_queue_bytes: 0,
        timer: None,
        sent: Some(sent),
    }
}

fn sent(ago: Duration, received_ago: Duration) -> CurrentSocket {
    CurrentSocket { sent: Some(Sent { bytes: 100, ago, received_ago }), ..facts() }
}

fn plan_with(selected: &Selected, facts: CurrentSocket) -> Result<Target, Refusal> {
    let target = identify(selected, std::slice::from_ref(&facts))?;
    target.check(&facts, NOW).map(|()| target)
}

#[test]
fn an_unchanged_silent_socket_may_be_destroyed() {
    let target = plan_with(&seen_entering(90), facts()).unwrap();
    assert_eq!((target.netns, target.cookie, target.inode), (4_026_531_840, 7, 99));
    assert_eq!(target.entered, Some(NOW - secs(90)));
    assert_eq!(plan_with(&older_than_the_agent(), facts()).unwrap().entered, None, "a bound is no entry time");
}

#[test]
fn ended_unaccepted_and_mptcp_sockets_are_refused() {
    let gone = Exit { at: NOW, seen: true, how: ExitCause::Destroyed, closer: None, dwell: None };
    let left = Selected { gone: Some(gone), ..seen_entering(90) };
    assert_eq!(plan_with(&left, facts()), Err(Refusal::Left));

    let mut waits = seen_entering(90);
    (waits.socket.accepted, waits.socket.inode) = (Some(false), None);
    assert_eq!(plan_with(&waits, facts()), Err(Refusal::NeverAccepted), "for any facts of the kernel");
    (waits.socket.accepted, waits.socket.inode) = (None, None);
    assert_eq!(plan_with(&waits, CurrentSocket { inode: 0, ..facts() }), Err(Refusal::NeverAccepted));

    let mut mptcp = seen_entering(90);
    mptcp.socket.protocol = Protocol::Mptcp;
    assert_eq!(plan_with(&mptcp, facts()), Err(Refusal::Mptcp));
}

#[test]
fn the_cookie_or_the_inode_has_to_match() {
    let mut old_kernel = seen_entering(90);
    old_kernel.socket.cookie = None;
    assert_eq!(plan_with(&old_kernel, facts()).unwrap().cookie, 7, "the cookie that the query created");
    assert_eq!(plan_with(&old_kernel, CurrentSocket { inode: 98, ..facts() }), Err(Refusal::Replaced));
    old_kernel.socket.inode = None;
    assert_eq!(plan_with(&old_kernel, facts()), Err(Refusal::Unidentified));
    let mut nowhere = seen_entering(90);
    nowhere.socket.netns = None;
    assert_eq!(plan_with(&nowhere, facts()), Err(Refusal::Unidentified));
}

#[test]
fn sockets_that_exited_or_were_replaced_since_the_list_are_refused() {
    assert_eq!(identify(&seen_entering(90), &[]), Err(Refusal::Gone));
    for other in [CurrentSocket { cookie: 8, ..facts() }, CurrentSocket { inode: 98, ..facts() }] {
        assert_eq!(plan_with(&seen_entering(90), other), Err(Refusal::Replaced));
    }
    let two = [CurrentSocket { cookie: 8, interface: 2, ..facts() }, CurrentSocket { interface: 3, ..facts() }];
    assert_eq!(identify(&seen_entering(90), &two).unwrap().interface, 3, "one on each interface");
}

#[test]
fn any_difference_just_before_the_destruction_means_another_socket() {
    let target = plan_with(&seen_entering(90), facts()).unwrap();
    assert_eq!(target.check(&facts(), NOW), Ok(()));
    let elsewhere = Endpoint { address: Ipv4Addr::LOCALHOST.into(), port: 1 };
    for other in [
        CurrentSocket { cookie: 8, ..facts() },
        CurrentSocket { inode: 98, ..facts() },
        CurrentSocket { interface: 1, ..facts() },
        CurrentSocket { local: elsewhere, ..facts() },
        CurrentSocket { remote: elsewhere, ..facts() },
    ] {
        assert_eq!(target.check(&other, NOW), Err(Refusal::Replaced), "{other:?}");
    }
    for number in [state::ESTABLISHED, state::FIN_WAIT1, state::FIN_WAIT2, state::CLOSE, state::LAST_ACK] {
        assert_eq!(
            target.check(&CurrentSocket { state: number, ..facts() }, NOW),
            Err(Refusal::Gone),
            "state {number}"
        );
    }
    assert_eq!(target.check(&CurrentSocket { inode: 0, ..facts() }, NOW), Err(Refusal::NeverAccepted));
}

#[test]
fn unacknowledged_data_means_a_connection_in_use() {
    let check = |facts| plan_with(&seen_entering(90), facts).map(drop);
    assert_eq!(check(CurrentSocket { send_queue_bytes: 5, ..facts() }), Err(Refusal::Unacknowledged(5)));
    assert_eq!(check(CurrentSocket { timer: Some(TimerKind::On), ..facts() }), Err(Refusal::Sending));
    assert_eq!(check(CurrentSocket { timer: Some(TimerKind::Persist), ..facts() }), Err(Refusal::Sending));
    assert_eq!(check(CurrentSocket { timer: Some(TimerKind::Keepalive), ..facts() }), Ok(()));
    assert_eq!(
        check(CurrentSocket { sent: None, ..facts() }),
        Err(Refusal::SentUnknown),
        "an unknown fact is a reason to refuse"
    );
}

#[test]
fn a_peer_that_reads_by_the_verdict_keeps_its_connection() {
    let mut waits = seen_entering(90);
    waits.verdict.class = Class::HalfClose;
    assert_eq!(plan_with(&waits, facts()).map(drop), Err(Refusal::PeerReads));
    assert_eq!(
        plan_with(&waits, sent(secs(10), secs(2000))).map(drop),
        Err(Refusal::InUse(secs(10))),
        "the reason says more"
    );
}

#[test]
fn data_sent_after_a_known_fin_means_a_connection_in_use_until_it_is_silent() {
    let check = |age, ago| plan_with(&seen_entering(age), sent(ago, secs(2000))).map(drop);
    assert_eq!(check(900, secs(10)), Err(Refusal::InUse(secs(10))));
    assert_eq!(check(900, secs(299)), Err(Refusal::InUse(secs(299))));
    assert_eq!(check(900, secs(300)), Ok(()), "silent for as long as in the verdict");
    assert_eq!(check(90, secs(100)), Ok(()), "an answer before the FIN");
    assert_eq!(check(90, Duration::from_millis(89_990)), Ok(()), "an answer that crossed the FIN");
}

#[test]
fn the_age_of_a_known_fin_is_that_of_the_check() {
    let target = plan_with(&seen_entering(90), sent(secs(100), secs(200))).unwrap();
    let later = NOW + secs(60);
    assert_eq!(target.check(&sent(secs(160), secs(260)), later), Ok(()));
    assert_eq!(target.check(&sent(secs(5), secs(260)), later), Err(Refusal::InUse(secs(5))));
}

#[test]
fn with_an_unknown_fin_only_later_data_or_silence_allows_destruction() {
    let check = |ago, received_ago| plan_with(&older_than_the_agent(), sent(ago, received_ago)).map(drop);
    assert_eq!(check(secs(10), secs(60)), Err(Refusal::PerhapsInUse(secs(10))));
    assert_eq!(check(secs(61), secs(60)), Ok(()), "a request whose answer came after it");
    assert_eq!(check(secs(301), secs(400)), Ok(()));
}

#[test]
fn every_refusal_is_a_sentence() {
    for refusal in [
        Refusal::Left,
        Refusal::Mptcp,
        Refusal::NeverAccepted,
        Refusal::Unidentified,
        Refusal::Namespace("no".to_owned()),
        Refusal::Denied("no".to_owned()),
        Refusal::Gone,
        Refusal::Replaced,
        Refusal::Unacknowledged(3),
        Refusal::Sending,
        Refusal::InUse(secs(3)),
        Refusal::PerhapsInUse(secs(3)),
        Refusal::SentUnknown,
    ] {
        let text = refusal.to_string();
        assert!(text.contains(' ') && !text.contains("  ") && !text.ends_with('.'), "{text}");
    }
}

#[test]
fn a_socket_that_received_data_since_is_too_young() {
    let older = |seconds| Filter { older_than: Some(secs(seconds)), ..Filter::default() };
    let facts = sent(secs(900), secs(60));
    assert_eq!(check_age(&facts, &Filter::default()), Ok(()));
    assert_eq!(check_age(&facts, &older(60)), Ok(()), "the FIN can have come with the last data");
    assert_eq!(check_age(&facts, &older(61)), Err(Refusal::TooYoung(secs(60))));
    assert_eq!(check_age(&CurrentSocket { sent: None, ..facts.clone() }, &older(1)), Err(Refusal::SentUnknown));
}
