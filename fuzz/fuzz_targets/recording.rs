//! Recordings, which users exchange: played twice with the same result, and listed.
#![no_main]

use std::time::Duration;

use closewait::{
    recording::{Item, Player, Reader, Shown},
    sink::Numbering,
};
use closewait_engine::{Checkpoint, time::BootTime};
use closewait_fuzz::Play;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    assert_eq!(lines(bytes), lines(bytes), "a recording gives the same lines, always");
    // A fuzzer cannot guess checks and compressed data; here the bytes are plain items, with anything between them.
    assert_eq!(play(bytes, false), play(bytes, true), "items give the same lines, also from any checkpoint");
});

/// Plays a file.
fn lines(bytes: &[u8]) -> Vec<u8> {
    let (mut player, mut numbering, mut lines) = (Player::default(), Numbering::default(), Vec::new());
    let Ok(reader) = Reader::new(bytes) else { return lines };
    for item in reader.map_while(Result::ok) {
        let played = player.play(item, |shown, anchor| {
            let event = match shown {
                Shown::Start(start) => numbering.start(start, anchor),
                Shown::Finding(finding) => numbering.finding(finding, anchor),
                Shown::StillStuck(..) | Shown::HandedOut | Shown::Unwritten => return Ok(()),
            };
            lines.extend_from_slice(event.json()?);
            Ok(())
        });
        if played.is_err() {
            break;
        }
    }
    lines
}

/// Plays items, and takes all outputs after each. With checkpoints, another engine continues from there each time.
fn play(mut bytes: &[u8], with_checkpoints: bool) -> Vec<u8> {
    let (mut play, mut now) = (Play::new(Duration::from_secs(2), BootTime(0)), BootTime(0));
    while let Some((_first, rest)) = bytes.split_first() {
        let mut behind = bytes;
        let Ok(item) = Item::decode(&mut behind) else {
            bytes = rest;
            continue;
        };
        bytes = behind;
        match item {
            Item::Fact(observation) => play.engine.handle(observation.into_owned()),
            Item::Time(at) => {
                now = at;
                play.engine.handle_timeout(now);
            }
            Item::Undecodable(at) => play.engine.undecodable(at),
            Item::Unwritten { at, lines } => play.engine.unwritten(at, lines),
            Item::Refused { at, entries } => play.engine.unwritten(at, entries),
            Item::LogDropped { at, lines } => play.engine.log_lines_dropped(at, lines),
            Item::Unexported { at, events } => play.engine.unexported(at, events),
            Item::Unrecorded { at, observations } => play.engine.unrecorded(at, observations),
            Item::Started(start) => play.start(&start),
            Item::ScanBegan => drop(play.engine.scan_began()),
            Item::Stopping => play.engine.stop(),
            Item::Segment(_)
            | Item::Checkpoint(_)
            | Item::Began { .. }
            | Item::Polled(_)
            | Item::Drained
            | Item::Anchored(_)
            | Item::HandedOut => {}
        }
        play.drain();
        if with_checkpoints && let Some(checkpoint) = play.engine.checkpoint() {
            let bytes = rmp_serde::to_vec_named(&checkpoint).expect("a state has a form");
            let again: Checkpoint = rmp_serde::from_slice(&bytes).expect("and is read again");
            play.engine = again.restore().expect("an engine continues from its own state");
        }
    }
    play.list(now);
    play.lines
}
