//! A server in which everything sticks from one moment on.

use crate::diagnose::{
    About, Judgement, Rule,
    pace::{self, Pace},
    text,
};
use crate::{
    diagnose::Case,
    model::{Certainty, Class, ReadState},
};

/// A hang takes every connection from its onset on, a forgotten close takes a share.
pub(super) struct HungSince;

/// The share of those since the onset that must be there still, in thousandths.
const STUCK_SHARE: u64 = 950;
/// Number of sockets since the onset that must still be there.
const MIN_STUCK: u64 = 5;
/// Number of sockets since the onset from which the verdict is certain.
const MIN_STUCK_FOR_CERTAINTY: u64 = 10;
/// A single client that tries the same slow request again and again looks alike for as long as that takes.
const SINGLE_REMOTE_TIMES: u32 = 10;

impl Rule for HungSince {
    fn about(&self) -> &'static About {
        &About {
            name: "hung_since",
            when: "of a server's port, at least 95 % of 5 or more that entered since the oldest that is still there have \
                   stayed, and none was closed since; and this one got no answer to what it sent last, or others of its \
                   group were never read or accepted",
            class: &[Class::Hung],
            certainty: &[
                (
                    Certainty::High,
                    "10 or more; it used to close others; nothing was closed for more than 4 times the longest that ever \
                     was, and twice `--stuck-after`; this one got no answer; and there are several peers, or it has \
                     lasted 10 times `--stuck-after`",
                ),
                (Certainty::Medium, "fewer, or for less long, or it never closed any while it was watched"),
            ],
            says: "the program hangs since the onset",
            next: "see where its threads are, and what happened at the onset",
            not: &[
                "a server that answers everybody and forgets every close has the same share: that it answered rules it out",
                "one client that repeats a slow request: medium, for as long as it is the only one",
                "long polling at a quiet hour: nothing is sure with fewer than 10",
            ],
            seen: &["gevent/gevent#464", "Netflix, Java 21 virtual threads (2024)", "gin-gonic/gin#596"],
        }
    }

    fn check(&self, case: &Case<'_>) -> Option<Judgement> {
        let flow = case.group.flow.as_ref().filter(|_| case.is_server())?;
        let (onset, share, entered) = (flow.onset?, flow.stuck_permille_since_onset()?, flow.since_onset_entered);
        let Pace::Stands { proven } = pace::since(case, onset) else { return None };
        let answered = case.socket.replied()?;
        let queued = case.group.in_state(ReadState::NeverRead) > 0 || case.group.unaccepted > 0;
        if share < STUCK_SHARE || entered < MIN_STUCK || (answered && !queued) {
            return None;
        }
        let since = case.now.since(onset);
        let many_peers = case.group.remotes > 1 || since >= case.stuck_after.saturating_mul(SINGLE_REMOTE_TIMES);
        let sure = proven && !answered && entered >= MIN_STUCK_FOR_CERTAINTY && many_peers;
        let before = match flow.longest_closed {
            Some(longest) => format!("; before, it closed {}, each within {}", flow.closed, text::duration(longest)),
            None => String::new(),
        };
        Some(Judgement {
            class: Class::Hung,
            certainty: if sure { Certainty::High } else { Certainty::Medium },
            text: format!(
                "nothing of port {port} was closed since the oldest of these entered {since} ago: of {entered} that \
                 entered since, {there} are still there ({share} %){before}.{doing}",
                port = text::port(case),
                since = text::duration(since),
                there = flow.since_onset_present,
                share = share / 10,
                doing = text::doing(case),
            ),
            next: format!("{}; see what happened {} ago", text::dump(case), text::duration(since)),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::diagnose::testing::{Scene, secs};

    /// Everything since this one stuck, nothing answered; the last was closed before.
    fn hung(age: u64, count: u32) -> Scene {
        let mut scene = Scene::server().of(count).aged(age).reading(ReadState::IdleFin).replied(false);
        scene.group.remotes = 3;
        scene.closed_before(age + 20, secs(2)).all_stuck(count.into())
    }

    fn certainty(scene: &Scene) -> Option<Certainty> {
        scene.ask(&HungSince).map(|said| {
            assert_eq!(said.class, Class::Hung);
            said.certainty
        })
    }

    #[test]
    fn a_step_onset_is_a_hang() {
        let scene = hung(300, 12);
        assert_eq!(certainty(&scene), Some(Certainty::High));
        let text = scene.ask(&HungSince).unwrap().text;
        for part in ["port 8080", "5m ago", "of 12 that", "12 are still there (100 %)", "340, each within 2s"] {
            assert!(text.contains(part), "{part}: {text}");
        }
    }

    #[test]
    fn fewer_or_shorter_or_one_client_or_no_history_of_closing_are_likely() {
        assert_eq!(certainty(&hung(300, 6)), Some(Certainty::Medium));
        assert_eq!(certainty(&hung(100, 12)), Some(Certainty::Medium));
        let mut scene = hung(300, 12);
        scene.group.remotes = 1;
        assert_eq!(certainty(&scene), Some(Certainty::Medium));
        let mut scene = hung(7000, 12);
        scene.group.remotes = 1;
        let never_closed = scene.flowing(|flow| (flow.closed, flow.last_closed, flow.longest_closed) = (0, None, None));
        assert_eq!(certainty(&never_closed), Some(Certainty::Medium));
    }

    #[test]
    fn a_slow_handler_is_not_hung() {
        let scene = hung(300, 12).flowing(|flow| flow.longest_closed = Some(secs(120)));
        assert_eq!(certainty(&scene), Some(Certainty::Medium), "it took nearly as long before");
        assert_eq!(certainty(&hung(300, 12).closed_before(30, secs(120))), None, "it goes on");
    }

    #[test]
    fn a_share_that_stays_is_no_hang() {
        assert_eq!(certainty(&hung(300, 12).flowing(|flow| flow.since_onset_present = 11)), None);
        assert_eq!(certainty(&hung(300, 4)), None);
    }

    #[test]
    fn a_server_that_answers_and_forgets_every_close_is_not_hung() {
        assert_eq!(certainty(&hung(300, 12).replied(true)), None);
        let idle_in_a_hung_server = hung(300, 12).reading(ReadState::NeverRead).replied(true);
        assert_eq!(certainty(&idle_in_a_hung_server), Some(Certainty::Medium));
    }

    #[test]
    fn it_needs_to_be_watched_and_a_server() {
        let mut scene = hung(300, 12);
        scene.socket.role = None;
        assert_eq!(certainty(&scene), None);
        assert_eq!(certainty(&Scene::server().of(12).aged(300).replied(false)), None);
    }
}
