//! Sockets whose connections the peers ended while the program, stuck as before, still has the descriptors: keepalive does that.

use super::*;
use crate::{
    model::{Certainty, Pileup, RuleName},
    testing::owner,
};

const COUNT: u64 = 12;
/// Owner of all sockets.
const PID: u32 = 7;

fn key(number: u64) -> SocketKey {
    SocketKey(KEY.0 + number)
}

fn one(number: u64) -> Socket {
    Socket { inode: Some(100 + number), role: Some(Role::Server), accepted: Some(true), ..socket_on_port(80) }
}

fn exit(number: u64, millis: u64, how: ExitCause, wrote: Option<bool>) -> SocketEvent {
    SocketEvent::Leave {
        key: key(number),
        at: at(millis),
        entered: Some(at(1000 * number)),
        socket: one(number),
        how,
        closer: None,
        fd_open: Some(true),
        wrote,
        ended: None,
    }
}

/// Returns an engine with sockets of one owner that entered a second apart.
fn stuck_sockets() -> Engine {
    stuck_sockets_of(engine(Events::Stuck))
}

fn stuck_sockets_of(mut engine: Engine) -> Engine {
    for number in 0..COUNT {
        engine.handle(SocketEvent::Enter { key: key(number), at: at(1000 * number), socket: one(number) });
    }
    for number in 0..COUNT {
        let (inode, owner) = (100 + number, owner("app", PID, 9));
        engine.handle(ScanFact::Descriptor { key: key(number), at: Some(at(12_000)), inode, owner });
    }
    engine.handle(ScanEnd::Descriptors { began: at(12_000), blind: None, saw_listeners: true });
    engine
}

/// Lets the engine refresh the descriptors at `millis`; those of the sockets in `open` are still open.
fn refresh(engine: &mut Engine, millis: u64, open: std::ops::Range<u64>) {
    engine.handle_timeout(at(millis));
    for number in open {
        let (key, at, socket) = (key(number), at(millis), one(number));
        engine.handle(RefreshFact::Lingering { key, at, socket: socket.clone() });
        engine.handle(ScanFact::Lingering { key, at, socket, how: ExitCause::Timeout, owner: owner("app", PID, 9) });
    }
    answer(engine, millis);
    let _outputs = outputs(engine);
}

fn groups(engine: &Engine, millis: u64) -> Vec<Pileup> {
    engine.report(at(millis)).groups.into_iter().map(|group| group.pileup).collect()
}

fn judged(pileup: &Pileup) -> (Class, RuleName, Certainty) {
    (pileup.verdict.class, pileup.verdict.rule, pileup.verdict.certainty)
}

#[test]
fn they_stay_in_their_group_until_their_descriptors_are_closed() {
    let mut engine = stuck_sockets();
    let present = groups(&engine, 80_000);
    assert_eq!((present.len(), present[0].count, present[0].ended), (1, COUNT, 0));
    for number in 0..COUNT {
        engine.handle(exit(number, 80_000, ExitCause::Timeout, None));
    }
    assert!(groups(&engine, 80_500).is_empty(), "it is unknown whether the program closes them at once");
    refresh(&mut engine, 81_000, 0..COUNT);
    let after = groups(&engine, 81_000);
    assert_eq!((after.len(), after[0].count, after[0].ended, after[0].in_close_wait()), (1, COUNT, COUNT, 0));
    assert_eq!(judged(&after[0]), judged(&present[0]));
    assert_eq!(after[0].onset.first_stuck, at(0));
    assert_eq!(after[0].owners.as_deref().map(|owners| owners[0].1), Some(COUNT as u32));
    let rows: Vec<_> = engine.select(at(81_000), &snapshot::query::EVERYTHING).collect();
    assert!(rows.iter().all(|row| row.gone.is_some() && row.verdict.rule == after[0].verdict.rule));

    let closes = |engine: &Engine| {
        let flow = engine.flows.as_ref().and_then(|flows| flows.flow(engine.flow_of(&one(0)), None, at(90_000)));
        flow.map(|flow| (flow.old_entered, flow.old_present, flow.closed, flow.last_closed)).unwrap()
    };
    refresh(&mut engine, 84_000, 0..2);
    assert_eq!(groups(&engine, 84_000)[0].count, 2);
    assert_eq!(
        closes(&engine),
        (COUNT, 2, COUNT - 2, Some(at(81_000))),
        "the program, which has others open, closed them"
    );
    refresh(&mut engine, 90_000, 0..0);
    assert!(groups(&engine, 90_000).is_empty());
    assert_eq!(closes(&engine), (COUNT, 0, COUNT - 2, Some(at(81_000))), "the program may have ended");
}

