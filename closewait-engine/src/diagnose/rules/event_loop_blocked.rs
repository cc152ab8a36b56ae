//! An event loop that does not come round, because its thread computes.

use crate::diagnose::{
    About, Judgement, Rule,
    pace::{self, Pace},
    text::{self, Busy},
};
use crate::{
    diagnose::Case,
    model::{Certainty, Class},
};

/// One thread does everything: while it computes, nothing is read.
pub(super) struct EventLoopBlocked;

impl Rule for EventLoopBlocked {
    fn about(&self) -> &'static About {
        &About {
            name: "event_loop_blocked",
            when: "something is unread (the FIN counts), and a thread of its owner uses at least 90 % of a CPU: of a \
                   runtime with an event loop if none was seen to be closed since, of any other only if it has closed \
                   nothing for far longer than ever before",
            class: &[Class::Hung],
            certainty: &[
                (
                    Certainty::High,
                    "a server with an event loop that used to close others and has needed more than 4 times longer \
                     than ever, and twice `--stuck-after`",
                ),
                (Certainty::Medium, "not watched for so long, or a program whose threads may do other things"),
            ],
            says: "the thread that would notice the FIN is busy",
            next: "see where the busy thread is",
            not: &[
                "a loop that is busy and makes progress: no verdict if any socket was closed since",
                "a busy thread of a program with many says little: medium, and only if it stands still",
            ],
            seen: &["netty/netty#10220", "nodejs/node#11307"],
        }
    }

    fn check(&self, case: &Case<'_>) -> Option<Judgement> {
        judge(case, &text::busy(case)?)
    }
}

fn judge(case: &Case<'_>, busy: &Busy) -> Option<Judgement> {
    if case.socket.unread_bytes? == 0 {
        return None;
    }
    let certainty = match (pace::of(case), busy.event_loop) {
        (Pace::Stands { proven: true }, true) if case.is_server() => Certainty::High,
        (Pace::Stands { proven: true }, _) | (Pace::Stands { proven: false } | Pace::Unwatched, true) => {
            Certainty::Medium
        }
        (Pace::Stands { proven: false } | Pace::Unwatched, false) | (Pace::Slow { .. } | Pace::GoesOn, _) => {
            return None;
        }
    };
    let Busy { who, percent, event_loop } = busy;
    let alone = if *event_loop { ", and one thread serves all of its connections" } else { "" };
    Some(Judgement {
        class: Class::Hung,
        certainty,
        text: format!(
            "a thread of {who} uses {percent} % of a CPU{alone}; it has not read what came in on this one in {}",
            text::age(case)
        ),
        next: text::dump(case),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::diagnose::testing::{Scene, secs};

    fn certainty(scene: &Scene, event_loop: bool) -> Option<Certainty> {
        let busy = Busy { who: "node[42]".to_owned(), percent: 99, event_loop };
        scene.case(|case| judge(case, &busy)).map(|said| said.certainty)
    }

    #[test]
    fn a_loop_that_used_to_come_round_is_sure() {
        let scene = Scene::server().aged(300).closed_before(400, secs(1));
        assert_eq!(certainty(&scene, true), Some(Certainty::High));
        assert_eq!(certainty(&scene, false), Some(Certainty::Medium));
    }

    #[test]
    fn without_a_history_it_is_likely_for_a_loop_and_nothing_for_others() {
        assert_eq!(certainty(&Scene::server(), true), Some(Certainty::Medium));
        assert_eq!(certainty(&Scene::server(), false), None);
    }

    #[test]
    fn a_loop_that_is_busy_and_goes_on_is_healthy() {
        let scene = Scene::server().aged(300).closed_before(10, secs(1));
        assert_eq!(certainty(&scene, true), None);
    }

    #[test]
    fn a_client_is_not_sure_and_one_with_nothing_unread_is_none() {
        let scene = Scene::client().aged(300).closed_before(400, secs(1));
        assert_eq!(certainty(&scene, true), Some(Certainty::Medium));
        let mut scene = Scene::server();
        scene.socket.unread_bytes = Some(0);
        assert_eq!(certainty(&scene, true), None);
    }

    #[test]
    fn without_a_busy_thread_it_says_nothing() {
        assert_eq!(Scene::server().ask(&EventLoopBlocked), None);
    }
}
