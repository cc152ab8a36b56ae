mod encoding;

use std::{
    fs::{self, Permissions},
    os::unix::fs::{PermissionsExt as _, symlink},
    path::{Path, PathBuf},
    process,
    time::Duration,
};

use super::{folder::SegmentFolder, *};
use crate::{
    clock,
    recording::{
        DroppedCounts, Item, Player, Reader, RecordTarget, RecordingEnd, Shown,
        tests::{Agent, BEGAN, config},
    },
    sink::{Numbering, Sink as _, json::Json},
};
use closewait_engine::Checkpoint;

const LONG: Duration = Duration::from_secs(5);
const RETENTION: Retention = Retention { time: Some(Duration::from_secs(3600)), bytes: 64 << 20 };

/// Folder that is removed after the test.
struct Folder(PathBuf);

impl Folder {
    fn new(name: &str) -> Self {
        let folder = std::env::temp_dir().join(format!("closewait-segments-{}-{name}", process::id()));
        fs::create_dir(&folder).unwrap();
        Self(folder)
    }

    fn segments(&self) -> Vec<PathBuf> {
        let mut all: Vec<_> = fs::read_dir(&self.0).unwrap().map(|entry| entry.unwrap().path()).collect();
        all.retain(|path| number(path.file_name().unwrap().as_encoded_bytes()).is_some());
        all.sort();
        all
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _left = fs::remove_dir_all(&self.0);
    }
}

/// Player that collects events without their numbers, which begin anew in each replay.
#[derive(Default)]
struct Play {
    player: Player,
    numbering: Numbering,
    lines: Vec<String>,
}

impl Play {
    fn item(&mut self, item: Item<'_>) {
        let Self { player, numbering, lines } = self;
        let played = player.play(item, |shown, anchor| {
            let mut line = Vec::new();
            match shown {
                Shown::Start(start) => Json::default().event(&numbering.start(start, anchor), &mut line)?,
                Shown::Finding(finding) => Json::default().event(&numbering.finding(finding, anchor), &mut line)?,
                Shown::StillStuck(..) | Shown::HandedOut | Shown::Unwritten => return Ok(()),
            }
            lines.push(without_number(&String::from_utf8(line).unwrap()));
            Ok(())
        });
        played.unwrap();
    }

    /// Returns the state of the engine, if it is at a place where a segment could begin.
    fn state(&self) -> Option<Vec<u8>> {
        Some(rmp_serde::to_vec_named(&self.player.engine()?.checkpoint()?).unwrap())
    }
}

fn without_number(line: &str) -> String {
    let mut event: serde_json::Value = serde_json::from_str(line).unwrap();
    event.as_object_mut().unwrap().remove("seq").unwrap();
    event.to_string()
}

fn lines(bytes: &[u8]) -> Vec<String> {
    str::from_utf8(bytes).unwrap().lines().map(without_number).collect()
}

fn source(path: &Path, part: RecordingPart) -> (Vec<String>, Option<RecordingEnd>, Vec<String>) {
    let (mut source, mut play) = (RecordingSource::open(path, part).unwrap(), Play::default());
    for item in &mut source {
        play.item(item.unwrap());
    }
    (play.lines, source.end(), source.take_notes())
}

fn agent(folder: &Folder) -> Agent {
    agent_begun(BEGAN, folder)
}

fn agent_begun(began: BootTime, folder: &Folder) -> Agent {
    let path = folder.0.join("");
    Agent::begun(began, Some(RecordTarget::create(&path, (0, RETENTION), &config(), began).unwrap()))
}

/// Runs an agent with a new segment at each turn, and returns its lines.
fn recorded(folder: &Folder) -> Vec<String> {
    recorded_from(BEGAN, folder)
}

