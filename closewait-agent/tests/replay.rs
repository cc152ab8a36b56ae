//! Recordings of real programs, played again without a kernel: the same findings, always.
//!
//! `tests/recordings/NAME.jsonl` was kept by `closewait run --record`, `NAME.expected` is what the engine says of it. With
//! `BLESS=1` in the environment what it says is written there.

use std::{
    collections::BTreeMap,
    env,
    fs::{self, File},
    path::{Path, PathBuf},
    time::{Duration, UNIX_EPOCH},
};

use closewait::{
    clock::TimeAnchor,
    engine::model::{Finding, Output},
    recording::replay,
    sink::{Sink as _, json::Json},
};

fn recordings() -> Vec<PathBuf> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/recordings");
    let mut found: Vec<_> = fs::read_dir(&folder)
        .unwrap_or_else(|error| panic!("{}: {error}", folder.display()))
        .map(|entry| entry.expect("a file").path())
        .filter(|path| path.extension().is_some_and(|extension| extension == "jsonl"))
        .collect();
    found.sort();
    found
}

/// All lines but those of histograms, which depend on how long the recording went on.
fn findings(recording: &Path) -> String {
    let anchor = TimeAnchor::booted_at(UNIX_EPOCH + Duration::from_secs(1_700_000_000));
    let (mut sink, mut lines) = (Json::default(), Vec::new());
    replay(File::open(recording).expect("a recording"), |engine| {
        while let Some(output) = engine.poll_output() {
            let Output::Finding(finding) = output else { continue };
            if !matches!(finding, Finding::Histogram { .. }) {
                sink.finding(&finding, anchor, &mut lines).expect("a line");
            }
        }
    })
    .unwrap_or_else(|error| panic!("{}: {error:#}", recording.display()));
    String::from_utf8(lines).expect("UTF-8")
}

#[test]
fn recordings_give_what_is_expected_of_them_every_time() {
    let bless = env::var_os("BLESS").is_some();
    let mut different = Vec::new();
    for recording in recordings() {
        let got = findings(&recording);
        assert_eq!(got, findings(&recording), "{} is not the same twice", recording.display());
        let path = recording.with_extension("expected");
        if bless {
            fs::write(&path, &got).expect("the expectation");
        } else if fs::read_to_string(&path).ok().as_deref() != Some(&got) {
            different.push(path.display().to_string());
        }
    }
    assert!(
        different.is_empty(),
        "see what changed with `BLESS=1 cargo test --test replay` and git diff: {different:?}"
    );
}

#[test]
fn no_healthy_program_is_blamed() {
    let mut seen = BTreeMap::new();
    for recording in recordings() {
        let name = recording.file_stem().expect("a name").to_string_lossy().into_owned();
        if !name.starts_with("healthy") {
            continue;
        }
        let blamed = findings(&recording).lines().filter(|line| is_blame(line)).count();
        seen.insert(name, blamed);
    }
    assert!(seen.values().all(|blamed| *blamed == 0), "{seen:?}");
    assert!(!seen.is_empty(), "there are recordings of healthy programs");
}

/// `hung` or `leak`, as a thing that is certain.
fn is_blame(line: &str) -> bool {
    let event: serde_json::Value = serde_json::from_str(line).expect("JSON");
    let of = |member: &str| event["verdict"][member].as_str().unwrap_or_default().to_owned();
    ["hung", "leak"].contains(&of("class").as_str()) && ["high", "fact"].contains(&of("certainty").as_str())
}
