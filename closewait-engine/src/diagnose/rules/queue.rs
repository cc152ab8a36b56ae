//! Programs whose clients wait for few connections to another program.

use crate::diagnose::{About, Case, Judgement, Rule, text};
use crate::model::{Certainty, Class};

/// Tunnels, queues and request coalescing have no connection for each client.
pub(super) struct Queue;

impl Rule for Queue {
    fn about(&self) -> &'static About {
        &About {
            name: "queue",
            when: "of a server that serves no other connection, some connections of its owner to other programs wait for an answer, \
                   and fewer than half of its sockets have one of their own",
            class: &[Class::Unknown],
            certainty: &[(Certainty::Low, "whether these sockets wait for those connections is not to be seen")],
            says: "the clients may wait for a backend, in a queue or a tunnel",
            next: "inspect the other end of these connections",
            not: &["a proxy with one connection for each client: `proxy_wait`"],
            seen: &["kubernetes/kubernetes#18354"],
        }
    }

    fn check(&self, case: &Case<'_>) -> Option<Judgement> {
        let evidence = &case.group.evidence;
        let backends = evidence.backends.filter(|backends| backends.waiting > 0)?;
        if !case.is_server() || evidence.progresses(case.now) == Some(true) {
            return None;
        }
        let owner = text::owner(case);
        Some(Judgement {
            class: Class::Unknown,
            certainty: Certainty::Low,
            text: format!(
                "{waiting} of {owner} to other programs {wait} for an answer, and {count} may wait for them, as in a queue or a \
                 tunnel",
                waiting = text::count(backends.waiting, "connection"),
                wait = if backends.waiting == 1 { "waits" } else { "wait" },
                count = text::count(case.group.count.max(1), "socket"),
            ),
            next: format!(
                "see which connections of {owner} wait: `ss -tnp | grep pid={pid}`, and what their other ends do",
                pid = text::tasks(case).first().map_or(0, |task| task.pid),
            ),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::diagnose::{
        evidence::{Backends, Siblings},
        testing::Scene,
    };

    #[test]
    fn a_tunnel_that_waits_may_be_what_many_clients_wait_for() {
        let mut scene = Scene::server().of(14).aged(20);
        scene.group.evidence.backends = Some(Backends { waiting: 0 });
        assert_eq!(scene.ask(&Queue), None);
        scene.group.evidence.backends = Some(Backends { waiting: 1 });
        assert_eq!(scene.ask(&Queue).unwrap().class, Class::Unknown);
        scene.group.evidence.siblings = Some(Siblings { served: 1, waiting: 0 });
        assert_eq!(scene.ask(&Queue), None);
    }
}
