//! Series of recorded incidents, for the unit tests of the rules.
//!
//! Every recording is played at its own times. Every [`INTERVAL`] of them, the page of metrics is taken as a scrape would get it, and
//! the samples of all metrics that the rules use become `input_series` of `promtool test rules`. Neither times nor values are scaled.

use std::{
    collections::{BTreeMap, BTreeSet},
    env,
    fmt::Write as _,
    fs::{self, File},
    io,
    path::PathBuf,
    sync::Arc,
    time::Duration,
};

use crate::{path, rules, text};
use closewait::{
    metrics::{AgentFacts, MomentSnapshot, ProcessUsage, prometheus::PageFormat, readings::ReadingsSource},
    recording::{Item, Player, Reader, Shown},
};

pub(crate) const TESTS: &str = "contrib/monitoring/prometheus/closewait.rules.test.yml";
/// Interval between two scrapes; the tests have the same `interval`.
const INTERVAL: Duration = Duration::from_secs(5);
/// Number of scrapes after the end of a recording: the agent has ended, so they fail.
const AFTER: usize = 120;
/// Labels that Prometheus adds to the series of the target in `docs/monitoring.md`.
const TARGET: &str = "job=\"closewait\",instance=\"127.0.0.1:9753\"";
/// Begin and end of the series of a recording in the tests; the name of the recording follows.
const BEGIN: &str = "      # Generated from the recording ";
const END: &str = "      # End of the recording ";

/// Samples of each series by its name with labels; `None` where a scrape has none.
type Series = BTreeMap<String, Vec<Option<String>>>;

fn folder() -> PathBuf {
    path("closewait-agent/tests/monitoring/recordings")
}

/// Returns the pages of metrics of all scrapes of a recording.
fn pages(recording: &str) -> Vec<String> {
    let file = folder().join(format!("{recording}.recording"));
    let file = File::open(&file).unwrap_or_else(|error| panic!("{}: {error}", file.display()));
    let (mut player, mut facts, mut pages) = (Player::default(), Arc::new(AgentFacts::default()), Vec::new());
    let mut next = None;
    for item in Reader::new(io::BufReader::new(file)).expect("a recording") {
        let item = item.expect("an item");
        if let Item::Began { at, .. } = &item {
            next = Some(*at);
        } else if let Item::Time(now) = &item {
            while let (Some(at), Some(engine)) = (next.filter(|at| at <= now), player.engine()) {
                let moment = MomentSnapshot { numbers: engine.metrics(at), anchor: player.anchor() };
                let usage = ProcessUsage::default();
                let source =
                    ReadingsSource { moment: Arc::new(moment), facts: Arc::clone(&facts), usage, export_losses: None };
                let page = PageFormat::Text.page(source.readings()).expect("a page");
                pages.push(String::from_utf8(page.into()).expect("UTF-8"));
                next = Some(at + INTERVAL);
            }
        }
        let play = player.play(item, |shown, _anchor| {
            if let Shown::Start(start) = shown {
                facts = Arc::new(AgentFacts::of(start));
            }
            Ok(())
        });
        play.expect("a sound recording");
    }
    assert!(pages.len() > 10, "{recording} is too short");
    pages
}

/// Returns the samples of a recording of these metrics, with `up` as Prometheus makes it.
fn series(recording: &str, metrics: &BTreeSet<String>) -> Series {
    let pages = pages(recording);
    let mut series = Series::new();
    for (scrape, page) in pages.iter().enumerate() {
        for line in page.lines().filter(|line| !line.starts_with('#')) {
            let (key, value) = line.rsplit_once(' ').expect("a sample");
            let (name, labels) =
                key.split_once('{').map_or((key, ""), |(name, labels)| (name, labels.trim_end_matches('}')));
            if metrics.contains(name) {
                let comma = if labels.is_empty() { "" } else { "," };
                let samples = series.entry(format!("{name}{{{TARGET}{comma}{labels}}}"));
                let samples = samples.or_insert_with(|| vec![None; pages.len()]);
                samples[scrape] = Some(value.to_owned());
            }
        }
    }
    let up = [("1", pages.len()), ("0", AFTER)].map(|(value, count)| vec![Some(value.to_owned()); count]);
    series.insert(format!("up{{{TARGET}}}"), up.concat());
    series
}

