//! What holds for every case there can be.

use std::time::Duration;

use proptest::prelude::*;

use super::{
    Flow, RULES, Trend, left,
    left::ABOUT,
    testing::{STUCK_AFTER, Scene, owned_by, process, secs, task},
};
use crate::{
    model::{Certainty, Class, Dwell, Exit, ExitCause, Opener, ReadState, Role, SocketLocation},
    time::BootTime,
};

/// Choices out of random numbers; when they run out, always the first.
struct Dice(std::vec::IntoIter<u32>);

impl Dice {
    fn below(&mut self, bound: u64) -> u64 {
        u64::from(self.0.next().unwrap_or(0)) % bound
    }

    fn one<T: Clone>(&mut self, of: &[T]) -> T {
        of[self.below(of.len() as u64) as usize].clone()
    }

    fn maybe<T>(&mut self, value: impl FnOnce(&mut Self) -> T) -> Option<T> {
        (self.below(3) > 0).then(|| value(self))
    }

    fn seconds(&mut self) -> Duration {
        let longest = self.one(&[10, 100, 1000, 100_000]);
        secs(self.below(longest))
    }
}

const HOW: [ExitCause; 8] = [
    ExitCause::Closed,
    ExitCause::Shutdown,
    ExitCause::Aborted,
    ExitCause::Reset,
    ExitCause::Timeout,
    ExitCause::Destroyed,
    ExitCause::ListenerClosed,
    ExitCause::Unknown,
];

const READS: [ReadState; 6] = [
    ReadState::NeverRead,
    ReadState::Probe,
    ReadState::IdleFin,
    ReadState::Goodbye,
    ReadState::Partial,
    ReadState::FinConsumed,
];

fn flow(dice: &mut Dice, now: BootTime) -> Flow {
    let (entered, old, since) = (dice.below(1000), dice.below(300), dice.below(40));
    Flow {
        watched: dice.seconds(),
        entered,
        closed: dice.below(entered + 1),
        lost: dice.below(5),
        last_closed: dice.maybe(|dice| now - dice.seconds()),
        longest_closed: dice.maybe(Dice::seconds),
        old_entered: old,
        old_present: dice.below(old + 1),
        onset: dice.maybe(|dice| now - dice.seconds()),
        since_onset_entered: since,
        since_onset_present: since - dice.below(since + 1).min(dice.below(3)),
        trend: dice.maybe(|dice| dice.one(&[Trend::Growing, Trend::Level, Trend::Falling, Trend::Uneven])),
    }
}

/// Any case, most of them with all that rules look for.
fn scene(numbers: Vec<u32>) -> Scene {
    let dice = &mut Dice(numbers.into_iter());
    let mut scene = if dice.below(2) == 0 { Scene::server() } else { Scene::client() };
    let (count, age) = (1 + dice.below(30) as u32, dice.seconds());
    scene = scene.of(count).aged(age.as_secs()).reading(dice.one(&READS)).replied(dice.below(2) == 0);
    if dice.below(4) == 0 {
        scene.dwell = Dwell::Between { at_least: age, at_most: dice.maybe(Dice::seconds).map(|more| age + more) };
    }
    let now = scene.now;
    let socket = &mut scene.socket;
    socket.role = dice.one(&[socket.role, socket.role, socket.role, None, Some(Role::Server)]);
    socket.accepted = dice.one(&[Some(true), Some(true), Some(true), Some(false), None]);
    socket.unread_bytes = dice.one(&[socket.unread_bytes, socket.unread_bytes, Some(0), Some(u32::MAX), None]);
    socket.received_bytes = dice.one(&[socket.received_bytes, socket.received_bytes, Some(0), Some(u64::MAX), None]);
    socket.sent_bytes = dice.one(&[socket.sent_bytes, socket.sent_bytes, Some(u64::MAX), None]);
    socket.last_sent = dice.one(&[socket.last_sent, Some(now - age), Some(now), None]);
    socket.last_ack = dice.one(&[socket.last_ack, Some(now), None]);
    socket.send_queue_bytes = dice.one(&[Some(0), Some(9), None]);
    socket.opener = dice.maybe(|dice| Box::new(Opener { task: task(dice.one(&[42, 7]), "opener"), at: now - age }));
    scene.gone = (dice.below(10) == 0).then(|| Exit {
        at: now - dice.seconds(),
        seen: dice.one(&[true, false]),
        how: dice.one(&HOW),
        closer: None,
        dwell: None,
    });
    scene.owners = dice.one(&[
        Some(vec![owned_by(42, "app", 9)]),
        Some(vec![owned_by(42, "app", 9)]),
        Some(vec![owned_by(7, "a\x1b[31m\n", 3), owned_by(42, "app", 9)]),
        Some(Vec::new()),
        None,
    ]);
    scene.blind = dice.below(5) == 0;
    scene.place =
        dice.one(&[None, Some(SocketLocation::IoUring(task(1, "a\x07b"))), Some(SocketLocation::InFlight(Vec::new()))]);
    scene.untouched = dice.seconds().min(age);
    scene.group.oldest = age + dice.seconds();
    scene.group.youngest = dice.seconds().min(age);
    scene.group.stuck = if age >= STUCK_AFTER { 1 + dice.below(count.into()) as u32 } else { dice.below(2) as u32 };
    scene.group.remotes = 1 + dice.below(3) as u32;
    scene.group.unaccepted = dice.below(3) as u32;
    scene.group.flow = dice.maybe(|dice| flow(dice, now));
    if dice.below(2) == 0 {
        scene = scene.listened_by(&[owned_by(7, "parent", 3)]);
    }
    if dice.below(5) == 0 {
        scene = scene.paired(dice.below(40) as u32);
    }
    let exe = dice.one(&["/usr/bin/app", "/usr/bin/other", "", "/"]);
    scene.processes = vec![process(42, "app", "/usr/bin/app"), process(7, "parent", exe)];
    scene
}

