//! Connections that wait in a pool until they are wanted again.

use crate::diagnose::{About, Case, Judgement, Rule, text};
use crate::model::{Certainty, Class};

/// A pool that inspects a connection only when it needs one.
pub(super) struct Pool;

impl Rule for Pool {
    fn about(&self) -> &'static About {
        &About {
            name: "pool",
            when: "of a client, at least half of the group was idle for 1 s or longer when the FIN came; and that came with a farewell \
                   that no request had asked for, or the FINs of 3 or more came within 1.5 s, or at most one of them was opened \
                   after the oldest had entered",
            class: &[Class::Pool],
            certainty: &[
                (Certainty::Medium, "a farewell, or one event at the peer"),
                (Certainty::Low, "idle connections only: what was forgotten after use looks alike"),
            ],
            says: "idle connections, which the pool will notice and replace at their next use",
            next: "nothing; to avoid an error at that use, evict idle connections sooner than the server closes them",
            not: &[
                "a connection that the server closed right after its answer: it was not idle",
                "connections that are opened again and again while the old ones stay: `accumulates`",
                "a connection with data to send: `sending`",
            ],
            seen: &["aio-libs/aiohttp#4805", "urllib3/urllib3#2100", "npgsql/npgsql#2896", "lib/pq#342"],
        }
    }

    fn check(&self, case: &Case<'_>) -> Option<Judgement> {
        if !case.is_client() {
            return None;
        }
        let (clients, count) = (&case.group.evidence.clients, case.group.count);
        let (owner, remote) = (text::owner(case), case.socket.remote);
        let most = |number: u32| number * 2 >= count && number > 0;
        let one_event =
            clients.same_moment >= 3 && most(clients.same_moment) && (most(clients.idle) || most(clients.responses));
        let opened = clients.opened_after_onset.unwrap_or(0);
        let (certainty, evidence) = if most(clients.farewells) {
            (
                Certainty::Medium,
                format!("{} got a farewell with the FIN that no request had asked for", clients.farewells),
            )
        } else if one_event && opened < 2 {
            (
                Certainty::Medium,
                format!("{remote} closed {} of them within 1.5s: a restart, or a sweep", clients.same_moment),
            )
        } else if most(clients.idle) && opened < 2 {
            (Certainty::Low, format!("{} had been idle for 1s or longer when {remote} closed", clients.idle))
        } else {
            return None;
        };
        Some(Judgement {
            class: Class::Pool,
            certainty,
            text: format!(
                "{owner} keeps {count} to {remote} that the server has closed, the oldest {age} ago: {evidence}",
                count = text::count(count.max(1), "idle connection"),
                age = text::duration(case.group.oldest),
            ),
            next: format!(
                "nothing, unless their number grows; evicting idle connections sooner than {remote} closes them avoids \
                 errors at the next use"
            ),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::diagnose::{evidence::ClientFacts, testing::Scene};

    fn said(clients: ClientFacts) -> Option<(Class, Certainty)> {
        let mut scene = Scene::client().of(8);
        scene.group.evidence.clients = clients;
        scene.ask(&Pool).map(|said| (said.class, said.certainty))
    }

    #[test]
    fn idle_connections_are_a_pool_and_new_ones_beside_them_are_not() {
        let none = ClientFacts::default();
        assert_eq!(said(none.clone()), None);
        assert_eq!(said(ClientFacts { farewells: 4, ..none.clone() }), Some((Class::Pool, Certainty::Medium)));
        assert_eq!(
            said(ClientFacts { idle: 8, same_moment: 6, ..none.clone() }),
            Some((Class::Pool, Certainty::Medium))
        );
        assert_eq!(said(ClientFacts { idle: 4, ..none.clone() }), Some((Class::Pool, Certainty::Low)));
        assert_eq!(said(ClientFacts { idle: 8, opened_after_onset: Some(2), ..none }), None);
    }
}