/// The same for an agent that begins at this time, which tells its run from others.
fn recorded_from(began: BootTime, folder: &Folder) -> Vec<String> {
    let mut agent = agent_begun(began, folder);
    let second = |number| began + Duration::from_secs(number);
    for number in 0..9 {
        if number < 4 {
            agent.enter(number, second(number));
        }
        agent.engine.turn_soon();
        agent.turn(second(number), true);
    }
    agent.stop(second(9));
    lines(&agent.lines)
}

#[test]
fn only_the_exact_name_is_a_segment() {
    assert_eq!(name(7), "closewait-0000000007.segment");
    assert_eq!(number(name(1_234_567_890).as_bytes()), Some(1_234_567_890));
    for other in [
        "closewait-7.segment",
        "closewait-0000000007.segment~",
        "closewait-00000000x7.segment",
        "x-0000000007.segment",
        "",
    ] {
        assert_eq!(number(other.as_bytes()), None, "{other}");
    }
}

#[test]
fn an_earlier_run_is_named() {
    let folder = Folder::new("runs");
    recorded(&folder);
    let earlier = |part| RecordingSource::open(&folder.0, part).unwrap().earlier_run();
    assert_eq!(earlier(RecordingPart::End), None, "one run");
    let first = folder.segments().len();
    recorded_from(BEGAN + LONG, &folder);
    assert!(folder.segments().len() > first);
    assert_eq!(earlier(RecordingPart::End), Some(name(first as u64)));
    assert_eq!(earlier(RecordingPart::Last(Duration::from_secs(3600))), Some(name(first as u64)));
}

#[test]
fn segments_are_played_as_one_recording_and_from_each_of_them() {
    let folder = Folder::new("each");
    let live = recorded(&folder);
    let segments = folder.segments();
    assert_eq!(segments.len(), 11, "{segments:?}");
    assert_eq!(source(&folder.0, RecordingPart::All), (live.clone(), Some(RecordingEnd::Stopped), vec![]));
    let mut shortest = live.len();
    for segment in &segments {
        // From this segment on, all lines are the same.
        let rest = Folder::new("rest");
        for later in segments.iter().filter(|later| *later >= segment) {
            fs::copy(later, rest.0.join(later.file_name().unwrap())).unwrap();
        }
        let (from_here, end, notes) = source(&rest.0, RecordingPart::All);
        assert!(live.ends_with(&from_here), "{}: {from_here:?}", segment.display());
        assert!(from_here.len() <= shortest && !from_here.is_empty());
        assert_eq!((end, notes), (Some(RecordingEnd::Stopped), vec![]));
        shortest = from_here.len();
        assert_eq!(fs::metadata(segment).unwrap().permissions().mode() & 0o777, 0o600);
    }
    assert!(shortest < live.len() / 2);
    assert_eq!(source(&folder.0, RecordingPart::End).0.len(), shortest);
    // The whole recording takes no second of the wall clock.
    assert_eq!(source(&folder.0, RecordingPart::Last(Duration::from_secs(3600))).0, live);
    assert_eq!(source(&folder.0, RecordingPart::Boot).0, live);
}

#[test]
fn recordings_of_real_programs_continue_from_any_time() {
    let recordings = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/recordings");
    let mut checked = 0;
    for entry in fs::read_dir(recordings).unwrap() {
        let path = entry.unwrap().path();
        if path.extension().is_none_or(|extension| extension != "recording") {
            continue;
        }
        let items: Vec<Item<'static>> =
            Reader::new(fs::File::open(&path).unwrap()).unwrap().map(Result::unwrap).collect();
        let cuts = [items.len() / 4, items.len() / 2, items.len() / 8 * 7];
        let (mut play, mut others) = (Play::default(), Vec::<(usize, Play)>::new());
        for (place, item) in items.iter().enumerate() {
            play.item(item.clone());
            others.iter_mut().for_each(|(_, other)| other.item(item.clone()));
            let is_cut = others.len() < cuts.len() && place >= cuts[others.len()] && matches!(item, Item::Drained);
            let Some(state) = is_cut.then(|| play.state()).flatten() else { continue };
            let checkpoint: Checkpoint = rmp_serde::from_slice(&state).unwrap();
            let (mut other, began) = (Play::default(), items.first().cloned().unwrap());
            other.item(began);
            other.item(Item::Checkpoint(Box::new(checkpoint)));
            other.item(Item::Anchored(play.player.anchor()));
            others.push((play.lines.len(), other));
        }
        for (before, other) in others {
            let pairs = play.lines[before..].iter().zip(&other.lines);
            pairs.for_each(|(line, other)| assert_eq!(line, other, "{}", path.display()));
            assert_eq!(play.lines.len() - before, other.lines.len(), "{}", path.display());
            assert_eq!(play.state(), other.state(), "{}", path.display());
            checked += 1;
        }
    }
    assert!(checked > 100, "{checked}");
}

