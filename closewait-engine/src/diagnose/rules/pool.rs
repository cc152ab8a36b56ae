//! Idle connections of a pool.

use std::time::Duration;

use crate::diagnose::{About, Case, Explanation, Judgement, Rule, text};
use crate::model::{Certainty, Class};

use super::client_blocked;

/// Maximum time between two rounds in which a pool closes connections that its peer has closed.
const MAX_ROUND: Duration = Duration::from_secs(180);

/// Detects idle connections of a pool, which checks a connection only when it needs one.
pub(super) struct Pool;

impl Rule for Pool {
    fn about(&self) -> &'static About {
        &About {
            name: "pool",
            when: "the socket is a client's; at least half of the group's sockets were idle for 1 s or longer when the FIN \
                   arrived, or have an unread response and 3 or more FINs arrived within 1.5 s; at least half received a \
                   closing message with the FIN that no request asked for, and fewer than half were opened after the oldest \
                   entered or the program has a thread for each; or the program ended 2 or more late, as `slow` requires; or at \
                   most one socket was opened after the oldest entered; `client_blocked` does not apply",
            class: &[Class::Pool, Class::Unknown],
            certainty: &[
                (
                    Certainty::Medium,
                    "closing messages; one event at the peer: 3 or more FINs within 1.5 s; or sockets that the program ended late, as \
                     at their next use",
                ),
                (
                    Certainty::Low,
                    "idle connections only, or one event and unread responses: connections that the program forgot after use look \
                     the same; unknown if most threads wait without a timeout and the program has not ended 2 or more late in the last 3 min, or stacks show threads that wait for a connection of a pool, or \
                     at least half as many as sockets that wait for a lock: an idle pool and an exhausted one look the same",
                ),
            ],
            says: "idle connections, which the pool will notice and replace at their next use",
            next: "nothing; to avoid errors at the next use, evict idle connections before the server closes them",
            not: &[
                "a connection that the server closed right after its answer: it was not idle",
                "a program that keeps opening connections while the old ones remain: see `accumulates`",
                "a connection with data to send: see `sending`",
            ],
            seen: &["aio-libs/aiohttp#4805", "urllib3/urllib3#2100", "npgsql/npgsql#2896", "lib/pq#342"],
        }
    }

    fn check<'c>(&self, case: &'c Case<'_>) -> Option<Judgement<'c>> {
        if !case.is_client() || client_blocked::blocked(case).is_some() {
            return None;
        }
        let (clients, count) = (&case.group.evidence.clients, case.group.count);
        let (owner, remote) = (text::owner(case), case.socket.remote);
        let most = |number| case.group.is_most(number);
        let one_event = clients.same_moment >= 3 && most(clients.same_moment);
        let waits = case.group.evidence.waits;
        let opened = clients.opened_after_onset.unwrap_or(0);
        // A pool opens a new connection for an old one now and then, not always. Threads that each keep a connection may have
        // started one after the other.
        let thread_for_each = waits.is_some_and(|waits| waits.complete && waits.threads >= count);
        let accumulates = opened >= 2 && opened * 2 >= count && !thread_for_each;
        let replaces = case.group.evidence.late_exits.filter(|exits| exits.is_current(case.now));
        let (certainty, evidence) = if most(clients.closing_messages) && !accumulates {
            (
                Certainty::Medium,
                format!(
                    "{} received a closing message with the FIN that no request asked for",
                    clients.closing_messages
                ),
            )
        } else if one_event && opened < 2 && (most(clients.idle) || most(clients.responses)) {
            // An unread response is no sign of a pool: its program may have lost the connection.
            (
                if most(clients.responses) { Certainty::Low } else { Certainty::Medium },
                format!(
                    "{remote} closed {} of them within 1.5s, as a restart does, or a limit on the time without requests",
                    clients.same_moment
                ),
            )
        } else if most(clients.idle)
            && !accumulates
            && let Some(exits) = replaces
        {
            (
                Certainty::Medium,
                format!(
                    "{idle} had been idle for 1s or longer, and {it} closed {count} others after up to {longest}, as at their next use",
                    idle = clients.idle,
                    it = owner.it(),
                    count = exits.number(),
                    longest = text::duration(exits.longest),
                ),
            )
        } else if most(clients.idle) && opened < 2 {
            (Certainty::Low, format!("{} had been idle for 1s or longer when {remote} closed them", clients.idle))
        } else {
            return None;
        };
        // Threads that wait without a timeout may wait for one of these: then the pool is exhausted. Their stacks show it.
        let waiting = match case.group.evidence.stacks {
            Some(stacks) if stacks.pool > 0 => {
                let wait = if stacks.pool == 1 { "waits" } else { "wait" };
                Some(format!(
                    "{} of {} threads {wait} for a connection of a pool, perhaps for one of these",
                    stacks.pool, stacks.threads
                ))
            }
            // They may hold the connections meanwhile.
            Some(stacks) if stacks.blocks(count) => {
                Some(format!("{}, and may keep these.{}", stacks.blocked(), text::doing(case)))
            }
            Some(stacks) if !stacks.unknown => None,
            // No thread waits without end for a pool that closes and replaces its connections.
            Some(_) | None if has_replaced(case) => None,
            Some(_) | None => waits
                .filter(|waits| !waits.multiplexes && waits.blocked_of_program() * 2 > waits.threads)
                .map(|waits| {
                    format!(
                        "{} of {} threads wait without a timeout, perhaps for one of these",
                        waits.blocked, waits.threads
                    )
                }),
        };
        let (class, certainty, threads, next) = match waiting {
            Some(waiting) => (
                Class::Unknown,
                Certainty::Low,
                format!("; {waiting}"),
                text::dump(case).and("a thread that waits for a connection shows an exhausted pool, one that waits for a lock a hang"),
            ),
            None => (
                Class::Pool,
                certainty,
                String::new(),
                format!(
                    "nothing, unless their number grows; to avoid errors at the next use, evict idle connections before \
                     {remote} closes them"
                )
                .into(),
            ),
        };
        Some(Judgement::new(class, certainty, move || Explanation {
            text: format!(
                "{owner} {keeps} {count} to {remote} that the server has closed, the oldest {age} ago: {evidence}{threads}",
                count = text::count(count.max(1), "idle connection"),
                keeps = owner.word("keeps", "keep"),
                age = text::duration(case.group.oldest),
            ),
            next,
        }))
    }
}

