use std::{cell::RefCell, io, rc::Rc, time::Duration};

use super::*;
use crate::sink::{Numbering, Sink as _, json::Json};
use closewait_engine::{
    Engine, Events,
    decode::Decoder,
    model::{
        Finding, InspectionEnd, Output, PassedSockets, PileupGroup, RefreshEnd, Role, ScanEnd, SocketEvent, SocketKey,
    },
    testing::socket,
};

const STUCK_AFTER: Duration = Duration::from_secs(2);
pub(super) const BEGAN: BootTime = BootTime(1_000_000_000);
pub(super) const DECODER: Decoder = Decoder { tick: Duration::from_millis(4), suspended: Duration::ZERO };

pub(super) fn config() -> Config {
    Config { stuck_after: STUCK_AFTER, events: Events::All, max_tracked: 10, reads_progress: true, ..Config::default() }
}

fn start() -> Start {
    Start {
        at: BEGAN,
        version: "0.1".to_owned(),
        kernel: None,
        hook: "tp_btf".to_owned(),
        max_sockets: 1,
        max_tracked: 10,
        ring_buffer_bytes: 4096,
        pinned: None,
        stuck_after: STUCK_AFTER,
        degraded: vec![],
    }
}

/// File in memory that can be read while it is written, of limited size.
#[derive(Clone)]
struct Disk {
    bytes: Rc<RefCell<Vec<u8>>>,
    room: usize,
}

impl Disk {
    fn new(room: usize) -> Self {
        Self { bytes: Rc::default(), room }
    }

    fn bytes(&self) -> Vec<u8> {
        self.bytes.borrow().clone()
    }
}

impl io::Write for Disk {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let mut all = self.bytes.borrow_mut();
        let room = bytes.len().min(self.room - all.len());
        if room == 0 {
            return Err(io::ErrorKind::StorageFull.into());
        }
        all.extend(&bytes[..room]);
        Ok(room)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Minimal agent: executes the engine's output, and hands out lines.
pub(super) struct Agent {
    pub(super) engine: RecordingEngine,
    numbering: Numbering,
    anchor: u64,
    /// Lines that were read.
    pub(super) lines: Vec<u8>,
    piece: Vec<u8>,
}

impl Agent {
    fn new(recorder: Option<Recorder>) -> Self {
        Self::recording_to(recorder.map(Into::into))
    }

    pub(super) fn recording_to(target: Option<RecordTarget>) -> Self {
        Self::begun(BEGAN, target)
    }

    pub(super) fn begun(began: BootTime, target: Option<RecordTarget>) -> Self {
        let engine = RecordingEngine::new(Engine::new(config(), began), DECODER, target);
        let numbering = Numbering::default();
        let mut agent = Self { engine, numbering, anchor: 0, lines: Vec::new(), piece: Vec::new() };
        let (start, anchor) = (start(), agent.anchor());
        agent.engine.anchored(anchor);
        agent.engine.started(&start);
        Json::default().event(&agent.numbering.start(&start, anchor), &mut agent.piece).unwrap();
        agent.hand_out(true, began);
        agent
    }

    /// Returns another anchor each time, as clocks do.
    fn anchor(&mut self) -> TimeAnchor {
        self.anchor += 7;
        TimeAnchor::from(1_700_000_000_000_000_000 + self.anchor)
    }

    fn hand_out(&mut self, read: bool, now: BootTime) {
        let piece = std::mem::take(&mut self.piece);
        let _direct = self.engine.handing_out();
        if read {
            self.lines.extend(&piece);
        } else {
            self.engine.unwritten(now, piece.split(|byte| *byte == b'\n').count() as u64 - 1);
        }
    }