#[test]
fn a_segment_that_is_torn_at_any_byte_is_played_up_to_there() {
    let folder = Folder::new("torn");
    let mut agent = agent(&folder);
    let second = |number| BEGAN + Duration::from_secs(number);
    for number in 0..3 {
        agent.enter(number, second(number));
        agent.engine.turn_soon();
        agent.turn(second(number), true);
    }
    agent.stop(second(4));
    let (live, segments) = (lines(&agent.lines), folder.segments());
    assert_eq!(segments.len(), 5);
    for (torn, is_last) in [(&segments[4], true), (&segments[1], false)] {
        let whole = fs::read(torn).unwrap();
        for length in 0..whole.len() {
            fs::write(torn, &whole[..length]).unwrap();
            let (mut source, mut play) =
                (RecordingSource::open(&folder.0, RecordingPart::All).unwrap(), Play::default());
            for item in &mut source {
                match item {
                    Ok(item) => play.item(item),
                    Err(error) => assert!(is_last && length == 0, "{length}: {error}"),
                }
            }
            if is_last {
                assert!(live.starts_with(&play.lines), "{length}");
            } else {
                // The next segment continues with its own state.
                let (first, last) = (live.first(), live.last());
                assert_eq!((play.lines.first(), play.lines.last()), (first, last), "{length}");
                assert_eq!(source.end(), Some(RecordingEnd::Stopped));
            }
        }
        fs::write(torn, &whole).unwrap();
    }
    // Damage within a segment costs the rest of it.
    let mut damaged = fs::read(&segments[1]).unwrap();
    let middle = damaged.len() / 2;
    damaged[middle] ^= 0x40;
    fs::write(&segments[1], &damaged).unwrap();
    let (played, end, notes) = source(&folder.0, RecordingPart::All);
    assert_eq!((played.last(), end), (live.last(), Some(RecordingEnd::Stopped)));
    assert!(notes.len() == 1 && notes[0].contains("is not played to its end"), "{notes:?}");
}

#[test]
fn a_segment_with_the_state_of_another_version_is_skipped() {
    let folder = Folder::new("version");
    let _live = recorded(&folder);
    let segments = folder.segments();
    segments[..5].iter().for_each(|segment| fs::remove_file(segment).unwrap());
    let whole = fs::read(&segments[5]).unwrap();
    let mut reader = Reader::new(&whole[..]).unwrap();
    let Some(Ok(Item::Segment(start))) = reader.next() else { unreachable!() };
    let start = SegmentStart { checkpoint: Some(99), version: "9.8.7".to_owned(), ..start.into_owned() };
    let mut items = Vec::new();
    Item::Segment(std::borrow::Cow::Owned(start)).encode(&mut items).unwrap();
    reader.next().unwrap().unwrap().encode(&mut items).unwrap();
    let mut other = b"closewait recording 3\n".to_vec();
    let mut deflate = crate::recording::frame::Deflate::new();
    for (kind, content) in [
        (crate::recording::frame::FrameKind::Items, &items[..]),
        (crate::recording::frame::FrameKind::CheckpointEnd, &b"\x90"[..]),
    ] {
        let frame = crate::recording::frame::frame(kind, &deflate.payload(content).unwrap(), other.len() as u64);
        other.extend(frame.unwrap());
    }
    fs::write(&segments[5], &other).unwrap();
    let (played, end, notes) = source(&folder.0, RecordingPart::All);
    assert!(!played.is_empty() && end == Some(RecordingEnd::Stopped));
    assert!(notes.len() == 1 && notes[0].contains("closewait 9.8.7 recorded it"), "{notes:?}");
}

