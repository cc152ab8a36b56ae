//! Descriptors that a process has only between `fork` and `exec`, or until it ends.

use super::*;
use crate::{
    model::InspectionFact,
    process::Process,
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

fn started(pid: u32, millis: u64) -> InspectionFact {
    let process = Process { started_ns: Some(at(millis).0), ..process("app", pid, None) };
    InspectionFact::Process { at: at(SCANNED + 5), process: Box::new(process) }
}

#[test]
fn a_child_that_has_just_started_has_a_copy_in_passing() {
    assert_eq!(owners(&[7, 8], vec![started(7, 0), started(8, SCANNED - 100)]), [7]);
    assert_eq!(owners(&[7, 8], vec![started(7, 0), started(8, SCANNED - 1000)]), [7, 8]);
    assert_eq!(owners(&[7, 8], vec![started(7, 0)]), [7, 8], "its start is unknown");
}

#[test]
fn a_process_that_has_ended_owns_nothing_any_more() {
    assert_eq!(owners(&[6, 7], vec![InspectionFact::Ended { pid: 6 }, started(7, 0)]), [7]);
}

#[test]
fn an_owner_remains_whatever_its_age() {
    assert_eq!(owners(&[8], vec![started(8, SCANNED - 100)]), [8], "a process for each connection");
    assert_eq!(owners(&[8], vec![InspectionFact::Ended { pid: 8 }]), [8], "the next scan finds who has it");
    assert_eq!(owners(&[7, 8], vec![started(7, SCANNED - 50), started(8, SCANNED - 40)]), [7, 8]);
}
