//! Properties of verdicts, tested with random cases.

use std::time::Duration;

use proptest::prelude::*;

use super::evidence::{
    Backends, ClientFacts, GroupEvidence, LateExits, OwnLoops, OwnerClients, PeersRead, Siblings, StackEvidence, Waits,
};
use super::{
    Flow, RULES, Trend, left,
    left::ABOUT,
    testing::{STUCK_AFTER, Scene, owned_by, process, secs, task},
};
use crate::{
    model::{
        Certainty, Class, Dwell, Exit, ExitCause, Opener, PortCloses, ReadState, Role, SocketLocation, UnixBackend,
        Verdict, WatchedPort,
    },
    process::NextStep,
    stacks::HiddenTasks,
    time::BootTime,
};

/// Makes choices from random numbers; without further numbers, always the first choice.
#[derive(Clone)]
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

fn waits(dice: &mut Dice, count: u32) -> Waits {
    let mut threads = || dice.below(u64::from(count) + 3) as u32;
    let (blocked, limited, events, accepting, running, writing) =
        (threads(), threads(), threads(), threads(), threads() / 8, threads() / 8);
    let stopped = if dice.below(12) == 0 { blocked + limited + events + 1 } else { 0 };
    let threads = if stopped > 0 { stopped } else { blocked + limited + events + accepting + running + writing };
    Waits {
        threads,
        complete: dice.below(4) > 0,
        stopped,
        running,
        cpu_permille: dice.below(200) as u32,
        events,
        single: events * (dice.below(2) as u32),
        accepting,
        blocked,
        locked: blocked / 2 * (dice.below(3) as u32),
        children: dice.below(8) as u32 / 7,
        limited,
        writing,
        of_runtime: 0,
        connecting: dice.below(8) as u32 / 7 * count,
        idle_loop: dice.one(&[None, None, Some(true), Some(false)]),
        multiplexes: dice.below(5) == 0,
        follows: dice.one(&[None, Some(false), Some(true)]),
    }
}

fn stacks(dice: &mut Dice, count: u32) -> StackEvidence {
    let mut threads = || dice.below(u64::from(count) + 3) as u32;
    let (idle, pool, at_line, others) = (threads(), threads(), threads(), threads());
    let (in_loops, second) = (threads(), threads().min(at_line));
    let stopped = dice.below(8) as u32 / 7 * others;
    let meanings = [OwnLoops::Workers, OwnLoops::Handlers, OwnLoops::AsMany, OwnLoops::Undecided];
    let loops = dice.maybe(|dice| dice.one(&meanings)).filter(|_| in_loops > 0);
    let unknown = dice.below(8) == 0;
    StackEvidence {
        threads: idle + pool + at_line + second + in_loops + others,
        idle,
        pool,
        at_line,
        at_lines: at_line + second,
        lines: u32::from(at_line > 0) + u32::from(second > 0),
        inside: at_line + pool,
        inside_once: in_loops % 2,
        active: others - others % 2,
        networked: others % 2,
        in_loops,
        loops,
        stopped,
        for_room: dice.below(3) == 0,
        tasks: dice.below(3) as u32,
        awaiting: dice.below(3) as u32,
        hidden_tasks: dice.maybe(|dice| dice.one(&[HiddenTasks::Greenlets, HiddenTasks::Tokio])),
        unknown,
        complete: !unknown && dice.below(4) > 0,
    }
}

fn unix_backend(dice: &mut Dice, count: u32) -> UnixBackend {
    let connections = 1 + dice.below(u64::from(count) + 3) as u32;
    UnixBackend {
        path: "/run/app.sock".to_owned(),
        connections,
        queued: 0,
        waiting: dice.one(&[0, connections]),
        program: dice.maybe(|_| task(100, "backend")),
        processes: 1,
        activity: dice.maybe(|_| "its only thread waits in flock".to_owned()),
    }
}