#[test]
fn their_owners_are_inspected_as_those_of_stuck_sockets() {
    let mut engine = stuck_sockets_of(Engine::new(Config { reads_progress: true, ..config(Events::Stuck) }, at(0)));
    (0..COUNT).for_each(|number| engine.handle(exit(number, 80_000, ExitCause::Timeout, None)));
    let mut inspected = Vec::new();
    for second in 81..400 {
        engine.handle_timeout(at(second * 1000));
        let mut refreshes = false;
        for output in outputs(&mut engine) {
            refreshes |= matches!(output, Output::Refresh(_));
            if let Output::RefreshLingering(keys) = output {
                let found = |key| RefreshFact::Lingering { key, at: at(second * 1000), socket: one(key.0 - KEY.0) };
                keys.into_iter().for_each(|key| engine.handle(found(key)));
            }
        }
        if !refreshes {
            continue;
        }
        let (at, inode, owner) = (at(second * 1000), 100, owner("app", PID, 9));
        engine.handle(RefreshEnd::Inspection { at, lingering: true });
        for number in 0..COUNT {
            let (key, owner, socket) = (key(number), owner.clone(), one(number));
            engine.handle(ScanFact::Lingering { key, at, socket, how: ExitCause::Timeout, owner });
        }
        engine.handle(ScanFact::InodeDescriptor { inode, owner });
        engine.handle(ScanEnd::Descriptors { began: at, blind: None, saw_listeners: true });
        for output in outputs(&mut engine) {
            if let Output::InspectOwners(request) = output {
                inspected.push((second, request.processes.contains(&PID)));
            }
        }
        engine.handle(InspectionEnd::Owners { at, worked: Duration::ZERO });
    }
    assert!(inspected.iter().all(|(_, reads_it)| *reads_it), "{inspected:?}");
    let gaps = inspected.windows(2).map(|pair| pair[1].0 - pair[0].0);
    assert!(inspected.last().is_some_and(|(last, _)| *last > 390) && gaps.max() <= Some(6), "{inspected:?}");
}

#[test]
fn a_socket_that_was_answered_or_ended_by_its_program_is_none() {
    for (how, wrote) in [(ExitCause::Reset, Some(true)), (ExitCause::Shutdown, None), (ExitCause::Destroyed, None)] {
        let mut engine = stuck_sockets();
        (0..COUNT).for_each(|number| engine.handle(exit(number, 80_000, how, wrote)));
        refresh(&mut engine, 81_000, 0..COUNT);
        assert!(groups(&engine, 81_000).is_empty(), "{how:?}");
        assert_eq!(engine.totals().fd_open, COUNT);
        refresh(&mut engine, 141_000, 0..COUNT);
        let later = groups(&engine, 141_000).first().map(|group| (group.count, group.ended));
        assert_eq!(later, (how == ExitCause::Reset).then_some((COUNT, COUNT)), "it has sent something, and is stuck");
    }
}

#[test]
fn the_group_remains_when_new_sockets_enter() {
    let mut engine = stuck_sockets();
    (0..COUNT).for_each(|number| engine.handle(exit(number, 80_000, ExitCause::Reset, None)));
    refresh(&mut engine, 81_000, 0..COUNT);
    let number = 90;
    engine.handle(SocketEvent::Enter { key: key(number), at: at(90_000), socket: one(number) });
    let (inode, owner) = (100 + number, owner("app", PID, 9));
    engine.handle(ScanFact::Descriptor { key: key(number), at: Some(at(91_000)), inode, owner });
    engine.handle(ScanEnd::Descriptors { began: at(91_000), blind: None, saw_listeners: true });
    let groups = groups(&engine, 91_000);
    assert_eq!((groups.len(), groups[0].count, groups[0].ended), (1, COUNT + 1, COUNT));
}