fn numbers() -> impl Strategy<Value = Vec<u32>> {
    prop::collection::vec(any::<u32>(), 96)
}

fn is_sure(certainty: Certainty) -> bool {
    matches!(certainty, Certainty::Fact | Certainty::High)
}

/// No character that a terminal acts on, and something to read.
fn readable(text: &str) -> bool {
    !text.is_empty() && !text.chars().any(char::is_control) && !text.contains("  ")
}

/// Else the properties would be about less than they say.
#[test]
fn random_cases_reach_every_rule() {
    // Numbers of a linear congruential generator: the same ones always.
    let mut state = 1_u64;
    let mut number = || {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 32) as u32
    };
    let mut reached = std::collections::BTreeSet::new();
    for _ in 0..20_000 {
        reached.insert(scene((0..96).map(|_| number()).collect()).verdict().rule);
    }
    let missed: Vec<_> = RULES.iter().map(|rule| rule.about().name).filter(|name| !reached.contains(name)).collect();
    // A busy thread is what the process has to tell.
    assert_eq!(missed, ["event_loop_blocked"]);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(4000))]

    #[test]
    fn every_verdict_is_readable_and_one_that_its_rule_is_documented_to_give(numbers in numbers()) {
        let scene = scene(numbers);
        let verdict = scene.verdict();
        prop_assert!(readable(&verdict.text), "{:?}", verdict);
        prop_assert!(readable(&verdict.next), "{:?}", verdict);
        if let Some(rule) = RULES.iter().find(|rule| rule.about().name == verdict.rule) {
            let about = rule.about();
            prop_assert!(about.class.contains(&verdict.class), "{:?}", verdict);
            prop_assert!(about.certainty.iter().any(|(certainty, _)| *certainty == verdict.certainty), "{:?}", verdict);
        }
    }

    #[test]
    fn every_rule_alone_is_safe(numbers in numbers()) {
        let scene = scene(numbers);
        for rule in RULES {
            if let Some(said) = scene.ask(*rule) {
                prop_assert!(readable(&said.text) && readable(&said.next), "{}: {said:?}", rule.about().name);
                prop_assert!(rule.about().class.contains(&said.class), "{}: {said:?}", rule.about().name);
            }
        }
    }

    #[test]
    fn a_program_that_keeps_up_is_never_surely_hung(numbers in numbers(), ago in 0_u64..50) {
        let mut scene = scene(numbers);
        let at = scene.now - secs(ago);
        scene = scene.flowing(|flow| {
            (flow.entered, flow.closed, flow.last_closed) = (1000, 990, Some(at));
            (flow.old_entered, flow.old_present) = (800, 8);
        });
        let verdict = scene.verdict();
        prop_assert!(!(verdict.class == Class::Hung && is_sure(verdict.certainty)), "{verdict:?}");
    }

    #[test]
    fn a_single_look_accuses_nobody_surely(numbers in numbers()) {
        let mut scene = scene(numbers);
        scene.group.flow = None;
        let verdict = scene.verdict();
        let accuses = matches!(verdict.class, Class::Hung | Class::Leak);
        prop_assert!(!(accuses && is_sure(verdict.certainty)), "{verdict:?}");
    }

    #[test]
    fn a_server_that_has_answered_is_never_surely_hung(numbers in numbers()) {
        let mut scene = scene(numbers).replied(true);
        scene.group.reads.clear();
        let verdict = scene.verdict();
        prop_assert!(!(verdict.class == Class::Hung && is_sure(verdict.certainty)), "{verdict:?}");
    }

    #[test]
    fn what_is_not_stuck_is_never_accused(numbers in numbers(), age in 0_u64..60) {
        let mut scene = scene(numbers).aged(age);
        scene.gone = None;
        let class = scene.verdict().class;
        prop_assert!(!matches!(class, Class::Hung | Class::Leak), "{class:?}");
    }

    #[test]
    fn every_leaving_is_readable(how in 0_usize..8, age in 0_u64..1_000_000, exact: bool, fd_open: Option<bool>) {
        let age = secs(age);
        let dwell = if exact { Dwell::Exact(age) } else { Dwell::Between { at_least: age, at_most: None } };
        if let Some(verdict) = left(&Scene::server().socket, Some(dwell), HOW[how], fd_open, None) {
            prop_assert!(readable(&verdict.text) && readable(&verdict.next), "{verdict:?}");
            prop_assert!(ABOUT.class.contains(&verdict.class));
            prop_assert!(ABOUT.certainty.iter().any(|(certainty, _)| *certainty == verdict.certainty));
        }
    }
}
