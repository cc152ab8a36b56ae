//! Programs whose clients share few connections to another program.

use crate::diagnose::{About, Case, Explanation, Judgement, Rule, evidence::CounterEvidence, text};
use crate::model::{Certainty, Class, UnixBackend};

/// Detects clients that may wait for shared backend connections: tunnels, queues and request coalescing have no connection for each
/// client.
pub(super) struct Queue;

impl Rule for Queue {
    fn about(&self) -> &'static About {
        &About {
            name: "queue",
            when: "the socket is a server's; half as many threads as sockets wait in connect(), or the program is a known proxy, or \
                   an idle event loop that has read requests and not answered them, or it serves no other connection of the port, \
                   and at least one of the owner's connections to other programs waits for an answer; fewer than half of the \
                   group's sockets have such a connection of their own; or no connection waits, and a known proxy is such an event \
                   loop, or connections to a UNIX socket are certain to wait for an answer, at least half as many as the group has \
                   sockets, and the program is such an event loop or has read the requests and serves no other connection of the port",
            class: &[Class::ProxyWait, Class::Hung, Class::Unknown],
            certainty: &[(
                Certainty::Low,
                "proxy_wait for a known proxy, an event loop, threads in connect(), or half as many connections as sockets; hung for \
                 another program that serves no new connection of the port, with half as many connections only after 60 s; else unknown: closewait cannot see whether these \
                 sockets wait for those connections",
            )],
            says: "the clients may wait for a backend, in a queue or a tunnel",
            next: "inspect the other ends of those connections",
            not: &["a proxy with one connection for each client: see `proxy_wait`"],
            seen: &["kubernetes/kubernetes#18354"],
        }
    }

    fn counter_evidence(&self) -> &'static [CounterEvidence] {
        &[CounterEvidence::LateExits, CounterEvidence::PeersWait, CounterEvidence::Sending]
    }

    fn check<'c>(&self, case: &'c Case<'_>) -> Option<Judgement<'c>> {
        let evidence = &case.group.evidence;
        if !case.is_server() {
            return None;
        }
        let connecting = evidence.waits.map_or(0, |waits| waits.connecting);
        if case.group.is_most(connecting) {
            return Some(connect(case, connecting));
        }
        let waiting = evidence.backends?.waiting;
        let is_proxy = super::is_known_proxy(case);
        // An event loop that has read these requests without an answer waits for something else.
        let has_read = case.group.was_read_without_answer();
        let waits_behind = evidence.unix_backend_waits(case.group.count).is_some();
        let loops =
            evidence.waits.is_some_and(|waits| waits.idle_loop == Some(true) && waits.blocked + waits.running == 0)
                && has_read;
        let class = match (waiting, evidence.progresses(case.now)) {
            (1.., _) if is_proxy || loops => Class::ProxyWait,
            (1.., Some(false)) if case.group.is_most(waiting) && !super::backend_stuck::serves_none(case) => {
                Class::ProxyWait
            }
            (0, _) if loops && (is_proxy || waits_behind) => return Some(behind(case, loops)),
            (0, Some(false)) if waits_behind && has_read => return Some(behind(case, loops)),
            (1.., Some(false)) if evidence.demand >= 2 => Class::Hung,
            (1.., Some(false) | None) => Class::Unknown,
            (_, _) => return None,
        };
        Some(Judgement::new(class, Certainty::Low, move || {
            let owner = text::owner(case);
            Explanation {
                text: format!(
                    "{early}{connections} of {owner} to other programs {wait} for an answer, and the {count} may wait for that, \
                     as in a queue or a tunnel.{doing}",
                    doing = text::doing(case),
                    early =
                        if class == Class::Hung { super::early(case, Certainty::Low, "hung") } else { String::new() },
                    connections = text::count(waiting, "connection"),
                    wait = if waiting == 1 { "waits" } else { "wait" },
                    count = text::count(case.group.count.max(1), "socket"),
                ),
                next: text::ss_connections(
                    case,
                    format!("see which connections of {owner} wait, and what their other ends do"),
                ),
            }
        }))
    }
}