/// Whether the program has closed connections of the pool late some time ago. A pool that looks for closed ones now and then does so in
/// rounds, with longer pauses than the connections stay.
fn has_replaced(case: &Case<'_>) -> bool {
    let exits = case.group.evidence.late_exits.filter(|exits| exits.count >= 2);
    exits.and_then(|exits| exits.last).is_some_and(|last| case.now.since(last) <= MAX_ROUND)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::diagnose::{
        evidence::{ClientFacts, LateExits, StackEvidence, Waits},
        testing::{Scene, secs},
    };

    fn result(clients: ClientFacts) -> Option<(Class, Certainty)> {
        let mut scene = Scene::client().of(8);
        scene.group.evidence.clients = clients;
        scene.check(&Pool).map(|judgement| (judgement.class, judgement.certainty))
    }

    #[test]
    fn idle_connections_are_a_pool_and_new_ones_beside_them_are_not() {
        let none = ClientFacts::default();
        assert_eq!(result(none.clone()), None);
        assert_eq!(result(ClientFacts { closing_messages: 4, ..none.clone() }), Some((Class::Pool, Certainty::Medium)));
        assert_eq!(
            result(ClientFacts { idle: 8, same_moment: 6, ..none.clone() }),
            Some((Class::Pool, Certainty::Medium))
        );
        assert_eq!(
            result(ClientFacts { idle: 8, responses: 8, same_moment: 6, ..none.clone() }),
            Some((Class::Pool, Certainty::Low))
        );
        assert_eq!(result(ClientFacts { idle: 4, ..none.clone() }), Some((Class::Pool, Certainty::Low)));
        let opened =
            |opened| ClientFacts { closing_messages: 8, opened_after_onset: Some(opened), ..ClientFacts::default() };
        assert_eq!(result(opened(3)), Some((Class::Pool, Certainty::Medium)));
        assert_eq!(result(opened(4)), None);
        let mut scene = Scene::client().of(8);
        scene.group.evidence.clients = opened(4);
        scene.group.evidence.waits = Some(Waits { threads: 8, limited: 8, complete: true, ..Waits::default() });
        assert_eq!(scene.check(&Pool).unwrap().class, Class::Pool, "a thread for each connection");
        assert_eq!(result(ClientFacts { idle: 8, opened_after_onset: Some(2), ..none }), None);
    }

    #[test]
    fn connections_that_are_closed_at_their_next_use_are_a_pool_and_not_slow() {
        let mut scene = Scene::client().of(7);
        let exits = LateExits { count: 3, last: Some(scene.now - secs(5)), longest: secs(40) };
        scene.group.evidence.late_exits = Some(exits);
        assert_eq!(scene.verdict().rule, "slow", "they were in use");
        scene.group.evidence.clients = ClientFacts { idle: 6, opened_after_onset: Some(3), ..ClientFacts::default() };
        let verdict = scene.verdict();
        assert_eq!((verdict.class, verdict.certainty), (Class::Pool, Certainty::Medium));
        assert!(verdict.text.contains("it closed 3 others after up to 40s, as at their next use"), "{}", verdict.text);
        scene.group.evidence.clients.opened_after_onset = Some(4);
        assert_eq!(scene.verdict().rule, "slow", "most are new");
    }

    #[test]
    fn threads_that_may_wait_for_a_connection_make_a_pool_a_guess() {
        let mut scene = Scene::client().of(8);
        scene.group.evidence.clients = ClientFacts { idle: 8, same_moment: 8, ..ClientFacts::default() };
        scene.group.evidence.waits = Some(Waits { threads: 13, blocked: 6, complete: true, ..Waits::default() });
        assert_eq!(scene.check(&Pool).unwrap().certainty, Certainty::Medium);
        scene.group.evidence.waits = Some(Waits { threads: 13, blocked: 7, complete: true, ..Waits::default() });
        let judgement = scene.check(&Pool).unwrap();
        assert_eq!((judgement.class, judgement.certainty), (Class::Unknown, Certainty::Low));
        assert!(judgement.text.contains("7 of 13 threads") && judgement.next.command.is_some(), "{judgement:?}");
        let mut replaces = scene.clone();
        replaces.group.evidence.late_exits =
            Some(LateExits { count: 8, last: Some(scene.now - secs(5)), longest: secs(4) });
        assert_eq!(replaces.check(&Pool).unwrap().class, Class::Pool, "it closes others");
        replaces.group.evidence.late_exits.as_mut().unwrap().last = Some(scene.now - secs(180));
        assert_eq!(replaces.check(&Pool).unwrap().class, Class::Pool, "in rounds");
        replaces.group.evidence.late_exits.as_mut().unwrap().last = Some(scene.now - secs(181));
        assert_eq!(replaces.check(&Pool).unwrap().class, Class::Unknown, "no longer");
        let stacks = StackEvidence { threads: 13, pool: 0, complete: true, ..StackEvidence::default() };
        scene.group.evidence.stacks = Some(stacks);
        assert_eq!(scene.check(&Pool).unwrap().class, Class::Pool, "no thread waits for a connection");
        scene.group.evidence.stacks = Some(StackEvidence { complete: false, ..stacks });
        assert_eq!(scene.check(&Pool).unwrap().class, Class::Pool, "tasks of an event loop would have stacks");
        scene.group.evidence.stacks = Some(StackEvidence { complete: false, unknown: true, ..stacks });
        assert_eq!(scene.check(&Pool).unwrap().class, Class::Unknown, "some stacks are unknown");
        scene.group.evidence.stacks = Some(StackEvidence { pool: 5, ..stacks });
        let judgement = scene.check(&Pool).unwrap();
        assert_eq!(judgement.class, Class::Unknown);
        assert!(judgement.text.contains("5 of 13 threads wait for a connection of a pool"), "{judgement:?}");
        scene.group.evidence.stacks = Some(StackEvidence { at_line: 8, at_lines: 8, lines: 1, ..stacks });
        let judgement = scene.check(&Pool).unwrap();
        assert_eq!(
            (judgement.class, judgement.certainty),
            (Class::Unknown, Certainty::Low),
            "they may hang with these"
        );
        assert!(judgement.text.contains("8 of 13 stacks have waited for a lock at one line"), "{judgement:?}");
    }
}
