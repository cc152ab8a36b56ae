//! Owners that have ended since the scan that found them.

use super::*;
use crate::{
    model::{InspectionFact, Task},
    process::{Architecture, Process, Syscall, Thread, ThreadState, group},
    testing::{owner, process},
    text::Comm,
};

/// Time of the scan for owners, in milliseconds.
const SCANNED: u64 = 10_000;

/// Returns the owners with which the socket is reported: these processes have it, and the inspection finds these facts.
fn owners(pids: &[u32], facts: Vec<InspectionFact>) -> Vec<u32> {
    let mut engine = engine(Events::Stuck);
    engine.handle(enter(0));
    engine.handle_timeout(at(SCANNED));
    engine.handle(RefreshFact::Present { key: KEY, at: at(SCANNED), since: None, socket: socket() });
    engine.handle(RefreshEnd::Inspection { at: at(SCANNED), lingering: true });
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

/// Returns the text about a child that hangs with eight sockets, after its parent has closed four others of the port at second 9: by its end,
/// or while it continues.
fn text_about_child(parent_ends: bool) -> String {
    const NOW: u64 = 11_000;
    const FUTEX: i32 = 202;
    let server = |number: u64| {
        let remote = Endpoint { port: 20_000 + number as u16, ..socket().remote };
        Socket { role: Some(Role::Server), cookie: Some(number), inode: Some(number), remote, ..socket() }
    };
    let mut engine = Engine::new(Config { reads_progress: true, ..config(Events::Stuck) }, at(0));
    for number in 1..=12 {
        engine.handle(SocketEvent::Enter { key: SocketKey(number), at: at(500 * number), socket: server(number) });
    }
    (7000..=9000).step_by(500).for_each(|millis| engine.handle_timeout(at(millis)));
    for number in 9..=12 {
        engine.handle(SocketEvent::Leave {
            key: SocketKey(number),
            at: at(9000 + number),
            entered: Some(at(500 * number)),
            socket: server(number),
            how: ExitCause::Closed,
            closer: Some(Task { pid: 10, comm: Comm::from_name(b"server") }),
            fd_open: Some(false),
            wrote: None,
            ended: Some(parent_ends),
        });
    }
    (9500..=NOW).step_by(500).for_each(|millis| engine.handle_timeout(at(millis)));
    engine.handle(RefreshEnd::Inspection { at: at(NOW), lingering: true });
    for number in 1..=8 {
        let owner = owner("server", 11, number as u32);
        engine.handle(ScanFact::Descriptor { key: SocketKey(number), at: Some(at(NOW)), inode: number, owner });
    }
    engine.handle(ScanEnd::Descriptors { began: at(NOW), blind: None, saw_listeners: true });
    let waiting = Thread {
        comm: Comm::from_name(b"server"),
        state: ThreadState::Sleeping,
        syscall: Some(Syscall::new(Architecture::X86_64, FUTEX)),
        arg: Some(7),
        limit: None,
        wchan: None,
        cpu_permille: None,
        wanted_permille: None,
        main: false,
    };
    let groups = group(&vec![waiting; 8]);
    let child = Process { threads: Some(8), threads_seen: 8, groups, ..process("server", 11, None) };
    engine.handle(InspectionFact::Process { at: at(NOW), process: Box::new(child) });
    engine.handle(InspectionFact::ConnectionsRead { pid: 11, at: at(NOW) });
    engine.handle(InspectionEnd::Owners { at: at(NOW + 10), worked: Duration::ZERO });
    let groups = engine.report(at(NOW + 20)).groups;
    assert_eq!(groups.len(), 1, "{groups:?}");
    groups[0].pileup.verdict.text.clone()
}

#[test]
fn a_parent_that_ends_with_its_sockets_says_nothing_about_a_child_that_hangs() {
    let text = text_about_child(true);
    assert!(text.contains("server[11] has served no other connection") && !text.contains("other sockets"), "{text}");
    let text = text_about_child(false);
    assert!(text.contains("it ended 4 other sockets"), "{text}");
}

#[test]
fn a_socket_whose_connection_ends_between_two_parts_of_a_scan_is_listed_once() {
    let of_ends = SocketKey(5);
    for (found_by, watching) in [(of_ends, false), (KEY, false), (KEY, true)] {
        let mut engine = Engine::new(Config { watching, ..config(Events::Stuck) }, at(0));
        let socket = Socket { inode: Some(7), ..socket() };
        let since = Since::Between { earliest: None, latest: at(1_000) };
        engine.handle(ScanFact::Present { key: of_ends, at: at(SCANNED), since, socket: socket.clone() });
        let (how, owner) = (ExitCause::Reset, owner("app", 7, 3));
        engine.handle(ScanFact::Lingering { key: found_by, at: at(SCANNED + 1), socket: socket.clone(), how, owner });
        let view = engine.view(at(SCANNED + 2));
        let rows: Vec<bool> = view.rows.iter().map(|row| row.gone.is_some()).collect();
        assert_eq!(rows, if watching { vec![false, true] } else { vec![true] }, "{found_by:?}");
        // Another socket with these ends, which entered later, stays.
        let later = Since::Between { earliest: None, latest: at(SCANNED + 3) };
        engine.handle(ScanFact::Present { key: of_ends, at: at(SCANNED + 4), since: later, socket });
        assert!(engine.view(at(SCANNED + 5)).rows.iter().any(|row| row.gone.is_none()));
    }
}