/// Returns samples in the notation of promtool: `_` for none, and `stale` where a series ends, as Prometheus marks it then.
fn notation(samples: &[Option<String>]) -> String {
    let mut words: Vec<(String, usize)> = Vec::new();
    let mut before: Option<&String> = None;
    for sample in samples.iter().map(Option::as_ref).chain([None]) {
        let word = match (sample, before) {
            (Some(value), _) => value.as_str(),
            (None, Some(_)) => "stale",
            (None, None) => "_",
        };
        match words.last_mut() {
            Some((last, count)) if last == word => *count += 1,
            _ => words.push((word.to_owned(), 1)),
        }
        before = sample;
    }
    let words = words.into_iter().map(|(word, count)| match (word.as_str(), count) {
        (_, 1) => word,
        ("_" | "stale", _) => vec![word; count].join(" "),
        // The value and as many repetitions.
        (_, _) => format!("{word}x{}", count - 1),
    });
    words.collect::<Vec<_>>().join(" ")
}

/// Returns the tests with the series of all recordings that they name, and the names.
fn regenerated(tests: &str, metrics: &BTreeSet<String>) -> (String, Vec<String>) {
    let (mut new, mut names) = (String::new(), Vec::new());
    let mut lines = tests.lines();
    while let Some(line) = lines.next() {
        new += line;
        new.push('\n');
        let Some(name) = line.strip_prefix(BEGIN) else { continue };
        for (series, samples) in series(name, metrics) {
            // Single quotes of YAML escape nothing but themselves.
            let quoted = series.replace('\'', "''");
            writeln!(new, "      - series: '{quoted}'\n        values: {}", notation(&samples)).expect("a string");
        }
        let end = format!("{END}{name}");
        assert!(lines.any(|line| line == end), "{TESTS}: a line {end:?} is missing");
        new += &end;
        new.push('\n');
        names.push(name.to_owned());
    }
    (new, names)
}

#[test]
fn the_series_of_the_unit_tests_are_those_of_the_recordings() {
    let old = text(TESTS);
    let (new, names) = regenerated(&old, &rules::metrics());
    if env::var_os("BLESS").is_some_and(|bless| bless == "1") {
        fs::write(path(TESTS), &new).expect("the tests");
    } else {
        assert!(old == new, "{TESTS} does not match the recordings; run `cargo xtask docs` and commit the result");
    }
    let files = fs::read_dir(folder()).expect("the recordings").map(|entry| entry.expect("a recording").path());
    let files: BTreeSet<_> =
        files.map(|file| file.file_stem().expect("a name").to_string_lossy().into_owned()).collect();
    assert_eq!(names.into_iter().collect::<BTreeSet<_>>(), files, "recordings of the tests, and those in the folder");
    let intervals: Vec<_> =
        new.lines().filter_map(|line| line.trim_start_matches([' ', '-']).strip_prefix("interval: ")).collect();
    let interval = format!("{}s", INTERVAL.as_secs());
    assert!(!intervals.is_empty() && intervals.iter().all(|each| *each == interval), "{intervals:?}");
}

#[test]
fn samples_are_written_as_promtool_reads_them() {
    let samples = |text: &str| -> Vec<_> { text.chars().map(|one| (one != '_').then(|| one.to_string())).collect() };
    for (of, expected) in [("", "_"), ("1", "1 stale"), ("1112", "1x2 2 stale"), ("__1_2__", "_ _ 1 stale 2 stale _ _")]
    {
        assert_eq!(notation(&samples(of)), expected, "{of}");
    }
}
