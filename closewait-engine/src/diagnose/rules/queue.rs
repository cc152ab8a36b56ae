//! Programs whose clients share few connections to another program.

use crate::diagnose::{About, Case, Explanation, Judgement, Rule, text};
use crate::model::{Certainty, Class};
use crate::process::ProgramRuntime;

/// Detects clients that may wait for shared backend connections: tunnels, queues and request coalescing have no connection for each
/// client.
pub(super) struct Queue;

impl Rule for Queue {
    fn about(&self) -> &'static About {
        &About {
            name: "queue",
            when: "the socket is a server's; half as many threads as sockets wait in connect(), or the program is a known proxy, or \
                   serves no other connection of the port, and at least one of the owner's connections to other programs waits \
                   for an answer; fewer than half of the group's sockets have such a connection of their own",
            class: &[Class::ProxyWait, Class::Unknown],
            certainty: &[(
                Certainty::Low,
                "proxy_wait for a known proxy or threads in connect(), else unknown: closewait cannot see whether these sockets wait \
                 for those connections",
            )],
            says: "the clients may wait for a backend, in a queue or a tunnel",
            next: "inspect the other ends of those connections",
            not: &["a proxy with one connection for each client: see `proxy_wait`"],
            seen: &["kubernetes/kubernetes#18354"],
        }
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
        let backends = evidence.backends.filter(|backends| backends.waiting > 0)?;
        let is_proxy = case.processes.iter().any(|process| process.runtime.is_some_and(ProgramRuntime::is_proxy));
        if evidence.progresses(case.now) == Some(true) && !is_proxy {
            return None;
        }
        Some(Judgement::new(if is_proxy { Class::ProxyWait } else { Class::Unknown }, Certainty::Low, move || {
            let owner = text::owner(case);
            Explanation {
                text: format!(
                    "{waiting} of {owner} to other programs {wait} for an answer, and the {count} may wait for that, as in a queue \
                 or a tunnel",
                    waiting = text::count(backends.waiting, "connection"),
                    wait = if backends.waiting == 1 { "waits" } else { "wait" },
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

/// Returns the judgement on a program whose threads wait until another program accepts their connections.
fn connect<'c>(case: &'c Case<'_>, connecting: u32) -> Judgement<'c> {
    Judgement::new(Class::ProxyWait, Certainty::Low, move || {
        let owner = text::owner(case);
        let wait = if connecting == 1 { "thread waits" } else { "threads wait" };
        Explanation {
            text: format!(
                "{connecting} {wait} in connect(), and {owner} has {count}: the program that it connects to does not answer.{doing}",
                count = text::count(case.group.count.max(1), "socket"),
                doing = text::doing(case),
            ),
            next: text::ss_connecting(case, format!("see where {owner} connects to, and why that does not answer")),
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::diagnose::{
        evidence::{Backends, Siblings, Waits},
        testing::Scene,
    };

    #[test]
    fn many_clients_may_wait_for_one_tunnel() {
        let mut scene = Scene::server().of(14).aged(20);
        scene.group.evidence.backends = Some(Backends { waiting: 0 });
        assert_eq!(scene.check(&Queue), None);
        scene.group.evidence.backends = Some(Backends { waiting: 1 });
        assert_eq!(scene.check(&Queue).unwrap().class, Class::Unknown);
        scene.group.evidence.siblings = Some(Siblings { served: 1, waiting: 0 });
        assert_eq!(scene.check(&Queue), None);
    }

    #[test]
    fn threads_in_connect_wait_for_another_program() {
        let mut scene = Scene::server().of(10).aged(30);
        scene.group.evidence.siblings = Some(Siblings { served: 3, waiting: 0 });
        scene.group.evidence.waits = Some(Waits { threads: 11, connecting: 4, complete: true, ..Waits::default() });
        assert_eq!(scene.check(&Queue), None);
        scene.group.evidence.waits = Some(Waits { threads: 11, connecting: 10, complete: true, ..Waits::default() });
        let judgement = scene.check(&Queue).unwrap();
        assert_eq!((judgement.class, judgement.certainty), (Class::ProxyWait, Certainty::Low));
        assert!(judgement.text.contains("10 threads wait in connect()"), "{}", judgement.text);
    }
}
