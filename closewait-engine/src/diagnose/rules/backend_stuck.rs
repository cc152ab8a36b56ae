//! Servers that serve no client, because all of their threads wait for another program.

use super::{
    LONG_STALLED, STALLED,
    proxy_wait::{asks_another, has_connections},
};
use crate::diagnose::{
    About, Case, Explanation, Judgement, Rule,
    evidence::{CounterEvidence, MIN_DEMAND},
    text,
};
use crate::model::{Certainty, Class, UnixBackend};

/// Name of this rule. It is also about proxies, whose class alone does not say that the backend is stuck.
pub const BACKEND_STUCK: &str = "backend_stuck";

/// Detects a server whose threads all wait for the answer of another program, for so long that it serves no client.
pub(super) struct BackendStuck;

impl Rule for BackendStuck {
    fn about(&self) -> &'static About {
        &About {
            name: BACKEND_STUCK,
            when: "the socket is a server's; at least half of the group's sockets have another connection with matching times; the \
                   program has read the requests, and at least half as many threads as sockets wait without a timeout, or it is a \
                   known proxy and has not answered them; for 60 s or longer, the program has served no other connection of the port, \
                   while 2 or more arrived. Or the server, which may be a proxy, has read the requests and not answered them, and \
                   connections to a UNIX socket wait for an answer, at least half as many as the group has sockets: the other program \
                   has not read their data, or has not accepted some of them, while no connection to another host or port waits and no \
                   socket of the port has exited since the onset",
            class: &[Class::Hung, Class::ProxyWait],
            certainty: &[
                (Certainty::Medium, "after 3 min or longer without progress"),
                (Certainty::Low, "sooner, and with a UNIX socket: the other program may be slow"),
            ],
            says: "the program hangs, because the one at the other end of its other connections does not answer; a proxy only waits for it",
            next: "inspect the other end; give the calls to it a timeout",
            not: &[
                "a server or proxy that serves others meanwhile: see `proxy_wait`",
                "a slow backend: the server finishes some requests",
                "accepted connections to a UNIX socket whose data is read, while none waits to be accepted: they may be idle, in a pool",
            ],
            seen: &[],
        }
    }

    fn counter_evidence(&self) -> &'static [CounterEvidence] {
        &[
            CounterEvidence::LateExits,
            CounterEvidence::OtherConnections,
            CounterEvidence::Closes,
            CounterEvidence::PeersWait,
            CounterEvidence::Sending,
        ]
    }

    fn check<'c>(&self, case: &'c Case<'_>) -> Option<Judgement<'c>> {
        if let Some(backend) = unix_stuck(case) {
            return Some(behind(case, backend));
        }
        let (towards, _) = case.proxy_peers.towards.filter(|_| case.group.is_most(case.proxy_peers.paired))?;
        let is_proxy = super::is_known_proxy(case);
        if !(serves_none(case) || is_proxy && answers_none(case)) {
            return None;
        }
        let certainty = if case.stalled() >= LONG_STALLED { Certainty::Medium } else { Certainty::Low };
        Some(Judgement::new(class_of(case), certainty, move || {
            let owner = text::owner(case);
            Explanation {
                text: format!(
                    "{owner} {waits_for} {towards}, which does not answer: {connections} of matching times to other programs, \
                     {waits}, and {it} {has} served no other connection of port {port} for {stalled}, while {demand} arrived.{doing}",
                    waits_for = owner.word("waits for", "wait for"),
                    waits = if is_proxy {
                        format!("{} answered none of these requests", owner.has())
                    } else {
                        format!("{} threads wait without a timeout", owner.its())
                    },
                    it = owner.it(),
                    has = owner.has(),
                    connections = has_connections(&owner, case.proxy_peers.paired),
                    port = text::port(case),
                    stalled = text::duration(case.stalled()),
                    demand = case.group.evidence.demand,
                    doing = if is_proxy { String::new() } else { text::doing(case) },
                ),
                next: format!("see why {towards} does not answer {owner}, and give these calls a timeout").into(),
            }
        }))
    }
}

/// Returns the program behind a UNIX socket that does not answer a server or proxy, which has made no progress for a minute because of it.
fn unix_stuck<'c>(case: &'c Case<'_>) -> Option<&'c UnixBackend> {
    let (group, evidence) = (case.group, &case.group.evidence);
    let waits_elsewhere = evidence.backends.is_none_or(|backends| backends.waiting > 0);
    let answers_none = answers_none(case) && evidence.last_exit.is_none() && !waits_elsewhere;
    evidence.unix_backend_waits(group.count).filter(|_| answers_none)
}