fn evidence(dice: &mut Dice, now: BootTime, age: Duration, count: u32) -> GroupEvidence {
    let port = WatchedPort { netns: None, port: 8080, remote: false, since: now - age };
    GroupEvidence {
        onset: Some(now - age),
        stalled_since: dice.maybe(|dice| now - secs(dice.below(300))),
        demand: dice.below(12) as u32,
        answered: dice.below(3) as u32,
        late_exits: dice.maybe(|dice| LateExits {
            count: dice.below(4) as u32,
            last: dice.maybe(|dice| now - dice.seconds()),
            longest: dice.seconds(),
        }),
        siblings: dice.maybe(|dice| Siblings {
            last_served: dice.maybe(|dice| now - secs(dice.below(90))),
            waiting: dice.below(3) as u32,
        }),
        last_exit: dice.maybe(|dice| now - secs(dice.below(30))),
        closes: dice.maybe(|dice| PortCloses {
            port,
            count: dice.below(3),
            last: dice.one(&[None, None, Some(now - secs(dice.clone().below(30)))]),
        }),
        peer_ends: PeersRead { read: count, half_closed: if dice.below(8) == 0 { count } else { 0 }, ended: 0 },
        backends: dice.maybe(|dice| Backends { waiting: dice.below(8) as u32 / 6, answered: dice.below(2) == 0 }),
        waits: dice.maybe(|dice| waits(dice, count)),
        stacks: (dice.below(4) == 0).then(|| stacks(dice, count)),
        older_than_owner: if dice.below(6) == 0 { count } else { 0 },
        sending: if dice.below(8) == 0 { count } else { 0 },
        eof_unread: dice.one(&[0, count]),
        clients: ClientFacts {
            reading: dice.below(8) as u32 / 6,
            closing_messages: if dice.below(5) == 0 { count } else { 0 },
            idle: dice.one(&[0, count]),
            responses: if dice.below(4) == 0 { count } else { 0 },
            same_moment: dice.below(6) as u32,
            opened_after_onset: dice.maybe(|dice| dice.below(4) as u32),
            of_owner: OwnerClients { count, groups: dice.below(6) as u32, span: dice.seconds() },
        },
        unix: dice.maybe(|dice| vec![unix_backend(dice, count)]),
    }
}

/// Returns a random case; most have the facts that rules need.
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
        Some(vec![owned_by(7, "a\x1b[31m\n", 5), owned_by(42, "app", 9)]),
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
    scene.group.answered = dice.below(2) as u32 * scene.group.count;
    scene.group.awaiting = dice.below(2) as u32 * (scene.group.count - scene.group.answered);
    scene.group.oldest_unaccepted = dice.maybe(|dice| secs(dice.below(100)));
    scene.group.flow = dice.maybe(|dice| flow(dice, now));
    scene.group.evidence = evidence(dice, now, age, count);
    if dice.below(2) == 0 {
        scene = scene.listened_by(&[owned_by(7, "parent", 3)]);
    }
    if dice.below(5) == 0 {
        scene = scene.paired(dice.below(40) as u32);
    }
    let exe = dice.one(&["/usr/bin/app", "/usr/bin/other", "", "/"]);
    scene.processes = vec![process(42, "app", "/usr/bin/app"), process(7, "parent", exe)];
    if dice.below(4) == 0 {
        scene.processes[0].parent = Some(7);
        scene.processes[0].started_ns = scene.socket.last_received.map(|at| at.0);
    }
    scene
}

fn numbers() -> impl Strategy<Value = Vec<u32>> {
    prop::collection::vec(any::<u32>(), 192)
}

fn is_sure(certainty: Certainty) -> bool {
    matches!(certainty, Certainty::Fact | Certainty::High)
}

/// Returns the degree to which a verdict blames the program: 0, 1 for `medium`, 2 for a higher certainty.
fn accusation(verdict: &Verdict) -> u32 {
    match (verdict.class, verdict.certainty) {
        (Class::Hung | Class::Leak | Class::Inherited, Certainty::Medium) => 1,
        (Class::Hung | Class::Leak | Class::Inherited, Certainty::High | Certainty::Fact) => 2,
        _ => 0,
    }
}