    /// Runs a turn of the event loop.
    pub(super) fn turn(&mut self, now: BootTime, read: bool) {
        self.engine.handle_timeout(now);
        let anchor = self.anchor();
        self.engine.anchored(anchor);
        while let Some(output) = self.engine.poll_output() {
            match output {
                Output::Finding(finding) => {
                    Json::default().event(&self.numbering.finding(&finding, anchor), &mut self.piece).unwrap();
                }
                Output::Refresh(_) => self.engine.handle(RefreshEnd::Inspection { at: now, lingering: true }),
                Output::ScanOwners { .. } => {
                    self.engine.handle(ScanEnd::Descriptors { began: now, blind: None, saw_listeners: true });
                    self.engine.handle(ScanEnd::Owners);
                }
                Output::InspectOwners(_) => {
                    self.engine.handle(InspectionEnd::Owners { at: now, worked: Duration::from_millis(1) });
                }
                Output::ReadCounters => {
                    self.engine.handle(Observation::Counters { at: now, counters: Box::default() });
                }
                Output::Audit { .. } => {
                    self.engine.handle(ScanEnd::Audit { began: now, at: now, complete: true, cost: None });
                }
                Output::RefreshSuspects(_) => {
                    self.engine.handle(RefreshEnd::Suspects { at: now, complete: true });
                }
                Output::StillStuck { .. }
                | Output::RefreshLingering(_)
                | Output::Forget(_)
                | Output::WatchPorts(_)
                | Output::Query(_) => {}
            }
        }
        self.hand_out(read, now);
    }

    pub(super) fn enter(&mut self, number: u64, at: BootTime) {
        let mut socket = socket();
        socket.remote.port = 1000 + u16::try_from(number % 50_000).unwrap();
        let key = SocketKey(1 << 63 | number);
        self.engine.handle(SocketEvent::Enter { key, at, socket });
    }

    /// Runs an agent with sockets that enter and get stuck, lines that are dropped unless `all` are read, and the
    /// end.
    fn live(mut self, all: bool) -> Vec<u8> {
        let second = |number| BEGAN + Duration::from_secs(number);
        for number in 0..4 {
            self.enter(number, second(number));
            self.turn(second(number), true);
        }
        self.engine.undecodable(second(5));
        self.engine.count_losses(second(5), DroppedCounts { log_lines: 17, unexported: 3, refused: 2 });
        self.turn(second(6), all);
        for number in 7..12 {
            self.turn(second(number), true);
        }
        self.stop(second(12));
        self.lines
    }

