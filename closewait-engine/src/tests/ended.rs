//! Owners that have ended since the scan that found them.

use super::*;
use crate::{
    model::InspectionFact,
    testing::{owner, process},
};

/// Time of the scan for owners, in milliseconds.
const SCANNED: u64 = 10_000;

/// Returns the owners with which the socket is reported: these processes have it, and the inspection finds these facts.
fn owners(pids: &[u32], facts: Vec<InspectionFact>) -> Vec<u32> {
    let mut engine = engine(Events::Stuck);
    engine.handle(enter(0));
    engine.handle_timeout(at(SCANNED));
    engine.handle(RefreshFact::Present { key: KEY, at: at(SCANNED), since: None, socket: socket() });
    engine.handle(RefreshEnd::Inspection { at: at(SCANNED) });
    for pid in pids {
        let (at, inode, owner) = (at(SCANNED), socket().inode.unwrap_or_default(), owner("app", *pid, 7));
        engine.handle(ScanFact::Descriptor { key: KEY, at: Some(at), inode, owner });
    }
    engine.handle(ScanEnd::Descriptors { began: at(SCANNED), blind: None, saw_listeners: true });
    facts.into_iter().for_each(|fact| engine.handle(fact));
    engine.handle(InspectionEnd::Owners { at: at(SCANNED + 10), worked: Duration::ZERO });
    let of = |output| if let Output::Finding(Finding::Stuck { owners, .. }) = output { owners } else { None };
    let owners = outputs(&mut engine).into_iter().find_map(of).expect("owners in a report");
    owners.iter().map(|owner| owner.task.pid).collect()
}

fn read(pid: u32) -> InspectionFact {
    InspectionFact::Process { at: at(SCANNED + 5), process: Box::new(process("app", pid, None)) }
}

#[test]
fn a_process_that_has_ended_owns_nothing_any_more() {
    assert_eq!(owners(&[6, 7], vec![InspectionFact::Ended { pid: 6 }, read(7)]), [7]);
    assert_eq!(owners(&[6, 7], vec![read(6), read(7)]), [6, 7]);
    assert_eq!(owners(&[6, 7], vec![read(7)]), [6, 7], "a process that was not read may still be there");
}

#[test]
fn the_only_owner_remains_until_the_next_scan() {
    assert_eq!(owners(&[8], vec![InspectionFact::Ended { pid: 8 }]), [8], "that scan finds who has the socket now");
}
