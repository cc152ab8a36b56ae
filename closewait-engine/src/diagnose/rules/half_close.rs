//! Peers that have closed one direction only.

use std::time::Duration;

use crate::diagnose::{About, Explanation, Judgement, Rule, text};
use crate::{
    diagnose::Case,
    model::{Certainty, Class},
};

/// Detects a peer that acknowledges data after its FIN, so that it has closed one direction only; see [`Case::acked_after_fin`].
pub(super) struct HalfClose;

/// Minimum time without data after which a half-closed stream may have ended.
pub const SILENT: Duration = Duration::from_secs(300);
/// Minimum for [`SILENT`] as a multiple of the age at which a socket counts as stuck.
const SILENT_TIMES: u32 = 5;

impl Rule for HalfClose {
    fn about(&self) -> &'static About {
        &About {
            name: "half_close",
            when: "the agent saw the entry; the peer has acknowledged data that the program sent after it",
            class: &[Class::HalfClose],
            certainty: &[
                (
                    Certainty::High,
                    "the program sent data in the last 5 min, or in 5 times `--stuck-after` if that is longer: the stream is in use",
                ),
                (
                    Certainty::Medium,
                    "the program has sent nothing for longer: the stream may have ended, and the program may have forgotten to \
                     close it",
                ),
            ],
            says: "the peer has closed its sending side and still reads, which is legal and has no time limit",
            next: "nothing while data flows; give the program a timeout for half-closed connections",
            not: &[
                "a peer that has not acknowledged the data: it may have closed both directions",
                "a socket that is older than the agent: whether the FIN came before the data is unknown",
            ],
            seen: &["jpillora/chisel#535", "haproxy/haproxy#541", "shadowsocks/shadowsocks-rust#1190"],
        }
    }

    fn check<'c>(&self, case: &'c Case<'_>) -> Option<Judgement<'c>> {
        if !case.acked_after_fin()? {
            return None;
        }
        let silent = case.now.since(case.socket.last_sent?);
        let in_use = silent < SILENT.max(case.stuck_after.saturating_mul(SILENT_TIMES));
        let certainty = if in_use { Certainty::High } else { Certainty::Medium };
        Some(Judgement::new(Class::HalfClose, certainty, move || {
            let (owner, silent) = (text::owner(case), text::duration(silent));
            let (it, has) = (owner.it(), owner.has());
            let (text, next) = if in_use {
                let next = "nothing: the connection is in use. A timeout for half-closed connections would limit it";
                (format!("the last data was sent {silent} ago"), next.to_owned())
            } else {
                let next =
                    format!("see whether {owner} {has} more to send; if not, {it} {has} forgotten to close the socket");
                (format!("no data was sent for {silent}"), next)
            };
            Explanation {
                text: format!(
                    "the peer acknowledged data that {owner} sent after the FIN, so the peer still reads; {text}"
                ),
                next: next.into(),
            }
        }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::diagnose::testing::{Scene, secs};

    /// Returns a socket on which data was sent and acknowledged `ago` seconds ago.
    fn sent(age: u64, ago: u64) -> Scene {
        let mut scene = Scene::server().aged(age).replied(true);
        let at = scene.now - secs(ago);
        (scene.socket.last_sent, scene.socket.last_ack) = (Some(at), Some(at + Duration::from_millis(1)));
        scene
    }

    #[test]
    fn a_peer_that_still_reads_is_half_closed() {
        let judgement = sent(900, 10).check(&HalfClose).unwrap();
        assert_eq!((judgement.class, judgement.certainty), (Class::HalfClose, Certainty::High));
        assert!(judgement.text.contains("app[42]") && judgement.text.contains("10s ago"), "{}", judgement.text);
    }

    #[test]
    fn silence_lowers_the_certainty() {
        let judgement = sent(900, 400).check(&HalfClose).unwrap();
        assert_eq!(judgement.certainty, Certainty::Medium);
        assert!(judgement.text.contains("no data was sent for 6m40s"), "{}", judgement.text);
    }

    #[test]
    fn an_answer_before_the_fin_proves_nothing() {
        assert_eq!(sent(60, 70).check(&HalfClose), None);
    }

    #[test]
    fn unacknowledged_data_and_a_missed_entry_prove_nothing() {
        let mut scene = sent(900, 10);
        scene.socket.send_queue_bytes = Some(100);
        assert_eq!(scene.check(&HalfClose), None);
        assert_eq!(sent(900, 10).bounded().check(&HalfClose), None);
        assert_eq!(Scene::server().check(&HalfClose), None);
    }
}
