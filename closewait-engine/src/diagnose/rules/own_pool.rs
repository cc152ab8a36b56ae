//! Threads that can be the idle workers of a program's own pool, or the handlers of requests.

use crate::diagnose::{
    About, Case, Explanation, Judgement, Rule,
    evidence::{MIN_DEMAND, OwnLoops},
    text,
};
use crate::model::{Certainty, Class};

/// Covers servers without progress whose threads wait for work or for a result, and nothing shows which.
pub(super) struct OwnPool;

impl Rule for OwnPool {
    fn about(&self) -> &'static About {
        &About {
            name: "own_pool",
            when: "the socket is a server's; since the oldest of the port entered, or since the last progress after that, 2 or more new \
                   connections arrived, and the program served no other; stacks, all of which were read, show threads that wait for work \
                   or for a result in the function that they began with, and fewer others than half of the sockets; the program has read \
                   most of the sockets; nothing shows whether these threads are workers: they are at least half as many as the sockets, \
                   their number has neither stayed while that of the sockets rose nor risen with it, and it is not that of the sockets",
            class: &[Class::Unknown],
            certainty: &[(
                Certainty::Low,
                "an idle pool and hung requests look the same until more sockets have entered",
            )],
            says: "a pool of the program's own is idle, or its requests hang",
            next: "send a request and see whether the program answers",
            not: &[
                "idle workers, which are fewer, or stay the same number: see `forgotten`",
                "handlers that wait for a result, whose number rises with that of the sockets: see `blocked`",
            ],
            seen: &[],
        }
    }

    fn check<'c>(&self, case: &'c Case<'_>) -> Option<Judgement<'c>> {
        let evidence = &case.group.evidence;
        let applies = case.is_server()
            && evidence.demand >= MIN_DEMAND
            && evidence.progresses(case.now) != Some(true)
            && super::own_loops(case) == Some(OwnLoops::Undecided);
        if !applies {
            return None;
        }
        Some(Judgement::new(Class::Unknown, Certainty::Low, move || {
            let (owner, port) = (text::owner(case), text::port(case));
            let in_loops = case.group.evidence.stacks.map_or(0, |stacks| stacks.in_loops);
            Explanation {
            text: format!(
                "{owner} {has} served no other connection of port {port} for {stalled}; {in_loops} of {its} threads {wait} in the \
                 function that {they} began with, for work or for a result: an idle pool, whose program has forgotten {count}, and hung requests look \
                 the same.{doing}",
                has = owner.has(),
                its = owner.its(),
                wait = if in_loops == 1 { "waits" } else { "wait" },
                they = if in_loops == 1 { "it" } else { "they" },
                stalled = text::duration(case.stalled()),
                count = text::count(case.group.count.max(1), "socket"),
                doing = text::doing(case),
            ),
            next: format!(
                "send a request to port {port} and see whether {owner} {answers}; check again when more sockets have entered",
                answers = owner.word("answers", "answer"),
            )
            .into(),
        }
        }))
    }
}

#[cfg(test)]
mod tests {
    use super::super::blocked::tests::hung;
    use crate::{
        diagnose::evidence::{OwnLoops, StackEvidence},
        model::ReadState,
    };

    #[test]
    fn a_pool_that_may_be_idle_or_hung_is_not_blamed() {
        let mut scene = hung(190).reading(ReadState::IdleFin);
        let stacks = StackEvidence { threads: 24, idle: 4, in_loops: 20, complete: true, ..StackEvidence::default() };
        let mut rule = |loops| {
            scene.group.evidence.stacks = Some(StackEvidence { loops: Some(loops), ..stacks });
            scene.verdict()
        };
        let verdict = rule(OwnLoops::Undecided);
        assert_eq!(verdict.rule, "own_pool");
        assert!(
            verdict.text.contains("20 of its threads wait in the function that they began with"),
            "{}",
            verdict.text
        );
        assert_eq!(rule(OwnLoops::Workers).rule, "forgotten");
        assert_eq!(rule(OwnLoops::Handlers).rule, "blocked");
        let mut unread = hung(190).reading(ReadState::NeverRead);
        unread.group.evidence.stacks = Some(StackEvidence { loops: Some(OwnLoops::Undecided), ..stacks });
        assert_eq!(unread.verdict().rule, "blocked", "idle workers would have read them");
    }
}
