//! Recordings of real programs, played again without a kernel: always the same findings.
//!
//! `closewait run --record` wrote `tests/recordings/NAME.recording`, and `NAME.expected` is the output of `closewait
//! replay`. With `BLESS=1` in the environment the test writes the latter.

use std::{
    borrow::Cow,
    collections::BTreeSet,
    env, fs,
    os::unix::fs::MetadataExt as _,
    path::{Path, PathBuf},
    process::{Command, Stdio},
    time::Duration,
};

use closewait::recording::{Item, Reader, Recorder};
use closewait_engine::{
    model::{InspectionFact, Observation},
    process::{Architecture, Syscall},
};
use tests_support::{agent::built, blame::is_blame, schema};

/// Beginning of a warning.
const WARNS: &str = "closewait: warn: ";

fn recordings() -> Vec<PathBuf> {
    files("recordings", "recording")
}

/// Returns the files with this extension in a folder beside this file.
fn files(folder: &str, extension: &str) -> Vec<PathBuf> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests").join(folder);
    let mut found: Vec<_> = fs::read_dir(&folder)
        .unwrap_or_else(|error| panic!("{}: {error}", folder.display()))
        .map(|entry| entry.expect("a file").path())
        .filter(|path| path.extension().is_some_and(|found| found == extension))
        .collect();
    found.sort();
    found
}

/// Returns every output line of a recording.
fn lines(recording: &Path) -> String {
    let (code, lines, log) = replay(recording, &["--output", "json"]);
    assert_eq!(code, Some(0), "{}: {log}", recording.display());
    // A warning means that the recording is cut, was full, or has no end.
    assert!(!log.contains(WARNS), "{}: {log}", recording.display());
    lines
}

/// Comparison with files, which `BLESS` writes instead.
#[derive(Default)]
struct Expectations {
    different: Vec<String>,
}

impl Expectations {
    fn compare(&mut self, path: &Path, got: &str) {
        if env::var_os("BLESS").is_some() {
            fs::write(path, got).expect("the expectation");
        } else if fs::read_to_string(path).ok().as_deref() != Some(got) {
            self.different.push(path.display().to_string());
        }
    }

    fn check(self) {
        let Self { different } = self;
        assert!(
            different.is_empty(),
            "see what changed with `BLESS=1 cargo test --test replay` and git diff: {different:?}"
        );
    }
}

#[test]
fn recordings_give_what_is_expected_of_them_every_time() {
    let mut expected = Expectations::default();
    for recording in recordings() {
        let got = lines(&recording);
        assert_eq!(got, lines(&recording), "{} is not the same twice", recording.display());
        let path = recording.with_extension("expected");
        expected.compare(&path, &got);
    }
    expected.check();
}

/// Calls that exist on x86_64 only, and those that the C library makes on aarch64 in their place.
const VARIANTS: [(&str, &str); 3] = [("epoll_wait", "epoll_pwait"), ("poll", "ppoll"), ("select", "pselect6")];

/// Writes a recording as an agent on aarch64 would have recorded it. Returns the number of groups of threads in a system call.
fn on_aarch64(recording: &Path, to: &Path) -> usize {
    let mut recorder = Recorder::empty(fs::File::create(to).expect("a file"), u64::MAX).expect("a recording");
    let mut calls = 0;
    for item in Reader::new(fs::File::open(recording).expect("a recording")).expect("a recording") {
        let mut item = item.expect("an item");
        if let Item::Fact(Cow::Owned(Observation::Inspection(InspectionFact::Process { process, .. }))) = &mut item {
            for call in process.groups.iter_mut().filter_map(|group| group.syscall.as_mut()) {
                let name = call.name().expect("a call that blocks");
                let variant = VARIANTS.iter().find(|(one, _)| *one == name).map_or(name, |(_, other)| other);
                let mut all = (0..500).map(|number| Syscall::new(Architecture::Aarch64, number));
                *call = all.find(|other| other.name() == Some(variant)).expect(variant);
                calls += 1;
            }
        }
        recorder.item(&item).expect("an item");
    }
    recorder.finish(Duration::ZERO).expect("a recording");
    calls
}

#[test]
fn a_recording_of_another_architecture_gives_the_same_findings() {
    let mut calls = 0;
    for recording in recordings() {
        let other = Scratch::new("aarch64", b"");
        calls += on_aarch64(&recording, &other.0);
        let expected = VARIANTS.iter().fold(lines(&recording), |lines, (one, other)| {
            // In a sentence, and as the place of threads in a group.
            let in_place = |name: &str| format!("\"place\":\"{name}\"");
            lines.replace(&format!(" in {one}"), &format!(" in {other}")).replace(&in_place(one), &in_place(other))
        });
        assert_eq!(lines(&other.0), expected, "{}", recording.display());
    }
    assert!(calls > 500, "{calls}");
}