#[test]
fn old_segments_are_deleted_and_nothing_else() {
    let folder = Folder::new("delete");
    let path = |name: &str| folder.0.join(name);
    fs::write(path("precious"), "x").unwrap();
    fs::write(path("closewait-0000000001.segment"), "something else").unwrap();
    fs::write(path("closewait-0000000002.segment"), "closewait recording 3\nxyz").unwrap();
    fs::write(path("target"), "closewait recording 3\n").unwrap();
    symlink(path("target"), path("closewait-0000000003.segment")).unwrap();
    fs::create_dir(path("closewait-0000000004.segment")).unwrap();
    fs::write(path("closewait-0000000005.segment"), "").unwrap();
    fs::hard_link(path("target"), path("closewait-0000000006.segment")).unwrap();
    let retention = Retention { time: Some(Duration::from_secs(100)), bytes: 1000 };
    let mut segments = SegmentFolder::open(&folder.0, retention).unwrap();
    assert_eq!(segments.foreign, [1, 3, 4, 6].map(name));
    let now = clock::now();
    let (number, _file) = segments.create().unwrap();
    assert_eq!(number, 7);
    segments.finished(number, 400, now);
    segments.prune(500, now);
    let exist = |segments: &[u64]| segments.iter().map(|number| path(&name(*number)).exists()).collect::<Vec<_>>();
    assert_eq!(exist(&[2, 5, 7]), [true, true, true]);
    // By size: the oldest first.
    segments.prune(590, now);
    assert_eq!(exist(&[2, 5, 7]), [false, true, true]);
    // By age.
    segments.prune(0, now + Duration::from_secs(99));
    assert_eq!(exist(&[2, 5, 7]), [false, true, true]);
    segments.prune(0, now + Duration::from_secs(101));
    assert_eq!(exist(&[2, 5, 7]), [false, false, false]);
    segments.prune(u64::MAX, now + Duration::from_secs(9999));
    let mut left: Vec<_> = fs::read_dir(&folder.0).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    left.sort();
    let foreign = [1, 3, 4, 6].map(name);
    assert_eq!(left, [&foreign[0], &foreign[1], &foreign[2], &foreign[3], "precious", "target"]);
}

#[test]
fn a_directory_that_others_could_change_is_refused() {
    let folder = Folder::new("refused");
    let open = |path: &Path| SegmentFolder::open(path, RETENTION).map(drop).map_err(|error| error.to_string());
    let new = folder.0.join("new/");
    let first = SegmentFolder::open(&new, RETENTION).unwrap();
    assert_eq!(fs::metadata(&new).unwrap().permissions().mode() & 0o777, 0o700);
    assert!(open(&new).unwrap_err().contains("another agent records to it"));
    drop(first);
    open(&new).unwrap();
    fs::set_permissions(&new, Permissions::from_mode(0o770)).unwrap();
    assert!(open(&new).unwrap_err().contains("other users may write to it"));
    fs::set_permissions(&new, Permissions::from_mode(0o755)).unwrap();
    open(&new).unwrap();
    symlink(&new, folder.0.join("link")).unwrap();
    assert!(open(&folder.0.join("link/")).unwrap_err().contains("symbolic link"));
    fs::write(folder.0.join("file"), "").unwrap();
    assert!(open(&folder.0.join("file/")).is_err());
    assert!(open(&folder.0.join("no/folder/")).unwrap_err().contains("directory above it"));
    assert!(!folder.0.join("no").exists(), "only the last directory of a path is created");
    assert!(is_folder(&new) && is_folder(Path::new("/nowhere/")) && !is_folder(Path::new("/nowhere")));
}