    /// Ends the agent.
    pub(super) fn stop(&mut self, now: BootTime) {
        self.engine.stop();
        self.turn(now, true);
        self.engine.finish(Duration::from_secs(5)).unwrap();
    }
}

/// Returns the lines of a recording, and the way it ends.
pub(super) fn played(bytes: &[u8]) -> anyhow::Result<(Vec<u8>, Option<RecordingEnd>)> {
    let (mut numbering, mut player) = (Numbering::default(), Player::default());
    let (mut lines, mut handed_out, mut waiting) = (Vec::new(), Vec::new(), Vec::new());
    let mut reader = Reader::new(bytes)?;
    for item in &mut reader {
        player.play(item?, |shown, anchor| match shown {
            Shown::Start(start) => Json::default().event(&numbering.start(start, anchor), &mut waiting),
            Shown::Finding(finding) => Json::default().event(&numbering.finding(finding, anchor), &mut waiting),
            Shown::StillStuck(..) => Ok(()),
            Shown::HandedOut => {
                lines.append(&mut handed_out);
                handed_out = std::mem::take(&mut waiting);
                Ok(())
            }
            Shown::Unwritten => {
                handed_out.clear();
                Ok(())
            }
        })?;
    }
    lines.extend(handed_out);
    lines.extend(waiting);
    Ok((lines, reader.end()))
}

/// Returns a recording, and the lines of the agent that made it.
fn recorded(all: bool) -> (Vec<u8>, Vec<u8>) {
    let disk = Disk::new(1 << 20);
    let lines = Agent::new(Some(Recorder::begin(disk.clone(), 1 << 20, &config(), BEGAN).unwrap())).live(all);
    (disk.bytes(), lines)
}

#[test]
fn the_replay_has_the_same_lines_without_those_that_were_not_read() {
    let (recording, lines) = recorded(false);
    let text = String::from_utf8(lines.clone()).unwrap();
    for event in ["start", "enter", "stuck", "health", "stop"] {
        assert!(text.contains(&format!("\"event\":\"{event}\"")), "{text}");
    }
    assert!(text.contains("\"log_lines_dropped\":17"), "{text}");
    let seqs = text.lines().map(|line| line.split("\"seq\":").nth(1).unwrap().split(',').next().unwrap());
    let seqs: Vec<u64> = seqs.map(|seq| seq.parse().unwrap()).collect();
    assert!(seqs.windows(2).any(|pair| pair[1] > pair[0] + 1), "some were dropped: {seqs:?}");
    let (again, end) = played(&recording).unwrap();
    assert_eq!(String::from_utf8(again).unwrap(), text);
    assert_eq!(end, Some(RecordingEnd::Stopped));
    assert_eq!(Agent::new(None).live(false), lines, "recording changes nothing");
}

#[test]
fn counts_of_sockets_without_records_are_recorded() {
    let second = |number| BEGAN + Duration::from_secs(number);
    let flow =
        PileupGroup { role: Some(Role::Server), netns: Some(7), cgroup: None, local_port: Some(443), remote: None };
    let dwell = vec![(3, 2), (u16::MAX, u32::MAX)];
    let (since, last, longest) = (second(0), second(1), Duration::from_nanos(9));
    let passed = PassedSockets { at: second(2), flow, since, last, longest, dwell };
    let mut bytes = Vec::new();
    Item::Fact(Cow::Owned(passed.clone().into())).encode(&mut bytes).unwrap();
    let Item::Fact(read) = Item::decode(&mut &bytes[..]).unwrap() else { unreachable!() };
    assert_eq!(*read, Observation::from(passed.clone()));

    let disk = Disk::new(1 << 20);
    let mut agent = Agent::new(Some(Recorder::begin(disk.clone(), 1 << 20, &config(), BEGAN).unwrap()));
    agent.engine.handle(PassedSockets { dwell: vec![(3, 2), (9, 40)], ..passed });
    agent.turn(second(2), true);
    agent.stop(second(3));
    let text = String::from_utf8(agent.lines.clone()).unwrap();
    let scope = text.lines().find(|line| line.contains("\"local_port\":443"));
    assert!(scope.is_some_and(|line| line.contains("\"count\":42")), "{text}");
    assert_eq!(played(&disk.bytes()).unwrap(), (agent.lines, Some(RecordingEnd::Stopped)));
}

#[test]
fn wherever_it_is_cut_what_is_whole_is_played() {
    let (recording, lines) = recorded(true);
    let (mut before, mut ends) = (0, 0);
    for length in 0..recording.len() {
        let (again, end) = match played(&recording[..length]) {
            Err(error) if length == 0 => {
                assert!(error.to_string().contains("it is empty"), "{error}");
                continue;
            }
            played => played.unwrap(),
        };
        assert!(lines.starts_with(&again) && again.len() >= before, "cut at {length}");
        before = again.len();
        match end {
            Some(RecordingEnd::Cut { at, skipped }) => assert_eq!(at + skipped, length as u64),
            Some(RecordingEnd::Unfinished) => ends += 1,
            other => panic!("cut at {length}: {other:?}"),
        }
    }
    assert_eq!(before, lines.len(), "only the end is missing");
    assert!(ends > 10, "{ends} frames");
}

#[test]
fn a_tail_of_zeros_as_after_a_power_failure_is_a_cut() {
    let (mut recording, lines) = recorded(true);
    let length = recording.len();
    recording[length - 40..].fill(0);
    recording.extend([0; 5000]);
    let (again, end) = played(&recording).unwrap();
    assert!(lines.starts_with(&again) && !again.is_empty());
    assert!(matches!(end, Some(RecordingEnd::Cut { skipped, .. }) if skipped > 5000), "{end:?}");
}

#[test]
fn a_byte_that_changed_is_an_error_that_says_where_or_the_end() {
    let (recording, lines) = recorded(true);
    let mut damaged = 0;
    for place in 0..recording.len() {
        let mut recording = recording.clone();
        recording[place] ^= 0x10;
        match played(&recording) {
            Ok((again, Some(RecordingEnd::Cut { at, .. }))) => {
                assert!(lines.starts_with(&again) && at <= place as u64, "{place}");
            }
            Ok(other) => panic!("{place}: {:?}", other.1),
            Err(error) => match error.downcast_ref() {
                Some(RecordingReadError::Damaged { at }) => {
                    assert!(*at <= place as u64 && error.to_string().contains(&format!("at byte {at}")), "{error}");
                    damaged += 1;
                }
                Some(RecordingReadError::NoRecording | RecordingReadError::Version(_)) => {
                    assert!(place < 22, "{place}")
                }
                Some(
                    RecordingReadError::Item { .. }
                    | RecordingReadError::Checkpoint { .. }
                    | RecordingReadError::Read { .. }
                    | RecordingReadError::Empty,
                )
                | None => {
                    panic!("{place}: {error}")
                }
            },
        }
    }
    assert!(damaged > recording.len() / 2);
}

#[test]
fn frames_that_were_moved_or_put_behind_each_other_are_damage() {
    let (recording, _lines) = recorded(true);
    let twice = [recording.clone(), recording.clone()].concat();
    assert!(matches!(played(&twice).unwrap_err().downcast_ref(), Some(RecordingReadError::Damaged { .. })));
    let shifted = [&recording[..22], &recording[23..]].concat();
    assert!(matches!(played(&shifted).unwrap_err().downcast_ref(), Some(RecordingReadError::Damaged { at: 22 })));
}

#[test]
fn bytes_that_are_missing_in_the_middle_or_too_many_are_damage_that_is_named() {
    let (recording, lines) = recorded(true);
    // The mark of the end, which shows that nothing is missing there, has 12 bytes.
    let last = recording.len() - 12;
    for place in (22..last).step_by(5) {
        for lost in [1, 12, 300] {
            if place + lost > last {
                continue;
            }
            let hole = [&recording[..place], &recording[place + lost..]].concat();
            let error = played(&hole).unwrap_err();
            let Some(RecordingReadError::Damaged { at }) = error.downcast_ref() else {
                panic!("{place} {lost}: {error}")
            };
            // What follows a hole may begin with the same bytes as the hole.
            let (hole, behind) = (&recording[place..], &recording[place + lost..]);
            let place = place + hole.iter().zip(behind).take_while(|(one, other)| one == other).count();
            assert!(*at <= place as u64 && error.to_string().contains(&format!("at byte {at}")), "{place} {lost}");
        }
        let more = [&recording[..place], b"x", &recording[place..]].concat();
        let error = played(&more).unwrap_err();
        assert!(
            matches!(error.downcast_ref(), Some(RecordingReadError::Damaged { at }) if *at <= place as u64),
            "{place}"
        );
    }
    // A hole up to the end is a cut.
    let (again, end) = played(&recording[..last - 7]).unwrap();
    assert!(lines.starts_with(&again) && matches!(end, Some(RecordingEnd::Cut { .. })));
}

#[test]
fn a_recording_that_is_full_says_so_and_the_agent_continues() {
    let disk = Disk::new(1 << 20);
    let mut agent = Agent::new(Some(Recorder::begin(disk.clone(), MIN_MAX_BYTES, &config(), BEGAN).unwrap()));
    let mut number = 0_u64;
    let mut length = 0;
    // Each turn adds items, as long as there is space.
    while length < disk.bytes().len() {
        length = disk.bytes().len();
        for _ in 0..200 {
            number += 1;
            // Data that deflate cannot compress.
            agent.enter(number.wrapping_mul(0x9e37_79b9_7f4a_7c15), BEGAN + Duration::from_nanos(number * number));
        }
        agent.turn(BEGAN + Duration::from_millis(number), true);
    }
    let length = length as u64;
    assert!(length <= MIN_MAX_BYTES && length > MIN_MAX_BYTES / 2, "{length}");
    agent.turn(BEGAN + Duration::from_secs(50), true);
    agent.engine.finish(Duration::ZERO).unwrap();
    assert_eq!(disk.bytes().len() as u64, length, "nothing is written any more");
    let (again, end) = played(&disk.bytes()).unwrap();
    assert_eq!(end, Some(RecordingEnd::Full));
    assert!(agent.lines.starts_with(&again) && agent.lines.len() > again.len());
}

#[test]
fn a_disk_that_is_full_ends_the_recording_and_not_the_agent() {
    let disk = Disk::new(700);
    let lines = Agent::new(Some(Recorder::begin(disk.clone(), 1 << 20, &config(), BEGAN).unwrap())).live(true);
    let text = |lines: &[u8]| String::from_utf8(lines.to_vec()).unwrap();
    assert!(text(&lines).contains("\"recordings_failed\":1"));
    let counted = text(&lines).replace("\"recordings_failed\":1", "\"recordings_failed\":0");
    assert_eq!(counted, text(&Agent::new(None).live(true)), "nothing else is different");
    assert_eq!(disk.bytes().len(), 700);
    let (again, end) = played(&disk.bytes()).unwrap();
    assert!(lines.starts_with(&again) && matches!(end, Some(RecordingEnd::Cut { .. })), "{end:?}");
    assert!(Recorder::begin(Disk::new(100), 1 << 20, &config(), BEGAN).is_err());
}

#[test]
fn what_is_no_recording_or_of_another_version_is_refused() {
    let version = |bytes: &[u8]| Reader::new(bytes).map(|_| ()).unwrap_err().to_string();
    assert!(version(b"{\"format\":1,\"began\":0}\n").contains("no recording"));
    assert!(version(b"closewait recording x\n").contains("no recording"));
    assert!(version(b"closewait recordings of old times").contains("no recording"));
    assert!(version(b"closewait recording 12\n").contains("has format 12"));
    assert!(version(b"closewait recording 99999999999999999999").contains("no recording"));
}

#[test]
fn settings_that_no_agent_takes_are_refused() {
    let changes: [fn(&mut Config); 2] =
        [|config| config.stuck_after = Duration::ZERO, |config| config.histogram_every = Duration::ZERO];
    for change in changes {
        let (mut config, disk) = (config(), Disk::new(1 << 20));
        change(&mut config);
        Recorder::begin(disk.clone(), 1 << 20, &config, BEGAN).unwrap().finish(Duration::ZERO).unwrap();
        assert!(played(&disk.bytes()).unwrap_err().to_string().contains("no agent takes"));
    }
    let disk = Disk::new(1 << 20);
    let mut recorder = Recorder::empty(disk.clone(), 1 << 20).unwrap();
    recorder.item(&Item::Time(BEGAN)).unwrap();
    recorder.finish(Duration::ZERO).unwrap();
    assert!(played(&disk.bytes()).unwrap_err().to_string().contains("first frame is missing"));
}

#[test]
fn texts_of_a_recording_are_made_harmless() {
    let bad = "\u{1b}[2J\u{202e}";
    let start = Start {
        version: bad.to_owned(),
        kernel: Some(bad.to_owned()),
        hook: bad.to_owned(),
        pinned: Some(bad.to_owned()),
        degraded: vec![bad.to_owned()],
        ..start()
    };
    let mut bytes = Vec::new();
    Item::Started(Cow::Owned(start)).encode(&mut bytes).unwrap();
    let Item::Started(read) = Item::decode(&mut &bytes[..]).unwrap() else { unreachable!() };
    assert!(!format!("{read:?}").contains(['\u{1b}', '\u{202e}']), "{read:?}");
    assert!(read.degraded[0].contains("[2J"));
}

#[test]
fn any_time_that_an_anchor_can_be_has_a_text() {
    for booted in [0, 1, u64::MAX] {
        let anchor = TimeAnchor::from(booted);
        assert_eq!(u64::from(anchor), booted);
        let finding = Finding::Stop { at: BootTime(u64::MAX), totals: Default::default() };
        Json::default().event(&Numbering::default().finding(&finding, anchor), &mut Vec::new()).unwrap();
    }
}