/// `CLOSEWAIT_RECORD=DIR cargo xtask vm --arch aarch64 6.1 --test threads_of_a_hang` made the recording.
#[test]
fn a_recording_made_on_aarch64_has_the_names_of_its_calls_on_every_architecture() {
    let recording = recordings().into_iter().find(|path| path.ends_with("aarch64.recording")).expect("a recording");
    let mut names = BTreeSet::new();
    for item in Reader::new(fs::File::open(&recording).expect("a file")).expect("a recording") {
        if let Item::Fact(Cow::Owned(Observation::Inspection(InspectionFact::Process { process, .. }))) =
            item.expect("an item")
        {
            let calls = process.groups.iter().filter_map(|group| group.syscall);
            names.extend(calls.map(|call| call.name().expect("a call that blocks")));
        }
    }
    // On x86_64, its number is that of flock.
    assert!(names.contains("ppoll") && !names.contains("poll") && !names.contains("flock"), "{names:?}");
    assert!(lines(&recording).contains(" threads wait in ppoll."));
}

/// A segment begins with a state: if that means something else in this version, its replay differs.
#[test]
fn segments_give_what_is_expected_of_them() {
    let mut expected = Expectations::default();
    for segment in files("segments", "segment") {
        let (code, report, log) = run("report", &segment, &["--output", "json"]);
        assert_eq!((code, log.as_str()), (Some(0), ""), "{}", segment.display());
        expected.compare(&segment.with_extension("expected"), &(lines(&segment) + &report));
    }
    let Expectations { different } = expected;
    assert!(
        different.is_empty(),
        "{different:?} differ: if a member of the state means something else now, raise Checkpoint::VERSION \
         (closewait-engine/src/checkpoint.rs); see what changed with `BLESS=1 cargo test --test replay` and git diff"
    );
}

#[test]
fn every_event_and_report_conforms_to_its_schema() {
    // The recording of the picture in README.md is in another folder.
    let picture = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/html/incident.recording");
    let mut printed = BTreeSet::new();
    for recording in recordings().into_iter().chain([picture]) {
        for events in ["incidents", "stuck", "all"] {
            let (code, lines, log) = replay(&recording, &["--output", "json", "--events", events]);
            assert_eq!(code, Some(0), "{}: {log}", recording.display());
            for line in lines.lines() {
                let event = serde_json::from_str(line).expect("JSON");
                schema::check_event(&event);
                printed.insert(event["event"].as_str().expect("`event` is a text").to_owned());
            }
        }
        let mut command = built(env!("CARGO_BIN_EXE_closewait"));
        command.arg("report").arg(&recording).args(["--output", "json"]).stdin(Stdio::null());
        let report = String::from_utf8(command.output().expect("closewait").stdout).expect("UTF-8");
        assert!(report.lines().any(|line| line.contains("\"groups\":")), "{}: {report}", recording.display());
        report.lines().for_each(|line| schema::check_reported(&serde_json::from_str(line).expect("JSON")));
    }
    // Kernel tests check the other two: no recording has an `enter`, and `missed` is an event of `tail` only.
    let all = ["health", "histogram", "leave", "pileup", "pileup_end", "start", "stop", "stuck"];
    assert!(printed.iter().eq(&all), "a type of event that no recording has is not checked here: {printed:?}");
}

#[test]
fn no_healthy_program_is_blamed() {
    let (mut blamed, mut healthy) = (Vec::new(), 0);
    for recording in recordings() {
        let name = recording.file_stem().expect("a name").to_string_lossy().into_owned();
        if !name.starts_with("healthy-") {
            continue;
        }
        healthy += 1;
        for line in lines(&recording).lines() {
            let event: serde_json::Value = serde_json::from_str(line).expect("JSON");
            if is_blame(&event["verdict"]) {
                blamed.push(format!("{name}: {}", event["verdict"]));
            }
        }
    }
    assert!(healthy > 0, "there are recordings of healthy programs");
    assert!(blamed.is_empty(), "{blamed:#?}");
}

