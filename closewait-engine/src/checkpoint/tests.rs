use std::time::Duration;

use proptest::prelude::*;

use super::*;
use crate::{
    Config, Events,
    model::{Observation, Output, ScanEnd, ScanFact, SocketEvent, SocketKey},
    snapshot::query::Filter,
    testing::{owner, socket, socket_on_port},
    tests::any_times::{Step, step},
    time::BootTime,
};

const BEGAN: BootTime = BootTime(1_000_000_000);

fn config() -> Config {
    let stuck_after = Duration::from_secs(10);
    Config { stuck_after, events: Events::All, max_tracked: 3, reads_progress: true, ..Config::default() }
}

fn drained(engine: &mut Engine) -> Vec<Output> {
    std::iter::from_fn(|| engine.poll_output()).collect()
}

fn bytes(engine: &Engine) -> Vec<u8> {
    rmp_serde::to_vec_named(&engine.checkpoint().unwrap()).unwrap()
}

/// Returns an engine that continues from the bytes of a checkpoint of `engine`.
fn restored(engine: &Engine) -> Engine {
    rmp_serde::from_slice::<Checkpoint>(&bytes(engine)).unwrap().restore().unwrap()
}

fn take(engine: &mut Engine, step: &Step) -> Vec<Output> {
    match step {
        Step::Fact(fact) => engine.handle((**fact).clone()),
        Step::Time(at) => engine.handle_timeout(*at),
        Step::Undecodable(at) => engine.undecodable(*at),
        Step::View(at) => drop(engine.view(*at)),
    }
    drained(engine)
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    /// The engine continues with the same outputs from any time, and ends in the same state. Not many sockets are
    /// tracked, so that the limits are reached.
    #[test]
    fn an_engine_continues_from_any_time(steps in prop::collection::vec(step(), 1..60), cut in 0..60_usize) {
        let (before, after) = steps.split_at(cut.min(steps.len()));
        let mut engine = Engine::new(config(), BEGAN);
        before.iter().for_each(|step| drop(take(&mut engine, step)));
        let mut other = restored(&engine);
        for step in after {
            prop_assert_eq!(take(&mut engine, step), take(&mut other, step));
            prop_assert_eq!(engine.poll_timeout(), other.poll_timeout());
            prop_assert_eq!(engine.totals(), other.totals());
        }
        prop_assert_eq!(bytes(&engine), bytes(&other));
        let last = BootTime(60_000_000_000);
        prop_assert_eq!(engine.report_of(last, &Filter::default(), crate::snapshot::query::ReportContent::Courses),
            other.report_of(last, &Filter::default(), crate::snapshot::query::ReportContent::Courses));
    }
}

fn enter(engine: &mut Engine, number: u64) {
    let mut socket = socket_on_port(80);
    socket.remote.port = u16::try_from(number % 60_000).unwrap();
    engine.handle(SocketEvent::Enter { key: SocketKey(1 << 63 | number), at: BEGAN, socket });
}

#[test]
fn a_checkpoint_does_not_change_with_its_engine() {
    let mut engine = Engine::new(config(), BEGAN);
    enter(&mut engine, 1);
    let _taken = drained(&mut engine);
    let checkpoint = engine.checkpoint().unwrap();
    let before = rmp_serde::to_vec_named(&checkpoint).unwrap();
    let found = ScanFact::Descriptor { key: SocketKey(1 << 63 | 1), at: None, inode: 7, owner: owner("x", 1, 3) };
    engine.handle(found);
    engine.handle(ScanEnd::Descriptors { began: BEGAN, blind: None, saw_listeners: true });
    assert_eq!(rmp_serde::to_vec_named(&checkpoint).unwrap(), before);
    let _taken = drained(&mut engine);
    assert_ne!(bytes(&engine), before);
}

/// Prints the measurements of docs/performance.md: run with `--release -- --ignored --nocapture`.
#[test]
#[ignore = "a measurement"]
#[expect(clippy::print_stdout, reason = "a measurement")]
fn a_checkpoint_of_many_sockets() {
    for count in [10_000, 100_000, 1_000_000_u64] {
        let mut engine = Engine::new(Config { max_tracked: 1 << 20, events: Events::Stuck, ..config() }, BEGAN);
        for number in 0..count {
            let socket = crate::model::Socket { cookie: Some(number), inode: Some(number), ..socket_on_port(80) };
            let (key, at) = (SocketKey(1 << 63 | number), BEGAN + Duration::from_micros(number));
            engine.handle(SocketEvent::Enter { key, at, socket });
            let owner = owner("worker", u32::try_from(number / 1000).unwrap(), 3);
            engine.handle(ScanFact::Descriptor { key, at: None, inode: number, owner });
        }
        engine.handle(ScanEnd::Descriptors { began: BEGAN, blind: None, saw_listeners: true });
        let _taken = drained(&mut engine);
        let now = || std::time::UNIX_EPOCH.elapsed().unwrap();
        // A scan for owners, as the agent does it every minute. The event loop takes its facts in pieces, the end at once.
        let scan = |engine: &mut Engine, is_held: bool| {
            let start = now();
            for number in (0..count).filter(|_| is_held) {
                let owner = owner("worker", u32::try_from(number / 1000).unwrap(), 3);
                engine.handle(ScanFact::Descriptor {
                    key: SocketKey(1 << 63 | number),
                    at: None,
                    inode: number,
                    owner,
                });
            }
            let (found, start) = (now() - start, now());
            engine.handle(ScanEnd::Descriptors {
                began: BEGAN + Duration::from_secs(9),
                blind: None,
                saw_listeners: true,
            });
            (found, now() - start)
        };
        let alone = scan(&mut engine, true);
        let start = now();
        let checkpoint = engine.checkpoint().unwrap();
        let (copied, start) = (now() - start, now());
        let bytes = rmp_serde::to_vec_named(&checkpoint).unwrap();
        let written = now() - start;
        // While a checkpoint is written, it shares the sockets: the first change of each copies it.
        let same = scan(&mut engine, true);
        let start = now();
        drop(checkpoint);
        let freed = now() - start;
        // The worst case: all sockets change at once.
        let checkpoint = engine.checkpoint().unwrap();
        let (_, all_change) = scan(&mut engine, false);
        drop(checkpoint);
        let start = now();
        let _engine = rmp_serde::from_slice::<Checkpoint>(&bytes).unwrap().restore().unwrap();
        println!(
            "{count} sockets: copied in {copied:?}, serialized in {written:?} to {} bytes, freed in {freed:?}, restored \
             in {:?}; a scan (facts, end): {alone:?}, with a checkpoint {same:?}, end that changes all {all_change:?}",
            bytes.len(),
            now() - start
        );
    }
}

#[test]
fn there_is_no_checkpoint_before_all_outputs_are_taken() {
    let mut engine = Engine::new(config(), BEGAN);
    engine.handle(Observation::from(SocketEvent::Enter { key: SocketKey(1 << 63), at: BEGAN, socket: socket() }));
    assert!(engine.checkpoint().is_none());
    assert!(!drained(&mut engine).is_empty());
    assert!(engine.checkpoint().is_some());
}

#[test]
fn settings_that_no_agent_takes_are_refused() {
    let mut engine = Engine::new(config(), BEGAN);
    engine.config.histogram_every = Duration::ZERO;
    assert_eq!(engine.checkpoint().unwrap().restore().unwrap_err(), CheckpointError::Settings);
}