/// Returns the judgement on a program without a TCP connection that waits: the other program may be behind a UNIX socket.
fn behind<'c>(case: &'c Case<'_>, loops: bool) -> Judgement<'c> {
    Judgement::new(Class::ProxyWait, Certainty::Low, move || {
        let owner = text::owner(case);
        if let Some(backend) = case.group.evidence.unix_backend(case.group.count.max(1)) {
            let UnixBackend { connections, waiting, .. } = *backend;
            let (number, wait) = match waiting {
                0 => (connections, "may wait"),
                1 => (1, "waits"),
                _ => (waiting, "wait"),
            };
            return Explanation {
                text: format!(
                    "{owner} {has} read these requests{state}: {connections} to {backend} {wait} for an answer.{doing}",
                    has = owner.has(),
                    state = match loops {
                        true => format!(", not answered them, and {} for events", owner.word("waits", "wait")),
                        false => " and not answered them".to_owned(),
                    },
                    connections = text::count(number, "connection"),
                    doing = text::unix_doing(backend),
                ),
                next: text::unix_dump(
                    backend,
                    format!(
                        "see which program listens at {}, and what that does with the requests of {owner}",
                        backend.path
                    ),
                ),
            };
        }
        Explanation {
            text: format!(
                "{owner} {has} read these requests, not answered them, and {waits} for events: the {count} may wait for a program \
                 that answers over a UNIX socket",
                has = owner.has(),
                waits = owner.word("waits", "wait"),
                count = text::count(case.group.count.max(1), "socket"),
            ),
            next: format!("see which program answers the requests of {owner}, and what that does").into(),
        }
    })
}