#[test]
fn every_suggested_command_is_valid_for_a_shell() {
    let mut commands = BTreeSet::new();
    for recording in recordings() {
        for line in lines(&recording).lines() {
            let event: serde_json::Value = serde_json::from_str(line).expect("JSON");
            let suggested = [&event["command"], &event["verdict"]["command"]];
            commands.extend(suggested.into_iter().filter_map(|command| command.as_str().map(str::to_owned)));
        }
    }
    assert!(commands.len() > 1, "{commands:?}");
    for command in &commands {
        let checked = Command::new("sh").args(["-n", "-c", command]).output().expect("sh");
        assert!(checked.status.success(), "{command}: {}", String::from_utf8_lossy(&checked.stderr));
    }
}

/// Reports that are compared: a hang that is still young, a leak that doubles, a program that no longer accepts, and a healthy one.
const REPORTS: [(&str, &str); 5] = [
    ("worker-pool", "txt"),
    ("worker-pool", "md"),
    ("subscribers-lost", "txt"),
    ("stops-accepting", "md"),
    ("healthy-burst", "txt"),
];

#[test]
fn a_report_of_a_recording_is_what_is_expected_of_it_every_time() {
    let mut expected = Expectations::default();
    for (name, extension) in REPORTS {
        let recording = recordings().into_iter().find(|path| path.file_stem().is_some_and(|stem| stem == name));
        let recording = recording.expect("a recording");
        let format = if extension == "md" { "md" } else { "text" };
        let report = || {
            let (code, text, log) = run("report", &recording, &["--color", "never", "--output", format]);
            assert_eq!((code, log.as_str()), (Some(0), ""), "{name}");
            text
        };
        let got = report();
        assert_eq!(got, report(), "{name} is not the same twice");
        let path = recording.with_extension(format!("report.{extension}"));
        expected.compare(&path, &got);
    }
    expected.check();
}

#[test]
fn the_reports_of_all_recordings_have_the_course_of_each_incident() {
    let mut courses = 0;
    for recording in recordings() {
        let (code, report, log) = run("report", &recording, &["--output", "json"]);
        assert_eq!((code, log.as_str()), (Some(0), ""), "{}", recording.display());
        let report: serde_json::Value = serde_json::from_str(&report).expect("one object");
        // The events of the stream are the milestones of the report.
        let events = lines(&recording);
        let events = events.lines().map(|line| serde_json::from_str::<serde_json::Value>(line).expect("JSON"));
        let opened: Vec<_> =
            events.filter(|event| event["state"] == "opened").map(|event| event["id"].clone()).collect();
        let groups = report["groups"].as_array().expect("groups");
        for group in groups.iter().filter(|group| !group["id"].is_null()) {
            courses += 1;
            assert!(opened.contains(&group["id"]), "{}", recording.display());
            let milestones = group["course"]["milestones"].as_array().expect("milestones");
            let detected: Vec<_> = milestones.iter().filter(|one| one["kind"] == "detected").collect();
            assert_eq!((detected.len(), &detected[0]["time"]), (1, &group["began"]), "{}", recording.display());
            let points = group["course"]["points"].as_array().expect("points");
            assert!((3..=97).contains(&points.len()), "{}", recording.display());
            assert_eq!(points.last().expect("a point")["count"], group["count"], "{}", recording.display());
        }
    }
    assert!(courses >= 5, "{courses}");
}

#[test]
fn a_report_of_a_cut_recording_says_so() {
    let recording =
        recordings().into_iter().find(|path| path.ends_with("worker-pool.recording")).expect("one of several frames");
    let bytes = fs::read(&recording).expect("a recording");
    let cut = Scratch::new("report-cut", &bytes[..bytes.len() - 20]);
    for format in ["text", "md", "json"] {
        let (code, text, log) = run("report", &cut.0, &["--output", format]);
        assert_eq!(code, Some(0), "{log}");
        assert!(log.contains(WARNS) && log.contains("is cut at byte "), "{log}");
        assert_eq!(text.contains("is cut at byte "), format != "json", "{text}");
    }
}

/// Returns the output of `closewait replay` with these arguments: exit code, standard output, standard error.
fn replay(file: &Path, arguments: &[&str]) -> (Option<i32>, String, String) {
    run("replay", file, arguments)
}

/// Returns the output of a command of closewait on a recording: exit code, standard output, standard error.
fn run(name: &str, file: &Path, arguments: &[&str]) -> (Option<i32>, String, String) {
    let mut command = built(env!("CARGO_BIN_EXE_closewait"));
    command.env("COLUMNS", "100");
    let output = command.arg(name).arg(file).args(arguments).stdin(Stdio::null()).output().expect("closewait");
    let text = |bytes| String::from_utf8(bytes).expect("UTF-8");
    (output.status.code(), text(output.stdout), text(output.stderr))
}

