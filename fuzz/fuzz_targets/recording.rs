//! Recordings, which people send around: played, twice with the same result, and listed.
#![no_main]

use std::time::Duration;

use closewait::{
    engine::{model::Observation, time::Boot},
    recording::replay,
};
use closewait_fuzz::Play;
use libfuzzer_sys::fuzz_target;
use serde::Deserialize;

/// As in a recording.
#[derive(Deserialize)]
#[serde(rename_all = "snake_case")]
enum Line {
    Fact(Box<Observation>),
    Time(Boot),
}

fuzz_target!(|bytes: &[u8]| {
    let _any_result = replay(bytes, |engine| while engine.poll_output().is_some() {});
    // The first bad line ends a recording; here what follows is of interest all the same.
    let lines = || bytes.split(|byte| *byte == b'\n').filter_map(|line| serde_json::from_slice(line).ok());
    assert_eq!(play(lines()), play(lines()), "a recording gives the same lines, always");
});

fn play(lines: impl Iterator<Item = Line>) -> Vec<u8> {
    let (mut play, mut now) = (Play::new(Duration::from_secs(2), Boot(0)), Boot(0));
    for line in lines {
        match line {
            Line::Fact(observation) => play.engine.handle(*observation),
            Line::Time(at) => {
                now = at;
                play.engine.handle_timeout(now);
            }
        }
        play.drain();
    }
    play.list(now);
    play.lines
}
