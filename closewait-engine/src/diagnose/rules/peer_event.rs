//! Many connections that were closed at the same moment.

use crate::diagnose::{About, Judgement, Rule, Trend, text};
use crate::{
    diagnose::Case,
    model::{Certainty, Class},
};

/// A restart of the peer, or its sweep over idle connections, closes all in one moment.
pub(super) struct PeerEvent;

impl Rule for PeerEvent {
    fn about(&self) -> &'static About {
        &About {
            name: "peer_event",
            when: "3 or more of the group entered within 5 s, all there are, their number does not grow, and too little is \
                   known of them for any rule above",
            class: &[Class::Pool, Class::Unknown],
            certainty: &[
                (Certainty::Medium, "a pool, for clients: most clients with many idle connections are"),
                (Certainty::Low, "unknown, for servers: why the program has not closed them is not told"),
            ],
            says: "something happened at the peer: a restart, a sweep over idle connections",
            next: "see what happened at the peer then",
            not: &["a leak spreads over the time: its ages differ"],
            seen: &["wazuh/wazuh#28630", "mongodb/mongo-php-driver#597"],
        }
    }

    fn check(&self, case: &Case<'_>) -> Option<Judgement> {
        let trend = case.group.flow.as_ref().and_then(|flow| flow.trend);
        if !case.group.same_moment() || trend == Some(Trend::Growing) {
            return None;
        }
        let (class, certainty) = if case.is_client() {
            (Class::Pool, Certainty::Medium)
        } else if case.is_server() {
            (Class::Unknown, Certainty::Low)
        } else {
            return None;
        };
        Some(Judgement {
            class,
            certainty,
            text: format!(
                "all {count} of {owner} were closed by their peers within seconds, {age} ago: one event, such as a \
                 restart or a sweep over idle connections",
                count = text::count(case.group.count, "socket"),
                owner = text::owner(case),
                age = text::age(case),
            ),
            next: format!("see what {} did {} ago", case.socket.remote.address, text::age(case)),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::diagnose::testing::{Scene, secs};

    fn unread_unknown(mut scene: Scene) -> Scene {
        scene.socket.unread_bytes = None;
        scene
    }

    #[test]
    fn sockets_of_one_moment_are_one_event() {
        let verdict = unread_unknown(Scene::client().of(6).aged(600)).verdict();
        assert_eq!((verdict.rule, verdict.class, verdict.certainty), ("peer_event", Class::Pool, Certainty::Medium));
        let said = unread_unknown(Scene::server().of(6).aged(600)).ask(&PeerEvent).unwrap();
        assert_eq!((said.class, said.certainty), (Class::Unknown, Certainty::Low));
    }

    #[test]
    fn few_or_spread_or_growing_ones_are_not() {
        assert_eq!(Scene::client().of(2).aged(600).ask(&PeerEvent), None);
        let mut scene = Scene::client().of(6).aged(600);
        scene.group.youngest = secs(60);
        assert_eq!(scene.ask(&PeerEvent), None);
        let growing = Scene::client().of(6).aged(600).flowing(|flow| flow.trend = Some(Trend::Growing));
        assert_eq!(growing.ask(&PeerEvent), None);
        scene = Scene::client().of(6).aged(600);
        scene.socket.role = None;
        assert_eq!(scene.ask(&PeerEvent), None);
    }
}
