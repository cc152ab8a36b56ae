//! Clients that still read what the server has sent.

use crate::diagnose::{About, Case, Judgement, Rule, text};
use crate::model::{Certainty, Class};

/// Detects clients that read a response slowly: the amount of unread data falls.
pub(super) struct ReadsSlowly;

impl Rule for ReadsSlowly {
    fn about(&self) -> &'static About {
        &About {
            name: "reads_slowly",
            when: "the socket is a client's; on at least half of the group's sockets, less data was unread at a refresh in the \
                   second half of the time since the FIN",
            class: &[Class::Transient],
            certainty: &[(Certainty::Medium, "the program read data after the FIN, and lately")],
            says: "the program reads the response slowly, and closes the connection at its end",
            next: "see what the program does between two reads",
            not: &["an abandoned response: nothing is read from it, see `unread_response`"],
            seen: &[],
        }
    }

    fn check(&self, case: &Case<'_>) -> Option<Judgement> {
        let (reading, count) = (case.group.evidence.clients.reading, case.group.count);
        if !case.is_client() || reading == 0 || reading * 2 < count {
            return None;
        }
        let owner = text::owner(case);
        Some(Judgement {
            class: Class::Transient,
            certainty: Certainty::Medium,
            text: format!(
                "{owner} still reads what {remote} sent before the FIN: less and less is unread on {reading} of {count}",
                remote = case.socket.remote,
                count = text::count(count.max(1), "socket"),
            ),
            next: format!(
                "see what {owner} does between two reads: it closes the connection when it has read everything"
            ),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::diagnose::testing::Scene;

    #[test]
    fn a_client_that_still_reads_is_no_pool() {
        let mut scene = Scene::client().of(4).aged(20);
        (scene.group.evidence.clients.closing_messages, scene.group.evidence.clients.reading) = (4, 1);
        assert_eq!(scene.verdict().class, Class::Pool);
        scene.group.evidence.clients.reading = 2;
        assert_eq!((scene.verdict().class, scene.verdict().rule), (Class::Transient, "reads_slowly"));
    }
}