/// Without the write bit, the thread cannot create a segment: it has no capabilities.
#[test]
fn a_directory_that_takes_nothing_causes_a_gap_and_the_recording_continues() {
    let folder = Folder::new("gap");
    let mut agent = agent(&folder);
    let second = |number| BEGAN + Duration::from_secs(number);
    agent.enter(0, second(0));
    agent.turn(second(0), true);
    fs::set_permissions(&folder.0, Permissions::from_mode(0o500)).unwrap();
    agent.engine.turn_soon();
    agent.turn(second(1), true);
    assert!(agent.engine.is_recording());
    let wait = || std::thread::sleep(Duration::from_millis(50));
    wait();
    for number in 2..5 {
        // Counted: the agent notices the failure, and each attempt fails.
        agent.enter(number, second(number));
        agent.turn(second(number), true);
        wait();
    }
    agent.engine.count_losses(second(5), DroppedCounts::default());
    assert_eq!(agent.engine.state().totals().recordings_failed, 1);
    fs::set_permissions(&folder.0, Permissions::from_mode(0o700)).unwrap();
    for number in 5..9 {
        agent.turn(second(number), true);
        wait();
    }
    agent.enter(9, second(9));
    agent.turn(second(9), true);
    agent.stop(second(10));
    let live = lines(&agent.lines);
    let (played, end, notes) = source(&folder.0, RecordingPart::All);
    assert_eq!(end, Some(RecordingEnd::Stopped));
    assert!(notes.len() == 1 && notes[0].contains("observations are missing, in"), "{notes:?}");
    assert!(played.len() < live.len());
    // The totals of the end include everything within the gap.
    let stop = |lines: &[String]| lines.iter().find(|line| line.contains("\"event\":\"stop\"")).cloned();
    assert!(stop(&live).is_some() && stop(&live) == stop(&played), "{played:?}");
}

/// Lets an agent notice a failure of the thread, and try again.
fn turns(agent: &mut Agent, seconds: std::ops::Range<u64>) {
    for number in seconds {
        let second = BEGAN + Duration::from_secs(number);
        agent.enter(number, second);
        agent.turn(second, true);
        std::thread::sleep(Duration::from_millis(50));
    }
}

#[test]
fn a_directory_that_is_removed_is_created_again_and_the_recording_continues() {
    let folder = Folder::new("removed");
    let mut agent = agent(&folder);
    turns(&mut agent, 0..3);
    let before = folder.segments().len() as u64;
    fs::remove_dir_all(&folder.0).unwrap();
    turns(&mut agent, 3..9);
    // The first segment of the new directory has the next number.
    assert!(!folder.segments().iter().any(|path| path.ends_with(name(before))), "{:?}", folder.segments());
    assert_eq!(fs::metadata(&folder.0).unwrap().permissions().mode() & 0o777, 0o700);
    agent.engine.count_losses(BEGAN + Duration::from_secs(9), DroppedCounts::default());
    turns(&mut agent, 9..10);
    let totals = agent.engine.state().totals();
    assert_eq!(totals.recordings_failed, 1);
    assert!(totals.unrecorded > 0, "{totals:?}");
    agent.stop(BEGAN + Duration::from_secs(11));
    let (live, (played, end, _notes)) = (lines(&agent.lines), source(&folder.0, RecordingPart::All));
    assert_eq!(end, Some(RecordingEnd::Stopped));
    let stop = |lines: &[String]| lines.iter().find(|line| line.contains("\"event\":\"stop\"")).cloned().unwrap();
    assert_eq!(stop(&live), stop(&played));
    assert!(stop(&live).contains(&format!("\"unrecorded\":{}", totals.unrecorded)), "{}", stop(&live));
}

