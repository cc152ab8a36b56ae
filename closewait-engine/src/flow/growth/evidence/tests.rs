//! A report of an incident describes one moment, however long the inspection before it took.

use super::*;
use crate::{
    Config,
    model::{
        Dwell, ExitCause, IncidentState, InspectionEnd, InspectionFact, RefreshEnd, ScanEnd, ScanFact, Socket,
        SocketEvent,
    },
    testing::{owner, process, socket_on_port},
};

/// Time between two entries, milliseconds.
const EVERY: u64 = 50;
/// Duration of the inspection of owners, milliseconds.
const INSPECTION: u64 = 700;
/// Time between the reading of the owner's descriptors and the end of the inspection, milliseconds.
const READ_BEFORE: u64 = 200;
/// Time between the end of the inspection and its arrival at the engine, milliseconds: newer records arrive first.
const LATE: u64 = 130;
/// Start of the hang, milliseconds.
const HANGS: u64 = 30_000;

fn at(millis: u64) -> BootTime {
    BootTime(millis * 1_000_000)
}

/// Plays a server that hangs. Returns its first incident with the time of the report.
fn first_incident() -> (BootTime, Pileup) {
    let mut engine = Engine::new(Config::default(), at(0));
    let (mut there, mut ends) = (Vec::new(), None);
    for now in 0..60_000 {
        if now % EVERY == 0 {
            let key = SocketKey((1 << 63) + now);
            let mut socket = Socket { inode: Some(now + 1), ..socket_on_port(80) };
            socket.remote.port = u16::try_from(10_000 + now / EVERY).unwrap();
            engine.handle(SocketEvent::Enter { key, at: at(now), socket: socket.clone() });
            if now < HANGS {
                let (entered, how) = (Some(at(now)), ExitCause::Closed);
                let (closer, fd_open, wrote, ended) = (None, Some(false), None, None);
                let at = at(now + 1);
                engine.handle(SocketEvent::Leave { key, at, entered, socket, how, closer, fd_open, wrote, ended });
            } else {
                there.push((key, now + 1));
            }
        }
        if ends.is_some_and(|ends| ends + LATE == now) {
            let end = now - LATE;
            let read = end - READ_BEFORE;
            let open = there.iter().filter(|(_, inode)| *inode <= read + 1).count() as u64;
            let process = Box::new(process("server", 7, Some((20 + open, 1024))));
            engine.handle(InspectionFact::Process { at: at(read), process });
            engine.handle(InspectionEnd::Owners { at: at(end), worked: Duration::ZERO });
            ends = None;
        }
        engine.handle_timeout(at(now));
        while let Some(output) = engine.poll_output() {
            match output {
                Output::Refresh(_) => engine.handle(RefreshEnd::Inspection { at: at(now), lingering: true }),
                Output::ScanOwners { .. } => {
                    for (key, inode) in &there {
                        let (key, inode, owner) = (*key, *inode, owner("server", 7, 9));
                        engine.handle(ScanFact::Descriptor { key, at: None, inode, owner });
                    }
                    engine.handle(ScanEnd::Descriptors { began: at(now), blind: None, saw_listeners: true });
                }
                Output::InspectOwners(_) => ends = Some(now + INSPECTION),
                Output::Finding(Finding::Pileup { at, pileup }) => return (at, *pileup),
                Output::Finding(_)
                | Output::StillStuck { .. }
                | Output::RefreshLingering(_)
                | Output::Audit { .. }
                | Output::RefreshSuspects(_)
                | Output::Query(_)
                | Output::WatchPorts(_)
                | Output::Forget(_)
                | Output::ReadCounters => {}
            }
        }
    }
    panic!("no incident");
}

#[test]
fn all_numbers_of_a_report_are_of_its_moment_or_have_their_own_time() {
    let (moment, pileup) = first_incident();
    let millis = moment.0 / 1_000_000;
    // The count has the sockets that had entered by then, and not those of newer records.
    assert_eq!(pileup.count, (millis - HANGS) / EVERY + 1, "at {millis} ms");
    assert_eq!(pileup.evidence.oldest[0].dwell, Dwell::Exact(moment.since(at(HANGS))));
    assert_eq!(pileup.evidence.ages.iter().copied().map(u64::from).sum::<u64>(), pileup.count);
    assert_eq!(pileup.onset.first_stuck, at(HANGS));
    assert!(pileup.evidence.history.iter().all(|one| one.at <= moment && one.count <= pileup.count));
    // Descriptors were read before, and have that time.
    let (forecast, read_at) = (pileup.forecast.unwrap(), moment - Duration::from_millis(READ_BEFORE));
    assert_eq!((forecast.read_at, pileup.evidence.process_at), (read_at, Some(read_at)));
    assert_eq!(forecast.used, 20 + (read_at.0 / 1_000_000 - HANGS) / EVERY + 1);
    // 1,004 sockets at 20 a second.
    let full = (moment + forecast.left).since(at(HANGS)).as_secs_f64();
    assert!((full - 50.2).abs() < 0.5, "full after {full} s: {forecast:?}");
    let incident = pileup.incident.unwrap();
    assert_eq!((incident.began, incident.state), (moment, IncidentState::Opened));
}

#[test]
fn entries_that_only_bounds_tell_do_not_identify_an_incident() {
    let estimated = |millis| Since::Between { earliest: None, latest: at(millis) };
    let exact = |millis| Since::Exact(at(millis));
    let agents = [5_000, 5_005].map(|first| [estimated(first), estimated(first + 1), exact(9_000), exact(9_500)]);
    assert_eq!(agents.map(|entries| identifying_onset(&entries)), [Some(at(9_000)); 2]);
    assert_eq!(identifying_onset(&[estimated(5_000), estimated(6_000)]), Some(at(5_000)), "nothing better is known");
    assert_eq!(
        identifying_onset(&[exact(1), estimated(700_000), exact(700_010)]),
        Some(at(700_010)),
        "after the pause"
    );
    assert_eq!(identifying_onset(&[]), None);
}