/// Returns the class of a program whose backend is stuck: a proxy only waits for it.
fn class_of(case: &Case<'_>) -> Class {
    if super::is_known_proxy(case) { Class::ProxyWait } else { Class::Hung }
}

/// Returns the judgement on a server that waits for the program behind a UNIX socket.
fn behind<'c>(case: &'c Case<'_>, backend: &'c UnixBackend) -> Judgement<'c> {
    Judgement::new(class_of(case), Certainty::Low, move || {
        let owner = text::owner(case);
        let queued = match backend.queued {
            0 => String::new(),
            queued => format!(", {queued} of them not accepted"),
        };
        Explanation {
            text: format!(
                "{owner} {waits_for} {backend}, {which} does not answer: {connections} {wait} for an answer{queued}, and {owner} {has} \
                 served no other connection of port {port} for {stalled}, while {demand} arrived.{doing}",
                waits_for = owner.word("waits for", "wait for"),
                has = owner.has(),
                which = if backend.program.is_some() { "which" } else { "whose program" },
                connections = text::count(backend.waiting, "connection"),
                wait = if backend.waiting == 1 { "waits" } else { "wait" },
                port = text::port(case),
                stalled = text::duration(case.stalled()),
                demand = case.group.evidence.demand,
                doing = text::unix_doing(backend),
            ),
            next: text::unix_dump(
                backend,
                format!("see which program listens at {}, and why it does not answer {owner}", backend.path),
            ),
        }
    })
}

/// Whether a server, which is no proxy, has read the requests, waits for other programs with its threads, and has served no other client for a
/// minute.
pub(super) fn serves_none(case: &Case<'_>) -> bool {
    stalls(case) && asks_another(case)
}

/// Whether a program has read most of the requests and answered none of them, nor any other for a minute.
fn answers_none(case: &Case<'_>) -> bool {
    stalls(case) && case.group.was_read_without_answer()
}