/// File that is removed at the end of the test.
struct Scratch(PathBuf);

impl Scratch {
    fn new(name: &str, bytes: &[u8]) -> Self {
        let path = env::temp_dir().join(format!("closewait-replay-{}-{name}", std::process::id()));
        fs::write(&path, bytes).expect("a file");
        Self(path)
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        // If this fails, the file stays in the folder for temporary files, which is harmless.
        let _result = fs::remove_file(&self.0);
    }
}

#[test]
fn the_pace_of_a_replay_changes_nothing_else() {
    let recording = recordings().into_iter().find(|path| path.ends_with("nginx.recording")).expect("that of nginx");
    let (code, text, log) = replay(&recording, &["--color", "never"]);
    assert_eq!(code, Some(0), "{log}");
    assert!(text.lines().any(|line| line.contains(" stuck ")), "{text}");
    let (_code, fast, _log) = replay(&recording, &["--color", "never", "--speed", "1e6"]);
    assert_eq!(fast, text);
}

#[test]
fn a_cut_tail_is_skipped_with_a_word_and_damage_before_it_is_an_error() {
    let recording = recordings().into_iter().find(|path| path.ends_with("nginx.recording")).expect("that of nginx");
    let (whole, bytes) = (lines(&recording), fs::read(&recording).expect("a recording"));
    let cut = Scratch::new("cut", &bytes[..bytes.len() - 20]);
    let (code, lines, log) = replay(&cut.0, &["--output", "json"]);
    assert_eq!(code, Some(0), "{log}");
    assert!(whole.starts_with(&lines), "{lines}");
    assert!(log.contains("is cut at byte ") && log.contains(" bytes are no whole frame"), "{log}");
    assert!(log.contains(WARNS), "{log}");
    let cut = Scratch::new("cut-end", &bytes[..bytes.len() - 1]);
    let (code, lines, log) = replay(&cut.0, &["--output", "json"]);
    assert_eq!((code, lines.as_str()), (Some(0), whole.as_str()), "only what says that it ends is cut: {log}");
    assert!(log.contains(WARNS), "{log}");

    let mut damaged = bytes.clone();
    damaged[40] ^= 1;
    let damaged = Scratch::new("damaged", &damaged);
    let (code, lines, log) = replay(&damaged.0, &["--output", "json"]);
    assert_eq!((code, lines.as_str()), (Some(1), ""), "{log}");
    assert!(log.contains("damaged at byte 22"), "{log}");
}

#[test]
fn lines_of_the_log_have_a_priority_where_the_journal_reads_them() {
    let recording = recordings().into_iter().find(|path| path.ends_with("nginx.recording")).expect("that of nginx");
    let bytes = fs::read(&recording).expect("a recording");
    let cut = Scratch::new("journal", &bytes[..bytes.len() - 20]);
    for (offset, begin) in [(0, "<4>closewait: warn: "), (1, WARNS)] {
        let log = Scratch::new("journal-log", b"");
        let file = fs::File::create(&log.0).expect("a file");
        let stream = file.metadata().expect("its inode");
        let mut command = built(env!("CARGO_BIN_EXE_closewait"));
        // With another inode, the variable is that of a parent whose output was the journal.
        command.env("JOURNAL_STREAM", format!("{}:{}", stream.dev(), stream.ino() + offset));
        command.arg("replay").arg(&cut.0).stdin(Stdio::null()).stdout(Stdio::null()).stderr(file);
        assert!(command.status().expect("closewait").success());
        let log = fs::read_to_string(&log.0).expect("the log");
        assert!(!log.is_empty() && log.lines().all(|line| line.starts_with(begin)), "{log}");
    }
}

#[test]
fn what_is_no_recording_of_this_version_is_refused_with_what_to_do() {
    for (text, says) in [
        ("closewait recording 4\n", "has format 4, and this closewait reads formats 1 to 3\nhint: play it with"),
        ("{\"format\":1}\n", "this is no recording"),
    ] {
        let file = Scratch::new("other", text.as_bytes());
        let (code, lines, log) = replay(&file.0, &[]);
        assert_eq!((code, lines.as_str()), (Some(1), ""), "{log}");
        assert!(log.contains(says), "{log}");
    }
    let (code, _lines, log) = replay(Path::new("/nowhere/at/all"), &[]);
    assert!(code == Some(1) && log.contains("No such file"), "{log}");
}
