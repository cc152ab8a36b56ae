//! Connections with unacknowledged data.

use crate::diagnose::{About, Case, Explanation, Judgement, Rule, text};
use crate::model::{Certainty, Class};

/// Detects connections with data in their send queue, which are in use.
pub(super) struct Sending;

impl Rule for Sending {
    fn about(&self) -> &'static About {
        &About {
            name: "sending",
            when: "the peer has not acknowledged data on this socket; this is so on more than half of the group's sockets",
            class: &[Class::Transient, Class::Unknown],
            certainty: &[
                (
                    Certainty::Medium,
                    "transient, for a server: it is still answering, and the kernel gives up eventually",
                ),
                (Certainty::Low, "unknown, for a client: its peer has closed one direction only, or does not read"),
            ],
            says: "the connection is in use: the program sends, and the peer does not read",
            next: "see why the peer does not read",
            not: &["an idle connection of a pool: its send queue is empty"],
            seen: &["katja-beam/katja#8"],
        }
    }

    fn check<'c>(&self, case: &'c Case<'_>) -> Option<Judgement<'c>> {
        let evidence = &case.group.evidence;
        let queued = case.socket.send_queue_bytes.filter(|queued| *queued > 0)?;
        if evidence.sending * 2 <= case.group.count {
            return None;
        }
        let (class, certainty) =
            if case.is_client() { (Class::Unknown, Certainty::Low) } else { (Class::Transient, Certainty::Medium) };
        Some(Judgement::new(class, certainty, move || {
            let (owner, remote) = (text::owner(case), case.socket.remote);
            let writers = evidence.waits.map_or(0, |waits| waits.writing);
            let (its, has) = (owner.its(), owner.has());
            let waits = match writers {
                0 => String::new(),
                1 => format!("; one of {its} threads waits in a send call"),
                threads => format!("; {threads} of {its} threads wait in send calls"),
            };
            Explanation {
                text: format!(
                    "{owner} {has} sent {queued} bytes (Send-Q) that {remote} has not acknowledged, {age} after the FIN: the \
                 connection is in use{waits}",
                    age = text::age(case),
                ),
                next: format!("see why {remote} does not read; a send timeout in {owner} limits the wait").into(),
            }
        }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::diagnose::testing::Scene;

    #[test]
    fn a_client_with_a_full_send_queue_is_no_pool() {
        let mut scene = Scene::client();
        assert_eq!(scene.check(&Sending), None);
        (scene.socket.send_queue_bytes, scene.group.evidence.sending) = (Some(2_000_000), 1);
        let judgement = scene.check(&Sending).unwrap();
        assert_eq!((judgement.class, judgement.certainty), (Class::Unknown, Certainty::Low));
        assert!(judgement.text.contains("2000000 bytes (Send-Q)"), "{}", judgement.text);
    }
}
