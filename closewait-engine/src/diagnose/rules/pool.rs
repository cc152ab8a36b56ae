//! Connections that wait in a pool until they are wanted again.

use crate::diagnose::{About, Judgement, Rule, Trend, text};
use crate::{
    diagnose::Case,
    model::{Certainty, Class, ReadState},
};

/// A pool whose number grows: there are many pools, or nothing evicts.
pub(super) struct GrowingPool;

/// A pool that looks at a connection only when it needs one.
pub(super) struct Pool;

/// So many times the age at which a socket counts as stuck must a level number have been watched.
const LEVEL_TIMES: u32 = 10;

/// Bytes came in and were read, bytes were sent, and since the FIN nobody has looked; perhaps a goodbye is unread.
fn waits_in_a_pool(case: &Case<'_>) -> Option<bool> {
    let idle = matches!(case.socket.read_state()?, ReadState::IdleFin | ReadState::Goodbye);
    Some(case.is_client() && idle && case.socket.sent_bytes? > 0)
}

impl Rule for GrowingPool {
    fn about(&self) -> &'static About {
        &About {
            name: "growing_pool",
            when: "a client's connection was used, all but a goodbye was read, the program has not read since the FIN, and their \
                   number has grown in every one of the last windows",
            class: &[Class::Pool],
            certainty: &[(Certainty::Medium, "a pool that fills after a quiet time grows as well")],
            says: "a new pool for each call, or a pool that never evicts what the peer has closed",
            next: "share one client; let it evict idle connections sooner than the server closes them",
            not: &["an ordinary pool: its number is level"],
            seen: &["eclipse-rdf4j/rdf4j#406", "zowe/api-layer#2738", "redis/go-redis#2447"],
        }
    }

    fn check(&self, case: &Case<'_>) -> Option<Judgement> {
        let flow = case.group.flow.as_ref()?;
        if !waits_in_a_pool(case)? || flow.trend != Some(Trend::Growing) {
            return None;
        }
        let (owner, remote) = (text::owner(case), case.socket.remote);
        Some(Judgement {
            class: Class::Pool,
            certainty: Certainty::Medium,
            text: format!(
                "{owner} keeps {count} to {remote} that the server has closed, and their number grows ({entered} \
                 entered, {closed} were closed in {watched}): a pool for each call, or one that never evicts",
                count = text::count(case.group.count.max(1), "idle connection"),
                entered = flow.entered,
                closed = flow.closed,
                watched = text::duration(flow.watched),
            ),
            next: format!(
                "see whether {owner} makes a new client for each call; share one, and let it evict idle connections \
                 sooner than {remote} closes them"
            ),
        })
    }
}

impl Rule for Pool {
    fn about(&self) -> &'static About {
        &About {
            name: "pool",
            when: "a client's connection was used, all but a goodbye (100 bytes at most) was read, the program has not read since \
                   the FIN, and their number does not grow",
            class: &[Class::Pool],
            certainty: &[
                (
                    Certainty::High,
                    "their number was level for 3 windows or more, and some were closed or it was watched for 10 times \
                     `--stuck-after`",
                ),
                (
                    Certainty::Medium,
                    "otherwise: connections that are lost one by one look alike until their number tells",
                ),
            ],
            says: "an idle connection, which the pool will notice and replace at its next use",
            next: "nothing; to avoid an error at that use, evict idle connections sooner than the server closes them",
            not: &[
                "a leak of connections that were read to their end: tells itself by growth only (`growing_pool`)",
                "a pool checks a connection only when it needs it: that it is hours old means nothing",
            ],
            seen: &["aio-libs/aiohttp#4805", "urllib3/urllib3#2100", "duosecurity/duo_universal_java#51"],
        }
    }

    fn check(&self, case: &Case<'_>) -> Option<Judgement> {
        if !waits_in_a_pool(case)? {
            return None;
        }
        let flow = case.group.flow.as_ref();
        let level = flow.filter(|flow| flow.trend == Some(Trend::Level));
        let sure =
            level.is_some_and(|flow| flow.closed > 0 || flow.watched >= case.stuck_after.saturating_mul(LEVEL_TIMES));
        let evidence = match level {
            Some(flow) => {
                format!("; their number has been level while it was watched, for {}", text::duration(flow.watched))
            }
            None if case.group.same_moment() => "; all of them were closed by the server within seconds".to_owned(),
            None => String::new(),
        };
        let (owner, remote) = (text::owner(case), case.socket.remote);
        Some(Judgement {
            class: Class::Pool,
            certainty: if sure { Certainty::High } else { Certainty::Medium },
            text: format!(
                "{owner} keeps {count} to {remote} that the server has closed, this one {age} ago: read to the end and \
                 not read since, as in a pool{evidence}",
                count = text::count(case.group.count.max(1), "idle connection"),
                age = text::age(case),
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
    use crate::diagnose::testing::{Scene, secs};

    fn idle(state: ReadState) -> Scene {
        Scene::client().of(8).aged(9000).reading(state)
    }

    fn trend(trend: Trend) -> Scene {
        idle(ReadState::IdleFin).flowing(|flow| flow.trend = Some(trend))
    }

    #[test]
    fn an_idle_pool_is_no_alarm_however_old() {
        for state in [ReadState::IdleFin, ReadState::Goodbye] {
            let said = idle(state).ask(&Pool).unwrap();
            assert_eq!((said.class, said.certainty), (Class::Pool, Certainty::Medium));
            assert!(said.text.contains("8 idle connections to 10.0.0.9:51234"), "{}", said.text);
        }
    }

    #[test]
    fn a_level_number_makes_it_sure() {
        assert_eq!(trend(Trend::Level).ask(&Pool).unwrap().certainty, Certainty::High);
        let short = trend(Trend::Level).flowing(|flow| flow.watched = secs(200));
        assert_eq!(short.ask(&Pool).unwrap().certainty, Certainty::Medium);
        assert_eq!(trend(Trend::Uneven).ask(&Pool).unwrap().certainty, Certainty::Medium);
    }

    #[test]
    fn a_growing_one_has_no_eviction() {
        let verdict = trend(Trend::Growing).verdict();
        assert_eq!((verdict.class, verdict.rule, verdict.certainty), (Class::Pool, "growing_pool", Certainty::Medium));
        assert_eq!(trend(Trend::Level).ask(&GrowingPool), None);
        assert_eq!(idle(ReadState::IdleFin).ask(&GrowingPool), None);
    }

    #[test]
    fn a_connection_that_was_never_used_or_is_a_servers_is_in_no_pool() {
        let mut scene = idle(ReadState::IdleFin);
        scene.socket.sent_bytes = Some(0);
        assert_eq!(scene.ask(&Pool), None);
        scene.socket.sent_bytes = None;
        assert_eq!(scene.ask(&Pool), None);
        assert_eq!(idle(ReadState::Partial).ask(&Pool), None);
        assert_eq!(Scene::server().reading(ReadState::IdleFin).replied(true).ask(&Pool), None);
    }
}
