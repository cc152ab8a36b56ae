//! Clients that still read what the server has sent.

use crate::diagnose::{About, Case, Explanation, Judgement, Rule, text};
use crate::model::{Certainty, Class};

/// Detects clients that read a response slowly: the amount of unread data falls, or their only thread hands on what it has read.
pub(super) struct ReadsSlowly;

impl Rule for ReadsSlowly {
    fn about(&self) -> &'static About {
        &About {
            name: "reads_slowly",
            when: "the socket is a client's; on at least half of the group's sockets, less data was unread at a refresh in the \
                   second half of the time since the FIN, or data is unread and the only thread of the program waits in a write \
                   call",
            class: &[Class::Transient],
            certainty: &[
                (Certainty::Medium, "the program read data after the FIN, and lately"),
                (
                    Certainty::Low,
                    "its only thread waits in a write call: if the reader never takes the data, the program hangs",
                ),
            ],
            says: "the program reads the response slowly, and closes the connection at its end",
            next: "see what the program does between two reads",
            not: &["an abandoned response: nothing is read from it, see `unread_response`"],
            seen: &[],
        }
    }

    fn check<'c>(&self, case: &'c Case<'_>) -> Option<Judgement<'c>> {
        let (clients, count) = (&case.group.evidence.clients, case.group.count);
        let most = |number| case.group.is_most(number);
        if !case.is_client() {
            return None;
        }
        let writes = case.group.evidence.waits.is_some_and(|waits| waits.threads == 1 && waits.writing == 1);
        if !most(clients.reading) && writes && most(clients.responses + clients.closing_messages) {
            return Some(Judgement::new(Class::Transient, Certainty::Low, move || {
                let owner = text::owner(case);
                Explanation {
                    text: format!(
                        "the only thread of {owner} waits in a write call, while data from {} is unread",
                        case.socket.remote
                    ),
                    next: text::dump(case).and(&format!(
                        "see what {owner} {} to, and why that does not take the data",
                        owner.word("writes", "write")
                    )),
                }
            }));
        }
        if !most(clients.reading) {
            return None;
        }
        Some(Judgement::new(Class::Transient, Certainty::Medium, move || {
            let owner = text::owner(case);
            Explanation {
                text: format!(
                    "{owner} still {reads} what {remote} sent before the FIN: less and less is unread on {reading} of {count}",
                    reads = owner.word("reads", "read"),
                    reading = clients.reading,
                    remote = case.socket.remote,
                    count = text::count(count.max(1), "socket"),
                ),
                next: format!(
                    "see what {owner} {does} between two reads: {it} {closes} the connection when {it} {has} read everything",
                    does = owner.does(),
                    it = owner.it(),
                    closes = owner.word("closes", "close"),
                    has = owner.has(),
                )
                .into(),
            }
        }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::diagnose::{evidence::Waits, testing::Scene};

    #[test]
    fn a_client_that_still_reads_is_no_pool() {
        let mut scene = Scene::client().of(4).aged(20);
        (scene.group.evidence.clients.closing_messages, scene.group.evidence.clients.reading) = (4, 1);
        assert_eq!(scene.verdict().class, Class::Pool);
        scene.group.evidence.clients.reading = 2;
        let judged = |scene: &Scene| (scene.verdict().class, scene.verdict().rule, scene.verdict().certainty);
        assert_eq!(judged(&scene), (Class::Transient, "reads_slowly", Certainty::Medium));
        scene.group.evidence.clients.reading = 0;
        scene.group.evidence.waits = Some(Waits { threads: 1, writing: 1, complete: true, ..Waits::default() });
        assert_eq!(judged(&scene), (Class::Transient, "reads_slowly", Certainty::Low));
    }
}
