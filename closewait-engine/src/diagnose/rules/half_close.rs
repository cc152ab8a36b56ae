//! A peer that has closed one direction only.

use std::time::Duration;

use crate::diagnose::{About, Judgement, Rule, text};
use crate::{
    diagnose::Case,
    model::{Certainty, Class},
};

/// The kernel of a peer that has closed answers data with a RST; see [`Case::acked_after_fin`].
pub(super) struct HalfClose;

/// A stream that was silent for so long, or for so many times the age at which a socket counts as stuck, may be over.
pub const SILENT: Duration = Duration::from_secs(300);
const SILENT_TIMES: u32 = 5;

impl Rule for HalfClose {
    fn about(&self) -> &'static About {
        &About {
            name: "half_close",
            when: "its entry was seen, and the peer has acknowledged data that was sent after it",
            class: &[Class::HalfClose],
            certainty: &[
                (Certainty::High, "data went out in the last 5 min (or 5 times `--stuck-after`): the stream is in use"),
                (Certainty::Medium, "it has been silent since: all may have been said, and the close forgotten"),
            ],
            says: "the peer has closed its sending side and still reads: legal, and for ever",
            next: "nothing while data flows; give the program a time-out for half-closed connections",
            not: &[
                "data that the peer has not acknowledged proves nothing",
                "whether the FIN came before the data is unknown for a socket that is older than the agent",
            ],
            seen: &["jpillora/chisel#535", "haproxy/haproxy#541", "shadowsocks/shadowsocks-rust#1190"],
        }
    }

    fn check(&self, case: &Case<'_>) -> Option<Judgement> {
        if !case.acked_after_fin()? {
            return None;
        }
        let silent = case.now.since(case.socket.last_sent?);
        let owner = text::owner(case);
        let (certainty, text, next) = if silent < SILENT.max(case.stuck_after.saturating_mul(SILENT_TIMES)) {
            let next = "nothing: it is in use. A time-out for half-closed connections would bound it";
            (Certainty::High, format!("the last data went out {} ago", text::duration(silent)), next.to_owned())
        } else {
            let next = format!("see whether {owner} has more to send; if not, it forgets to close");
            (Certainty::Medium, format!("it has been silent since, for {}", text::duration(silent)), next)
        };
        Some(Judgement {
            class: Class::HalfClose,
            certainty,
            text: format!("the peer acknowledged data that {owner} sent after its FIN, so it still reads; {text}"),
            next,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::diagnose::testing::{Scene, secs};

    /// Data was sent and acknowledged so many seconds ago.
    fn sent(age: u64, ago: u64) -> Scene {
        let mut scene = Scene::server().aged(age).replied(true);
        let at = scene.now - secs(ago);
        (scene.socket.last_sent, scene.socket.last_ack) = (Some(at), Some(at + Duration::from_millis(1)));
        scene
    }

    #[test]
    fn a_peer_that_still_reads_is_in_the_right() {
        let said = sent(900, 10).ask(&HalfClose).unwrap();
        assert_eq!((said.class, said.certainty), (Class::HalfClose, Certainty::High));
        assert!(said.text.contains("app[42]") && said.text.contains("10s ago"), "{}", said.text);
    }

    #[test]
    fn silence_makes_it_less_sure() {
        let said = sent(900, 400).ask(&HalfClose).unwrap();
        assert_eq!(said.certainty, Certainty::Medium);
        assert!(said.text.contains("silent since, for 6m40s"), "{}", said.text);
    }

    #[test]
    fn an_answer_before_the_fin_proves_nothing() {
        assert_eq!(sent(60, 70).ask(&HalfClose), None);
    }

    #[test]
    fn data_on_its_way_and_an_entry_that_nobody_saw_prove_nothing() {
        let mut scene = sent(900, 10);
        scene.socket.send_queue_bytes = Some(100);
        assert_eq!(scene.ask(&HalfClose), None);
        assert_eq!(sent(900, 10).bounded().ask(&HalfClose), None);
        assert_eq!(Scene::server().ask(&HalfClose), None);
    }
}
