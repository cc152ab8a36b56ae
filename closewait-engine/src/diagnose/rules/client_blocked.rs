//! Clients whose threads wait for a lock, or for a connection of a pool, and leave their connections idle meanwhile.

use std::time::Duration;

use crate::diagnose::{
    About, Case, Explanation, Judgement, Rule,
    evidence::{CounterEvidence, EvidenceReading, StackEvidence},
    text,
};
use crate::model::{Certainty, Class};

/// Detects a client that uses none of its connections, because its threads are blocked.
pub(super) struct ClientBlocked;

/// Minimum age of the group's youngest socket: a program that connects is not blocked.
const QUIET: Duration = Duration::from_secs(30);

impl Rule for ClientBlocked {
    fn about(&self) -> &'static About {
        &About {
            name: "client_blocked",
            when: "the socket is a client's; the oldest of the group entered 60 s ago or longer, and the youngest 30 s or longer; stacks \
                   show that for 30 s or longer, most threads that work have waited for locks at up to three lines, at least half as \
                   many as the group has sockets, or for a connection of a pool, while the program opened at most one connection \
                   after the oldest entered",
            class: &[Class::Hung],
            certainty: &[
                (Certainty::Medium, "threads have waited for locks, and the oldest entered 3 min ago or longer"),
                (Certainty::Low, "otherwise: the one that holds the lock may be slow, and the pool may be another one"),
            ],
            says: "the program hangs and uses none of its connections, which the server has closed meanwhile",
            next: "see which thread holds the lock or the connections of the pool",
            not: &[
                "idle threads of a pool: they wait for work, see `pool`",
                "threads that wait for a slow server: connections to other programs wait for an answer",
                "a lock that many threads take in turns: it lets the program use its connections",
            ],
            seen: &["confluentinc/librdkafka#326"],
        }
    }

    fn counter_evidence(&self) -> &'static [CounterEvidence] {
        &[CounterEvidence::LateExits, CounterEvidence::BackendsWait, CounterEvidence::Sending]
    }

    fn check<'c>(&self, case: &'c Case<'_>) -> Option<Judgement<'c>> {
        let stacks = blocked(case)?;
        let by_lock = stacks.at_lines > 0;
        let sure = by_lock && case.group.oldest >= super::LONG_STALLED;
        let certainty = if sure { Certainty::Medium } else { Certainty::Low };
        Some(Judgement::new(Class::Hung, certainty, move || {
            let (owner, remote) = (text::owner(case), case.socket.remote);
            let what = if by_lock { stacks.blocked() } else { stacks.waiting_for_pool() };
            Explanation {
                text: format!(
                    "{owner} {seems} to hang with {count} to {remote}, which the server has closed, the oldest {age} ago: \
                     {what}.{doing}",
                    seems = owner.word("seems", "seem"),
                    count = text::count(case.group.count.max(1), "idle connection"),
                    age = text::duration(case.group.oldest),
                    doing = text::doing(case),
                ),
                next: text::dump(case).and(if by_lock {
                    "see which one holds the lock"
                } else {
                    super::FIND_POOL_USER
                }),
            }
        }))
    }
}

/// Returns the stacks of a client's threads if they are blocked, and leave its connections idle.
pub(super) fn blocked(case: &Case<'_>) -> Option<StackEvidence> {
    let evidence = &case.group.evidence;
    let (stacks, count) = (evidence.stacks?, u64::from(case.group.count));
    let quiet = case.group.oldest >= super::SURE_AGE && case.group.youngest >= QUIET;
    let is_absent = |kind: CounterEvidence| kind.read(case) == EvidenceReading::Absent;
    let is_idle = is_absent(CounterEvidence::BackendsWait) && is_absent(CounterEvidence::LateExits);
    if !(case.is_client() && quiet && is_idle) {
        return None;
    }
    let most_working = |threads: u32| threads > 0 && u64::from(threads) * 10 >= u64::from(stacks.working()) * 7;
    let locked = most_working(stacks.at_lines) && u64::from(stacks.at_lines) * 2 >= count;
    let pooled = most_working(stacks.pool) && evidence.clients.opened_after_onset.unwrap_or(0) < 2;
    (locked || pooled).then_some(stacks)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::diagnose::{
        evidence::{Backends, ClientFacts, LateExits},
        testing::{Scene, secs},
    };

    /// Returns a client of 12 idle connections, whose 13 threads wait: one for work, the others at one line for a lock.
    fn locked(age: u64) -> Scene {
        let mut scene = Scene::client().of(12).aged(age);
        scene.socket.send_queue_bytes = Some(0);
        let evidence = &mut scene.group.evidence;
        evidence.clients = ClientFacts { idle: 12, ..ClientFacts::default() };
        evidence.late_exits = Some(LateExits::default());
        evidence.backends = Some(Backends::default());
        let stacks =
            StackEvidence { threads: 13, idle: 1, at_line: 12, at_lines: 12, lines: 1, ..StackEvidence::default() };
        evidence.stacks = Some(StackEvidence { complete: true, ..stacks });
        scene
    }

    fn result(scene: &Scene) -> (Class, Certainty) {
        let verdict = scene.verdict();
        (verdict.class, verdict.certainty)
    }

    #[test]
    fn a_client_whose_threads_wait_for_one_lock_is_hung() {
        assert_eq!(result(&locked(70)), (Class::Hung, Certainty::Low));
        assert_eq!(result(&locked(190)), (Class::Hung, Certainty::Medium));
        assert_ne!(result(&locked(50)).0, Class::Hung, "too early");
        let text = locked(70).verdict().text;
        let expected = "seems to hang with 12 idle connections to";
        assert!(
            text.contains(expected) && text.contains("12 of 13 stacks have waited for a lock at one line"),
            "{text}"
        );
    }

    #[test]
    fn a_client_that_may_work_is_not_hung() {
        let mut scene = locked(190);
        scene.group.youngest = secs(29);
        assert_ne!(result(&scene).0, Class::Hung, "it connects");
        let changes: [fn(&mut Scene); 5] = [
            |scene| scene.group.evidence.backends = None,
            |scene| scene.group.evidence.backends = Some(Backends { waiting: 6, answered: false }),
            |scene| scene.group.evidence.late_exits = None,
            |scene| scene.group.evidence.stacks.as_mut().expect("stacks").threads = 30,
            |scene| scene.group.count = 25,
        ];
        for change in changes {
            let mut scene = locked(190);
            change(&mut scene);
            assert_ne!(result(&scene).0, Class::Hung, "{scene:?}");
        }
    }

    #[test]
    fn threads_that_wait_for_a_connection_show_an_exhausted_pool() {
        let mut scene = locked(190);
        let stacks = StackEvidence { threads: 13, idle: 1, pool: 12, complete: true, ..StackEvidence::default() };
        scene.group.evidence.stacks = Some(stacks);
        assert_eq!(result(&scene), (Class::Hung, Certainty::Low));
        let text = scene.verdict().text;
        assert!(text.contains("12 of 13 stacks have waited for a connection of a pool"), "{text}");
        scene.group.evidence.clients.opened_after_onset = Some(2);
        assert_ne!(result(&scene).0, Class::Hung, "it opened others");
    }
}