#[test]
fn a_segment_that_is_removed_is_noticed_with_the_next_items() {
    let folder = Folder::new("segment-removed");
    let mut agent = agent(&folder);
    turns(&mut agent, 0..2);
    folder.segments().iter().for_each(|path| fs::remove_file(path).unwrap());
    turns(&mut agent, 2..6);
    assert!(!folder.segments().is_empty());
    agent.engine.count_losses(BEGAN + Duration::from_secs(6), DroppedCounts::default());
    assert_eq!(agent.engine.state().totals().recordings_failed, 1);
    agent.stop(BEGAN + Duration::from_secs(7));
    assert_eq!(source(&folder.0, RecordingPart::All).1, Some(RecordingEnd::Stopped));
}

#[test]
fn a_recording_that_ends_in_a_gap_says_how_much_was_dropped() {
    let folder = Folder::new("ends-in-gap");
    let mut agent = agent(&folder);
    turns(&mut agent, 0..2);
    fs::remove_dir_all(&folder.0).unwrap();
    // The agent does not follow a link that comes in its place.
    symlink("/tmp", &folder.0).unwrap();
    turns(&mut agent, 2..6);
    agent.engine.count_losses(BEGAN + Duration::from_secs(6), DroppedCounts::default());
    let unrecorded = agent.engine.state().totals().unrecorded;
    assert!(unrecorded > 0);
    let error = agent.engine.finish(LONG).unwrap_err().to_string();
    fs::remove_file(&folder.0).unwrap();
    assert!(error.starts_with("it ends in a gap of ") && error.ends_with(" observations were dropped"), "{error}");
}

/// Without the write bit, the thread cannot create a segment: it has no capabilities.
#[test]
fn a_directory_that_takes_nothing_at_the_start_is_an_error_with_one_cause_and_one_hint() {
    let folder = Folder::new("read-only");
    fs::set_permissions(&folder.0, Permissions::from_mode(0o500)).unwrap();
    let error = FlightRecorder::create(&folder.0.join(""), RETENTION, &config(), BEGAN).map(drop).unwrap_err();
    fs::set_permissions(&folder.0, Permissions::from_mode(0o700)).unwrap();
    let text = crate::host::error_text::with_hints(&error);
    assert_eq!(text.matches("Permission denied").count(), 1, "{text}");
    let (problem, hint) = text.split_once("\nhint: ").unwrap();
    assert!(problem.contains("failed: write failed: Permission denied"), "{text}");
    assert!(hint.starts_with("let the user of the agent write there") && !hint.contains('\n'), "{text}");
}

#[test]
fn a_later_agent_continues_after_the_segments_of_the_earlier_one() {
    let folder = Folder::new("later");
    let (first, second) = (recorded(&folder), recorded_from(BEGAN + LONG, &folder));
    let (played, end, notes) = source(&folder.0, RecordingPart::All);
    assert_eq!((played, end, notes), ([first, second.clone()].concat(), Some(RecordingEnd::Stopped), vec![]));
    assert_eq!(folder.segments().len(), 22);
    // Without a name of the boot, only the last run has the same clock for certain.
    assert_eq!(source(&folder.0, RecordingPart::Boot).0, second);
}

#[test]
fn an_empty_directory_is_no_recording() {
    let folder = Folder::new("empty");
    let error = RecordingSource::open(&folder.0, RecordingPart::All).map(drop).unwrap_err();
    assert!(format!("{error:#}").contains("a directory without a segment"), "{error:#}");
}

#[test]
fn the_end_waits_for_the_thread() {
    let folder = Folder::new("end");
    let path = folder.0.join("");
    let flight = FlightRecorder::create(&path, RETENTION, &config(), BEGAN).unwrap();
    flight.finish(LONG).unwrap();
    assert_eq!(source(&folder.0, RecordingPart::All), (vec![], Some(RecordingEnd::Stopped), vec![]));
}