/// Whether the text and the command of a step are readable.
fn readable_step(step: &NextStep) -> bool {
    readable(&step.text) && step.command.as_deref().is_none_or(readable)
}

/// Whether a text is not empty, without control characters and without double blanks.
fn readable(text: &str) -> bool {
    !text.is_empty() && !text.chars().any(char::is_control) && !text.contains("  ")
}

/// Ensures that the properties cover every rule.
#[test]
fn random_cases_reach_every_rule() {
    // A linear congruential generator gives the same numbers in every run.
    let mut state = 1_u64;
    let mut number = || {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 32) as u32
    };
    let mut reached = std::collections::BTreeSet::new();
    for _ in 0..60_000 {
        reached.insert(scene((0..192).map(|_| number()).collect()).verdict().rule);
    }
    let missed: Vec<_> = RULES.iter().map(|rule| rule.about().name).filter(|name| !reached.contains(name)).collect();
    // The random processes have no threads, so none is busy.
    assert_eq!(missed, ["busy_thread"]);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(4000))]

    #[test]
    fn every_verdict_is_readable_and_documented(numbers in numbers()) {
        let scene = scene(numbers);
        let verdict = scene.verdict();
        prop_assert!(readable(&verdict.text), "{:?}", verdict);
        prop_assert!(readable_step(&verdict.next), "{:?}", verdict);
        if let Some(rule) = RULES.iter().find(|rule| rule.about().name == verdict.rule) {
            let about = rule.about();
            prop_assert!(about.class.contains(&verdict.class), "{:?}", verdict);
            prop_assert!(about.certainty.iter().any(|(certainty, _)| *certainty == verdict.certainty), "{:?}", verdict);
        }
    }

    /// The words behind several processes, and those that stand for them, are in the plural.
    #[test]
    fn verbs_agree_with_the_number_of_processes(numbers in numbers()) {
        let mut scene = scene(numbers);
        scene.owners = Some(vec![owned_by(7, "parent", 5), owned_by(42, "app", 9)]);
        for judgement in RULES.iter().filter_map(|rule| scene.check(*rule)).chain([scene.verdict()]) {
            for text in [&judgement.text, &judgement.next.text] {
                let verb = text.split_once("parent[7] and app[42] ").and_then(|(before, rest)| {
                    let verb = rest.strip_prefix("still ").unwrap_or(rest).split([' ', ';', ':']).next();
                    // "1 thread of x and y waits" and "a timeout in x and y limits the wait" have another subject.
                    verb.filter(|_| !before.ends_with(" of ") && !before.ends_with(" in "))
                });
                prop_assert!(verb.is_none_or(|verb| !verb.ends_with('s')), "{verb:?}: {judgement:?}");
                let singular = [" it has ", " its threads", "it connects", " it started"];
                let wrong = singular.iter().find(|words| scene.socket.accepted != Some(false) && text.contains(**words));
                prop_assert!(wrong.is_none(), "{wrong:?}: {judgement:?}");
            }
        }
    }

    #[test]
    fn every_judgement_is_readable_and_documented(numbers in numbers()) {
        let scene = scene(numbers);
        for rule in RULES {
            if let Some(judgement) = scene.check(*rule) {
                let Verdict { class, text, next, .. } = &judgement;
                prop_assert!(readable(text) && readable_step(next), "{}: {judgement:?}", rule.about().name);
                prop_assert!(rule.about().class.contains(class), "{}: {judgement:?}", rule.about().name);
            }
        }
    }

    /// More evidence of progress never makes a verdict blame the program more, except for `forgotten`: sockets that stay open while the
    /// program serves others are forgotten more surely. Connections that wait for another program, kinds 4 and 7, are the evidence of
    /// `backend_stuck`, too, which names that program.
    #[test]
    fn evidence_of_progress_never_adds_blame(numbers in numbers(), kind in 0_usize..9) {
        let mut scene = scene(numbers);
        let (before, now, count) = (accusation(&scene.verdict()), scene.now, scene.group.count);
        let evidence = &mut scene.group.evidence;
        match kind {
            0 => {
                let exits = evidence.late_exits.get_or_insert_default();
                (exits.count, exits.last) = (exits.count.max(2), Some(now));
            }
            1 => evidence.siblings.get_or_insert_default().last_served = Some(now),
            2 => {
                let port = WatchedPort { netns: None, port: 8080, remote: false, since: now };
                let closes = evidence.closes.get_or_insert(PortCloses { port, count: 0, last: None });
                (closes.count, closes.last) = (closes.count + 1, Some(now));
            }
            3 => evidence.peer_ends = PeersRead { read: count, half_closed: count, ended: 0 },
            4 => evidence.backends = Some(Backends { waiting: count, answered: false }),
            5 => evidence.sending = count,
            6 => evidence.last_exit = Some(now),
            7 => {
                let backend = unix_backend(&mut Dice(Vec::new().into_iter()), count);
                evidence.unix = Some(vec![UnixBackend { connections: count, waiting: count, ..backend }]);
            }
            _ => {
                if let Some(waits) = &mut evidence.waits {
                    waits.follows = Some(true);
                }
            }
        }
        let verdict = scene.verdict();
        let names_another = matches!(kind, 4 | 7) && verdict.rule == "backend_stuck";
        prop_assert!(
            verdict.rule == "forgotten" || names_another || accusation(&verdict) <= before,
            "{kind}: {verdict:?}"
        );
    }

    #[test]
    fn a_program_that_makes_progress_is_not_blamed_for_a_hang(numbers in numbers(), ago in 0_u64..10) {
        let mut scene = scene(numbers);
        scene.group.evidence.siblings = Some(Siblings { last_served: Some(scene.now), waiting: 0 });
        let port = WatchedPort { netns: None, port: 8080, remote: false, since: scene.now };
        scene.group.evidence.closes = Some(PortCloses { port, count: 1, last: Some(scene.now - secs(ago)) });
        let verdict = scene.verdict();
        // A client has no port on which it serves others.
        let other_facts = ["owner_stopped", "client_blocked"].contains(&verdict.rule);
        prop_assert!(other_facts || !(verdict.class == Class::Hung && verdict.certainty < Certainty::Low), "{verdict:?}");
    }

    #[test]
    fn missing_evidence_gives_no_blame_with_a_high_certainty(numbers in numbers()) {
        let mut scene = scene(numbers);
        scene.group.evidence = GroupEvidence { waits: None, ..GroupEvidence::default() };
        let verdict = scene.verdict();
        let blames = matches!(verdict.class, Class::Hung | Class::Leak);
        prop_assert!(!(blames && is_sure(verdict.certainty)), "{verdict:?}");
    }

    #[test]
    fn a_fresh_socket_blames_no_program(numbers in numbers(), millis in 0_u64..3000) {
        let mut scene = scene(numbers).aged(0);
        let age = Duration::from_millis(millis);
        (scene.gone, scene.dwell) = (None, Dwell::Exact(age));
        (scene.group.oldest, scene.group.youngest) = (age, age);
        let class = scene.verdict().class;
        prop_assert!(!matches!(class, Class::Hung | Class::Leak), "{class:?}");
    }

    #[test]
    fn every_verdict_on_an_exit_is_readable(how in 0_usize..8, age in 0_u64..1_000_000, exact: bool, fd_open: Option<bool>) {
        let age = secs(age);
        let dwell = if exact { Dwell::Exact(age) } else { Dwell::Between { at_least: age, at_most: None } };
        if let Some(verdict) = left(&Scene::server().socket, Some(dwell), (HOW[how], None), fd_open, (false, None)) {
            prop_assert!(readable(&verdict.text) && readable_step(&verdict.next), "{verdict:?}");
            prop_assert!(ABOUT.class.contains(&verdict.class));
            prop_assert!(ABOUT.certainty.iter().any(|(certainty, _)| *certainty == verdict.certainty));
        }
    }
}