/// Returns the judgement on a program whose threads wait until another program accepts their connections.
fn connect<'c>(case: &'c Case<'_>, connecting: u32) -> Judgement<'c> {
    Judgement::new(Class::ProxyWait, Certainty::Low, move || {
        let owner = text::owner(case);
        let wait = if connecting == 1 { "thread waits" } else { "threads wait" };
        Explanation {
            text: format!(
                "{connecting} {wait} in connect(), and {owner} {has} {count}: the program that {it} {connects} to does not \
                 answer.{doing}",
                has = owner.has(),
                it = owner.it(),
                connects = owner.word("connects", "connect"),
                count = text::count(case.group.count.max(1), "socket"),
                doing = text::doing(case),
            ),
            next: text::ss_connecting(
                case,
                format!("see where {owner} {} to, and why that does not answer", owner.word("connects", "connect")),
            ),
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::diagnose::{
        evidence::{Backends, Siblings, Waits},
        testing::{Scene, process, unix_backend},
    };
    use crate::model::Verdict;
    use crate::process::Process;
    use crate::process::ProgramRuntime;

    #[test]
    fn many_clients_may_wait_for_one_tunnel() {
        let mut scene = Scene::server().of(14).aged(20);
        scene.group.evidence.backends = Some(Backends { waiting: 0, answered: false });
        assert_eq!(scene.check(&Queue), None);
        scene.group.evidence.backends = Some(Backends { waiting: 1, answered: false });
        assert_eq!(scene.check(&Queue).unwrap().class, Class::Unknown);
        scene.group.evidence.siblings = Some(Siblings::default());
        scene.group.evidence.demand = 2;
        assert_eq!(scene.check(&Queue).unwrap().class, Class::Hung);
        scene.group.evidence.siblings = Some(Siblings { last_served: Some(scene.now), waiting: 0 });
        assert_eq!(scene.check(&Queue), None);
    }

    #[test]
    fn an_event_loop_that_has_read_requests_waits_for_another_program() {
        let mut scene = Scene::server().of(14).aged(20);
        scene.group.unanswered = 14;
        scene.group.evidence.siblings = Some(Siblings { last_served: Some(scene.now), waiting: 0 });
        scene.group.evidence.backends = Some(Backends { waiting: 1, answered: false });
        let waits =
            Waits { threads: 1, events: 1, limited: 1, complete: true, idle_loop: Some(true), ..Waits::default() };
        scene.group.evidence.waits = Some(waits);
        assert_eq!(scene.check(&Queue).unwrap().class, Class::ProxyWait);
        scene.group.evidence.backends = Some(Backends { waiting: 0, answered: false });
        assert_eq!(scene.check(&Queue), None);
        let runtime = Some(ProgramRuntime::Lighttpd);
        scene.processes = vec![Process { runtime, ..process(42, "lighttpd", "/usr/sbin/lighttpd") }];
        assert!(scene.check(&Queue).unwrap().text.contains("UNIX socket"));
        scene.group.unanswered = 0;
        assert_eq!(scene.check(&Queue), None, "it has answered them");
    }

    #[test]
    fn the_program_behind_a_unix_socket_is_named() {
        let mut scene = Scene::server().of(27).aged(20);
        scene.group.unanswered = 27;
        scene.group.evidence.backends = Some(Backends { waiting: 0, answered: false });
        scene.group.evidence.waits =
            Some(Waits { threads: 1, events: 1, complete: true, idle_loop: Some(true), ..Waits::default() });
        scene.group.evidence.unix = Some(vec![unix_backend(27, 27)]);
        let verdict = scene.check(&Queue).unwrap();
        assert_eq!((verdict.class, verdict.certainty), (Class::ProxyWait, Certainty::Low));
        assert_eq!(
            verdict.text,
            "app[42] has read these requests, not answered them, and waits for events: 27 connections to /run/php.sock (php-fpm[7]) \
             wait for an answer. php-fpm[7]: its only thread waits in flock."
        );
        assert_eq!(verdict.next.command.as_deref(), Some("closewait stacks 7"));
        let mut threads = scene.clone();
        threads.group.evidence.waits = None;
        assert_eq!(threads.check(&Queue), None, "it may serve others");
        threads.group.evidence.siblings = Some(Siblings::default());
        let text = threads.check(&Queue).unwrap().text;
        assert!(text.starts_with("app[42] has read these requests and not answered them: 27 connections"), "{text}");
        scene.group.evidence.unix = Some(vec![unix_backend(27, 0)]);
        assert_eq!(scene.check(&Queue), None, "they may be idle, in a pool");
        scene.processes = vec![Process { runtime: Some(ProgramRuntime::Lighttpd), ..process(42, "lighttpd", "/l") }];
        let text = scene.check(&Queue).unwrap().text;
        assert!(text.contains("27 connections to /run/php.sock (php-fpm[7]) may wait"), "{text}");
        scene.group.evidence.unix = Some(vec![unix_backend(5, 0)]);
        let text = scene.check(&Queue).unwrap().text;
        assert!(!text.contains("php"), "too few for these sockets: {text}");
        let backend = UnixBackend { program: None, activity: None, ..unix_backend(27, 1) };
        scene.group.evidence.unix = Some(vec![backend]);
        let Verdict { text, next, .. } = scene.check(&Queue).unwrap();
        assert!(text.ends_with("1 connection to /run/php.sock waits for an answer."), "{text}");
        assert!(next.text.contains("listens at /run/php.sock") && next.command.is_none(), "{next:?}");
    }

    #[test]
    fn threads_in_connect_wait_for_another_program() {
        let mut scene = Scene::server().of(10).aged(30);
        scene.group.evidence.siblings = Some(Siblings { last_served: Some(scene.now), waiting: 0 });
        scene.group.evidence.waits = Some(Waits { threads: 11, connecting: 4, complete: true, ..Waits::default() });
        assert_eq!(scene.check(&Queue), None);
        scene.group.evidence.waits = Some(Waits { threads: 11, connecting: 10, complete: true, ..Waits::default() });
        let judgement = scene.check(&Queue).unwrap();
        assert_eq!((judgement.class, judgement.certainty), (Class::ProxyWait, Certainty::Low));
        assert!(judgement.text.contains("10 threads wait in connect()"), "{}", judgement.text);
    }
}
