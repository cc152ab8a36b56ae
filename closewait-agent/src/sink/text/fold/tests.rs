//! A whole incident in simulated time: engine, sink and lines.

use std::{
    collections::BTreeMap,
    time::{Duration, UNIX_EPOCH},
};

use closewait_common::histogram::BUCKETS;
use closewait_engine::{
    Config, Engine,
    model::{
        Certainty, Class, Counters, ExitCause, InspectionEnd, InspectionFact, Observation, Output, RefreshEnd, ScanEnd,
        ScanFact, SocketEvent, SocketKey,
    },
    process::NextStep,
    testing::{owner, pileup, process, socket_on_port},
};

use super::*;
use crate::sink::Numbering;

const MILLI: u64 = 1_000_000;
/// Start of the agent, milliseconds since boot.
const BEGAN: u64 = 1_000_000;
/// Time between two requests, milliseconds.
const EVERY: u64 = 50;
/// CPU time of an inspection. The engine spends a fiftieth of a CPU on them.
const INSPECTION: Duration = Duration::from_millis(40);
/// Dwell time of a request that is answered, milliseconds.
const ANSWERED: u64 = 30;

/// Server that gets 20 requests a second and hangs at some moment.
struct Scene {
    /// Time at which it hangs, milliseconds.
    hangs: u64,
    /// Time at which all its sockets exit, milliseconds.
    ends: u64,
    /// Limit on its descriptors. Later requests wait in the backlog, and then get no connection.
    descriptors: u64,
    /// Name of its process; empty if no process has the sockets.
    comm: &'static str,
    style: TextStyle,
}

impl Scene {
    fn new(style: TextStyle, descriptors: u64) -> Self {
        Self { hangs: 30_000, ends: u64::MAX, descriptors, comm: "orders", style }
    }

