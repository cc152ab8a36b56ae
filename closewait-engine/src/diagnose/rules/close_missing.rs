//! A connection that was answered, and then forgotten.

use crate::diagnose::{
    About, Judgement, Rule, Trend,
    pace::{self, Pace},
    text,
};
use crate::{
    diagnose::Case,
    model::{Certainty, Class, ReadState},
};

/// After the last answer nothing is left to do but to close.
pub(super) struct CloseMissing;

/// If fewer of those on the port stay, in thousandths, the program closes most and forgets some.
const SMALL_SHARE: u64 = 500;
/// Number of answered sockets that show that the program is alive.
const MIN_ANSWERED: u32 = 3;

impl Rule for CloseMissing {
    fn about(&self) -> &'static About {
        &About {
            name: "close_missing",
            when: "a server accepted it, and sent something after the last that came in; nothing of that waits to be \
                   acknowledged",
            class: &[Class::Leak],
            certainty: &[
                (
                    Certainty::Medium,
                    "their number grows, and either others were closed since and fewer than half of the port's stay, or \
                     all of 3 or more were answered: the program is alive",
                ),
                (Certainty::Low, "otherwise: a server that hangs has idle connections that were answered, too"),
            ],
            says: "the program answers and does not close when the peer does",
            next: "see which requests leave them behind",
            not: &[
                "idle connections of a server that hangs: `hung_since` where the port shows that, else low",
                "an answer that is still being sent: silent while the peer has not acknowledged all of it",
                "an answer to a peer that has closed one direction: `half_close`",
            ],
            seen: &["http-kit/http-kit#326", "websockets/ws#180", "grpc/grpc-go#4632", "hashicorp/nomad#4604"],
        }
    }

    fn check(&self, case: &Case<'_>) -> Option<Judgement> {
        let sends = case.socket.send_queue_bytes.is_some_and(|queued| queued > 0);
        if !case.is_server() || !case.socket.accepted? || sends || !case.socket.replied()? {
            return None;
        }
        let flow = case.group.flow.as_ref();
        let pace = pace::of(case);
        let closes_most = match pace {
            Pace::GoesOn => flow.and_then(|flow| flow.stuck_permille()).is_some_and(|share| share < SMALL_SHARE),
            Pace::Unwatched | Pace::Stands { .. } | Pace::Slow { .. } => false,
        };
        let all_answered = case.group.unanswered == 0
            && case.group.in_state(ReadState::NeverRead) == 0
            && case.group.unaccepted == 0
            && case.group.stuck >= MIN_ANSWERED;
        let grows = flow.and_then(|flow| flow.trend) == Some(Trend::Growing);
        let certainty = if grows && (closes_most || all_answered) { Certainty::Medium } else { Certainty::Low };
        let share = match flow {
            Some(flow) if flow.old_entered > 0 => format!(
                "; of {} that entered on port {} long enough ago, {} are still there{}",
                flow.old_entered,
                text::port(case),
                flow.old_present,
                if grows { ", and their number grows" } else { "" }
            ),
            Some(_) | None => String::new(),
        };
        let owner = text::owner(case);
        Some(Judgement {
            class: Class::Leak,
            certainty,
            text: format!(
                "{owner} answered and has not closed, {age} after the peer did{share}",
                age = text::age(case)
            ),
            next: format!(
                "find what {owner} does after its answer when the peer has closed: which requests leave a socket behind, \
                 and which path skips the close"
            ),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::diagnose::testing::{Scene, secs};

    fn certainty(scene: &Scene) -> Option<Certainty> {
        scene.ask(&CloseMissing).map(|said| {
            assert_eq!(said.class, Class::Leak);
            said.certainty
        })
    }

    fn answered() -> Scene {
        Scene::server().of(10).aged(600).reading(ReadState::FinConsumed).replied(true)
    }

    #[test]
    fn a_small_share_that_grows_is_a_leak() {
        let scene = answered().closed_before(10, secs(2)).flowing(|flow| {
            (flow.old_entered, flow.old_present, flow.trend) = (200, 10, Some(Trend::Growing));
        });
        assert_eq!(certainty(&scene), Some(Certainty::Medium));
        let text = scene.ask(&CloseMissing).unwrap().text;
        assert!(text.contains("of 200 that entered on port 8080 long enough ago, 10 are still"), "{text}");
    }

    #[test]
    fn a_server_that_answers_all_and_closes_none_leaks_and_is_not_hung() {
        let scene = answered().all_stuck(10).flowing(|flow| flow.trend = Some(Trend::Growing));
        let verdict = scene.verdict();
        assert_eq!((verdict.rule, verdict.certainty), ("close_missing", Certainty::Medium));
    }

    #[test]
    fn without_growth_or_history_it_is_a_guess() {
        assert_eq!(certainty(&answered()), Some(Certainty::Low));
        assert_eq!(certainty(&answered().flowing(|flow| flow.trend = Some(Trend::Level))), Some(Certainty::Low));
        let mut hung = answered().flowing(|flow| flow.trend = Some(Trend::Growing));
        hung.group.unanswered = 4;
        assert_eq!(certainty(&hung), Some(Certainty::Low), "others were not answered");
    }

    #[test]
    fn it_says_nothing_while_the_answer_is_on_its_way_or_without_one() {
        let mut scene = answered();
        scene.socket.send_queue_bytes = Some(9000);
        assert_eq!(certainty(&scene), None);
        assert_eq!(certainty(&answered().replied(false)), None);
        assert_eq!(certainty(&Scene::client().replied(true)), None);
        scene = answered();
        scene.socket.last_received = None;
        assert_eq!(certainty(&scene), None);
    }
}
