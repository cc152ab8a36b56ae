//! Queue of hook events: those that wait for a program, and the groups of running programs. Pure: the time comes in.

use std::{
    collections::{BTreeSet, VecDeque},
    time::Duration,
};

use super::{HookEvent, HookGroup};
use closewait_engine::time::BootTime;

/// Maximum number of programs that run at the same time.
const MAX_RUNNING: usize = 4;
/// Maximum number of requests that wait. The agent sends at most ten per minute, and each may have some megabytes.
const MAX_WAITING: usize = 16;

/// Reason why a program is not run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Refused {
    /// A program runs, or an event waits, for the same group.
    Busy,
    /// Too many events wait.
    Full,
}

impl Refused {
    pub(super) const fn why(self) -> &'static str {
        match self {
            Self::Busy => "the one before has not ended",
            Self::Full => "too many wait for others to end",
        }
    }
}

/// Result of taking a waiting event from the queue.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum NextEvent {
    /// The event is due.
    Run(HookEvent),
    /// The event waited longer than the limit, so its sockets may have exited meanwhile.
    Stale(HookGroup),
}

/// Queue of hook events: those that wait for a program, and the groups whose programs run.
#[derive(Debug)]
pub(super) struct HookQueue {
    running: BTreeSet<HookGroup>,
    waiting: VecDeque<(BootTime, HookEvent)>,
    patience: Duration,
}

impl HookQueue {
    /// Creates an empty queue. `patience` is the maximum time that an event waits.
    pub(super) fn new(patience: Duration) -> Self {
        Self { running: BTreeSet::new(), waiting: VecDeque::new(), patience }
    }

    pub(super) fn offer(&mut self, event: HookEvent, now: BootTime) -> Result<(), Refused> {
        let group = &event.group;
        if self.running.contains(group) || self.waiting.iter().any(|(_, other)| other.group == *group) {
            return Err(Refused::Busy);
        }
        if self.waiting.len() >= MAX_WAITING {
            return Err(Refused::Full);
        }
        self.waiting.push_back((now, event));
        Ok(())
    }

    /// Returns the next event that is due, if its program may run now. It counts as running until [`finished`](Self::finished).
    /// Reports of an incident keep their order: a service must not learn the end first, because the program before still tries.
    pub(super) fn next(&mut self, now: BootTime) -> Option<NextEvent> {
        if self.running.len() >= MAX_RUNNING {
            return None;
        }
        let is_due = |group: &HookGroup| !self.running.iter().any(|other| group.follows(other));
        let due = self.waiting.iter().position(|(_, event)| is_due(&event.group))?;
        let (since, event) = self.waiting.remove(due)?;
        // An end stays true, and a service that was notified has to learn it.
        if now.since(since) > self.patience && !event.group.is_end() {
            return Some(NextEvent::Stale(event.group));
        }
        self.running.insert(event.group.clone());
        Some(NextEvent::Run(event))
    }

    pub(super) fn finished(&mut self, group: &HookGroup) {
        self.running.remove(group);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::hooks::{HookEnvironment, HookEventKind};
    use closewait_engine::model::IncidentState;

    fn event(who: usize) -> HookEvent {
        HookEvent {
            group: HookGroup::of_socket(who.to_string()),
            facts: HookEnvironment::default(),
            json: String::new(),
        }
    }

    fn report(who: &str, once: Option<IncidentState>) -> HookEvent {
        HookEvent { group: HookGroup { kind: HookEventKind::Pileup, who: who.to_owned(), once }, ..event(0) }
    }

    fn queue() -> HookQueue {
        HookQueue::new(Duration::from_secs(30))
    }

    #[test]
    fn of_one_group_one_runs_or_waits() {
        let mut queue = queue();
        assert_eq!(queue.offer(event(1), BootTime(0)), Ok(()));
        assert_eq!(queue.offer(event(1), BootTime(0)), Err(Refused::Busy));
        assert_eq!(queue.next(BootTime(0)), Some(NextEvent::Run(event(1))));
        assert_eq!(queue.offer(event(1), BootTime(0)), Err(Refused::Busy));
        queue.finished(&event(1).group);
        assert_eq!(queue.offer(event(1), BootTime(0)), Ok(()));
    }

    #[test]
    fn four_run_and_the_others_wait_in_order_up_to_a_bound() {
        let mut queue = queue();
        let mut taken = 0;
        while queue.offer(event(taken), BootTime(0)) == Ok(()) {
            taken += 1;
        }
        assert_eq!((taken, queue.offer(event(99), BootTime(0))), (MAX_WAITING, Err(Refused::Full)));
        for n in 0..MAX_RUNNING {
            assert_eq!(queue.next(BootTime(0)), Some(NextEvent::Run(event(n))));
        }
        assert_eq!(queue.next(BootTime(0)), None);
        queue.finished(&event(2).group);
        assert_eq!(queue.next(BootTime(0)), Some(NextEvent::Run(event(MAX_RUNNING))));
        assert_eq!(queue.next(BootTime(0)), None);
    }

    #[test]
    fn what_has_waited_too_long_is_not_run_any_more() {
        let mut queue = queue();
        let later = BootTime(31_000_000_000);
        queue.offer(event(1), BootTime(0)).unwrap();
        queue.offer(event(2), later).unwrap();
        assert_eq!(queue.next(later), Some(NextEvent::Stale(event(1).group)));
        assert_eq!(queue.next(later), Some(NextEvent::Run(event(2))));
        assert_eq!(queue.offer(event(1), later), Ok(()), "it runs nowhere");
    }

    #[test]
    fn reports_of_an_incident_run_in_order_and_its_end_is_never_too_late() {
        let mut queue = queue();
        let (open, end) = (report("a", None), report("a", Some(IncidentState::Resolved)));
        queue.offer(open.clone(), BootTime(0)).unwrap();
        assert_eq!(queue.next(BootTime(0)), Some(NextEvent::Run(open.clone())));
        for event in [end.clone(), report("b", None)] {
            queue.offer(event, BootTime(1)).unwrap();
        }
        assert_eq!(queue.next(BootTime(1)), Some(NextEvent::Run(report("b", None))), "others do not wait for it");
        assert_eq!(queue.next(BootTime(1)), None);
        queue.finished(&open.group);
        assert_eq!(queue.next(BootTime(40_000_000_000)), Some(NextEvent::Run(end)));
    }
}