    /// Plays the scene to `until` milliseconds after the hang. Returns its lines.
    fn play(self, until: u64) -> String {
        let Self { hangs, ends, descriptors, comm, style } = self;
        let at = |millis: u64| BootTime((BEGAN + millis) * MILLI);
        let end = hangs + until;
        let mut engine = Engine::new(Config { histogram_every: Duration::from_secs(3600), ..Config::default() }, at(0));
        let mut records = BTreeMap::new();
        let mut open = 20;
        for (number, enters) in (0_u64..).zip((0..end).step_by(EVERY as usize)) {
            let key = SocketKey((1 << 63) + number);
            let is_stuck = enters >= hangs;
            if is_stuck && enters < ends {
                if open >= descriptors {
                    continue;
                }
                open += 1;
            }
            let mut socket = socket_on_port(8080);
            socket.inode = Some(number + 1);
            socket.remote.port = u16::try_from(10_000 + number % 50_000).unwrap();
            records.insert((enters, key), SocketEvent::Enter { key, at: at(enters), socket: socket.clone() });
            let leaves = if is_stuck { ends.max(enters + ANSWERED) } else { enters + ANSWERED };
            if leaves < end {
                let (entered, how) = (Some(at(enters)), ExitCause::Closed);
                let (closer, fd_open, wrote) = (None, Some(false), None);
                let at = at(leaves);
                records.insert(
                    (leaves, key),
                    SocketEvent::Leave { key, at, entered, socket, how, closer, fd_open, wrote, ended: None },
                );
            }
        }
        let mut there = BTreeMap::new();
        let (mut numbering, anchor) = (Numbering::default(), TimeAnchor::booted_at(UNIX_EPOCH));
        let (mut sink, mut to) = (FoldedText::new(style), Vec::new());
        loop {
            let record = records.first_key_value().map(|((millis, _), _)| *millis);
            let due = engine.poll_timeout().map(|due| (due.0 / MILLI + 1).saturating_sub(BEGAN));
            let Some(now) = record.into_iter().chain(due).min().filter(|now| *now <= end) else { break };
            while let Some(record) = records.first_entry().filter(|record| record.key().0 <= now) {
                let record = record.remove();
                match &record {
                    SocketEvent::Enter { key, socket, .. } => drop(there.insert(*key, socket.clone())),
                    SocketEvent::Leave { key, .. } | SocketEvent::Pass { key, .. } => drop(there.remove(key)),
                }
                engine.handle(record);
            }
            let now = at(now);
            engine.handle_timeout(now);
            while let Some(output) = engine.poll_output() {
                match output {
                    Output::Finding(finding) => {
                        if sink.shows(&finding) {
                            sink.event(&numbering.finding(&finding, anchor), &mut to).unwrap();
                        }
                    }
                    Output::StillStuck { at, counts } => sink.still_stuck(at, counts, anchor, &mut to),
                    Output::Refresh(_) => engine.handle(RefreshEnd::Inspection { at: now, lingering: true }),
                    Output::ScanOwners { .. } => {
                        for (key, socket) in there.iter().filter(|_| !comm.is_empty()) {
                            let (key, inode, owner) = (*key, socket.inode.unwrap(), owner(comm, 7, 9));
                            engine.handle(ScanFact::Descriptor { key, at: None, inode, owner });
                        }
                        engine.handle(ScanEnd::Descriptors { began: now, blind: None, saw_listeners: true });
                    }
                    Output::InspectOwners(_) => {
                        let fds = Some((20 + there.len() as u64, descriptors));
                        let process = Box::new(process(comm, 7, fds));
                        engine.handle(InspectionFact::Process { at: now, process });
                        engine.handle(InspectionEnd::Owners { at: now, worked: INSPECTION });
                    }
                    Output::ReadCounters => {
                        let counters = Box::new(Counters { dwell: vec![0; BUCKETS], ..Counters::default() });
                        engine.handle(Observation::Counters { at: now, counters });
                    }
                    Output::Audit { .. } => {
                        engine.handle(ScanEnd::Audit { began: now, at: now, complete: false, cost: None });
                    }
                    Output::RefreshSuspects(_) => {
                        engine.handle(RefreshEnd::Suspects { at: now, complete: false });
                    }
                    Output::RefreshLingering(_) | Output::Forget(_) | Output::WatchPorts(_) | Output::Query(_) => {}
                }
            }
        }
        String::from_utf8(to).unwrap()
    }
}

const FIVE_MINUTES: u64 = 300_000;
/// Maximum number of lines in the first five minutes of a hang, besides the start of the agent.
const MAX_LINES: usize = 11;

#[test]
fn a_hang_under_20_requests_a_second_is_at_most_12_lines_in_five_minutes() {
    for (descriptors, style) in [
        (600, TextStyle::of_terminal(80)),
        (1024, TextStyle::of_journal()),
        (1024, TextStyle::of_terminal(80)),
        (1_000_000, TextStyle::of_terminal(80)),
    ] {
        let text = Scene::new(style, descriptors).play(FIVE_MINUTES);
        assert!((5..=MAX_LINES).contains(&text.lines().count()), "{descriptors}:\n{text}");
        assert!(text.contains(" sockets, +20/s") && text.contains("still "), "{descriptors}:\n{text}");
    }
}