fn stalls(case: &Case<'_>) -> bool {
    let evidence = &case.group.evidence;
    case.is_server()
        && evidence.demand >= MIN_DEMAND
        && evidence.progresses(case.now) == Some(false)
        && case.stalled() >= STALLED
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        diagnose::{
            evidence::{Backends, GroupEvidence, LateExits, PeersRead, Siblings, Waits},
            testing::{Scene, process, secs, unix_backend},
        },
        model::ReadState,
        process::ProgramRuntime,
        time::BootTime,
    };

    /// Returns a server whose five threads have waited for a backend for this number of seconds.
    fn waiting(age: u64) -> Scene {
        let mut scene = Scene::server().of(5).aged(age).paired(5).reading(ReadState::IdleFin);
        scene.socket.send_queue_bytes = Some(0);
        (scene.group.awaiting, scene.group.unanswered) = (5, 5);
        let evidence = &mut scene.group.evidence;
        evidence.demand = 4;
        evidence.late_exits = Some(LateExits::default());
        evidence.siblings = Some(Siblings::default());
        evidence.peer_ends = PeersRead { read: 5, half_closed: 0, ended: 0 };
        evidence.backends = Some(Backends { waiting: 5, answered: false });
        evidence.waits = Some(Waits { threads: 7, complete: true, events: 1, blocked: 6, ..Waits::default() });
        scene
    }

    fn result(scene: &Scene) -> (Class, &'static str, Certainty) {
        let verdict = scene.verdict();
        (verdict.class, verdict.rule, verdict.certainty)
    }

    #[test]
    fn a_proxy_before_a_dead_backend_is_not_blamed_and_needs_attention() {
        let haproxy = |age| {
            let mut scene = waiting(age).reading(ReadState::FinConsumed);
            scene.processes = vec![process(42, "haproxy", "/usr/sbin/haproxy")];
            scene.processes[0].runtime = Some(ProgramRuntime::HaProxy);
            scene
        };
        assert_eq!(result(&haproxy(50)).1, "proxy_wait", "the backend may be slow");
        assert_eq!(result(&haproxy(70)), (Class::ProxyWait, "backend_stuck", Certainty::Low));
        let verdict = haproxy(190).verdict();
        assert_eq!((verdict.class, verdict.certainty), (Class::ProxyWait, Certainty::Medium));
        assert!(verdict.text.contains("does not answer") && verdict.text.contains("10.0.0.7:9000"), "{}", verdict.text);
        let mut answered = haproxy(190);
        answered.group.unanswered = 2;
        assert_eq!(result(&answered).1, "proxy_wait", "it passes on something");
        let mut serves = haproxy(190);
        serves.group.evidence.siblings = Some(Siblings { last_served: Some(serves.now), waiting: 0 });
        assert_eq!(result(&serves).1, "proxy_wait", "it serves others");
    }

    #[test]
    fn a_server_that_waits_for_a_dead_backend_and_serves_none_is_hung() {
        assert_eq!(
            result(&waiting(50)),
            (Class::ProxyWait, "proxy_wait", Certainty::Medium),
            "the backend may be slow"
        );
        assert_eq!(result(&waiting(70)), (Class::Hung, "backend_stuck", Certainty::Low));
        assert_eq!(result(&waiting(190)), (Class::Hung, "backend_stuck", Certainty::Medium));
        let verdict = waiting(190).verdict();
        assert!(verdict.text.starts_with("app[42] waits for 10.0.0.7:9000, which does not answer"), "{}", verdict.text);
        assert!(verdict.next.text.contains("10.0.0.7:9000"), "{}", verdict.next.text);
    }

    #[test]
    fn a_process_for_one_connection_also_waits_for_a_backend_with_a_timeout() {
        let mut scene = waiting(70).of(1).paired(1).reading(ReadState::IdleFin);
        (scene.group.awaiting, scene.group.unanswered) = (1, 1);
        let select =
            Waits { threads: 1, complete: true, events: 1, limited: 1, idle_loop: Some(true), ..Waits::default() };
        scene.group.evidence.waits = Some(select);
        assert_eq!(result(&scene), (Class::Hung, "backend_stuck", Certainty::Low));
        scene.group.evidence.waits = Some(Waits { threads: 2, ..select });
        assert_eq!(result(&scene).0, Class::ProxyWait, "the other thread may serve clients");
    }

    /// Returns a proxy that has waited for the program behind a UNIX socket for this number of seconds.
    fn proxy(age: u64) -> Scene {
        let mut scene = waiting(age).of(27);
        (scene.proxy_peers.paired, scene.proxy_peers.own, scene.proxy_peers.towards) = (0, None, None);
        scene.processes = vec![process(42, "nginx", "/usr/sbin/nginx")];
        scene.processes[0].runtime = Some(ProgramRuntime::Nginx);
        (scene.group.awaiting, scene.group.unanswered) = (27, 27);
        let evidence = &mut scene.group.evidence;
        evidence.peer_ends = PeersRead { read: 27, half_closed: 0, ended: 0 };
        evidence.backends = Some(Backends { waiting: 0, answered: false });
        evidence.waits =
            Some(Waits { threads: 1, complete: true, events: 1, idle_loop: Some(true), ..Waits::default() });
        evidence.unix = Some(vec![unix_backend(27, 27)]);
        scene
    }

    #[test]
    fn a_proxy_before_a_program_that_no_longer_accepts_names_it() {
        assert_eq!(result(&proxy(50)), (Class::ProxyWait, "queue", Certainty::Low), "it may be slow");
        assert_eq!(result(&proxy(70)), (Class::ProxyWait, "backend_stuck", Certainty::Low));
        let verdict = proxy(190).verdict();
        assert_eq!((verdict.class, verdict.certainty), (Class::ProxyWait, Certainty::Low));
        assert_eq!(
            verdict.text,
            "app[42] waits for /run/php.sock (php-fpm[7]), which does not answer: 27 connections wait for an answer, 22 of them not \
             accepted, and app[42] has served no other connection of port 8080 for 3m10s, while 4 arrived. php-fpm[7]: its only \
             thread waits in flock."
        );
        assert_eq!(verdict.next.command.as_deref(), Some("closewait stacks 7"));
    }

    #[test]
    fn a_proxy_whose_backend_answers_or_may_be_idle_only_waits() {
        let class = |change: &dyn Fn(&mut Scene)| {
            let mut scene = proxy(190);
            change(&mut scene);
            let verdict = scene.verdict();
            (verdict.class, verdict.rule == BACKEND_STUCK)
        };
        let evidence = |change: fn(&mut GroupEvidence)| class(&|scene| change(&mut scene.group.evidence));
        assert_eq!(evidence(|_| ()), (Class::ProxyWait, true));
        assert_eq!(
            evidence(|evidence| evidence.unix = Some(vec![unix_backend(27, 0)])),
            (Class::ProxyWait, false),
            "a pool"
        );
        assert_eq!(evidence(|evidence| evidence.unix = Some(vec![unix_backend(27, 13)])), (Class::ProxyWait, false));
        assert_eq!(evidence(|evidence| evidence.unix = None), (Class::ProxyWait, false), "not read");
        assert_eq!(evidence(|evidence| evidence.demand = 1), (Class::ProxyWait, false), "no client asks");
        assert_eq!(evidence(|evidence| evidence.siblings = None), (Class::ProxyWait, false), "not read");
        assert_eq!(evidence(|evidence| evidence.peer_ends.half_closed = 27), (Class::HalfClose, false), "long polling");
        assert_eq!(
            evidence(|evidence| evidence.last_exit = Some(BootTime(1))),
            (Class::ProxyWait, false),
            "something comes back"
        );
        let backends = |evidence: &mut GroupEvidence| evidence.backends.as_mut().unwrap().waiting = 1;
        assert_eq!(evidence(backends), (Class::ProxyWait, false), "it waits for another one");
        let serves = |scene: &mut Scene| {
            scene.group.evidence.siblings = Some(Siblings { last_served: Some(scene.now), waiting: 0 });
        };
        assert_eq!(class(&serves), (Class::ProxyWait, false), "it serves others");
        let slow = |scene: &mut Scene| {
            scene.group.evidence.late_exits = Some(LateExits { count: 2, last: Some(scene.now), longest: secs(90) });
        };
        assert_eq!(class(&slow), (Class::Transient, false), "it is slow");
        assert!(!class(&|scene| scene.group.unanswered = 0).1, "it has answered");
    }

    #[test]
    fn a_server_behind_no_proxy_waits_for_a_unix_socket_too() {
        let mut scene = proxy(70);
        scene.processes.clear();
        scene.group.evidence.waits = Some(Waits { threads: 27, complete: true, blocked: 27, ..Waits::default() });
        assert_eq!(result(&scene), (Class::Hung, "backend_stuck", Certainty::Low));
    }

    #[test]
    fn a_server_that_serves_others_or_finishes_some_requests_is_not_hung() {
        let mut scene = waiting(190);
        scene.group.evidence.siblings = Some(Siblings { last_served: Some(scene.now), waiting: 0 });
        assert_eq!(result(&scene).0, Class::ProxyWait, "it serves others");
        let mut scene = waiting(190);
        scene.group.evidence.late_exits = Some(LateExits { count: 2, last: Some(scene.now), longest: secs(90) });
        assert_eq!(result(&scene).0, Class::Transient, "it is slow");
        let mut scene = waiting(190);
        scene.group.evidence.siblings = None;
        assert_eq!(result(&scene).0, Class::ProxyWait, "its other connections were not read");
        let mut scene = waiting(190);
        scene.group.evidence.demand = 1;
        assert_eq!(result(&scene).0, Class::ProxyWait, "no client asks");
    }

    #[test]
    fn a_proxy_is_not_hung_if_its_other_end_is() {
        let mut scene = waiting(190);
        scene.processes = vec![process(42, "haproxy", "/usr/sbin/haproxy")];
        scene.processes[0].runtime = Some(ProgramRuntime::HaProxy);
        assert_eq!(result(&scene).0, Class::ProxyWait);
        assert_eq!(
            result(&waiting(190).reading(ReadState::FinConsumed)).0,
            Class::ProxyWait,
            "it reads from its clients"
        );
        let mut scene = waiting(190);
        scene.group.evidence.waits.as_mut().unwrap().blocked = 2;
        assert_eq!(result(&scene).0, Class::ProxyWait, "its threads do not wait for it");
    }

    #[test]
    fn without_matching_times_as_many_waiting_connections_are_a_guess() {
        let mut scene = waiting(190);
        (scene.proxy_peers.paired, scene.proxy_peers.own, scene.proxy_peers.towards) = (0, None, None);
        assert_eq!(result(&scene), (Class::Hung, "queue", Certainty::Low));
        let mut early = waiting(50);
        (early.proxy_peers.paired, early.proxy_peers.own, early.proxy_peers.towards) = (0, None, None);
        assert_eq!(result(&early), (Class::ProxyWait, "queue", Certainty::Low));
    }
}
