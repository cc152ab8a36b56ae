//! A client that has read to the end, and not closed.

use crate::diagnose::{About, Judgement, Rule, Trend, text};
use crate::{
    diagnose::Case,
    model::{Certainty, Class, ReadState},
};

/// The FIN was consumed: it can have been merged into the last data, so that the client need not know of it.
pub(super) struct ResponseLeaked;

impl Rule for ResponseLeaked {
    fn about(&self) -> &'static About {
        &About {
            name: "response_leaked",
            when: "a client read all that came in, the FIN too",
            class: &[Class::Leak, Class::Pool],
            certainty: &[
                (Certainty::Medium, "a leak: their number has grown in every one of the last windows"),
                (
                    Certainty::Low,
                    "a pool if their number is level or falls; a leak otherwise. Reading exactly what was announced \
                     consumes a FIN that came with the last data, and then the connection goes back into a pool",
                ),
            ],
            says: "the response or connection object was dropped without closing it",
            next: "look for the object that is not closed",
            not: &["a pool that read exactly what was announced: only growth tells them apart"],
            seen: &["scotte.org, HttpURLConnection (2015)", "elastic/beats#19569", "elastic/elasticsearch-hadoop#220"],
        }
    }

    fn check(&self, case: &Case<'_>) -> Option<Judgement> {
        if !case.is_client() || case.socket.read_state()? != ReadState::FinConsumed {
            return None;
        }
        let (class, certainty, trend) = match case.group.flow.as_ref().and_then(|flow| flow.trend) {
            Some(Trend::Growing) => (Class::Leak, Certainty::Medium, ", and their number grows"),
            Some(Trend::Level) => (Class::Pool, Certainty::Low, ", and their number is level, as in a pool"),
            Some(Trend::Falling) => (Class::Pool, Certainty::Low, ", and their number falls, as in a pool"),
            Some(Trend::Uneven) | None => (Class::Leak, Certainty::Low, ""),
        };
        let (owner, remote) = (text::owner(case), case.socket.remote);
        Some(Judgement {
            class,
            certainty,
            text: format!(
                "{owner} has read all that {remote} sent and the end of it, and has not closed, {age} after the peer did; \
                 it has {count} like that{trend}",
                age = text::age(case),
                count = text::count(case.group.count.max(1), "socket"),
            ),
            next: format!("find the calls to {remote} in {owner} whose response or connection is not closed"),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::diagnose::testing::Scene;

    fn said(scene: &Scene) -> Option<(Class, Certainty)> {
        scene.ask(&ResponseLeaked).map(|said| (said.class, said.certainty))
    }

    fn read() -> Scene {
        Scene::client().of(5).aged(600).reading(ReadState::FinConsumed)
    }

    #[test]
    fn only_growth_makes_it_likely() {
        let with = |trend| said(&read().flowing(|flow| flow.trend = trend));
        assert_eq!(with(Some(Trend::Growing)), Some((Class::Leak, Certainty::Medium)));
        assert_eq!(with(Some(Trend::Level)), Some((Class::Pool, Certainty::Low)));
        assert_eq!(with(Some(Trend::Falling)), Some((Class::Pool, Certainty::Low)));
        assert_eq!(with(None), Some((Class::Leak, Certainty::Low)));
        assert_eq!(said(&read()), Some((Class::Leak, Certainty::Low)));
    }

    #[test]
    fn it_says_nothing_of_an_unread_end_or_of_servers() {
        assert_eq!(said(&Scene::client().reading(ReadState::IdleFin)), None);
        assert_eq!(said(&Scene::server().reading(ReadState::FinConsumed)), None);
    }
}