#[test]
fn an_entry_is_printed_when_an_incident_opens_doubles_reaches_its_limit_and_ends() {
    let scene = Scene { ends: 130_000, ..Scene::new(TextStyle::of_terminal(80), 1024) };
    let text = scene.play(200_000);
    snapbox::assert_data_eq!(
        text,
        snapbox::str![[r#"
00:17:20 GROWS orders[7] :8080  201 sockets, +20/s, full in 40s
         for 10s, sockets on port 8080 have entered CLOSE_WAIT at 20/s, and 100
         % of them are still there.
    closewait stacks 7
00:17:32 GROWS orders[7] :8080  441 sockets, +20/s, full in 28s
00:17:56 GROWS orders[7] :8080  921 sockets, +20/s, full in 4.1s
00:18:02 FULL  orders[7] :8080  1004 sockets, +20/s, 1024/1024 fds
00:18:54 ends  orders :8080  drained after 1m34s, 1 of 1004 remain

"#]]
    );
}

#[test]
fn the_first_stuck_sockets_of_a_group_without_an_incident_have_lines() {
    // Five sockets are no growth.
    let few = Scene::new(TextStyle::dated(false), 25).play(130_000);
    let stuck = few.lines().filter(|line| line.contains(" stuck  ")).count();
    assert_eq!(stuck, usize::from(MAX_SHOWN_SOCKETS), "{few}");
    assert!(few.contains("; more of this group are only counted\n"), "{few}");
    assert!(few.contains("still 5 stuck in 1 group\n"), "{few}");
}

#[test]
fn every_line_in_the_journal_has_a_priority_and_no_time() {
    let text = Scene { ends: 130_000, ..Scene::new(TextStyle::of_journal(), 1024) }.play(200_000);
    let priorities: Vec<_> = text.lines().map(|line| line.get(..3).unwrap()).collect();
    assert!(priorities.iter().all(|priority| ["<3>", "<4>", "<6>"].contains(priority)), "{text}");
    assert!(text.starts_with("<3>"), "{text}");
    assert!(text.lines().last().unwrap().starts_with("<6>ends "), "{text}");
}

#[test]
fn lines_that_others_collect_have_a_full_time_and_are_not_wrapped() {
    let text = Scene::new(TextStyle::dated(false), 1024).play(20_000);
    let mut lines = text.lines();
    assert!(lines.next().unwrap().starts_with("1970-01-01T00:17:"), "{text}");
    assert!(lines.next().unwrap().len() > 80, "{text}");
}

#[test]
fn suggested_commands_ask_the_same_agent() {
    for style in [TextStyle::of_terminal(80), TextStyle::dated(false)] {
        let style = style.with_socket(Some("/tmp/a.sock".into()));
        let text = Scene { comm: "", ..Scene::new(style, 1024) }.play(20_000);
        let commands: Vec<_> = text.lines().filter(|line| line.starts_with("    closewait list ")).collect();
        assert!(!commands.is_empty(), "{text}");
        assert!(commands.iter().all(|command| command.ends_with(" --socket /tmp/a.sock")), "{text}");
    }
}

#[test]
fn a_command_that_may_act_on_the_program_is_explained() {
    let explanation = |command: Option<&str>| {
        let mut pileup = pileup(Class::Hung, Certainty::High, 9);
        pileup.verdict.next = NextStep { text: "pauses it".to_owned(), command: command.map(str::to_owned) };
        explained(&pileup).map(str::to_owned)
    };
    for command in ["kill -USR1 7", "gdb -p 7", "closewait stacks 7 --jvm"] {
        assert_eq!(explanation(Some(command)).as_deref(), Some("pauses it"), "{command}");
    }
    for command in [Some("closewait stacks 7"), Some("closewait list --pid 7"), None] {
        assert_eq!(explanation(command), None, "{command:?}");
    }
}

#[test]
fn a_long_cause_is_cut_where_a_clause_ends() {
    let sink = FoldedText::new(TextStyle::of_terminal(50));
    let text = "eight threads wait for one lock; none of them has served a request, and more. The rest is missing.";
    let first = "         eight threads wait for one lock; none of\n         them has served a request, and more";
    assert_eq!(sink.cause(text), first);
    let endless = "word ".repeat(50);
    let cut = sink.cause(endless.trim());
    assert!(cut.lines().count() == MAX_CAUSE_LINES && cut.ends_with("word.."), "{cut}");
    assert!(cut.lines().all(|line| line.len() <= 52), "{cut}");
    let collected = FoldedText::new(TextStyle::dated(false));
    assert_eq!(collected.cause(text), format!("{INDENT}{text}"));
}
